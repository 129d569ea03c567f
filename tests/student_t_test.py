"""Student's t against a table and against draws."""

import math

import numpy as np
import pytest

from userrl_jax import student_t


@pytest.mark.parametrize(
  ("confidence", "num_degrees", "t"),
  [
    (0.95, 1, 12.706),
    (0.95, 2, 4.303),
    (0.95, 3, 3.182),
    (0.95, 4, 2.776),
    (0.99, 4, 4.604),
    (0.99, 5, 4.032),
    (0.95, 30, 2.042),
    (0.9, 7, 1.895),
  ],
)
def test_quantiles_are_those_of_the_table(confidence, num_degrees, t):
  assert student_t.quantile(confidence, num_degrees) == pytest.approx(
    t, abs=6e-4
  )


def test_interval_by_hand():
  low, high = student_t.interval([0.0, 1.0, 2.0], 0.95)
  assert (low + high) / 2 == pytest.approx(1)
  assert (high - low) / 2 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
  assert student_t.interval([1.0], 0.95) is None
  assert student_t.interval([], 0.95) is None


@pytest.mark.parametrize(
  ("num_runs", "confidence"), [(2, 0.988), (5, 0.95), (5, 0.994)]
)
def test_interval_covers_as_often_as_it_says(num_runs, confidence):
  rng = np.random.default_rng(num_runs)
  hits = 0
  for values in rng.normal(0.1, 1.0, (2000, num_runs)):
    low, high = student_t.interval(values.tolist(), confidence)
    hits += low <= 0.1 <= high
  noise = math.sqrt(confidence * (1 - confidence) / 2000)
  assert abs(hits / 2000 - confidence) < 4 * noise
