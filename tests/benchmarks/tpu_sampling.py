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
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
from jax.experimental import topologies
import jax.numpy as jnp

from userrl_jax import config as config_lib
from userrl_jax import sharding
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3

# Published peaks of a chip: bf16 operations and bytes of memory a second.
PEAKS = {"v5e": (197e12, 819e9), "v5p": (459e12, 2765e9)}
SLICES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x1"}  # 8 and 4 chips
# preset -> chip -> (chips that a tile's heads are split over, rows of a tile);
# rows of 4,096 positions, as many as leave room for params and temporaries.
PLANS = {
  "qwen3_0_6b": {"v5e": (1, 16), "v5p": (1, 128)},
  "qwen3_4b": {"v5e": (4, 32), "v5p": (1, 64)},
  "qwen3_8b": {"v5e": (8, 64), "v5p": (2, 128)},
}
LENGTH, DECODE, CHUNK, EXTEND = 4096, 16, 256, 1024


def compile_both(preset: str, chip: str, num_layers: int = 0) -> list[dict]:
  """Compiles a preset's extend and decode for a slice; returns its figures."""
  model = dataclasses.replace(qwen3.PRESETS[preset], dtype="bfloat16")
  if num_layers:
    model = dataclasses.replace(model, num_layers=num_layers)
  tensor, num_rows = PLANS[preset][chip]
  topology = topologies.get_topology_desc(SLICES[chip], platform="tpu")
  mesh = sharding.make_mesh(config_lib.Mesh(tensor=tensor), topology.devices)
  num_tiles = sharding.num_row_parts(mesh)
  shapes = jax.eval_shape(
    lambda key: qwen3.sampling_layout(qwen3.init(model, key), model),
    jax.random.key(0),
  )
  give = lambda tree, where: jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    where,
  )
  params = give(shapes, sharding.sampling_shardings(shapes, mesh))
  cache = jax.eval_shape(
    lambda: qwen3.init_cache(model, num_rows * num_tiles, LENGTH)
  )
  where = sharding.cache_sharding(mesh, model.num_kv_heads)
  cache = give(cache, jax.tree.map(lambda _: where, cache))
  by_row = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(sharding.MESH_AXES["row"])
  )
  array = lambda *shape, dtype=jnp.int32: jax.ShapeDtypeStruct(
    (shape[0] * num_tiles, *shape[1:]), dtype, sharding=by_row
  )
  scalar = lambda dtype: jax.ShapeDtypeStruct(
    (), dtype, sharding=sharding.replicated(mesh)
  )
  real = lambda: array(num_rows, dtype=jnp.float32)
  lanes = cache_lib.Lanes(
    *(array(num_rows) for _ in range(4)),
    array(num_rows, 2, dtype=jnp.uint32),
    sampling.Knobs(real(), array(num_rows), real(), real()),
  )
  B = EXTEND // CHUNK
  programs = {
    f"extend {B}x{CHUNK}": lambda: cache_lib.extend.lower(
      params,
      cache,
      array(B),
      array(B, CHUNK),
      array(B),
      array(B),
      config=model,
      mesh=mesh,
      length=LENGTH,
    ),
    f"decode {num_rows}x{DECODE}": lambda: cache_lib.decode.lower(
      params,
      cache,
      lanes,
      scalar(jnp.int32),
      scalar(jnp.float32),
      config=model,
      mesh=mesh,
      length=LENGTH,
      num_tokens=DECODE,
      in_place=True,
    ),
  }
  num_bytes = qwen3.cache_bytes(model, num_rows, LENGTH) / tensor
  return [
    {"preset": preset, "slice": SLICES[chip], "tensor": tensor}
    | {"cache_gib": round(num_bytes / 2**30, 3)}
    | _figures(name, lower, chip)
    for name, lower in programs.items()
  ]


def _figures(name, lower, chip) -> dict:
  begun = time.perf_counter()
  compiled = lower().compile()
  seconds = time.perf_counter() - begun
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  operations, num_bytes = cost["flops"], cost["bytes accessed"]
  peak_operations, peak_bytes = PEAKS[chip]
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
      1e3 * max(operations / peak_operations, num_bytes / peak_bytes), 3
    ),
  }


def main() -> None:
  known = [f"{preset}:{chip}" for preset in PLANS for chip in SLICES]
  for name in sys.argv[1:] or known:
    for figures in compile_both(*name.split(":")):
      print(json.dumps(figures), flush=True)


if __name__ == "__main__":
  main()
