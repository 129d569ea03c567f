"""The demonstrator of the Function gym: how a good agent plays.

It looks up the test case, probes f next to it, one variable moved down and up
by one, and answers the mean, which is exact when f is affine in that variable:
the numbers it answers are found in what it has read. It may look at the rule
to choose a variable for which this works; where none does, it moves a variable
to three places and fits a parabola; and where that fails too, as last resort,
it probes and then tells the answer it was given.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import fractions
import random
import re

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.function import canned
from userrl_jax.gyms.function import expression
from userrl_jax.gyms.function import gym

# Offsets from the test case's value of a variable, each with its weight in the
# estimate of f at offset 0: exact for polynomials of degree 1, then 2.
_STENCILS = tuple(
  tuple((offset, fractions.Fraction(p, q)) for offset, p, q in stencil)
  for stencil in (
    ((-1, 1, 2), (1, 1, 2)),
    ((-1, 1, 3), (1, 1, 1), (2, -1, 3)),
    ((-2, -1, 3), (-1, 1, 1), (1, 1, 3)),
  )
)
# The last variable first: a demonstrator with habits is easier to imitate.
_VARIABLES = (3, 2, 1, 0)
_FAR = fractions.Fraction(1, 4)  # of an estimate from a whole number

_TEST_CASE = re.compile(r"Test case: (-?\d+) (-?\d+) (-?\d+) (-?\d+)")
_VALUE = re.compile(r"f\((-?\d+), (-?\d+), (-?\d+), (-?\d+)\) = (-?[\d.]+)")

_Point = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Plan:
  """Points to probe, in order, and the weight of each in the answer."""

  points: tuple[_Point, ...]
  weights: tuple[fractions.Fraction, ...]  # empty: tell the known answer


class Oracle:
  """Plays one task; wins in at most five turns when there is no noise."""

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: the task, whose rule the oracle may look at.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1].
      settings: of the gym; the last answer it allows is never noise.
    """
    secret = task.secret.reveal()
    self._rule = expression.parse(secret["rule"])
    self._secret_test_case = tuple(secret["test_case"])
    self._rng = rng
    self._noise = noise
    self._answer_limit = settings.function.answer_limit if settings else 0
    self._num_answers = 0
    self._asked: list[_Point] = []
    self._plans: list[_Plan] | None = None

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    action = None
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
      is_last_answer = self._num_answers + 1 == self._answer_limit
      if action.choice == "answer" and is_last_answer:
        action = None
    action = action or self._planned(observations)
    self._num_answers += action.choice == "answer"
    return action

  def _planned(self, observations: list[str]) -> types.Action:
    test_case, values = _read(observations)
    if test_case is None:
      return types.Action("search", "test")
    if self._plans is None:
      self._plans = _plans(self._rule, test_case)
    # A point that was asked for and has no value was refused: change the plan.
    refused = [point for point in self._asked if point not in values]
    plan = next(
      (p for p in self._plans if not any(x in refused for x in p.points)),
      _Plan((), ()),
    )
    for point in plan.points:
      if point not in values:
        self._asked.append(point)
        return types.Action("action", " ".join(map(str, point)))
    if not plan.weights:
      estimate = self._rule.evaluate(self._secret_test_case)
    else:
      estimate = _estimate(plan, values)
    return types.Action("answer", str(estimate))


def _read(
  observations: list[str],
) -> tuple[_Point | None, dict[_Point, fractions.Fraction]]:
  """Returns the test case, if seen, and all values of f that were read."""
  test_case, values = None, {}
  for text in observations:
    if match := _TEST_CASE.fullmatch(text):
      test_case = tuple(map(int, match.groups()))
    elif match := _VALUE.fullmatch(text):
      *point, value = match.groups()
      values[tuple(map(int, point))] = fractions.Fraction(value)
  return test_case, values


def _plans(rule: expression.Expression, test_case: _Point) -> list[_Plan]:
  """Returns the plans that would give the right answer, best first."""
  plans: list[_Plan] = []
  result = rule.evaluate(test_case)
  for stencil in _STENCILS:
    for index in _VARIABLES:
      plan = _plan(stencil, test_case, index)
      values = _values_as_read(rule, plan.points)
      is_readable = len(values) == len(plan.points)
      if is_readable and _estimate(plan, values) == result:
        plans.append(plan)
  nearby = [
    point
    for index in _VARIABLES
    for point in _plan(_STENCILS[0], test_case, index).points
  ]
  points = tuple(_values_as_read(rule, nearby))[:2]
  return [*plans, _Plan(points, ())]


def _plan(stencil: tuple, test_case: _Point, index: int) -> _Plan:
  points = tuple(
    (*test_case[:index], test_case[index] + offset, *test_case[index + 1 :])
    for offset, _ in stencil
  )
  return _Plan(points, tuple(weight for _, weight in stencil))


def _values_as_read(
  rule: expression.Expression, points: Sequence[_Point]
) -> dict[_Point, fractions.Fraction]:
  """Returns what the agent would read at those points that have a value."""
  values = {}
  for point in points:
    try:
      value = rule.evaluate(point)
    except expression.UndefinedError:
      continue
    if max(map(abs, point)) <= gym.MAX_PROBE and abs(value) <= gym.MAX_SHOWN:
      values[point] = fractions.Fraction(gym.show(value))
  return values


def _estimate(
  plan: _Plan, values: Mapping[_Point, fractions.Fraction]
) -> expression.Number:
  """Returns f at the test case, which the rules say is a whole number."""
  estimate = fractions.Fraction(0)
  for point, weight in zip(plan.points, plan.weights, strict=True):
    estimate += weight * values[point]
  whole = round(estimate)
  return whole if abs(estimate - whole) < _FAR else estimate
