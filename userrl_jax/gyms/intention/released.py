"""Reads tasks of the Intention gym from files: our pack and UserRL's own.

A file comes in and checked tasks go out. A record that is not what it should be
is an error that names the file, the record, the field and what was expected.

UserRL's requests have sample values for what they leave open, but no user who
wants one of them: here the hash of a task's id and the detail's place chooses.
Their 203 categories overlap (`Travel`, `Travel Planning`); they are gathered
into families, and whole families fill the shares of test and dev, in the order
of the hash of their names and as long as they fit.
"""

import collections
import dataclasses
import functools
import hashlib
import pathlib
import re
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.intention import generate
from userrl_jax.gyms.intention import gym
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import scenario

FILE_NAME = "all_intentions_train.json"
LEVEL = 2
SHARES = {"test": 0.1, "dev": 0.05}  # the rest is train
PACK_PATH = pathlib.Path(__file__).with_name("tasks.jsonl")

# A category is of the first family that has one of its words.
_FAMILIES = {
  "travel": "travel tourism local",
  "food": "culinary cooking recipes baking food nutrition diet dietetics "
  "dietary",
  "health": "health healthcare wellness fitness medical mindfulness mental "
  "athletic sports",
  "money": "finance financial investment investing estate politics labor",
  "market": "shopping consumer commerce market marketing business product",
  "house": "home gardening diy repair maintenance care automotive hobbies",
  "music": "music",
  "screen": "movies cinema entertainment gaming",
  "arts": "art arts photography design fashion creative creativity",
  "books": "writing literature literary literacy books publishing",
  "language": "language linguistics",
  "nature": "space astronomy meteorology environmental wildlife geography "
  "animal",
  "science": "research science scientific studies",
  "security": "cybersecurity security safety privacy protection",
  "programming": "programming software scripting python automation",
  "data": "data database file web document email",
  "devices": "technology technologies systems system computer networking "
  "digital artificial operating information",
  "learning": "education educational skill skills training career employment "
  "knowledge",
  "events": "event news search social",
  "order": "productivity organization services assistance",
}


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's requests, in its order.

  Rules cannot play them: their details are told in any words.

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


def family(category: str) -> str:
  """Returns the family of a category; one of no family is its own."""
  words = set(re.findall(r"[a-z]+", category.lower())) - {"and"}
  for name, members in _FAMILIES.items():
    if words & set(members.split()):
      return name
  return " ".join(sorted(words))


@functools.lru_cache(maxsize=8)
def _read_released(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  records = sources.json_list(path, "requests")
  ids: dict[str, str] = {}
  found = []
  for number, record in enumerate(records, 1):
    where = f"{path}, record {number}"
    for name in ("id", "category", "task"):
      sources.check_text(where, record, name)
    sources.check_id(where, record, ids, f"that of record {number}")
    if not re.search("[a-zA-Z]", record["category"]):
      raise ValueError(
        f"{where}: field 'category' must have a word, got "
        f"{record['category']!r}"
      )
    _check_length(where, record)
    details = [
      _released_detail(f"{where}, detail {place}", item, record["id"], place)
      for place, item in enumerate(_details_field(where, record), 1)
    ]
    found.append((record, family(record["category"]), details))
  splits = sources.split_families([kind for _, kind, _ in found], SHARES)
  return tuple(
    types.Task(
      gym="intention",
      id=record["id"],
      split=splits[kind],
      level=LEVEL,
      structure=kind,
      public={"category": record["category"], "request": record["task"]},
      secret=types.Secret({"details": tuple(details)}),
    )
    for record, kind, details in found
  )


def _released_detail(
  where: str, item: Any, task_id: str, place: int
) -> dict[str, Any]:
  for name in ("description", "inquiry"):
    sources.check_text(where, item, name)
  limit = gym.IntentionGym.max_content_chars
  if len(item["inquiry"]) > limit:
    raise ValueError(
      f"{where}: field 'inquiry' must have at most {limit} characters, got "
      f"{len(item['inquiry'])}"
    )
  importances = tuple(str(number) for number in scenario.IMPORTANCES)
  sources.check_value(where, item, "importance", importances)
  options = sources.field(where, item, "options", list, "a list of texts")
  if not options or not all(isinstance(o, str) and o.strip() for o in options):
    raise ValueError(
      f"{where}: field 'options' must be a list of texts, got {options!r:.60}"
    )
  digest = hashlib.blake2b(f"{task_id}|{place}".encode(), digest_size=8)
  chosen = int.from_bytes(digest.digest(), "big") % len(options)
  return dataclasses.asdict(
    scenario.Detail(
      slot="",
      importance=int(item["importance"]),
      about=item["description"],
      value=options[chosen],
      reply="",
      question=item["inquiry"],
    )
  )


@functools.lru_cache(maxsize=8)
def _read_pack(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: dict[str, str] = {}
  categories = (generate.FORM, *lexicon.CATEGORIES)
  for line, where, record in sources.records(path):
    for name in ("id", "request"):
      sources.check_text(where, record, name)
    sources.check_id(where, record, ids, f"that of line {line}")
    sources.check_value(where, record, "level", generate.LEVELS)
    allowed = categories[:1] if record["level"] == 1 else categories[1:]
    sources.check_value(where, record, "category", allowed)
    open_ = _check_details(where, record)
    key = scenario.structure(record["level"], record["category"], open_)
    sources.check_value(where, record, "structure", (key,))
    home = generate.split_of(key)
    allowed = ("train", "fresh") if home == "train" else (home,)
    sources.check_value(where, record, "split", allowed)
    tasks.append(generate.task(record))
  return tuple(tasks)


def _check_details(where: str, record: Any) -> list[str]:
  """Returns the open slots of a record of the pack after checking its parts."""
  importances = generate.slots_of(record["category"])
  details = _details_field(where, record, "details")
  for place, item in enumerate(details, 1):
    spot = f"{where}, detail {place}"
    sources.check_value(spot, item, "slot", tuple(importances))
    sources.check_value(spot, item, "importance", (importances[item["slot"]],))
    for name in ("value", "reply"):
      sources.check_text(spot, item, name)
  for place, item in enumerate(details, 1):
    others = (other["reply"] for other in details if other is not item)
    if any(item["value"] in text for text in (record["request"], *others)):
      raise ValueError(
        f"{where}, detail {place}: field 'value' is hidden and must stand in "
        f"no text about something else, got {item['value']!r}"
      )
  open_ = [item["slot"] for item in details]
  told = sources.field(where, record, "told", list, "a list of slots")
  parts = collections.Counter(map(str, (*told, *open_)))
  wanted = set(parts) if record["level"] == 1 else set(importances)
  if parts != dict.fromkeys(wanted, 1) or not wanted <= set(importances):
    raise ValueError(
      f"{where}: field 'told' must hold slots of {record['category']!r} that "
      f"are not among the details, above level 1 all of them, got {told!r:.60}"
    )
  return open_


def _details_field(
  where: str, record: Any, name: str = "missing_details"
) -> list[Any]:
  value = sources.field(where, record, name, list, "a list of details")
  if not value:
    raise ValueError(f"{where}: field {name!r} must have a detail, got none")
  return value


def _check_length(where: str, record: Any) -> None:
  size = len(scenario.request_text(record["category"], record["task"]))
  limit = gym.IntentionGym.max_observation_chars
  if size > limit:
    raise ValueError(
      f"{where}: fields 'category' and 'task' must make a message of at most "
      f"{limit} characters, got {size}"
    )
