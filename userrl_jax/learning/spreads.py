"""Spreads: how a trajectory's z and its turns' credits make advantages.

Comes in: z_PG, credits_PGK (0 where there is no turn), the sampled tokens of
each turn, and the scores that z came from. Goes out: advantages_PGK. The
functions are pure array code over an array module `xp`, see `credit`, whose
worked group the examples are about (em credit, r2g score).
"""

from typing import Any

from userrl_jax.learning import baselines

Array = Any  # numpy.ndarray or jax.Array


def scaled(
  z_PG: Array,
  credits_PGK: Array,
  num_tokens_PGK: Array,
  scores_PG: Array,
  valid_PG: Array,
  xp,
) -> Array:
  """Spreads z over turns: A_k = z c_k N / E, as UserRL's code does.

  N is the number of tokens whose turn has a credit other than 0 and
  E = sum_v c_v n_v, so the mean advantage over those N tokens is z. Where E is
  0 (but for rounding) the whole trajectory gets 0. Below the group's mean
  (z < 0) it pushes the turns with the most credit down hardest.
  Example: t2 -> 0.5627, 0.7834, from 0.6730 * (0.6906, 0.9615) * 6 / 4.9563.

  Returns:
    [P, G, K] advantages.
  """
  del scores_PG, valid_PG
  return _scaled(z_PG, credits_PGK, num_tokens_PGK, xp)


def signed(
  z_PG: Array,
  credits_PGK: Array,
  num_tokens_PGK: Array,
  scores_PG: Array,
  valid_PG: Array,
  xp,
) -> Array:
  """Spreads z so that a turn with more credit never gets less: A_k = z w_k N/E.

  Our own: like `scaled`, N and E made of weights w instead of credits. Above
  the group's mean w_k = c_k; below it the credits are mirrored,
  w_k = max c + min c - c_k, so that blame goes to the turns that earned
  least. Credits with a negative one among them are first raised to 0 and more;
  where all credits are equal, also all 0, every token carries z.
  Example: t1 -> 0.1238, 0.1238, 0.2476; z = -1 and credits 0.32, 0.4, 0, 0
  of three tokens each give -0.2727, 0, -1.3636, -1.3636.

  Returns:
    [P, G, K] advantages.
  """
  del scores_PG, valid_PG
  has_tokens_PGK = num_tokens_PGK > 0
  largest = xp.where(has_tokens_PGK, credits_PGK, -xp.inf).max(
    -1, keepdims=True
  )
  least = xp.where(has_tokens_PGK, credits_PGK, xp.inf).min(-1, keepdims=True)
  has_any_PG1 = has_tokens_PGK.any(-1, keepdims=True)
  top_PG1 = xp.where(has_any_PG1, largest, 0)
  low_PG1 = xp.where(has_any_PG1, least, 0)
  shift_PG1 = xp.minimum(low_PG1, 0)
  weight_PGK = xp.where(
    z_PG[..., None] < 0,
    (top_PG1 - credits_PGK) + (low_PG1 - shift_PG1),
    credits_PGK - shift_PG1,
  )
  weight_PGK = xp.where(top_PG1 == low_PG1, 1, weight_PGK)
  weight_PGK = xp.where(has_tokens_PGK, weight_PGK, 0)
  return _scaled(z_PG, weight_PGK, num_tokens_PGK, xp)


def printed(
  z_PG: Array,
  credits_PGK: Array,
  num_tokens_PGK: Array,
  scores_PG: Array,
  valid_PG: Array,
  xp,
) -> Array:
  """Compares each turn with the scores: A_k = (c_k - mean) / (std_n + 1e-6).

  The formula of UserRL's paper (arXiv 2509.19736) to the letter, but for flat
  groups, which get 0. It degenerates: a turn's credit is held against the
  group's *trajectory* scores, which are on another scale. With equalized
  credits it is the same constant for every token of the group, so success and
  failure are pushed alike; with others the best trajectory of a group may be
  pushed down as a whole, and a group's advantages do not cancel.
  Example: t2 -> 0.3391, 1.1335; t3 -> -0.2199, -0.2199, -0.2199, -0.2199.

  Returns:
    [P, G, K] advantages.
  """
  del z_PG
  mean_P1, num_valid_P1 = baselines.mean(scores_PG, valid_PG, xp)
  deviations_PG = xp.where(valid_PG, scores_PG - mean_P1, 0)
  variance_P1 = (deviations_PG**2).sum(-1, keepdims=True) / xp.maximum(
    num_valid_P1, 1
  )
  scale_P1 = xp.sqrt(variance_P1) + baselines.STD_EPSILON
  advantage_PGK = (credits_PGK - mean_P1[..., None]) / scale_P1[..., None]
  is_flat_P = baselines.flat_groups(scores_PG, valid_PG, xp)
  is_compared_PG = valid_PG & ~is_flat_P[:, None]
  return xp.where(
    is_compared_PG[..., None] & (num_tokens_PGK > 0), advantage_PGK, 0
  )


# (z, credits, num_tokens, scores, valid, xp) -> advantages_PGK
SPREADS = {"scaled": scaled, "signed": signed, "printed": printed}


def _scaled(
  z_PG: Array, credits_PGK: Array, num_tokens_PGK: Array, xp
) -> Array:
  weight_PGK = credits_PGK * num_tokens_PGK
  N_PG = xp.where(credits_PGK != 0, num_tokens_PGK, 0).sum(-1)
  E_PG = weight_PGK.sum(-1)
  has_credit_PG = xp.abs(E_PG) > baselines.FLAT_TOLERANCE * xp.abs(
    weight_PGK
  ).sum(-1)
  scale_PG = xp.where(
    has_credit_PG, z_PG * N_PG / xp.where(has_credit_PG, E_PG, 1), 0
  )
  return scale_PG[..., None] * credits_PGK
