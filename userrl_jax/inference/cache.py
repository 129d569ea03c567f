"""Device programs over KV rows: extend reads ids, decode samples them.

Rows live in a cache of S rows; a call works on B lanes, each pointing at a
row. A call copies its lanes' rows once, works on the copies, and writes only
the new positions back:

  rows of the cache   0: aaaaaaa...   1: bb......   2: cccc....
  lanes -> rows       [2, 0, S]       (S marks an idle lane: writes drop)

Params are an argument of every call (law L3).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from userrl_jax.inference import sampling
from userrl_jax.models import qwen3


class Decoded(NamedTuple):
  """What a decode call sampled."""

  token_ids_Bn: jax.Array  # [B, n] int32, sampled ids; -1 past a lane's end
  logprobs_Bn: jax.Array  # [B, n] float32 nats; 0 past a lane's end


@functools.partial(
  jax.jit, static_argnames=("config", "length"), donate_argnames=("cache",)
)
def extend(
  params: qwen3.Params,
  cache: qwen3.Cache,
  rows_B: jax.Array,
  tokens_BT: jax.Array,
  starts_B: jax.Array,
  counts_B: jax.Array,
  *,
  config: qwen3.Config,
  length: int,
) -> qwen3.Cache:
  """Reads up to T ids into each lane's row.

  Args:
    params: of the model.
    cache: all rows; donated.
    rows_B: [B] int32 row of each lane; S for an idle lane.
    tokens_BT: [B, T] int32 ids to read.
    starts_B: [B] int32 positions already written in each row.
    counts_B: [B] int32 how many of the T ids are real.
    config: shape of the model.
    length: positions of a row that this call looks at.

  Returns:
    The cache with the ids' keys and values written.
  """
  steps_T = jnp.arange(tokens_BT.shape[1])
  positions_BT = starts_B[:, None] + steps_T
  positions_BT = jnp.where(steps_T < counts_B[:, None], positions_BT, length)
  lanes = _take(cache, rows_B, length)
  _, lanes = qwen3.forward(params, config, tokens_BT, positions_BT, cache=lanes)
  return _put_back(cache, lanes, rows_B, positions_BT)


@functools.partial(
  jax.jit,
  static_argnames=("config", "length", "num_tokens"),
  donate_argnames=("cache",),
)
def decode(
  params: qwen3.Params,
  cache: qwen3.Cache,
  rows_B: jax.Array,
  current_B: jax.Array,
  starts_B: jax.Array,
  budgets_B: jax.Array,
  key_data_B: jax.Array,
  temperature: jax.Array,
  stop_id: jax.Array,
  *,
  config: qwen3.Config,
  length: int,
  num_tokens: int,
) -> tuple[qwen3.Cache, Decoded]:
  """Samples up to `num_tokens` ids a lane, until a stop id or its budget.

  Args:
    params: of the model.
    cache: all rows; donated.
    rows_B: [B] int32 row of each lane; S for an idle lane.
    current_B: [B] int32 the id that is read first.
    starts_B: [B] int32 positions already written in each row.
    budgets_B: [B] int32 ids a lane may sample; 0 for an idle lane.
    key_data_B: [B, 2] uint32 PRNG key of each row.
    temperature: float32 scalar.
    stop_id: int32 scalar; sampled, kept, and the last of its lane.
    config: shape of the model.
    length: positions of a row that this call looks at.
    num_tokens: n, the most ids a lane samples in this call.

  Returns:
    The cache, in which the current id and all sampled ids but the last are
    written, and what was sampled.
  """
  B = rows_B.shape[0]
  keys_B = jax.random.wrap_key_data(key_data_B)

  class Loop(NamedTuple):
    i: jax.Array
    lanes: qwen3.Cache
    current_B: jax.Array
    active_B: jax.Array
    token_ids_Bn: jax.Array
    logprobs_Bn: jax.Array

  def step(s: Loop) -> Loop:
    positions_B = jnp.where(s.active_B, starts_B + s.i, length)
    hidden_B1D, lanes = qwen3.forward(
      params, config, s.current_B[:, None], positions_B[:, None], cache=s.lanes
    )
    logits_BV = qwen3.logits(params, config, hidden_B1D[:, 0])
    tokens_B, logprobs_B = sampling.sample(
      logits_BV, keys_B, positions_B + 1, temperature
    )
    token_ids_Bn = s.token_ids_Bn.at[:, s.i].set(
      jnp.where(s.active_B, tokens_B, -1)
    )
    logprobs_Bn = s.logprobs_Bn.at[:, s.i].set(
      jnp.where(s.active_B, logprobs_B, 0.0)
    )
    active_B = s.active_B & (tokens_B != stop_id) & (s.i + 1 < budgets_B)
    return Loop(s.i + 1, lanes, tokens_B, active_B, token_ids_Bn, logprobs_Bn)

  end = jax.lax.while_loop(
    lambda s: (s.i < num_tokens) & jnp.any(s.active_B),
    step,
    Loop(
      jnp.int32(0),
      _take(cache, rows_B, length),
      current_B,
      budgets_B > 0,
      jnp.full((B, num_tokens), -1, jnp.int32),
      jnp.zeros((B, num_tokens), jnp.float32),
    ),
  )
  steps_n = jnp.arange(num_tokens)
  written_Bn = end.token_ids_Bn >= 0  # each sampled id followed one written id
  positions_Bn = jnp.where(written_Bn, starts_B[:, None] + steps_n, length)
  cache = _put_back(cache, end.lanes, rows_B, positions_Bn)
  return cache, Decoded(end.token_ids_Bn, end.logprobs_Bn)


def _take(cache: qwen3.Cache, rows_B: jax.Array, length: int) -> qwen3.Cache:
  """Copies the first `length` positions of the lanes' rows."""
  take = lambda x: x.at[rows_B].get(mode="clip")
  return qwen3.Cache(
    tuple(take(k[..., :length]) for k in cache.keys),
    tuple(take(v[..., :length, :]) for v in cache.values),
  )


def _put_back(
  cache: qwen3.Cache,
  lanes: qwen3.Cache,
  rows_B: jax.Array,
  positions_BT: jax.Array,
) -> qwen3.Cache:
  """Writes the lanes' given positions to their rows; out of range drops."""
  lane_B1 = jnp.arange(rows_B.shape[0])[:, None]
  row_B1 = rows_B[:, None]
  length = lanes.values[0].shape[2]
  total = cache.values[0].shape[2]
  # Padding positions equal `length`, which is a real place of a longer row.
  target_BT = jnp.where(positions_BT < length, positions_BT, total)

  def put_key(full, part):
    new = part.at[lane_B1, :, :, positions_BT].get(mode="clip")
    return full.at[row_B1, :, :, target_BT].set(new, mode="drop")

  def put_value(full, part):
    new = part.at[lane_B1, :, positions_BT].get(mode="clip")
    return full.at[row_B1, :, target_BT].set(new, mode="drop")

  return qwen3.Cache(
    tuple(map(put_key, cache.keys, lanes.keys)),
    tuple(map(put_value, cache.values, lanes.values)),
  )
