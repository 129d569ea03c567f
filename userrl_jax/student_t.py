"""Intervals of Student's t, of a handful of runs; the standard library only.

In: a number for each run. Out: the interval of their mean.
"""

from collections.abc import Sequence
import math
import statistics

_NUM_HALVINGS = 60  # of an angle: below the spacing of floats


def interval(
  values: Sequence[float], confidence: float
) -> tuple[float, float] | None:
  """Computes mean -+ t s / sqrt(n), of n - 1 degrees of freedom.

  It holds its level however far runs spread, provided that they do so about
  normally (Student 1908). Example: -1, 0, 1 at 95% give -+ 4.303 / sqrt(3).

  Args:
    values: one for each run.
    confidence: mass of the interval, in (0, 1).

  Returns:
    Its ends; None with fewer than two runs, whose spread nothing tells.
  """
  if len(values) < 2:
    return None
  mean = statistics.fmean(values)
  error = statistics.stdev(values) / math.sqrt(len(values))
  reach = quantile(confidence, len(values) - 1) * error
  return mean - reach, mean + reach


def quantile(confidence: float, num_degrees: int) -> float:
  """Finds the t with P(|T| < t) = confidence, by halving an angle."""
  low, high = 0.0, math.pi / 2
  for _ in range(_NUM_HALVINGS):
    middle = (low + high) / 2
    if _mass(middle, num_degrees) < confidence:
      low = middle
    else:
      high = middle
  return math.sqrt(num_degrees) * math.tan((low + high) / 2)


def _mass(angle: float, num_degrees: int) -> float:
  """Computes P(|T| < sqrt(n) tan(angle)).

  With whole degrees of freedom it is a finite sum (Abramowitz and Stegun 1964,
  26.7.3 and 26.7.4).
  """
  is_odd = num_degrees % 2
  term = total = math.cos(angle) if is_odd else 1.0
  for k in range(2 + is_odd, num_degrees - 1, 2):
    term *= (k - 1) / k * math.cos(angle) ** 2
    total += term
  if not is_odd:
    return math.sin(angle) * total
  if num_degrees == 1:
    total = 0.0
  return 2 / math.pi * (angle + math.sin(angle) * total)
