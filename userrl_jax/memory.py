"""What a run needs of a device's memory, from shapes alone.

In: the model, the sizes of its calls and a mesh. Out: a `Need`, exact for what
lives from call to call and a lower bound for what a call makes, and what to
change where it is more than there is. `plan` puts figures of compiled programs
in its place; `train` refuses what even the lower bound shows not to fit.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from userrl_jax import config
from userrl_jax import lowering
from userrl_jax import sharding
from userrl_jax.learning import learner
from userrl_jax.models import qwen3

_GIB = 2**30
_WHILE_COLLECTING = ("rollout_params", "kv_rows", "sampling")


@dataclasses.dataclass(frozen=True)
class Need:
  """Bytes on a device.

  Attributes:
    params: master weights that are trained, float32.
    optimizer: its state.
    frozen: params that are read and not trained: of a reference, or under
      adapters.
    batch: packed rows and rewards of an update.
    gradients: sums over the micro-batches, like params.
    activations: what else an update makes.
    rollout_params: the sampler's copy of the params.
    kv_rows: histories of episodes.
    sampling: what a call of the sampler makes: copies of rows, above all.
    stays: whether the sampler's copy and rows live during the update.
  """

  params: int
  optimizer: int
  frozen: int
  batch: int
  gradients: int
  activations: int
  rollout_params: int
  kv_rows: int
  sampling: int = 0
  stays: bool = False

  @property
  def state(self) -> int:
    """Returns what lives as long as a stage does."""
    return self.params + self.optimizer + self.frozen

  @property
  def sampler(self) -> int:
    """Returns what lives while episodes are played."""
    return self.rollout_params + self.kv_rows

  @property
  def update(self) -> int:
    """Returns what there is while the learner computes."""
    made = self.batch + self.gradients + self.activations
    return self.state + made + (self.sampler if self.stays else 0)

  @property
  def collecting(self) -> int:
    """Returns what there is while episodes are played."""
    return self.state + self.sampler + self.sampling


def need(
  model: qwen3.Config,
  arguments: lowering.Update,
  mesh: jax.sharding.Mesh,
  *,
  packing: config.Packing,
  engine: config.Engine,
  max_tokens: int,
  max_staleness: int,
) -> Need:
  """Adds up what a run needs at least.

  Of an update's activations only the inputs of the layers are counted, which
  every choice of `remat` keeps; of the sampler's calls see `sampling`.

  Args:
    model: shape of the policy.
    arguments: of its update.
    mesh: of the whole run; the sampler's is its part of one host.
    packing: shapes of the rows.
    engine: rows of the sampler.
    max_tokens: the longest episode.
    max_staleness: above 0 the sampler goes on during the update.

  Raises:
    ValueError: when rows or hosts do not divide over the mesh.
  """
  of_host = sharding.of_host(mesh)
  length = lowering.row_length(max_tokens)
  size = lambda tree: lowering.bytes_a_device(
    tree, sharding.param_shardings(tree, mesh)
  )
  batch = jax.tree.map(
    lambda where, part: sum(
      lowering.bytes_a_device(x, where) for x in jax.tree.leaves(part)
    ),
    learner.batch_shardings(packing, mesh),
    arguments.batch,
  )
  state = arguments.state
  num_rows = packing.rows_per_micro_batch // sharding.num_row_parts(mesh)
  layer_inputs = model.num_layers * num_rows * packing.row_length
  return Need(
    params=size(state.params),
    optimizer=size(state.opt_state),
    frozen=0 if arguments.frozen is None else size(arguments.frozen),
    batch=sum(jax.tree.leaves(batch)),
    gradients=size(state.params),
    activations=(
      layer_inputs * model.hidden_size * jnp.dtype(model.dtype).itemsize
    ),
    rollout_params=lowering.bytes_a_device(
      lowering.sampling_params(model, of_host)
    ),
    kv_rows=lowering.bytes_a_device(
      lowering.kv_rows(model, engine.num_rows, length, of_host)
    ),
    sampling=sampling(model, engine, length, of_host),
    stays=max_staleness > 0,
  )


def sampling(
  model: qwen3.Config,
  engine: config.Engine,
  length: int,
  mesh: jax.sharding.Mesh,
) -> int:
  """Returns what a call of the sampler makes at least.

  Extending copies the row of every lane, also of those that are idle, and then
  each layer makes float32 scores of all its positions. Calls that read last
  pieces have more lanes only where rows are short (`scheduler.LONG_ROW`), and
  are not counted there. Decoding copies rows where lanes are fewer than rows;
  else it works in place.

  Args:
    model: that is sampled.
    engine: lanes and rows.
    length: of a row.
    mesh: of one host.

  Returns:
    Bytes on each device.
  """
  copies = lambda num_lanes: lowering.bytes_a_device(
    lowering.kv_rows(model, num_lanes, length, mesh)
  )
  num_lanes = lowering.extend_lanes(engine)
  num_heads = model.num_heads // sharding.num_head_parts(
    mesh, model.num_kv_heads
  )
  num_scores = num_lanes * num_heads * engine.extend_chunk * length
  extending = copies(num_lanes) + 4 * num_scores
  in_place = engine.num_lanes == engine.num_rows
  return max(extending, 0 if in_place else copies(engine.num_lanes))


def check(
  of: Need,
  limit: int,
  model: qwen3.Config,
  packing: config.Packing,
  engine: config.Engine,
  mesh: jax.sharding.Mesh,
) -> None:
  """Refuses what does not fit a device.

  Args:
    of: the run.
    limit: bytes that a device has.
    model: as for `need`.
    packing: as for `need`.
    engine: as for `need`.
    mesh: as for `need`.

  Raises:
    ValueError: says what there is, what is needed, and what to change.
  """
  for phase, total, parts in (
    ("while it collects", of.collecting, _WHILE_COLLECTING),
    ("in the update", of.update, ("gradients", "activations")),
  ):
    if total <= limit:
      continue
    names = ("params", "optimizer", "frozen", *parts)
    sizes = {name: getattr(of, name) for name in names}
    listed = ", ".join(
      f"{name} {size / _GIB:.1f}" for name, size in sizes.items() if size
    )
    raise ValueError(
      f"a run must fit into the {limit / _GIB:.1f} GiB of a device, got at "
      f"least {total / _GIB:.1f} {phase} ({listed}); "
      f"{remedy(of, limit, model, packing, engine, mesh)}"
    )


def remedy(
  of: Need,
  limit: int,
  model: qwen3.Config,
  packing: config.Packing,
  engine: config.Engine,
  mesh: jax.sharding.Mesh,
) -> str:
  """Returns which line of a recipe to change, "" where everything fits."""
  if of.collecting <= limit and of.update <= limit:
    return ""
  more_chips = (
    f"raise mesh.fsdp (now {mesh.shape['fsdp']}) with more chips, or train "
    "adapters (lora.rank)"
  )
  if of.state + of.gradients > limit:
    is_needed = of.state + of.gradients - of.frozen > limit
    if is_needed or model.adapter_rank:
      return more_chips
    return "set grpo.kl_coef=0, which needs no reference params"
  tensor = f"mesh.tensor (now {mesh.shape['tensor']})"
  if of.collecting > limit:
    return _smaller_sampler(of, limit, engine, tensor)
  return smaller_update(of, limit, model, packing, mesh)


def rows_that_fit(of: Need, limit: int, num_rows: int) -> int:
  """Returns how many KV rows fit a device beside all else.

  Args:
    of: the run.
    limit: bytes that a device has.
    num_rows: that `of` counts.
  """
  others = of.collecting - of.kv_rows
  if of.stays:
    others = max(others, of.update - of.kv_rows)
  return max(0, math.floor((limit - others) / (of.kv_rows / num_rows)))


def smaller_update(
  of: Need,
  limit: int,
  model: qwen3.Config,
  packing: config.Packing,
  mesh: jax.sharding.Mesh,
) -> str:
  """Returns which line of a recipe to change for a smaller update."""
  tensor = f"mesh.tensor (now {mesh.shape['tensor']})"
  if of.stays and of.update - of.sampler <= limit:
    return "set rollout.max_staleness=0, which frees the sampler's memory"
  if model.remat != "full":
    return "set model.remat=full"
  num_parts = sharding.num_row_parts(mesh)
  if packing.rows_per_micro_batch > num_parts:
    return (
      f"set packing.rows_per_micro_batch={num_parts} (now "
      f"{packing.rows_per_micro_batch})"
    )
  return (
    f"raise {tensor}, or lower packing.row_length (now {packing.row_length}) "
    "and rollout.max_tokens_per_episode"
  )


def _smaller_sampler(
  of: Need, limit: int, engine: config.Engine, tensor: str
) -> str:
  """Returns which line of a recipe to change for a sampler that fits."""
  alone = dataclasses.replace(of, stays=False)
  num_lanes = lowering.extend_lanes(engine)
  tokens = f"lower engine.extend_tokens (now {engine.extend_tokens})"
  rows = lambda num_rows: (
    f"set engine.num_rows and engine.num_lanes to {num_rows} or less (now "
    f"{engine.num_rows})"
  )
  num_rows = rows_that_fit(alone, limit, engine.num_rows)
  if num_rows:
    other = f", or {tokens}" if num_lanes > 1 else ""
    return f"{rows(num_rows)}{other}, or raise {tensor}"
  least = dataclasses.replace(alone, sampling=of.sampling // num_lanes)
  num_rows = rows_that_fit(least, limit, engine.num_rows)
  if num_rows:
    also = f", and {rows(num_rows)}" if num_rows < engine.num_rows else ""
    return (
      f"{tokens} to {engine.extend_chunk}, for every lane of a call copies its "
      f"row{also}, or raise {tensor}"
    )
  return f"raise {tensor}, over which alone the sampler's copy is split"
