"""The demonstrator plays from what it reads, and wins."""

import random
import re

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.intention import generate
from userrl_jax.gyms.intention import gym as gym_lib
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import oracle
from userrl_jax.gyms.intention import released
from userrl_jax.gyms.intention import scenario


def play(task, seed=0, noise=0.0, patience=0, **settings):
  settings = config.Gyms(
    **{"levels": (1, 2, 3), "max_turns": 20} | settings,
    intention=config_gyms.Intention(patience=patience),
  )
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  gym = gyms.make("intention", settings)
  return gym, contract.play(gym, task, player.next_action)


@pytest.mark.parametrize("profile", gym_lib.IntentionGym.reward_profiles)
@pytest.mark.parametrize("level, max_turns", [(1, 3), (2, 3), (3, 5)])
@pytest.mark.parametrize("split", generate.SPLITS)
def test_asks_for_each_open_detail_once(profile, level, max_turns, split):
  for task in generate.tasks(21, (level,), split, 100):
    gym, record = play(
      task, reward_profile=profile, max_turns=max_turns, patience=1
    )
    assert record.score == pytest.approx(gym.max_score)
    assert record.steps[-1].info["success"]
    assert len(record.steps) == len(scenario.details(task))


def test_every_task_of_the_pack():
  for task in released.read_pack():
    gym, record = play(task, patience=1)
    assert record.score == pytest.approx(gym.max_score)
    assert len(record.steps) == len(scenario.details(task))


def test_habits():
  """Level 1 from left to right; above, what matters most comes first."""
  for task in generate.tasks(3, (1,), "train", 60):
    words = task.public["request"].split()
    blanks = [word[:-1] for word in words if word.endswith("?")]
    _, record = play(task)
    assert [a.content for a in record.actions] == [f"What {b}?" for b in blanks]
  for task in generate.tasks(3, (2, 3), "train", 60):
    _, record = play(task, reward_profile="paper")
    rewards = [step.reward for step in record.steps]
    assert rewards == sorted(rewards, reverse=True)


def test_moves_follow_from_what_was_read_alone():
  """On another secret it asks the same, however the user takes it."""
  (task,) = generate.tasks(3, (1,), "train", 1)
  other = types.Secret({"details": ()})
  blind = types.Task(**{**vars(task), "secret": other})
  texts = [task.public["request"], "Hm.", "No matter.", "Format: what?"]
  seeing, blind = (oracle.Oracle(t, random.Random(0)) for t in (task, blind))
  for size in range(1, 5):
    assert seeing.next_action(texts[:size]) == blind.next_action(texts[:size])


class Deaf:
  """Covers nothing, as a model might."""

  async def cover(self, talk, remaining, question):
    return scenario.Verdict("vague")

  async def reply(self, talk, covered, question):
    raise AssertionError("nothing is covered")


@pytest.mark.parametrize("level", generate.LEVELS)
def test_asks_nothing_twice_while_there_is_anything_new(level):
  for task in generate.tasks(5, (level,), "test", 20):
    settings = config.Gyms(levels=(level,), max_turns=12)
    gym = gym_lib.IntentionGym(settings, Deaf())
    player = oracle.Oracle(task, random.Random(0))
    record = contract.play(gym, task, player.next_action)
    size = len(scenario.details(task))
    first = [action.content for action in record.actions[:size]]
    assert len(set(first)) == size and len(record.actions) == 12


def test_what_noise_uncovers_is_not_asked_for_again():
  (task,) = generate.tasks(3, (1,), "train", 1)
  first, second, third = (q.slot for q in scenario.details(task))
  player = oracle.Oracle(task, random.Random(0))
  texts = [task.public["request"]]
  player._actions[1] = types.Action("action", f"What {first} or {second}?")
  texts.append("Both are told.")  # by a user that shows no form
  assert player.next_action(texts).content == f"What {third}?"
  player._actions[1] = types.Action("action", f"What {first}, {second} or x?")
  texts[1] = gym_lib.REPLIES[scenario.Kind.BROAD]
  assert player.next_action(texts[:2]).content != f"What {third}?"


def test_noise_is_random_moves_and_never_the_last_straw():
  tasks = generate.tasks(5, (1,), "train", 150)
  records = [play(t, seed, 0.3, patience=2)[1] for seed, t in enumerate(tasks)]
  assert all(record.score == pytest.approx(1) for record in records)
  outcomes = [s.info["outcome"] for r in records for s in r.steps]
  assert {"broad", "vague", "focused"} <= set(outcomes)
  assert base.MALFORMED not in outcomes
  assert 30 < sum(len(r.steps) - 3 for r in records) <= 150
  assert play(tasks[0], 7, 0.5)[1].actions == play(tasks[0], 7, 0.5)[1].actions


@pytest.mark.parametrize("patience, low, high", [(0, 0.8, 0.9), (2, 0.3, 0.5)])
def test_asking_for_every_slot_of_the_form_pays_less(patience, low, high):
  """A player who does not tell open from told; the oracle gets 1."""
  settings = config.Gyms(intention=config_gyms.Intention(patience=patience))
  score = 0.0
  tasks = generate.tasks(5, (1,), "test", 200)
  for task in tasks:
    words = re.findall(r"\w+", task.public["request"].partition(": ")[2])
    slots = [word for word in words if word in lexicon.SLOTS]

    def player(texts, slots=slots):
      return types.Action("action", f"What {slots[len(texts) - 1]}?")

    gym = gyms.make("intention", settings)
    score += contract.play(gym, task, player).score / len(tasks)
  assert low < score < high


@pytest.mark.parametrize("size", (1, 2))
def test_going_through_all_slots_without_reading_pays_little(size):
  """One at a time, or two: pairs with a slot that is not open get nothing."""
  names = lexicon.LEVEL_1_SLOTS
  score = 0.0
  tasks = generate.tasks(5, (1,), "test", 200)
  for task in tasks:

    def player(texts):
      start = (len(texts) - 1) * size
      asked = " or ".join(names[start : start + size])
      return types.Action("action", f"What {asked}?")

    gym = gyms.make("intention", config.Gyms())
    score += contract.play(gym, task, player).score / len(tasks)
  assert score < {1: 0.6, 2: 0.15}[size]
