"""Bits that turns of Telepathy tell: by hand, and never above the entropy."""

import dataclasses
import itertools
import math
import random

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import subjects
from userrl_jax.gyms.telepathy import gains
from userrl_jax.gyms.telepathy import generate
from userrl_jax.gyms.telepathy import gym
from userrl_jax.gyms.telepathy import world

# Two of the six are alive.
SIX = ("dog", "oak", "sock", "bus", "moon", "drum")
ALIVE = ("action", "Is it alive?")
FREE = config_gyms.Telepathy(guess_limit=0)
SETTINGS = config.Gyms(levels=(1, 2, 3), num_test_tasks=30, telepathy=FREE)


def task(name="drum"):
  return generate.task("t", "test", 1, name, SIX)


def told(*moves, own=None, settings=SETTINGS):
  """Returns the bits of moves, which are really played."""
  own = own or task()
  queue = iter(moves)
  record = subjects.play(
    gyms.make("telepathy", dataclasses.replace(settings, max_turns=len(moves))),
    own,
    lambda texts: types.Action(*next(queue)),
  )
  return gains.information(own, subjects.turns(record))


def test_the_things_counted_by_hand_are_of_the_world():
  alive = [world.entities()[n].values["alive"] for n in SIX]
  assert alive.count(world.Verdict.YES) == 2
  assert alive.count(world.Verdict.NO) == 4


@pytest.mark.parametrize(
  ("moves", "counts"),
  [
    ([ALIVE], (6, 4)),
    ([ALIVE, ALIVE], (6, 4, 4)),  # asked again
    ([("action", "Is it not alive?"), ALIVE], (6, 4, 4)),  # the same, denied
    ([("action", "Tell me the name.")], (6, 6)),  # no question of the world
    ([("action", "Is it alive or big?")], (6, 6)),  # several at once
    ([("action", "Is it a dog?")], (6, 5)),
    ([("action", "Is it a drum?"), ALIVE], (6, 1, 1)),
    ([ALIVE, ("answer", "bus")], (6, 4, 3)),
    ([ALIVE, ("answer", "dog")], (6, 4, 4)),  # was out already
    ([ALIVE, ("answer", "kite")], (6, 4, 4)),  # never was in
    ([ALIVE, ("answer", "a drum")], (6, 4, 1)),  # the right one tells the rest
    ([("answer", "a, b"), ALIVE], (6, 6, 4)),
    ([("answer", "<x>"), ALIVE], (6, 6, 4)),  # malformed
  ],
)
def test_bits_by_hand(moves, counts):
  bits = [math.log2(n / m) for n, m in itertools.pairwise(counts)]
  assert told(*moves) == pytest.approx(bits, abs=1e-12)


def test_yes_and_no_tell_as_much_as_they_are_rare():
  (yes,), (no,) = told(ALIVE, own=task("dog")), told(ALIVE)
  assert (yes, no) == pytest.approx((1.585, 0.585), abs=1e-3)


def test_the_last_wrong_guess_tells_too():
  one = dataclasses.replace(
    SETTINGS, telepathy=config_gyms.Telepathy(guess_limit=1)
  )
  for move in (("answer", "bus"), ("action", "Is it a bus?")):
    assert told(move, own=task(), settings=one) == pytest.approx(
      [math.log2(6 / 5)]
    )


def test_a_shown_reward_hides_no_reply():
  turn = types.Turn("", types.Action(*ALIVE), "No.\nReward: 0", 0.0)
  assert gains.information(task(), [turn]) == pytest.approx([math.log2(6 / 4)])


def test_a_reply_that_fits_nothing_tells_nothing():
  """As of a model that errs, or that knows more than the world."""
  turns = [
    types.Turn("", types.Action(*ALIVE), "Maybe.", 0.0),
    types.Turn("", types.Action("action", "Is it lucky?"), "Yes.", 0.0),
    types.Turn("", types.Action(*ALIVE), "", 0.0, types.Fault.USER_TIMEOUT),
    types.Turn("", None, "hint", 0.0, types.Fault.AGENT_MALFORMED),
    types.Turn("", types.Action(*ALIVE), "No.", 0.0),
  ]
  bits = gains.information(task(), turns)
  assert bits == pytest.approx([0, 0, 0, 0, math.log2(6 / 4)])


def test_what_the_first_message_leaves():
  hints = ("alive", "big")
  by_level = {
    level: generate.task("t", "test", level, "dog", hints=own)
    for level, own in ((2, ()), (3, ()), (4, hints))
  }
  assert len(gains.possible(by_level[2])) == 6
  assert len(gains.possible(by_level[3])) == 48
  dog = world.entities()["dog"]
  like = {
    e.name
    for e in world.entities().values()
    if all(e.values[key] == dog.values[key] for key in hints)
  }
  three = dataclasses.replace(by_level[3], public=by_level[4].public)
  three = dataclasses.replace(
    three, public={"hints": by_level[4].public["hints"]}
  )
  assert gains.possible(three) == like and "dog" in like and len(like) < 48


@pytest.mark.parametrize(
  "secret",
  [
    {},
    {"name": "unicorn", "aliases": (), "gloss": "x - y"},
    {"name": "dog", "aliases": (), "gloss": "another dog"},
  ],
)
def test_nobody_counts_for_things_outside_the_world(secret):
  own = dataclasses.replace(task(), secret=types.Secret(secret))
  turn = types.Turn("", types.Action(*ALIVE), "No.", 0.0)
  assert gains.information(own, [turn]) == (None,)


@pytest.mark.parametrize("split", ("train", "fresh", "dev", "test"))
def test_bits_of_generated_tasks_stay_within_the_entropy(split):
  rng = random.Random(0)
  num_won = 0
  for own in gyms.load_tasks("telepathy", SETTINGS, split, seed=1):
    for noise in (0.0, 0.5):
      player = gyms.oracle("telepathy")(own, rng, noise, SETTINGS)
      settings = dataclasses.replace(SETTINGS, max_turns=9)
      record = subjects.play(
        gyms.make("telepathy", settings), own, player.next_action
      )
      bits = gyms.information(own, subjects.turns(record))
      entropy = math.log2(len(gains.possible(own)))
      assert min(bits) >= 0 and sum(bits) <= entropy + 1e-9
      if record.score:  # who found it has been told everything
        num_won += 1
        assert sum(bits) == pytest.approx(entropy)
  assert num_won > 30
  assert gym.RIGHT not in gym.REPLIES.values()
