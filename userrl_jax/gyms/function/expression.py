"""Rules of the Function gym: text in, exact numbers and structure keys out.

A rule is arithmetic over a, b, c and d. It is parsed against a whitelist of
syntax and evaluated exactly, on int and `fractions.Fraction`; nothing is ever
given to `eval`. Two rules that are one function up to renaming the variables
share a canonical key; splits are made by it, so no test function is a train
function in other letters.
"""

import ast
from collections.abc import Callable, Sequence
import dataclasses
import fractions
import functools
import hashlib
import itertools
import operator
from typing import Any

VARIABLES = ("a", "b", "c", "d")
MAX_RULE_CHARS = 200
MAX_POWER_BITS = 4096  # bounds every power, so no rule can hang the gym

# Fixed points at which functions are told apart. Their coordinates are
# distinct and unrelated, so sums, products and quotients hardly ever agree by
# accident; the integer ones are for rules with a variable as an exponent.
_RATIONAL_POINTS = tuple(
  tuple(fractions.Fraction(p, q) for p, q in point)
  for point in (
    ((2, 1), (3, 1), (5, 1), (7, 1)),
    ((1, 2), (-3, 1), (7, 5), (11, 3)),
    ((-5, 3), (2, 7), (13, 2), (-1, 1)),
    ((17, 4), (-7, 9), (-4, 1), (5, 11)),
    ((-8, 7), (-9, 2), (10, 3), (3, 8)),
  )
)
_INTEGER_POINTS = (
  (1, 2, 3, 4),
  (1, 1, 2, 3),
  (2, 3, 1, 5),
  (-1, 2, 3, 1),
  (2, 2, 3, 1),
)
_PERMUTATIONS = tuple(itertools.permutations(range(len(VARIABLES))))

Number = Any  # int or Fraction, whose mixed arithmetic type checkers reject


class UndefinedError(ArithmeticError):
  """A rule has no value at a point that we can state exactly."""


@dataclasses.dataclass(frozen=True)
class Expression:
  """A parsed rule."""

  text: str
  operators: frozenset[str]  # of + - * / **; unary minus counts as -
  has_variable_exponent: bool
  _run: Callable[[Sequence[Number]], Number] = dataclasses.field(
    repr=False, compare=False
  )

  def evaluate(self, values: Sequence[Number]) -> Number:
    """Returns the exact value at (a, b, c, d), an int wherever it is whole.

    Raises:
      UndefinedError: on division by zero, a fractional exponent, or a power
        that is too large.
    """
    value = self._run(values)
    if isinstance(value, fractions.Fraction) and value.denominator == 1:
      return value.numerator
    return value


@functools.lru_cache(maxsize=8192)
def parse(text: str) -> Expression:
  """Parses a rule.

  Raises:
    ValueError: when the text is anything but + - * / **, parentheses, whole
      numbers and the variables a, b, c, d.
  """
  if len(text) > MAX_RULE_CHARS:
    raise ValueError(
      f"a rule has at most {MAX_RULE_CHARS} characters, got {len(text)}"
    )
  try:
    tree = ast.parse(text.strip(), mode="eval").body
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise ValueError(f"a rule must be arithmetic, got {text!r}") from error
  operators = set()
  has_variable_exponent = False
  for node in ast.walk(tree):
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
      operators.add(_BINARY[type(node.op)][0])
      if isinstance(node.op, ast.Pow):
        has_variable_exponent |= any(
          isinstance(n, ast.Name) for n in ast.walk(node.right)
        )
    elif isinstance(node, ast.UnaryOp):
      operators.add("-")
  return Expression(
    text, frozenset(operators), has_variable_exponent, _compile(tree, text)
  )


@functools.lru_cache(maxsize=8192)
def canonical_key(text: str) -> str:
  """Returns 12 hex digits that name the function up to renaming variables.

  The function is evaluated exactly at five fixed points under all 24 orders of
  the variables; the smallest tuple of values is hashed. Rules with a variable
  exponent have no exact value at rational points and use integer points.
  """
  # Renaming in order of appearance does not change the key and lets the many
  # texts of one function share the costly part.
  seen = dict.fromkeys(c for c in text if c in VARIABLES)
  names = [*seen, *(v for v in VARIABLES if v not in seen)]
  return _renamed_key(text.translate(str.maketrans("".join(names), "abcd")))


@functools.lru_cache(maxsize=8192)
def function_key(text: str) -> str:
  """Returns 12 hex digits that name the function, under any spelling.

  Unlike in `canonical_key`, which variable is which matters.
  """
  return _digest(_signature(text, _PERMUTATIONS[0]))


@functools.lru_cache(maxsize=8192)
def symmetries(text: str) -> frozenset[tuple[int, ...]]:
  """Returns the orders of the four arguments that leave the function as is."""
  signatures = _signatures(text)
  same = signatures[_PERMUTATIONS[0]]
  return frozenset(p for p, values in signatures.items() if values == same)


def same_by_symmetry(text: str, values: Sequence[int]) -> frozenset:
  """Returns all tuples that symmetry alone says f maps to f(values)."""
  return frozenset(tuple(values[i] for i in p) for p in symmetries(text))


@functools.lru_cache(maxsize=8192)
def _renamed_key(text: str) -> str:
  return _digest(min(_signatures(text).values()))


def _digest(signature: tuple[str, ...]) -> str:
  return hashlib.sha256("|".join(signature).encode()).hexdigest()[:12]


def _signatures(text: str) -> dict[tuple[int, ...], tuple[str, ...]]:
  """Returns the values at the fixed points for each order of the variables."""
  return {p: _signature(text, p) for p in _PERMUTATIONS}


def _signature(text: str, permutation: Sequence[int]) -> tuple[str, ...]:
  """Returns the values at the fixed points for one order of the variables."""
  expression = parse(text)
  points: Sequence[Sequence[Number]] = _RATIONAL_POINTS
  if expression.has_variable_exponent:
    points = _INTEGER_POINTS
  values = []
  for point in points:
    try:
      value = expression.evaluate([point[i] for i in permutation])
      values.append(f"{value.numerator:x}/{value.denominator:x}")
    except UndefinedError:
      values.append("undefined")
  return tuple(values)


def _divide(x: Number, y: Number) -> Number:
  if not y:
    raise UndefinedError("division by zero")
  return fractions.Fraction(x) / y


def _power(x: Number, y: Number) -> Number:
  if isinstance(y, fractions.Fraction):
    if y.denominator != 1:
      raise UndefinedError("an exponent must be a whole number")
    y = y.numerator
  if not x and y < 0:
    raise UndefinedError("division by zero")
  x = fractions.Fraction(x)
  bits = max(x.numerator.bit_length(), x.denominator.bit_length())
  if bits > 1 and bits * abs(y) > MAX_POWER_BITS:
    raise UndefinedError("too large")
  if bits <= 1:
    y = y % 2 if y % 2 or not y else 2  # 0, 1 and -1 only see the parity
  value = x**y
  return value.numerator if value.denominator == 1 else value


_BINARY = {
  ast.Add: ("+", operator.add),
  ast.Sub: ("-", operator.sub),
  ast.Mult: ("*", operator.mul),
  ast.Div: ("/", _divide),
  ast.Pow: ("**", _power),
}


def _compile(node: ast.expr, text: str) -> Callable:
  """Returns a function of (a, b, c, d) for one node of a whitelisted tree."""
  if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
    left, right = _compile(node.left, text), _compile(node.right, text)
    apply = _BINARY[type(node.op)][1]
    return lambda values: apply(left(values), right(values))
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    operand = _compile(node.operand, text)
    return lambda values: -operand(values)
  if isinstance(node, ast.Name) and node.id in VARIABLES:
    index = VARIABLES.index(node.id)
    return lambda values: values[index]
  if isinstance(node, ast.Constant) and type(node.value) is int:
    constant = node.value
    return lambda values: constant
  raise ValueError(
    "a rule may hold + - * / **, parentheses, whole numbers and a, b, c, d; "
    f"got {ast.unparse(node)!r} in {text!r}"
  )
