"""Reads the trips that come with the Travel gym.

A file of JSON lines comes in and checked tasks go out. A record that is not
what it should be is an error that names the file and the line.
"""

import functools
import pathlib

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.travel import scenario

PATH = pathlib.Path(__file__).with_name("tasks.jsonl")


def read(path: pathlib.Path = PATH) -> tuple[types.Task, ...]:
  """Returns the tasks of a pack: JSON, one task a line.

  Raises:
    ValueError: when the file is missing or has a broken line.
  """
  path = sources.pack_file(path)
  return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, _mtime: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: set[str] = set()
  splits: dict[str, str] = {}
  for _, where, record in sources.records(path):
    try:
      task = scenario.task(record)
    except KeyError as error:
      raise ValueError(f"{where}: field {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
      raise ValueError(f"{where}: must be a task's object; {error}") from error
    if task.id in ids:
      raise ValueError(f"{where}: ids must differ, {task.id!r} comes twice")
    if task.split not in sources.SPLITS or task.level not in sources.LEVELS:
      raise ValueError(
        f"{where}: split must be one of {sources.SPLITS} and level one of "
        f"{sources.LEVELS}, got {task.split!r} and {task.level!r}"
      )
    if splits.setdefault(task.structure, task.split) != task.split:
      raise ValueError(
        f"{where}: split must be {splits[task.structure]!r} as for the other "
        f"tasks of structure {task.structure}, got {task.split!r}"
      )
    ids.add(task.id)
    tasks.append(task)
  return tuple(tasks)
