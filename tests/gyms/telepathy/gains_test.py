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
from userrl_jax.gyms import base
from userrl_jax.gyms import subjects
from userrl_jax.gyms.telepathy import gains
from userrl_jax.gyms.telepathy import generate
from userrl_jax.gyms.telepathy import gym
from userrl_jax.gyms.telepathy import world
from userrl_jax.users import profiles

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


RESTYLED = ("terse", "typos", "fickle", "chats", "presses")


@pytest.mark.parametrize("kind", [*RESTYLED, "all"])
@pytest.mark.parametrize("guess_limit", [0, 1, 2])
def test_a_true_reply_tells_as_much_in_other_words(kind, guess_limit):
  kinds = RESTYLED if kind == "all" else (kind,)
  moves = [
    ALIVE,
    ("action", "Is it alive or big?"),
    ("action", "Is it a bus?"),
    ("action", "Is it big?"),
  ]
  settings = dataclasses.replace(
    SETTINGS, telepathy=config_gyms.Telepathy(guess_limit=guess_limit)
  )
  if guess_limit == 1:
    moves = moves[:3]
  profile = profiles.Profile("other", **dict.fromkeys(kinds, 1.0))
  plain = told(*moves, settings=settings)
  turns = met(profile, *moves, settings=settings)
  assert gains.information(task(), turns) == plain and max(plain) > 0
  assert {turn.observation for turn in turns} - {*gym.REPLIES.values()}


@pytest.mark.parametrize(
  ("does", "outcome"),
  [
    ({"wrong": 1.0}, base.MISLED),
    ({"evades": 1.0}, base.EVADED),
    ({"patience": 0.0}, base.GONE),
  ],
)
def test_a_lie_and_no_reply_tell_nothing_and_rule_out_nothing(does, outcome):
  untold = met(profiles.Profile("other", **does), ALIVE)
  assert [turn.info["outcome"] for turn in untold] == [outcome]
  told_later = met(profiles.Profile("plain"), ALIVE)
  assert gains.information(task(), [*untold, *told_later]) == pytest.approx(
    [0, math.log2(6 / 4)]
  )


def test_turns_kept_without_a_verdict_are_read_by_their_words():
  turn = types.Turn(
    "", types.Action(*ALIVE), "No.", 0.0, info={"outcome": "no"}
  )
  assert gains.information(task(), [turn]) == pytest.approx([math.log2(6 / 4)])


def met(profile, *moves, settings=SETTINGS):
  """Returns the turns of moves, of a user with a manner."""
  queue = iter(moves)
  player = gyms.make(
    "telepathy", dataclasses.replace(settings, max_turns=len(moves))
  )
  player.manner = profiles.Manner(profile)
  record = subjects.play(
    player, task(), lambda texts: types.Action(*next(queue))
  )
  return subjects.turns(record)


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
