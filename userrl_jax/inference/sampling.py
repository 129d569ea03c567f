"""Draws tokens from logits; randomness belongs to a row and a position.

The uniform number of a token is a function of its row's key and of its
position alone, so a result never depends on which rows decode together.
"""

import jax
import jax.numpy as jnp

# Width of the blocks that the cumulative sum is split into: summing blocks
# first is twice as fast on a CPU as one sum over the vocabulary.
_BLOCK = 64


def sample(
  logits_BV: jax.Array,
  keys_B: jax.Array,
  positions_B: jax.Array,
  temperature: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Draws one token a row by inverting its cumulative distribution.

  Args:
    logits_BV: [B, V] float32.
    keys_B: [B] PRNG keys, one a row; not consumed, folded with the position.
    positions_B: [B] int32, position that the drawn token will have.
    temperature: float32 scalar; 0 takes the likeliest token.

  Returns:
    tokens [B] int32, and their logprobs [B] float32 (nats) under the
    distribution drawn from; at temperature 0 under the untempered one.
  """
  greedy = temperature == 0
  logits_BV = logits_BV / jnp.where(greedy, 1.0, temperature)
  logprobs_BV = jax.nn.log_softmax(logits_BV)
  fold = lambda key, position: jax.random.uniform(
    jax.random.fold_in(key, position)
  )
  uniform_B = jax.vmap(fold)(keys_B, positions_B)
  drawn_B = invert_cdf(jnp.exp(logprobs_BV), uniform_B)
  tokens_B = jnp.where(greedy, jnp.argmax(logits_BV, -1), drawn_B)
  logprobs_B = jnp.take_along_axis(logprobs_BV, tokens_B[:, None], 1)[:, 0]
  return tokens_B.astype(jnp.int32), logprobs_B


def invert_cdf(weights_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """Finds the first index whose cumulative weight exceeds a share of all.

  Args:
    weights_BV: [B, V] float32, not negative, each row with a positive sum.
    uniform_B: [B] float32 in [0, 1).

  Returns:
    [B] int32 indices; one of weight 0 is never returned.
  """
  B, V = weights_BV.shape
  num_blocks = -(-V // _BLOCK)
  padded_BV = jnp.pad(weights_BV, ((0, 0), (0, num_blocks * _BLOCK - V)))
  weights_BnW = padded_BV.reshape(B, num_blocks, _BLOCK)
  block_cdf_Bn = jnp.cumsum(weights_BnW.sum(-1), -1)
  target_B1 = (uniform_B * block_cdf_Bn[:, -1])[:, None]
  block_B1 = jnp.sum(block_cdf_Bn <= target_B1, -1, keepdims=True)
  block_B1 = jnp.minimum(block_B1, num_blocks - 1)
  below_B1 = jnp.where(
    block_B1 > 0,
    jnp.take_along_axis(block_cdf_Bn, jnp.maximum(block_B1 - 1, 0), 1),
    0.0,
  )
  inside_BW = jnp.take_along_axis(weights_BnW, block_B1[..., None], 1)[:, 0]
  cdf_BW = below_B1 + jnp.cumsum(inside_BW, -1)
  offset_B = jnp.sum(cdf_BW <= target_B1, -1)
  # Rounding may leave the target past the block's end: take its last index
  # that has weight.
  last_B = _BLOCK - 1 - jnp.argmax(inside_BW[:, ::-1] > 0, -1)
  return block_B1[:, 0] * _BLOCK + jnp.minimum(offset_B, last_B)
