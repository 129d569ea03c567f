"""The words of the Intention gym: what a user may leave open, and its names.

`lexicon.json` comes in; slots, categories and what a question asks for go out.
A slot is one thing that a request can leave open, such as its place. All slots
are looked for in every question, also those that a task has no use for: that is
how a list of words is seen as such.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from userrl_jax.gyms import rules

PATH = pathlib.Path(__file__).with_name("lexicon.json")


@dataclasses.dataclass(frozen=True)
class Slot:
  """One thing that a request can leave open."""

  name: str
  about: str  # what it is, as told to a model that judges
  question: str  # the one fixed way in which demonstrations ask for it
  weight: int  # importance at level 1, 1 to 3
  words: tuple[str, ...]  # values at level 1; empty where it does not occur
  told: tuple[str, str]  # how requests of levels 2 and 3 tell a value
  values: tuple[str, ...]  # at levels 2 and 3, unless the category has its own
  phrases: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Category:
  """A kind of request, and what there is to know about one."""

  name: str
  slots: dict[str, int]  # importance of each, the order in which to ask
  requests: tuple[str, ...]
  words: tuple[str, ...]
  own_values: dict[str, list[str]]

  def values(self, slot: str) -> tuple[str, ...]:
    """Returns what a slot can be in this category."""
    return tuple(self.own_values.get(slot, SLOTS[slot].values))


def _read() -> dict[str, Any]:
  return json.loads(PATH.read_text(encoding="utf-8"))


SLOTS: dict[str, Slot] = {
  name: Slot(
    name,
    item["about"],
    item["question"],
    item["weight"],
    tuple(item["words"]),
    tuple(item["told"]),
    tuple(item["values"]),
    tuple(item["phrases"]),
  )
  for name, item in _read()["slots"].items()
}
LEVEL_1_SLOTS = tuple(slot.name for slot in SLOTS.values() if slot.words)
LEVEL_1_NOUNS = tuple(_read()["level_1"])
CATEGORIES: dict[str, Category] = {
  name: Category(
    name,
    item["slots"],
    tuple(item["requests"]),
    tuple(item["words"]),
    item.get("values", {}),
  )
  for name, item in _read()["categories"].items()
}

_SLOTS = rules.Lexicon({s.name: s.phrases for s in SLOTS.values()})
_GENERAL = rules.Lexicon(
  {
    "general": [
      *_read()["vague"],
      *LEVEL_1_NOUNS,
      *(word for c in CATEGORIES.values() for word in c.words),
    ]
  }
)


@functools.lru_cache(8192)
def asked(text: str) -> dict[str, bool]:
  """Returns the slots that a text names, in order, and whether each is denied.

  A slot that is denied anywhere counts as denied: nobody could tell what is
  meant. The `not` of `Don't you ...?` is mere politeness.
  """
  found: dict[str, bool] = {}
  for hit in _SLOTS.hits(rules.without_polite_not(text)):
    found[hit.concept] = found.get(hit.concept, False) or hit.negated
  return found


def is_general(text: str) -> bool:
  """Returns whether a text is about the request, or details as such."""
  return bool(_GENERAL.hits(text))
