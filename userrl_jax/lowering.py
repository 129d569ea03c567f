"""The device programs of a run, ready to compile, without params or a device.

In: the model, the sizes of its calls, and a mesh, whose devices may be those of
a topology that is nowhere near. Out: `jax.stages.Lowered`, of the same jitted
functions, shapes and shardings that a run calls; `compile()` does the rest.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import sampling
from userrl_jax.inference import scheduler
from userrl_jax.learning import batching
from userrl_jax.learning import iterations
from userrl_jax.learning import learner
from userrl_jax.learning import optimizers
from userrl_jax.models import attention
from userrl_jax.models import kv_rows as kv_rows_lib
from userrl_jax.models import qwen3


@dataclasses.dataclass(frozen=True)
class Update:
  """Arguments of an update, as trees of ShapeDtypeStructs."""

  state: learner.State
  batch: batching.Batch
  frozen: qwen3.Params | None  # params that are read and not trained

  @property
  def arguments(self) -> tuple[Any, ...]:
    """Returns what the jitted update is called with."""
    given = (self.state, self.batch, self.frozen)
    return given if self.frozen is not None else given[:2]


def update_arguments(
  model: qwen3.Config,
  settings: learner.Settings,
  *,
  max_turns: int,
  max_tokens: int,
) -> Update:
  """Returns what an update of GRPO is called with.

  Args:
    model: shape of the policy.
    settings: of the update.
    max_turns: K, the most turns of an episode.
    max_tokens: the longest episode.

  Raises:
    ValueError: when a packed row cannot hold an episode.
  """
  grpo, packing = settings.grpo, settings.packing
  num_groups = math.ceil(grpo.tasks_per_iteration / grpo.num_mini_batches)
  [batch], _ = iterations.pack(
    [],
    packing,
    grpo,
    max_turns=max_turns,
    num_tasks=grpo.tasks_per_iteration,
    capacity=batching.capacity(
      num_groups * grpo.group_size, max_tokens, packing
    ),
    seed=(0,),
  )
  optimizer, _ = optimizers.make(grpo.optimizer, grpo.num_iterations)

  def start(key):
    params = qwen3.init_trained(model, key)
    zero = jnp.zeros((), jnp.int32)
    return learner.State(params, optimizer.init(params), zero, zero)

  key = jax.random.key(0)
  frozen = None
  if grpo.kl_coef > 0 or model.adapter_rank:
    frozen = jax.eval_shape(lambda key: qwen3.init(model, key), key)
  return Update(
    jax.eval_shape(start, key),
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), batch
    ),
    frozen,
  )


def sampling_params(model: qwen3.Config, mesh: jax.sharding.Mesh) -> Any:
  """Returns the shapes of the sampler's copy of the params, where it lives."""
  has_head = cache_lib.head_apart(model, mesh)
  shapes = jax.eval_shape(
    lambda key: qwen3.sampling_layout(qwen3.init(model, key), model, has_head),
    jax.random.key(0),
  )
  return _placed(shapes, sharding.sampling_shardings(shapes, mesh))


def kv_rows(
  model: qwen3.Config, num_rows: int, length: int, mesh: jax.sharding.Mesh
) -> kv_rows_lib.Cache:
  """Returns the shapes of the KV rows of all devices, where they live."""
  total = num_rows * sharding.num_row_parts(mesh)
  by_position = not cache_lib.is_cpu(mesh)
  shapes = jax.eval_shape(
    lambda: qwen3.init_cache(model, total, length, by_position)
  )
  where = sharding.cache_sharding(mesh, model.num_kv_heads)
  return _placed(shapes, jax.tree.map(lambda _: where, shapes))


def row_length(max_tokens: int) -> int:
  """Returns the positions of a KV row that holds so many ids."""
  return scheduler.cache_length(max_tokens, attention.CACHE_BLOCK)


def extend_lanes(settings: config.Engine) -> int:
  """Returns how many rows a call reads whole chunks into."""
  return scheduler.extend_lanes(settings, settings.extend_chunk)


def extend(
  model: qwen3.Config,
  settings: config.Engine,
  length: int,
  mesh: jax.sharding.Mesh,
) -> jax.stages.Lowered:
  """Lowers the call that reads a chunk of ids into as many rows as it can.

  Args:
    model: shape of the policy.
    settings: of the engine.
    length: positions of a row, all of which the call looks at.
    mesh: of the engine.
  """
  B, T = extend_lanes(settings), settings.extend_chunk
  array = lambda *shape: _of_lanes(mesh, shape)
  return cache_lib.extend.lower(
    sampling_params(model, mesh),
    kv_rows(model, settings.num_rows, length, mesh),
    array(B),
    array(B, T),
    array(B),
    array(B),
    config=model,
    mesh=mesh,
    length=length,
  )


def decode(
  model: qwen3.Config,
  settings: config.Engine,
  length: int,
  mesh: jax.sharding.Mesh,
) -> jax.stages.Lowered:
  """Lowers the call that samples some tokens in every lane; see `extend`."""
  B = settings.num_lanes
  array = lambda *shape, dtype=jnp.int32: _of_lanes(mesh, shape, dtype)
  scalar = lambda dtype: jax.ShapeDtypeStruct(
    (), dtype, sharding=sharding.replicated(mesh)
  )
  real = lambda: array(B, dtype=jnp.float32)
  lanes = cache_lib.Lanes(
    *(array(B) for _ in range(4)),
    array(B, 2, dtype=jnp.uint32),
    sampling.Knobs(real(), array(B), real(), real()),
  )
  return cache_lib.decode.lower(
    sampling_params(model, mesh),
    kv_rows(model, settings.num_rows, length, mesh),
    lanes,
    scalar(jnp.int32),
    scalar(jnp.float32),
    config=model,
    mesh=mesh,
    length=length,
    num_tokens=settings.decode_tokens,
    in_place=settings.num_lanes == settings.num_rows,
  )


def bytes_a_device(shapes: Any, shardings: Any = None) -> int:
  """Returns what arrays take on each device.

  Args:
    shapes: tree of ShapeDtypeStructs, or of arrays.
    shardings: of each leaf; by default those that the shapes have.
  """
  where = shardings
  if where is None:
    where = jax.tree.map(lambda x: x.sharding, shapes)
  sizes = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
    shapes,
    where,
  )
  return sum(jax.tree.leaves(sizes))


def _of_lanes(
  mesh: jax.sharding.Mesh, shape: Sequence[int], dtype: Any = jnp.int32
) -> jax.ShapeDtypeStruct:
  num_tiles = sharding.num_row_parts(mesh)
  by_row = jax.sharding.PartitionSpec(sharding.MESH_AXES["row"])
  return jax.ShapeDtypeStruct(
    (shape[0] * num_tiles, *shape[1:]),
    dtype,
    sharding=jax.sharding.NamedSharding(mesh, by_row),
  )


def _placed(shapes: Any, shardings: Any) -> Any:
  give = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  return jax.tree.map(give, shapes, shardings)
