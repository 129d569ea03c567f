"""Credit: rewards per turn become the advantage that each turn's tokens carry.

Comes in: rewards_PGK with the mask of turns that exist, the tokens of each turn
that are really in the batch, and which trajectories are valid. Goes out:
advantages_PGK. In between, per group of G members:

  score   one number a trajectory (SCORES), less its penalties
  z       the score compared within the group (baselines.NORMALIZATIONS)
  credit  one number a turn (CREDITS), which says where in it z belongs
  spread  the advantage of the turn's tokens (spreads.SPREADS)

Every function is pure array code over an array module `xp`: numpy in float64
for tests, reports and re-scoring; jax.numpy in float32 inside the jitted step.

The worked numbers below are one group with gamma 0.8 and three tokens a turn:
  t1 = [0, 0, 1]   t2 = [0.2, 0.8]   t3 = [0, 0, 0, 0]   t4 = [0.5, 0, 0.5]
"""

from types import ModuleType
from typing import Any

import numpy as np

from userrl_jax import config
from userrl_jax.learning import baselines
from userrl_jax.learning import shaping
from userrl_jax.learning import spreads

Array = Any  # numpy.ndarray or jax.Array

EM_MAX_EXPONENT = 60.0  # keeps `em` of a large penalty finite in float32


def mean_score(
  rewards_PGK: Array, turn_mask_PGK: Array, settings: config.Credit, xp
) -> Array:
  """Averages the rewards over a trajectory's turns: s = (sum_k r_k) / K.

  What UserRL's released code calls "Sum"; it rewards short solutions, and with
  `settings.released` it is rounded to 4 decimals as there.
  Example: t1 -> 0.3333, t2 -> 0.5, t3 -> 0, t4 -> 0.3333.

  Returns:
    [P, G] scores; 0 for a trajectory without turns.
  """
  num_turns_PG = xp.maximum(turn_mask_PGK.sum(-1), 1)
  score_PG = rewards_PGK.sum(-1) / num_turns_PG
  return xp.round(score_PG, 4) if settings.released else score_PG


def sum_score(
  rewards_PGK: Array, turn_mask_PGK: Array, settings: config.Credit, xp
) -> Array:
  """Sums the rewards: s = sum_k r_k, the paper's "Sum" (arXiv 2509.19736).

  Example: t1 -> 1, t2 -> 1, t3 -> 0, t4 -> 1.

  Returns:
    [P, G] scores.
  """
  del turn_mask_PGK, settings, xp
  return rewards_PGK.sum(-1)


def r2g_score(
  rewards_PGK: Array, turn_mask_PGK: Array, settings: config.Credit, xp
) -> Array:
  """Discounts rewards from the first turn: s = sum_k gamma^(k-1) r_k.

  The paper's reward-to-go of a trajectory; the first turn is not discounted.
  Example: t1 -> 0.64, t2 -> 0.84, t3 -> 0, t4 -> 0.82.

  Returns:
    [P, G] scores.
  """
  return r2g_credit(rewards_PGK, turn_mask_PGK, settings, xp)[..., 0]


SCORES = {"mean": mean_score, "sum": sum_score, "r2g": r2g_score}


def equalized_credit(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  settings: config.Credit,
  xp,
  turns: shaping.Turns | None = None,
) -> Array:
  """Credits every turn alike: c_k = 1, so that every token carries z.

  The paper's "Equalized". Example: t2 -> 1, 1; t4 -> 1, 1, 1.

  Returns:
    [P, G, K] credits.
  """
  del turn_mask_PGK, settings, turns
  return xp.ones_like(rewards_PGK)


def naive_credit(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  settings: config.Credit,
  xp,
  turns: shaping.Turns | None = None,
) -> Array:
  """Credits a turn with its own reward: c_k = r_k.

  The paper's "Naive", which its released code lacks. A trajectory without any
  reward has no credit to spread, so it gets no gradient at all.
  Example: t2 -> 0.2, 0.8.

  Returns:
    [P, G, K] credits.
  """
  del turn_mask_PGK, settings, xp, turns
  return rewards_PGK


def r2g_credit(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  settings: config.Credit,
  xp,
  turns: shaping.Turns | None = None,
) -> Array:
  """Credits a turn with what follows: c_k = r_k + gamma c_(k+1).

  The paper's "R2G" of a turn, as one product with the [K, K] triangle of
  discounts: c_j = sum_(k>=j) gamma^(k-j) r_k. Turns after the last reward get
  0.
  Example: t1 -> 0.64, 0.8, 1; t4 -> 0.82, 0.4, 0.5.

  Returns:
    [P, G, K] credits.
  """
  del turn_mask_PGK, turns
  K = rewards_PGK.shape[-1]
  distance_KK = np.arange(K)[None, :] - np.arange(K)[:, None]
  discount_KK = np.where(
    distance_KK >= 0, settings.gamma ** np.maximum(distance_KK, 0.0), 0.0
  )
  # Summed products, not a matmul: accelerators round a matmul's inputs.
  discount_KK = xp.asarray(discount_KK, rewards_PGK.dtype)
  return (rewards_PGK[..., None, :] * discount_KK).sum(-1)


def em_credit(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  settings: config.Credit,
  xp,
  turns: shaping.Turns | None = None,
) -> Array:
  """Maps rewards to 0.5..1: c = 0.5 + 0.5 (1 - e^(-m r)) / (1 - e^(-m)).

  The paper's exponential mapping, m = `em_k`; every turn keeps half a credit.
  With `settings.released` it is rounded to 4 decimals as in UserRL's code.
  Rewards outside 0..1 extrapolate. Example (m = 2): t2 -> 0.6906, 0.9615.

  Returns:
    [P, G, K] credits.
  """
  del turn_mask_PGK, turns
  m = settings.em_k
  exponent_PGK = xp.minimum(-m * rewards_PGK, EM_MAX_EXPONENT)
  credit_PGK = 0.5 + 0.5 * xp.expm1(exponent_PGK) / float(np.expm1(-m))
  return xp.round(credit_PGK, 4) if settings.released else credit_PGK


CREDITS = {
  "equalized": equalized_credit,
  "naive": naive_credit,
  "r2g": r2g_credit,
  "em": em_credit,
  "information": shaping.information_credit,
  "predicted": shaping.predicted_credit,
}
LEARNED = ("information", "predicted")  # from facts of turns


def check(settings: config.Credit) -> None:
  """Refuses settings that name or mean nothing.

  Raises:
    ValueError: for an unknown name, a number out of range, or a mix of
      formulas that exclude each other.
  """
  for field, known in (
    ("score", SCORES),
    ("credit", CREDITS),
    ("spread", spreads.SPREADS),
    ("normalize", baselines.NORMALIZATIONS),
  ):
    if getattr(settings, field) not in known:
      raise ValueError(
        f"credit.{field} must be one of {', '.join(known)}; "
        f"got {getattr(settings, field)!r}"
      )
  if not 0 <= settings.gamma <= 1:
    raise ValueError(
      f"credit.gamma must be within 0 and 1; got {settings.gamma}"
    )
  if settings.em_k <= 0:
    raise ValueError(f"credit.em_k must be above 0; got {settings.em_k}")
  if settings.spread == "printed" and settings.normalize != "std_n":
    raise ValueError(
      "credit.normalize must be std_n with credit.spread=printed, which "
      f"divides by that; got {settings.normalize!r}"
    )


def group_advantages(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  num_tokens_PGK: Array,
  valid_PG: Array,
  settings: config.Credit,
  xp: ModuleType = np,
  facts_PGKF: Array | None = None,
) -> Array:
  """Turns rewards into the advantage of each turn's tokens.

  Args:
    rewards_PGK: [P, G, K] float, the reward of each turn.
    turn_mask_PGK: [P, G, K] bool, True where the turn exists.
    num_tokens_PGK: [P, G, K] int, the turn's sampled tokens.
    valid_PG: [P, G] bool, True where the trajectory counts.
    settings: names and numbers of the method; see `check`.
    xp: numpy (computes in float64) or jax.numpy (float32).
    facts_PGKF: [P, G, K, F] float, of `turn_facts`; for credits in `LEARNED`.

  Returns:
    [P, G, K] advantages; exactly 0 for invalid members and flat groups.

  Raises:
    ValueError: when facts are needed and not given.
  """
  scores_PG = score(rewards_PGK, turn_mask_PGK, num_tokens_PGK, settings, xp)
  z_PG = baselines.normalize(scores_PG, valid_PG, settings, xp)
  rewards_PGK = _masked(rewards_PGK, turn_mask_PGK, xp)
  turns = None
  if facts_PGKF is not None:
    turns = shaping.Turns(facts_PGKF, scores_PG, valid_PG)
  credits_PGK = CREDITS[settings.credit](
    rewards_PGK, turn_mask_PGK, settings, xp, turns
  )
  credits_PGK = xp.where(turn_mask_PGK, credits_PGK, 0)
  return spreads.SPREADS[settings.spread](
    z_PG, credits_PGK, num_tokens_PGK, scores_PG, valid_PG, xp
  )


def score(
  rewards_PGK: Array,
  turn_mask_PGK: Array,
  num_tokens_PGK: Array,
  settings: config.Credit,
  xp: ModuleType = np,
) -> Array:
  """Computes each trajectory's score by `settings.score`, less its penalties.

  With t turns and n sampled tokens, `turn_penalty` t and
  `length_penalty` max(0, n - `free_tokens`) / 1000 are taken off. Penalties
  say which trajectory is better, not which turn: credits know none.
  Example (sum, penalties 0.1 and 50, 6 free tokens): t1, of 3 turns and 9
  tokens, 1 - 0.3 - 0.15 = 0.55.

  Returns:
    [P, G] scores.
  """
  rewards_PGK = _masked(rewards_PGK, turn_mask_PGK, xp)
  score_PG = SCORES[settings.score](rewards_PGK, turn_mask_PGK, settings, xp)
  if settings.turn_penalty:
    score_PG = score_PG - settings.turn_penalty * turn_mask_PGK.sum(-1)
  if settings.length_penalty:
    num_tokens_PG = xp.where(turn_mask_PGK, num_tokens_PGK, 0).sum(-1)
    excess_PG = xp.maximum(num_tokens_PG - settings.free_tokens, 0)
    score_PG = score_PG - settings.length_penalty / 1000 * excess_PG
  return score_PG


def _masked(rewards_PGK: Array, turn_mask_PGK: Array, xp) -> Array:
  """Returns rewards in working precision, 0 where there is no turn."""
  dtype = np.float64 if xp is np else np.float32
  return xp.where(turn_mask_PGK, xp.asarray(rewards_PGK, dtype), 0)
