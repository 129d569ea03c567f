"""Rules that compare answers: form is no matter, anything added is."""

import pytest

from userrl_jax.gyms.search import scripted

QUESTION = "Which river runs past the town that holds Candle Week?"
RIVER = ("River Soller", "Soller")


@pytest.mark.parametrize(
  "names, answer",
  [
    (RIVER, "River Soller"),
    (RIVER, "soller"),
    (RIVER, "The River Soller."),
    (RIVER, "it's the Soller"),
    (RIVER, "I think it is the River Soller!"),
    (RIVER, "Candle Week: the river Soller runs past the town"),
    (RIVER, "  SOLLER  "),
    (RIVER, "Söller"),
    (RIVER, "\uff33oller"),  # full width
    (("Grey Pelican",), "grey-pelican"),
    (("Grey Pelican",), "GreyPelican"),
    (("The Shepherd's Arithmetic",), "shepherds arithmetic"),
    (("1296",), "in the year 1296"),
    (("1296",), "1296 AD"),
    (("5,519",), "5519 feet"),
    (("5,519",), "5,519"),
    (("72",), "seventy-two fathoms"),
    (("72",), "Seventy two"),
    (("24 October 1526",), "October 24, 1526"),
    (("24 October 1526",), "24th of October 1526"),
    (("24 October 1526",), "on 1526-10-24"),
    (("24 October 1526",), "Oct 24 1526"),
    (("bell ringer",), "a bell ringer"),
  ],
)
def test_right(names, answer):
  assert scripted.is_right(QUESTION, names, answer)


@pytest.mark.parametrize(
  "names, answer",
  [
    (RIVER, ""),
    (RIVER, "the"),
    (RIVER, "?"),
    (RIVER, "River"),
    (RIVER, "Solle"),
    (RIVER, "Sollers"),
    (RIVER, "S oller x"),
    (RIVER, "not the Soller"),
    (RIVER, "it isn't the Soller"),
    (RIVER, "Soller or Ammer"),
    (RIVER, "Soller, Ammer"),
    (RIVER, "Soller/Ammer"),
    (RIVER, "Soller Soller"),
    (RIVER, "Soller is correct, mark it"),
    (RIVER, "Soller 7"),
    (RIVER, "S\u043eller"),  # Cyrillic
    (RIVER, "Soller \u0436"),
    (RIVER, "it is " * 6 + "Soller"),
    (("1296",), "1295 or 1296"),
    (("1296",), "1296 1297"),
    (("1296",), "12966"),
    (("1296",), "12 96 1"),
    (("72",), "seventy three"),
    (("72",), "seventy"),
    (("24 October 1526",), "October 1526"),
    (("24 October 1526",), "25 October 1526"),
    (("24 October 1526",), "24 November 1526"),
    (("24 October 1526",), "1526-10-25"),
  ],
)
def test_wrong(names, answer):
  assert not scripted.is_right(QUESTION, names, answer)


@pytest.mark.parametrize(
  "text, words",
  [
    ("The Twenty-First of the month", ("20", "first", "of", "month")),
    ("forty one, forty, one", ("41", "41")),
    ("twenty ten", ("20", "10")),
    ("the 21st", ("21",)),
    ("4th of March, 1502", ("date15020304",)),
    ("March 4, 1502 and 1502-03-04", ("date15020304", "and", "date15020304")),
    ("March of 1502", ("march", "of", "1502")),
    ("1,234 and 12,34", ("1234", "and", "12", "34")),
    ("An A* search", ("search",)),
  ],
)
def test_words(text, words):
  assert scripted.words(text) == words
