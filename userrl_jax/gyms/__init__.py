"""The gyms by name: games, tasks, demonstrators and canned moves.

A gym is one folder and one line in GYMS. Its package has `Gym` (a `base.Gym`),
`load_tasks(settings, split, seed)`, `Oracle(task, rng, noise, settings)` with
`next_action(observations)`, `random_move(rng)` and `hacks(task)`. A gym outside
the package is named `my_pkg.my_gym:MyGym` wherever a name stands; `outside.py`
says what it has to have. The suite in `contract.py` holds every gym to the same
promises.
"""

from collections.abc import Callable, Sequence
import random
from types import ModuleType
from typing import Any

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import function
from userrl_jax.gyms import intention
from userrl_jax.gyms import judging
from userrl_jax.gyms import outside
from userrl_jax.gyms import persuade
from userrl_jax.gyms import search
from userrl_jax.gyms import sources
from userrl_jax.gyms import tau
from userrl_jax.gyms import telepathy
from userrl_jax.gyms import travel
from userrl_jax.gyms import turtle

SPLITS = sources.SPLITS

GYMS: dict[str, ModuleType] = {
  "function": function,
  "intention": intention,
  "persuade": persuade,
  "search": search,
  "tau": tau,
  "telepathy": telepathy,
  "travel": travel,
  "turtle": turtle,
}


def make(
  name: str, settings: config.Gyms, judge: judging.Judge | None = None
) -> base.Gym:
  """Makes a game, to be played once.

  Args:
    name: of the gym.
    settings: of all gyms.
    judge: asks the model that answers as the user; None has rules answer.

  Raises:
    ValueError: when there is no such gym, a setting does not fit it, or no
      model can answer in it.
  """
  entry = _entry(name)
  if judge is None or not entry.Gym.has_user:
    return entry.Gym(settings)
  if not can_be_asked(name):
    raise ValueError(
      f"a model can answer in {base.either(_with_model())}, got gym {name!r}; "
      "set user.kind to scripted or leave that gym out"
    )
  gym = entry.Gym(settings, entry.prompted.prompted(judge))
  gym.leak_reasks = judge.leak_reasks
  return gym


def _with_model() -> list[str]:
  return [name for name, entry in GYMS.items() if hasattr(entry, "prompted")]


def load_tasks(
  name: str, settings: config.Gyms, split: str, seed: int
) -> list[types.Task]:
  """Returns tasks of a gym, in a fixed order.

  Args:
    name: of the gym.
    settings: `tasks` is where they come from: `generated` from the seed;
      `pack`, those that come with the gym; or a folder with files released by
      UserRL. `levels` filters all three. `num_train_tasks` and
      `num_test_tasks` (of every other split) are how many, at most.
    split: of SPLITS; only train and fresh share latent structures, and they
      share no task.
    seed: of generated tasks.

  Raises:
    ValueError: when there is no such gym, split, folder or file, when a file
      has a broken line, or when no task fits.
  """
  entry = _entry(name)
  if split not in SPLITS:
    raise ValueError(base.unknown("split", split, SPLITS))
  tasks = entry.load_tasks(settings, split, seed)
  if not tasks:
    raise ValueError(
      f"gym {name!r} has no {split} tasks of levels {settings.levels} in "
      f"{settings.tasks!r}; choose other levels, tasks or counts"
    )
  return tasks


def oracle(name: str) -> Callable[..., base.Oracle]:
  """Returns the demonstrator: `oracle(name)(task, rng, noise, settings)`.

  Raises:
    ValueError: when there is no such gym, or it has none.
  """
  return _part(name, "Oracle")


def canned(name: str) -> Callable[[random.Random], types.Action]:
  """Returns the function that draws a random well-formed move.

  Raises:
    ValueError: when there is no such gym, or it has none.
  """
  return _part(name, "random_move")


def hacks(name: str) -> Callable[[types.Task], tuple[types.Action, ...]]:
  """Returns the function that lists moves that must score 0 on a task.

  Raises:
    ValueError: when there is no such gym, or it has none.
  """
  return _part(name, "hacks")


def information(
  task: types.Task, turns: Sequence[types.Turn]
) -> tuple[float | None, ...]:
  """Returns the bits that each turn of an episode told; privileged.

  Over which possibilities is said where a gym counts them, in its
  `gains.py`. None where nobody counts.

  Args:
    task: of the episode.
    turns: of the episode, in order; not one may be left out.
  """
  entry: Any = GYMS.get(task.gym)
  if entry is None and outside.is_name(task.gym):
    entry = outside.load(task.gym)
  count = getattr(entry, "information", None)
  return (None,) * len(turns) if count is None else tuple(count(task, turns))


def has(name: str, part: str) -> bool:
  """Returns whether a gym has a part that outside gyms may leave out.

  Raises:
    ValueError: when there is no such gym.
  """
  return hasattr(_entry(name), part)


def has_user(name: str) -> bool:
  """Returns whether someone answers in a gym who could be a model.

  Raises:
    ValueError: when there is no such gym.
  """
  return _entry(name).Gym.has_user


def max_asked(name: str, is_apart: bool) -> int:
  """Returns how many verdicts a turn of a gym asks models for, at most.

  Args:
    name: of the gym.
    is_apart: another model judges than plays the user.

  Raises:
    ValueError: when there is no such gym.
  """
  gym = _entry(name).Gym
  if not gym.has_user:
    return 0
  return gym.max_asked_apart if is_apart else gym.max_asked


def can_be_asked(name: str) -> bool:
  """Returns whether a model or a person can answer in a gym.

  Raises:
    ValueError: when there is no such gym.
  """
  return has(name, "prompted")


def _part(name: str, part: str) -> Any:
  entry = _entry(name)
  if not hasattr(entry, part):
    raise ValueError(
      f"gym {name!r} must have {part} for {outside.NEEDS[part]}; give the "
      "class one, or leave out what needs it"
    )
  return getattr(entry, part)


def _entry(name: str) -> Any:
  if outside.is_name(name):
    return outside.load(name)
  if name not in GYMS:
    raise ValueError(base.unknown("gym", name, GYMS))
  return GYMS[name]
