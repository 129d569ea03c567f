"""Reads the trips that come with the Travel gym.

A file of JSON lines comes in and checked tasks go out. A record that is not
what it should be is an error that names the file and the line.
"""

import functools
import json
import pathlib

from userrl_jax import types
from userrl_jax.gyms.travel import generate
from userrl_jax.gyms.travel import scenario

PATH = pathlib.Path(__file__).with_name("tasks.jsonl")


def read(path: pathlib.Path = PATH) -> tuple[types.Task, ...]:
  """Returns the tasks of a pack: JSON, one task a line.

  Raises:
    ValueError: when the file is missing or has a broken line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"a pack must be a file; there is none at {str(path)!r}")
  return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: set[str] = set()
  splits: dict[str, str] = {}
  for line, text in enumerate(path.read_text("utf-8").splitlines(), 1):
    if not text.strip():
      continue
    where = f"{path}, line {line}"
    try:
      task = scenario.task(json.loads(text))
    except KeyError as error:
      raise ValueError(f"{where}: field {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
      raise ValueError(f"{where}: must be a task's object; {error}") from error
    if task.id in ids:
      raise ValueError(f"{where}: ids must differ, {task.id!r} comes twice")
    if task.split not in generate.SPLITS or task.level not in generate.LEVELS:
      raise ValueError(
        f"{where}: split must be one of {generate.SPLITS} and level one of "
        f"{generate.LEVELS}, got {task.split!r} and {task.level!r}"
      )
    if splits.setdefault(task.structure, task.split) != task.split:
      raise ValueError(
        f"{where}: split must be {splits[task.structure]!r} as for the other "
        f"tasks of structure {task.structure}, got {task.split!r}"
      )
    ids.add(task.id)
    tasks.append(task)
  return tuple(tasks)
