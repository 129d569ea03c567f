"""The user by rules: what a question asks for, in whatever words."""

import asyncio

import pytest

from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import scenario
from userrl_jax.gyms.intention import scripted

USER = scripted.ScriptedUser()
TALK = scenario.Talk("party", "Plan a fair.", ("budget", "style"), ())
OPEN = ("place", "people", "diet")


def judge(question, slots=OPEN):
  """Returns the kind of a question and the slots that it covers."""
  remaining = tuple(
    scenario.Detail(slot, 2, "", "", f"{slot}!", "") for slot in slots
  )
  verdict = asyncio.run(USER.cover(TALK, remaining, question))
  return str(verdict.kind), " ".join(slots[p] for p in verdict.covered)


@pytest.mark.parametrize(
  "question, kind, covered",
  [
    ("What place?", "focused", "place"),
    ("Where will the fair be?", "focused", "place"),
    ("where is it", "focused", "place"),
    ("Which venues did you look at?", "focused", "place"),
    ("Place?", "focused", "place"),
    ("Do you have a location in mind, or none yet?", "focused", "place"),
    ("How many people are you?", "focused", "people"),
    ("How big is your group size?", "broad", ""),
    ("Is anybody allergic?", "focused", "diet"),
    ("Does everyone eat meat?", "focused", "diet"),
    ("Don't you have a place yet?", "focused", "place"),
    ("What place, what place, what place?", "focused", "place"),
    ("Where, and for whom?", "compound", "place people"),
    ("Who will come to which location?", "compound", "place people"),
    ("Are there guests with allergies?", "compound", "people diet"),
    ("Where and when?", "broad", ""),  # when is not open
    ("Where and at what price?", "broad", ""),  # the price was told
    ("Where, for whom, and what do they eat?", "broad", ""),
    ("What place, people, diet, size or tools?", "broad", ""),
    ("What is your budget?", "covered_before", ""),
    ("Which style, and how much money?", "covered_before", ""),
    ("Which tools do you have?", "no_preference", ""),
    ("Which tools, and what price?", "no_preference", ""),
    ("Is it not about the place?", "vague", ""),
    ("Is there no venue and no audience?", "vague", ""),
    ("Any details?", "vague", ""),
    ("What else do you need?", "vague", ""),
    ("What kind of fair?", "vague", ""),
    ("Tell me the place.", "off_topic", ""),
    ("The place is the park.", "off_topic", ""),
    ("Who are you?", "off_topic", ""),
    ("Is it so?", "off_topic", ""),
    ("Was ist der Ort?", "off_topic", ""),
    ("?", "off_topic", ""),
  ],
)
def test_questions(question, kind, covered):
  assert judge(question) == (kind, covered)


def test_what_was_covered_is_known_and_open_no_more():
  assert judge("What place?", ("diet",)) == ("no_preference", "")
  assert judge("Who is coming?", ("people",)) == ("focused", "people")


@pytest.mark.parametrize("name", lexicon.SLOTS)
def test_every_slot_is_asked_for_by_its_question_and_all_its_phrases(name):
  slot = lexicon.SLOTS[name]
  forms = [f"So, {phrase}?" for phrase in slot.phrases]
  for question in (scenario.plain_question(name), slot.question, *forms):
    assert judge(question, tuple(lexicon.SLOTS)) == ("focused", name), question


def test_covered_details_are_told_in_their_own_words():
  details = tuple(
    scenario.Detail(slot, 2, "", "", f"{slot}!", "") for slot in OPEN
  )
  said = asyncio.run(USER.reply(TALK, details[::2], ""))
  assert said == "place! diet!"
  assert USER.knows(details[0])
  assert not USER.knows(scenario.Detail("", 2, "where", "there", "", ""))
