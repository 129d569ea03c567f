"""How long the device idles while users think; run by hand, when it is quiet.

  python -m tests.benchmarks.idle_share \
    --init_from=runs/quickstart/checkpoints/cold_start

Trains a quickstart's checkpoint on its gyms with users who take log-normal
times (median 2 s, sigma 0.5) to answer, at staleness 0 and 1. The device is
busy while a call of the engine or an update runs; the rest of the wall time of
all iterations but the first, which compiles, is idle. One JSON line a
staleness.
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
from userrl_jax import assembly
from userrl_jax import collecting
from userrl_jax import stages
from userrl_jax.gyms import base
from userrl_jax.inference import engine as engine_lib
from userrl_jax.learning import iterations as steps
from userrl_jax.learning import learner

MEDIAN_S, SIGMA = 2.0, 0.5
GROUP_SIZE = 16


def measure(
  folder: str,
  init_from: str,
  staleness: int,
  num_episodes: int,
  iterations: int,
) -> dict:
  """Runs some iterations of GRPO; returns their idle share and wall time."""
  c = quickstart.get_config()
  c.init_from = init_from
  c.out_dir = str(pathlib.Path(folder) / str(staleness))
  c.stages = ("grpo",)
  c.rollout.max_staleness = staleness
  c.grpo.group_size = GROUP_SIZE
  c.grpo.tasks_per_iteration = num_episodes // GROUP_SIZE
  c.grpo.num_iterations = iterations
  c.engine.num_rows = num_episodes * (staleness + 1)
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
  with collecting.ahead(parts, tasks, iterations) as collect:
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
  parser.add_argument("--init_from", required=True)
  parser.add_argument("--episodes", type=int, default=576)
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
