"""The two worlds of the Search gym: passages to find, and their facts.

`lexicon.json` and `corpus.jsonl` come in; passages by corpus go out. `world` is
eight made-up regions, written down passage by passage. `towns`, of level 1, has
a line a town on who lives there; it follows from lists of words, so that there
are thousands of questions in few words. A fact is a value under a passage and a
relation; a value that is itself a passage's name leads on to that passage.
"""

from collections.abc import Mapping
import dataclasses
import functools
import itertools
import json
import pathlib
import random
from typing import Any

WORLD, TOWNS, WEB = "world", "towns", "web"  # where an answer is to be found
CORPUS_PATH = pathlib.Path(__file__).with_name("corpus.jsonl")
LEXICON_PATH = pathlib.Path(__file__).with_name("lexicon.json")

_WITH_ARTICLE = ("river", "device", "ship")  # in a sentence: the kettle clock
_PREFIXES = ("River ", "Lake ", "Mount ")  # may be left out of a name
_TOWNS_SEED = "search|towns"


@dataclasses.dataclass(frozen=True)
class Passage:
  """One page of a corpus."""

  id: str
  kind: str  # of lexicon.json's kinds: what the page is about
  region: str  # the sub-graph: facts never lead out of it
  name: str
  facts: Mapping[str, str]  # by relation
  text: str

  @property
  def title(self) -> str:
    """The name as a heading."""
    return self.name[0].upper() + self.name[1:]

  @property
  def mention(self) -> str:
    """The name inside a sentence."""
    return f"the {self.name}" if self.kind in _WITH_ARTICLE else self.name


@functools.cache
def lexicon() -> dict[str, Any]:
  """Returns the words and templates of both worlds."""
  return json.loads(LEXICON_PATH.read_text(encoding="utf-8"))


@functools.cache
def passages(corpus: str) -> tuple[Passage, ...]:
  """Returns the pages of a corpus, WORLD or TOWNS, in a fixed order."""
  if corpus == TOWNS:
    return tuple(_towns())
  lines = CORPUS_PATH.read_text(encoding="utf-8").splitlines()
  return tuple(Passage(**json.loads(line)) for line in lines)


@functools.cache
def by_name(corpus: str) -> dict[str, Passage]:
  """Returns the pages of a corpus by the name of what they are about."""
  return {passage.name: passage for passage in passages(corpus)}


@functools.cache
def region_splits() -> dict[str, str]:
  """Returns the split that each region of WORLD belongs to."""
  return {region["name"]: region["split"] for region in lexicon()["regions"]}


def aliases(value: str) -> tuple[str, ...]:
  """Returns what else a value may be called: `Soller` for `River Soller`."""
  for prefix in _PREFIXES:
    if value.startswith(prefix):
      return (value.removeprefix(prefix),)
  return ()


def _towns() -> list[Passage]:
  """Returns the towns, each with one person of every profession."""
  words = lexicon()["towns"]
  found = []
  for first, second in itertools.product(words["first"], words["second"]):
    name = f"{first} {second}"
    # A generator of its own: another town's people do not depend on this one.
    rng = random.Random(f"{_TOWNS_SEED}|{name}")
    roles = rng.sample(words["roles"], len(words["roles"]))
    people = rng.sample(words["people"], len(roles))
    facts = dict(zip(roles, people, strict=True))
    text = " ".join(f"The {r} is {p}." for r, p in facts.items())
    found.append(Passage(name, "town", name, name, facts, text))
  return found
