"""Draws tokens from logits; randomness belongs to a row and a position.

In: logits of some lanes and what each of them asks for. Out: a token a lane
and its two log-probs. The uniform number of a token is a function of its row's
key and of its position alone, so a result never depends on which rows decode
together.

  logits -> / temperature -> top-k -> top-p -> min-p -> inverse CDF -> token

Each filter works on what the one before it left, renormalised, and keeps ties
with the last token that it keeps.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Width of the blocks that the cumulative sum is split into: summing blocks
# first is twice as fast on a CPU as one sum over the vocabulary.
_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn; the defaults draw from the model itself."""

  temperature: float = 1.0  # 0 takes the likeliest token
  top_k: int = 0  # the k likeliest tokens; 0 is all
  top_p: float = 1.0  # the likeliest tokens that together reach p; 1 is all
  min_p: float = 0.0  # tokens at least this share as likely as the likeliest

  def __post_init__(self):
    """Checks the ranges.

    Raises:
      ValueError: names the field, what must hold and what was got.
    """
    for field, holds, must in (
      ("temperature", self.temperature >= 0, "at least 0"),
      ("top_k", self.top_k >= 0, "at least 0 (0 keeps all)"),
      ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (1 keeps all)"),
      ("min_p", 0 <= self.min_p <= 1, "between 0 and 1 (0 keeps all)"),
    ):
      if not holds:
        raise ValueError(f"{field} must be {must}, got {getattr(self, field)}")


class Knobs(NamedTuple):
  """The `Sampling` of some lanes, as values of a device call."""

  temperature_B: jax.Array | np.ndarray  # [B] float32
  top_k_B: jax.Array | np.ndarray  # [B] int32
  top_p_B: jax.Array | np.ndarray  # [B] float32
  min_p_B: jax.Array | np.ndarray  # [B] float32


class Drawn(NamedTuple):
  """Drawn tokens and what was thought of them, in nats."""

  tokens_B: jax.Array  # [B] int32
  # Under the distribution drawn from: tempered, filtered, renormalised. When
  # greedy, under the untempered one.
  logprobs_B: jax.Array  # [B] float32
  model_logprobs_B: jax.Array  # [B] float32, under the untempered one


def knobs(samplings: Sequence[Sampling]) -> Knobs:
  """Stacks what lanes ask for into arrays."""
  column = lambda name, dtype: np.array(
    [getattr(sampling, name) for sampling in samplings], dtype
  )
  return Knobs(
    column("temperature", np.float32),
    column("top_k", np.int32),
    column("top_p", np.float32),
    column("min_p", np.float32),
  )


def uniforms(keys_B: jax.Array, positions_Bn: jax.Array) -> jax.Array:
  """Returns the [B, n] uniform numbers of tokens at the given positions.

  Args:
    keys_B: [B] PRNG keys, one a row; not consumed, folded with the position.
    positions_Bn: [B, n] int32, position that each token will have in its row.
  """
  draw = lambda key, position: jax.random.uniform(
    jax.random.fold_in(key, position)
  )
  return jax.vmap(jax.vmap(draw, (None, 0)))(keys_B, positions_Bn)


def sample(logits_BV: jax.Array, uniform_B: jax.Array, knobs: Knobs) -> Drawn:
  """Draws one token a lane by inverting its cumulative distribution.

  Args:
    logits_BV: [B, V] float32.
    uniform_B: [B] float32 in [0, 1).
    knobs: what each lane asks for.

  Returns:
    The tokens with their log-probs.
  """
  greedy_B = knobs.temperature_B == 0
  temperature_B = jnp.where(greedy_B, 1.0, knobs.temperature_B)
  top_B = jnp.max(logits_BV, -1)
  centred_BV = logits_BV - top_B[:, None]
  # Weights relative to the likeliest token's, which is 1.
  weights_BV = jnp.exp(centred_BV / temperature_B[:, None])
  filters = (knobs.top_k_B > 0) | (knobs.top_p_B < 1) | (knobs.min_p_B > 0)
  weights_BV = jax.lax.cond(
    jnp.any(filters), _filtered, lambda w, _: w, weights_BV, knobs
  )
  drawn_B, total_B = invert_cdf(weights_BV, uniform_B)
  tokens_B = jax.lax.cond(
    jnp.any(greedy_B),
    lambda: jnp.where(greedy_B, jnp.argmax(logits_BV, -1), drawn_B),
    lambda: drawn_B,
  )
  taken_B = jnp.take_along_axis(centred_BV, tokens_B[:, None], 1)[:, 0]
  logprobs_B = taken_B / temperature_B - jnp.log(total_B)
  model_logprobs_B = jax.lax.cond(
    jnp.any(filters | (temperature_B != 1)),
    lambda: taken_B - jnp.log(jnp.sum(jnp.exp(centred_BV), -1)),
    lambda: logprobs_B,
  )
  logprobs_B = jnp.where(greedy_B, model_logprobs_B, logprobs_B)
  return Drawn(tokens_B.astype(jnp.int32), logprobs_B, model_logprobs_B)


def invert_cdf(
  weights_BV: jax.Array, uniform_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Finds the first index whose cumulative weight exceeds a share of all.

  Args:
    weights_BV: [B, V] float32, not negative, each row with a positive sum.
    uniform_B: [B] float32 in [0, 1).

  Returns:
    [B] int32 indices, never one of weight 0, and [B] float32 sums of weights.
  """
  B, V = weights_BV.shape
  num_blocks = -(-V // _BLOCK)
  padded_BV = jnp.pad(weights_BV, ((0, 0), (0, num_blocks * _BLOCK - V)))
  weights_BnW = padded_BV.reshape(B, num_blocks, _BLOCK)
  block_cdf_Bn = jnp.cumsum(weights_BnW.sum(-1), -1)
  total_B = block_cdf_Bn[:, -1]
  target_B1 = (uniform_B * total_B)[:, None]
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
  return block_B1[:, 0] * _BLOCK + jnp.minimum(offset_B, last_B), total_B


def _filtered(weights_BV: jax.Array, knobs: Knobs) -> jax.Array:
  """Sets to 0 what top-k, top-p and min-p leave out, in this order."""
  V = weights_BV.shape[1]
  ones_BV = jnp.ones_like(weights_BV)
  k_B = jnp.where(knobs.top_k_B > 0, jnp.minimum(knobs.top_k_B, V), V)
  floor_B = _floor(weights_BV, ones_BV, k_B.astype(jnp.float32))
  weights_BV = jnp.where(weights_BV >= floor_B[:, None], weights_BV, 0.0)
  # All tokens are kept by name where p is 1: a sum of all may round below it.
  reach_B = knobs.top_p_B * jnp.sum(weights_BV, -1)
  floor_B = _floor(weights_BV, weights_BV, reach_B)
  floor_B = jnp.where(knobs.top_p_B < 1, floor_B, 0.0)
  floor_B = jnp.maximum(floor_B, knobs.min_p_B)  # of a likeliest weight of 1
  return jnp.where(weights_BV >= floor_B[:, None], weights_BV, 0.0)


def _floor(
  weights_BV: jax.Array, masses_BV: jax.Array, reach_B: jax.Array
) -> jax.Array:
  """Returns the highest weight at or above which masses add up to `reach`.

  Bisects the bits of the weights, which order floats that are not negative as
  integers: exact, and much cheaper than sorting a vocabulary.
  """

  def mass_from(bits_B):
    kept_BV = weights_BV >= _as_float(bits_B)[:, None]
    return jnp.sum(jnp.where(kept_BV, masses_BV, 0.0), -1)

  def halve(_, bounds):
    low_B, high_B = bounds  # from low on, enough; from high on, too little
    middle_B = low_B + (high_B - low_B) // 2
    enough_B = mass_from(middle_B) >= reach_B
    return (
      jnp.where(enough_B, middle_B, low_B),
      jnp.where(enough_B, high_B, middle_B),
    )

  B = weights_BV.shape[0]
  one = int(np.float32(1).view(np.int32))  # no weight is above 1
  low_B, _ = jax.lax.fori_loop(
    0,
    31,
    halve,
    (jnp.zeros(B, jnp.int32), jnp.full(B, one + 1, jnp.int32)),
  )
  return _as_float(low_B)


def _as_float(bits_B: jax.Array) -> jax.Array:
  return jax.lax.bitcast_convert_type(bits_B, jnp.float32)
