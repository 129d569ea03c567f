"""Reads tasks of the Search gym from files: our pack and UserRL's own.

A file comes in and checked tasks go out. A record that is not what it should
be is an error that names the file, the record, the field and what was expected.

UserRL's 125 questions (Bamboogle) are about the real world and for testing
only; each is a structure of its own.
"""

import functools
import pathlib
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.search import generate
from userrl_jax.gyms.search import gym
from userrl_jax.gyms.search import world

FILE_NAME = "questions.json"
LEVEL = 2  # two facts in a row, as ours of level 2
SPLIT = "test"
PACK_PATH = pathlib.Path(__file__).with_name("tasks.jsonl")

_MAX_QUERIES = 5


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's file of questions, in order.

  Only the web can answer them, and only a model can judge the answers.

  Raises:
    ValueError: when the folder or the file is missing or has a broken record.
  """
  path = sources.released_file(folder, FILE_NAME)
  return _read_released(path, path.stat().st_mtime_ns)


def read_pack(path: pathlib.Path = PACK_PATH) -> tuple[types.Task, ...]:
  """Returns the tasks of a pack: JSON, one task a line.

  Raises:
    ValueError: when the file is missing or has a broken line.
  """
  path = sources.pack_file(path)
  return _read_pack(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read_released(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  records = sources.json_list(path, "questions")
  tasks = []
  ids: dict[str, str] = {}
  for number, record in enumerate(records, 1):
    where = f"{path}, record {number}"
    limits = {
      "id": gym.MAX_ANSWER_CHARS,
      "question": gym.SearchGym.max_content_chars,
      "answer": gym.MAX_ANSWER_CHARS,
    }
    for name, limit in limits.items():
      _check_text(where, record, name, limit)
    sources.check_id(where, record, ids, f"that of record {number}")
    tasks.append(
      generate.task(
        record["id"],
        SPLIT,
        LEVEL,
        record["id"],
        record["question"].strip(),
        record["answer"].strip(),  # one of UserRL's ends with a blank
        (record["question"].strip(),),
        world.WEB,
      )
    )
  return tuple(tasks)


@functools.lru_cache(maxsize=8)
def _read_pack(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: dict[str, str] = {}
  splits = world.region_splits()
  pages = world.by_name(world.WORLD)
  for line, where, record in sources.records(path):
    _check_text(where, record, "id", gym.MAX_ANSWER_CHARS)
    sources.check_id(where, record, ids, f"that of line {line}")
    sources.check_value(where, record, "level", generate.LEVELS)
    sources.check_value(where, record, "structure", tuple(splits))
    region = record["structure"]
    sources.check_value(where, record, "split", (splits[region],))
    _check_text(where, record, "question", gym.SearchGym.max_content_chars)
    _check_text(where, record, "answer", gym.MAX_ANSWER_CHARS)
    answer = record["answer"]
    if any(
      name.lower() in record["question"].lower()
      for name in (answer, *world.aliases(answer))
    ):
      raise ValueError(
        f"{where}: field 'question' is public and must not tell the answer"
      )
    chain = _list_field(where, record, "chain")
    if not all(
      name in pages and pages[name].region == region for name in chain
    ):
      raise ValueError(
        f"{where}: field 'chain' must name pages of {region!r} in corpus.jsonl"
      )
    tasks.append(
      generate.task(
        record["id"],
        record["split"],
        record["level"],
        region,
        record["question"],
        answer,
        _list_field(where, record, "queries"),
        world.WORLD,
      )
    )
  return tuple(tasks)


def _check_text(where: str, record: Any, name: str, limit: int) -> None:
  value = sources.field(where, record, name, str, "text")
  if not value.strip() or len(value) > limit:
    # The value may be the answer, which is privileged.
    raise ValueError(
      f"{where}: field {name!r} must be text of 1 to {limit} characters, got "
      f"{len(value)}"
    )


def _list_field(where: str, record: Any, name: str) -> tuple[str, ...]:
  noun = f"a list of 1 to {_MAX_QUERIES} texts"
  value = sources.field(where, record, name, list, noun)
  if not 1 <= len(value) <= _MAX_QUERIES or not all(
    isinstance(item, str) and item.strip() for item in value
  ):
    raise ValueError(f"{where}: field {name!r} must be {noun}")
  return tuple(value)
