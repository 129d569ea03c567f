"""The demonstrator argues from what it reads, and wins."""

import collections
import random

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import contract
from userrl_jax.gyms.persuade import canned
from userrl_jax.gyms.persuade import debate
from userrl_jax.gyms.persuade import generate
from userrl_jax.gyms.persuade import oracle


def play(task, seed=0, noise=0.0, **settings):
  settings = config.Gyms(**{"levels": (1, 2, 3), **settings})
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  return contract.play(
    gyms.make("persuade", settings), task, player.next_action
  )


@pytest.mark.parametrize("level, num_turns", [(1, 3), (2, 3), (3, 7)])
@pytest.mark.parametrize("split", generate.SPLITS)
def test_wins_within_the_turns(level, num_turns, split):
  for task in generate.tasks(21, (level,), split, 150):
    record = play(task, max_turns=num_turns)
    assert record.score == pytest.approx(1)
    assert len(set(record.actions)) == len(record.actions)


@pytest.mark.parametrize("claim", debate.claims())
def test_wins_against_every_user_of_every_claim(claim):
  for level in (2, 3):
    for first in range(7):
      places = [first, *(p for p in range(7) if p != first)]
      for points in (places[:5], [first, *places[3:]], places[:6]):
        task = generate.task("t", "train", level, claim, "", points)
        assert play(task, max_turns=7).score == pytest.approx(1)


def test_moves_follow_from_what_was_read_alone():
  """On equal texts it does the same, whatever the user is open to."""
  moves = collections.defaultdict(set)
  for points in ((0, 1, 2, 3, 4), (0, 2, 4, 5, 6), (0, 6, 5, 4, 3, 2)):
    for level in (2, 3):
      task = generate.task("t", "train", level, "school-uniforms", "", points)
      record = play(task, max_turns=7)
      for turn, action in enumerate(record.actions):
        moves[tuple(record.texts[: turn + 1])].add(action)
  assert any(len(texts) > 1 for texts in moves)
  assert all(len(actions) == 1 for actions in moves.values())


def test_noise_is_random_moves_and_does_no_harm():
  tasks = generate.tasks(5, (1, 2, 3), "train", 150)
  records = [play(t, seed, 0.3, max_turns=20) for seed, t in enumerate(tasks)]
  assert all(record.score == pytest.approx(1) for record in records)
  outcomes = {s.info["outcome"] for r in records for s in r.steps}
  assert {"unmoved", "short", "moved", "convinced"} <= outcomes
  assert sum(len(r.steps) for r in records) > 150 * 4
  assert play(tasks[0], 7, 0.5).actions == play(tasks[0], 7, 0.5).actions


def test_random_moves_are_of_level_1_and_well_formed():
  rng = random.Random(0)
  moves = {canned.random_move(rng) for _ in range(2000)}
  assert len(moves) == 64 and {m.choice for m in moves} == {"answer"}
  assert {m.content for m in moves} == {
    debate.level_1_argument(thing, adjective)
    for thing in debate.things()
    for adjective in debate.worries()
  }
