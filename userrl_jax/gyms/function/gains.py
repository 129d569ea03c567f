"""How many bits each turn of Function told of the rule; privileged.

In: a task and the turns of its episode. Out: for each turn, log2(n / m), where
n rules were possible before the reply that the agent read and m are after it.

*Over what*: all different functions that rules of the task's level can be, and
whose value at the task's test case has the size that the level allows: level 1
has 57 (sums of four, not all negative: 15; with a product: 42), level 2 209
before that size is asked for. Level 3 has about 20,000, too many to go through
for a record: None, as of rules that are none of ours (UserRL's).
*Prior*: each function alike. The generator draws a form or a tree, then names,
so functions of small forms are likelier there; and a split has only some forms,
which the agent is not told.
*Given the test case*: it is no part of what is to be found, so looking it up
tells 0 bits of the rule, and what a refusal tells is counted by who knows it.
Replies are exact, so each gain is the entropy lost, none is negative, and those
of an episode add up to log2(n) at most, n as of the first message.

By hand, at level 1: f(1, 0, 0, 0) is 1 where a is a term with +, in 8 sums and
12 with a product, -1 where it is one with -, in 7 and 9, and 0 where it is in
the product, in 21. So 1 tells log2(57 / 20) = 1.511 bits, -1 log2(57 / 16) =
1.833 and 0 log2(57 / 21) = 1.441; the same point again tells 0. An answer, too,
leaves the rules whose value at the test case it is, or is not.
"""

from collections.abc import Sequence
import functools
import itertools
import math
import operator
import re

from userrl_jax import types
from userrl_jax.gyms.function import expression
from userrl_jax.gyms.function import generate
from userrl_jax.gyms.function import gym

LEVELS = (1, 2)  # whose rules are counted
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
# Where rules of level 2 are told apart while they are made: unrelated numbers.
_POINTS = ((1009, 907, 811, 709), (17, 101, 1013, 10007), (31, -47, 61, -83))
_SAME = "same"  # the reply that every rule gives


def information(
  task: types.Task, turns: Sequence[types.Turn]
) -> tuple[float | None, ...]:
  """Returns the bits of each turn; None of all where rules are not counted.

  A turn without a reply, malformed or failed, tells nothing: 0.
  """
  left = possible(task)
  if left is None:
    return (None,) * len(turns)
  secret = task.secret.reveal()
  rule = expression.parse(secret["rule"])
  test_case = tuple(secret["test_case"])
  bits = []
  for turn in turns:
    after = left
    if turn.action is not None and turn.fault == types.Fault.OK:
      said = _reply(rule, test_case, turn.action)
      after = [f for f in left if _reply(f, test_case, turn.action) == said]
    bits.append(math.log2(len(left) / len(after)))
    left = after
  return tuple(bits)


def possible(task: types.Task) -> list[expression.Expression] | None:
  """Returns the rules that fit a task's level and test case.

  None when they are not counted, or the task's own is none of them, as where
  UserRL's test case makes it larger than the level allows.
  """
  secret = task.secret.reveal()
  if task.level not in LEVELS or not {"rule", "test_case"} <= secret.keys():
    return None
  known = rules(task.level)
  if expression.function_key(secret["rule"]) not in known:
    return None
  fits = lambda f: (
    abs(f.evaluate(secret["test_case"])) <= generate.MAX_RESULT[task.level]
  )
  if not fits(expression.parse(secret["rule"])):
    return None
  return [f for f in known.values() if fits(f)]


@functools.cache
def rules(level: int) -> dict[str, expression.Expression]:
  """Returns a rule of every function that level 1 or 2 has, by its key."""
  texts: Sequence[str] = generate.level_1_rules()
  if level == 2:
    texts = list(_trees(frozenset(expression.VARIABLES)).values())
  found = {expression.function_key(text): text for text in texts}
  if level == 2:
    found = {k: text for k, text in found.items() if k not in rules(1)}
  return {key: expression.parse(text) for key, text in found.items()}


@functools.cache
def _trees(variables: frozenset[str]) -> dict[tuple[int, ...], str]:
  """Returns a text of every function of variables, by its values at _POINTS."""
  if len(variables) == 1:
    (name,) = variables
    place = expression.VARIABLES.index(name)
    return {tuple(point[place] for point in _POINTS): name}
  found: dict[tuple[int, ...], str] = {}
  for size in range(1, len(variables)):
    for names in itertools.combinations(sorted(variables), size):
      left, right = _trees(frozenset(names)), _trees(variables - set(names))
      for symbol, apply in _OPERATORS.items():
        for (a, text), (b, other) in itertools.product(
          left.items(), right.items()
        ):
          found.setdefault(
            tuple(map(apply, a, b)), f"({text}){symbol}({other})"
          )
  return found


def _reply(
  rule: expression.Expression, test_case: tuple[int, ...], action: types.Action
) -> expression.Number | str | bool:
  """Returns what tells replies to a played action apart, were it of a rule."""
  if action.choice == "search":
    return _SAME
  if action.choice == "answer":
    value = rule.evaluate(test_case)
    return gym.is_right(action.content.strip(" "), value)
  point = tuple(map(int, re.findall(r"-?[0-9]+", action.content)))
  if point == test_case:
    return _SAME
  if sorted(point) == sorted(
    test_case
  ) and point in expression.same_by_symmetry(rule.text, test_case):
    return "refused"
  return rule.evaluate(point)
