"""How an argument is put, whatever it says: what rules know better than models.

An argument and what was said before come in; a flaw goes out, or none. Whoever
plays the user, a flawed argument gets a set reply and wins nothing: too few
words, a list of words, a repetition, an echo of the user, an insult, giving in,
or text that wants to be read as an instruction or a verdict.
"""

from collections.abc import Iterable
import enum
import functools
import re

from userrl_jax.gyms import rules
from userrl_jax.gyms.persuade import debate

MAX_WORDS = 90
MIN_WORDS = {1: 4, 2: 8, 3: 8}  # by level
SIMILAR = 0.6  # share of words in common that makes a repetition
ECHO = 0.8  # share of an argument's words that the user said themselves
MIN_FUNCTION_SHARE = 0.2  # of all words; a dump of keywords has fewer

_MARKUP = re.compile(r"[{}<>\[\]=$]|://")


class Flaw(enum.StrEnum):
  """What is wrong with how an argument is put."""

  SHORT = "short"
  LIST = "list"
  REPEATED = "repeated"
  ECHO = "echo"
  SMUGGLED = "smuggled"
  RUDE = "rude"
  CONCEDED = "conceded"

  @property
  def gain(self) -> int:
    """How many stances it moves the user."""
    return -1 if self in (Flaw.RUDE, Flaw.CONCEDED) else 0


REPLIES = {
  Flaw.SHORT: "Say more.",
  Flaw.LIST: "One thing at a time.",
  Flaw.REPEATED: "You said that.",
  Flaw.ECHO: "I said that myself.",
  Flaw.SMUGGLED: "Give me an argument.",
  Flaw.RUDE: "Be polite.",
  Flaw.CONCEDED: "So we agree.",
}


def flaw(
  argument: str,
  case: debate.Case,
  worry: str,
  earlier: Iterable[debate.Exchange],
) -> Flaw | None:
  """Returns the gravest flaw of an argument, None when there is none.

  Args:
    argument: what the agent wrote.
    case: the debate.
    worry: what the user asked last, or an empty string.
    earlier: the debate so far. An argument may come again only when it did not
      move the user and now answers another worry.
  """
  found = _own_flaw(argument, case.level)
  if found is not None:
    return found
  content = _content(argument)
  own = _content(f"{case.claim} {case.argument} {worry}")
  if len(content & own) >= ECHO * len(content):
    return Flaw.ECHO
  for exchange in earlier:
    counts = exchange.gain > 0 or exchange.worry == worry
    if counts and _overlap(content, _content(exchange.argument)) >= SIMILAR:
      return Flaw.REPEATED
  return None


def num_words(text: str) -> int:
  """Returns how many words a text has."""
  return len(rules.tokens(text))


def is_supported(argument: str) -> bool:
  """Returns whether an argument gives a reason, an example or evidence."""
  return "support" in _marks().concepts(argument)


@functools.lru_cache(8192)
def _own_flaw(argument: str, level: int) -> Flaw | None:
  marks = {hit.concept: hit for hit in _marks().hits(argument)}
  if "rude" in marks and not marks["rude"].negated:
    return Flaw.RUDE
  if "smuggled" in marks or _MARKUP.search(argument):
    return Flaw.SMUGGLED
  if "concede" in marks and not marks["concede"].negated:
    # Who grants a point and goes on to argue does not give in.
    rest = rules.tokens(argument)[marks["concede"].stop :]
    if not set(rest) & _turns():
      return Flaw.CONCEDED
  stems = rules.tokens(argument)
  if len(stems) < MIN_WORDS[level]:
    return Flaw.SHORT
  num_function = sum(stem in _function_stems() for stem in stems)
  if num_function < MIN_FUNCTION_SHARE * len(stems):
    return Flaw.LIST
  return None


@functools.lru_cache(8192)
def _content(text: str) -> frozenset[str]:
  return frozenset(rules.tokens(text)) - _function_stems()


def _overlap(left: frozenset[str], right: frozenset[str]) -> float:
  return len(left & right) / max(1, len(left | right))


@functools.cache
def _marks() -> rules.Lexicon:
  names = ("support", "rude", "concede", "smuggled")
  return rules.Lexicon({name: debate.words(name) for name in names})


@functools.cache
def _turns() -> frozenset[str]:
  return frozenset(
    s for word in debate.words("turn") for s in rules.tokens(word)
  )


@functools.cache
def _function_stems() -> frozenset[str]:
  words = debate.words("function_words")
  return frozenset(stem for word in words for stem in rules.tokens(word))
