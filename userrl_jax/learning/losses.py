"""Losses: log-probs of the sampled tokens only, and what to make of them.

Comes in: hidden states of packed rows and where the sampled tokens are. Goes
out: sums over tokens, which the caller divides by the whole update's number of
tokens (law L7). Vocabulary logits exist for one chunk of positions at a time
and are recomputed when backpropagating: [B, T, V] never exists (law L6).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# exp of a log-ratio beyond this is clipped: it would only overflow.
MAX_LOG_RATIO = 20.0


class TokenStats(NamedTuple):
  """What the model says about sampled tokens; 0 on padding.

  Attributes:
    logprobs: [B, M] float32, nats, of the sampled token.
    entropy: [B, M] float32, nats, of the distribution it was sampled from;
      carries no gradient.
    is_top: [B, M] float32, 1 where the token was the likeliest.
  """

  logprobs: jax.Array
  entropy: jax.Array
  is_top: jax.Array


def sampled_token_stats(
  hidden_BTD: jax.Array,
  logits_of: Callable[[jax.Array], jax.Array],
  positions_BM: jax.Array,
  targets_BM: jax.Array,
  mask_BM: jax.Array,
  *,
  chunk: int,
  temperature: float = 1.0,
) -> TokenStats:
  """Computes the log-probs of sampled tokens, `chunk` positions at a time.

  Args:
    hidden_BTD: [B, T, D] final hidden states.
    logits_of: turns [..., D] hidden states to [..., V] float32 logits.
    positions_BM: [B, M] int32, index into T of the state that predicts a token.
    targets_BM: [B, M] int32, the token.
    mask_BM: [B, M] bool, False on padding; a chunk of padding costs nothing.
    chunk: positions a row whose logits exist together.
    temperature: above 0; the logits are divided by it, as when sampling.

  Returns:
    The log-prob, entropy and top-1 hit of each sampled token.
  """
  assert temperature > 0 and chunk > 0
  B, M = targets_BM.shape
  hidden_BMD = jnp.take_along_axis(hidden_BTD, positions_BM[..., None], axis=1)

  def compute(hidden, targets, mask):
    logits = logits_of(hidden).astype(jnp.float32) / temperature
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    logprobs = target_logits[..., 0] - log_z
    fixed = jax.lax.stop_gradient(logits)
    entropy = log_z - jnp.sum(jax.nn.softmax(fixed) * fixed, axis=-1)
    is_top = target_logits[..., 0] >= jnp.max(fixed, axis=-1)
    stats = TokenStats(logprobs, jax.lax.stop_gradient(entropy), is_top)
    return jax.tree.map(lambda x: jnp.where(mask, x, 0.0), stats)

  def skip(hidden, targets, mask):
    del hidden, targets
    zeros = jnp.zeros(mask.shape, jnp.float32)
    return TokenStats(zeros, zeros, zeros)

  def one_chunk(carry, arrays):
    hidden, targets, mask = arrays
    stats = jax.lax.cond(jnp.any(mask), compute, skip, hidden, targets, mask)
    return carry, stats

  chunk = min(chunk, M)
  num_chunks = -(-M // chunk)

  def split(x):
    widths = [(0, 0), (0, num_chunks * chunk - M)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, widths).reshape(B, num_chunks, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  _, stats = jax.lax.scan(
    jax.checkpoint(one_chunk, prevent_cse=False),
    None,
    (split(hidden_BMD), split(targets_BM), split(mask_BM)),
  )
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(B, num_chunks * chunk)[:, :M]
  return jax.tree.map(join, stats)


def clipped_policy_loss(
  logprobs_BM: jax.Array,
  old_logprobs_BM: jax.Array,
  advantages_BM: jax.Array,
  mask_BM: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
  dual_clip: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Sums the clipped policy loss of PPO (arXiv 1707.06347) over tokens.

  With rho = exp(logprob - old logprob) and advantage A, a token's loss is
  M = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)); where A < 0, it is
  at most -A dual_clip (arXiv 1912.09729), so that a token which became much
  likelier is not pushed down without bound.
  Example (0.2, 0.2, 3): A = 1, rho = 1.5 -> -1.2, no gradient; A = -1,
  rho = 3.5 -> 3, no gradient.

  Args:
    logprobs_BM: [B, M] float32, nats, under the params that are trained.
    old_logprobs_BM: [B, M] float32, nats, as sampled.
    advantages_BM: [B, M] float32.
    mask_BM: [B, M] bool, False on padding.
    clip_low: how far below 1 a ratio may fall.
    clip_high: how far above 1 a ratio may rise.
    dual_clip: above 1.

  Returns:
    The sum over tokens, and sums over tokens of: ratio, clip_fraction (the
    clipped term is the larger), dual_clip_fraction, kl (old - new logprob).
  """
  log_ratio_BM = jnp.where(mask_BM, logprobs_BM - old_logprobs_BM, 0.0)
  ratio_BM = jnp.exp(jnp.clip(log_ratio_BM, -MAX_LOG_RATIO, MAX_LOG_RATIO))
  plain_BM = -advantages_BM * ratio_BM
  clipped_BM = -advantages_BM * jnp.clip(ratio_BM, 1 - clip_low, 1 + clip_high)
  loss_BM = jnp.maximum(plain_BM, clipped_BM)
  ceiling_BM = jnp.where(advantages_BM < 0, -advantages_BM * dual_clip, jnp.inf)
  total = lambda x_BM: jnp.sum(jnp.where(mask_BM, x_BM, 0.0))
  sums = {
    "ratio": total(ratio_BM),
    "clip_fraction": total(clipped_BM > plain_BM),
    "dual_clip_fraction": total(loss_BM > ceiling_BM),
    "kl": total(-log_ratio_BM),
  }
  sums = jax.tree.map(jax.lax.stop_gradient, sums)
  return total(jnp.minimum(loss_BM, ceiling_BM)), sums
