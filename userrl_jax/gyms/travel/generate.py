"""Tasks of the Travel gym from a seed: a user's trip and what is to be had.

Level 1 is one aspect, one wish and four options listed by price; level 2 one or
two aspects with two wishes each, told as hints; level 3 two or three aspects
with up to three wishes each, and dates. Splits are made by structure: at level
1 the wished topic and which two options have it, above that the set of wished
topics of an aspect, so that no test task shares an aspect's wishes with
training.

  python -m userrl_jax.gyms.travel.generate > tasks.jsonl   # makes the pack
"""

from collections.abc import Iterator, Sequence
import functools
import itertools
import json
import random
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import scenario

SPLITS, LEVELS = sources.SPLITS, sources.LEVELS

# Level 1: twelve topics, of three aspects with four each, times six layouts,
# the places of the two options out of four that have the wished topic.
NUM_TOPICS = 4
LEVEL_1_TOPICS = tuple(
  (aspect, topic)
  for aspect in ("hotel", "flight", "restaurant")
  for topic in tuple(lexicon.ASPECTS[aspect].topics)[:NUM_TOPICS]
)
LAYOUTS = tuple(itertools.combinations(range(4), 2))
LEVEL_1_CITIES = lexicon.CITIES[:5]
PRICES = {1: range(20, 100, 5), 2: range(40, 300, 5), 3: range(40, 300, 5)}

SHAPES = {  # wishes of each aspect
  2: ((2,), (2, 2)),
  3: ((3, 3), (2, 2, 2), (2, 3, 3)),
}
# Topics that the options of an aspect tell apart, by its number of wishes: a
# player who asks about two at once finds all wishes of three aspects, searches
# and chooses in 15 turns.
NUM_SHOWN = {2: 5, 3: 4}

PACK_SEED = 0
PACK_COUNTS = {"train": 6, "dev": 1, "test": 3}  # per level; 30 in all

_DEV_1 = {(1, 2), (5, 3), (6, 5), (10, 1)}  # topic and layout
# Of 20 buckets of a block's hash, levels 2 and 3: 14 train, 2 dev, 4 test.
_BUCKETS = ("train",) * 14 + ("dev",) * 2 + ("test",) * 4

_Record = dict[str, Any]


@functools.lru_cache(maxsize=64)
def tasks(
  seed: int, levels: tuple[int, ...], split: str, count: int
) -> tuple[types.Task, ...]:
  """Generates tasks, the same ones everywhere; see `sources.take_turns`."""
  draw = lambda level: map(scenario.task, _records(seed, level, split))
  return sources.take_turns(draw, levels, split, count)


def level_1_split(topic: int, layout: int) -> str:
  """Returns the split of a structure of level 1.

  Args:
    topic: place in LEVEL_1_TOPICS.
    layout: place in LAYOUTS.

  Returns:
    train, dev or test; train has every topic and every layout. The first place
    of a layout is the answer: in test each of the three is as likely.
  """
  if (topic, layout) in _DEV_1:
    return "dev"
  number, kind = divmod(topic, 3)
  held_out = ({0, 1, 2} - {number % 3}, {3 + number % 2}, {5})[kind]
  return "test" if layout in held_out else "train"


def block_split(aspect: str, topics: Sequence[str]) -> str:
  """Returns the split of the wished topics of one aspect, levels 2 and 3."""
  return _BUCKETS[sources.digest(f"{aspect}:{'+'.join(sorted(topics))}") % 20]


def pack() -> list[_Record]:
  """Returns the records of the committed pack, one a line of tasks.jsonl.

  Unlike generated tasks no two share a structure.
  """
  records = []
  for level in LEVELS:
    for split, count in PACK_COUNTS.items():
      used: set[str] = set()
      for record in _records(PACK_SEED, level, split):
        if record["structure"] not in used:
          used.add(record["structure"])
          name = f"pack-L{level}-{split}-{len(used)}"
          records.append(record | {"id": name})
        if len(used) == count:
          break
  return records


def _records(seed: int, level: int, split: str) -> Iterator[_Record]:
  """Yields records of one level and split, no two with the same content."""
  draw = _level_1 if level == 1 else lambda rng, home: _trip(rng, level, home)
  for name, drawn in sources.distinct(
    "travel", seed, level, split, draw, _is_fresh, json.dumps
  ):
    yield {"id": name, "split": split, "level": level} | drawn


def _is_fresh(draw: _Record) -> bool:
  """Returns whether a task of train's structures is kept from training.

  Tasks that differ in prices, places or days only are one game, so these do not
  count.
  """
  aspects = [
    (
      aspect["aspect"],
      aspect["preferences"],
      [{**option, "price": 0} for option in aspect["options"]],
    )
    for aspect in draw["aspects"]
  ]
  return sources.digest(json.dumps(aspects)) % sources.FRESH_ONE_IN == 0


def _level_1(rng: random.Random, home: str) -> _Record:
  """Returns a task of level 1, without id and split."""
  chosen: list[int] = []
  while not chosen:
    topic = rng.randrange(len(LEVEL_1_TOPICS))
    chosen = [i for i in range(len(LAYOUTS)) if level_1_split(topic, i) == home]
  # The first place decides the answer, so each of the three is as likely.
  first = rng.choice(sorted({LAYOUTS[i][0] for i in chosen}))
  layout = rng.choice([i for i in chosen if LAYOUTS[i][0] == first])
  name, wished = LEVEL_1_TOPICS[topic]
  aspect = lexicon.ASPECTS[name]
  topics = tuple(aspect.topics)[:NUM_TOPICS]
  filling = rng.choice(_fillings(topics.index(wished), LAYOUTS[layout]))
  options = [
    {
      "id": f"{aspect.letter}{number}",
      "price": price,
      lexicon.AMENITIES: [topics[i] for i in pair],
    }
    for number, price, pair in zip(
      itertools.count(1), sorted(rng.sample(PRICES[1], 4)), filling
    )
  ]
  city = rng.choice(LEVEL_1_CITIES)
  wish = aspect.topics[wished].wishes[0]
  place = "to" if name == "flight" else "in"
  first_, second = (i + 1 for i in LAYOUTS[layout])
  return {
    "structure": f"1|{name}:{wished}|{first_}-{second}",
    "opening": f"I want a {name} {place} {city}.",
    "aspects": [
      {
        "aspect": name,
        "arguments": {"city": city},
        "preferences": [_preference(wish, wish.plain_hint)],
        "options": options,
      }
    ],
  }


@functools.cache
def _fillings(
  wished: int, layout: tuple[int, int]
) -> tuple[tuple[tuple[int, int], ...], ...]:
  """Returns all ways to give four options two topics and each topic twice.

  Those in which the options of a layout have the wished topic.
  """
  pairs = tuple(itertools.combinations(range(NUM_TOPICS), 2))
  return tuple(
    filling
    for filling in itertools.product(pairs, repeat=4)
    if all(
      sum(topic in pair for pair in filling) == 2 for topic in range(NUM_TOPICS)
    )
    and tuple(i for i, pair in enumerate(filling) if wished in pair) == layout
  )


def _trip(rng: random.Random, level: int, home: str) -> _Record:
  """Returns a task of level 2 or 3, without id and split."""
  shape = rng.choice(SHAPES[level])
  places = rng.sample(lexicon.CITIES, 2)
  date = f"{rng.randint(1, 28)} {rng.choice(lexicon.MONTHS)}"
  day = {"date": date} if level == 3 else {}
  aspects, blocks, names = [], [], list(lexicon.ASPECTS)
  for num_wishes in shape:
    choices = [n for n in names if _blocks(n, num_wishes, home)]
    name = rng.choice(choices)
    names.remove(name)
    wished = rng.choice(_blocks(name, num_wishes, home))
    if name == "flight":
      arguments = {"from": places[0], "to": places[1]} | day
    else:
      arguments = {"city": places[1]} | day
    aspects.append(_aspect(rng, lexicon.ASPECTS[name], wished, arguments))
    blocks.append(f"{name}:{'+'.join(wished)}")
  items = [
    f"{'an' if a['aspect'] == 'apartment' else 'a'} {a['aspect']} "
    f"({len(a['preferences'])} wishes)"
    for a in aspects
  ]
  route = f"from {places[0]} to " if "flight" not in names else "to "
  when = f" on {date}" if level == 3 else ""
  needs = ", ".join(items[:-1]) + " and " + items[-1] if items[1:] else items[0]
  return {
    "structure": f"{level}|{'|'.join(sorted(blocks))}",
    "opening": f"I go {route}{places[1]}{when}. I need {needs}.",
    "aspects": aspects,
  }


@functools.cache
def _blocks(
  aspect: str, num_wishes: int, home: str
) -> tuple[tuple[str, ...], ...]:
  """Returns the sets of topics of an aspect that a split may wish for."""
  names = sorted(lexicon.ASPECTS[aspect].topics)
  return tuple(
    topics
    for topics in itertools.combinations(names, num_wishes)
    if block_split(aspect, topics) == home
  )


def _aspect(
  rng: random.Random,
  aspect: lexicon.Aspect,
  wished: Sequence[str],
  arguments: dict[str, str],
) -> _Record:
  """Returns an aspect with these wishes and five or six options.

  Two fit. Of the rest, each wish alone rules out one that is cheaper than the
  best, so that a player who misses a wish chooses wrong.
  """
  others = [name for name in aspect.topics if name not in wished]
  shown = {*wished, *rng.sample(others, NUM_SHOWN[len(wished)] - len(wished))}
  wishes = [rng.choice(aspect.topics[name].wishes) for name in wished]
  alone = [{name} for name in wished]
  rest: list[set[str]] = [set(), set(), set(rng.sample(wished, 2))]
  if len(wished) == 2 and rng.random() < 0.5:
    rest.append({rng.choice(wished)})
  rng.shuffle(alone)
  rng.shuffle(rest)
  prices = sorted(rng.sample(PRICES[2], len(alone) + len(rest)))
  options: list[_Record] = [
    {"price": price, lexicon.AMENITIES: []} for price in prices
  ]
  violated = alone + rest
  rng.shuffle(order := list(range(len(options))))
  for name, topic in aspect.topics.items():
    if name not in shown:
      continue
    wish = wishes[wished.index(name)] if name in wished else None
    if wish:
      fits = [name not in v for v in violated]
    else:
      num_fits = rng.randint(1, len(options) - 1)
      having = rng.sample(range(len(options)), num_fits)
      fits = [i in having for i in range(len(options))]
    for option, fit in zip(options, fits, strict=True):
      if not topic.values:
        option[lexicon.AMENITIES] += [name] * fit
      elif wish:
        option[name] = rng.choice(
          [
            value
            for value in topic.values
            if scenario.compare(value, wish.predicate.op, wish.predicate.value)
            == fit
          ]
        )
      else:
        option[name] = rng.choice(topic.values)
  return {
    "aspect": aspect.name,
    "arguments": arguments,
    "preferences": [_preference(w, rng.choice(w.hints)) for w in wishes],
    "options": [
      {"id": f"{aspect.letter}{number}"} | options[i]
      for number, i in enumerate(order, 1)
    ],
  }


def _preference(wish: lexicon.Wish, hint: str) -> _Record:
  predicate = wish.predicate
  return {
    "topic": wish.topic,
    "text": f"{wish.aspect} with {wish.text}",
    "hint": hint,
    "predicate": {
      "field": predicate.field,
      "op": predicate.op,
      "value": predicate.value,
    },
  }


if __name__ == "__main__":
  for record in pack():
    print(json.dumps(record))
