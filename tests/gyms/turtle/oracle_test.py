"""The demonstrator of Turtle plays from what it reads, and wins."""

import random

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.turtle import generate
from userrl_jax.gyms.turtle import gym as turtle_gym
from userrl_jax.gyms.turtle import oracle
from userrl_jax.gyms.turtle import pack
from userrl_jax.gyms.turtle import story


def play(task, noise=0.0, seed=0, user=None, answer_limit=2, max_turns=16):
  settings = config.Gyms(
    levels=(1, 2, 3),
    max_turns=max_turns,
    turtle=config_gyms.Turtle(answer_limit=answer_limit),
  )
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  gym = turtle_gym.TurtleGym(settings, user)
  return contract.play(gym, task, player.next_action)


@pytest.mark.parametrize("level, num_turns", [(1, 5), (2, 10), (3, 16)])
@pytest.mark.parametrize("split", generate.SPLITS)
def test_wins_generated_stories_with_one_answer(level, num_turns, split):
  for task in generate.tasks(21, (level,), split, 60):
    record = play(task, answer_limit=1)
    assert record.score == 1 and len(record.steps) <= num_turns
    assert [a.choice for a in record.actions].count("answer") == 1


def test_wins_every_story_of_the_pack():
  for task in pack.read():
    record = play(task, answer_limit=1, max_turns=6)
    assert record.score == 1, record.texts
    replies = record.texts[1:-1]
    assert set(replies) <= {"Yes.", "No."} and "Yes." in replies


def test_reads_generated_stories_off_the_replies_alone():
  """The same scene and replies lead to the same moves, whatever is true."""
  listed = {"who": ("son", "aunt", "boss"), "why": ("lost", "dead", "sick")}
  moves = {}
  for who in listed["who"]:
    for why in listed["why"]:
      truth = {"who": who, "why": why}
      task = generate.task("t", "train", 1, "Tom", "cup", truth, listed)
      record = play(task)
      for turn, action in enumerate(record.actions):
        texts = tuple(record.texts[: turn + 1])
        assert moves.setdefault(texts, action) == action
  assert len(moves) > 8


class ModelUser:
  """Says one thing to every question, and takes no retelling."""

  def __init__(self, said):
    self._said = said

  async def yes_no(self, tale, question):
    return self._said

  async def grade(self, tale, text):
    return (0,) * len(tale.criteria)


@pytest.mark.parametrize("said", story.Verdict)
@pytest.mark.parametrize("noise", (0.0, 0.3))
def test_plays_on_whatever_the_user_says(said, noise):
  for task in generate.tasks(21, (1, 2, 3), "train", 9):
    record = play(task, noise, user=ModelUser(said), max_turns=20)
    assert record.actions[-1].choice == "answer"
    assert len(record.steps) <= 20


def test_the_last_turn_is_an_answer():
  for task in generate.tasks(3, (3,), "train", 5):
    record = play(task, max_turns=3)
    assert [a.choice for a in record.actions] == ["action", "action", "answer"]


def test_noise_is_random_moves_and_keeps_the_last_answer():
  tasks = generate.tasks(5, (1,), "train", 80)
  records = [play(t, 0.3, seed) for seed, t in enumerate(tasks)]
  assert all(record.score == 1 for record in records)
  outcomes = [s.info["outcome"] for r in records for s in r.steps]
  assert "no_better" in outcomes and base.MALFORMED not in outcomes
  assert sum(len(r.steps) for r in records) > 4.5 * len(records)
  assert play(tasks[0], 0.5, 7).actions == play(tasks[0], 0.5, 7).actions


def test_guessing_without_questions_earns_about_half():
  """Else no agent would learn to ask."""
  settings = config.Gyms(num_test_tasks=200)
  score = 0.0
  tasks = gyms.load_tasks("turtle", settings, "test", 1)
  for task in tasks:
    _, who, why = task.public["surface"].split("? ")
    whos, whys = (x.partition(".")[0].split() for x in (who, why))

    def player(texts, whos=whos, whys=whys):
      turn = len(texts) - 1
      person = 0 if texts[-1].startswith("1 of") else turn
      truth = {"who": whos[person % 3], "why": whys[turn % 3]}
      return types.Action("answer", generate.retelling(truth))

    score += contract.play(gyms.make("turtle", settings), task, player).score
  assert 0.3 < score / len(tasks) < 0.55
