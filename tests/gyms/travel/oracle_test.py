"""The demonstrator plays from what it reads, and wins."""

import collections
import random

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import contract
from userrl_jax.gyms.travel import canned
from userrl_jax.gyms.travel import generate
from userrl_jax.gyms.travel import gym as gym_lib
from userrl_jax.gyms.travel import oracle


def play(task, seed=0, noise=0.0, **settings):
  settings = config.Gyms(**{"levels": (1, 2, 3), "max_turns": 20} | settings)
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  gym = gyms.make("travel", settings)
  return gym, contract.play(gym, task, player.next_action)


@pytest.mark.parametrize("profile", gym_lib.TravelGym.reward_profiles)
@pytest.mark.parametrize("level, max_turns", [(1, 6), (2, 10), (3, 15)])
def test_reaches_the_maximum_within_the_turns(level, max_turns, profile):
  for task in generate.tasks(21, (level,), "train", 120):
    gym, record = play(task, reward_profile=profile, max_turns=max_turns)
    assert record.score == pytest.approx(gym.max_score)
    assert record.steps[-1].info["success"]


def test_level_1_has_fixed_habits():
  lengths = set()
  for task in generate.tasks(3, (1,), "train", 60):
    _, record = play(task, max_turns=6)
    search, *questions, answer = record.actions
    name = task.secret.reveal()["aspects"][0]["aspect"]
    city = task.public["opening"].split()[-1].rstrip(".")
    assert search == types.Action("search", f"{name} {city}")
    topics = [t for aspect, t in generate.LEVEL_1_TOPICS if aspect == name]
    asked = [f"Do you want a {t}?" for t in topics[: len(questions)]]
    assert [q.content for q in questions] == asked
    assert record.texts[2:-1] == [
      *["No."] * (len(questions) - 1),
      f"Yes, a {topics[len(questions) - 1]}.",
    ]
    assert answer.choice == "answer"
    lengths.add(len(questions))
  assert lengths == {1, 2, 3, 4}


def test_answer_comes_from_observations_not_from_the_task():
  """Told other options and another wish, it goes by what it was told."""
  task = generate.tasks(3, (1,), "train", 1)[0]
  player = oracle.Oracle(task, random.Random(0))
  texts = ["I want a hotel in Oslo."]
  assert player.next_action(texts).content == "hotel Oslo"
  texts.append("H4 view gym 20, H3 spa pool 30, H9 gym pool 40, H1 view spa 50")
  assert player.next_action(texts).content == "Do you want a view?"
  texts.append("No.")
  assert player.next_action(texts).content == "Do you want a pool?"
  texts.append("Yes, a pool.")
  assert player.next_action(texts) == types.Action("answer", "H3")


def test_outage_and_volunteered_wish_are_understood():
  task = generate.tasks(3, (1,), "train", 1)[0]
  player = oracle.Oracle(task, random.Random(0))
  texts = ["I want a flight to Rome."]
  for said in (gym_lib.OUTAGE, "F1 meal bag 20, F2 film bed 30"):
    assert player.next_action(texts).content == "flight Rome"
    texts.append(said)
  assert player.next_action(texts).content == "Do you want a meal?"
  texts.append("Also, a bed.")
  assert player.next_action(texts) == types.Action("answer", "F2")


def test_it_answers_with_its_last_turns():
  """Before that it rules out what it can: the next topic is its guess."""
  task = generate.tasks(3, (1,), "train", 1)[0]
  player = oracle.Oracle(
    task, random.Random(0), settings=config.Gyms(max_turns=3)
  )
  texts = ["I want a hotel in Oslo.", "H1 view gym 20, H2 spa pool 30", "No."]
  moves = [player.next_action(texts[: i + 1]) for i in range(3)]
  assert [m.choice for m in moves] == ["search", "action", "answer"]
  assert moves[-1].content == "H2"
  for task in generate.tasks(3, (3,), "train", 30):
    _, record = play(task, max_turns=8)
    assert record.steps[-1].terminated


def test_noise_is_random_moves_but_never_an_answer():
  scores, outcomes = [], []
  for seed, task in enumerate(generate.tasks(5, (1,), "train", 200)):
    gym, record = play(task, seed, noise=0.3, max_turns=12)
    assert sum(a.choice == "answer" for a in record.actions) == 1
    scores.append(record.score / gym.max_score)
    outcomes += [s.info["outcome"] for s in record.steps]
  assert sum(score > 0.999 for score in scores) > 150
  assert {"no_match", "repeated"} <= set(outcomes)
  assert "malformed" not in outcomes
  assert play(task, 7, 0.5)[1].actions == play(task, 7, 0.5)[1].actions


def test_canned_moves_are_all_of_level_1():
  rng = random.Random(0)
  moves = [canned.random_move(rng) for _ in range(2000)]
  assert collections.Counter(move.choice for move in set(moves)) == {
    "search": 15,
    "action": 12,
    "answer": 12,
  }


def test_hacks_are_many_and_hold_the_answer():
  task = generate.tasks(3, (1,), "train", 1)[0]
  hacks = canned.hacks(task)
  assert len(set(hacks)) == len(hacks) >= 40
  _, record = play(task)
  best = record.actions[-1]
  assert best not in hacks
  assert types.Action("answer", best.content.lower()) in hacks
