"""Reads tasks of the Telepathy gym from files: our pack and UserRL's own.

A file comes in and checked tasks go out. A record that is not what it should
be is an error that names the file, the record, the field and what was expected.

UserRL splits its 401 things by row, over 188 categories that overlap (`animal`,
`animals`, `marine_animal`). Here categories are gathered into families, and
whole families, in the order of the hash of their names, fill the shares of test
and dev as long as they fit: training sees no kind of thing that a test asks.
"""

from collections.abc import Iterable
import functools
import pathlib
import re
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.telepathy import generate
from userrl_jax.gyms.telepathy import gym
from userrl_jax.gyms.telepathy import world

FILE_NAME = "all_entities_refined.json"
LEVEL = 2  # the description tells the kind of thing, as ours of level 2 does
SHARES = {"test": 0.1, "dev": 0.05}  # the rest is train
PACK_PATH = pathlib.Path(__file__).with_name("tasks.jsonl")

# A category is of the first family that has one of its words.
_FAMILIES = {
  "fiction": "fictional legendary mythical mythology animated cartoon sci "
  "superhero vampire character fairy",
  "people": "person people figure artist athlete author celebrity composer "
  "entertainer leader icon humanitarian mathematician actor painter "
  "philosopher scientist singer personality entrepreneur writer musician",
  "space": "astronomical astronomy celestial galaxy planet space star",
  "weather": "phenomenon weather season",
  "games": "game gaming puzzle toy",
  "events": "event holiday festival award period civilization",
  "sport": "sport sporting motorsport physical wellness",
  "music": "music musical song classical instrument",
  "screen": "movie film television franchise",
  "books": "book literature novel play",
  "stage and arts": "artwork art ballet performance performing dance painting",
  "animals": "animal bird dinosaur dog fish marine marsupial creature reptile "
  "prehistoric insect mammal",
  "food": "food beverage cuisine dessert dish fruit vegetable drink",
  "plants": "plant flower tree",
  "transport": "aircraft vehicle transport transportation car ship",
  "technology": "technology device gadget computer software programming "
  "platform social company brand invention",
  "household": "appliance object tool utensil furniture clothing",
  "science": "element molecule chemical mathematical process science gemstone",
  "monuments": "ancient historical landmark monument structure building "
  "museum artistic ride",
  "places": "city country forest geographic geographical geography geological "
  "island place park mountain natural water waterfall",
}
_PLURALS = (("cities", "city"), ("countries", "country"))


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's file of things, in its order.

  Rules cannot play them: they know nothing of these things.

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
  words = re.findall(r"[a-z]+", category.lower())
  for plural, singular in _PLURALS:
    words = [singular if word == plural else word for word in words]
  forms = {*words, *(word.removesuffix("s") for word in words)}
  for name, members in _FAMILIES.items():
    if forms & set(members.split()):
      return name
  return " ".join(words)


@functools.lru_cache(maxsize=8)
def _read_released(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  records = sources.json_list(path, "things")
  ids: dict[str, str] = {}
  for number, record in enumerate(records, 1):
    where = f"{path}, record {number}"
    for name in ("id", "title", "description", "target_entity", "category"):
      sources.check_text(where, record, name)
    sources.check_id(where, record, ids, f"that of record {number}")
    _check_length(where, record, "title", gym.MAX_GUESS_CHARS)
    limit = gym.TelepathyGym.max_observation_chars
    _check_length(where, record, "description", limit)
    if not re.search("[a-zA-Z]", record["category"]):
      raise ValueError(
        f"{where}: field 'category' must have a word, got "
        f"{record['category']!r}"
      )
    for name in ("title", "target_entity"):
      if record[name].lower() in record["description"].lower():
        raise ValueError(
          f"{where}: field 'description' is public and must not tell field "
          f"{name!r}; reword it"
        )
  families = [family(record["category"]) for record in records]
  splits = sources.split_families(families, SHARES)
  return tuple(
    types.Task(
      gym="telepathy",
      id=record["id"],
      split=splits[kind],
      level=LEVEL,
      structure=kind,
      public={"description": record["description"]},
      secret=types.Secret(
        {
          "name": record["title"],
          "aliases": (),
          "gloss": record["target_entity"],
        }
      ),
    )
    for record, kind in zip(records, families, strict=True)
  )


@functools.lru_cache(maxsize=8)
def _read_pack(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: dict[str, str] = {}
  for line, where, record in sources.records(path):
    sources.check_text(where, record, "id")
    sources.check_id(where, record, ids, f"that of line {line}")
    sources.check_value(where, record, "level", generate.LEVELS)
    sources.check_value(where, record, "name", tuple(world.entities()))
    level, name = record["level"], record["name"]
    candidates = _list_field(where, record, "candidates", world.entities())
    hints = _list_field(where, record, "hints", world.attributes())
    if level == 1 and name not in candidates:
      raise ValueError(
        f"{where}: field 'candidates' must hold the name {name!r}, got "
        f"{candidates}"
      )
    home = generate.split_of(level, name, candidates)
    allowed = ("train", "fresh") if home == "train" else (home,)
    sources.check_value(where, record, "split", allowed)
    key = generate.structure(level, name, candidates)
    sources.check_value(where, record, "structure", (key,))
    tasks.append(
      generate.task(
        record["id"], record["split"], level, name, candidates, hints
      )
    )
  return tuple(tasks)


def _list_field(
  where: str, record: Any, name: str, known: Iterable[str]
) -> tuple[str, ...]:
  value = sources.field(where, record, name, list, "a list")
  if any(item not in known for item in value):
    raise ValueError(
      f"{where}: field {name!r} must be a list of names of lexicon.json, got "
      f"{value!r:.60}"
    )
  return tuple(value)


def _check_length(where: str, record: Any, name: str, limit: int) -> None:
  if len(record[name]) > limit:
    raise ValueError(
      f"{where}: field {name!r} must have at most {limit} characters, got "
      f"{len(record[name])}"
    )
