"""Tasks of the Telepathy gym from a seed: a thing, and what is told of it.

Level 1 lists six candidates, the first entities of six of eight categories;
level 2 tells the category and level 3 nothing, and both may add up to two
hints, each a question with its reply. Splits are made by structure: at level 1
the set of the candidates' categories, else the thing itself.

  python -m userrl_jax.gyms.telepathy.generate > tasks.jsonl   # makes the pack
"""

import collections
from collections.abc import Iterator, Sequence
import functools
import hashlib
import itertools
import json
import random

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.telepathy import world

SPLITS, LEVELS = sources.SPLITS, sources.LEVELS
NUM_CANDIDATES = 6
NUM_LISTED = 1  # things of a category that level 1 knows; small models learn it
MAX_HINTS = 2

# Level 1: the two categories that a set of six leaves out, where it is not of
# train. A pair may differ in size, or else in being made, or only in sound;
# that decides which question splits its six candidates in halves, and all
# splits hold such pairs in about the shares 4 : 2 : 1 of all 28.
LEFT_OUT = {
  frozenset(pair.split()): split
  for pair, split in {
    "food vehicle": "test",
    "animal plant": "test",
    "clothing nature": "test",
    "instrument building": "test",
    "animal clothing": "test",
    "building nature": "test",
    "clothing instrument": "test",
    "food building": "dev",
    "plant instrument": "dev",
    "vehicle nature": "dev",
  }.items()
}

# Above level 1: by the place of a thing in its category; core ones come first.
_SPLIT_OF_PLACE = ("train",) * 4 + ("dev", "test")

PACK_SEED = 0
PACK_COUNTS = {"train": 9, "dev": 2, "test": 3}  # per level; 42 in all


# The name, the candidates (level 1) and the keys of the hints (above).
_Drawn = tuple[str, tuple[str, ...], tuple[str, ...]]


@functools.lru_cache(maxsize=64)
def tasks(
  seed: int, levels: tuple[int, ...], split: str, count: int
) -> tuple[types.Task, ...]:
  """Generates tasks, the same ones everywhere; see `sources.take_turns`."""
  draw = lambda level: _draw_tasks(seed, level, split)
  return sources.take_turns(draw, levels, split, count)


def task(
  task_id: str,
  split: str,
  level: int,
  name: str,
  candidates: Sequence[str] = (),
  hints: Sequence[str] = (),
) -> types.Task:
  """Makes the task of an entity.

  Args:
    task_id: unique within the gym.
    split: of gyms.SPLITS.
    level: 1, 2 or 3.
    name: of the entity to guess.
    candidates: at level 1, names that hold it.
    hints: at other levels, keys of attributes to tell.
  """
  entity = world.entities()[name]
  public: dict = {"candidates": tuple(candidates)}
  if level > 1:
    public = {"category": entity.category} if level == 2 else {}
    public["hints"] = tuple(_hint(entity, key) for key in hints)
  secret = {"name": name, "aliases": entity.aliases, "gloss": entity.gloss}
  return types.Task(
    gym="telepathy",
    id=task_id,
    split=split,
    level=level,
    structure=structure(level, name, candidates),
    public=public,
    secret=types.Secret(secret),
  )


def structure(level: int, name: str, candidates: Sequence[str]) -> str:
  """Returns the key that splits are made by; it must not tell the name."""
  if level == 1:
    found = {world.entities()[c].category for c in candidates}
    return " ".join(sorted(found))
  return hashlib.blake2b(
    f"telepathy|{name}".encode(), digest_size=6
  ).hexdigest()


def split_of(level: int, name: str, candidates: Sequence[str] = ()) -> str:
  """Returns the split that a task's structure belongs to."""
  entity = world.entities()[name]
  if level == 1:
    found = {world.entities()[c].category for c in candidates}
    return LEFT_OUT.get(frozenset(world.openings()) - found, "train")
  return _SPLIT_OF_PLACE[world.members(entity.category).index(entity)]


def pack() -> list[dict]:
  """Returns the records of the committed pack, one a line of tasks.jsonl.

  No two share a structure: above level 1, no thing comes twice.
  """
  records: list[dict] = []
  used: set[str] = set()
  for level, (split, count) in itertools.product(LEVELS, PACK_COUNTS.items()):
    stream = (drawn for _, drawn in _draw(PACK_SEED, level, split))
    for number in range(1, count + 1):
      name, candidates, hints = next(
        drawn for drawn in stream if structure(level, *drawn[:2]) not in used
      )
      key = structure(level, name, candidates)
      used.add(key)
      records.append(
        {
          "id": f"pack-L{level}-{split}-{number}",
          "split": split,
          "level": level,
          "structure": key,
          "name": name,
          "candidates": list(candidates),
          "hints": list(hints),
        }
      )
  return records


def _draw_tasks(seed: int, level: int, split: str) -> Iterator[types.Task]:
  for task_id, drawn in _draw(seed, level, split):
    yield task(task_id, split, level, *drawn)


def _draw(seed: int, level: int, split: str) -> Iterator[tuple[str, _Drawn]]:
  """Yields ids and what makes the tasks of one level and split."""
  draw = _draw_candidates if level == 1 else _draw_hints
  return sources.distinct(
    "telepathy", seed, level, split, draw, lambda drawn: _is_fresh(*drawn)
  )


def _is_fresh(
  name: str, candidates: Sequence[str], hints: Sequence[str]
) -> bool:
  """Returns whether a task of train's structures is kept from training.

  Level 1: one thing of each set of candidates, whatever their order. Above, one
  in so many sets of hints about a thing.
  """
  if candidates:
    found = frozenset(world.entities()[c].category for c in candidates)
    return world.entities()[name].category == _fresh_categories()[found]
  return sources.is_kept(repr((name, sorted(hints))))


@functools.cache
def _fresh_categories() -> dict[frozenset[str], str]:
  """Returns which category of each set training never has to find.

  The rarest so far, so that it is each about as often.
  """
  chosen: dict[frozenset[str], str] = {}
  for found in _category_sets("train"):
    counts = collections.Counter(chosen.values())
    chosen[frozenset(found)] = min(found, key=counts.__getitem__)
  return chosen


def _draw_candidates(rng: random.Random, split: str) -> _Drawn:
  """Returns a task of level 1: six candidates, and which it is."""
  categories = rng.choice(_category_sets(split))
  candidates = [
    rng.choice(world.members(category)[:NUM_LISTED]).name
    for category in categories
  ]
  rng.shuffle(candidates)
  return rng.choice(candidates), tuple(candidates), ()


def _draw_hints(rng: random.Random, split: str) -> _Drawn:
  """Returns a task of level 2 or 3: a thing, and hints in a fixed order."""
  entity = rng.choice(_entities(split))
  known = [key for key, v in entity.values.items() if v != world.Verdict.MAYBE]
  places = rng.sample(range(len(known)), rng.randint(0, MAX_HINTS))
  return entity.name, (), tuple(known[place] for place in sorted(places))


@functools.cache
def _category_sets(split: str) -> tuple[tuple[str, ...], ...]:
  sets = itertools.combinations(world.openings(), NUM_CANDIDATES)
  categories = frozenset(world.openings())
  return tuple(
    found
    for found in sets
    if LEFT_OUT.get(categories.difference(found), "train") == split
  )


@functools.cache
def _entities(split: str) -> tuple[world.Entity, ...]:
  everything = world.entities().values()
  return tuple(e for e in everything if split_of(2, e.name) == split)


def _hint(entity: world.Entity, key: str) -> str:
  return f"{world.attributes()[key].question} {entity.values[key]}."


if __name__ == "__main__":
  for record in pack():
    print(json.dumps(record))
