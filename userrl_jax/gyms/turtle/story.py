"""What a story of the Turtle gym is, and how a record becomes one.

A record comes in, as a line of the pack or as the generator makes it; a frozen
story with compiled patterns goes out. A pattern is written as words: `wife
dead|gone` needs both groups, `|` parts alternatives, `_` joins a phrase, and a
word that `lexicon.json` knows stands for all its phrases. A leading `~` makes
words of negation not count, where the truth is that something is not so.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import enum
import functools
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import rules
from userrl_jax.gyms.turtle import world

TOTAL = 20  # what the weights of a story's criteria add up to
FULL = 2  # points of a criterion that is told in full; 1 is half


class Verdict(enum.StrEnum):
  """What the user can say to a question."""

  YES = "Yes"
  NO = "No"
  MAYBE = "Maybe"  # it depends, does not matter, or is not understood
  SEVERAL = "Several"  # asks about more than one thing
  UNCLEAR = "Unclear"  # no question that yes or no can answer


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Something that can be said in several words."""

  groups: tuple[tuple[str, ...], ...]  # of each, one phrase must be there
  is_polar: bool = True  # whether a word of negation turns it round

  @functools.cached_property
  def _firsts(self) -> tuple[frozenset[str], ...]:
    """Stems of which each group needs one: told apart before any matching."""
    return tuple(frozenset(map(_first, group)) for group in self.groups)

  def found(self, text: str, window: int) -> frozenset[bool]:
    """Returns how a text holds the pattern: see `rules.polarities`."""
    stems = _stems(text)
    for first in self._firsts:
      if stems.isdisjoint(first):
        return frozenset()
    groups = [[p for p in g if _first(p) in stems] for g in self.groups]
    found = rules.polarities(text, groups, window)
    return found if self.is_polar or not found else frozenset({True})


@dataclasses.dataclass(frozen=True)
class Fact:
  """Something that questions can be about, and what is so and what is not."""

  true: tuple[Pattern, ...]
  false: tuple[Pattern, ...]


@dataclasses.dataclass(frozen=True)
class Criterion:
  """A point that a retelling must make."""

  statement: str
  weight: int  # in twentieths
  full: Pattern | None = None  # None: only a model can tell
  half: Pattern | None = None


@dataclasses.dataclass(frozen=True)
class Story:
  """A strange scene and what is behind it."""

  title: str
  surface: str
  bottom: str
  criteria: tuple[Criterion, ...]
  facts: tuple[Fact, ...] = ()  # none: rules cannot play it
  decoys: tuple[Pattern, ...] = ()  # other explanations; none goes with another
  exclusive: tuple[tuple[Pattern, ...], ...] = ()  # of each, one can hold
  questions: tuple[str, ...] = ()  # how the demonstrator finds out
  retelling: str = ""  # and what it tells then; empty: it reads observations


def of_task(task: types.Task) -> Story:
  """Returns the story of a task, privileged."""
  return task.secret.reveal()["story"]


@functools.cache
def pattern(text: str) -> Pattern:
  """Compiles a pattern.

  Raises:
    ValueError: when it has an empty group.
  """
  groups = tuple(
    tuple(
      phrase
      for term in group.split("|")
      for phrase in world.words().get(term, (term.replace("_", " "),))
    )
    for group in text.removeprefix("~").split()
  )
  if not groups or not all(
    rules.tokens(phrase) for group in groups for phrase in group
  ):
    raise ValueError(f"a pattern must be words and '|', got {text!r}")
  return Pattern(groups, not text.startswith("~"))


def compiled(record: Mapping[str, Any]) -> Story:
  """Returns the story of a record, with the gym's usual decoys added.

  What other stories turn on is a decoy of this one, unless its own texts speak
  of it: so a list of all twists tells none.

  Args:
    record: `title`, `surface`, `bottom`, `criteria` (each `weight20`,
      `statement`, `full` and maybe `half`), `facts` (each lists `true` and
      `false`), and maybe `decoys`, `exclusive`, `questions` and `retelling`.

  Raises:
    KeyError: when a field is missing.
    ValueError: when a field is not what it must be.
  """
  criteria = tuple(
    Criterion(
      item["statement"],
      item["weight20"],
      pattern(item["full"]),
      pattern(item["half"]) if item.get("half") else None,
    )
    for item in record["criteria"]
  )
  check_weights([criterion.weight for criterion in criteria])
  usual = world.decoys()
  told = " ".join(
    (record["bottom"], record.get("retelling", ""), record["surface"])
  )
  foreign = [
    twist
    for twist in world.twists()
    if not pattern(twist).found(told, len(told))
  ]
  ruled_out = [Fact((), (pattern(decoy),)) for decoy in usual]
  return Story(
    record["title"],
    record["surface"],
    record["bottom"],
    criteria,
    (
      *(
        Fact(_patterns(fact["true"]), _patterns(fact["false"]))
        for fact in record["facts"]
      ),
      *ruled_out,
    ),
    _patterns((*usual, *foreign, *record.get("decoys", ()))),
    tuple(map(_patterns, record.get("exclusive", ()))),
    tuple(record.get("questions", ())),
    record.get("retelling", ""),
  )


def check_weights(weights: Sequence[Any]) -> None:
  """Checks the weights of a story's criteria, in twentieths.

  Raises:
    ValueError: when one is no whole number above 0, or they do not add up.
  """
  if any(type(w) is not int or w < 1 for w in weights) or sum(weights) != TOTAL:
    raise ValueError(
      "the weights of the criteria must be whole twentieths above 0 that add "
      f"up to {TOTAL}, got {list(weights)}"
    )


def _patterns(texts: Sequence[str]) -> tuple[Pattern, ...]:
  return tuple(map(pattern, texts))


@functools.lru_cache(8192)
def _stems(text: str) -> frozenset[str]:
  return frozenset(rules.tokens(text))


@functools.cache
def _first(phrase: str) -> str:
  return rules.tokens(phrase)[0]
