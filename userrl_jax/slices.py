"""TPU slices by the names that they are ordered by, and what a chip can do.

In: a name such as v5p-16. Out: its chips, their arrangement for the compiler,
and published peaks. Google counts TensorCores in the names of v5p, two of them
a chip, and chips in those of v5e:

  v5e-16  16 chips, v5e:4x4      v5p-16  8 chips, v5p:2x2x2
"""

import dataclasses
import math

CHIPS_A_HOST = 4  # or fewer, where a slice has fewer

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of a chip, as published; memory as the compiler lets programs use it.

  Attributes:
    flops: operations a second in bfloat16.
    hbm_bytes: memory that programs may use; somewhat less than is published.
    hbm_bytes_per_s: of the memory.
    ici_bytes_per_s: what it can send to other chips of its slice, over all
      links: half of the published figure, which counts both directions.
    source: of the published figures.
  """

  flops: float
  hbm_bytes: int
  hbm_bytes_per_s: float
  ici_bytes_per_s: float
  source: str


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that are ordered together."""

  name: str
  topology: str  # as libtpu names it
  num_chips: int
  chip: Chip


# 16 GB and 95 GB are published; libtpu 0.0.52 compiles for 15.75 and 95.73 GiB.
CHIPS = {
  "v5e": Chip(
    flops=197e12,
    hbm_bytes=int(15.75 * _GIB),
    hbm_bytes_per_s=819e9,
    ici_bytes_per_s=200e9,
    source="https://cloud.google.com/tpu/docs/v5e",
  ),
  "v5p": Chip(
    flops=459e12,
    hbm_bytes=int(95.73 * _GIB),
    hbm_bytes_per_s=2765e9,
    ici_bytes_per_s=600e9,
    source="https://cloud.google.com/tpu/docs/v5p",
  ),
}
# Arrangements of the chips, smallest first; the pages above list them.
_SHAPES = {
  "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
  "v5p": (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
    *("4x4x8", "4x8x8", "8x8x8"),
  ),
}
_COUNTED_A_CHIP = {"v5e": 1, "v5p": 2}  # in the number of a name


def named(name: str) -> Slice:
  """Finds a slice by its name.

  Args:
    name: such as v5e-16, v5litepod-16 (the same) or v5p-16.

  Raises:
    ValueError: when there is none of this name; lists those that there are.
  """
  known = {
    f"{kind}-{_num_chips(shape) * _COUNTED_A_CHIP[kind]}": (kind, shape)
    for kind, shapes in _SHAPES.items()
    for shape in shapes
  }
  found = known.get(name.replace("v5litepod", "v5e"))
  if found is None:
    listed = ", ".join(
      f"{each} ({_num_chips(shape)} chips)"
      for each, (_, shape) in known.items()
    )
    raise ValueError(
      f"--plan must be a slice of TPUs, got {name!r}; choose of {listed}"
    )
  kind, shape = found
  return Slice(name, f"{kind}:{shape}", _num_chips(shape), CHIPS[kind])


def of_one_host(of: Slice) -> Slice:
  """Returns the slice that a host's chips of another would be by themselves."""
  kind, _ = of.topology.split(":")
  return named(f"{kind}-{CHIPS_A_HOST * _COUNTED_A_CHIP[kind]}")


def _num_chips(shape: str) -> int:
  return math.prod(map(int, shape.split("x")))
