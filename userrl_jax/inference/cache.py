"""Device programs over KV rows: extend reads ids, decode samples them.

Rows live in a cache of S rows; a call works on B lanes, each pointing at a
row. A call copies its lanes' rows once, works on the copies, and writes only
the new positions back:

  rows of the cache   0: aaaaaaa...   1: bb......   2: cccc....
  lanes -> rows       [2, 0, S]       (S marks an idle lane: writes drop)

With as many lanes as rows, lane i is row i, and decoding may work in place: it
takes no memory beside the cache.

On several devices rows and lanes are split over `data` and `fsdp`, and a lane
points at a row of its own device: every device runs the same program on a tile
of its own, and stops by itself. Heads are split over `tensor`; as its devices
exchange what they have at every layer, all tiles then stop together. Params,
in their `sampling_layout`, are an argument of every call (law L3).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from userrl_jax import sharding
from userrl_jax.inference import sampling
from userrl_jax.models import kv_rows
from userrl_jax.models import qwen3

# From here on a CPU's decoding gains by a head that need not be transposed (a
# fifth of a token's time for a model of 4M params).
_LARGE_VOCABULARY = 4096


class Lanes(NamedTuple):
  """What a decode call must know of each of its lanes."""

  rows_B: Any  # [B] int32 row within the device; S for an idle lane
  current_B: Any  # [B] int32, the id that is read first
  starts_B: Any  # [B] int32 positions already written in the row
  budgets_B: Any  # [B] int32 ids it may sample; 0 for an idle lane
  key_data_B: Any  # [B, 2] uint32 PRNG key of the row
  knobs: sampling.Knobs


class Decoded(NamedTuple):
  """What a decode call sampled; n is the most that a lane could."""

  token_ids_Bn: jax.Array  # [B, n] int32, sampled ids; -1 past a lane's end
  # [B, n] float32 nats, of the distribution drawn from; 0 past a lane's end.
  logprobs_Bn: jax.Array
  model_logprobs_Bn: jax.Array  # the same under the untempered distribution


def lay_out(
  params: qwen3.Params, config: qwen3.Config, mesh: jax.sharding.Mesh
) -> qwen3.Params:
  """Returns params as an engine samples with them: unstacked, on its mesh."""
  if not isinstance(params["layers"], tuple):  # else it is done already
    params = _unstack(params, config, head_apart(config, mesh))
  # The engine's devices may be others than those that params come from.
  return sharding.to_host(params, mesh)


def is_cpu(mesh: jax.sharding.Mesh) -> bool:
  """Returns whether params and rows lie as CPUs want them."""
  return mesh.devices.flat[0].platform == "cpu"


def head_apart(config: qwen3.Config, mesh: jax.sharding.Mesh) -> bool:
  """Returns whether a tied model samples with its head laid out once more."""
  return is_cpu(mesh) and config.vocab_size >= _LARGE_VOCABULARY


@functools.partial(
  jax.jit,
  static_argnames=("config", "mesh", "num_rows", "length", "by_position"),
)
def init(
  *,
  config: qwen3.Config,
  mesh: jax.sharding.Mesh,
  num_rows: int,
  length: int,
  by_position: bool = False,
) -> kv_rows.Cache:
  """Makes an empty cache.

  Args:
    config: shape of the model.
    mesh: whose devices share the rows.
    num_rows: of each device that has rows of its own.
    length: positions of a row.
    by_position: how keys lie; see `kv_rows`.
  """
  total = num_rows * sharding.num_row_parts(mesh)
  where = sharding.cache_sharding(mesh, config.num_kv_heads)
  cache = qwen3.init_cache(config, total, length, by_position)
  return jax.lax.with_sharding_constraint(cache, where)


@functools.partial(
  jax.jit,
  static_argnames=("config", "mesh", "length"),
  donate_argnames=("cache",),
)
def extend(
  params: qwen3.Params,
  cache: kv_rows.Cache,
  rows_B: jax.Array,
  tokens_BT: jax.Array,
  starts_B: jax.Array,
  counts_B: jax.Array,
  *,
  config: qwen3.Config,
  mesh: jax.sharding.Mesh,
  length: int,
) -> kv_rows.Cache:
  """Reads up to T ids into each lane's row.

  Args:
    params: in their sampling layout.
    cache: all rows; donated.
    rows_B: [B] int32 row of each lane; S for an idle lane.
    tokens_BT: [B, T] int32 ids to read.
    starts_B: [B] int32 positions already written in each row.
    counts_B: [B] int32 how many of the T ids are real.
    config: shape of the model.
    mesh: whose devices share the rows.
    length: positions of a row that this call looks at.

  Returns:
    The cache with the ids' keys and values written.
  """

  def tile(params, cache, rows_B, tokens_BT, starts_B, counts_B):
    steps_T = jnp.arange(tokens_BT.shape[1])
    positions_BT = starts_B[:, None] + steps_T
    positions_BT = jnp.where(steps_T < counts_B[:, None], positions_BT, length)
    lanes = cache.take(rows_B, length)
    _, lanes = qwen3.forward(
      params, config, tokens_BT, positions_BT, cache=lanes
    )
    return cache.put_back(lanes, rows_B, positions_BT)

  arrays = (rows_B, tokens_BT, starts_B, counts_B)
  return sharding.by_rows(tile, mesh)(params, cache, *arrays)


@functools.partial(
  jax.jit,
  static_argnames=("config", "mesh", "length", "num_tokens", "in_place"),
  donate_argnames=("cache",),
)
def decode(
  params: qwen3.Params,
  cache: kv_rows.Cache,
  lanes: Lanes,
  stop_id: jax.Array,
  min_busy: jax.Array,
  *,
  config: qwen3.Config,
  mesh: jax.sharding.Mesh,
  length: int,
  num_tokens: int,
  in_place: bool = False,
) -> tuple[kv_rows.Cache, Decoded]:
  """Samples up to `num_tokens` ids a lane, until a stop id or its budget.

  Args:
    params: in their sampling layout.
    cache: all rows; donated.
    lanes: what each of the B lanes is to do.
    stop_id: int32 scalar; sampled, kept, and the last of its lane.
    min_busy: float32 scalar, share of the lanes that began. A device whose
      share of lanes still sampling falls below it ends its call early, so
      that others can have the idle ones.
    config: shape of the model.
    mesh: whose devices share the rows.
    length: positions of a row that this call looks at.
    num_tokens: n, the most ids a lane samples in this call.
    in_place: lane i is row i, and idle ones have no budget; nothing is copied.

  Returns:
    The cache, in which the current id and all sampled ids but the last are
    written, and what was sampled.
  """

  def tile(params, cache, lanes, stop_id, min_busy):
    run = functools.partial(
      _decode_tile,
      config=config,
      length=length,
      num_tokens=num_tokens,
      in_place=in_place,
      together=sharding.row_axes_beside_tensor(mesh),
    )
    return run(params, cache, lanes, stop_id, min_busy)

  return sharding.by_rows(tile, mesh)(params, cache, lanes, stop_id, min_busy)


@functools.partial(
  jax.jit, static_argnames=("mesh",), donate_argnames=("cache",)
)
def fork(
  cache: kv_rows.Cache,
  from_F: jax.Array,
  to_F: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
) -> kv_rows.Cache:
  """Copies whole rows within their devices.

  Args:
    cache: all rows; donated.
    from_F: [F] int32 rows to copy.
    to_F: [F] int32 rows to overwrite; S for none.
    mesh: whose devices share the rows.
  """

  def tile(_, cache, from_F, to_F):
    copy = lambda x: x.at[to_F].set(
      x.at[from_F].get(mode="clip"), mode="drop", unique_indices=False
    )
    return jax.tree.map(copy, cache)

  return sharding.by_rows(tile, mesh)((), cache, from_F, to_F)


def num_programs() -> int:
  """Returns how many programs the device calls have compiled so far."""
  return sum(call._cache_size() for call in (extend, decode, fork))


@functools.partial(jax.jit, static_argnames=("config", "has_head"))
def _unstack(
  params: qwen3.Params, config: qwen3.Config, has_head: bool
) -> qwen3.Params:
  return qwen3.sampling_layout(params, config, has_head)


def _decode_tile(
  params,
  cache,
  lanes,
  stop_id,
  min_busy,
  *,
  config,
  length,
  num_tokens,
  in_place,
  together,
):
  """Decodes the lanes of one device; for `decode`."""
  B = lanes.rows_B.shape[0]
  starts_B = lanes.starts_B
  steps_n = jnp.arange(num_tokens)
  # A sampled token's position is that of the id before it, plus one.
  uniforms_Bn = sampling.uniforms(
    jax.random.wrap_key_data(lanes.key_data_B), starts_B[:, None] + steps_n + 1
  )
  begun_B = lanes.budgets_B > 0
  fewest = min_busy * jnp.sum(begun_B)
  nowhere = cache.values[0].shape[2]  # a position past every row

  class Loop(NamedTuple):
    i: jax.Array
    cache: kv_rows.Cache  # of the lanes
    current_B: jax.Array
    active_B: jax.Array
    decoded: Decoded

  def goes_on(s: Loop) -> jax.Array:
    num_active = jnp.sum(s.active_B)
    is_busy = (num_active > 0) & (num_active >= fewest)
    if together:
      is_busy = jax.lax.pmax(is_busy.astype(jnp.int32), together) > 0
    return (s.i < num_tokens) & is_busy

  def step(s: Loop) -> Loop:
    positions_B = jnp.where(s.active_B, starts_B + s.i, nowhere)
    hidden_B1D, cache = qwen3.forward(
      params,
      config,
      s.current_B[:, None],
      positions_B[:, None],
      cache=s.cache,
      length=length,
    )
    logits_BV = qwen3.logits(params, config, hidden_B1D[:, 0])
    drawn = sampling.sample(logits_BV, uniforms_Bn[:, s.i], lanes.knobs)
    keep = lambda full_Bn, new_B, empty: full_Bn.at[:, s.i].set(
      jnp.where(s.active_B, new_B, empty)
    )
    decoded = Decoded(
      keep(s.decoded.token_ids_Bn, drawn.tokens_B, -1),
      keep(s.decoded.logprobs_Bn, drawn.logprobs_B, 0.0),
      keep(s.decoded.model_logprobs_Bn, drawn.model_logprobs_B, 0.0),
    )
    goes_on_B = (drawn.tokens_B != stop_id) & (s.i + 1 < lanes.budgets_B)
    return Loop(s.i + 1, cache, drawn.tokens_B, s.active_B & goes_on_B, decoded)

  zeros_Bn = jnp.zeros((B, num_tokens), jnp.float32)
  nothing = Decoded(
    jnp.full((B, num_tokens), -1, jnp.int32), zeros_Bn, zeros_Bn
  )
  end = jax.lax.while_loop(
    goes_on,
    step,
    Loop(
      jnp.int32(0),
      cache if in_place else cache.take(lanes.rows_B, length),
      lanes.current_B,
      begun_B,
      nothing,
    ),
  )
  if in_place:
    return end.cache, end.decoded
  # Each sampled id followed one written id.
  written_Bn = end.decoded.token_ids_Bn >= 0
  positions_Bn = jnp.where(written_Bn, starts_B[:, None] + steps_n, length)
  cache = cache.put_back(end.cache, lanes.rows_B, positions_Bn)
  return cache, end.decoded
