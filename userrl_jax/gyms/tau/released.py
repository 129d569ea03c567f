"""Reads the Tau tasks that UserRL released.

A folder comes in and checked tasks go out, with what a task says; the records
and tools that it is played on are tau-bench's, see `taubench`. UserRL trains on
one file and tests on another. With the first alone, whole kinds of tasks (which
calls they need, how often), in the order of the hash of their names, fill the
shares of test and dev as long as they fit; with both, all of the second is the
test set, as it was released, and dev is filled from the first.
"""

import collections
from collections.abc import Mapping
import functools
import pathlib
import re
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources

FILE_NAME = "tau_train.json"
TEST_FILE_NAME = "tau_test.json"
SHARES = {"test": 0.1, "dev": 0.05}  # the rest is train

_ID = re.compile(r"(retail|airline)(-train)?-\d{1,4}")


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's file of tasks, in its order.

  Raises:
    ValueError: when the folder or the file is missing or has a broken record.
  """
  path = sources.released_file(folder, FILE_NAME)
  test_path = path.with_name(TEST_FILE_NAME)
  paths = (path, test_path) if test_path.is_file() else (path,)
  return _read(paths, tuple(p.stat().st_mtime_ns for p in paths))


@functools.lru_cache(maxsize=8)
def _read(
  paths: tuple[pathlib.Path, ...], _: tuple[int, ...]
) -> tuple[types.Task, ...]:
  ids: dict[str, str] = {}
  of_files = [_records(path, ids) for path in paths]
  kinds = [_kind(record) for record in of_files[0]]
  shares = dict(SHARES)
  if len(of_files) > 1:
    del shares["test"]
  splits = sources.split_families(kinds, shares)
  tasks = [
    _task(record, splits[kind], kind)
    for record, kind in zip(of_files[0], kinds, strict=True)
  ]
  for records in of_files[1:]:
    tasks += [_task(r, "test", f"released test|{_kind(r)}") for r in records]
  return tuple(tasks)


def _records(path: pathlib.Path, ids: dict[str, str]) -> list[Mapping]:
  records = sources.json_list(path, "tasks")
  for number, record in enumerate(records, 1):
    where = f"{path}, record {number}"
    sources.check_id(where, record, ids, f"that of {path.name}, {number}")
    if not _ID.fullmatch(record["id"]):
      raise ValueError(
        f"{where}: field 'id' must be like 'retail-train-7' or 'airline-7', "
        f"got {record['id']!r:.60}"
      )
    _check(where, record)
  return records


def _check(where: str, record: Any) -> None:
  """Checks the fields that a task is made of."""
  sources.check_text(where, record, "obs")
  info = sources.field(where, record, "info", dict, "an object")
  task = sources.field(where, info, "task", dict, "an object")
  for name in ("user_id", "instruction"):
    sources.check_text(where, task, name)
  if task["instruction"].strip() in record["obs"]:
    raise ValueError(
      f"{where}: field 'obs' is public and must not tell the instruction"
    )
  outputs = sources.field(where, task, "outputs", list, "a list of texts")
  if any(not isinstance(output, str) or not output for output in outputs):
    raise ValueError(
      f"{where}: field 'outputs' must be a list of texts, got {outputs!r:.60}"
    )
  for action in sources.field(where, task, "actions", list, "a list"):
    sources.field(where, action, "name", str, "a tool's name")
    sources.field(where, action, "kwargs", dict, "an object")


def _kind(record: Mapping[str, Any]) -> str:
  """Returns the calls that a task needs and how often, without their values."""
  counts = collections.Counter(
    action["name"] for action in record["info"]["task"]["actions"]
  )
  parts = [f"{name}*{number}" for name, number in sorted(counts.items())]
  return "|".join([record["id"].partition("-")[0], *parts])


def _task(record: Mapping[str, Any], split: str, kind: str) -> types.Task:
  task = record["info"]["task"]
  return types.Task(
    gym="tau",
    id=record["id"],
    split=split,
    level=2 if len(task["actions"]) < 2 else 3,
    structure=kind,
    public={"opening": record["obs"]},
    secret=types.Secret(
      {
        "domain": record["id"].partition("-")[0],
        "user_id": task["user_id"],
        "instruction": task["instruction"].strip(),
        "actions": tuple(task["actions"]),
        "outputs": tuple(task["outputs"]),
      }
    ),
  )
