"""Reads the stories that come with the Turtle gym.

A file of JSON lines comes in and checked tasks go out. A record that is not
what it should be is an error that names the file and the line.
"""

import functools
import pathlib
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.turtle import generate
from userrl_jax.gyms.turtle import story

PATH = pathlib.Path(__file__).with_name("tasks.jsonl")

_TEXTS = ("id", "family", "title", "surface", "bottom", "retelling")
_LISTS = ("facts", "criteria", "questions")


def read(path: pathlib.Path = PATH) -> tuple[types.Task, ...]:
  """Returns the tasks of a pack: JSON, one story a line.

  Stories of one family have their twist in common, so they share a structure
  and a split.

  Raises:
    ValueError: when the file is missing or has a broken line.
  """
  path = sources.pack_file(path)
  return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, _mtime: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: dict[str, str] = {}
  splits: dict[str, str] = {}
  for line, where, record in sources.records(path):
    task = _task(where, record)
    sources.check_id(where, record, ids, f"that of line {line}")
    if splits.setdefault(task.structure, task.split) != task.split:
      raise ValueError(
        f"{where}: field 'split' must be {splits[task.structure]!r} as for "
        f"the other stories of family {record['family']!r}, got {task.split!r}"
      )
    tasks.append(task)
  return tuple(tasks)


def _task(where: str, record: Any) -> types.Task:
  for name in _TEXTS:
    if not sources.field(where, record, name, str, "text").strip():
      raise ValueError(f"{where}: field {name!r} must be text, got nothing")
  for name in _LISTS:
    if not sources.field(where, record, name, list, "a list"):
      raise ValueError(f"{where}: field {name!r} must be a list, got none")
  sources.check_value(where, record, "level", sources.LEVELS)
  sources.check_value(where, record, "split", sources.SPLITS)
  try:
    tale = story.compiled(record)
  except KeyError as error:
    raise ValueError(f"{where}: field {error} is missing") from error
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(f"{where}: must be a story; {error}") from error
  return types.Task(
    gym="turtle",
    id=record["id"],
    split=record["split"],
    level=record["level"],
    structure=generate.structure("family", record["family"]),
    public={"title": tale.title, "surface": tale.surface},
    secret=types.Secret({"story": tale}),
  )
