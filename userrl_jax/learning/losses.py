"""Losses: log-probs of the sampled tokens only.

Comes in: hidden states of packed rows and where the sampled tokens are. Goes
out: what the model says about each of them; what a loss makes of it is in
`policy_losses` and `imitation`. Vocabulary logits exist for one chunk of
positions at a time and are recomputed when backpropagating: [B, T, V] never
exists (law L6).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class TokenStats(NamedTuple):
  """What the model says about sampled tokens; 0 on padding.

  Attributes:
    logprobs: [B, M] float32, nats, of the sampled token.
    entropy: [B, M] float32, nats, of the distribution it was sampled from;
      carries a gradient only when asked to.
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
  entropy_gradient: bool = False,
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
    entropy_gradient: whether the entropy carries a gradient.

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
    freeze = (lambda x: x) if entropy_gradient else jax.lax.stop_gradient
    fixed = freeze(logits)
    entropy = log_z - jnp.sum(jax.nn.softmax(fixed) * fixed, axis=-1)
    is_top = target_logits[..., 0] >= jnp.max(fixed, axis=-1)
    stats = TokenStats(logprobs, freeze(entropy), is_top)
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
