"""Reads claims that UserRL released: raw JSON, or rows of its training files.

A folder comes in and checked tasks go out. UserRL's raw file of claims was
never published; its rows, in `persuasion_multiturn/*.parquet`, hold the same
fields. Parquet needs pyarrow, which is imported only here. Whoever has neither
can write the raw file: a list of objects with `id`, `claim` and `argument`.

UserRL splits rows, and its 378 of train hold but 61 claims, each with several
arguments. Here a claim is of one split: rows of a test file are of test, and of
all others the order of the claims' hashes fills the shares of test and dev.
"""

from collections.abc import Iterator
import functools
import hashlib
import pathlib
import re
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.persuade import gym

FILE_NAME = "all_statements_refined.json"
ROWS_FOLDER = "persuasion_multiturn"
LEVEL = 3  # the user neither asks nor says why they hold the claim
SHARES = {"test": 0.1, "dev": 0.05}  # the rest is train
_MAX_CLAIM_CHARS = 300

_Record = tuple[str, Any, str]  # where it is, its value, its split or ''


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's claims, in their order.

  Rules cannot play their users: they know no points against these claims.

  Args:
    folder: holds `all_statements_refined.json`, or else the folder
      `persuasion_multiturn` with `train.parquet`, `test.parquet` or both.

  Raises:
    ValueError: when the folder or the file is missing or has a broken record,
      or when parquet files are there and pyarrow is not.
  """
  rows = pathlib.Path(folder).expanduser() / ROWS_FOLDER
  paths = tuple(sorted(rows.glob("*.parquet"))) if rows.is_dir() else ()
  if not (rows.parent / FILE_NAME).is_file() and paths:
    stamps = tuple(path.stat().st_mtime_ns for path in paths)
    return _read(paths, stamps)
  path = sources.released_file(folder, FILE_NAME)
  return _read((path,), (path.stat().st_mtime_ns,))


@functools.lru_cache(maxsize=8)
def _read(
  paths: tuple[pathlib.Path, ...], _: tuple[int, ...]
) -> tuple[types.Task, ...]:
  found = []
  ids: dict[str, str] = {}
  for path in paths:
    records = _raw if path.suffix == ".json" else _rows
    for where, record, split in records(path):
      _check(where, record)
      sources.check_id(where, record, ids, f"that of {where}")
      found.append((record, split))
  has_test = any(path.name == "test.parquet" for path in paths)
  shares = {k: v for k, v in SHARES.items() if k != "test" or not has_test}
  homes = _splits({_key(r["claim"]) for r, split in found if not split}, shares)
  return tuple(
    types.Task(
      gym=gym.PersuadeGym.name,
      id=record["id"],
      split=split or homes[_key(record["claim"])],
      level=LEVEL,
      structure=_key(record["claim"]),
      public={"claim": record["claim"].strip()},
      secret=types.Secret(
        {"argument": record["argument"].strip(), "points": ()}
      ),
    )
    for record, split in found
  )


def _check(where: str, record: Any) -> None:
  """Checks the fields of a record.

  Raises:
    ValueError: when one is not what it should be.
  """
  for name in ("id", "claim", "argument"):
    sources.check_text(where, record, name)
  claim = record["claim"]
  if len(claim) > _MAX_CLAIM_CHARS:
    raise ValueError(
      f"{where}: field 'claim' must have at most {_MAX_CLAIM_CHARS} "
      f"characters, got {len(claim)}"
    )
  if record["argument"].strip() in claim:
    raise ValueError(
      f"{where}: field 'claim' is public and must not tell field 'argument'; "
      "reword it"
    )


def _raw(path: pathlib.Path) -> Iterator[_Record]:
  records = sources.json_list(path, "claims")
  for number, record in enumerate(records, 1):
    yield f"{path}, record {number}", record, ""


def _rows(path: pathlib.Path) -> Iterator[_Record]:
  """Yields what the rows of a training file say about their task."""
  try:
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(
      f"{path}: reading parquet needs pyarrow: pip install pyarrow, or put "
      f"the claims into {FILE_NAME}"
    ) from error
  try:
    table = parquet.read_table(path, columns=["reward_model"])
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path}: must be rows of UserRL, with a column 'reward_model'; {error}"
    ) from error
  split = "test" if path.name == "test.parquet" else ""
  for number, row in enumerate(table.column("reward_model").to_pylist(), 1):
    yield f"{path}, row {number}", row, split


def _key(claim: str) -> str:
  """Returns what a claim is in whatever case and punctuation."""
  return " ".join(re.findall(r"\w+", claim.casefold()))


def _splits(keys: set[str], shares: dict[str, float]) -> dict[str, str]:
  """Returns the split of each claim; the order of hashes fills the shares."""
  digest = lambda key: hashlib.sha256(f"persuade|{key}".encode()).digest()
  order = sorted(keys, key=digest)
  splits = dict.fromkeys(order, "train")
  start = 0
  for split, share in shares.items():
    stop = start + round(share * len(order))
    splits |= dict.fromkeys(order[start:stop], split)
    start = stop
  return splits
