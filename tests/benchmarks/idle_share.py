"""How long the device idles while users think; run by hand, when it is quiet.

  python -m tests.benchmarks.idle_share \
    [--init_from=runs/quickstart/checkpoints/cold_start]

Trains with users who take log-normal times (median 2 s, sigma 0.5) to answer,
at staleness 0 and 1: the peer comparisons' model in 256 episodes an iteration
of 4 turns, each 16 ids read and 16 sampled, at most 64 decoding at once; or,
given its checkpoint, a quickstart on its gyms. The device is busy while a call
of the engine or an update runs; the rest of the wall time of all iterations but
the first, which compiles, is idle. One JSON line a staleness.
"""

import argparse
import asyncio
import itertools
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from configs import quickstart
from tests.benchmarks import engine_speed
from tests.benchmarks import pieces
from userrl_jax import ahead
from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import stages
from userrl_jax.agents import policy
from userrl_jax.gyms import base
from userrl_jax.inference import engine as engine_lib
from userrl_jax.learning import iterations as steps
from userrl_jax.learning import learner
from userrl_jax.models import qwen3

MEDIAN_S, SIGMA = 2.0, 0.5
GROUP_SIZE = 16


def _small_steps() -> config_lib.Config:
  """Returns the steps of the peer comparisons' model, from random params."""
  qwen3.PRESETS["small"] = engine_speed.MODEL
  policy.PolicyAgent = pieces.Speaker
  c = quickstart.get_config()
  c.model = config_lib.Model(preset="small")
  c.gyms.names, c.gyms.num_train_tasks = (pieces.Pieces.name,), 1000
  c.gyms.max_turns = pieces.NUM_TURNS
  c.rollout.max_tokens_per_turn = 16
  c.engine.num_lanes = 64 // c.mesh.cpu_devices
  c.engine.decode_tokens, c.engine.extend_tokens = 16, 256
  return c


def measure(
  folder: str,
  init_from: str,
  staleness: int,
  num_episodes: int,
  iterations: int,
) -> dict:
  """Runs some iterations of GRPO; returns their idle share and wall time."""
  c = quickstart.get_config() if init_from else _small_steps()
  c.init_from = init_from
  c.out_dir = str(pathlib.Path(folder) / str(staleness))
  c.stages = ("grpo",)
  c.rollout.max_staleness = staleness
  c.grpo.group_size = GROUP_SIZE
  c.grpo.tasks_per_iteration = num_episodes // GROUP_SIZE
  c.grpo.num_iterations = iterations
  num_rows = num_episodes * (staleness + 1)
  c.engine.num_rows = num_rows // c.mesh.cpu_devices
  parts = assembly.build(c)
  (stage,) = stages.plan(parts)
  state, update = stages.start(parts, stage)
  beside = stages.beside(parts, stage)
  busy: list[tuple[float, float]] = []

  def timed(function):
    def call(*args):
      begun = time.monotonic()
      result = jax.block_until_ready(function(*args))
      busy.append((begun, time.monotonic()))
      return result

    return call

  engine_lib.Engine._run = timed(_RUN)
  update, ends = timed(update), [time.monotonic()]
  tasks = stages.stream(parts, stage)
  with ahead.collector(parts, tasks, iterations) as collect:
    for iteration in range(iterations):
      groups = collect(iteration, state.params)
      batches, _ = steps.pack(
        groups,
        c.packing,
        c.grpo,
        max_turns=c.gyms.max_turns,
        num_tasks=stage.per_step,
        capacity=stages.capacity(parts, stage),
        seed=(c.seed, iteration),
      )
      batches = learner.placed(batches, c.packing, parts.mesh)
      state, _ = steps.run(update, state, batches, **beside)
      ends.append(time.monotonic())
  wall = ends[-1] - ends[1]
  return {
    "staleness": staleness,
    "episodes": num_episodes,
    "iteration_s": [round(b - a, 1) for a, b in itertools.pairwise(ends)],
    "idle_share": round(1 - _union(busy, ends[1], ends[-1]) / wall, 3),
  }


def _union(spans, first, last) -> float:
  """Returns the seconds between first and last that some span covers."""
  total, at = 0.0, first
  for begun, ended in sorted(spans):
    begun, ended = max(begun, at), min(ended, last)
    if ended > begun:
      total, at = total + ended - begun, ended
  return total


def _let_users_think() -> None:
  step, rng = base.Gym.step, np.random.default_rng(0)

  async def thinking(gym, action):
    await asyncio.sleep(rng.lognormal(np.log(MEDIAN_S), SIGMA))
    return await step(gym, action)

  base.Gym.step = thinking


_RUN = engine_lib.Engine._run


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--init_from", default="")
  parser.add_argument("--episodes", type=int, default=256)
  parser.add_argument("--iterations", type=int, default=4)
  arguments = parser.parse_args()
  _let_users_think()
  with tempfile.TemporaryDirectory() as folder:
    for staleness in (0, 1):
      print(
        json.dumps(
          measure(
            folder,
            arguments.init_from,
            staleness,
            arguments.episodes,
            arguments.iterations,
          )
        ),
        flush=True,
      )


if __name__ == "__main__":
  main()
