"""Numbers of a stage's steps, read as curves.

In: steps, as `metrics.jsonl` has them, oldest first. Out: the values of a name,
means of its first and last steps, and what a curve is like.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Numbers = Mapping[str, Any]  # of one step

WINDOW = 5  # steps that are averaged, against noise


def finite_values(
  history: Sequence[Numbers], read: Callable[[Numbers], float | None]
) -> np.ndarray:
  """Returns the finite values that there are, oldest first."""
  found = [value for numbers in history if (value := read(numbers)) is not None]
  values = np.array(found, np.float64)
  return values[np.isfinite(values)]


def named(history: Sequence[Numbers], name: str) -> np.ndarray:
  """Returns the finite values of a name, oldest first."""
  return finite_values(history, lambda numbers: numbers.get(name))


def last(history: Sequence[Numbers], name: str) -> float | None:
  """Returns the mean of the last window; None before there is one."""
  values = named(history, name)[-WINDOW:]
  return float(values.mean()) if len(values) == WINDOW else None


def first_and_last(
  history: Sequence[Numbers], name: str
) -> tuple[float | None, float]:
  """Returns the means of both windows; None and 0 before there are two."""
  values = named(history, name)
  if len(values) < 2 * WINDOW:
    return None, 0.0
  return float(values[:WINDOW].mean()), float(values[-WINDOW:].mean())


def noise(values: np.ndarray) -> float:
  """Estimates the spread about a slow curve, from neighbours' differences."""
  return float(np.median(np.abs(np.diff(values)))) / (0.6745 * 2**0.5)


def spike(values: np.ndarray) -> float:
  """Returns the largest size as a multiple of the median size."""
  sizes = np.abs(values)
  median = np.median(sizes) if sizes.size else 0.0
  return float(sizes.max() / median) if median > 0 else 0.0


def trend(values: np.ndarray) -> tuple[float, float]:
  """Returns the gain of a fitted line over the steps, and its error."""
  x = np.arange(len(values)) - (len(values) - 1) / 2
  slope = x @ values / (x @ x)
  rest = values - values.mean() - slope * x
  error = np.sqrt(rest @ rest / (len(values) - 2) / (x @ x))
  length = len(values) - 1
  return float(slope * length), float(error * length)


def score(numbers: Numbers) -> float | None:
  """Returns the mean of gyms; None where one has no valid episode."""
  own = of(numbers, "score")
  if len(own) > 1:
    return numbers.get("score/macro")
  return next(iter(own.values()), None)


def of(numbers: Numbers, subject: str) -> dict[str, float]:
  """Returns a subject's values, such as `success/<gym>`, by full name."""
  return {n: v for n, v in numbers.items() if n.startswith(f"{subject}/")}
