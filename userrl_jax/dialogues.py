"""Keeps the dialogues of a stage in a file, made once in the life of a run.

In: a way to make trajectories. Out: the same trajectories in every process of
a run, also when a model answered in them and would answer otherwise now. The
file is one `.npz` of plain arrays, one after the other, of N trajectories:

  token_ids, turn_ids     all ids and their turns, num_tokens [N] of each
  rewards                 of all turns, num_turns [N] of each
  gyms, tasks, members    [N], whose dialogue it is

It is what learning needs of dialogues that followed a script: their log-probs
are 0, and texts are left out. Invalid ones are counted beside it, by fault.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import json
import pathlib

import numpy as np

from userrl_jax import hosts
from userrl_jax import imported
from userrl_jax import types

_ARRAYS = (
  "token_ids",
  "turn_ids",
  "num_tokens",
  "rewards",
  "num_turns",
  "gyms",
  "tasks",
  "members",
)


def kept(
  path: pathlib.Path,
  make: Callable[[], Sequence[types.Trajectory]],
  tasks: Sequence[types.Task] | None,
) -> list[types.Trajectory]:
  """Returns the dialogues of a file, which are made when it is not there.

  Of several hosts, which all call it, the first one makes and writes them.

  Args:
    path: of the file; it appears when it is complete.
    make: makes them, at least one; invalid ones are left out and counted.
    tasks: all that they may be of; None where they are imported, of any.

  Returns:
    What is read from the file, so that it is the same when it was just made.

  Raises:
    ValueError: when the file is damaged, or of other tasks.
  """
  hosts.enter("making of dialogues")
  return hosts.first_before_others(lambda: _kept(path, make, tasks), path)


def _kept(
  path: pathlib.Path,
  make: Callable[[], Sequence[types.Trajectory]],
  tasks: Sequence[types.Task] | None,
) -> list[types.Trajectory]:
  if not path.exists():
    made = make()
    faults = collections.Counter(str(t.fault) for t in made if not t.is_valid)
    path.parent.mkdir(parents=True, exist_ok=True)
    _faults_file(path).unlink(missing_ok=True)  # of an attempt that was cut off
    if faults:
      _faults_file(path).write_text(json.dumps(faults) + "\n")
    _write(path, [t for t in made if t.is_valid])
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in _ARRAYS}
    return _trajectories(arrays, tasks)
  except Exception as error:  # zip files and arrays break in many ways
    why = " ".join(str(error).split())[:200]
    raise ValueError(
      f"{path} must hold the dialogues that the run made, got "
      f"{type(error).__name__}: {why}; restore a copy, or delete the file to "
      "make them anew (where rules answer, they come out the same)"
    ) from error


def faults(path: pathlib.Path) -> dict[str, int]:
  """Returns how many dialogues were left out when a file was made, by fault."""
  counts = _faults_file(path)
  return json.loads(counts.read_text()) if counts.exists() else {}


def _faults_file(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f"{path.stem}_faults.json")


def _write(
  path: pathlib.Path, trajectories: Sequence[types.Trajectory]
) -> None:
  temporary = path.with_suffix(".partial")
  with temporary.open("wb") as file:
    np.savez_compressed(
      file,
      token_ids=np.concatenate([t.token_ids_T for t in trajectories]),
      turn_ids=np.concatenate([t.turn_ids_T for t in trajectories]),
      num_tokens=np.array([t.token_ids_T.size for t in trajectories]),
      rewards=np.concatenate([t.rewards_K for t in trajectories]),
      num_turns=np.array([len(t.turns) for t in trajectories]),
      gyms=np.array([t.task.gym for t in trajectories]),
      tasks=np.array([t.task.id for t in trajectories]),
      members=np.array([t.member for t in trajectories]),
    )
  temporary.replace(path)


def _trajectories(
  arrays: Mapping[str, np.ndarray], tasks: Sequence[types.Task] | None
) -> list[types.Trajectory]:
  if tasks is None:
    names = zip(arrays["gyms"].tolist(), arrays["tasks"].tolist())
    tasks = [imported.unplayable(*name) for name in names]
  known = {(task.gym, task.id): task for task in tasks}
  token_ids = _cut(arrays["token_ids"], arrays["num_tokens"])
  turn_ids = _cut(arrays["turn_ids"], arrays["num_tokens"])
  rewards = _cut(arrays["rewards"], arrays["num_turns"])
  names = [arrays[name].tolist() for name in ("gyms", "tasks", "members")]
  return [
    types.Trajectory(
      task=known[gym, task_id],
      member=member,
      iteration=0,
      token_ids_T=ids,
      logprobs_T=np.zeros(ids.size, np.float32),
      turn_ids_T=turns,
      turns=tuple(types.Turn("", None, "", reward) for reward in earned),
      stop_reason=types.StopReason.TERMINATED,
    )
    for gym, task_id, member, ids, turns, earned in zip(
      *names, token_ids, turn_ids, map(np.ndarray.tolist, rewards), strict=True
    )
  ]


def _cut(array: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
  """Returns the consecutive parts of an array."""
  if sizes.sum() != array.size:
    raise ValueError(f"{sizes.sum()} values wanted, {array.size} there")
  return np.split(array, np.cumsum(sizes)[:-1])
