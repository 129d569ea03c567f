"""Finds gyms that live outside the package, named `my_pkg.my_gym:MyGym`.

In: such a name, the module and the class in it. Out: what a gym's package
inside has (`gyms.GYMS`), read off the class, so that nothing else has to know
where a gym lives. Naming a gym imports its module: it is code that you trust.

A class has to have, beside what `base.Gym` asks for,
  name         the very name it is called by, so that no gym has two names:
               one trained on and the other held out
  load_tasks   (settings, split, seed) -> its tasks of a split
and may have what only some runs need (NEEDS says which)
  Oracle       (task, rng, noise, settings) -> a `base.Oracle`
  random_move  (rng) -> a well-formed move drawn at random
  hacks        (task) -> moves that must earn nothing
  prompted     (judge) -> a user played by a model, which the class then takes
               as its second argument
  information  (task, turns) -> bits that each turn told
"""

from collections.abc import Sequence
import difflib
import functools
import importlib
import inspect
import pathlib
import re
import types as python_types
from typing import Any

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base

PARTS = ("Oracle", "random_move", "hacks", "prompted", "information")
# What a gym without the part cannot do.
NEEDS = {
  "Oracle": "demonstrations (the cold start, evaluation.agent=oracle)",
  "random_move": "random moves (stage base, evaluation.agent=canned)",
  "hacks": "the check of moves that must earn nothing",
  "load_tasks": "tasks",
}

_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def is_name(name: str) -> bool:
  """Returns whether a name can only be that of an outside gym."""
  return isinstance(name, str) and ":" in name


@functools.cache
def load(name: str) -> python_types.SimpleNamespace:
  """Imports a gym.

  Args:
    name: such as `my_pkg.my_gym:MyGym`.

  Returns:
    `Gym`, `load_tasks` and those of PARTS that the class has; `prompted` is
    one level down, as in a package inside.

  Raises:
    ValueError: when the module cannot be imported, or the class is not as
      this file says; names both and what must hold.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise ValueError(
      "a gym outside the package must be named as module:Class, such as "
      f"my_pkg.my_gym:MyGym, got {name!r}"
    )
  gym = _imported(*match.groups())
  problems = _problems(gym, name)
  if problems:
    raise ValueError(f"gym {name!r}: {'; '.join(problems)}")
  parts = {part: getattr(gym, part) for part in PARTS if _has(gym, part)}
  if "prompted" in parts:
    parts["prompted"] = python_types.SimpleNamespace(prompted=parts["prompted"])
  return python_types.SimpleNamespace(
    Gym=gym, load_tasks=functools.partial(_load_tasks, gym), **parts
  )


def sources(name: str, suffixes: Sequence[str]) -> list[pathlib.Path]:
  """Returns the files that make a gym what it is, in a fixed order.

  Those of the folder of the package that its module is in, folders below
  included, or else the module's own file.
  """
  module = inspect.getmodule(load(name).Gym)
  file = getattr(module, "__file__", None)
  if module is None or file is None:
    return []
  path = pathlib.Path(file)
  if not module.__package__:
    return [path]
  found = path.parent.rglob("*")
  return sorted(p for p in found if p.suffix in suffixes and p.is_file())


def _imported(module: str, attribute: str) -> Any:
  """Returns an attribute of a module.

  Raises:
    ValueError: when one of them is not there, or importing fails.
  """
  try:
    there = importlib.import_module(module)
  except Exception as error:  # importing runs code, which fails in any way
    is_path = isinstance(error, ModuleNotFoundError) and module.startswith(
      error.name or " "
    )
    hint = (
      "; start from the folder that holds it, put that on PYTHONPATH, or "
      "install it"
    )
    raise ValueError(
      f"module {module!r} must be importable for its gym {attribute!r}, got "
      f"{type(error).__name__}: {error}{hint if is_path else ''}"
    ) from error
  if not hasattr(there, attribute):
    near = difflib.get_close_matches(attribute, vars(there), 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
      f"module {module!r} must have the gym {attribute!r}, which it has not"
      f"{hint}"
    )
  return getattr(there, attribute)


def _problems(gym: Any, name: str) -> list[str]:
  """Returns what a class lacks that every gym must have."""
  if not (inspect.isclass(gym) and issubclass(gym, base.Gym)):
    return [f"it must be a class that extends gyms.base.Gym, got {gym!r:.80}"]
  problems = []
  unwritten = sorted(getattr(gym, "__abstractmethods__", ()))
  if unwritten:
    problems.append(f"it must define {', '.join(unwritten)}")
  elif not inspect.iscoroutinefunction(gym.play):
    problems.append("play must be an async method")
  own_name = getattr(gym, "name", None)
  if own_name != name:
    problems.append(
      f"its name must be {name!r}, as it is called here, got {own_name!r}"
    )
  choices = getattr(gym, "choices", None)
  if not (
    isinstance(choices, tuple)
    and choices
    and set(choices) <= set(types.CHOICES)
  ):
    problems.append(
      f"choices must be a tuple of some of {types.CHOICES}, got {choices!r}"
    )
  for attribute in ("max_content_chars", "max_observation_chars"):
    value = getattr(gym, attribute)
    if type(value) is not int or value < 1:
      problems.append(f"{attribute} must be a positive int, got {value!r}")
  if type(gym.has_user) is not bool:
    problems.append(f"has_user must be True or False, got {gym.has_user!r}")
  if not (isinstance(gym.reward_profiles, tuple) and gym.reward_profiles):
    problems.append(
      f"reward_profiles must be a tuple of names, got {gym.reward_profiles!r}"
    )
  if not callable(getattr(gym, "load_tasks", None)):
    problems.append("it must have load_tasks(settings, split, seed)")
  problems += [
    f"{part} must be callable or left out, got {getattr(gym, part)!r:.60}"
    for part in PARTS
    if _has(gym, part) and not callable(getattr(gym, part))
  ]
  return problems


def _has(gym: Any, part: str) -> bool:
  return getattr(gym, part, None) is not None


def _load_tasks(
  gym: Any, settings: config.Gyms, split: str, seed: int
) -> list[types.Task]:
  """Returns tasks of a split: of the wanted levels, as many as wanted.

  Raises:
    ValueError: when what the class returns are no such tasks.
  """
  try:
    tasks = gym.load_tasks(settings, split, seed)
  except ValueError:
    raise
  except Exception as error:
    raise ValueError(
      f"gym {gym.name!r}: load_tasks failed for split {split!r} with "
      f"{type(error).__name__}: {error}"
    ) from error
  if not isinstance(tasks, Sequence):
    raise ValueError(
      f"gym {gym.name!r}: load_tasks must return a list of types.Task, got "
      f"{type(tasks).__name__}"
    )
  ids: set[str] = set()
  for task in tasks:
    problem = _task_problem(task, gym.name, split, ids)
    if problem:
      raise ValueError(f"gym {gym.name!r}: load_tasks: {problem}")
    ids.add(task.id)
  wanted = [task for task in tasks if task.level in settings.levels]
  is_train = split == "train"
  count = settings.num_train_tasks if is_train else settings.num_test_tasks
  return wanted[:count]


def _task_problem(task: Any, name: str, split: str, ids: set[str]) -> str:
  """Returns what is wrong with a task, or an empty string."""
  if not isinstance(task, types.Task):
    return f"a task must be a types.Task, got {type(task).__name__}"
  if task.gym != name:
    return f"field gym of task {task.id!r} must be {name!r}, got {task.gym!r}"
  if task.split != split:
    return (
      f"field split of task {task.id!r} must be {split!r}, which was asked "
      f"for, got {task.split!r}"
    )
  if not isinstance(task.id, str) or not task.id or task.id in ids:
    return f"ids must be texts, each only once in a split, got {task.id!r}"
  if not isinstance(task.secret, types.Secret):
    return (
      f"field secret of task {task.id!r} must be a types.Secret, got "
      f"{type(task.secret).__name__}"
    )
  return ""
