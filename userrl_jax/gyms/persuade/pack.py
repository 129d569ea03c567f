"""Reads the pack of the Persuade gym: JSON, one task a line."""

import functools
import pathlib
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.persuade import debate
from userrl_jax.gyms.persuade import generate

PATH = pathlib.Path(__file__).with_name("tasks.jsonl")


def read(path: pathlib.Path = PATH) -> tuple[types.Task, ...]:
  """Returns the tasks of a pack.

  Raises:
    ValueError: when the file is missing or has a broken line.
  """
  path = sources.pack_file(path)
  return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: dict[str, str] = {}
  for line, where, record in sources.records(path):
    sources.check_id(where, record, ids, f"that of line {line}")
    sources.check_value(where, record, "level", generate.LEVELS)
    level = record["level"]
    claim, thing, points = (
      _level_1(where, record) if level == 1 else _claim(where, record)
    )
    home = generate.split_of(level, claim, thing, points)
    if not home:
      raise ValueError(
        f"{where}: field 'points' must be {generate.NUM_WORRIES} worries that "
        f"some split asks about {thing}, got {points}"
      )
    allowed = ("train", "fresh") if home == "train" else (home,)
    sources.check_value(where, record, "split", allowed)
    key = generate.structure(level, claim, thing, points)
    sources.check_value(where, record, "structure", (key,))
    tasks.append(
      generate.task(record["id"], record["split"], level, claim, thing, points)
    )
  return tuple(tasks)


def _level_1(where: str, record: Any) -> tuple[str, str, tuple]:
  sources.check_value(where, record, "thing", debate.things())
  thing = record["thing"]
  claims = debate.level_1_claims()[thing]
  sources.check_value(where, record, "claim", claims)
  points = _points(where, record, tuple(debate.worries()))
  return record["claim"], thing, points


def _claim(where: str, record: Any) -> tuple[str, str, tuple]:
  sources.check_value(where, record, "claim", tuple(debate.claims()))
  sources.check_value(where, record, "thing", ("",))
  claim = debate.claims()[record["claim"]]
  points = _points(where, record, tuple(range(len(claim.points))))
  if len(points) not in generate.NUM_POINTS:
    raise ValueError(
      f"{where}: field 'points' must have {generate.NUM_POINTS} items, got "
      f"{len(points)}"
    )
  return claim.id, "", points


def _points(where: str, record: Any, known: tuple) -> tuple:
  found = sources.field(where, record, "points", list, "a list")
  if any(type(p) is not type(known[0]) or p not in known for p in found) or (
    len(set(found)) < len(found)
  ):
    raise ValueError(
      f"{where}: field 'points' must be different ones of {known}, got "
      f"{found!r:.60}"
    )
  return tuple(found)
