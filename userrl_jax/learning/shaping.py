"""Learned and adaptive credit: what turns told, or were followed by.

Comes in: what `credit` has of rewards, and facts of the turns. Goes out:
credits_PGK between 0.5 and 1, so that every turn keeps half a credit, as with
`credit.em_credit`, and no spread divides by almost nothing. Pure array code
over an array module `xp`, as in `credit`, whose worked group the examples are
about; of its turns, the second of t1 is a repeated move and the first of t4
told 2 bits, the second 1; nothing else is known of any.
"""

from typing import Any, NamedTuple

from userrl_jax import config
from userrl_jax.learning import baselines
from userrl_jax.learning import turn_facts

Array = Any  # numpy.ndarray or jax.Array

RIDGE = 0.1  # of each standardised feature's weight, per trajectory
_BITS = turn_facts.NAMES.index("bits")


class Turns(NamedTuple):
  """What learned credit knows beside rewards.

  Attributes:
    facts_PGKF: [P, G, K, F] float, in the order of `turn_facts.NAMES`; 0 where
      there is no turn.
    scores_PG: [P, G] float, that the group is compared by.
    valid_PG: [P, G] bool, True where the trajectory counts.
  """

  facts_PGKF: Array
  scores_PG: Array
  valid_PG: Array


def information_credit(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  settings: config.Credit,
  xp,
  turns: Turns | None,
) -> Array:
  """Credits a turn with what its reply told: c_k = 1 - 0.5 2^(-b_k).

  Our own. b_k are bits, log2(n / m) where n possibilities became m, so that
  1 - 2^(-b_k) = 1 - m / n is the share that the turn ruled out: a turn that
  tells nothing keeps 0.5, one that halves what is possible gets 0.75. What is
  possible is privileged, and known to gyms that count it; in others every turn
  gets 0.5, which is equalized.
  Example: t1 -> 0.5, 0.5, 0.5; t4 -> 0.875, 0.75, 0.5.

  Returns:
    [P, G, K] credits.
  """
  del turn_mask_PGK, settings
  bits_PGK = _given(turns).facts_PGKF[..., _BITS].astype(rewards_PGK.dtype)
  return 1 - 0.5 * xp.exp2(-xp.maximum(bits_PGK, 0))


def predicted_credit(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  settings: config.Credit,
  xp,
  turns: Turns | None,
) -> Array:
  """Credits a turn with the change of a predicted score that it brings.

  Our own, after return decomposition (RUDDER, arXiv 1806.07857), by a linear
  predictor that is fitted anew to every batch. x_k are 1, the reward and the
  facts of turn k but for its bits, each divided by its deviation over the
  batch. After turn k the predicted score is V_k = m + w (x_1 + .. + x_k), with
  one m for each group, so that tasks are not compared, and one w for all. w
  has the least sum over trajectories of mean_k (s - V_k)^2 + 0.1 |w|^2. So the
  change is d_k = V_k - V_(k-1) = w x_k, and
  c_k = 0.5 + 0.5 / (1 + e^(-(d_k - mean d) / std d)), over the batch's turns,
  trajectories weighing alike. Without a difference in scores every c_k = 0.75.
  Example: t1 -> 0.6443, 0.7164, 0.9409; t2 -> 0.7104, 0.9032; t4 -> 0.8175,
  0.6443, 0.8175.

  Returns:
    [P, G, K] credits.
  """
  del settings
  turns = _given(turns)
  counts_PGK = turn_mask_PGK & turns.valid_PG[..., None]
  num_turns_PG1 = xp.maximum(counts_PGK.sum(-1, keepdims=True), 1)
  dtype = rewards_PGK.dtype
  weight_PGK = counts_PGK.astype(dtype) / num_turns_PG1
  num_trajectories = xp.maximum(weight_PGK.sum(), 1)

  facts_PGKF = xp.delete(turns.facts_PGKF, _BITS, axis=-1).astype(dtype)
  x_PGKF = xp.concatenate(
    [xp.ones_like(rewards_PGK)[..., None], rewards_PGK[..., None], facts_PGKF],
    -1,
  )
  x_PGKF = xp.where(counts_PGK[..., None], x_PGKF, 0)
  so_far_PGKF = _less_group_mean(xp.cumsum(x_PGKF, 2), weight_PGK, xp)
  size_F = _total(so_far_PGKF**2 * weight_PGK[..., None]) / num_trajectories
  size_F = xp.sqrt(size_F)
  inverse_F = xp.where(size_F > 1e-6, 1 / xp.maximum(size_F, 1e-6), 0)
  so_far_PGKF = so_far_PGKF * inverse_F

  # Exactly 0 where scores differ by rounding alone, which would be blown up.
  is_flat_P = baselines.flat_groups(turns.scores_PG, turns.valid_PG, xp)
  mean_P1, _ = baselines.mean(turns.scores_PG, turns.valid_PG, xp)
  rest_PG = xp.where(is_flat_P[:, None], 0, turns.scores_PG - mean_P1)
  # Summed products, not matmuls: accelerators round a matmul's inputs.
  weighted_PGKF = so_far_PGKF * weight_PGK[..., None]
  square_FF = _total(weighted_PGKF[..., None] * so_far_PGKF[..., None, :])
  moment_F = _total(weighted_PGKF * rest_PG[..., None, None])
  ridge_FF = RIDGE * num_trajectories * xp.eye(len(moment_F), dtype=dtype)
  w_F = xp.linalg.solve(square_FF + ridge_FF, moment_F)

  change_PGK = (x_PGKF * (inverse_F * w_F)).sum(-1)
  mean = (change_PGK * weight_PGK).sum() / num_trajectories
  apart_PGK = xp.where(counts_PGK, change_PGK - mean, 0)
  std = xp.sqrt((apart_PGK**2 * weight_PGK).sum() / num_trajectories)
  return 0.5 + 0.5 / (1 + xp.exp(-apart_PGK / (std + 1e-6)))


def _given(turns: Turns | None) -> Turns:
  if turns is None:
    raise ValueError(
      "learned credits need the facts of turns, got none; pack with the "
      "setting of the credit, or give facts_PGKF"
    )
  return turns


def _less_group_mean(values_PGKF: Array, weight_PGK: Array, xp) -> Array:
  """Takes off each group's weighted mean."""
  weight_PGK1 = weight_PGK[..., None]
  total_PF = (values_PGKF * weight_PGK1).sum((1, 2))
  mean_PF = total_PF / xp.maximum(weight_PGK1.sum((1, 2)), 1)
  return values_PGKF - mean_PF[:, None, None]


def _total(values_PGK: Array) -> Array:
  """Sums over groups, members and turns."""
  return values_PGK.sum((0, 1, 2))
