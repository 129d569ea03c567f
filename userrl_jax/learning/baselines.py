"""Baselines: the scores of a group become z, each member against the others.

Comes in: scores_PG and which trajectories are valid. Goes out: z_PG, exactly 0
for invalid members and in groups whose scores are all equal. The functions are
pure array code over an array module `xp`, see `credit`, whose worked group the
examples are about (mean score).
"""

from types import ModuleType
from typing import Any

import numpy as np

from userrl_jax import config

Array = Any  # numpy.ndarray or jax.Array

STD_EPSILON = 1e-6  # added to the group's standard deviation
# Scores (and sums of credit) closer than this are equal but for float rounding.
FLAT_TOLERANCE = 1e-6


def std(deviations_PG: Array, num_valid_P1: Array, xp) -> Array:
  """Divides by the sample's deviation: z = d / (sqrt(sum d^2 / (n-1)) + 1e-6).

  GRPO as UserRL's released code has it (arXiv 2402.03300).
  Example: t1 -> 0.1987, t2 -> 0.9934, t3 -> -1.3908, t4 -> 0.1987.

  Returns:
    [P, G] z.
  """
  return _over_std(deviations_PG, xp.maximum(num_valid_P1 - 1, 1), xp)


def std_n(deviations_PG: Array, num_valid_P1: Array, xp) -> Array:
  """Divides by the population's deviation: z = d / (sqrt(sum d^2 / n) + 1e-6).

  As UserRL's paper prints it (arXiv 2509.19736).
  Example: t1 -> 0.2294, t2 -> 1.1471, t3 -> -1.6059, t4 -> 0.2294.

  Returns:
    [P, G] z.
  """
  return _over_std(deviations_PG, xp.maximum(num_valid_P1, 1), xp)


def none(deviations_PG: Array, num_valid_P1: Array, xp) -> Array:
  """Divides by nothing: z = d = s - mean.

  Dr. GRPO (arXiv 2503.20783): easy and hard tasks do not weigh more than
  those in between.
  Example: t1 -> 0.0417, t2 -> 0.2083, t3 -> -0.2917, t4 -> 0.0417.

  Returns:
    [P, G] z.
  """
  del num_valid_P1, xp
  return deviations_PG


def leave_one_out(deviations_PG: Array, num_valid_P1: Array, xp) -> Array:
  """Compares with the mean of the others: z_i = s_i - mean_(j!=i) s_j.

  RLOO (arXiv 2402.14740), an unbiased baseline; it is n / (n - 1) times the
  distance from the mean of all.
  Example: t1 -> 0.0556, t2 -> 0.2778, t3 -> -0.3889, t4 -> 0.0556.

  Returns:
    [P, G] z.
  """
  return deviations_PG * (num_valid_P1 / xp.maximum(num_valid_P1 - 1, 1))


# (deviations_PG from the group's mean, num_valid_P1, xp) -> z_PG
NORMALIZATIONS = {
  "std": std,
  "std_n": std_n,
  "none": none,
  "leave_one_out": leave_one_out,
}


def flat_groups(
  scores_PG: Array, valid_PG: Array, xp: ModuleType = np
) -> Array:
  """Finds groups whose valid members score the same but for float rounding.

  A group is flat when max - min <= 1e-6 max(1, |s|). Without this test, eight
  scores of 0.7 get z = 0.056 in float32: their mean is not exactly 0.7, and the
  rounding error is divided by a standard deviation that is almost 0. A score
  that is not finite makes no group flat: it must not pass for nothing to learn.

  Returns:
    [P] bool; True for groups of at most one valid member.
  """
  low_P = xp.where(valid_PG, scores_PG, xp.inf).min(-1)
  high_P = xp.where(valid_PG, scores_PG, -xp.inf).max(-1)
  size_P = xp.where(valid_PG, xp.abs(scores_PG), 0).max(-1)
  is_close_P = high_P - low_P <= FLAT_TOLERANCE * xp.maximum(size_P, 1)
  return is_close_P & xp.isfinite(size_P)


def normalize(
  scores_PG: Array,
  valid_PG: Array,
  settings: config.Credit,
  xp: ModuleType = np,
) -> Array:
  """Compares scores within their group, by `settings.normalize`.

  A group of one gives 0; with `settings.released` its mean is 0 and its
  standard deviation 1, as in UserRL's code.

  Returns:
    [P, G] z; exactly 0 for invalid members and in flat groups.
  """
  mean_P1, num_valid_P1 = mean(scores_PG, valid_PG, xp)
  deviations_PG = xp.where(valid_PG, scores_PG - mean_P1, 0)
  z_PG = NORMALIZATIONS[settings.normalize](deviations_PG, num_valid_P1, xp)
  z_PG = xp.where(flat_groups(scores_PG, valid_PG, xp)[:, None], 0, z_PG)
  if settings.released:
    lone_z_PG = xp.where(valid_PG, scores_PG, 0)
    if settings.normalize == "std":
      lone_z_PG = lone_z_PG / (1 + STD_EPSILON)
    z_PG = xp.where(num_valid_P1 == 1, lone_z_PG, z_PG)
  return z_PG


def mean(scores_PG: Array, valid_PG: Array, xp) -> tuple[Array, Array]:
  """Returns the mean of the valid members, [P, 1], and their number."""
  num_valid_P1 = valid_PG.sum(-1, keepdims=True)
  total_P1 = xp.where(valid_PG, scores_PG, 0).sum(-1, keepdims=True)
  return total_P1 / xp.maximum(num_valid_P1, 1), num_valid_P1


def _over_std(deviations_PG: Array, count_P1: Array, xp) -> Array:
  variance_P1 = (deviations_PG**2).sum(-1, keepdims=True) / count_P1
  return deviations_PG / (xp.sqrt(variance_P1) + STD_EPSILON)
