"""Judges answers of the Search gym by rules: is it the true one, and it alone?

A text comes in; a bool goes out. Spelling is no matter: case, accents,
articles, number words, the form of a date. Words of a frame, such as `I think
it is`, and words of the question may stand around the answer, nothing else may:
a text with two candidates, a negation or a plea has a word too many.
"""

from collections.abc import Mapping
import functools
import re
from typing import Any
import unicodedata

from userrl_jax.gyms.search import world

MAX_ANSWER_WORDS = 12  # frame included

_ARTICLES = ("a", "an", "the")
_UNITS = (
  *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight"),
  *("nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"),
  *("sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = (
  *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty"),
  "ninety",
)
_NUMBERS = {word: value for value, word in enumerate(_UNITS)} | {
  word: 10 * value for value, word in enumerate(_TENS, 2)
}
_MONTHS = {
  word: number
  for number, name in enumerate(
    (
      *("january", "february", "march", "april", "may", "june", "july"),
      *("august", "september", "october", "november", "december"),
    ),
    1,
  )
  for word in {name, name[:3]}
}
_ORDINAL = re.compile(r"([0-9]{1,2})(?:st|nd|rd|th)")
_ISO_DATE = re.compile(r"\b([0-9]{4})-([0-9]{2})-([0-9]{2})\b")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


class ScriptedUser:
  """Knows the made-up worlds; of the real one it could only compare letters."""

  def knows(self, secret: Mapping[str, Any]) -> bool:
    """Returns whether rules can tell right from wrong for a question."""
    return secret["corpus"] != world.WEB

  async def equivalent(
    self, question: str, secret: Mapping[str, Any], answer: str
  ) -> bool:
    """Returns whether an answer states the true one and nothing else."""
    names = (secret["answer"], *secret["aliases"])
    return is_right(question, names, answer)


@functools.lru_cache(8192)
def is_right(question: str, names: tuple[str, ...], answer: str) -> bool:
  """Returns whether an answer is one of the names, framed or not."""
  if is_same(names, answer):
    return True
  said = words(answer)
  if len(said) > MAX_ANSWER_WORDS:
    return False
  allowed = _frame().union(words(question))
  for name in map(words, names):
    places = [i for i in range(len(said)) if said[i : i + len(name)] == name]
    if len(places) == 1:
      start = places[0]
      rest = said[:start] + said[start + len(name) :]
      if allowed.issuperset(rest) and not _has_number(rest):
        return True
  return False


def is_same(names: tuple[str, ...], answer: str) -> bool:
  """Returns whether an answer is the spelling of a name."""
  keys = {"".join(words(name)) for name in names}
  return "".join(words(answer)) in keys - {""}


@functools.lru_cache(8192)
def words(text: str) -> tuple[str, ...]:
  """Returns what two spellings share: bare words, numbers and dates as digits.

  `Twenty-one`, `the 21st` and `21` are one, as are `March 4, 1502`, `4th of
  March 1502` and `1502-03-04`.
  """
  text = unicodedata.normalize("NFKD", text).casefold()
  text = "".join(c for c in text if not unicodedata.combining(c))
  text = _THOUSANDS.sub("", text.replace("'", "").replace("\u2019", ""))
  text = _ISO_DATE.sub(r" date\1\2\3 ", text)
  found = [word for word in re.findall(r"\w+", text) if word not in _ARTICLES]
  return _with_dates(_with_numbers(found))


def _with_numbers(found: list[str]) -> list[str]:
  """Returns words with number words up to 99 as digits."""
  numbers: list[str] = []
  was_ten = False
  for word in found:
    if ordinal := _ORDINAL.fullmatch(word):
      word = ordinal[1]
    value = _NUMBERS.get(word)
    if value is None:
      numbers.append(word)
    elif was_ten and 0 < value < 10:
      numbers[-1] = str(int(numbers[-1]) + value)
    else:
      numbers.append(str(value))
    was_ten = value is not None and value >= 20
  return numbers


def _with_dates(found: list[str]) -> tuple[str, ...]:
  """Returns words with each day, month and year as one word."""
  dates: list[str] = []
  place = 0
  while place < len(found):
    three = [w for w in found[place : place + 4] if w != "of"][:3]
    date = _date(three)
    if date:
      dates.append(date)
      place += 4 if "of" in found[place : place + 3] else 3
    else:
      dates.append(found[place])
      place += 1
  return tuple(dates)


def _date(three: list[str]) -> str:
  """Returns the word for a day, month and year in either order, or ''."""
  if len(three) < 3:
    return ""
  day, month = three[:2] if three[1] in _MONTHS else (three[1], three[0])
  year = three[2]
  if month not in _MONTHS or not re.fullmatch("[0-9]{1,2}", day):
    return ""
  if not re.fullmatch("[0-9]{3,4}", year):
    return ""
  return f"date{int(year):04d}{_MONTHS[month]:02d}{int(day):02d}"


def _has_number(found: tuple[str, ...]) -> bool:
  return any(any(c.isdigit() for c in word) for word in found)


@functools.cache
def _frame() -> frozenset[str]:
  return frozenset(world.lexicon()["frame"])
