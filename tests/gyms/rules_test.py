"""The rule engine on hand-worked texts, with the pitfalls it must avoid."""

import time

import pytest

from userrl_jax.gyms import rules

LEXICON = rules.Lexicon(
  {
    "alive": ["alive", "live", "living"],
    "water": ["live in water", "swim"],
    "flies": ["fly", "can fly"],
    "people": ["made by people"],
    "metal": ["metal"],
    "dead": ["not alive"],
  }
)


@pytest.mark.parametrize(
  "text, stems",
  [
    ("Flies, FLYING cities!", ("fly", "fly", "city")),
    (
      "swimming lives lived house houses",
      ("swim", "liv", "liv", "hous", "hous"),
    ),
    (
      "used uses use bed need speed",
      ("used", "use", "use", "bed", "need", "speed"),
    ),
    ("glass glasses bus buses", ("glass", "glass", "bus", "bus")),
    ("movie movies rolling", ("movy", "movy", "roll")),
    ("don't can\u2019t it's", ("don", "t", "can", "t", "it", "s")),
    ("#W12 a@b.co x_1-y end.", ("#w12", "a@b.co", "x_1-y", "end")),
    ("\uff26\uff4c\uff59\uff1f ...", ("fly",)),
    ("", ()),
  ],
)
def test_tokens(text, stems):
  assert rules.tokens(text) == stems


def test_one_stem_is_all_that_the_forms_of_a_word_leave():
  for forms in ("live lives lived living", "shoe shoes", "roll rolled rolls"):
    assert len(set(rules.tokens(forms))) == 1
  assert rules.tokens("speed") == rules.tokens("speeds")


@pytest.mark.parametrize(
  "text, hits",
  [
    ("Is it alive?", [("alive", 2, 3, False)]),
    ("Does it live in water?", [("water", 2, 5, False)]),
    ("Does it live in cold water?", [("water", 2, 6, False)]),
    ("Does it live in very cold water?", [("alive", 2, 3, False)]),
    ("Does it live? In water?", [("water", 2, 5, False)]),
    ("a living thing, a metal", [("alive", 1, 2, False), ("metal", 4, 5, 0)]),
    ("It can fly", [("flies", 1, 3, False)]),
    ("It can't fly", [("flies", 1, 4, True)]),
    ("It cannot fly", [("flies", 2, 3, True)]),
    ("It isnt metal", [("metal", 2, 3, True)]),
    ("not that it cannot fly", [("flies", 4, 5, True)]),  # not is out of reach
    ("never not metal", [("metal", 2, 3, False)]),
    ("not made by people", [("people", 1, 4, True)]),
    ("made not by people", [("people", 0, 4, True)]),
    ("not alive", [("dead", 0, 2, False)]),
    ("not alive metal", [("dead", 0, 2, False), ("metal", 2, 3, False)]),
    ("not metal, swim", [("metal", 1, 2, True), ("water", 2, 3, True)]),
    ("not in any way at all metal", [("metal", 6, 7, False)]),
    ("neither metal nor living", [("metal", 1, 2, True), ("alive", 3, 4, 1)]),
    ("neither living nor alive", [("alive", 1, 2, True), ("alive", 3, 4, 1)]),
    ("It isn't metal nor alive", [("metal", 3, 4, True), ("alive", 5, 6, 1)]),
    ("Nor does it swim", [("water", 3, 4, True)]),
    ("nothing", []),
  ],
)
def test_hits(text, hits):
  assert LEXICON.hits(text) == tuple(rules.Hit(*hit) for hit in hits)


def test_concepts_are_distinct_and_in_order():
  text = "metal, alive, metal? can it swim"
  assert LEXICON.concepts(text) == ("metal", "alive", "water")


@pytest.mark.parametrize(
  "phrases, part",
  [
    ({"a": ["fly"], "b": ["flies"]}, "of 'a' and of 'b'"),
    ({"a": ["?!"]}, "must have a word"),
  ],
)
def test_bad_lexicon(phrases, part):
  with pytest.raises(ValueError, match=part):
    rules.Lexicon(phrases)


@pytest.mark.parametrize(
  "text, expected",
  [
    ("it is red?", True),
    ("it is red\uff1f", True),
    ("Is it red", True),
    ("Isn't it red", True),
    ("doesnt it fly", True),
    ("Can it fly", True),
    ("Whose is it", True),
    ("It is red.", False),
    ("Ask whether it is red", False),
    ("", False),
  ],
)
def test_is_question(text, expected):
  assert rules.is_question(text) is expected


@pytest.mark.parametrize(
  "text, plain",
  [
    ("Isn't it red?", "Is it red?"),
    (" don\u2019t you fly", "do you fly"),
    ("Is it not red?", "Is it not red?"),
    ("It isn't red", "It isn't red"),
  ],
)
def test_without_polite_not(text, plain):
  assert rules.without_polite_not(text) == plain


DIED_AT_SEA = (("died", "was killed"), ("sea", "ship"))


@pytest.mark.parametrize(
  "text, window, expected",
  [
    ("He died on a ship", 5, True),
    ("He died on a ship", 3, False),
    ("On the ship he was brutally killed", 12, True),
    ("He died", 12, False),
    ("He never died at sea", 12, False),
    ("It is not so that he died on a ship", 12, True),  # out of reach
    ("No ship, he died", 12, False),
    ("He didn't die: no ship.", 12, False),  # die is no form of died
    ("Not never died at sea", 12, True),
    ("He neither died nor went to sea", 12, False),
    ("not died, sea", 12, False),  # one cue in reach of both groups
    ("not died. He then died at sea", 12, True),
    ("a note: he died on a ship", 12, True),  # no note is a not
    ("his notes died at sea", 12, True),
    ("", 12, False),
  ],
)
def test_contains_pattern(text, window, expected):
  assert rules.contains_pattern(text, DIED_AT_SEA, window) is expected


def test_no_groups_say_nothing():
  assert not rules.contains_pattern("anything", (), 12)


@pytest.mark.parametrize(
  "text, expected",
  [
    ("He died on a ship", {True}),
    ("He never died on a ship", {False}),
    ("He died at sea. But he never died on a ship.", {True, False}),
    ("He died", set()),
  ],
)
def test_polarities(text, expected):
  assert rules.polarities(text, DIED_AT_SEA, 6) == expected


def test_is_fast_and_remembers_what_it_read():
  """Processor time with a wide margin: other tests share the machine."""
  texts = [f"does it live in water number {i}?" for i in range(2000)]

  def read():
    start = time.process_time()
    for text in texts:
      LEXICON.hits(text)
    return time.process_time() - start

  first, again = read(), read()
  assert first < 1.0
  assert again < first / 2
