"""Tasks of the Search gym from a seed: a question, and where its answer is.

Level 1 asks for one of twelve people of one of 609 towns (`world.TOWNS`), whom
one search shows in so many words. Levels 2 and 3 are the questions of
`questions.sound` about the eight regions of `world.WORLD`; so is all of the
pack, whose level 1 asks for one fact of a region. Splits are made by sub-graph:
a town, or a region with all that is in it; no fact leads from one to another.

  python -m userrl_jax.gyms.search.generate > tasks.jsonl   # makes the pack
"""

import collections
from collections.abc import Iterator, Sequence
import functools
import itertools
import json
import random
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.search import questions
from userrl_jax.gyms.search import world

SPLITS, LEVELS = sources.SPLITS, sources.LEVELS

PACK_SEED = 0
PACK_COUNTS = {  # 53 in all
  1: {"train": 10, "dev": 2, "test": 3},
  2: {"train": 15, "dev": 3, "test": 5},
  3: {"train": 9, "dev": 3, "test": 3},
}

# Of ten buckets of the hash of a town's name: seven train, one dev, two test.
_BUCKETS = ("train",) * 7 + ("dev",) + ("test",) * 2


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
  structure: str,
  question: str,
  answer: str,
  queries: Sequence[str],
  corpus: str,
) -> types.Task:
  """Makes the task of a question.

  Args:
    task_id: unique within the gym.
    split: of SPLITS.
    level: 1, 2 or 3.
    structure: the sub-graph of the corpus that it stays in.
    question: as the agent reads it.
    answer: the true one.
    queries: searches that show it, for a demonstrator.
    corpus: of `world`, or world.WEB.
  """
  return types.Task(
    gym="search",
    id=task_id,
    split=split,
    level=level,
    structure=structure,
    public={"question": question},
    secret=types.Secret(
      {
        "corpus": corpus,
        "answer": answer,
        "aliases": world.aliases(answer) if corpus != world.WEB else (),
        "queries": tuple(queries),
      }
    ),
  )


def town_split(town: str) -> str:
  """Returns the split that a town belongs to."""
  return _BUCKETS[_hash(town) % len(_BUCKETS)]


def pack() -> list[dict[str, Any]]:
  """Returns the records of the committed pack, one a line of tasks.jsonl.

  Within a level and split regions take turns and no two questions are of one
  shape.
  """
  records: list[dict[str, Any]] = []
  splits = world.region_splits()
  for level, counts in PACK_COUNTS.items():
    for split, count in counts.items():
      rng = random.Random(f"search|pack|{PACK_SEED}|{level}|{split}")
      waiting = [
        question
        for question in questions.sound()
        if question.level == level and splits[question.region] == split
      ]
      rng.shuffle(waiting)
      uses: collections.Counter[str] = collections.Counter()
      for number in range(1, count + 1):
        chosen = min(
          waiting,
          key=lambda q: (uses[_family(q)], uses[q.shape], uses[q.region]),
        )
        uses.update({chosen.region, chosen.shape, _family(chosen)})
        waiting.remove(chosen)
        records.append(
          {
            "id": f"pack-L{level}-{split}-{number}",
            "split": split,
            "level": level,
            "structure": chosen.region,
            "question": chosen.text,
            "answer": chosen.answer,
            "queries": list(chosen.queries),
            "chain": list(chosen.chain),
          }
        )
  return records


def _family(question: questions.Question) -> str:
  """Returns how a question begins: at level 3 it compares, counts or leads on.

  Below, it is the first relation, which many questions share.
  """
  first = question.shape.split()[0]
  is_row = question.level == 3 and "." in first
  return f"begins with {'a row' if is_row else first}"


def _draw_tasks(seed: int, level: int, split: str) -> Iterator[types.Task]:
  """Yields the tasks of one level and split, in the order of the seed."""
  home = "train" if split == "fresh" else split
  found = list(_town_tasks(home) if level == 1 else _world_tasks(level, home))
  if home == "train":
    is_fresh = split == "fresh"
    found = [
      drawn
      for drawn in found
      if (_hash(drawn[1]) % sources.FRESH_ONE_IN == 0) == is_fresh
    ]
  random.Random(f"search|{seed}|{level}|{split}").shuffle(found)
  corpus = world.TOWNS if level == 1 else world.WORLD
  for number, (structure, question, answer, queries) in enumerate(found):
    task_id = f"gen{seed}-L{level}-{split}-{number}"
    yield task(
      task_id, split, level, structure, question, answer, queries, corpus
    )
  raise ValueError(
    f"level {level} has no more than {len(found)} {split} tasks; ask for fewer "
    "or add levels"
  )


# Structure, question, answer and queries.
_Drawn = tuple[str, str, str, tuple[str, ...]]


def _town_tasks(split: str) -> Iterator[_Drawn]:
  roles = world.lexicon()["towns"]["roles"]
  for town, role in itertools.product(world.passages(world.TOWNS), roles):
    if town_split(town.name) == split:
      question = questions.town_question(role, town.name)
      queries = (questions.town_query(role, town.name),)
      yield town.name, question, town.facts[role], queries


def _world_tasks(level: int, split: str) -> Iterator[_Drawn]:
  for found in questions.sound():
    if found.level == level and world.region_splits()[found.region] == split:
      yield found.region, found.text, found.answer, found.queries


def _hash(text: str) -> int:
  return sources.digest(f"search|{text}")


if __name__ == "__main__":
  for record in pack():
    print(json.dumps(record))
