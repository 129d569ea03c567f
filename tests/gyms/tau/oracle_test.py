"""Tau's demonstrator has fixed habits, and wins."""

import collections
import random

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.tau import generate
from userrl_jax.gyms.tau import gym as gym_lib
from userrl_jax.gyms.tau import oracle
from userrl_jax.gyms.tau import pack


def play(task, seed=0, noise=0.0, **settings):
  settings = config.Gyms(**{"levels": (1, 2, 3), "max_turns": 16} | settings)
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  return contract.play(gyms.make("tau", settings), task, player.next_action)


@pytest.mark.parametrize("profile", gym_lib.TauGym.reward_profiles)
@pytest.mark.parametrize("level, num_turns", [(1, 2), (2, 14), (3, 14)])
@pytest.mark.parametrize("split", gyms.SPLITS)
def test_wins_within_the_turns(level, num_turns, split, profile):
  tasks = generate.tasks(21, (level,), split, 40)
  tasks += tuple(t for t in pack.read() if (t.level, t.split) == (level, split))
  for task in tasks:
    record = play(task, reward_profile=profile)
    assert record.score == 1 and len(record.steps) <= num_turns
    assert record.steps[-1].info["success"]


def test_level_1_moves_follow_from_the_texts_alone():
  moves = collections.defaultdict(set)
  for task in generate.tasks(3, (1,), "train", 400):
    record = play(task)
    for turn, action in enumerate(record.actions):
      moves[tuple(record.texts[: turn + 1])].add(action)
  assert len(moves) > 150
  assert all(len(actions) == 1 for actions in moves.values())
  # What can be done begins just as what cannot does.
  first = {texts for texts in moves if len(texts) == 1}
  second = collections.Counter(texts[:1] for texts in moves if len(texts) == 2)
  assert max(second[texts] for texts in first) > 1


def test_asks_before_it_uses_what_the_user_knows():
  for task in generate.tasks(4, (2,), "train", 60):
    record = play(task)
    found = [a.content for a in record.actions]
    assert found[0] == oracle.EMAIL
    place = next(i for i, c in enumerate(found) if c.startswith("find_user"))
    key = found[place].split(maxsplit=1)[1]
    told = " ".join(record.texts[: place + 1])
    assert all(word in told for word in key.split())
    writes = [
      i
      for i, step in enumerate(record.steps)
      if step.info["outcome"] == "write"
    ]
    assert len(writes) == 1  # and the user has just said yes to it
    assert record.steps[writes[0] - 1].info["outcome"] == "agreed"


def test_noise_is_random_moves_that_often_do_no_harm():
  tasks = generate.tasks(5, (1,), "train", 200)
  records = [play(t, i, 0.25, max_turns=6) for i, t in enumerate(tasks)]
  scores = [record.score for record in records]
  assert 0.85 < sum(scores) / len(scores) < 1
  outcomes = {s.info["outcome"] for r in records for s in r.steps}
  assert "error" in outcomes and base.MALFORMED not in outcomes
  assert play(tasks[0], 7, 0.5).actions == play(tasks[0], 7, 0.5).actions
