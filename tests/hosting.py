"""Runs of one and of two hosts in processes of their own, and what they left.

Every step's transcripts are written down, for tests of who played what.
"""

import collections
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np

from userrl_jax import checkpoint
from userrl_jax.chat import tokenizers
from userrl_jax.models import qwen3

NUM_STEPS, NUM_TASKS, GROUP_SIZE = 5, 4, 4
RECIPE = f"""
from userrl_jax import config


def get_config():
  c = config.Config(out_dir="given by each test", stages=("grpo",))
  c.model.num_layers = 1
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("function", "telepathy")
  c.gyms.num_train_tasks = 16
  c.gyms.num_test_tasks = 4
  c.gyms.max_turns = 3
  c.rollout.max_tokens_per_turn = 16
  c.rollout.max_tokens_per_episode = 192
  c.engine = config.Engine(num_rows=4, num_lanes=4, decode_tokens=8)
  c.packing = config.Packing(
    row_length=192, rows_per_micro_batch=8, logprob_chunk=64
  )
  c.base = config.Base(num_steps=16, num_episodes=32, episodes_per_step=8)
  c.base.optimizer = config.Optimizer(learning_rate=1e-2, warmup_steps=2)
  c.grpo.num_iterations = {NUM_STEPS}
  c.grpo.tasks_per_iteration = {NUM_TASKS}
  c.grpo.group_size = {GROUP_SIZE}
  c.grpo.credit.turn_penalty = 0.1  # so that beginners differ in score
  # AdamW makes of a gradient that is nothing but rounding a step of up to the
  # rate, so what the order of a sum changes grows with it.
  c.grpo.optimizer = config.Optimizer(learning_rate=3e-6)
  c.evaluation.num_tasks = 2
  c.checkpoint.every_steps = c.checkpoint.transcripts_every = 1
  c.checkpoint.keep = {NUM_STEPS}
  c.hosts.heartbeat_timeout_s = 20
  return c
"""
# What `python -m userrl_jax.train`, or `.evaluate`, does. A doomed host sends
# itself a signal when it comes to a phase for the n-th time, and the
# coordinator knows. At SIGUSR1 it hangs: nothing of the run goes on, but its
# threads do.
PROGRAM = """
import importlib, os, signal, sys, threading, time
from userrl_jax import flags
from userrl_jax import hosts

_, entry, number, phase, times, *argv = sys.argv
main = importlib.import_module(f"userrl_jax.{entry}").main

def signal_itself():
  seen = set()
  while len(seen) < int(times):
    watch = hosts._watch
    if watch is not None and watch._own.phase == phase:
      if watch._known[watch._index].phase == phase:
        seen.add(watch._entered)
    time.sleep(0.01)
  os.kill(os.getpid(), int(number))

signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
if int(number):
  threading.Thread(target=signal_itself, daemon=True).start()
flags.run(hosts.joined(main), argv)
"""


class Place:
  """Where runs live: a recipe and compiled programs."""

  def __init__(self, folder, root):
    self.folder, self._root = folder, root
    (folder / "recipe.py").write_text(RECIPE)
    self._env = {
      **os.environ,
      "JAX_ENABLE_COMPILATION_CACHE": "true",
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      # Less optimised code compiles in half the time.
      "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }

  def make_base(self):
    """Trains the model that all others start from."""
    finished([self._start("start", "--config.stages=base")])

  def start(self, name, *flags, entry="train"):
    """Starts a run in one process with eight devices."""
    own = (*self._init_from(), "--config.mesh.cpu_devices=8")
    return self._start(name, *own, *flags, entry=entry)

  def start_two(self, name, *flags, doomed=None, when=(), entry="train"):
    """Starts two hosts; one may be doomed, `when` (signal, phase, times)."""
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    return [
      self._start(
        name,
        f"--config.hosts.coordinator=localhost:{port}",
        "--config.hosts.num_processes=2",
        f"--config.hosts.process_id={i}",
        "--config.mesh.cpu_devices=4",
        *self._init_from(),
        *flags,
        entry=entry,
        **({"when": when} if i == doomed else {}),
      )
      for i in range(2)
    ]

  def _init_from(self):
    return [f"--config.init_from={self.folder}/start/checkpoints/base"]

  def _start(self, name, *flags, entry="train", when=(0, "", 0)):
    return subprocess.Popen(
      [
        *(sys.executable, "-c", PROGRAM, entry, *map(str, when)),
        f"--config={self.folder / 'recipe.py'}",
        *(f"--config.out_dir={self.folder / name}", *flags),
      ],
      cwd=self._root,
      env=self._env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )


def ended(processes):
  """Waits for the end of processes; returns (output, errors) of each."""
  try:
    return [process.communicate(timeout=800) for process in processes]
  finally:
    for process in processes:
      process.kill()


def finished(processes, code=0):
  """Does the same, of processes that end with this code."""
  outputs = ended(processes)
  for process, (_, errors) in zip(processes, outputs, strict=True):
    assert process.returncode == code, errors
  return outputs


def stopped(folder, name, num_done):
  """Copies a run as it was after so many steps; returns where to."""
  copy = folder.with_name(name)
  shutil.copytree(folder, copy)
  shutil.rmtree(copy / "evaluations")
  for step in range(num_done + 1, NUM_STEPS + 1):
    shutil.rmtree(copy / "checkpoints" / "grpo" / str(step))
  return copy


def lines(path):
  """Reads JSON lines."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def _params(folder):
  folder = folder / "checkpoints" / "grpo"
  kept = tokenizers.load(folder / "tokenizer", "sentencepiece")
  model = dataclasses.replace(
    qwen3.PRESETS["qwen3_tiny"], num_layers=1, num_ids=kept.vocab_size
  )
  shapes = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  return checkpoint.load_params(folder, shapes, NUM_STEPS)


def check_equal(folder, alone):
  """Holds a run against that of one process, which none interrupted.

  To a hundredth of what params move by; 1.5e-8 apart is what has been seen.
  """
  got, want = _params(folder), _params(alone)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=1e-7), got, want
  )
  start = checkpoint.load_params(
    folder.parent / "start" / "checkpoints" / "base", want
  )
  moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), want, start)
  assert min(jax.tree.leaves(moved)) > 1e-5
  steps, steps_alone = (
    lines(folder / "metrics.jsonl"),
    lines(alone / "metrics.jsonl"),
  )
  assert [line["step"] for line in steps] == list(range(NUM_STEPS))
  for line, other in zip(steps, steps_alone, strict=True):
    assert line["train/grad_norm"] > 1e-3
    for name in ("episode/num", "train/num_tokens", "rollout/tokens_sampled"):
      assert line[name] == other[name], name
    for name in ("train/loss", "train/grad_norm", "train/entropy"):
      np.testing.assert_allclose(line[name], other[name], rtol=1e-4)
  _check_played(folder, alone)


def _check_played(folder, alone):
  """Holds every step's transcripts against the other's: each task once."""
  played, as_alone = (
    lines(run / "transcripts" / "grpo.jsonl") for run in (folder, alone)
  )
  for here, there in zip(played, as_alone, strict=True):
    for name in ("step", "gym", "task", "member", "reward", "prompt"):
      assert here[name] == there[name]
    texts = [[turn["text"] for turn in t["turns"]] for t in (here, there)]
    assert texts[0] == texts[1]
  counts = collections.Counter((t["gym"], t["task"]) for t in played)
  assert len(counts) == NUM_STEPS * NUM_TASKS
  assert set(counts.values()) == {GROUP_SIZE}


def tasks_of_hosts(folder):
  """Returns {(step, host): the tasks that it played in it}."""
  found = collections.defaultdict(set)
  for t in lines(folder / "transcripts" / "grpo.jsonl"):
    found[t["step"], t.get("host", 0)].add((t["gym"], t["task"]))
  return found


def hosts_by_step(folder):
  """Returns which hosts played in each step."""
  who = sorted(tasks_of_hosts(folder))
  return [[host for at, host in who if at == step] for step in range(NUM_STEPS)]
