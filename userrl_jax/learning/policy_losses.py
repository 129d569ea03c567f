"""Policy losses: what the sampled tokens of a micro-batch add to the loss.

Comes in: log-probs of sampled tokens under the params that are trained, those
that ratios start from, and advantages. Goes out: a sum over tokens, which the
caller divides by a denominator of the whole update (law L7), so that neither
packing nor micro-batches change a number.

With rho = exp(logprob - old logprob), A the advantage and sg the identity
without a gradient. Worked numbers have clips 0.2 and 0.2, and dual clip 3.
"""

import dataclasses

import jax
import jax.numpy as jnp

from userrl_jax import config

# exp of a log-ratio beyond this is clipped: it would only overflow.
MAX_LOG_RATIO = 20.0

Marks = dict[str, jax.Array]  # of each token: what metrics sum up


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Sampled tokens as the policy losses see them."""

  logprobs_BM: jax.Array  # float32, nats, under the params that are trained
  old_logprobs_BM: jax.Array  # float32, nats, that ratios start from
  advantages_BM: jax.Array  # float32
  mask_BM: jax.Array  # bool, False on padding
  sequences_BM: jax.Array  # int32, the token's trajectory; any on padding
  num_sequences: int  # trajectories are 0 .. this - 1, each in one row


def ppo(tokens: Tokens, settings: config.Grpo) -> tuple[jax.Array, Marks]:
  """Clips each token's ratio (PPO, arXiv 1707.06347).

  l = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)); where A < 0, at
  most -A dual_clip (arXiv 1912.09729), so that a token which became much
  likelier is not pushed down without bound. Unequal clips: DAPO
  (arXiv 2503.14476).
  Example: A = 1, rho = 1.5 -> -1.2, no gradient; A = -1, rho = 3.5 -> 3, no
  gradient.

  Returns:
    [B, M] losses, and marks: ratio, clip_fraction (the clipped term is the
    larger), dual_clip_fraction, kl (old - new logprob).
  """
  log_ratio_BM = _log_ratio(tokens)
  return _clipped(_exp(log_ratio_BM), log_ratio_BM, tokens, settings)


def gspo(tokens: Tokens, settings: config.Grpo) -> tuple[jax.Array, Marks]:
  """Clips the ratio of a whole trajectory (GSPO, arXiv 2507.18071).

  As `ppo`, with s = exp(mean over the trajectory's tokens of log rho) instead
  of rho: all its tokens are clipped, or none. In the paper's per-token form,
  s_t = sg(s) rho_t / sg(rho_t), so that turns keep advantages of their own;
  where they are all alike, it is the gradient of the plain form. Clips are
  those of a mean: 0.0003 and 0.0004 in the paper.
  Example: A = 1, rho = 2 and 0.5 -> s = 1, both tokens -1.

  Returns:
    [B, M] losses, and marks as of `ppo`; ratio is s.
  """
  log_ratio_BM = _log_ratio(tokens)
  mean_BM = jax.lax.stop_gradient(_mean_by_sequence(log_ratio_BM, tokens))
  own_BM = log_ratio_BM - jax.lax.stop_gradient(log_ratio_BM)
  return _clipped(_exp(mean_BM + own_BM), log_ratio_BM, tokens, settings)


def cispo(tokens: Tokens, settings: config.Grpo) -> tuple[jax.Array, Marks]:
  """Clips the weight, never the gradient (CISPO, arXiv 2506.13585).

  l = -sg(clip(rho, 1 - clip_low, 1 + clip_high)) A logprob: rare tokens that
  matter go on learning where PPO would drop them.
  Example: A = 1, logprob = -2, rho = 1.5 -> 2.4, with gradient -1.2.

  Returns:
    [B, M] losses, and marks: ratio, clip_fraction (rho is out of bounds),
    dual_clip_fraction (0), kl (old - new logprob).
  """
  log_ratio_BM = _log_ratio(tokens)
  ratio_BM = _exp(log_ratio_BM)
  weight_BM = _bounded(ratio_BM, settings)
  loss_BM = -jax.lax.stop_gradient(weight_BM) * _weighted_logprobs(tokens)
  return loss_BM, _marks(ratio_BM, weight_BM != ratio_BM, log_ratio_BM)


def plain(tokens: Tokens, settings: config.Grpo) -> tuple[jax.Array, Marks]:
  """Follows the policy gradient, without a ratio (Williams 1992): -A logprob.

  Right only for tokens that the trained params themselves sampled.
  Example: A = 0.5, logprob = -2 -> 1, with gradient -0.5.

  Returns:
    [B, M] losses, and marks: ratio, clip_fraction and dual_clip_fraction (0),
    kl (old - new logprob).
  """
  del settings
  log_ratio_BM = _log_ratio(tokens)
  never_BM = jnp.zeros_like(tokens.mask_BM)
  marks = _marks(_exp(log_ratio_BM), never_BM, log_ratio_BM)
  return -_weighted_logprobs(tokens), marks


POLICY_LOSSES = {"ppo": ppo, "gspo": gspo, "cispo": cispo, "plain": plain}


def k1(logprobs: jax.Array, reference: jax.Array) -> jax.Array:
  """Estimates KL(policy, reference) by k1 = logprob - reference logprob.

  Unbiased as a number (Schulman 2020), but on-policy its gradient is 0 in the
  mean: in a loss it only adds noise. Example: -1 and -2 -> 1.
  """
  return logprobs - reference


def k2(logprobs: jax.Array, reference: jax.Array) -> jax.Array:
  """Estimates KL(policy, reference) by k2 = (logprob - reference)^2 / 2.

  Biased as a number (Schulman 2020), but on-policy its gradient is that of the
  KL. Example: -1 and -3 -> 2.
  """
  return (logprobs - reference) ** 2 / 2


def k3(logprobs: jax.Array, reference: jax.Array) -> jax.Array:
  """Estimates KL(policy, reference) by k3 = e^d - d - 1, d = reference - own.

  Unbiased and never negative (Schulman 2020), GRPO's choice (arXiv
  2402.03300); on-policy its gradient is that of KL(reference, policy).
  Example: -1 and -2 -> 0.3679.
  """
  difference = jnp.clip(reference - logprobs, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  return jnp.expm1(difference) - difference


KL_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def token_mean(
  num_tokens_PG: jax.Array, settings: config.Grpo
) -> tuple[jax.Array | None, jax.Array]:
  """Weighs every token of the update alike (DAPO, arXiv 2503.14476).

  Example: trajectories of 2 and 6 tokens -> each token 1/8.

  Returns:
    The weight of a trajectory's tokens, [P, G]; None is 1 for all. And what
    the weighted sum is divided by.
  """
  del settings
  return None, jnp.maximum(num_tokens_PG.sum(), 1).astype(jnp.float32)


def sequence_mean(
  num_tokens_PG: jax.Array, settings: config.Grpo
) -> tuple[jax.Array | None, jax.Array]:
  """Weighs every trajectory alike, its tokens by its length (GRPO, 2402.03300).

  Example: trajectories of 2 and 6 tokens -> tokens of 1/4 and of 1/12.

  Returns:
    As `token_mean`.
  """
  del settings
  return 1.0 / jnp.maximum(num_tokens_PG, 1), _num_sequences(num_tokens_PG)


def constant_length(
  num_tokens_PG: jax.Array, settings: config.Grpo
) -> tuple[jax.Array | None, jax.Array]:
  """Divides by a number that knows no length (Dr. GRPO, arXiv 2503.20783).

  Every trajectory counts as `loss_length` tokens, so that a long wrong one is
  not let off. Example (loss_length 10): trajectories of 2 and 6 tokens ->
  each token 1/20.

  Returns:
    As `token_mean`.
  """
  return None, _num_sequences(num_tokens_PG) * settings.loss_length


AGGREGATIONS = {
  "token_mean": token_mean,
  "sequence_mean": sequence_mean,
  "constant_length": constant_length,
}


def check(settings: config.Grpo) -> None:
  """Refuses settings that name or mean nothing.

  Raises:
    ValueError: for an unknown name, or a number out of range.
  """
  for field, known in (
    ("loss", POLICY_LOSSES),
    ("aggregation", AGGREGATIONS),
    ("kl_estimator", KL_ESTIMATORS),
  ):
    if getattr(settings, field) not in known:
      raise ValueError(
        f"grpo.{field} must be one of {', '.join(known)}; "
        f"got {getattr(settings, field)!r}"
      )
  low, high, dual = settings.clip_low, settings.clip_high, settings.dual_clip
  if not 0 <= low <= 1 or high < 0 or dual <= 1:
    raise ValueError(
      "grpo.clip_low must be within 0 and 1, clip_high at least 0 and "
      f"dual_clip above 1; got {low}, {high} and {dual}"
    )


def importance_weights(
  old_logprobs: jax.Array, sampled_logprobs: jax.Array, cap: float
) -> jax.Array:
  """Weighs tokens by min(cap, p_old / p_sampled), without a gradient.

  Truncated importance sampling between the sampler's numbers, or its older
  params, and the learner (Yao et al. 2025, "Your efficient RL framework
  secretly brings you off-policy training").
  Example (cap 2): -1 and -1.5 -> 1.6487; -1 and -3 -> 2.
  """
  log_ratio = jnp.clip(
    old_logprobs - sampled_logprobs, -MAX_LOG_RATIO, MAX_LOG_RATIO
  )
  return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio), cap))


def total(
  tokens: Tokens,
  settings: config.Grpo,
  *,
  entropy_BM: jax.Array | None = None,
  sampled_logprobs_BM: jax.Array | None = None,
  reference_logprobs_BM: jax.Array | None = None,
  weights_BM: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Sums the policy loss and what is added to it over tokens.

  loss = w (u l + kl_coef KL - entropy_coef H): aggregation weight w, truncated
  importance weight u, token loss l.

  Args:
    tokens: of one micro-batch.
    settings: names and numbers of the method.
    entropy_BM: nats, with a gradient; read where `entropy_coef` is set.
    sampled_logprobs_BM: nats, as sampled; read where `importance_cap` is set.
    reference_logprobs_BM: nats, under the reference; where `kl_coef` is set.
    weights_BM: of the aggregation; None is 1.

  Returns:
    The sum, and sums over tokens, unweighted, for metrics.
  """
  mask_BM = tokens.mask_BM
  masked = lambda x_BM: jnp.where(mask_BM, x_BM, 0.0)
  loss_BM, marks = POLICY_LOSSES[settings.loss](tokens, settings)
  if settings.importance_cap:
    weight_BM = importance_weights(
      masked(tokens.old_logprobs_BM),
      masked(sampled_logprobs_BM),
      settings.importance_cap,
    )
    loss_BM = weight_BM * loss_BM
    marks["importance"] = weight_BM
    marks["importance_capped"] = weight_BM >= settings.importance_cap
  if settings.kl_coef:
    estimate = KL_ESTIMATORS[settings.kl_estimator]
    kl_BM = estimate(masked(tokens.logprobs_BM), masked(reference_logprobs_BM))
    loss_BM = loss_BM + settings.kl_coef * kl_BM
    marks["reference_kl"] = kl_BM
  if settings.entropy_coef:
    loss_BM = loss_BM - settings.entropy_coef * entropy_BM
  if weights_BM is not None:
    loss_BM = weights_BM * loss_BM
  sums = {k: jnp.sum(masked(x_BM)) for k, x_BM in marks.items()}
  return jnp.sum(masked(loss_BM)), jax.tree.map(jax.lax.stop_gradient, sums)


def _log_ratio(tokens: Tokens) -> jax.Array:
  difference_BM = tokens.logprobs_BM - tokens.old_logprobs_BM
  return jnp.where(tokens.mask_BM, difference_BM, 0.0)


def _exp(log_ratio_BM: jax.Array) -> jax.Array:
  return jnp.exp(jnp.clip(log_ratio_BM, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _bounded(ratio_BM: jax.Array, settings: config.Grpo) -> jax.Array:
  return jnp.clip(ratio_BM, 1 - settings.clip_low, 1 + settings.clip_high)


def _clipped(
  ratio_BM: jax.Array,
  log_ratio_BM: jax.Array,
  tokens: Tokens,
  settings: config.Grpo,
) -> tuple[jax.Array, Marks]:
  A_BM = tokens.advantages_BM
  plain_BM = -A_BM * ratio_BM
  clipped_BM = -A_BM * _bounded(ratio_BM, settings)
  loss_BM = jnp.maximum(plain_BM, clipped_BM)
  ceiling_BM = jnp.where(A_BM < 0, -A_BM * settings.dual_clip, jnp.inf)
  marks = _marks(ratio_BM, clipped_BM > plain_BM, log_ratio_BM)
  marks["dual_clip_fraction"] = loss_BM > ceiling_BM
  return jnp.minimum(loss_BM, ceiling_BM), marks


def _marks(
  ratio_BM: jax.Array, is_clipped_BM: jax.Array, log_ratio_BM: jax.Array
) -> Marks:
  return {
    "ratio": ratio_BM,
    "clip_fraction": is_clipped_BM,
    "dual_clip_fraction": jnp.zeros_like(is_clipped_BM),
    "kl": -log_ratio_BM,
  }


def _weighted_logprobs(tokens: Tokens) -> jax.Array:
  masked = lambda x_BM: jnp.where(tokens.mask_BM, x_BM, 0.0)
  return masked(tokens.advantages_BM) * masked(tokens.logprobs_BM)


def _mean_by_sequence(x_BM: jax.Array, tokens: Tokens) -> jax.Array:
  """Gives each token the mean over its trajectory, which is in its row."""

  def of_row(x_M, mask_M, sequences_M):
    # Padding adds 0 to whichever trajectory it is counted to.
    sequences_M = jnp.maximum(sequences_M, 0)
    add = lambda values_M: (
      jnp.zeros(tokens.num_sequences).at[sequences_M].add(values_M)
    )
    mean = add(x_M) / jnp.maximum(add(jnp.where(mask_M, 1.0, 0.0)), 1)
    return mean[sequences_M]

  return jax.vmap(of_row)(x_BM, tokens.mask_BM, tokens.sequences_BM)


def _num_sequences(num_tokens_PG: jax.Array) -> jax.Array:
  return jnp.maximum((num_tokens_PG > 0).sum(), 1).astype(jnp.float32)
