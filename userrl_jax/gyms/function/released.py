"""Reads tasks of the Function gym from files: our pack and UserRL's own.

A file comes in and checked tasks go out. A record that is not what it should
be is an error that names the file, the line, the field and what was expected.

UserRL splits its 538 functions by row, 460 for training and 78 for testing,
so most test functions are also training functions in other letters. Here the
same file is split into as many by canonical form, level by level: classes of
functions, in the order of the hash of their key, fill the test set's share of
the level as long as they fit; room that is left goes to the next level.
"""

import collections
from collections.abc import Iterator
import functools
import hashlib
import json
import pathlib
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.function import expression
from userrl_jax.gyms.function import generate

FILE_NAME = "functions.json"
TEST_SHARE = 78 / 538
PACK_PATH = pathlib.Path(__file__).with_name("tasks.jsonl")


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's functions.json, in its order.

  Levels follow from the rule: 1 for a form of our level 1, 2 without division
  and powers, 3 with.

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
  records = []
  ids: dict[str, str] = {}
  for line, record in _array_items(path):
    where = f"{path}, line {line}"
    _check_rule(where, record)
    sources.check_id(where, record, ids, f"on line {line}")
    value = expression.parse(record["rule"]).evaluate(record["test_case"])
    expected = sources.field(
      where, record, "expected_result", (int, float), "a number"
    )
    if not abs(value - expected) <= 1e-6 * max(1, abs(value)):
      raise ValueError(
        f"{where}: field 'expected_result' must be the rule's value on the "
        f"test case, {value}; got {expected!r}"
      )
    records.append(record)
  keys = [expression.canonical_key(record["rule"]) for record in records]
  levels = [
    _level(record["rule"], key)
    for record, key in zip(records, keys, strict=True)
  ]
  test_keys = _test_keys(keys, levels)
  return tuple(
    generate.task(
      record["id"],
      "test" if key in test_keys else "train",
      level,
      record["rule"],
      record["test_case"],
    )
    for record, key, level in zip(records, keys, levels, strict=True)
  )


@functools.lru_cache(maxsize=8)
def _read_pack(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: dict[str, str] = {}
  splits: dict[str, str] = {}
  for line, where, record in sources.records(path):
    _check_rule(where, record)
    sources.check_id(where, record, ids, f"on line {line}")
    sources.check_value(where, record, "split", generate.SPLITS)
    sources.check_value(where, record, "level", generate.LEVELS)
    key = expression.canonical_key(record["rule"])
    sources.check_value(where, record, "structure", (key,))
    if splits.setdefault(key, record["split"]) != record["split"]:
      raise ValueError(
        f"{where}: field 'split' must be {splits[key]!r} as for the other "
        f"tasks of structure {key}, got {record['split']!r}"
      )
    tasks.append(
      generate.task(
        record["id"],
        record["split"],
        record["level"],
        record["rule"],
        record["test_case"],
      )
    )
  return tuple(tasks)


def _test_keys(keys: list[str], levels: list[int]) -> set[str]:
  """Returns the classes whose members together make the test set."""
  sizes = collections.Counter(keys)
  level_of = dict(zip(keys, levels, strict=True))
  order = sorted(sizes, key=lambda k: hashlib.sha256(k.encode()).digest())
  chosen: set[str] = set()
  num_passed = num_chosen = 0
  for level in generate.LEVELS:
    members = [key for key in order if level_of[key] == level]
    num_passed += sum(sizes[key] for key in members)
    room = round(TEST_SHARE * num_passed) - num_chosen
    for key in members:
      if sizes[key] <= room:
        chosen.add(key)
        room -= sizes[key]
        num_chosen += sizes[key]
  return chosen


def _level(rule: str, key: str) -> int:
  if generate.is_level_1(key):
    return 1
  return 3 if expression.parse(rule).operators & {"/", "**"} else 2


def _array_items(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """Yields the items of a JSON array, each with the line it begins on."""
  text, decoder = sources.text(path), json.JSONDecoder()

  def skip(position: int) -> int:
    while position < len(text) and text[position].isspace():
      position += 1
    return position

  def fail(position: int, expected: str) -> ValueError:
    line = text.count("\n", 0, position) + 1
    return ValueError(f"{path}, line {line}: expected {expected}")

  position = skip(0)
  if text[position : position + 1] != "[":
    raise fail(position, "'[', the start of a list of functions")
  position = skip(position + 1)
  if text[position : position + 1] == "]":
    return
  line, counted = 1, 0
  while True:
    line += text.count("\n", counted, position)
    counted = position
    try:
      item, position = decoder.raw_decode(text, position)
    except json.JSONDecodeError as error:
      raise fail(error.pos, f"JSON; {error.msg}") from error
    yield line, item
    position = skip(position)
    if text[position : position + 1] == "]":
      return
    if text[position : position + 1] != ",":
      raise fail(min(position, len(text) - 1), "',' or ']' after a record")
    position = skip(position + 1)


def _check_rule(where: str, record: Any) -> None:
  """Checks that the rule can be read and has a value on the test case."""
  rule = sources.field(where, record, "rule", str, "arithmetic over a, b, c, d")
  try:
    parsed = expression.parse(rule)
  except ValueError as error:
    raise ValueError(f"{where}: field 'rule': {error}") from error
  noun = "a list of four whole numbers"
  point = sources.field(where, record, "test_case", list, noun)
  if len(point) != 4 or any(type(x) is not int for x in point):
    raise ValueError(
      f"{where}: field 'test_case' must be {noun}, got {point!r:.60}"
    )
  try:
    parsed.evaluate(point)
  except expression.UndefinedError as error:
    raise ValueError(
      f"{where}: field 'rule' must have a value on the test case {point}, got "
      f"{rule!r} with {error}"
    ) from error
