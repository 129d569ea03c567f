"""Prints the plan of a recipe for a slice of TPUs, as it comes to be known.

`python -m userrl_jax.doctor --config=... --plan=v5p-16` needs no device: every
figure is `compiled`, read off a program that libtpu compiled for that slice, or
`estimated`, with how. The sampler's programs take long to compile, so that
`--plan_sampling` chooses: `shallow` compiles them at two small depths, from
which the true one follows; `full` as they are; `none` leaves them out.
"""

from collections.abc import Callable, Iterator
import dataclasses
import re
import sys

import jax

from userrl_jax import config as config_lib
from userrl_jax import fitting
from userrl_jax import lowering
from userrl_jax import memory
from userrl_jax import plan
from userrl_jax import program_work
from userrl_jax import sharding
from userrl_jax import slices

SAMPLING = ("shallow", "full", "none")

_COMPILED, _ESTIMATED = "compiled", "estimated"
_GIB = 2**30
_NUM_COLLECTIVES = 12  # that are listed


@dataclasses.dataclass(frozen=True)
class Figure:
  """One number of a plan."""

  name: str
  value: float
  unit: str
  status: str  # compiled or estimated
  note: str = ""

  def __str__(self) -> str:
    text = f"  {self.name:<34}{self.value:>14,.3f} {self.unit:<10}"
    return f"{text}{self.status:<10} {self.note}".rstrip()


@dataclasses.dataclass(frozen=True)
class Plan:
  """A recipe on a slice, as far as it was compiled."""

  found: plan.Setup
  chip: slices.Chip
  update: plan.Program | None = None
  extend: plan.Program | None = None
  decode: plan.Program | None = None

  @property
  def need(self) -> memory.Need:
    """Returns what a device must hold, from programs where there are some."""
    sampling = [p for p in (self.extend, self.decode) if p is not None]
    return plan.with_programs(self.found, self.update, sampling)


def show(
  config: config_lib.Config, name: str, sampling: str = SAMPLING[0]
) -> bool:
  """Prints the plan of a recipe for a slice.

  Args:
    config: validated by `config_rules.validate`.
    name: of the slice, such as v5p-16.
    sampling: one of `SAMPLING`.

  Returns:
    Whether programs were compiled for it, and it fits.

  Raises:
    ValueError: when there is no such slice, or the recipe does not suit it.
  """
  if sampling not in SAMPLING:
    raise ValueError(
      f"--plan_sampling must be one of {', '.join(SAMPLING)}, got {sampling!r}"
    )
  of = slices.named(name)
  devices = plan.topology(of)
  shown = devices or plan.stand_ins(of)
  config = fitting.sized(config, shown, "tpu", of.chip.hbm_bytes)
  found = plan.setup(config, shown, "tpu", of)
  for line in _head(found, of):
    print(line, flush=True)
  so_far, refusal = Plan(found, of.chip), ""
  if devices is None:
    print(
      "error: libtpu must be installed to compile for TPUs, got none; run "
      "pip install libtpu. All below is estimated",
      file=sys.stderr,
    )
  else:
    so_far, refusal = compiled(so_far, sampling)
    if refusal:
      print(f"fail {refusal}")
  for line in lines(so_far):
    print(line, flush=True)
  fits = not memory.remedy(
    so_far.need, of.chip.hbm_bytes, *plan.memory_sizes(found)
  )
  return devices is not None and fits and not refusal


def compiled(
  so_far: Plan,
  sampling: str,
  say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> tuple[Plan, str]:
  """Compiles the programs of a plan, one after the other.

  Args:
    so_far: with none.
    sampling: one of `SAMPLING`.
    say: told what is being compiled.

  Returns:
    The plan with them, and what the compiler said of one that does not fit.
  """
  depths = plan.DEPTHS if sampling == "shallow" else ()
  programs = {"update": plan.update}
  if sampling != "none":
    programs["extend"] = lambda found: plan.extend(found, depths)
    programs["decode"] = lambda found: plan.decode(found, depths)
  for name, compile_it in programs.items():
    say(f"compiling {name} ...")
    try:
      program = compile_it(so_far.found)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      [first, *_] = str(error).splitlines()
      return so_far, f"{name}: {re.sub('^.*?HbmOom: ', '', first)}"
    so_far = dataclasses.replace(so_far, **{name: program})
  return so_far, ""


def lines(of: Plan) -> Iterator[str]:
  """Yields the plan's tables: memory, times, what devices exchange."""
  need, limit = of.need, of.chip.hbm_bytes
  yield f"bytes a device, of {limit / _GIB:.2f} GiB"
  yield from map(str, memory_figures(of))
  advice = memory.remedy(need, limit, *plan.memory_sizes(of.found))
  yield f"fail it does not fit: {advice}" if advice else "ok   it fits"
  chip = of.chip
  yield (
    f"on paper, a chip at its published peaks ({chip.source}): "
    f"{chip.flops / 1e12:.0f} TFLOP/s, memory {chip.hbm_bytes_per_s / 1e9:.0f} "
    f"GB/s, to other chips {chip.ici_bytes_per_s / 1e9:.0f} GB/s"
  )
  yield from map(str, time_figures(of))
  for name in ("update", "extend", "decode"):
    program = getattr(of, name)
    if program is not None:
      yield from _exchanges(name, program)
  if of.update is not None:
    found = of.update.collectives
    yield (
      f"the largest {_NUM_COLLECTIVES} of an update's {len(found)} kinds and "
      f"shapes ({_COMPILED})"
    )
    for one in found[:_NUM_COLLECTIVES]:
      yield (
        f"  {one.times:>6} x {one.kind:<19} {one.num_bytes / 1e6:>10,.2f} MB "
        f"among {one.group_size:<3} {one.shape}"
      )


def _exchanges(name: str, program: plan.Program) -> Iterator[str]:
  """Yields what devices exchange in a program by kind, and in all."""
  calls = {"update": "an update of one micro-batch"}
  call = calls.get(name, f"a call of {name}")
  if program.depths:
    call += f" at depth {max(program.depths)}"
  yield f"exchanged by {call}, bytes a device ({_COMPILED})"
  exchanges = program_work.by_kind(program.collectives)
  rows = [
    (one.kind, one.times, one.num_bytes, one.bytes_sent) for one in exchanges
  ]
  total = [
    sum(column) for column in zip(*(row[1:] for row in rows), strict=True)
  ]
  for kind, times, num_bytes, sent in [*rows, ("all", *total)]:
    yield (
      f"  {kind:<19}{times:>8,} x{num_bytes / 1e6:>14,.3f} MB exchanged"
      f"{sent / 1e6:>14,.3f} MB sent"
    )


def memory_figures(of: Plan) -> Iterator[Figure]:
  """Yields what takes memory on a device, in GiB."""
  need, found = of.need, of.found
  update = _ESTIMATED if of.update is None else _COMPILED
  figure = lambda name, value, status, note="": Figure(
    name, value / _GIB, "GiB", status, note
  )
  # Arguments of the compiled program: their sum is held against its own.
  given = need.state + need.batch
  note = "" if of.update is None else _against(given, of.update.arguments)
  yield figure("params", need.params, update, "float32")
  yield figure("optimizer state", need.optimizer, update)
  reference = "of a reference, or under adapters" if need.frozen else "none"
  yield figure("frozen params", need.frozen, update, reference)
  yield figure("batch", need.batch, update, note)
  yield figure("gradients", need.gradients, _ESTIMATED, "from shapes")
  how = "the inputs of layers alone, a lower bound"
  if of.update is not None:
    how = "what the compiled update makes, less the gradients estimated above"
  yield figure("activations", need.activations, _ESTIMATED, how)
  if need.stays:
    yield figure("sampler, all the time", need.sampler, _ESTIMATED)
  yield figure("update, all together", need.update, update)
  sampler, shapes = _how(of.decode, "from shapes")
  yield figure("sampler's params", need.rollout_params, sampler, shapes)
  engine = found.config.engine
  rows = f"{engine.num_rows} rows of {found.row_length}; {shapes}"
  yield figure("KV rows", need.kv_rows, sampler, rows)
  how = "rows of a call's lanes and a layer's scores, a lower bound"
  made, how = _how(of.decode or of.extend, how)
  yield figure("sampler's temporaries", need.sampling, made, how)
  status = _ESTIMATED if sampler == _ESTIMATED else update
  yield figure("collecting, all together", need.collecting, status)


def time_figures(of: Plan) -> Iterator[Figure]:
  """Yields times at the chip's peaks, and what they follow from."""
  found, chip = of.found, of.chip
  packing, engine = found.config.packing, found.config.engine
  if of.update is not None:
    batch = f"{packing.rows_per_micro_batch} x {packing.row_length} ids"
    how = _COMPILED, ""
    yield from _costs("micro-batch", of.update.again, chip, how, batch)
    fixed = of.update.once - of.update.again
    yield from _costs("optimizer step", fixed, chip, how, "beside those")
    flops, num_bytes = of.update.counted
    note = "XLA's cost_analysis, every loop once"
    yield Figure("update, flops", flops / 1e12, "TFLOP", _COMPILED, note)
    yield Figure("update, bytes", num_bytes / 1e9, "GB", _COMPILED, note)
    once, again = (max(c.seconds(chip)) for c in (fixed, of.update.again))
    num = found.capacity
    note = f"{num} micro-batches, the most there can be"
    yield Figure("update, at most", once + num * again, "s", _ESTIMATED, note)
    num_ids = packing.rows_per_micro_batch * packing.row_length
    rate = num_ids / again
    yield Figure("learned, at best", rate, "ids/s", _ESTIMATED, "full rows")
  num_hosts = found.mesh.size // found.host_mesh.size
  num_tiles = sharding.num_row_parts(found.host_mesh) * num_hosts
  if of.extend is not None:
    lanes = lowering.extend_lanes(engine)
    call = f"{lanes} x {engine.extend_chunk} ids a call"
    yield from _costs("extend", of.extend.once, chip, _how(of.extend), call)
  if of.decode is not None:
    how = _how(of.decode)
    lanes = f"a token of {engine.num_lanes} lanes"
    yield from _costs("decode", of.decode.again, chip, how, lanes)
    fixed = of.decode.once - of.decode.again
    call = f"a call of {engine.decode_tokens} tokens, beside those"
    yield from _costs("decode call", fixed, chip, how, call)
    token = max(of.decode.again.seconds(chip))
    token += max(fixed.seconds(chip)) / engine.decode_tokens
    rate = num_tiles * engine.num_lanes / token
    note = f"{num_tiles} x {engine.num_lanes} lanes, rows full"
    yield Figure("sampled, at best", rate, "ids/s", _ESTIMATED, note)


def _costs(
  name: str,
  costs: plan.Costs,
  chip: slices.Chip,
  how: tuple[str, str],
  note: str,
) -> Iterator[Figure]:
  """Yields what a program does, and the time of the slowest of its parts.

  Args:
    name: of the program.
    costs: of it.
    chip: that runs it.
    how: status of the costs, and how they came about.
    note: on the time.
  """
  compute, memory_s, exchange = costs.seconds(chip)
  yield Figure(f"{name}, matrix products", costs.flops / 1e12, "TFLOP", *how)
  if costs.kernel_flops:
    flops = costs.kernel_flops / 1e12
    half = "in kernels; the causal half of each row"
    yield Figure(f"{name}, attention", flops, "TFLOP", _ESTIMATED, half)
  yield Figure(f"{name}, memory", costs.hbm_bytes / 1e9, "GB", *how)
  yield Figure(f"{name}, sent", costs.sent_bytes / 1e9, "GB", *how)
  parts = {"products": compute, "memory": memory_s, "exchange": exchange}
  slowest = max(parts, key=parts.__getitem__)
  listed = ", ".join(f"{part} {1e3 * s:.2f}" for part, s in parts.items())
  note = f"bound by {slowest} ({listed}); {note}"
  value = 1e3 * parts[slowest]
  yield Figure(f"{name}, at best", value, "ms", _ESTIMATED, note)


def _head(found: plan.Setup, of: slices.Slice) -> Iterator[str]:
  model = found.model
  axes = ", ".join(f"{axis} {size}" for axis, size in found.mesh.shape.items())
  hosts = found.mesh.size // found.host_mesh.size
  yield (
    f"{of.name}: {of.num_chips} chips ({of.topology}), {hosts} hosts; "
    f"mesh: {axes}"
  )
  name = found.config.model.preset or found.config.model.folder
  yield (
    f"{name}: {model.num_layers} layers, {model.dtype}, remat {model.remat}, "
    f"attention {model.attention}"
  )


def _how(program: plan.Program | None, shapes: str = "") -> tuple[str, str]:
  """Returns the status of a program's figures, and how they came about.

  Args:
    program: None where it was not compiled.
    shapes: how they came about then.
  """
  if program is None:
    return _ESTIMATED, shapes
  if not program.depths:
    return _COMPILED, "at full depth"
  depths = " and ".join(map(str, program.depths))
  return _ESTIMATED, f"from compiled at depth {depths}"


def _against(shapes: float, compiled: float) -> str:
  """Says how far shapes are from what a program takes, which pads some."""
  return f"all arguments {compiled / _GIB:.3f}, by shapes {shapes / _GIB:.3f}"
