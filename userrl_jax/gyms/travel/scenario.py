"""A trip to plan: aspects, wishes and options, and what follows from them.

The record of a task comes in; a typed `Scenario` goes out, in which the right
and the best options are computed from the wishes and never stored, so that the
two cannot part. Trips that UserRL released have wishes in words alone: there
the record marks what is right. Privileged, but for the opening and the options
once searched.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import enum
import functools
from typing import Any

from userrl_jax import types
from userrl_jax.gyms.travel import lexicon

ID_PATTERN = r"[ACFHR][0-9]{1,2}"  # of an option: its aspect's letter first


class Kind(enum.IntEnum):
  """How a user takes a message of the agent."""

  CHAT = 1  # nothing in particular
  WISH = 2  # a concrete question about a wish not yet told
  NO_WISH = 3  # a concrete question about anything else
  VAGUE = 4  # too general, or about too much at once


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a user's backend makes of a message."""

  kind: int  # one of Kind
  preference_id: str = ""  # of the wish asked for, with Kind.WISH only


@dataclasses.dataclass(frozen=True)
class Preference:
  """One wish of the user."""

  id: str  # P1, P2, ... over the whole trip
  aspect: str
  topic: str
  text: str  # plainly
  hint: str  # as the user says it
  predicate: lexicon.Predicate | None  # None: no rule can check it


@dataclasses.dataclass(frozen=True)
class Option:
  """One thing to choose."""

  id: str
  price: int
  amenities: tuple[str, ...]
  fields: Mapping[str, Any]
  shown: str = ""  # to the agent; "" is what `text` makes of the fields

  def satisfies(self, predicate: lexicon.Predicate) -> bool:
    """Returns whether a predicate holds; it does not where a field is absent.

    Raises:
      ValueError: when there is no such operator.
    """
    if predicate.field == lexicon.AMENITIES:
      found: Any = self.amenities
    elif predicate.field in self.fields:
      found = self.fields[predicate.field]
    else:
      return False
    return compare(found, predicate.op, predicate.value)

  @property
  def text(self) -> str:
    """The option as the agent reads it: id, what it has, price."""
    if self.shown:
      return self.shown
    fields = (f"{name} {value}" for name, value in self.fields.items())
    return " ".join((self.id, *self.amenities, *fields, str(self.price)))


@dataclasses.dataclass(frozen=True)
class Aspect:
  """One part of the trip: what to search for, and what is to be had."""

  name: str
  arguments: Mapping[str, str]  # slot -> value that a search must name
  preferences: tuple[Preference, ...]
  options: tuple[Option, ...]  # in the order in which they are listed
  by_topic: bool = False  # listed under each topic, the cheapest first
  marked: tuple[str, ...] = ()  # ids of right options where none are computed

  @functools.cached_property
  def correct(self) -> tuple[Option, ...]:
    """The options that satisfy all wishes, cheapest first."""
    if self.marked:
      of_id = {option.id: option for option in self.options}
      return tuple(of_id[name] for name in self.marked)
    fit = [o for o in self.options if not self.violated(o)]
    return tuple(sorted(fit, key=lambda option: option.price))

  @property
  def best(self) -> Option:
    """The cheapest option that satisfies all wishes."""
    return self.correct[0]

  @property
  def listing(self) -> str:
    """All options as the agent reads them, once it has searched."""
    if self.marked:
      return "\n".join(option.text for option in self.options)
    if not self.by_topic:
      return ", ".join(option.text for option in self.options)
    lines = []
    for topic in lexicon.ASPECTS[self.name].topics:
      ids = [o.id for o in self.options if topic in o.amenities]
      if ids:
        lines.append(" ".join((topic, *ids)))
    return ", ".join(lines)

  def violated(self, option: Option) -> tuple[str, ...]:
    """Returns the ids of the wishes that an option does not satisfy."""
    return tuple(
      p.id
      for p in self.preferences
      if p.predicate is not None and not option.satisfies(p.predicate)
    )


@dataclasses.dataclass(frozen=True)
class Scenario:
  """A whole trip."""

  opening: str  # the first message
  aspects: tuple[Aspect, ...]

  @functools.cached_property
  def preferences(self) -> tuple[Preference, ...]:
    """All wishes, in the order of their ids."""
    return tuple(p for aspect in self.aspects for p in aspect.preferences)

  @property
  def is_released(self) -> bool:
    """Whether it is one of UserRL's, which rules cannot play the user of."""
    return any(aspect.marked for aspect in self.aspects)


def compare(found: Any, op: str, value: Any) -> bool:
  """Returns whether a field's value stands in a relation to another.

  Raises:
    ValueError: when there is no such operator.
  """
  if op == "has":
    return value in found
  if op == "eq":
    return found == value
  if op == "le":
    return found <= value
  if op == "ge":
    return found >= value
  if op == "in":
    return found in value
  raise ValueError(f"op must be has, eq, le, ge or in, got {op!r}")


def parse(
  opening: str, aspects: Sequence[Mapping[str, Any]], by_topic: bool = False
) -> Scenario:
  """Returns the trip of a record, as `generate` and `released` make them."""
  number = 0
  result = []
  for aspect in aspects:
    preferences = []
    for record in aspect["preferences"]:
      number += 1
      preferences.append(
        Preference(
          f"P{number}",
          aspect["aspect"],
          record["topic"],
          record["text"],
          record["hint"],
          _predicate(record),
        )
      )
    result.append(
      Aspect(
        aspect["aspect"],
        dict(aspect["arguments"]),
        tuple(preferences),
        tuple(map(_option, aspect["options"])),
        by_topic,
        tuple(aspect.get("marked", ())),
      )
    )
  return Scenario(opening, tuple(result))


def of_task(task: types.Task) -> Scenario:
  """Returns the trip of a task; for gyms and tests, not for agents."""
  aspects = task.secret.reveal()["aspects"]
  return parse(task.public["opening"], aspects, by_topic=task.level == 1)


def task(record: Mapping[str, Any]) -> types.Task:
  """Makes the task of a record.

  Raises:
    ValueError: when the record breaks an invariant of the game.
  """
  check(parse(record["opening"], record["aspects"]), record["level"])
  return types.Task(
    gym="travel",
    id=record["id"],
    split=record["split"],
    level=record["level"],
    structure=record["structure"],
    public={"opening": record["opening"]},
    secret=types.Secret({"aspects": record["aspects"]}),
  )


def check(trip: Scenario, level: int) -> None:
  """Checks that a trip has one best choice and that every wish matters.

  Raises:
    ValueError: when it has not.
  """
  names = [aspect.name for aspect in trip.aspects]
  _expect(0 < len(names) == len(set(names)), "aspects that differ", names)
  for aspect in trip.aspects:
    _expect(aspect.name in lexicon.ASPECTS, "a known aspect", aspect.name)
    letter = lexicon.ASPECTS[aspect.name].letter
    ids = [option.id for option in aspect.options]
    _expect(
      len(ids) == len(set(ids)) and all(i.startswith(letter) for i in ids),
      f"ids that differ and begin with {letter}",
      ids,
    )
    prices = [option.price for option in aspect.options]
    _expect(len(prices) == len(set(prices)), "prices that differ", prices)
    if level == 1:
      _expect(prices == sorted(prices), "ascending prices", prices)
    _expect(len(aspect.correct) >= 2, "two right options", aspect.name)
    wrong = [(o, v) for o in aspect.options if (v := aspect.violated(o))]
    _expect(
      all(len(v) <= 2 for _, v in wrong),
      "one or two wishes violated by a wrong option",
      aspect.name,
    )
    for preference in aspect.preferences:
      tempting = [
        option
        for option, violated in wrong
        if violated == (preference.id,)
        and (level == 1 or option.price < aspect.best.price)
      ]
      _expect(bool(tempting), f"{preference.id} to matter", aspect.name)


def _predicate(record: Mapping[str, Any]) -> lexicon.Predicate | None:
  if record.get("is_free"):
    return None
  found = record["predicate"]
  return lexicon.Predicate(found["field"], found["op"], found["value"])


def _option(record: Mapping[str, Any]) -> Option:
  if "shown" in record:
    return Option(record["id"], 0, (), {}, record["shown"])
  fields = dict(record)
  return Option(
    fields.pop("id"),
    fields.pop("price"),
    tuple(fields.pop(lexicon.AMENITIES)),
    fields,
  )


def _expect(holds: bool, what: str, got: Any) -> None:
  if not holds:
    raise ValueError(f"a trip needs {what}; got {got!r}")
