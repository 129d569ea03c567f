"""The demonstrator plays from what it reads, and wins."""

import collections
import random

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.telepathy import generate
from userrl_jax.gyms.telepathy import gym as telepathy_gym
from userrl_jax.gyms.telepathy import oracle
from userrl_jax.gyms.telepathy import world


def play(task, seed=0, noise=0.0, guess_limit=0, **settings):
  settings = config.Gyms(
    levels=(1, 2, 3),
    telepathy=config_gyms.Telepathy(guess_limit=guess_limit),
    **settings,
  )
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  return contract.play(
    gyms.make("telepathy", settings), task, player.next_action
  )


@pytest.mark.parametrize("level, num_turns", [(1, 4), (2, 5), (3, 8)])
@pytest.mark.parametrize("split", generate.SPLITS)
def test_wins_within_the_turns(level, num_turns, split):
  for task in generate.tasks(21, (level,), split, 150):
    record = play(task, max_turns=8, guess_limit=1)
    assert record.score == 1 and len(record.steps) <= num_turns
    assert [a.choice for a in record.actions].count("answer") == 1


@pytest.mark.parametrize("name", world.entities())
@pytest.mark.parametrize("level", (2, 3))
def test_wins_without_hints(name, level):
  task = generate.task("t", "train", level, name)
  record = play(task, max_turns=8)
  assert record.score == 1 and len(record.steps) <= {2: 5, 3: 8}[level]


def test_moves_follow_from_what_was_read_alone():
  """On equal texts it does the same, whatever the thing is."""
  moves = collections.defaultdict(set)
  six = ("dog", "oak", "bus", "drum", "plum", "sock")
  for name in six:
    record = play(generate.task("t", "train", 1, name, six))
    for turn, action in enumerate(record.actions):
      moves[tuple(record.texts[: turn + 1])].add(action)
  assert len(moves) > 8
  assert all(len(actions) == 1 for actions in moves.values())


def test_ignores_replies_to_moves_that_were_not_its_own():
  task = generate.tasks(3, (1,), "train", 1)[0]
  player = oracle.Oracle(task, random.Random(0))
  first = f"One of: {' '.join(task.public['candidates'])}"
  asked = player.next_action([first, "No.", "Maybe."])
  assert asked == oracle.Oracle(task, random.Random(0)).next_action([first])


class ModelUser:
  """Says one thing to every question, as a model might."""

  def __init__(self, said):
    self._said = said

  async def yes_no(self, secret, question):
    return self._said

  async def is_right(self, secret, guess):
    return guess == secret["name"]


@pytest.mark.parametrize("guess_limit", (0, 1))
@pytest.mark.parametrize("level", generate.LEVELS)
@pytest.mark.parametrize("said", world.Verdict)
def test_plays_on_whatever_the_user_says(said, level, guess_limit):
  settings = config.Gyms(
    levels=(level,),
    max_turns=40,
    telepathy=config_gyms.Telepathy(guess_limit=guess_limit),
  )
  for noise in (0.0, 0.3):
    for task in generate.tasks(21, (level,), "train", 15):
      gym = telepathy_gym.TelepathyGym(settings, ModelUser(said))
      player = oracle.Oracle(task, random.Random(0), noise, settings)
      record = contract.play(gym, task, player.next_action)
      moves = record.actions
      if not noise:  # nothing twice, while there is anything new
        assert len(set(moves)) == len(moves)
        if level == 1 and not guess_limit:  # six guesses find it
          assert record.score == 1
      assert "answer" in {move.choice for move in moves}


def test_passes_over_what_contradicts_or_tells_nothing():
  six = ("dog", "oak", "bus", "drum", "plum", "sock")
  task = generate.task("t", "train", 1, "dog", six)
  player = oracle.Oracle(task, random.Random(0))
  texts = [f"One of: {' '.join(six)}"]
  for said in (
    "Hm?",
    "",
    "Maybe. One question at a time.",
    "Maybe.",
    "Format: ",
  ):
    assert player.next_action(texts).choice == "action"
    texts.append(said)
  guesses = []
  for _ in range(12):
    move = player.next_action(texts)
    guesses += [move.content] * (move.choice == "answer")
    texts.append("No." if move.choice == "action" else "Wrong.")
  assert set(guesses[:6]) == set(six)


def test_last_turn_is_a_guess_among_what_is_left():
  six = ("dog", "oak", "bus", "drum", "plum", "sock")
  record = play(generate.task("t", "train", 1, "sock", six), max_turns=3)
  assert [a.choice for a in record.actions] == ["action", "action", "answer"]
  assert record.actions[-1].content in ("drum", "plum", "sock", "dog")


def test_noise_is_random_moves_and_keeps_the_last_guess():
  tasks = generate.tasks(5, (1,), "train", 150)
  records = [
    play(t, seed, 0.3, guess_limit=2, max_turns=20)
    for seed, t in enumerate(tasks)
  ]
  assert all(record.score == 1 for record in records)
  outcomes = [s.info["outcome"] for r in records for s in r.steps]
  assert "wrong" in outcomes and base.MALFORMED not in outcomes
  exact = [play(t) for t in tasks]
  longer = [
    len(r.steps) - len(e.steps) for r, e in zip(records, exact, strict=True)
  ]
  assert sum(longer) > 30
  assert play(tasks[0], 7, 0.5).actions == play(tasks[0], 7, 0.5).actions
