"""The words of the Travel gym: cities, aspects, topics and wishes.

Everything in `lexicon.json` comes out typed, with the matchers that read the
agent's words: which aspects, topics, cities and days a text mentions.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import re
from typing import Any

from userrl_jax.gyms import rules

AMENITIES = "amenities"  # the field of topics that an option has or lacks

MONTHS = (
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
)


@dataclasses.dataclass(frozen=True)
class Predicate:
  """A condition on one field of an option, in words of JSON."""

  field: str
  op: str  # has, eq, le, ge or in
  value: Any


@dataclasses.dataclass(frozen=True)
class Wish:
  """Something that a user may want of an aspect."""

  aspect: str
  topic: str
  text: str  # plainly, privileged
  hints: tuple[str, ...]  # as the user says it, without the topic's name
  predicate: Predicate

  @property
  def plain_hint(self) -> str:
    """The hint of level 1, which names the topic."""
    return f"{self.text}."


@dataclasses.dataclass(frozen=True)
class Topic:
  """What one can ask about an aspect."""

  name: str  # also a field of the options, or one of their amenities
  phrases: tuple[str, ...]
  values: tuple[Any, ...]  # of the field; empty for an amenity
  wishes: tuple[Wish, ...]


@dataclasses.dataclass(frozen=True)
class Aspect:
  """A part of a trip: its letter opens the ids of its options."""

  name: str
  letter: str
  words: tuple[str, ...]
  topics: Mapping[str, Topic]


def _aspect(name: str, values: Mapping[str, Any]) -> Aspect:
  topics = {}
  for topic, entry in values["topics"].items():
    field = topic if "values" in entry else AMENITIES
    wishes = tuple(
      Wish(
        name,
        topic,
        wish["text"],
        tuple(wish["hints"]),
        Predicate(field, wish.get("op", "has"), wish.get("value", topic)),
      )
      for wish in entry["wishes"]
    )
    topics[topic] = Topic(
      topic, tuple(entry["phrases"]), tuple(entry.get("values", ())), wishes
    )
  return Aspect(name, values["letter"], tuple(values["words"]), topics)


_DATA = json.loads(
  pathlib.Path(__file__).with_name("lexicon.json").read_text("utf-8")
)
CITIES: tuple[str, ...] = tuple(_DATA["cities"])
ASPECTS = {name: _aspect(name, v) for name, v in _DATA["aspects"].items()}
BY_LETTER = {aspect.letter: aspect for aspect in ASPECTS.values()}
TOPICS = {
  f"{aspect.name}:{topic.name}": topic
  for aspect in ASPECTS.values()
  for topic in aspect.topics.values()
}
HINTS = {
  hint: wish
  for topic in TOPICS.values()
  for wish in topic.wishes
  for hint in (wish.plain_hint, *wish.hints)
}

_CITIES = rules.Lexicon(_DATA["cities"])
_ASPECTS = rules.Lexicon({a.name: a.words for a in ASPECTS.values()})
_TOPICS = rules.Lexicon({k: (t.name, *t.phrases) for k, t in TOPICS.items()})
_VAGUE = rules.Lexicon({"vague": _DATA["vague"]})

# Words that have the stem of a car without being one.
_CARE = re.compile(r"\bcar(?:e|es|ed|ing)\b", re.IGNORECASE)
_MONTH = "|".join(f"{m[:3]}(?:{m[3:]})?" for m in MONTHS)
_DATE = re.compile(
  r"\b(?:"
  r"[0-9]{4}-(?P<iso_month>[0-9]{2})-(?P<iso_day>[0-9]{2})"
  rf"|(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month>{_MONTH})"
  rf"|(?P<us_month>{_MONTH}) (?:the )?(?P<us_day>[0-9]{{1,2}})(?:st|nd|rd|th)?"
  r")\b",
  re.IGNORECASE,
)


def cities(text: str) -> tuple[str, ...]:
  """Returns the cities that a text names, in order, under any alias."""
  return _CITIES.concepts(_spaced(text))


def aspects(text: str) -> tuple[str, ...]:
  """Returns the aspects that a text names, in order."""
  return _ASPECTS.concepts(_spaced(text))


def topics(text: str) -> tuple[str, ...]:
  """Returns the topics that a text touches, in order, as `aspect:topic`."""
  return _TOPICS.concepts(_spaced(text))


def denied(text: str) -> tuple[str, ...]:
  """Returns the topics whose absence a text is about, such as `no view`.

  Topics of a field are asked about the same either way: `no stops`.
  """
  hits = _TOPICS.hits(rules.without_polite_not(_spaced(text)))
  return tuple(
    hit.concept
    for hit in hits
    if hit.negated and not TOPICS[hit.concept].values
  )


def is_vague(text: str) -> bool:
  """Returns whether a text speaks of wishes in general."""
  return bool(_VAGUE.concepts(text))


def dates(text: str) -> tuple[str, ...]:
  """Returns the days that a text names, in order, as `3 May`."""
  found = []
  for match in _DATE.finditer(text):
    part = match.groupdict()
    day = int(part["iso_day"] or part["day"] or part["us_day"])
    if part["iso_month"]:
      month = MONTHS[(int(part["iso_month"]) - 1) % 12]
    else:
      prefix = (part["month"] or part["us_month"])[:3].capitalize()
      month = next(m for m in MONTHS if m.startswith(prefix))
    found.append(f"{day} {month}")
  return tuple(dict.fromkeys(found))


def _spaced(text: str) -> str:
  """Returns a text for the matchers; names of JSON fall into words."""
  return _CARE.sub("", text.replace("_", " "))
