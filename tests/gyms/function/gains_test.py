"""Bits that turns of Function tell of the rule: by hand, and against counting.

The counts by hand are of the 57 functions of level 1.
"""

import dataclasses
import math
import random

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import subjects
from userrl_jax.gyms.function import gains
from userrl_jax.gyms.function import generate

SETTINGS = config.Gyms(levels=(1, 2, 3), num_test_tasks=30)
RULE, TEST_CASE = "a + b - c + d", (2, 5, 1, 3)  # 9 there
# Of the 57: f(1, 0, 0, 0) is 1 in 20; f(0, 0, 1, 0) is -1 in 16 of all.
FIRST = math.log2(57 / 20)


def task(rule=RULE, test_case=TEST_CASE, level=1):
  return generate.task("t", "test", level, rule, test_case)


def told(*moves, rule=RULE, test_case=TEST_CASE, level=1):
  """Returns the bits of moves, which are really played."""
  own = task(rule, test_case, level)
  queue = iter(moves)
  settings = dataclasses.replace(
    SETTINGS, levels=(level,), max_turns=len(moves)
  )
  record = subjects.play(
    gyms.make("function", settings),
    own,
    lambda texts: types.Action(*next(queue)),
  )
  return gains.information(own, subjects.turns(record))


@pytest.mark.parametrize(
  ("moves", "bits"),
  [
    ([("action", "1 0 0 0")], [FIRST]),
    ([("action", "0 0 1 0")], [math.log2(57 / 16)]),
    ([("action", "1,0,0,0"), ("action", "1 0 0 0")], [FIRST, 0]),  # again
    ([("search", "test"), ("action", "1 0 0 0")], [0, FIRST]),
    ([("action", "0 0 0 0")], [0]),  # every rule gives 0
    ([("action", "2 5 1 3")], [0]),  # the test case: refused to every rule
    ([("action", "1 2 3"), ("answer", "x")], [0, 0]),  # malformed
  ],
)
def test_bits_by_hand(moves, bits):
  assert told(*moves) == pytest.approx(bits, abs=1e-12)


def test_all_signs_are_found_with_all_bits_of_the_level():
  """Probes of a unit a variable leave one rule where none is a product."""
  units = [("action", p) for p in ("1 0 0 0", "0 1 0 0", "0 0 1 0", "0 0 0 1")]
  assert sum(told(*units)) == pytest.approx(math.log2(57))


def test_an_answer_tells_who_has_that_value():
  """At (2, 5, 1, 3), of the 57: counted here by values alone."""
  values = [f.evaluate(TEST_CASE) for f in gains.rules(1).values()]
  wrong, right = values.count(4), values.count(9)
  assert wrong > 0 and 0 < right < 57
  assert told(("answer", "4"), ("answer", "9.0")) == pytest.approx(
    [math.log2(57 / (57 - wrong)), math.log2((57 - wrong) / right)]
  )


def test_a_refusal_by_symmetry_tells_who_has_it():
  """A swap of a and b leaves 17 of the 57 as they are: counted by hand.

  Sums with equal signs of a and b: 7 of 15. All 7 with a * b, and of the 7 with
  c * d the 3 in which a and b have equal signs; none with another product.
  """
  assert told(("action", "5 2 1 3")) == pytest.approx([math.log2(57 / 17)])


@pytest.mark.parametrize(
  ("own", "count"),
  [
    (task(), 57),
    (task("a * (b + c) - d", (1, 2, 3, 4), 2), 209),  # all within 200 there
    (task("a * (b + c) / d", (4, 2, 1, 3), 3), None),
    (task("a * (b + c) - d", (90, 80, 70, 60), 2), None),  # above its size
    (task("a + b + c", (1, 2, 3, 4)), None),  # none of the level's
    (dataclasses.replace(task(), secret=types.Secret({})), None),
  ],
)
def test_what_is_possible(own, count):
  left = gains.possible(own)
  assert (left and len(left)) == count
  if left is None:
    turn = types.Turn("", types.Action("search", "test"), "", 0.0)
    assert gains.information(own, [turn, turn]) == (None, None)


def test_the_size_that_a_level_allows_is_known():
  left = gains.possible(task("a * (b + c) - d", (9, 8, 7, 6), 2))
  every = gains.rules(2).values()
  small = [f for f in every if abs(f.evaluate((9, 8, 7, 6))) <= 200]
  assert len(left) == len(small) < 209


@pytest.mark.parametrize("split", ("train", "fresh", "dev", "test"))
def test_bits_of_generated_tasks_stay_within_the_entropy(split):
  rng = random.Random(0)
  for own in gyms.load_tasks("function", SETTINGS, split, seed=1):
    player = gyms.oracle("function")(own, rng, 0.4)
    record = subjects.play(
      gyms.make("function", SETTINGS), own, player.next_action
    )
    turns = subjects.turns(record)
    bits = gyms.information(own, turns)
    if own.level == 3:
      assert bits == (None,) * len(turns)
      continue
    entropy = math.log2(len(gains.possible(own)))
    assert min(bits) >= 0 and sum(bits) <= entropy + 1e-9
    assert sum(bits) > 0 or not record.score


def test_turns_that_reached_nobody_tell_nothing():
  turns = [
    types.Turn("", None, "hint", 0.0, types.Fault.AGENT_MALFORMED),
    types.Turn(
      "", types.Action("action", "1 0 0 0"), "", 0.0, types.Fault.USER_ERROR
    ),
  ]
  assert gains.information(task(), turns) == (0.0, 0.0)
