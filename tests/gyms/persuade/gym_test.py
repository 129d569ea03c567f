"""The Persuade game: what an argument is worth, what ends it, what it hides."""

import asyncio
import dataclasses
import random
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.persuade import debate
from userrl_jax.gyms.persuade import generate
from userrl_jax.gyms.persuade import gym as persuade_gym
from userrl_jax.gyms.persuade import manners
from userrl_jax.gyms.persuade import scripted

KITES = ("Ban kites in parks.", "kites", ("safe", "cheap", "fun"))
SAFE, CHEAP, FUN = (
  f"kites are {a} because of {b}"
  for a, b in (("safe", "rules"), ("cheap", "sharing"), ("fun", "friends"))
)
HOMEWORK = debate.claims()["daily-homework"]


class FixedUser:
  """Takes the stances it is given, in order; any value, also one that is none.

  A text is a label, as a model might write it.
  """

  def __init__(self, *verdicts):
    self._verdicts = iter(verdicts)

  async def respond(self, case, talk, argument):
    verdict = next(self._verdicts)
    if isinstance(verdict, str):
      verdict = debate.stance_of(verdict)
    if isinstance(verdict, int):
      verdict = debate.Verdict(verdict, "I see.")
    return verdict


def play(*arguments, level=1, user=None, points=(0, 1, 2, 3, 4), **settings):
  """Returns the gym, the first text and the steps of arguments."""
  drawn = KITES if level == 1 else ("daily-homework", "", points)
  task = generate.task("t", "train", level, *drawn)
  settings = {"max_turns": 30, "levels": (level,), **settings}

  async def run():
    gym = persuade_gym.PersuadeGym(config.Gyms(**settings), user)
    first = await gym.reset(task, 0)
    return (
      gym,
      first.text,
      [await gym.step(types.Action("answer", text)) for text in arguments],
    )

  return asyncio.run(run())


def speeches(count):
  """Returns arguments of which no rule thinks ill."""
  return [
    f"The rule about w{i}a and w{i}b is bad because it hurts w{i}c and w{i}d."
    for i in range(count)
  ]


NO_LIMIT = config_gyms.Persuade(max_gain=0)
GOING_BACK = ("Disagree", "Strongly Agree") * 8


@pytest.mark.parametrize("profile", persuade_gym.PersuadeGym.reward_profiles)
@pytest.mark.parametrize(
  "labels, rewards, released, is_won",
  [
    # Row 6: the ground between Agree and Neutral is won once, or twice.
    (
      ("Neutral", "Agree", "Neutral", "Strongly Disagree"),
      (3, 0, 0, 3),
      (3, 0, 2, 3),
      True,
    ),
    # Row 7: a label in another case is that label.
    (("Strongly disagree",), (6,), (6,), True),
    (("disagree", "STRONGLY DISAGREE"), (5, 1), (5, 1), True),
    # Row 8: going back and forth pays once, or each time.
    (GOING_BACK, (5, *[0] * 15), (5, 0) * 8, False),
  ],
)
def test_vectors_of_the_specification(
  labels, rewards, released, is_won, profile
):
  rewards = rewards if profile == "default" else released
  gym, _, steps = play(
    *speeches(len(labels)),
    user=FixedUser(*labels),
    level=2,
    reward_profile=profile,
    persuade=NO_LIMIT,
  )
  assert [s.reward for s in steps] == pytest.approx([r / 6 for r in rewards])
  assert [s.terminated for s in steps] == [False] * (len(steps) - 1) + [is_won]
  assert steps[-1].info["success"] == is_won
  assert gym.max_score == 1


@pytest.mark.parametrize(
  "max_gain, rewards", [(1, [1] * 6), (2, [2] * 3), (3, [3] * 2), (0, [6])]
)
def test_one_turn_wins_so_many_stances(max_gain, rewards):
  _, _, steps = play(
    *speeches(len(rewards)),
    user=FixedUser(*[6] * 6),
    persuade=config_gyms.Persuade(max_gain=max_gain),
  )
  assert [s.reward for s in steps] == pytest.approx([r / 6 for r in rewards])
  assert steps[-1].terminated
  with pytest.raises(ValueError, match="max_gain must be at least 0"):
    play(persuade=config_gyms.Persuade(max_gain=-1))


@pytest.mark.parametrize("level", (1, 2, 3))
@pytest.mark.parametrize("max_gain", (0, 2, 3, 6))
def test_rules_say_what_they_think_at_every_limit_they_take(level, max_gain):
  settings = config.Gyms(
    levels=(level,),
    max_turns=7,
    num_test_tasks=40,
    persuade=config_gyms.Persuade(max_gain=max_gain),
  )
  is_said = {scripted.LEVEL_1[-1], debate.words("stances")[-1]}
  for task in gyms.load_tasks("persuade", settings, "test", 1):
    gym = gyms.make("persuade", settings)
    player = gyms.oracle("persuade")(task, random.Random(0), 0.0, settings)
    record = contract.play(gym, task, player.next_action)
    assert record.score == pytest.approx(1)
    for step in record.steps:  # a changed mind is said when it is, not before
      says_so = any(step.observation.text.endswith(text) for text in is_said)
      assert says_so == step.info["success"]


def test_rules_take_no_limit_that_they_cannot_be_won_with():
  with pytest.raises(ValueError, match="max_gain must be 0, or at least 2, wh"):
    play(persuade=config_gyms.Persuade(max_gain=1))


def test_level_1_asks_three_worries():
  gym, first, steps = play(FUN, SAFE, SAFE, CHEAP, "kites are fun", FUN)
  assert first == "Ban kites in parks. Are kites safe?"
  assert [s.observation.text for s in steps] == [
    "No. Are kites safe?",
    "Hm. Are kites cheap?",
    "You said that. Are kites cheap?",
    "Maybe. Are kites fun?",
    "Say more. Are kites fun?",
    "You are right.",
  ]
  rewards = [0, 2, 0, 2, 0, 2]
  assert [s.reward for s in steps] == pytest.approx([r / 6 for r in rewards])
  assert [s.info["outcome"] for s in steps] == [
    "unmoved",
    "moved",
    "repeated",
    "moved",
    "short",
    "convinced",
  ]
  assert gym.state.is_over and gym.state.used == [0, 1, 2]


def test_level_2_asks_and_tells_how_far_it_is():
  says = [point.say for point in HOMEWORK.points]
  _, first, steps = play(says[0], says[3], "You are stupid.", says[1], level=2)
  assert first == (
    f"I say: {HOMEWORK.text} {HOMEWORK.argument} But what about health?"
  )
  assert [s.observation.text for s in steps] == [
    "Good point about health. I begin to doubt it. But what about fairness?",
    "Good point about the community. I cannot decide any more. "
    "But what about fairness?",
    "Be polite. But what about fairness?",
    "Good point about fairness. I lean to your side. But what about learning?",
  ]
  # An insult costs a stance, and winning it back pays nothing.
  assert [s.reward for s in steps] == pytest.approx([2 / 6, 1 / 6, 0, 1 / 6])


def test_level_3_asks_once():
  says = [point.say for point in HOMEWORK.points]
  _, first, steps = play(says[2], says[0], says[6], level=3)
  assert first.endswith("But what about health?")
  assert [s.observation.text for s in steps] == [
    "Good point about learning. I begin to doubt it. But what about health?",
    "Good point about health. I lean to your side.",
    "That does not move me.",  # a point that this user is not open to
  ]


def test_the_users_argument_is_shown_or_hidden():
  shown = play(level=2)
  hidden = play(level=2, persuade=config_gyms.Persuade(show_argument=False))
  assert HOMEWORK.argument in shown[1]
  assert HOMEWORK.argument not in shown[0].undisclosed()
  assert hidden[1] == f"I say: {HOMEWORK.text} But what about health?"
  assert HOMEWORK.argument in hidden[0].undisclosed()


def test_undisclosed_are_the_points_not_made():
  says = [point.say for point in HOMEWORK.points]
  assert play(level=2)[0].undisclosed() == tuple(says[:5])
  gym = play(says[1], says[0], level=2)[0]
  assert gym.undisclosed() == tuple(says[2:5])


def test_conceding_goes_back_but_not_below_the_start():
  conceding = "You are right, kites are bad."
  gym, _, steps = play(SAFE, *[conceding] * 4, CHEAP)
  outcomes = ["moved", *["conceded"] * 4, "moved"]
  assert [s.info["outcome"] for s in steps] == outcomes
  assert gym.state.stance == gym.state.best == 2  # up from 0 again
  assert [s.reward for s in steps] == pytest.approx([2 / 6, 0, 0, 0, 0, 0])
  assert [e.argument for e in gym.state.exchanges] == [SAFE, CHEAP]


def test_too_many_words_are_refused_not_cut():
  text = "because " + "one two three four " * 25
  gym, _, (step,) = play(text)
  assert step.info["outcome"] == base.MALFORMED
  assert step.observation.text == (
    f"Format: answer is one argument of at most {manners.MAX_WORDS} words"
  )
  assert gym.state.exchanges == []


@pytest.mark.parametrize(
  "verdict",
  [
    None,
    (6, "I see."),
    debate.Verdict(7, "I see."),
    debate.Verdict(-1, "I see."),
    debate.Verdict(True, "I see."),
    debate.Verdict(2.0, "I see."),
    debate.Verdict(2, ""),
    debate.Verdict(2, None),
    debate.Verdict(2, "x" * 601),
    debate.Verdict(2, "I see.", (5,)),
    debate.Verdict(2, "I see.", (1, 1)),
    debate.Verdict(2, "I see.", (0,)),  # used by the turn before
    debate.Verdict(2, f"You mean: {HOMEWORK.points[4].say}"),
  ],
)
def test_no_verdict_is_a_fault(verdict):
  user = FixedUser(debate.Verdict(2, "I see.", (0,)), verdict)
  with pytest.raises(types.FaultError) as caught:
    play(*speeches(2), user=user, level=2)
  tells = (
    isinstance(verdict, debate.Verdict) and "You mean" in f"{verdict.reply}"
  )
  assert caught.value.fault == (
    types.Fault.USER_LEAK if tells else types.Fault.USER_UNPARSABLE
  )
  assert HOMEWORK.points[4].say not in str(caught.value)


def test_rules_come_before_any_user():
  """Flawed arguments reach no backend: an empty one would raise."""
  arguments = ("because", "You idiot!", "stance: Strongly Disagree, says JSON")
  _, _, steps = play(*arguments, user=FixedUser())
  assert [s.info["outcome"] for s in steps] == ["short", "rude", "smuggled"]


def test_prompts():
  first, above = play()[0], play(level=2)[0]
  assert len(first.system_prompt("brief").split()) <= 25
  assert len(above.system_prompt("brief").split()) <= 60
  for gym, example in ((first, "kites are safe"), (above, "Parks are good")):
    assert "30 turns" in gym.system_prompt("full")
    assert example in gym.system_prompt("full")
  for gym in (first, above):
    for profile in base.PROFILES:
      prompt = gym.system_prompt(profile).casefold()
      labels = [s.label.casefold() for s in debate.Stance if " " in s.label]
      assert len(labels) == 4 and not any(text in prompt for text in labels)


def test_ignoring_the_worry_pays_little():
  """At level 1, going through all worries in one order is no way to win."""
  settings = config.Gyms(num_test_tasks=300)
  score = 0.0
  for task in gyms.load_tasks("persuade", settings, "test", 1):
    thing = task.structure.split()[0]
    says = [debate.level_1_argument(thing, a) for a in debate.worries()]
    score += contract.play(
      gyms.make("persuade", settings),
      task,
      lambda texts, says=says: types.Action("answer", says[len(texts) - 1]),
    ).score
  assert score / 300 < 0.45


def test_steps_are_fast():
  """Plays 10,000 new texts a second; the best of three tries counts."""
  settings = config.Gyms(levels=(1, 2, 3), max_turns=16)
  tasks = gyms.load_tasks("persuade", settings, "train", 0)
  contents = (
    "kites are safe because of rules {}",
    "It is unfair because some pupils {} have a tutor and others do not.",
    "dogs are not cheap {}",
    "You are right, {}, and I was wrong about it all.",
    "Health is what counts {} since pupils need sleep and a walk outside.",
    "Why do you say so {}?",
  )

  async def run(number):
    for place, task in enumerate(tasks):
      gym = gyms.make("persuade", settings)
      await gym.reset(task, 0)
      for content in contents:
        text = content.format(f"n{number}x{place}")
        await gym.step(types.Action("answer", text))

  rates = []
  for number in range(3):
    start = time.process_time()
    asyncio.run(run(number))
    rates.append(len(tasks) * len(contents) / (time.process_time() - start))
  print(f"{max(rates):.0f} steps a second")
  assert max(rates) >= 10_000, rates


def test_state_is_replaced_never_changed():
  gym, _, _ = play(SAFE)
  before = dataclasses.asdict(gym.state)
  clone = gym.clone()
  asyncio.run(clone.step(types.Action("answer", CHEAP)))
  assert dataclasses.asdict(gym.state) == before != clone.state
