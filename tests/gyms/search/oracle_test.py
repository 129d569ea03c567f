"""The demonstrator searches, reads and wins."""

import random

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.search import generate
from userrl_jax.gyms.search import oracle
from userrl_jax.gyms.search import released


def play(task, seed=0, noise=0.0, max_turns=8, **knobs):
  settings = config.Gyms(
    max_turns=max_turns, search=config_gyms.Search(**knobs)
  )
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  return contract.play(gyms.make("search", settings), task, player.next_action)


@pytest.mark.parametrize(
  "level, count, num_turns", [(1, 300, 2), (2, 30, 3), (3, 30, 5)]
)
@pytest.mark.parametrize("split", ("train", "dev", "test"))
def test_wins_with_what_it_has_read(level, count, num_turns, split):
  tasks = generate.tasks(21, (level,), split, count)
  for task in (*tasks, *released.read_pack()):
    if task.level != level or task.split != split:
      continue
    record = play(task, answer_limit=1)
    assert record.score == 1 and len(record.steps) <= num_turns
    choices = [action.choice for action in record.actions]
    assert choices.count("answer") == 1 and choices[-1] == "answer"
    if not task.public["question"].startswith("How many years"):
      read = "\n".join(record.texts[:-1])
      assert task.secret.reveal()["answer"] in read


def test_moves_are_the_same_every_time():
  for task in generate.tasks(3, (1, 2, 3), "train", 30):
    assert play(task, seed=0).actions == play(task, seed=1).actions
  assert play(task, 7, 0.5).actions == play(task, 7, 0.5).actions


def test_noise_is_random_moves_and_keeps_the_last_answer():
  tasks = generate.tasks(5, (1,), "train", 150)
  records = [play(t, i, 0.3, max_turns=20) for i, t in enumerate(tasks)]
  assert all(record.score == 1 for record in records)
  outcomes = [s.info["outcome"] for r in records for s in r.steps]
  assert "wrong" in outcomes and base.MALFORMED not in outcomes
  assert sum(len(r.steps) - 2 for r in records) > 60


def test_answers_when_searches_or_turns_run_out():
  task = next(
    t
    for t in generate.tasks(5, (3,), "train", 20)
    if len(t.secret.reveal()["queries"]) == 3
  )
  for knobs in ({"search_limit": 2}, {"max_turns": 3}):
    record = play(task, **knobs)
    choices = [action.choice for action in record.actions]
    assert choices == ["search", "search", "answer"]
  assert len(play(task, search_limit=0).actions) == 4
