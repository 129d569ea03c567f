"""What a compiled program computes, moves and sends, read off its text.

In: the text, for one device of many. Out: its `Work`. XLA's own `cost_analysis`
counts the body of a loop once, also that of the loop over layers; here it
counts as often as it runs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re

from userrl_jax import hlo

# What only names data that something else has made.
_FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
  *("after-all", "partition-id", "replica-id", "iota", "opt-barrier"),
}
_COLLECTIVES = (
  *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
  *("collective-permute", "ragged-all-to-all"),
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """What the devices exchange together, of one kind and size."""

  kind: str
  shape: str  # of the result on a device, such as bf16[2560,4096]
  group_size: int  # devices that exchange
  num_bytes: int  # of the whole array that is gathered, reduced or exchanged
  times: int  # that it runs

  @property
  def bytes_sent(self) -> float:
    """Returns what a device sends, as around a ring, all times together."""
    n = max(2, self.group_size)
    share = 1.0 if self.kind == "collective-permute" else (n - 1) / n
    if self.kind == "all-reduce":  # summed around, then told around
      share *= 2
    return self.num_bytes * self.times * share


@dataclasses.dataclass(frozen=True)
class Exchange:
  """What a device exchanges by one kind of operation, all of them together."""

  kind: str
  times: int  # that such operations run
  num_bytes: int  # of the whole arrays, all times together
  bytes_sent: float  # by a device, all times together


@dataclasses.dataclass
class Work:
  """What a program does on one device."""

  flops: float = 0.0  # of matrix products
  hbm_bytes: float = 0.0  # that its operations read and write in memory
  # Of kernels, whose operations the text does not show: {name: times}.
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  collectives: list[Collective] = dataclasses.field(default_factory=list)
  num_unknown_loops: int = 0  # whose trips only the data decide


class Program:
  """A compiled program, read."""

  def __init__(self, text: str):
    """Reads what `as_text` of a compiled program gave."""
    self._computations, self._entry = hlo.parse(text)

  def work(self, trips: Sequence[int] = ()) -> Work:
    """Adds up what the program does on one device.

    Args:
      trips: how often loops run that only the data end, the outermost first;
        deeper ones, and all without it, count once.
    """
    done = Work()
    walk = _Walk(self._computations, tuple(trips), done)
    walk.add(self._entry, 1, 0)
    done.collectives = _merged(done.collectives)
    return done


def by_kind(collectives: Sequence[Collective]) -> list[Exchange]:
  """Adds up what is exchanged by kind, every kind that there is included."""
  found = []
  for kind in _COLLECTIVES:
    of_kind = [one for one in collectives if one.kind == kind]
    found.append(
      Exchange(
        kind,
        sum(one.times for one in of_kind),
        sum(one.num_bytes * one.times for one in of_kind),
        sum(one.bytes_sent for one in of_kind),
      )
    )
  return found


class _Walk:
  """Goes through a program, with how often each part runs."""

  def __init__(
    self,
    computations: Mapping[str, hlo.Computation],
    trips: tuple[int, ...],
    done: Work,
  ):
    self._computations = computations
    self._trips = trips
    self._done = done

  def add(
    self, name: str, times: int, depth: int, is_fused: bool = False
  ) -> None:
    """Adds what a computation does, `depth` unknown loops deep."""
    inside = self._computations[name]
    for op in inside.ops.values():
      if op.opcode == "while":
        self._loop(inside, op, times, depth)
        continue
      if op.opcode in ("fusion", "call", "conditional", "async-start"):
        within = is_fused or op.opcode == "fusion"
        words = "calls", "to_apply", "branch_computations"
        words += "true_computation", "false_computation"
        for called in op.calls(*words):
          self.add(called, times, depth, within)
      self._done.flops += times * _flops(inside, op)
      if op.opcode == "custom-call" and "tpu_custom_call" in op.rest:
        kernel = _kernel_name(op)
        kernels = self._done.kernels
        kernels[kernel] = kernels.get(kernel, 0) + times
      collective = _collective(inside, op, times)
      if collective is not None:
        self._done.collectives.append(collective)
      if not is_fused:
        self._done.hbm_bytes += times * self._hbm_bytes(inside, op)

  def _loop(
    self, inside: hlo.Computation, op: hlo.Op, times: int, depth: int
  ) -> None:
    [body] = op.calls("body")
    trips = _known_trips(self._computations, inside, op)
    if trips is None:
      self._done.num_unknown_loops += 1
      trips = self._trips[depth] if depth < len(self._trips) else 1
      depth += 1
    self.add(body, times * trips, depth)

  def _hbm_bytes(self, inside: hlo.Computation, op: hlo.Op) -> int:
    """Returns what an operation reads and writes, of slices only these."""
    if op.opcode in _FREE or op.opcode.endswith(("-done", "-update")):
      return 0
    if op.opcode in ("while", "call", "conditional", "async-start"):
      return 0
    inputs = [inside.ops[name].arrays for name in op.inputs]
    if op.opcode == "fusion":
      return self._fusion_bytes(op, inputs)
    out = sum(array.hbm_bytes for array in _made(op))
    if op.opcode in ("dynamic-slice", "gather", "slice"):
      return 2 * out
    if op.opcode in ("dynamic-update-slice", "scatter"):
      last = inputs[1 if op.opcode == "dynamic-update-slice" else -1]
      return 2 * sum(array.hbm_bytes for array in last)
    return out + sum(a.hbm_bytes for arrays in inputs for a in arrays)

  def _fusion_bytes(
    self, op: hlo.Op, inputs: Sequence[tuple[hlo.Array, ...]]
  ) -> int:
    [called] = op.calls("calls")
    inside = self._computations[called]
    total = 0
    for i, name in inside.parameters().items():
      read = _bytes_read(inside, name)
      whole = sum(array.hbm_bytes for array in inputs[i])
      total += whole if read is None else min(whole, read)
    root = inside.ops[inside.root]
    made = root.inputs if root.opcode == "tuple" else (inside.root,)
    for array, name in zip(op.arrays, made, strict=False):
      maker = inside.source(name)
      written = array.hbm_bytes
      if maker.opcode == "dynamic-update-slice":
        update = inside.ops[maker.inputs[1]].arrays
        written = min(written, sum(part.num_bytes for part in update))
      total += written
    return total


def _bytes_read(inside: hlo.Computation, name: str) -> int | None:
  """Returns what a fusion reads of an input in slices; None is all of it."""
  total = 0
  waiting = [name]
  while waiting:
    one = waiting.pop()
    for op in inside.ops.values():
      if one not in op.inputs:
        continue
      if op.opcode == "bitcast":
        waiting.append(op.name)
      elif op.opcode in ("dynamic-slice", "slice", "gather"):
        total += sum(array.num_bytes for array in op.arrays)
      elif op.opcode != "dynamic-update-slice" or op.inputs[0] != one:
        return None
  return total


def _flops(inside: hlo.Computation, op: hlo.Op) -> float:
  """Returns the operations of a matrix product, 0 of anything else."""
  if op.opcode == "dot":
    left = inside.ops[op.inputs[0]].arrays[0].dims
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)
    summed = [left[int(i)] for i in hlo.ints(match[1])] if match else []
    return 2.0 * math.prod(op.arrays[0].dims) * math.prod(summed)
  if op.opcode == "convolution":
    return _convolution_flops(inside, op)
  return 0.0


def _convolution_flops(inside: hlo.Computation, op: hlo.Op) -> float:
  """Returns a convolution's operations, those on padding left out.

  The compiler for TPUs writes every matrix product as one; batches become
  dimensions of the window, in which most of the positions are padding.
  """
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest)
  assert labels, op
  left, right = (inside.ops[name].arrays[0].dims for name in op.inputs[:2])
  out = op.arrays[0].dims
  flops = 2.0 * right[labels[2].index("i")]
  flops *= out[labels[3].index("b")] * out[labels[3].index("f")]
  window = re.search(r"window=\{([^}]*)\}", op.rest)
  given = dict(part.split("=") for part in window[1].split()) if window else {}
  spatial = sorted(c for c in labels[3] if c.isdigit())
  for place, digit in enumerate(spatial):
    pick = lambda key, default, place=place: (
      given.get(key, "").split("x")[place] if key in given else default
    )
    low = int(pick("pad", "0_0").split("_")[0])
    stride, dilation, spread = (
      int(pick(key, "1")) for key in ("stride", "lhs_dilate", "rhs_dilate")
    )
    size = left[labels[1].index(digit)]
    used = (size - 1) * dilation + 1
    count = 0
    for k in range(right[labels[2].index(digit)]):
      for o in range(out[labels[3].index(digit)]):
        at = o * stride + k * spread - low
        count += 0 <= at < used and at % dilation == 0
    flops *= count
  groups = re.search(r"batch_group_count=(\d+)", op.rest)
  return flops / int(groups[1]) if groups else flops


def _known_trips(
  computations: Mapping[str, hlo.Computation],
  inside: hlo.Computation,
  op: hlo.Op,
) -> int | None:
  """Returns how often a loop runs; None where data decide it."""
  told = re.search(r'"known_trip_count":\{"n":"(\d+)"', op.rest)
  if told:
    return int(told[1])
  [condition], [body] = op.calls("condition"), op.calls("body")
  ends, step = computations[condition], computations[body]
  compare = ends.source(ends.root)
  if compare.opcode != "compare" or "direction=LT" not in compare.rest:
    return None
  counter, bound = (ends.source(name) for name in compare.inputs)
  index = re.search(r"index=(\d+)", counter.rest)
  if bound.opcode != "constant" or index is None:
    return None
  start = _element(inside, inside.source(op.inputs[0]), int(index[1]))
  after = _element(step, step.ops[step.root], int(index[1]))
  if start is None or start.opcode != "constant" or after is None:
    return None
  added = [step.source(name) for name in after.inputs]
  sizes = [int(one.literal) for one in added if one.opcode == "constant"]
  if after.opcode != "add" or len(sizes) != 1 or sizes[0] < 1:
    return None
  return max(0, -(-(int(bound.literal) - int(start.literal)) // sizes[0]))


def _element(inside: hlo.Computation, op: hlo.Op, index: int) -> hlo.Op | None:
  if op.opcode != "tuple":
    return None
  return inside.source(op.inputs[index])


def _collective(
  inside: hlo.Computation, op: hlo.Op, times: int
) -> Collective | None:
  kind = op.opcode.removesuffix("-start")
  if kind not in _COLLECTIVES:
    return None
  given = [inside.ops[name].arrays[0] for name in op.inputs]
  made = _made(op)
  root = inside.ops[inside.root]
  if kind == "all-reduce" and root.opcode == "dynamic-slice":
    kind, made = "reduce-scatter", root.arrays  # of which each keeps a slice
  larger = max(given, made, key=lambda arrays: sum(a.num_bytes for a in arrays))
  return Collective(
    kind,
    " ".join(map(str, made)),
    _group_size(op.rest),
    sum(array.num_bytes for array in larger),
    times,
  )


def _made(op: hlo.Op) -> Sequence[hlo.Array]:
  """Returns the results proper: of a start, without what it takes along."""
  if op.opcode == "copy-start":  # (the copy, what is copied, ...)
    return op.arrays[:1]
  num = len(op.inputs)
  if op.opcode.endswith("-start") and len(op.arrays) >= 2 * num:
    return op.arrays[num : 2 * num]  # (what goes in, what comes out, ...)
  return op.arrays


def _group_size(rest: str) -> int:
  """Returns how many devices exchange, in any of the ways to write groups."""
  match = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
  if match:
    return len(hlo.ints(match[1]))
  match = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
  if match:
    return int(match[2])
  match = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest)
  if match:
    sizes = {k: int(v) for k, v in re.findall(r"'([^']+)'=(\d+)", match[1])}
    return math.prod(sizes[axis] for axis in re.findall(r"'([^']+)'", match[2]))
  return 0


def _merged(found: Sequence[Collective]) -> list[Collective]:
  """Returns one of each kind and size, what sends most first."""
  times: dict[Collective, int] = {}
  for one in found:
    alike = dataclasses.replace(one, times=0)
    times[alike] = times.get(alike, 0) + one.times
  merged = [dataclasses.replace(one, times=n) for one, n in times.items()]
  return sorted(merged, key=lambda one: -one.bytes_sent)


def _kernel_name(op: hlo.Op) -> str:
  match = re.search(r'op_name="([^"]*)/pallas_call"', op.rest)
  return match[1].rsplit("/", 1)[-1] if match else op.name
