"""Tasks of the Persuade gym from a seed: a claim, and what may move its user.

At level 1 the user wants something banned and asks about three worries, one
after the other. At levels 2 and 3 they hold a claim of the lexicon and are open
to five or six of its seven points; at level 2 they ask about these in turn, at
level 3 only about the first.
Splits are made by structure. At level 1 that is the thing with its worries: no
two of a test task's words, thing and worry, come together in training. Above,
it is the claim.

  python -m userrl_jax.gyms.persuade.generate > tasks.jsonl   # makes the pack
"""

from collections.abc import Iterator, Sequence
import functools
import itertools
import json
import random

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.persuade import debate

SPLITS, LEVELS = sources.SPLITS, sources.LEVELS
NUM_WORRIES = 3  # of level 1; each moves the user two stances of six
NUM_POINTS = (5, 6)  # of other levels
NUM_DEV_SETS = 2  # of each thing's ten sets of worries that are not of test

PACK_SEED = 0
PACK_COUNTS = {"train": 8, "dev": 2, "test": 4}  # of level 1; else each claim

# By thing, the places of the worries that only tests join with it: the offsets
# give every worry to three of eight things.
_TEST_OFFSETS = (0, 3, 5)

# The claim or its id, the thing (level 1), and the worries or places of points.
_Drawn = tuple[str, str, tuple]


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
  claim: str,
  thing: str,
  points: Sequence[str] | Sequence[int],
) -> types.Task:
  """Makes the task of a claim.

  Args:
    task_id: unique within the gym.
    split: of gyms.SPLITS.
    level: 1, 2 or 3.
    claim: the text at level 1, else the id of a claim.
    thing: what a claim of level 1 is about, else empty.
    points: worries at level 1, else places of points; in the user's order.
  """
  if level == 1:
    text, argument = claim, ""
    found = tuple(debate.level_1_point(thing, str(w)) for w in points)
  else:
    known = debate.claims()[claim]
    text, argument = known.text, known.argument
    found = tuple(known.points[int(place)] for place in points)
  return types.Task(
    gym="persuade",
    id=task_id,
    split=split,
    level=level,
    structure=structure(level, claim, thing, points),
    public={"claim": text},
    secret=types.Secret({"argument": argument, "points": found}),
  )


def structure(level: int, claim: str, thing: str, points: Sequence) -> str:
  """Returns the key that splits are made by."""
  return " ".join((thing, *sorted(points))) if level == 1 else claim


def split_of(level: int, claim: str, thing: str, points: Sequence) -> str:
  """Returns the split that a task's structure belongs to; empty for none."""
  if level > 1:
    return debate.claims()[claim].split
  return _set_splits(thing).get(frozenset(points), "")


def pack() -> list[dict]:
  """Returns the records of the committed pack, one a line of tasks.jsonl.

  No two share a structure: every claim of the lexicon comes once, at level 2
  or 3.
  """
  records: list[dict] = []
  used: set[str] = set()
  for split, count in PACK_COUNTS.items():
    stream = (drawn for _, drawn in _draw(PACK_SEED, 1, split))
    for number in range(1, count + 1):
      drawn = next(d for d in stream if structure(1, *d) not in used)
      used.add(structure(1, *drawn))
      records.append(_record(f"pack-L1-{split}-{number}", split, 1, drawn))
  for number, claim in enumerate(debate.claims().values()):
    level = 2 + number % 2
    rng = random.Random(f"persuade|{PACK_SEED}|{claim.id}")
    drawn = _draw_points(rng, level, claim)
    record = _record(f"pack-L{level}-{claim.id}", claim.split, level, drawn)
    records.append(record)
  return records


def _record(task_id: str, split: str, level: int, drawn: _Drawn) -> dict:
  claim, thing, points = drawn
  return {
    "id": task_id,
    "split": split,
    "level": level,
    "structure": structure(level, *drawn),
    "claim": claim,
    "thing": thing,
    "points": list(points),
  }


def _draw_tasks(seed: int, level: int, split: str) -> Iterator[types.Task]:
  for task_id, drawn in _draw(seed, level, split):
    yield task(task_id, split, level, *drawn)


def _draw(seed: int, level: int, split: str) -> Iterator[tuple[str, _Drawn]]:
  """Yields ids and what makes the tasks of one level and split."""

  def draw(rng: random.Random, home: str) -> _Drawn:
    if level == 1:
      return _draw_worries(rng, home)
    return _draw_points(rng, level, rng.choice(_claims(home)))

  return sources.distinct("persuade", seed, level, split, draw, _is_fresh)


def _is_fresh(drawn: _Drawn) -> bool:
  """Returns whether a task of train's structures is kept from training."""
  return sources.is_kept(repr(drawn))


def _draw_worries(rng: random.Random, split: str) -> _Drawn:
  """Returns a task of level 1: a claim, and worries in the user's order."""
  thing = rng.choice(debate.things())
  sets = [
    tuple(sorted(s)) for s, home in _set_splits(thing).items() if home == split
  ]
  worries = list(rng.choice(sorted(sets)))
  rng.shuffle(worries)
  claim = rng.choice(debate.level_1_claims()[thing])
  return claim, thing, tuple(worries)


def _draw_points(rng: random.Random, level: int, claim: debate.Claim) -> _Drawn:
  """Returns a task of level 2 or 3; what is not asked about has no order."""
  size = rng.choice(NUM_POINTS)
  first, *rest = rng.sample(range(len(claim.points)), size)
  return claim.id, "", (first, *(rest if level == 2 else sorted(rest)))


@functools.cache
def _set_splits(thing: str) -> dict[frozenset[str], str]:
  """Returns the split of each set of worries that a thing is asked about."""
  adjectives = list(debate.worries())
  place = debate.things().index(thing)
  test = frozenset(
    adjectives[(place + offset) % len(adjectives)] for offset in _TEST_OFFSETS
  )
  rest = [adjective for adjective in adjectives if adjective not in test]
  sets = [frozenset(s) for s in itertools.combinations(rest, NUM_WORRIES)]
  splits = dict.fromkeys(sets, "train")
  for number in range(NUM_DEV_SETS):
    splits[sets[(place + 5 * number) % len(sets)]] = "dev"
  return splits | {test: "test"}


@functools.cache
def _claims(split: str) -> tuple[debate.Claim, ...]:
  return tuple(c for c in debate.claims().values() if c.split == split)


if __name__ == "__main__":
  for record in pack():
    print(json.dumps(record))
