"""What the Persuade gym debates: claims, and what would change a mind.

`lexicon.json` comes in; claims with their points, and the words that the gym
knows, go out. A point is something to be said against a claim: the worry that
it answers, the words that count as saying it, and how much it weighs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import enum
import functools
import json
import pathlib
from typing import Any

from userrl_jax import types

PATH = pathlib.Path(__file__).with_name("lexicon.json")


class Stance(enum.IntEnum):
  """Where the user stands: the game begins at the first, aims at the last."""

  STRONGLY_AGREE = 0
  AGREE = 1
  PARTLY_AGREE = 2
  NEUTRAL = 3
  PARTLY_DISAGREE = 4
  DISAGREE = 5
  STRONGLY_DISAGREE = 6

  @property
  def label(self) -> str:
    """The stance in words, as models are told it."""
    return self.name.replace("_", " ").title()


FIRST, LAST = Stance.STRONGLY_AGREE, Stance.STRONGLY_DISAGREE
_STANCES = {stance.label.casefold(): stance for stance in Stance}


@dataclasses.dataclass(frozen=True)
class Point:
  """Something that may move the user."""

  worry: str  # the question that it answers
  strength: int  # how many stances it moves when supported, 1 or 2
  about: tuple[str, ...]  # phrases, one of which tells what it is about
  groups: tuple[tuple[str, ...], ...]  # of each, one phrase must be said
  thanks: str  # what the user says to it
  say: str  # one way to put it


@dataclasses.dataclass(frozen=True)
class Case:
  """One debate, privileged but for the claim."""

  claim: str
  argument: str  # the user's own for the claim; empty at level 1
  level: int
  points: tuple[Point, ...]  # that this user is open to, in order of worry

  def asked(self, used: Sequence[int]) -> int:
    """Returns the point that the user asks about, -1 when they ask nothing.

    One after the other; at level 3 only about the first.

    Args:
      used: points that have moved the user.
    """
    places = range(len(self.points) if self.level < 3 else 1)
    return next((i for i in places if i not in used and self.points), -1)

  def worry(self, used: Sequence[int]) -> str:
    """Returns the question about that point, or an empty text."""
    asked = self.asked(used)
    return self.points[asked].worry if asked >= 0 else ""


@dataclasses.dataclass(frozen=True)
class Exchange:
  """One turn of a debate, with an argument that rules saw no flaw in."""

  worry: str  # that the argument was to answer; empty for none
  argument: str
  reply: str
  gain: int  # stances moved; negative when it did harm


@dataclasses.dataclass(frozen=True)
class Talk:
  """How far a debate has come."""

  stance: Stance
  used: tuple[int, ...]  # points that have moved the user
  exchanges: tuple[Exchange, ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a user makes of an argument."""

  stance: int  # of Stance
  reply: str
  points: tuple[int, ...] = ()  # that moved the user, none of them used before
  worry: str = ""  # that the user asks about next; follows the reply


@dataclasses.dataclass(frozen=True)
class Worry:
  """Something that level 1 asks about any thing."""

  adjective: str
  reason: str
  phrases: tuple[str, ...]
  reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim of levels 2 and 3 with all of its points."""

  id: str
  split: str
  text: str
  argument: str
  points: tuple[Point, ...]


def stance_of(label: str) -> Stance:
  """Returns the stance of a label, in whatever case.

  Raises:
    ValueError: when there is no such label.
  """
  key = " ".join(label.replace("_", " ").split()).strip(".").casefold()
  if key not in _STANCES:
    labels = [stance.label for stance in Stance]
    raise ValueError(f"a stance must be one of {labels}")
  return _STANCES[key]


def of_task(task: types.Task) -> Case:
  """Returns the debate of a task."""
  secret = task.secret.reveal()
  return Case(
    task.public["claim"], secret["argument"], task.level, secret["points"]
  )


@functools.cache
def words(name: str) -> Any:
  """Returns an entry of the lexicon."""
  return _read()[name]


@functools.cache
def claims() -> Mapping[str, Claim]:
  """Returns the claims of levels 2 and 3 by id."""
  return {
    item["id"]: Claim(
      item["id"],
      item["split"],
      item["claim"],
      item["argument"],
      tuple(_point(**point) for point in item["points"]),
    )
    for item in words("claims")
  }


@functools.cache
def things() -> tuple[str, ...]:
  """Returns what level 1 is about."""
  return tuple(words("level_1")["things"])


@functools.cache
def worries() -> Mapping[str, Worry]:
  """Returns what level 1 worries about, by adjective."""
  return {
    adjective: Worry(
      adjective,
      item["reason"],
      tuple(item["phrases"]),
      tuple(item["reasons"]),
    )
    for adjective, item in words("level_1")["worries"].items()
  }


@functools.cache
def level_1_claims() -> Mapping[str, tuple[str, ...]]:
  """Returns the claims of level 1 by the thing that they are about."""
  forms = words("level_1")
  return {
    thing: tuple(
      opening.format(things=thing, place=place)
      for opening in forms["openings"]
      for place in forms["places"]
    )
    for thing in things()
  }


def level_1_point(thing: str, adjective: str) -> Point:
  """Returns the point of level 1 about a thing and a worry."""
  worry = worries()[adjective]
  return Point(
    worry=f"Are {thing} {adjective}?",
    strength=1,
    about=(),
    groups=(
      (thing,),
      worry.phrases,
      worry.reasons,
      tuple(words("support")),
    ),
    thanks="",
    say=level_1_argument(thing, adjective),
  )


def level_1_argument(thing: str, adjective: str) -> str:
  """Returns the words in which demonstrations argue at level 1."""
  return f"{thing} are {adjective} because of {worries()[adjective].reason}"


def _point(aspect: str, strength: int, words: list[str], say: str) -> Point:
  about = _read()["aspects"][aspect]
  return Point(
    worry=f"But what about {about['noun']}?",
    strength=strength,
    about=tuple(about["phrases"]),
    groups=(tuple(words),),
    thanks=f"Good point about {about['noun']}.",
    say=say,
  )


@functools.cache
def _read() -> dict[str, Any]:
  return json.loads(PATH.read_text(encoding="utf-8"))
