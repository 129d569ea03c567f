"""Compiles extend and decode for TPU slices, without a TPU; run by hand.

  python -m tests.benchmarks.tpu_sampling [preset:chip ...]

Needs `pip install libtpu`. Prints one JSON line a program: its memory a device
and the operations and bytes that the compiler counts, with the time that they
imply on that chip (roofline: the larger of the two). Compiled, not run.
"""

import dataclasses
import json
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from userrl_jax import config as config_lib
from userrl_jax import lowering
from userrl_jax import plan
from userrl_jax import sharding
from userrl_jax import slices
from userrl_jax.models import qwen3

SLICES = {"v5e": "v5e-8", "v5p": "v5p-8"}  # 8 and 4 chips
# preset -> chip -> (chips that a tile's heads are split over, rows of a tile);
# rows of 4,096 positions, as many as leave room for params and temporaries.
PLANS = {
  "qwen3_0_6b": {"v5e": (1, 16), "v5p": (1, 128)},
  "qwen3_4b": {"v5e": (4, 32), "v5p": (1, 64)},
  "qwen3_8b": {"v5e": (8, 64), "v5p": (2, 128)},
}
LENGTH = 4096


def compile_both(preset: str, chip: str, num_layers: int = 0) -> list[dict]:
  """Compiles a preset's extend and decode for a slice; returns its figures."""
  model = dataclasses.replace(qwen3.PRESETS[preset], dtype="bfloat16")
  if num_layers:
    model = dataclasses.replace(model, num_layers=num_layers)
  tensor, num_rows = PLANS[preset][chip]
  of = slices.named(SLICES[chip])
  mesh = sharding.make_mesh(config_lib.Mesh(tensor=tensor), plan.topology(of))
  engine = config_lib.Engine(
    num_rows, num_rows, decode_tokens=16, extend_chunk=256, extend_tokens=1024
  )
  num_bytes = qwen3.cache_bytes(model, num_rows, LENGTH) / tensor
  return [
    {"preset": preset, "slice": of.name, "tensor": tensor}
    | {"cache_gib": round(num_bytes / 2**30, 3)}
    | _figures(name, lower(model, engine, LENGTH, mesh), of.chip)
    for name, lower in (
      ("extend 4x256", lowering.extend),
      (f"decode {num_rows}x16", lowering.decode),
    )
  ]


def _figures(name, lowered, chip) -> dict:
  begun = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - begun
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  operations, num_bytes = cost["flops"], cost["bytes accessed"]
  gib = lambda n: round(n / 2**30, 3)
  return {
    "program": name,
    "compile_s": round(seconds, 1),
    "arguments_gib": gib(memory.argument_size_in_bytes),
    "temporaries_gib": gib(memory.temp_size_in_bytes),
    "aliased_gib": gib(memory.alias_size_in_bytes),
    "gflop": round(operations / 1e9, 1),
    "gbytes": round(num_bytes / 1e9, 2),
    "roofline_ms": round(
      1e3 * max(operations / chip.flops, num_bytes / chip.hbm_bytes_per_s), 3
    ),
  }


def main() -> None:
  known = [f"{preset}:{chip}" for preset in PLANS for chip in SLICES]
  for name in sys.argv[1:] or known:
    for figures in compile_both(*name.split(":")):
      print(json.dumps(figures), flush=True)


if __name__ == "__main__":
  main()
