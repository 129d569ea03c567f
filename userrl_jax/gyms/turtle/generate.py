"""Tasks of the Turtle gym from a seed: somebody keeps a thing for somebody.

For whom, why that one does not come and, above level 1, where it happened is
hidden. Level 1 lists three options each, level 2 four, level 3 none. Splits are
made by structure, the pair of who and why; test and dev hold pairs that train
has not, of people and reasons that it all has.
"""

from collections.abc import Iterator
import functools
import hashlib
import random
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.turtle import story
from userrl_jax.gyms.turtle import world

SPLITS, LEVELS = sources.SPLITS, sources.LEVELS
SLOTS = {
  1: ("who", "why"),
  2: ("who", "why", "where"),
  3: ("who", "why", "where"),
}
NUM_LISTED = {1: 3, 2: 4, 3: 0}  # options of a slot; the truth is among them

_WEIGHTS = {1: (8, 12), 2: (6, 8, 6), 3: (6, 8, 6)}

Drawn = tuple[str, str, dict[str, str], dict[str, tuple[str, ...]]]


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
  thing: str,
  truth: dict[str, str],
  listed: dict[str, tuple[str, ...]],
) -> types.Task:
  """Makes a task.

  Args:
    task_id: unique within the gym.
    split: of gyms.SPLITS.
    level: 1, 2 or 3.
    name: who keeps the thing.
    thing: what is kept.
    truth: the option of each slot of the level.
    listed: options of each slot that the first message shows, or none.
  """
  tale = _tale(level, name, thing, truth, listed)
  return types.Task(
    gym="turtle",
    id=task_id,
    split=split,
    level=level,
    structure=structure(truth["who"], truth["why"]),
    public={"title": tale.title, "surface": tale.surface},
    secret=types.Secret({"story": tale}),
  )


def structure(*parts: str) -> str:
  """Returns the key that splits are made by; it does not tell its parts."""
  digest = hashlib.blake2b("|".join(("turtle", *parts)).encode(), digest_size=6)
  return digest.hexdigest()


def split_of(who: str, why: str) -> str:
  """Returns the split of a pair: diagonals, so that each option is in train."""
  row, column = world.options("who").index(who), world.options("why").index(why)
  place = (column - row) % len(world.options("why"))
  if place == 0:
    return "test"
  return "dev" if place == 3 and row % 2 == 0 else "train"


def question(slot: str, option: str, who: str) -> str:
  """Returns the question whether an option is the truth."""
  if slot == "who":
    return f"Is it the {option}?"
  return (
    f"Is the {who} {option}?" if slot == "why" else f"Was it at the {option}?"
  )


def retelling(truth: dict[str, str]) -> str:
  """Returns the retelling of a story that has these options."""
  text = f"The {truth['who']} is {truth['why']}."
  return f"{text} It was at the {truth['where']}." if "where" in truth else text


def _draw_tasks(seed: int, level: int, split: str) -> Iterator[types.Task]:
  for task_id, drawn in sources.distinct(
    "turtle",
    seed,
    level,
    split,
    lambda rng, home: _draw_one(rng, level, home),
    lambda drawn: _is_fresh(*drawn),
  ):
    yield task(task_id, split, level, *drawn)


def _draw_one(rng: random.Random, level: int, split: str) -> Drawn:
  who, why = rng.choice(_pairs(split))
  truth = {"who": who, "why": why}
  if "where" in SLOTS[level]:
    truth["where"] = rng.choice(world.options("where"))
  listed = {}
  for slot, option in truth.items():
    others = [o for o in world.options(slot) if o != option]
    shown: list[str] = []
    if NUM_LISTED[level]:
      shown = [option, *rng.sample(others, NUM_LISTED[level] - 1)]
      rng.shuffle(shown)
    listed[slot] = tuple(shown)
  return rng.choice(world.names()), rng.choice(world.things()), truth, listed


@functools.cache
def _pairs(split: str) -> tuple[tuple[str, str], ...]:
  return tuple(
    (who, why)
    for who in world.options("who")
    for why in world.options("why")
    if split_of(who, why) == split
  )


def _is_fresh(
  name: str,
  thing: str,
  truth: dict[str, str],
  listed: dict[str, tuple[str, ...]],
) -> bool:
  """Returns whether a game is kept from training, in whatever order it lists.

  Without lists, it is the scene that tells games apart.
  """
  shown = sorted(option for found in listed.values() for option in found)
  key = (sorted(truth.items()), shown or (name, thing))
  return sources.is_kept(repr(key))


def _tale(
  level: int,
  name: str,
  thing: str,
  truth: dict[str, str],
  listed: dict[str, tuple[str, ...]],
) -> story.Story:
  who, why, where = truth["who"], truth["why"], truth.get("where", "")
  surface = f"{name} keeps a {thing} that nobody uses."
  for slot, shown in listed.items():
    if shown:
      surface += f" {slot.capitalize()}? {' '.join(shown)}."
  bottom = f"{name} keeps the {thing} for the {who}, who is {why}"
  bottom += f" since a day at the {where}." if where else "."
  statements = (
    f"{name} keeps the {thing} for the {who}.",
    f"{name}'s {who} is {why}.",
    f"What changed {name}'s life was at the {where}.",
  )
  fulls = (who, f"{who} {why}", f"{who} {where}")
  record: dict[str, Any] = {
    "title": "",
    "surface": surface,
    "bottom": bottom,
    "criteria": [
      {"weight20": weight, "statement": statement, "full": full}
      for weight, statement, full in zip(_WEIGHTS[level], statements, fulls)
    ],
    "facts": _facts(truth),
    "exclusive": [list(world.options(slot)) for slot in truth],
  }
  return story.compiled(record)


def _facts(truth: dict[str, str]) -> list[dict[str, list[str]]]:
  """Returns what is so: each slot by itself, and each two of them together."""
  facts = []
  slots = tuple(truth)
  others = {
    slot: "|".join(o for o in world.options(slot) if o != option)
    for slot, option in truth.items()
  }
  for place, slot in enumerate(slots):
    facts.append({"true": [truth[slot]], "false": [others[slot]]})
    for second in slots[place + 1 :]:
      every = "|".join(world.options(second))
      facts.append(
        {
          "true": [f"{truth[slot]} {truth[second]}"],
          "false": [
            f"{others[slot]} {every}",
            f"{truth[slot]} {others[second]}",
          ],
        }
      )
  return facts
