"""Reads the trips that UserRL released: raw JSON, checked against its rows.

A folder comes in and checked tasks go out. A raw file holds one object, of
trips by id; an id such as `flight:2-35|hotel:2-6` names the blocks that a trip
is made of: an aspect with its wishes and options. Rows of UserRL's training
files name a trip and its best options alone, so nothing can be played by them;
where they lie beside raw files, and pyarrow is there, both must agree.

UserRL splits trips, though nearly all of them hang together by blocks that they
share. Here blocks have a split, grown from the trips whose blocks few others
have, level by level; train, dev and test share no block. A trip with blocks of
several splits is of split `fresh`, which no run on a folder plays.
"""

import ast
import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import importlib.util
import json
import pathlib
import random
import re
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import scenario

FILE_NAME = "travelgym_data_22.json"  # and so on, for each level of UserRL's
FILES = "travelgym_data_*.json"
ROW_FILES = "travel*_multiturn*/*.parquet"
SHARES = {"test": 0.1, "dev": 0.05}  # of the trips of each file, if they fit
_KINDS = ("correct", "wrong", "noise")  # of options
_UNSHOWN = ("type", "reason")  # fields of options that tell whether they fit

_ID = re.compile(r"[a-z_]+:\d+-\d+(\|[a-z_]+:\d+-\d+)*")


@dataclasses.dataclass(frozen=True)
class Row:
  """What a row of UserRL's training files says about a trip."""

  where: str
  id: str
  best: frozenset[str]  # ids of options


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's trips, in their order.

  Rules cannot play their users: the wishes are told in any words.

  Args:
    folder: holds `travelgym_data_22.json` or those of other levels.

  Raises:
    ValueError: when the folder or the files are missing, a record is broken,
      or a row names other options as best than the raw file does.
  """
  path = pathlib.Path(folder).expanduser()
  raw = sorted(path.glob(FILES)) if path.is_dir() else []
  tables = sorted(path.glob(ROW_FILES)) if path.is_dir() else []
  if not raw and tables:
    raise ValueError(
      f"the folder of gyms.tasks must hold {FILE_NAME} or another "
      f"{FILES}, got rows alone, such as {str(tables[0])!r}: they tell neither "
      "wishes nor options, so nobody can play them"
    )
  if not raw:
    sources.released_file(folder, FILE_NAME)  # says what is missing
  if importlib.util.find_spec("pyarrow") is None:
    tables = []
  stamps = tuple(p.stat().st_mtime_ns for p in (*raw, *tables))
  return _read(tuple(raw), tuple(tables), stamps)


def rows(path: pathlib.Path) -> Iterator[Row]:
  """Yields what the rows of a training file say.

  Raises:
    ValueError: when it is no such file, a row is broken, or pyarrow is missing.
  """
  try:
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(
      f"{path}: reading parquet needs pyarrow: pip install pyarrow"
    ) from error
  try:
    table = parquet.read_table(path, columns=["reward_model"])
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path}: must be rows of UserRL, with a column 'reward_model'; {error}"
    ) from error
  for number, row in enumerate(table.column("reward_model").to_pylist(), 1):
    where = f"{path}, row {number}"
    for name in ("id", "ground_truth"):
      sources.check_text(where, row, name)
    try:
      best = ast.literal_eval(row["ground_truth"])
    except (ValueError, SyntaxError):
      best = None
    if not isinstance(best, list) or not all(isinstance(b, str) for b in best):
      raise ValueError(
        f"{where}: field 'ground_truth' must be a list of option ids, got "
        f"{row['ground_truth']!r:.60}"
      )
    yield Row(where, row["id"], frozenset(best))


def splits_of(trips: Sequence[tuple[str, frozenset[str]]]) -> list[str]:
  """Returns the split of each trip.

  Args:
    trips: level and blocks of each. No block is in two of train, dev and test.
  """
  homes = _homes(trips)
  found = []
  for _, blocks in trips:
    of_blocks = {homes.get(block, "train") for block in blocks}
    found.append(of_blocks.pop() if len(of_blocks) == 1 else "fresh")
  return found


@functools.lru_cache(maxsize=8)
def _read(
  paths: tuple[pathlib.Path, ...],
  tables: tuple[pathlib.Path, ...],
  _: tuple[int, ...],
) -> tuple[types.Task, ...]:
  trips: dict[str, tuple[str, Mapping[str, Any]]] = {}
  for path in paths:
    for trip_id, value in _object(path).items():
      where = f"{path}, record {trip_id!r}"
      if trip_id in trips:
        raise ValueError(
          f"{where}: its id must be unique, it is also in {trips[trip_id][0]}"
        )
      trips[trip_id] = path.name, _record(where, trip_id, value)
  for table in tables:
    for row in rows(table):
      if row.id in trips:
        _check_best(row, trips[row.id][1]["aspects"])
  blocks = [frozenset(trip_id.split("|")) for trip_id in trips]
  levels = [level for level, _ in trips.values()]
  splits = splits_of(list(zip(levels, blocks, strict=True)))
  return tuple(
    types.Task(
      gym="travel",
      id=trip_id,
      split=split,
      level=2 if len(record["aspects"]) < 3 else 3,
      structure="|".join(sorted(trip_id.split("|"))),
      public={"opening": record["opening"]},
      secret=types.Secret({"aspects": record["aspects"]}),
    )
    for (trip_id, (_, record)), split in zip(trips.items(), splits, strict=True)
  )


def _object(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    found = json.loads(sources.text(path))
  except ValueError as error:
    raise ValueError(f"{path}: must be an object in JSON; {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path}: must be an object of trips, got {found!r:.60}")
  return found


def _record(where: str, trip_id: str, value: Any) -> Mapping[str, Any]:
  """Returns what `scenario.parse` reads, of one trip."""
  if not _ID.fullmatch(trip_id):
    raise ValueError(
      f"{where}: its id must be like 'flight:2-35|hotel:2-6', got {trip_id!r}"
    )
  names = sources.field(where, value, "dimensions", list, "a list of aspects")
  known = [name.replace(" ", "_") for name in lexicon.ASPECTS]
  in_id = sorted(block.partition(":")[0] for block in trip_id.split("|"))
  if any(n not in known for n in names) or sorted(names) != in_id:
    raise ValueError(
      f"{where}: field 'dimensions' must be the aspects of its id, of {known}, "
      f"got {names!r:.80}"
    )
  if len(set(names)) < len(names):
    raise ValueError(
      f"{where}: field 'dimensions' must have aspects that differ, got {names}"
    )
  sources.check_text(where, value, "initial_description")
  opening = value["initial_description"].strip()
  aspects = []
  for name in names:
    found = sources.field(where, value, name, dict, "an object")
    aspects.append(_aspect(f"{where}, {name}", trip_id, name, found))
  for aspect in aspects:
    for wish in aspect["preferences"]:
      if wish["text"] in opening or wish["hint"] in opening:
        raise ValueError(
          f"{where}: field 'initial_description' is public and must not tell a "
          f"wish of {aspect['aspect']}; reword it"
        )
  return {"opening": opening, "aspects": tuple(aspects)}


def _aspect(
  where: str, trip_id: str, name: str, value: Mapping[str, Any]
) -> Mapping[str, Any]:
  arguments = sources.field(where, value, "arguments", dict, "an object")
  if not arguments:
    raise ValueError(f"{where}: field 'arguments' must have a slot, got {{}}")
  wishes = sources.field(where, value, "preferences", list, "a list of lists")
  if not wishes:
    raise ValueError(f"{where}: field 'preferences' must have a wish, got []")
  found = sources.field(where, value, "options", dict, "an object")
  letter = lexicon.ASPECTS[name.replace("_", " ")].letter
  shown: dict[str, str] = {}
  for kind in _KINDS:
    options = sources.field(where, found, kind, list, "a list of options")
    for number, option in enumerate(options, 1):
      place = f"{where}, {kind} option {number}"
      option_id = sources.field(place, option, "id", str, "an option's id")
      fits = re.fullmatch(scenario.ID_PATTERN, option_id)
      if not fits or option_id[0] != letter or option_id in shown:
        raise ValueError(
          f"{place}: field 'id' must be new and like '{letter}7', got "
          f"{option_id!r:.60}"
        )
      kept = {k: v for k, v in option.items() if k not in _UNSHOWN}
      shown[option_id] = json.dumps(
        {"id": option_id, **kept}, ensure_ascii=False
      )
  order = list(shown)
  # The file lists what is right first.
  random.Random(sources.digest(f"travel|{trip_id}|{name}")).shuffle(order)
  return {
    "aspect": name.replace("_", " "),
    "arguments": {slot: _plain(v) for slot, v in arguments.items()},
    "preferences": tuple(_wish(where, n, w) for n, w in enumerate(wishes, 1)),
    "options": tuple({"id": k, "shown": shown[k]} for k in order),
    "marked": _marked(where, value, shown),
  }


def _wish(where: str, number: int, wish: Any) -> Mapping[str, Any]:
  parts = wish[1:4] if isinstance(wish, list) else ()
  if len(parts) < 3 or any(
    not isinstance(p, str) or not p.strip() for p in parts
  ):
    raise ValueError(
      f"{where}: field 'preferences', item {number}, must be a list of the "
      f"aspect, topic, wish and hint, all texts, got {wish!r:.80}"
    )
  topic, text, hint = (part.strip() for part in parts)
  return {"topic": topic, "text": text, "hint": hint, "is_free": True}


def _marked(
  where: str, value: Mapping[str, Any], shown: Mapping[str, str]
) -> tuple[str, ...]:
  """Returns the ids of the right options, that of the best one first."""
  best = sources.field(where, value, "best_id", str, "an option's id")
  right = sources.field(where, value, "correct_ids", list, "a list of ids")
  if any(not isinstance(name, str) or name not in shown for name in right):
    raise ValueError(
      f"{where}: field 'correct_ids' must be ids of its options, got "
      f"{right!r:.80}"
    )
  if best not in right:
    raise ValueError(
      f"{where}: field 'best_id' must be one of 'correct_ids', got {best!r:.60}"
    )
  return tuple(dict.fromkeys((best, *right)))


def _plain(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)


def _check_best(row: Row, aspects: Sequence[Mapping[str, Any]]) -> None:
  best = {aspect["marked"][0] for aspect in aspects}
  if row.best != best:
    raise ValueError(
      f"{row.where}: field 'ground_truth' must be the best options of the raw "
      f"file, {sorted(best)}, got {sorted(row.best)}"
    )


def _homes(trips: Sequence[tuple[str, frozenset[str]]]) -> dict[str, str]:
  """Returns the split of blocks that are not of train.

  The next trip of a split is always the one whose new blocks the fewest trips
  have; hashes break ties.
  """
  num_trips = collections.Counter(b for _, blocks in trips for b in blocks)
  order = sorted(trips, key=lambda t: sources.digest("|".join(sorted(t[1]))))
  homes: dict[str, str] = {}
  for split, share in SHARES.items():
    for level in sorted({level for level, _ in trips}):
      of_level = [blocks for found, blocks in order if found == level]
      room = round(share * len(of_level))
      while True:
        splits = [{homes.get(block, "") for block in bs} for bs in of_level]
        num_in = sum(found == {split} for found in splits)
        free = [
          blocks
          for blocks, found in zip(of_level, splits, strict=True)
          if found != {split} and found <= {split, ""}
        ]
        if num_in >= room or not free:
          break
        costs = [
          sum(num_trips[b] for b in blocks if b not in homes) for blocks in free
        ]
        chosen = free[costs.index(min(costs))]
        homes.update(dict.fromkeys(chosen, split))
  return homes
