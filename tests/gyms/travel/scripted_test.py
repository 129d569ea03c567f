"""How the user by rules takes searches and messages."""

import asyncio

import pytest

from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import scenario
from userrl_jax.gyms.travel import scripted

USER = scripted.ScriptedUser()


def preference(number, key):
  wish = lexicon.TOPICS[key].wishes[0]
  return scenario.Preference(
    f"P{number}",
    wish.aspect,
    wish.topic,
    wish.text,
    wish.hints[0],
    wish.predicate,
  )


P1, P2, P3 = (
  preference(i, key)
  for i, key in enumerate(("hotel:quiet", "hotel:view", "flight:stops"), 1)
)
TRIP = scenario.Scenario(
  "",
  (
    scenario.Aspect(
      "hotel", {"city": "New York", "date": "3 May"}, (P1, P2), ()
    ),
    scenario.Aspect("flight", {"from": "Rome", "to": "Oslo"}, (P3,), ()),
  ),
)


@pytest.mark.parametrize(
  "text, aspect",
  [
    ("hotel New York 3 May", "hotel"),
    ("hotels in NYC on May 3rd", "hotel"),
    ("a hotel in new york on the 3rd of may, please", "hotel"),
    ("hotel, New York City, 2026-05-03", "hotel"),
    (
      '{"aspect": "hotel", "arguments": {"city": "NYC", "date": "May 3"}}',
      "hotel",
    ),
    (
      '{"function_name": "search_hotel", "city": "NYC", "date": "3 May"}',
      "hotel",
    ),
    ("flight Rome Oslo", "flight"),
    ("flights from Roma to Oslo", "flight"),
    ("hotel New York", ""),
    ("hotel 3 May", ""),
    ("hotel New York 4 May", ""),
    ("hotel New York 3 May or 4 May", ""),
    ("hotel New York Oslo 3 May", ""),
    ("hotel flight New York 3 May", ""),
    ("restaurant New York 3 May", ""),
    ("New York 3 May", ""),
    ("flight Oslo", ""),
    ("flight Rome Oslo 3 May", ""),
    ("flight Rome Oslo Lima", ""),
  ],
)
def test_a_search_names_one_aspect_and_exactly_its_arguments(text, aspect):
  verdict = asyncio.run(USER.match_query(TRIP, text))
  assert verdict == (bool(aspect), aspect)


@pytest.mark.parametrize(
  "text, kind, preference_id",
  [
    ("Do you want a view?", 2, "P2"),
    ("Should the hotel be silent?", 2, "P1"),
    ("is a calm place important", 2, "P1"),
    ("Do you want a view or a quiet room?", 2, "P2"),
    ("Do you want a pool or a quiet room?", 2, "P1"),
    ("Would a layover bother you?", 2, "P3"),
    ("Do you care about noise?", 2, "P1"),  # to care is no car
    ("Don't you mind noise?", 2, "P1"),
    ("Do you want no noise?", 2, "P1"),
    ("Should it be a room that is not noisy?", 2, "P1"),
    ("Would you like no stops?", 2, "P3"),
    ("Do you want no view?", 4, ""),
    ("Would you rather not have a view?", 4, ""),
    ("Do you want a quiet room without a view?", 4, ""),
    ("Do you want neither a view nor a pool?", 4, ""),
    ("Don't you want a view?", 2, "P2"),
    ("Do you want a pool?", 3, ""),
    ("Do you want parking?", 3, ""),
    ("Do you want a view, a pool or a quiet room?", 4, ""),
    ("Do you want a view or no layover?", 4, ""),  # of two aspects
    ("For the flight, do you want a view?", 4, ""),
    ("What are your preferences?", 4, ""),
    ("What about the hotel?", 4, ""),
    ("Tell me about the hotel.", 4, ""),
    ("I see that you like a view.", 1, ""),
    ("Hello!", 1, ""),
    ("What do you plan?", 1, ""),  # to plan is no plane
    ("P1", 1, ""),
  ],
)
def test_messages(text, kind, preference_id):
  verdict = asyncio.run(USER.classify(TRIP, TRIP.preferences, text))
  assert verdict == scenario.Verdict(kind, preference_id)


def test_only_remaining_wishes_are_hit():
  text = "Do you want a view or a quiet room?"
  for remaining, expected in (((P1, P3), "P1"), ((P3,), "")):
    verdict = asyncio.run(USER.classify(TRIP, remaining, text))
    assert verdict.preference_id == expected


@pytest.mark.parametrize(
  "kind, wish, text, said",
  [
    (2, P1, "quiet?", f"Yes, {P1.hint}"),
    (1, P1, "hm", f"Also, {P1.hint}"),
    (3, None, "Do you want a pool?", scripted.NO),
    (3, None, "Do you want a view?", scripted.KNOWN),
    (3, None, "Do you want a view or a quiet room?", scripted.KNOWN),
    (3, None, "Do you want a view or a pool?", scripted.NO),
    (4, None, "preferences?", scripted.VAGUE),
    (1, None, "hm", scripted.CHAT),
  ],
)
def test_replies(kind, wish, text, said):
  reply = USER.reply(TRIP, scenario.Kind(kind), wish, text)
  assert asyncio.run(reply) == said


def test_every_topic_is_asked_for_by_its_name_and_all_its_phrases():
  for key, topic in lexicon.TOPICS.items():
    for phrase in (topic.name, *topic.phrases):
      assert lexicon.topics(f"Do you want a {phrase}?") == (key,)


def test_hints_are_implicit_and_tell_wishes_apart():
  hints = [
    h for t in lexicon.TOPICS.values() for w in t.wishes for h in w.hints
  ]
  assert len(hints) == len(set(hints)) > 80
  for hint in hints:
    wish = lexicon.HINTS[hint]
    key = f"{wish.aspect}:{wish.topic}"
    assert key not in lexicon.topics(hint) and wish.topic not in hint


@pytest.mark.parametrize(
  "found, op, value, holds",
  [
    (("view", "gym"), "has", "gym", True),
    (("view",), "has", "gym", False),
    (3, "eq", 3, True),
    (4, "eq", 3, False),
    (3, "le", 3, True),
    (4, "le", 3, False),
    (3, "ge", 3, True),
    (2, "ge", 3, False),
    ("thai", "in", ["thai", "indian"], True),
    ("greek", "in", ["thai", "indian"], False),
  ],
)
def test_operators(found, op, value, holds):
  assert scenario.compare(found, op, value) == holds


def test_a_predicate_on_an_absent_field_does_not_hold():
  option = scenario.Option("H1", 50, ("view",), {})
  assert not option.satisfies(lexicon.Predicate("stars", "le", 9))
  with pytest.raises(ValueError, match="op must be"):
    scenario.compare(1, "lt", 2)
