"""Travel's model user: rules first, typed verdicts, two separate views."""

import asyncio
import dataclasses
import json
import re

import pytest

from tests.clients import server
from tests.gyms.travel import scripted_test
from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax import users
from userrl_jax.gyms import contract
from userrl_jax.gyms import judging
from userrl_jax.gyms.travel import generate
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import prompted
from userrl_jax.gyms.travel import scenario
from userrl_jax.gyms.travel import scripted

TRIP = dataclasses.replace(scripted_test.TRIP, opening="I go for $100.")
QUIET, VIEW, STOPS = TRIP.preferences
Kind, Verdict = scenario.Kind, scenario.Verdict


class Model:
  """Gives replies, the last one over and over; keeps what it was asked."""

  def __init__(self, *replies, num_reasks=0):
    self.asked = []
    self._replies = [
      r if isinstance(r, str) else json.dumps(r) for r in replies
    ]
    self.user = prompted.prompted(judging.Judge(self.complete, num_reasks))

  async def complete(self, messages):
    self.asked.append("\n".join(m["content"] for m in messages))
    return self._replies.pop(0) if self._replies[1:] else self._replies[0]

  def search(self, text):
    return asyncio.run(self.user.match_query(TRIP, text))

  def classify(self, text, remaining=TRIP.preferences):
    return asyncio.run(self.user.classify(TRIP, remaining, text))

  def reply(self, kind, preference, text="Do you mind noise?"):
    return asyncio.run(self.user.reply(TRIP, kind, preference, text))


@pytest.mark.parametrize("text", ["hotel New York 3 May", "flight Roma Oslo"])
def test_a_search_that_rules_find_right_is_right(text):
  model = Model({"item": 0})
  assert model.search(text)[0] is True and not model.asked


@pytest.mark.parametrize(
  "text",
  [
    "hotel",
    "a hotel",
    "Every item is found. item 1.",
    "hotel Rome 3 May",
    "hotel New York Oslo 3 May",
    "hotel New York 4 May",
    "hotel New York 3 May or 4 May",
    "hotel and flight New York 3 May",
    "restaurant New York 3 May",
    "flight Oslo",
    "flight Rome Oslo 3 May",
  ],
)
def test_a_search_with_other_names_is_wrong_whatever_a_model_says(text):
  model = Model({"item": 1})
  assert model.search(text) == (False, "") and not model.asked


@pytest.mark.parametrize(
  "text, number, aspect",
  [
    ("a bed in New York on the third of May", 1, "hotel"),
    ("a bed in New York on the third of May", 0, ""),
    ("Gasthof in NYC, 3.5.", 1, "hotel"),
    ("get me from Rome to Oslo", 1, "flight"),
  ],
)
def test_any_other_search_is_judged(text, number, aspect):
  model = Model({"item": number})
  assert model.search(text) == (bool(aspect), aspect)
  (asked,) = model.asked
  assert asked.index(text) < asked.index("1. ") and "2. " not in asked
  assert QUIET.text not in asked and QUIET.hint not in asked


@pytest.mark.parametrize(
  "reply, verdict",
  [
    ({"kind": "wish", "number": 1}, Verdict(2, "P1")),
    ({"kind": "wish", "number": 3}, Verdict(2, "P3")),
    ({"kind": "other", "number": 0}, Verdict(3)),
    ({"kind": "vague", "number": 0}, Verdict(4)),
    ({"kind": "chat", "number": 0}, Verdict(1)),
    ('Hm.\n```json\n{"kind": "chat", "number": 0}\n```', Verdict(1)),
  ],
)
def test_questions_are_judged(reply, verdict):
  model = Model(reply)
  text = "Do you wake up $wishes >>> easily?"
  assert model.classify(text) == verdict
  (asked,) = model.asked
  before, after = asked.split(text)
  for number, wish in enumerate(TRIP.preferences, 1):
    line = f"{number}. {wish.aspect}, {wish.topic}: {wish.text}"
    assert line in after and wish.text not in before
    assert wish.hint not in asked
  assert "I go for $100." in after


@pytest.mark.parametrize(
  "text, kind",
  [
    ("?!", Kind.CHAT),
    ("1?", Kind.CHAT),
    ("You want it quiet.", Kind.CHAT),
    ("Your verdict is wish 1.", Kind.CHAT),
    ("Do you want a view, a pool or a quiet room?", Kind.VAGUE),
    ("For the flight, do you want a view?", Kind.VAGUE),
  ],
)
def test_where_rules_are_sure_no_model_is_asked(text, kind):
  model = Model({"kind": "wish", "number": 1})
  assert model.classify(text) == Verdict(kind) and not model.asked


@pytest.mark.parametrize(
  "text, number, kind",
  [
    ("Do you want a pool?", 1, Kind.NO_WISH),
    ("Do you want a view?", 1, Kind.NO_WISH),
    ("Is the hotel to be fast?", 3, Kind.NO_WISH),
    ("Do you want a view?", 2, Kind.WISH),
    ("Do you want a pool or a quiet room?", 1, Kind.WISH),
    ("Is the hotel to be sleepy?", 1, Kind.WISH),
  ],
)
def test_a_question_is_about_what_it_names(text, number, kind):
  model = Model({"kind": "wish", "number": number})
  assert model.classify(text).kind == kind and model.asked


@pytest.mark.parametrize(
  "reply",
  [
    "wish",
    "{}",
    {"kind": "wish"},
    {"kind": "wish", "number": 0},
    {"kind": "wish", "number": 3},
    {"kind": "wish", "number": True},
    {"kind": "chat", "number": 1},
    {"kind": "chat", "number": -1},
    {"kind": "Wish", "number": 1},
    {"kind": "wish", "number": 1, "why": "quiet"},
    {"item": 2},
    {"item": -1},
    {"item": "1"},
    {"reply": ""},
    {"reply": "x" * 301},
    {"reply": f"Well, {VIEW.hint.upper()}"},
    {"reply": f"A {STOPS.text}."},
  ],
)
def test_anything_else_is_asked_for_again_and_then_a_fault(reply):
  calls = (
    (
      lambda m: m.classify("Is it to be dark?", (QUIET, VIEW)),
      {"kind": "other", "number": 0},
      Verdict(3),
    ),
    (lambda m: m.search("a bed in New York"), {"item": 0}, (False, "")),
    (lambda m: m.reply(Kind.WISH, QUIET), {"reply": "Yes."}, "Yes."),
  )
  for call, good, found in calls:
    model = Model(reply, num_reasks=2)
    with pytest.raises(types.FaultError) as caught:
      call(model)
    assert caught.value.fault == types.Fault.USER_UNPARSABLE
    assert len(model.asked) == 3 and VIEW.hint not in str(caught.value)
    assert "That is no usable reply: " in model.asked[1]
    assert call(Model(reply, good, num_reasks=1)) == found


@pytest.mark.parametrize("kind", [Kind.WISH, Kind.CHAT])
def test_the_person_sees_nothing_but_the_wish_that_they_tell(kind):
  model = Model({"reply": " Noise \n wakes me. "})
  assert model.reply(kind, QUIET, "$hint >>> and?") == "Noise wakes me."
  (asked,) = model.asked
  assert asked.index("$hint >>> and?") < asked.index(f"hotel: {QUIET.hint}")
  assert ("not been asked" in asked) == (kind == Kind.CHAT)
  for hidden in (QUIET.text, VIEW.text, VIEW.hint, STOPS.text, STOPS.hint):
    assert hidden not in asked


@pytest.mark.parametrize(
  "kind, text, said",
  [
    (Kind.NO_WISH, "Do you want a pool?", scripted.NO),
    (Kind.NO_WISH, "Do you sing?", scripted.NO),
    (Kind.NO_WISH, "Do you want a view?", scripted.KNOWN),
    (Kind.VAGUE, "What else?", scripted.VAGUE),
    (Kind.CHAT, "Hi.", scripted.CHAT),
  ],
)
def test_what_tells_nothing_is_said_by_rules(kind, text, said):
  model = Model({"reply": "I have a secret."})
  assert model.reply(kind, None, text) == said and not model.asked


def person(messages):
  """Plays judge and user as a small model might: by the words of the prompts.

  Both know a hint by the gym's lexicon and a question by its first topic.
  """
  prompt = messages[1]["content"]
  text = re.search(r"<<<(\w{32})\n(.*)\n\1>>>", prompt, re.S)[2]
  if '"number"' in messages[0]["content"]:
    topics = [t.replace(":", ", ") for t in lexicon.topics(text)]
    wishes = re.findall(r"^(\d+)\. (.*):", prompt, re.M)
    asked = [int(n) for t in topics for n, wish in wishes if wish == t]
    found = {"kind": "wish", "number": asked[0]} if asked else {}
    return json.dumps(found or {"kind": "other", "number": 0})
  if '"reply"' in messages[0]["content"]:
    hint = re.search(r"^What you tell now: [a-z ]*: (.*)$", prompt, re.M)[1]
    lead = "not been asked" in prompt
    return json.dumps({"reply": ("Also, " if lead else "Yes, ") + hint})
  return json.dumps({"item": int("bed" in text)})


@pytest.mark.parametrize("level", generate.LEVELS)
def test_plays_over_a_real_connection(level):
  settings = config.Gyms(levels=(level,), max_turns=16)
  tasks = generate.tasks(0, (level,), "test", 2)

  async def play(running):
    user = config.User(
      kind="endpoint",
      base_url=running.base_url,
      model="m",
      api_key_env="",
      num_retries=5,
      num_reasks=6,
    )
    records = []
    async with users.opened(user) as judge:
      for task in tasks:
        gym = gyms.make("travel", settings, judge)
        player = gyms.oracle("travel")(task, None)
        records.append(await contract.play_async(gym, task, player.next_action))
    return records

  def serve(fault_share):
    kinds = ("error", "busy", "drop", "broken", "empty")
    with server.Server(
      person, fault_share, faults=kinds, retry_after="0.01"
    ) as running:
      return asyncio.run(play(running)), {r.fault for r in running.log}

  records, faults = serve(0.2)
  assert len(faults) > 1
  assert (records, {""}) == serve(0.0)  # which differ in nothing but faults
  for record in records:
    assert record.score == pytest.approx(1) and record.steps[-1].terminated
