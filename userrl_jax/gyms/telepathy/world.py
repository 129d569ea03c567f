"""The world of the Telepathy gym: 48 things, and what is true of them.

`lexicon.json` comes in; entities with a table of attributes, and the words that
name both, go out. Eight categories of six entities; the first three of each are
core: short common names, alike in the attributes that level 1 asks about.
"""

from collections.abc import Iterable
import dataclasses
import enum
import functools
import json
import pathlib
import re

from userrl_jax.gyms import rules

PATH = pathlib.Path(__file__).with_name("lexicon.json")
NUM_CORE = 3  # of each category
NUM_LEVEL_1 = 8  # attributes, the first ones, that level 1 asks about

_FRAME = re.compile(
  r"(?:(?:i (?:guess|think|say)|my (?:guess|answer) is|the answer is)"
  r"(?: that)? )?(?:it is |it's |its |is it )?(?:an? |the |some )?"
)
_NAME = re.compile(r"[a-z' -]+")


class Verdict(enum.StrEnum):
  """What the user can say to a question; the table holds the first three."""

  YES = "Yes"
  NO = "No"
  MAYBE = "Maybe"
  SEVERAL = "Several"  # the question asks about more than one thing


@dataclasses.dataclass(frozen=True)
class Attribute:
  """Something that is or is not so of an entity."""

  key: str
  question: str  # the one fixed way in which demonstrations ask about it
  phrases: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Entity:
  """A thing to guess."""

  name: str
  category: str
  aliases: tuple[str, ...]
  gloss: str  # one line that says who it is
  is_core: bool
  values: dict[str, Verdict]  # by attribute


def _read() -> dict:
  return json.loads(PATH.read_text(encoding="utf-8"))


@functools.cache
def attributes() -> dict[str, Attribute]:
  """Returns the attributes by key, in the order in which to ask."""
  return {
    key: Attribute(key, item["question"], tuple(item["phrases"]))
    for key, item in _read()["attributes"].items()
  }


@functools.cache
def openings() -> dict[str, str]:
  """Returns the sentence that tells a category, by category."""
  return {k: item["opening"] for k, item in _read()["categories"].items()}


@functools.cache
def entities() -> dict[str, Entity]:
  """Returns the entities by name, category by category, core ones first."""
  found: dict[str, Entity] = {}
  for item in _read()["entities"]:
    values = dict.fromkeys(attributes(), Verdict.NO)
    values |= dict.fromkeys(item["yes"], Verdict.YES)
    values |= dict.fromkeys(item["maybe"], Verdict.MAYBE)
    category = item["category"]
    place = sum(e.category == category for e in found.values())
    found[item["name"]] = Entity(
      item["name"],
      category,
      tuple(item["aliases"]),
      item["gloss"],
      place < NUM_CORE,
      values,
    )
  return found


@functools.cache
def members(category: str) -> tuple[Entity, ...]:
  """Returns the entities of a category, core ones first."""
  return tuple(e for e in entities().values() if e.category == category)


@functools.cache
def level_1() -> tuple[Attribute, ...]:
  """Returns the attributes of level 1, each yes or no of a core entity."""
  return tuple(attributes().values())[:NUM_LEVEL_1]


@functools.cache
def lexicon() -> rules.Lexicon:
  """Returns the words of questions; concepts are (kind, key) joined by `:`."""
  phrases: dict[str, list[str]] = {
    f"attribute:{a.key}": [*a.phrases, a.question]
    for a in attributes().values()
  }
  for category, item in _read()["categories"].items():
    phrases[f"category:{category}"] = item["words"]
  for entity in entities().values():
    phrases[f"name:{entity.name}"] = [entity.name, *entity.aliases]
  return rules.Lexicon(phrases)


def named(guess: str) -> str | None:
  """Returns the name of the one entity that a guess is, None for no such.

  A frame such as `I guess it is a`, a plural, quotes and a final mark may come
  with it; whatever else the guess holds makes it no name.
  """
  text = guess.replace("\u2019", "'").strip(" .!?\"'")
  if not text.isascii():
    return None
  text = re.sub(r" +", " ", text.lower())
  frame = _FRAME.match(text)
  return _forms().get(text[frame.end() :] if frame else text)


def mentioned(text: str) -> tuple[str, ...]:
  """Returns the names of the entities that a text names, in order."""
  concepts = (c.partition(":") for c in lexicon().concepts(text))
  return tuple(key for kind, _, key in concepts if kind == "name")


def best_question(
  candidates: Iterable[Entity], asked: Iterable[Attribute]
) -> Attribute | None:
  """Returns the attribute that splits candidates most evenly, the first such.

  Even means that the most frequent of the three verdicts is as rare as can be.
  None when no attribute tells two of the candidates apart.
  """
  candidates = list(candidates)
  best, best_size = None, len(candidates)
  for attribute in asked:
    values = [entity.values[attribute.key] for entity in candidates]
    size = max(map(values.count, values), default=0)
    if size < best_size:
      best, best_size = attribute, size
  return best


@functools.cache
def _forms() -> dict[str, str]:
  """Returns the entity's name of every name, alias and plural."""
  forms: dict[str, str] = {}
  for entity in entities().values():
    for text in (entity.name, *entity.aliases):
      for form in (text, f"{text}s", f"{text}es"):
        assert _NAME.fullmatch(form) and form not in forms, form
        forms[form] = entity.name
  return forms
