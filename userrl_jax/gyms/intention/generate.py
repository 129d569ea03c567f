"""Tasks of the Intention gym from a seed: a request, and what it leaves open.

Level 1 is a form of seven slots, three of them marked as open. Level 2 is a
request of a category in which half of the category's slots were told, and level
3 one in which one or two of six were, and less plainly. Splits are made by
structure: the set of open slots, at levels 2 and 3 of a category; and there
dev and test also have requests for things that training never asks for.

  python -m userrl_jax.gyms.intention.generate   # prints level 1 of the pack
"""

from collections.abc import Iterator, Sequence
import functools
import itertools
import json
import random
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import scenario

SPLITS, LEVELS = sources.SPLITS, sources.LEVELS
FORM = "form"  # the category of level 1
FORM_SIZE = 7
NUM_OPEN = {1: (3,), 2: (3,), 3: (4, 5)}
# Of a category's requests, by their place.
REQUEST_SPLITS = ("train", "train", "train", "dev", "test")

PACK_SEED = 0
PACK_COUNTS = {"train": 9, "dev": 2, "test": 3}  # per level; 42 in all

# Of 20 buckets of a structure's hash: 14 train, 2 dev, 4 test.
_BUCKETS = ("train",) * 14 + ("dev",) * 2 + ("test",) * 4

_Record = dict[str, Any]


@functools.lru_cache(maxsize=64)
def tasks(
  seed: int, levels: tuple[int, ...], split: str, count: int
) -> tuple[types.Task, ...]:
  """Generates tasks, the same ones everywhere; see `sources.take_turns`."""
  draw = lambda level: map(task, _records(seed, level, split))
  return sources.take_turns(draw, levels, split, count)


def task(record: _Record) -> types.Task:
  """Makes the task of a record: as in the pack, see `pack`."""
  level = record["level"]
  return types.Task(
    gym="intention",
    id=record["id"],
    split=record["split"],
    level=level,
    structure=record["structure"],
    public={
      "category": record["category"],
      "request": record["request"],
      "told": tuple(record["told"]),
    },
    secret=types.Secret(
      {
        "details": tuple(
          scenario.detail(
            d["slot"], d["importance"], d["value"], d["reply"], level
          )
          for d in record["details"]
        )
      }
    ),
  )


def split_of(structure: str) -> str:
  """Returns the split that a structure belongs to."""
  return _BUCKETS[sources.digest(structure) % len(_BUCKETS)]


def slots_of(category: str) -> dict[str, int]:
  """Returns the slots that tasks of a category are about, with importances.

  At level 1 any slot may stand in the form.
  """
  if category == FORM:
    return {name: lexicon.SLOTS[name].weight for name in lexicon.LEVEL_1_SLOTS}
  return lexicon.CATEGORIES[category].slots


def pack() -> list[_Record]:
  """Returns level 1 of the committed pack; no two share a structure.

  The other levels of tasks.jsonl were written by hand.
  """
  records = []
  for split, count in PACK_COUNTS.items():
    used: set[str] = set()
    for record in _records(PACK_SEED, 1, split):
      if record["structure"] not in used:
        used.add(record["structure"])
        records.append(record | {"id": f"pack-L1-{split}-{len(used)}"})
      if len(used) == count:
        break
  return records


def _records(seed: int, level: int, split: str) -> Iterator[_Record]:
  """Yields records of one level and split, no two with the same content."""
  draw = _form if level == 1 else _request
  for name, drawn in sources.distinct(
    "intention",
    seed,
    level,
    split,
    lambda rng, home: draw(rng, level, home),
    _is_fresh,
    json.dumps,
  ):
    yield {"id": name, "split": split, "level": level} | drawn


def _is_fresh(drawn: _Record) -> bool:
  """Returns whether a task of train's structures is kept from training.

  What is open and what was told makes the game, and above level 1 the words of
  the request do; order, nouns of forms and the replies' values do not.
  """
  game = [drawn["structure"], *sorted(drawn["told"])]
  if drawn["category"] != FORM:
    game += sorted(drawn["request"].split("."))
  return sources.digest(json.dumps(game)) % sources.FRESH_ONE_IN == 0


def _form(rng: random.Random, level: int, home: str) -> _Record:
  """Returns a task of level 1, without id and split."""
  open_ = rng.choice(_sets(FORM, level, home))
  rest = [name for name in lexicon.LEVEL_1_SLOTS if name not in open_]
  told = rng.sample(rest, FORM_SIZE - len(open_))
  order = [*open_, *told]
  rng.shuffle(order)
  values = {name: rng.choice(lexicon.SLOTS[name].words) for name in order}
  form = " ".join(
    scenario.blank(name) if name in open_ else f"{name} {values[name]}"
    for name in order
  )
  return _drawn(
    level,
    FORM,
    f"Plan a {rng.choice(lexicon.LEVEL_1_NOUNS)}: {form}",
    [name for name in order if name in told],
    {name: values[name] for name in order if name in open_},
  )


def _request(rng: random.Random, level: int, home: str) -> _Record:
  """Returns a task of level 2 or 3, without id and split."""
  names = [n for n in sorted(lexicon.CATEGORIES) if _sets(n, level, home)]
  category = lexicon.CATEGORIES[rng.choice(names)]
  open_ = rng.choice(_sets(category.name, level, home))
  told = [name for name in category.slots if name not in open_]
  rng.shuffle(told)
  values = {name: rng.choice(category.values(name)) for name in category.slots}
  request = rng.choice(
    [
      text
      for text, split in zip(category.requests, REQUEST_SPLITS, strict=True)
      if split == home
    ]
  )
  said = (
    lexicon.SLOTS[name].told[level - 2].format(values[name]) for name in told
  )
  return _drawn(
    level,
    category.name,
    " ".join((request, *said)),
    told,
    {name: values[name] for name in category.slots if name in open_},
  )


def _drawn(
  level: int,
  category: str,
  request: str,
  told: Sequence[str],
  values: dict[str, str],
) -> _Record:
  """Returns a record without id and split; `values` are of the open slots."""
  importances = slots_of(category)
  return {
    "structure": scenario.structure(level, category, values),
    "category": category,
    "request": request,
    "told": list(told),
    "details": [
      {
        "slot": name,
        "importance": importances[name],
        "value": value,
        "reply": _reply(level, value),
      }
      for name, value in values.items()
    ],
  }


def _reply(level: int, value: str) -> str:
  if level == 1:
    return f"{value}."
  if level == 2:
    return f"{value[0].upper()}{value[1:]}."
  return f"Let me think: {value}, I would say."


@functools.cache
def _sets(category: str, level: int, home: str) -> tuple[tuple[str, ...], ...]:
  """Returns the sets of slots that requests of a split may leave open."""
  return tuple(
    found
    for size in NUM_OPEN[level]
    for found in itertools.combinations(slots_of(category), size)
    if split_of(scenario.structure(level, category, found)) == home
  )


if __name__ == "__main__":
  for record in pack():
    print(json.dumps(record))
