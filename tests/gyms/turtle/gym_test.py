"""The game of Turtle: rewards, counts, limits, and whom it believes."""

import asyncio
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.turtle import gym as turtle_gym
from userrl_jax.gyms.turtle import story

STORY = story.Story(
  "The Empty Chair",
  "A chair stands empty.",
  "It was kept for the cat.",
  tuple(
    story.Criterion(f"Point {i} of the tale.", weight)
    for i, weight in enumerate((10, 4, 4, 2))
  ),
)
QUESTION = "action Is it so?"


class FixedUser:
  """Says what it is given, in order; any value, also one that is none."""

  def __init__(self, *verdicts):
    self._verdicts = iter(verdicts)

  async def yes_no(self, tale, question):
    return next(self._verdicts)

  async def grade(self, tale, text):
    return next(self._verdicts)


def make_task(tale=STORY):
  return types.Task(
    "turtle",
    "t",
    "test",
    1,
    "s",
    {"title": tale.title, "surface": tale.surface},
    types.Secret({"story": tale}),
  )


def play(moves, verdicts, profile="default", **knobs):
  """Returns the gym and the steps of moves, whatever the moves say."""
  settings = config.Gyms(
    max_turns=30,
    reward_profile=profile,
    turtle=config_gyms.Turtle(**{"answer_limit": 0} | knobs),
  )

  async def run():
    gym = turtle_gym.TurtleGym(settings, FixedUser(*verdicts))
    await gym.reset(make_task(), 0)
    steps = []
    for move in moves:
      choice, _, content = move.partition(" ")
      steps.append(await gym.step(types.Action(choice, content)))
    return gym, steps

  return asyncio.run(run())


def tell(*points, **knobs):
  return play([f"answer {i}" for i, _ in enumerate(points)], points, **knobs)


@pytest.mark.parametrize("profile", base.Gym.reward_profiles)
def test_vector_4_of_the_specification(profile):
  """Weights .5 .2 .2 .1; all points told in full must end the game."""
  _, steps = play(
    [QUESTION, *["answer x"] * 4],
    ["Yes", (2, 0, 1, 0), (2, 2, 0, 0), (0, 0, 0, 0), (2, 2, 2, 2)],
    profile,
  )
  rewards = [step.reward for step in steps]
  assert rewards == pytest.approx([0, 0.6, 0.1, 0, 0.3], abs=1e-9)
  assert [s.terminated for s in steps] == [False] * 4 + [True]
  assert [s.info["success"] for s in steps] == [False] * 4 + [True]
  assert [s.info["outcome"] for s in steps] == [
    *("yes", "better", "better", "no_better", "right")
  ]
  assert sum(rewards) == pytest.approx(1.0, abs=1e-12)


def test_vector_5_of_the_specification():
  """The penalty grows with the turn; a reward is never below 0."""
  gym, steps = play(
    [QUESTION, "answer x", "answer y"],
    ["No", (2, 0, 1, 0), (2, 2, 2, 2)],
    step_penalty=0.01,
  )
  rewards = [step.reward for step in steps]
  assert rewards == pytest.approx([0, 0.58, 0.37], abs=1e-9)
  assert gym.max_score == pytest.approx(0.99)
  assert tell((2, 2, 2, 2), step_penalty=0.01)[1][0].reward == pytest.approx(
    gym.max_score
  )


def test_no_story_of_the_pack_loses_to_rounding():
  """Told in full, all stories add up to exactly 1 and end."""
  settings = config.Gyms(tasks="pack", levels=(1, 2, 3))
  for task in gyms.load_tasks("turtle", settings, "train", 0):
    count = len(story.of_task(task).criteria)
    gym = turtle_gym.TurtleGym(settings, FixedUser((2,) * count))
    asyncio.run(gym.reset(task, 0))
    step = asyncio.run(gym.step(types.Action("answer", "x")))
    assert step.reward == 1.0 and step.terminated


def test_counts_tell_how_many_and_never_which():
  _, steps = tell((2, 0, 1, 0), (0, 2, 0, 1), (0, 0, 0, 0), (2, 2, 2, 0))
  assert [step.observation.text for step in steps] == [
    "1 of 4 points right, 1 partly.",
    "1 of 4 points right, 1 partly.",
    "0 of 4 points right.",
    "3 of 4 points right.",
  ]
  # The best is over the whole story: parts of several tellings do not add up.
  assert [s.reward for s in steps] == pytest.approx([0.6, 0, 0, 0.3])


def test_answer_limit():
  gym, steps = tell((2, 0, 0, 0), (0, 0, 0, 0), answer_limit=2)
  assert [s.terminated for s in steps] == [False, True]
  assert steps[1].observation.text == "0 of 4 points right. No answers left."
  assert not steps[1].info["success"]
  for profile in base.PROFILES:
    assert "2 answers at most." in gym.system_prompt(profile)
    assert "1 answer at most." in tell(answer_limit=1)[0].system_prompt(profile)
    assert "at most" not in tell()[0].system_prompt("brief")
  _, (step,) = tell((2, 2, 2, 2), answer_limit=1)  # right with the last one
  assert step.info["success"] and step.observation.text == "Correct."


@pytest.mark.parametrize(
  "move, hint",
  [
    ("answer " + "word " * 91, "answer has at most 90 words"),
    ("action " + "x" * 201, "a question has at most 200 characters"),
  ],
)
def test_too_long_is_refused_and_costs_no_answer(move, hint):
  gym, (step,) = play([move], [], answer_limit=1)
  assert step.observation.text == f"Format: {hint}"
  assert step.info["outcome"] == base.MALFORMED and not step.terminated
  assert gym.state.num_answers == 0


@pytest.mark.parametrize(
  "verdict, text",
  [
    ("Yes", "Yes."),
    ("No", "No."),
    ("Maybe", "Maybe."),
    ("Several", "Maybe. One question at a time."),
    ("Unclear", "Maybe. Ask for a yes or a no."),
  ],
)
def test_replies_to_questions(verdict, text):
  _, (step,) = play([QUESTION], [verdict])
  assert step.observation.text == text and step.reward == 0
  assert step.info["outcome"] == verdict.lower()


@pytest.mark.parametrize("said", ["", "yes", "Yes.", None, True, 1])
def test_verdict_on_a_question_out_of_range_is_a_fault(said):
  with pytest.raises(types.FaultError) as caught:
    play([QUESTION], [said])
  assert caught.value.fault == types.Fault.USER_UNPARSABLE


@pytest.mark.parametrize(
  "points",
  [
    (2, 2, 2),
    (2, 2, 2, 2, 2),
    (5, 2, 2, 2),
    (-1, 2, 2, 2),
    (True, 2, 2, 2),
    (1.0, 2, 2, 2),
    [2, 2, 2, 2],
    None,
  ],
)
def test_points_out_of_range_are_a_fault(points):
  with pytest.raises(types.FaultError) as caught:
    tell(points)
  assert caught.value.fault == types.Fault.USER_UNPARSABLE


def test_a_fault_spends_no_turn_and_no_answer():
  settings = config.Gyms()

  async def run():
    user = FixedUser(None, (2, 2, 2, 2))
    gym = turtle_gym.TurtleGym(settings, user)
    await gym.reset(make_task(), 0)
    before = gym.state
    with pytest.raises(types.FaultError):
      await gym.step(types.Action("answer", "x"))
    assert gym.state == before
    return await gym.step(types.Action("answer", "x"))

  assert asyncio.run(run()).reward == 1.0


def test_the_story_stays_hidden_to_the_end():
  gym, steps = tell((2, 0, 1, 0), (2, 2, 2, 2))
  hidden = gym.undisclosed()
  assert hidden == (STORY.bottom, *(c.statement for c in STORY.criteria))
  for step in steps:
    assert not any(text in step.observation.text for text in hidden)


def test_rules_refuse_what_they_have_no_facts_for():
  gym = gyms.make("turtle", config.Gyms())
  with pytest.raises(ValueError, match="user.kind=endpoint"):
    asyncio.run(gym.reset(make_task(), 0))


@pytest.mark.parametrize(
  "knobs, name",
  [
    ({"answer_limit": -1}, "answer_limit"),
    ({"step_penalty": -0.1}, "step_penalty"),
    ({"step_penalty": 1.5}, "step_penalty"),
  ],
)
def test_bad_knobs_are_named(knobs, name):
  with pytest.raises(ValueError, match=name):
    play([], [], **knobs)


def test_brief_prompt_of_level_1_is_brief():
  gym = tell()[0]
  assert len(gym.system_prompt("brief").split()) <= 40


def test_steps_are_fast():
  """Plays 10,000 steps a second, a third of them of new texts."""
  settings = config.Gyms(turtle=config_gyms.Turtle(answer_limit=0))
  tasks = gyms.load_tasks("turtle", settings, "train", 0)
  contents = (
    ("action", "Is it the son?"),
    ("action", "Is the boss lost?"),
    ("action", "Is it about a dog {}?"),
    ("action", "Is the maid abroad?"),
    ("answer", "The aunt is sick."),
    ("answer", "The maid, who is dead, hides {}."),
  )

  async def run(number):
    for place, task in enumerate(tasks):
      gym = gyms.make("turtle", settings)
      await gym.reset(task, 0)
      for choice, content in contents:
        text = content.format(f"n{number}x{place}")
        await gym.step(types.Action(choice, text))

  rates = []
  for number in range(3):
    start = time.process_time()
    asyncio.run(run(number))
    rates.append(len(tasks) * len(contents) / (time.process_time() - start))
  assert max(rates) >= 10_000, rates
