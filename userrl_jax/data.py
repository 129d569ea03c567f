"""Streams of tasks and of demonstrations, with Grain.

In: a fixed list. Out: endless equal draws from it, shuffled anew each epoch,
whose place is a small dict that resumes exactly (law L10). Where items are of
several gyms, every draw has each gym's share of them, as near as whole items
allow.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import hashlib
from typing import Any, Generic, TypeVar

import grain

from userrl_jax import types

Item = TypeVar("Item")

MAX_SEED = 2**31  # Grain takes 32 bits; kinds and arms add to a seed


class Stream(Generic[Item]):
  """An endless iterator over draws of `per_step` items of a list.

  An epoch is a fresh shuffle cut into draws. It holds every item once, the
  kinds of items evenly spread over it; what does not fill a last draw is left
  out of that epoch.
  """

  def __init__(
    self,
    items: Sequence[Item],
    keys: Iterable[str],
    kinds: Iterable[str],
    per_step: int,
    seed: int,
  ):
    self._items = items
    self.steps_per_epoch = len(items) // per_step
    places: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds):
      places.setdefault(kind, []).append(place)
    # Grain sees places in the list only, so it never touches our objects.
    shuffled = [
      grain.MapDataset.source(places[kind]).seed(seed + number).shuffle()
      for number, kind in enumerate(places)
    ]
    dataset = (
      _Interleaved(shuffled)
      .batch(per_step, drop_remainder=True, batch_fn=list)
      .repeat()
    )
    # No threads: the items are in memory already.
    self._iterator = iter(
      dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
      )
    )
    # Draws taken from the iterator and not yet handed out, each with the
    # place that it was taken at.
    self._ahead: collections.deque[tuple[dict, list[Item]]] = (
      collections.deque()
    )
    digest = hashlib.sha256()
    for key in keys:
      digest.update(key.encode() + b"\n")
    self._identity = {
      "num_items": len(items),
      "per_step": per_step,
      "seed": seed,
      "items_sha256": digest.hexdigest()[:16],
    }

  def __iter__(self) -> "Stream[Item]":
    return self

  def __next__(self) -> list[Item]:
    draw = self.peek(0)
    self._ahead.popleft()
    return draw

  def next(self) -> list[Item]:
    """Returns the next draw."""
    return self.__next__()

  def peek(self, steps: int) -> list[Item]:
    """Returns a draw that is still to come, which it leaves in the stream.

    Args:
      steps: 0 for the next draw, 1 for the one after it, ...
    """
    while len(self._ahead) <= steps:
      place = dict(self._iterator.get_state())
      draw = [self._items[i] for i in next(self._iterator)]
      self._ahead.append((place, draw))
    return self._ahead[steps][1]

  def get_state(self) -> dict[str, Any]:
    """Returns the place in the stream, JSON-able, to resume from.

    What was only peeked at is still to come.
    """
    if self._ahead:
      return {**self._identity, "grain": self._ahead[0][0]}
    return {**self._identity, "grain": dict(self._iterator.get_state())}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Moves to a place that `get_state` of an equal stream gave.

    Raises:
      ValueError: when the state is of other items, per_step or seed: the
        stream could not go on where it was.
    """
    for name, here in self._identity.items():
      if state.get(name) != here:
        raise ValueError(
          f"a data stream can only resume with the same {name}, got a state "
          f"with {state.get(name)!r} and a stream with {here!r}; start the "
          "run with the config and the tasks it began with"
        )
    self._iterator.set_state(dict(state["grain"]))
    self._ahead.clear()


def interleaved(sizes: Sequence[int]) -> list[tuple[int, int]]:
  """Returns the order of an epoch: (kind, number) of each of its items.

  Args:
    sizes: how many items there are of each kind.
  """
  # Item j of n stands at (j + 1/2)/n of the epoch.
  places = [
    ((number + 0.5) / size, kind, number)
    for kind, size in enumerate(sizes)
    for number in range(size)
  ]
  return [(kind, number) for _, kind, number in sorted(places)]


class _Interleaved(grain.MapDataset):
  """Several datasets as one, each spread evenly over every epoch.

  Grain's own `mix` rounds the shares, so that its epoch ends a few items short
  of some datasets or repeats items of others.
  """

  def __init__(self, parents: Sequence[grain.MapDataset]):
    super().__init__(parents)
    self._slots = interleaved([*map(len, parents)])

  def __len__(self) -> int:
    return len(self._slots)

  def __getitem__(self, index: Any) -> Any:
    epoch, place = divmod(index, len(self))
    kind, number = self._slots[place]
    parent = self.parents[kind]
    # Beyond its length, a shuffled dataset is in its next epoch.
    return parent[epoch * len(parent) + number]


def task_stream(
  tasks: Sequence[types.Task], tasks_per_iteration: int, seed: int
) -> Stream[types.Task]:
  """Returns the endless stream of tasks that GRPO trains on.

  Args:
    tasks: the training tasks.
    tasks_per_iteration: P, how many distinct tasks a draw has.
    seed: at least 0 and below 2**31; same seed, same stream.

  Raises:
    ValueError: without tasks, with fewer tasks than a draw needs, with two
      tasks of one gym and id, or with a seed out of range.
  """
  _check(len(tasks), tasks_per_iteration, seed, "tasks", "tasks_per_iteration")
  keys = [f"{task.gym}/{task.id}" for task in tasks]
  if len(set(keys)) != len(keys):
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(
      f"a task id must be unique within its gym, got {twice} twice; give one "
      "of them another id"
    )
  kinds = [task.gym for task in tasks]
  return Stream(tasks, keys, kinds, tasks_per_iteration, seed)


def trajectory_stream(
  trajectories: Sequence[types.Trajectory], per_step: int, seed: int
) -> Stream[types.Trajectory]:
  """Returns the endless stream of demonstrations that SFT trains on.

  Args:
    trajectories: the demonstrations.
    per_step: how many distinct demonstrations a draw has.
    seed: at least 0 and below 2**31; same seed, same stream.

  Raises:
    ValueError: without demonstrations, with fewer than a draw needs, or with
      a seed out of range.
  """
  _check(
    len(trajectories), per_step, seed, "demonstrations", "episodes_per_step"
  )
  keys = (
    hashlib.sha256(t.token_ids_T.tobytes() + t.turn_ids_T.tobytes()).hexdigest()
    for t in trajectories
  )
  kinds = [t.task.gym for t in trajectories]
  return Stream(trajectories, keys, kinds, per_step, seed)


def held_back(
  names: Iterable[tuple[str, str]], num_tasks: int, seed: int
) -> set[tuple[str, str]]:
  """Chooses tasks that no stage trains on, by a hash of their names alone.

  Args:
    names: gym and id of tasks; some may be there several times.
    num_tasks: of each gym.
    seed: another one, other tasks.

  Raises:
    ValueError: when a gym would have none left to train on.
  """
  ids: dict[str, set[str]] = {}
  for gym, task_id in names:
    ids.setdefault(gym, set()).add(task_id)
  chosen = set()
  for gym, own in ids.items():
    if num_tasks >= len(own):
      raise ValueError(
        f"selection.num_tasks must be below the training tasks of {gym} "
        f"({len(own)}), got {num_tasks}; lower it, or provide more tasks"
      )
    digest = lambda name, gym=gym: hashlib.sha256(
      f"held back|{seed}|{gym}/{name}".encode()
    ).digest()
    chosen |= {(gym, name) for name in sorted(own, key=digest)[:num_tasks]}
  return chosen


def _check(
  num_items: int, per_step: int, seed: int, noun: str, field: str
) -> None:
  if per_step < 1:
    raise ValueError(f"{field} must be at least 1, got {per_step}")
  if not 0 <= seed < MAX_SEED:
    raise ValueError(f"seed must be in [0, 2**31), got {seed}")
  if num_items < per_step:
    raise ValueError(
      f"there must be at least {field}={per_step} {noun}, got {num_items}; "
      f"lower {field} or provide more {noun}"
    )
