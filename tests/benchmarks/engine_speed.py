"""Times the engine on a small model; run by hand, in a quiet minute.

  python -m tests.benchmarks.engine_speed [devices=2] [generate] [turns]
    [ragged] [latency]

Prints one JSON line a measurement: medians of the given number of runs, all
after one that compiles. With devices=2 the CPU is taken for two, each with half
of the rows; else XLA's own threads share the work. The model is that of the
published peer comparisons: hidden 256, 4 layers, 8/4 heads of 32, MLP 768,
vocabulary 4096, float32.
"""

import asyncio
import json
import os
import statistics
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from tests.benchmarks import sampling_work
from userrl_jax import config as config_lib
from userrl_jax import sharding
from userrl_jax.inference import engine as engine_lib
from userrl_jax.models import qwen3

MODEL = qwen3.Config(
  vocab_size=4096,
  hidden_size=256,
  num_layers=4,
  num_heads=8,
  num_kv_heads=4,
  head_dim=32,
  intermediate_size=768,
  tie_embeddings=True,
)
NUM_RUNS = 5
NEVER = MODEL.vocab_size + 1  # a stop id that is not drawn


def generate(params) -> None:
  """32 prompts of 128 ids, 128 new ones each."""
  engine = make_engine(256, num_rows=32, num_lanes=32, decode_tokens=128)
  lengths = np.full((32, 1, 2), 128)
  _measure("generate_32x128+128", engine, params, lengths)


def turns(params) -> None:
  """16 episodes of 8 turns, each 64 ids read and 64 sampled."""
  engine = make_engine(1024, num_rows=16, num_lanes=16, decode_tokens=64)
  _measure("turns_16x8x64+64", engine, params, np.full((16, 8, 2), 64))


def ragged(params) -> None:
  """The same with log-normal lengths, mean 64, at most 256 a piece."""
  lengths = sampling_work.LENGTHS["ragged"]
  longest = lengths.sum((1, 2)).max()
  # Few rows come to read at a time: small extend calls waste less.
  engine = make_engine(
    longest, 128, num_rows=16, num_lanes=16, decode_tokens=32
  )
  _measure("ragged_16x8", engine, params, lengths)


def latency(params) -> None:
  """256 episodes, at most 64 decoding at once, users that take their time."""
  lengths = np.full((256, 4, 2), 16)
  medians = []
  for name, waits in (("instant", (0.0, 0.0)), ("slow", (0.25, 0.75))):
    engine = make_engine(128, num_rows=256, num_lanes=64, decode_tokens=16)
    name = f"latency_256x4x16+16_{name}_users"
    medians.append(_measure(name, engine, params, lengths, waits))
  print(json.dumps({"latency_ratio": round(medians[1] / medians[0], 3)}))


def make_engine(
  max_length: int,
  extend_tokens: int = 512,
  *,
  num_rows: int,
  num_lanes: int,
  decode_tokens: int,
) -> engine_lib.Engine:
  """Makes an engine with so many rows and lanes on all devices together."""
  num_devices = len(jax.devices())
  mesh = sharding.make_mesh(config_lib.Mesh(), jax.devices())
  engine = config_lib.Engine(
    num_rows=num_rows // num_devices,
    num_lanes=num_lanes // num_devices,
    decode_tokens=decode_tokens,
    extend_chunk=64,
    extend_tokens=extend_tokens // num_devices,
  )
  return engine_lib.Engine(MODEL, engine, int(max_length), NEVER, mesh)


def _measure(name, engine, params, lengths_EK2, waits=(0.0, 0.0)) -> float:
  """Prints and returns the median seconds of playing all episodes."""

  async def episode(index, round_):
    rng = np.random.default_rng([index, round_])
    session = engine.open(np.array([round_, index], np.uint32))
    for turn, (num_read, num_sampled) in enumerate(lengths_EK2[index]):
      if turn and waits[1]:  # what is read then is the user's answer
        await asyncio.sleep(rng.uniform(*waits))
      ids = rng.integers(2, MODEL.vocab_size, num_read).tolist()
      await engine.sample(session, ids, int(num_sampled))
    engine.close(session)

  async def play(round_):
    async with engine.serving(params):
      await asyncio.gather(
        *(episode(i, round_) for i in range(len(lengths_EK2)))
      )

  seconds = []
  for round_ in range(NUM_RUNS + 1):
    engine.take_counters()
    begun = time.perf_counter()
    asyncio.run(play(round_))
    seconds.append(time.perf_counter() - begun)
  counters = engine.take_counters()
  median = statistics.median(seconds[1:])
  sampled = int(lengths_EK2[..., 1].sum())
  print(
    json.dumps(
      {
        "name": name,
        "devices": len(jax.devices()),
        "median_s": round(median, 3),
        "all_s": [round(s, 3) for s in seconds[1:]],
        "first_s": round(seconds[0], 3),
        "tokens_per_s": round(sampled / median, 1),
        "padding": round(counters.padding, 3),
        "idle_share": round(counters.idle_share, 3),
        "device_calls": counters.device_calls,
        "load": [round(x, 2) for x in os.getloadavg()],
      }
    ),
    flush=True,
  )
  return median


def main() -> None:
  names = sys.argv[1:]
  if names and names[0].startswith("devices="):
    jax.config.update("jax_num_cpu_devices", int(names.pop(0)[8:]))
  params = jax.jit(lambda key: qwen3.init(MODEL, key))(jax.random.key(0))
  known = {f.__name__: f for f in (generate, turns, ragged, latency)}
  for name in names or known:
    known[name](params)


if __name__ == "__main__":
  main()
