"""What a run needs of its devices, and how fast it can be at best on TPUs.

In: a recipe, and devices, which may be those of a slice that is nowhere near.
Out: a `Plan`: shapes of the run, its programs as the compiler has them, and the
memory that they need. `plan_tables` prints it; `fitting` refuses a run that the
devices cannot hold.
"""

from collections.abc import Callable, Sequence
import dataclasses
import importlib.util
import os
import pathlib
import tempfile
from typing import Any

import jax
from jax.experimental import topologies
import numpy as np

from userrl_jax import config as config_lib
from userrl_jax import lowering
from userrl_jax import memory
from userrl_jax import program_work
from userrl_jax import sharding
from userrl_jax import slices
from userrl_jax.learning import learner
from userrl_jax.models import attention
from userrl_jax.models import lora
from userrl_jax.models import published
from userrl_jax.models import qwen3

# Of the sampler's programs: their time to compile grows with depth, and all
# that they do is a constant and so much a layer.
DEPTHS = (2, 4)

# No cloud is asked where this runs, and several processes may compile at once.
_FOR_LIBTPU = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v5p-8",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
# Products of two matrices of [T, d] and [d, T] in a call of an attention
# kernel, by what its name contains.
_KERNEL_PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}


@dataclasses.dataclass(frozen=True)
class Setup:
  """The shapes of a run on some devices."""

  config: config_lib.Config
  model: qwen3.Config
  mesh: jax.sharding.Mesh
  settings: learner.Settings
  arguments: lowering.Update
  need: memory.Need
  slice: slices.Slice | None = None  # of which the devices are, if of one

  @property
  def host_mesh(self) -> jax.sharding.Mesh:
    """Returns the sampler's mesh: the devices of one host."""
    return sharding.of_host(self.mesh)

  @property
  def row_length(self) -> int:
    """Returns the positions of a KV row."""
    return lowering.row_length(self.config.rollout.max_tokens_per_episode)

  @property
  def capacity(self) -> int:
    """Returns the most micro-batches of an update."""
    return self.arguments.batch.rows.token_ids.shape[0]


@dataclasses.dataclass(frozen=True)
class Costs:
  """What a program does on a device: operations, bytes of memory, bytes sent.

  Operations are of matrix products; those of attention kernels, which a
  program's text does not show, are a formula.
  """

  flops: float = 0.0
  kernel_flops: float = 0.0
  hbm_bytes: float = 0.0
  sent_bytes: float = 0.0

  def __sub__(self, other: "Costs") -> "Costs":
    return self.along(other, -1.0)

  def along(self, other: "Costs", factor: float) -> "Costs":
    """Returns self + factor x other."""
    pairs = zip(
      dataclasses.astuple(self), dataclasses.astuple(other), strict=True
    )
    return Costs(*(a + factor * b for a, b in pairs))

  def seconds(self, chip: slices.Chip) -> tuple[float, float, float]:
    """Returns the time of computing, of the memory and of the exchange."""
    return (
      (self.flops + self.kernel_flops) / chip.flops,
      self.hbm_bytes / chip.hbm_bytes_per_s,
      self.sent_bytes / chip.ici_bytes_per_s,
    )


@dataclasses.dataclass(frozen=True)
class Program:
  """What the compiler says of a program, on one device.

  Attributes:
    arguments: bytes of what goes in.
    made: bytes of what there is beside: temporaries, results that take no
      argument's place, and the program itself.
    once: what a call does in which loops that data end run once.
    again: what one more turn of the outermost of them does: a micro-batch of
      an update, a token of every lane of a decode.
    counted: operations and bytes by XLA's own count, all loops once.
    collectives: of the call, those in such loops once.
    depths: of the programs that it follows from; empty: it was compiled so.
  """

  arguments: float
  made: float
  once: Costs
  again: Costs
  counted: tuple[float, float]
  collectives: Sequence[program_work.Collective] = ()
  depths: tuple[int, ...] = ()


def memory_sizes(found: Setup) -> tuple[Any, ...]:
  """Returns what `memory.check` and `memory.remedy` look at beside a need."""
  c = found.config
  return found.model, c.packing, c.engine, found.mesh


def setup(
  config: config_lib.Config,
  devices: Sequence[Any],
  platform: str,
  of: slices.Slice | None = None,
) -> Setup:
  """Works out the shapes of a run.

  Args:
    config: validated by `config_rules.validate`.
    devices: of the run.
    platform: of the devices: cpu, gpu or tpu.
    of: the slice that the devices are, if they are one.

  Raises:
    ValueError: when the recipe does not suit so many devices, or itself.
  """
  model = published.configured(config.model)
  mesh = sharding.make_mesh(config.mesh, devices)
  model = dataclasses.replace(
    model,
    **lora.fields(config.lora),
    attention=attention.choose(
      config.model.attention,
      platform=platform,
      dtype=model.dtype,
      head_dim=model.head_dim,
      row_length=config.packing.row_length,
    ),
  )
  settings = learner.Settings(
    config.grpo, config.packing, config.rollout.temperature
  )
  max_tokens = config.rollout.max_tokens_per_episode
  arguments = lowering.update_arguments(
    model, settings, max_turns=config.gyms.max_turns, max_tokens=max_tokens
  )
  need = memory.need(
    model,
    arguments,
    mesh,
    packing=config.packing,
    engine=config.engine,
    max_tokens=max_tokens,
    max_staleness=config.rollout.max_staleness,
  )
  return Setup(config, model, mesh, settings, arguments, need, of)


def topology(of: slices.Slice) -> list[Any] | None:
  """Returns the devices of a slice, to compile for; None without libtpu.

  Raises:
    ValueError: when libtpu does not know the slice.
  """
  if importlib.util.find_spec("libtpu") is None:
    return None
  for name, value in _FOR_LIBTPU.items():
    os.environ.setdefault(name, value)
  try:
    return topologies.get_topology_desc(of.topology, platform="tpu").devices
  except Exception as error:  # of whatever kind; libtpu's words tell
    raise ValueError(
      f"--plan={of.name}: libtpu must know {of.topology}, got: {error}; pip "
      "install --upgrade libtpu"
    ) from error


def stand_ins(of: slices.Slice) -> list["StandIn"]:
  """Returns what takes the place of a slice's devices where none compiles."""
  return [StandIn(i, i // slices.CHIPS_A_HOST) for i in range(of.num_chips)]


@dataclasses.dataclass(frozen=True)
class StandIn:
  """A device in name: its place, for shapes of shards."""

  id: int
  process_index: int
  platform: str = "tpu"
  device_kind: str = "TPU"


def update(found: Setup) -> Program:
  """Compiles the update of GRPO; see `compiled`."""
  step = learner.make_update(found.model, found.settings, found.mesh)
  lowered = step.lower(*found.arguments.arguments)
  packing = found.config.packing
  num_chunks = -(-packing.row_length // packing.logprob_chunk)
  return compiled(lowered, found, num_chunks)


def extend(found: Setup, depths: Sequence[int] = ()) -> Program:
  """Compiles the sampler's reading, or follows it from smaller depths."""
  return _of_sampler(lowering.extend, found, depths)


def decode(found: Setup, depths: Sequence[int] = ()) -> Program:
  """Compiles the sampler's sampling, or follows it from smaller depths."""
  return _of_sampler(lowering.decode, found, depths)


def compiled(
  lowered: jax.stages.Lowered, found: Setup, *inner_trips: int
) -> Program:
  """Compiles a program and reads what it does.

  Args:
    lowered: to compile.
    found: the run, for the attention kernels.
    inner_trips: the most that loops run which data end, within the outermost.

  Raises:
    jax.errors.JaxRuntimeError: when it fits no device; says by how much.
  """
  done, text = _with_text(lowered, found.mesh.devices.flat[0].platform)
  sizes = done.memory_analysis()
  counted = done.cost_analysis()
  read = program_work.Program(text)
  once, twice = (read.work((n, *inner_trips)) for n in (1, 2))
  costs = [_costs(work, found) for work in (once, twice)]
  return Program(
    sizes.argument_size_in_bytes,
    sizes.temp_size_in_bytes
    + sizes.output_size_in_bytes
    - sizes.alias_size_in_bytes
    + sizes.generated_code_size_in_bytes,
    costs[0],
    costs[1] - costs[0],
    (counted["flops"], counted["bytes accessed"]),
    once.collectives,
  )


def with_programs(
  found: Setup, update: Program | None, sampling: Sequence[Program]
) -> memory.Need:
  """Returns the need with what compiled programs make in place of the least."""
  changes: dict[str, int] = {}
  if update is not None:
    changes["activations"] = round(update.made) - found.need.gradients
  if sampling:
    changes["sampling"] = round(max(program.made for program in sampling))
  return dataclasses.replace(found.need, **changes)


def _with_text(
  lowered: jax.stages.Lowered, platform: str
) -> tuple[jax.stages.Compiled, str]:
  """Compiles a program; returns it and its text.

  Of some programs for v5p `as_text` fails: jaxlib knows no operation of theirs
  that is spread over several calls. The compiler writes the same to a file.
  """
  if platform != "tpu":
    done = lowered.compile()
    return done, done.as_text()
  with tempfile.TemporaryDirectory() as folder:
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    done = lowered.compile(compiler_options=options)
    [path] = pathlib.Path(folder).glob("*.after_optimizations.txt")
    return done, path.read_text()


def _of_sampler(
  lower: Callable[..., jax.stages.Lowered],
  found: Setup,
  depths: Sequence[int],
) -> Program:
  mesh, engine = _sampler_mesh(found), found.config.engine

  def at(num_layers: int) -> Program:
    model = dataclasses.replace(found.model, num_layers=num_layers)
    return compiled(lower(model, engine, found.row_length, mesh), found)

  depth = found.model.num_layers
  if not depths or depth <= max(depths):
    return at(depth)
  few, many = map(at, depths)
  factor = (depth - depths[1]) / (depths[1] - depths[0])
  line = lambda a, b: b + factor * (b - a)
  return Program(
    line(few.arguments, many.arguments),
    line(few.made, many.made),
    many.once.along(many.once - few.once, factor),
    many.again.along(many.again - few.again, factor),
    tuple(map(line, few.counted, many.counted)),
    many.collectives,
    tuple(depths),
  )


def _sampler_mesh(found: Setup) -> jax.sharding.Mesh:
  """Returns the host's mesh, of devices that a compiler takes by themselves."""
  mesh = found.host_mesh
  if found.slice is None or mesh.size == found.mesh.size:
    return mesh
  devices = topology(slices.of_one_host(found.slice))
  return jax.sharding.Mesh(
    np.reshape(np.array(devices), mesh.devices.shape),
    mesh.axis_names,
    axis_types=mesh.axis_types,
  )


def _costs(work: program_work.Work, found: Setup) -> Costs:
  model, packing, mesh = found.model, found.config.packing, found.mesh
  rows = packing.rows_per_micro_batch / sharding.num_row_parts(mesh)
  heads = model.num_heads / sharding.num_head_parts(mesh, model.num_kv_heads)
  # Causal: half of the products are skipped.
  product = rows * heads * packing.row_length**2 * model.head_dim
  num_products = sum(
    times * num
    for name, times in work.kernels.items()
    for part, num in _KERNEL_PRODUCTS.items()
    if part in name
  )
  return Costs(
    work.flops,
    num_products * product,
    work.hbm_bytes,
    sum(one.bytes_sent for one in work.collectives),
  )
