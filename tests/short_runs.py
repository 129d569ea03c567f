"""Short GRPO runs of one process, to be stopped, and what they leave."""

import collections
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np

from userrl_jax import checkpoint
from userrl_jax.models import qwen3

NUM_TASKS, GROUP_SIZE = 2, 4
RECIPE = f"""
from userrl_jax import config


def get_config():
  c = config.Config(out_dir="given by each test", stages=("grpo",))
  c.model.num_layers = 1
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("function", "telepathy")
  c.gyms.num_train_tasks = 32
  c.gyms.num_test_tasks = 4
  c.gyms.max_turns = 3
  c.rollout.max_tokens_per_turn = 16
  c.rollout.max_tokens_per_episode = 192
  c.engine = config.Engine(num_rows=8, num_lanes=8, decode_tokens=8)
  c.packing = config.Packing(row_length=192, logprob_chunk=64)
  c.base = config.Base(num_steps=16, num_episodes=32, episodes_per_step=8)
  c.base.optimizer = config.Optimizer(learning_rate=1e-2, warmup_steps=2)
  c.grpo.tasks_per_iteration = {NUM_TASKS}
  c.grpo.group_size = {GROUP_SIZE}
  c.grpo.credit.turn_penalty = 0.1  # so that beginners differ in score
  c.grpo.optimizer = config.Optimizer(learning_rate=1e-4)
  c.evaluation.num_tasks = 1
  c.checkpoint.every_steps = c.checkpoint.transcripts_every = 1
  return c
"""
# Of this process and this machine. A program is compiled when a process first
# meets its shape, so a resumed run counts only those it still met.
UNREPEATABLE = re.compile(
  r"time.*|.*/tokens_per_s|rollout/(programs|idle_share)"
)


class Place:
  """Where runs live: a recipe, a model to start from, compiled programs."""

  def __init__(self, folder: pathlib.Path, root: pathlib.Path, steps: int):
    """Trains the model that the runs start from; they have so many steps."""
    self.folder, self.root, self.steps = folder, root, steps
    (folder / "recipe.py").write_text(RECIPE)
    self.environment = {
      **os.environ,
      "JAX_ENABLE_COMPILATION_CACHE": "true",
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      # Less optimised code compiles in half the time.
      "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    subprocess.run(
      [
        *(sys.executable, "-m", "userrl_jax.train"),
        *self.flags("start"),
        *("--config.stages=base", "--config.init_from="),
      ],
      cwd=root,
      env=self.environment,
      check=True,
      stdout=subprocess.DEVNULL,
    )

  def flags(self, name: str) -> list[str]:
    """Returns the arguments of a run that writes into `<folder>/<name>`."""
    return [
      f"--config={self.folder / 'recipe.py'}",
      f"--config.out_dir={self.folder / name}",
      f"--config.init_from={self.folder}/start/checkpoints/base",
      f"--config.grpo.num_iterations={self.steps}",
    ]


def lines(path: pathlib.Path) -> list[dict]:
  """Reads JSON lines; of a file that is not there, none."""
  text = path.read_text() if path.exists() else ""
  return [json.loads(line) for line in text.splitlines()]


def params(folder: pathlib.Path) -> list[np.ndarray]:
  """Returns the params of the newest checkpoint of a stage."""
  model = dataclasses.replace(qwen3.PRESETS["qwen3_tiny"], num_layers=1)
  shapes = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  return jax.tree.leaves(jax.device_get(checkpoint.load_params(folder, shapes)))


def check_equal(run: pathlib.Path, whole: pathlib.Path, num_steps: int) -> None:
  """Holds a run against one that nothing interrupted, bit by bit.

  Both must have written the transcripts of every step.
  """
  got, want = (params(r / "checkpoints" / "grpo") for r in (run, whole))
  for ours, theirs in zip(got, want, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  before = params(run.parent / "start" / "checkpoints" / "base")
  assert not any(np.array_equal(a, b) for a, b in zip(got, before, strict=True))
  numbers, expected = (
    [
      {k: v for k, v in line.items() if not UNREPEATABLE.fullmatch(k)}
      for line in lines(r / "metrics.jsonl")
    ]
    for r in (run, whole)
  )
  assert [line["step"] for line in numbers] == list(range(num_steps))
  assert numbers == expected
  for name in ("transcripts/grpo.jsonl", "evaluations/grpo.json"):
    assert (run / name).read_text() == (whole / name).read_text()
  played = collections.Counter(
    (t["gym"], t["task"]) for t in lines(run / "transcripts" / "grpo.jsonl")
  )
  assert len(played) == num_steps * NUM_TASKS  # none is met twice
  assert set(played.values()) == {GROUP_SIZE}
