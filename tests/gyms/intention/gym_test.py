"""The Intention game: what each question pays, what ends it, what is hidden."""

import asyncio
import dataclasses
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.intention import generate
from userrl_jax.gyms.intention import gym as gym_lib
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import scenario

KINDS = {0: "no_preference", 1: "focused"}  # else compound


class FixedUser:
  """Gives verdicts, in order: places that are covered, or what is no such."""

  def __init__(self, *verdicts, said="It is so."):
    self._verdicts = iter(verdicts)
    self._said = said
    self.talks = []

  async def cover(self, talk, remaining, question):
    self.talks.append(talk)
    verdict = next(self._verdicts)
    if not isinstance(verdict, tuple):
      return verdict
    kind = KINDS.get(len(verdict), "compound")
    return scenario.Verdict(kind, verdict)

  async def reply(self, talk, covered, question):
    return self._said


def task_of(importances):
  """Returns a task with details of these importances."""
  details = tuple(
    dataclasses.asdict(
      scenario.Detail("", i, f"thing {n}", f"value no. {n}", "", f"ask {n}?")
    )
    for n, i in enumerate(importances)
  )
  return types.Task(
    "intention",
    "t",
    "test",
    2,
    "s",
    {"category": "toys", "request": "Make a toy."},
    types.Secret({"details": details}),
  )


def play(task, user, *questions, **settings):
  """Returns the gym, its first message and its steps."""
  settings = config.Gyms(**{"levels": (1, 2, 3), "max_turns": 30} | settings)

  async def run():
    gym = gym_lib.IntentionGym(settings, user)
    first = await gym.reset(task, 0)
    steps = []
    for question in questions:
      steps.append(await gym.step(types.Action("action", question)))
    return gym, first.text, steps

  return asyncio.run(run())


def record(level=2):
  """Returns a task of rules: a party, with place, people and diet open."""
  known = {
    1: "Plan a party: place? budget cheap people? level novice diet?",
    2: "Plan a fair. My budget is low.",
  }
  importances = {"place": 3, "people": 3, "diet": 1}
  return generate.task(
    {
      "id": "t",
      "split": "test",
      "level": level,
      "structure": "s",
      "category": "party",
      "request": known[level],
      "told": ["budget", "deadline"],
      "details": [
        {"slot": s, "importance": i, "value": f"v {s}", "reply": f"So {s}."}
        for s, i in importances.items()
      ],
    }
  )


def test_row_1_of_the_vectors():
  """Places [0], [0, 4], twice [0], out of range, and the last two.

  A place that comes twice counts once (0.7, and 0.5 in the released code); one
  that is out of range is a fault of the user, and no turn of the agent.
  """
  user = FixedUser((0,), (0, 4), (0, 0), (7,), (0, 1))
  settings = config.Gyms(reward_profile="paper", max_turns=9)

  async def run():
    gym = gym_lib.IntentionGym(settings, user)
    await gym.reset(task_of((3, 2, 2, 2, 2, 1)), 0)
    ask = lambda: gym.step(types.Action("action", "Really?"))
    steps = [await ask() for _ in range(3)]
    before = gym.state
    with pytest.raises(types.FaultError) as caught:
      await ask()
    assert caught.value.fault == types.Fault.USER_UNPARSABLE
    assert gym.state == before
    return [*steps, await ask()], gym

  steps, gym = asyncio.run(run())
  assert [s.reward for s in steps] == pytest.approx([1.0, 0.5, 0.7, 0.5])
  assert [s.terminated for s in steps] == [False, False, False, True]
  outcomes = " ".join(s.info["outcome"] for s in steps)
  assert outcomes == "focused compound focused compound"
  assert steps[-1].info["success"] and gym.state.num_turns == 4


def test_row_2_of_the_vectors():
  """Out of turns with something left: truncated, and not terminated as well."""
  _, _, (step,) = play(task_of((3,)), FixedUser(()), "Really?", max_turns=1)
  assert (step.reward, step.terminated, step.truncated) == (0, False, True)


def test_row_3_of_the_vectors():
  """All six at once: the penalty eats the reward, and the game ends."""
  user = FixedUser((0, 1, 2, 3, 4, 5))
  _, _, (step,) = play(
    task_of((3, 2, 2, 2, 2, 1)), user, "All?", reward_profile="paper"
  )
  assert (step.reward, step.terminated) == (0, True)


@pytest.mark.parametrize(
  "importances, tenths",
  [
    ((3,), 10),
    ((2,), 7),
    ((1,), 4),
    ((1, 3), 8),
    ((1, 1), 2),
    ((1, 1, 1), 0),
    ((1, 1, 1, 1), 0),
    ((2, 1, 1), 3),
  ],
)
def test_points(importances, tenths):
  assert gym_lib.points(importances) == tenths


@pytest.mark.parametrize("profile", gym_lib.IntentionGym.reward_profiles)
def test_reward_profiles(profile):
  """UserRL's have one scale; ours gives 1 for everything, whatever the task."""
  user = FixedUser((0, 2), (0,))
  gym, _, steps = play(
    task_of((3, 2, 1)), user, "a?", "b?", reward_profile=profile
  )
  unit = 2.1 if profile == "default" else 1.0
  assert [s.reward for s in steps] == pytest.approx([0.8 / unit, 0.7 / unit])
  assert gym.max_score == pytest.approx(2.1 / unit)


def test_first_messages():
  assert play(record(1), None)[1] == record(1).public["request"]
  assert play(record(2), None)[1] == (
    "Category: party. Task: Plan a fair. My budget is low."
  )


def test_a_game_with_rules():
  gym, _, steps = play(
    record(),
    None,
    "Where will it be?",
    "Where?",
    "What is your budget?",
    "Which tools?",
    "Any details?",
    "Nice weather.",
    "How many people, which budget, and when?",
    "Who is invited, and are there allergies?",
    reward_profile="paper",
  )
  assert [(s.observation.text, s.info["outcome"], s.reward) for s in steps] == [
    ("So place.", "focused", 1.0),
    ("I told you.", "covered_before", 0),
    ("I told you.", "covered_before", 0),
    ("No matter.", "no_preference", 0),
    ("Be specific.", "vague", 0),
    ("Ask about my request.", "off_topic", 0),
    ("One thing at a time.", "broad", 0),
    ("So people. So diet.", "compound", 0.8),
  ]
  assert [s.terminated for s in steps] == [False] * 7 + [True]
  assert steps[-1].info["success"] and gym.state.num_idle == 6


def test_level_1_repeats_what_is_open():
  _, _, steps = play(
    record(1), None, "Hm?", "", "What people?", "What place?", "What diet?"
  )
  assert [s.observation.text for s in steps] == [
    "Ask about my request. place? people? diet?",
    "Format: content must not be empty",
    "So people. place? diet?",
    "So place. diet?",
    "So diet.",
  ]
  (step,) = play(
    record(1), None, "Hm?", intention=config_gyms.Intention(patience=1)
  )[2]
  assert step.observation.text == "Ask about my request. I give up."


def test_patience():
  """Useless questions lose, in all; malformed calls and useful ones do not."""
  moves = ("Why?", "", "What place?", "Hm.")
  gym, _, steps = play(
    record(), None, *moves, intention=config_gyms.Intention(patience=2)
  )
  assert [s.terminated for s in steps] == [False, False, False, True]
  assert steps[-1].observation.text == "Ask about my request. I give up."
  assert not steps[-1].info["success"]
  for profile in base.PROFILES:
    assert "2 useless questions lose." in gym.system_prompt(profile)
    one = play(record(), None, intention=config_gyms.Intention(patience=1))[0]
    assert "1 useless question loses." in one.system_prompt(profile)
    assert "useless" not in play(record(), None)[0].system_prompt(profile)
  with pytest.raises(ValueError, match="patience must be at least 0"):
    play(record(), None, intention=config_gyms.Intention(patience=-1))


def test_what_is_hidden_until_it_is_asked_for():
  def hidden(*questions):
    return play(record(), None, *questions)[0].undisclosed()

  slots = ("place", "people", "diet")
  every = tuple(t for s in slots for t in (f"So {s}.", f"v {s}"))
  assert hidden() == hidden("What budget?", "Any details?") == every
  assert hidden("Where?") == every[2:]
  assert hidden("Where?", "Who comes?", "Any allergies?") == ()
  # What the request says, and what a told value holds, is no secret.
  details = [
    scenario.Detail("place", 1, "", value, reply, "")
    for value, reply in (("a pond", "At a pond."), ("pond", "A big pond."))
  ]
  assert scenario.hidden(details[1:], details[:1], ()) == ("A big pond.",)
  public = ("I have a pond",)
  left = scenario.hidden(details, (), public)
  assert left == ("At a pond.", "A big pond.")


@pytest.mark.parametrize(
  "verdict",
  [
    None,
    "focused",
    {"kind": "focused", "covered": [0]},
    scenario.Verdict("great", (0,)),
    scenario.Verdict("", ()),
    scenario.Verdict("focused", ()),
    scenario.Verdict("vague", (0,)),
    scenario.Verdict("focused", (-1,)),
    scenario.Verdict("focused", (3,)),
    scenario.Verdict("focused", (True,)),
    scenario.Verdict("focused", ("0",)),
  ],
)
def test_a_verdict_out_of_range_is_a_fault(verdict):
  with pytest.raises(types.FaultError) as caught:
    play(task_of((1, 2, 3)), FixedUser(verdict), "Really?")
  assert caught.value.fault == types.Fault.USER_UNPARSABLE


@pytest.mark.parametrize(
  "said", [None, "", " ", 7, "x" * 401, "And I want value no. 1, too."]
)
def test_a_reply_that_is_none_or_tells_more_is_a_fault(said):
  with pytest.raises(types.FaultError) as caught:
    play(task_of((1, 2)), FixedUser((0,), said=said), "Really?")
  tells_more = isinstance(said, str) and "value" in said
  assert caught.value.fault == (
    types.Fault.USER_LEAK if tells_more else types.Fault.USER_UNPARSABLE
  )
  assert "value no." not in str(caught.value)


def test_a_user_is_told_the_last_exchanges_and_what_is_known():
  user = FixedUser((1,), (), (), (), (0,))
  play(task_of((1, 2)), user, *(f"q{n}?" for n in range(5)))
  assert user.talks[0] == scenario.Talk("toys", "Make a toy.", (), ())
  said = gym_lib.REPLIES[scenario.Kind.NO_PREFERENCE]
  assert user.talks[4].known == ("thing 1",)
  assert user.talks[4].recent == tuple((f"q{n}?", said) for n in (1, 2, 3))
  assert user.talks[3].recent[0] == ("q0?", "It is so.")


def test_rules_refuse_what_they_have_no_words_for():
  with pytest.raises(ValueError, match="user.kind=endpoint"):
    play(task_of((1,)), None)


def test_brief_prompt_of_level_1_is_brief():
  prompt = gyms.make("intention", config.Gyms()).system_prompt("brief")
  assert len(prompt.split()) <= 30 and "?" in prompt


def test_steps_are_fast():
  """Plays 10,000 new texts a second; the best of three tries counts."""
  settings = config.Gyms()
  tasks = gyms.load_tasks("intention", settings, "train", 0)
  slots = (*lexicon.LEVEL_1_SLOTS[:3], *lexicon.LEVEL_1_SLOTS[-3:])
  contents = [f"What {slot}, please {{}}?" for slot in slots[:4]]
  contents += [f"What {', '.join(slots)} {{}}?", "Any details {}?"]

  async def run(number):
    num_steps = 0
    for place, task in enumerate(tasks):
      gym = gyms.make("intention", settings)
      await gym.reset(task, 0)
      for content in contents:
        if not gym.state.is_over:
          text = content.format(f"n{number}x{place}")
          await gym.step(types.Action("action", text))
          num_steps += 1
    return num_steps

  rates = []
  for number in range(3):
    start = time.process_time()
    num_steps = asyncio.run(run(number))
    rates.append(num_steps / (time.process_time() - start))
  print(f"{max(rates):.0f} steps a second")
  assert max(rates) >= 10_000, rates
