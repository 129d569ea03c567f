"""Two processes of four devices: the run of one with eight, and lost hosts."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import config_hosts
from userrl_jax import host_watch
from userrl_jax import hosts
from userrl_jax import hosts_rules
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
  c.checkpoint.every_steps = 1
  c.hosts.heartbeat_timeout_s = 20
  return c
"""
# Ends itself, as `kill -9` would, when it comes to a phase for the n-th time,
# and the coordinator knows.
DOOMED = """
import os, signal, sys, threading, time
from userrl_jax import flags
from userrl_jax import hosts
from userrl_jax import train

_, phase, times, *argv = sys.argv

def kill():
  seen = set()
  while len(seen) < int(times):
    watch = hosts._watch
    if watch is not None and watch._own.phase == phase:
      if watch._known[watch._index].phase == phase:
        seen.add(watch._entered)
    time.sleep(0.01)
  os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
flags.run(hosts.joined(train.main), argv)
"""


class Place:
  """Where the runs of this module live: a recipe and compiled programs."""

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

  def start(self, name, *flags, program=("-m", "userrl_jax.train")):
    return subprocess.Popen(
      [
        *(sys.executable, *program, f"--config={self.folder / 'recipe.py'}"),
        *(f"--config.out_dir={self.folder / name}", *flags),
      ],
      cwd=self._root,
      env=self._env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def start_two(self, name, *flags, doomed=None, when=()):
    """Starts two hosts; one may be doomed to die `when` (phase, times)."""
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    return [
      self.start(
        name,
        f"--config.hosts.coordinator=localhost:{port}",
        "--config.hosts.num_processes=2",
        f"--config.hosts.process_id={i}",
        "--config.mesh.cpu_devices=4",
        *(f"--config.init_from={self.folder}/start/checkpoints/base", *flags),
        **({"program": ("-c", DOOMED, *when)} if i == doomed else {}),
      )
      for i in range(2)
    ]


def _finished(processes):
  """Waits for the end of processes; returns what each printed."""
  try:
    outputs = [process.communicate(timeout=800) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (_, errors) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, errors
  return [out for out, _ in outputs]


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  place = Place(tmp_path_factory.mktemp("runs"), root)
  _finished([place.start("start", "--config.stages=base")])
  return place


@pytest.fixture(scope="module")
def alone(place):
  """The folder of a run in one process with eight devices."""
  start = f"--config.init_from={place.folder}/start/checkpoints/base"
  _finished([place.start("alone", start, "--config.mesh.cpu_devices=8")])
  return place.folder / "alone"


def _params(folder):
  folder = folder / "checkpoints" / "grpo"
  kept = tokenizers.load(folder / "tokenizer", "sentencepiece")
  model = dataclasses.replace(
    qwen3.PRESETS["qwen3_tiny"], num_layers=1, num_ids=kept.vocab_size
  )
  shapes = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  return checkpoint.load_params(folder, shapes, NUM_STEPS)


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _check_equal(folder, alone):
  """Holds a run of two hosts against that of one."""
  got, want = _params(folder), _params(alone)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=1e-6), got, want
  )
  start = checkpoint.load_params(
    folder.parent / "start" / "checkpoints" / "base", want
  )
  moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), want, start)
  assert min(jax.tree.leaves(moved)) > 1e-5
  steps, steps_alone = (
    _lines(folder / "metrics.jsonl"),
    _lines(alone / "metrics.jsonl"),
  )
  assert [line["step"] for line in steps] == list(range(NUM_STEPS))
  for line, other in zip(steps, steps_alone, strict=True):
    assert line["train/grad_norm"] > 1e-3
    for name in ("episode/num", "train/num_tokens", "rollout/tokens_sampled"):
      assert line[name] == other[name], name
    for name in ("train/loss", "train/grad_norm", "train/entropy"):
      np.testing.assert_allclose(line[name], other[name], rtol=1e-4)


def test_two_hosts_train_what_one_does(place, alone):
  out, silent = _finished(place.start_two("two"))
  assert "on 8 x cpu" in out and "grpo 5/5" in out
  assert "grpo" not in silent  # files and console are those of host 0
  folder = place.folder / "two"
  _check_equal(folder, alone)
  # Of the first step there are transcripts: each task once, on one host.
  path = "transcripts/grpo.jsonl"
  played, as_alone = _lines(folder / path)[:16], _lines(alone / path)[:16]
  for here, there in zip(played, as_alone, strict=True):
    for name in ("gym", "task", "member", "reward", "prompt"):
      assert here[name] == there[name]
    texts = [[turn["text"] for turn in t["turns"]] for t in (here, there)]
    assert texts[0] == texts[1]
  tasks_of = [
    {(t["gym"], t["task"]) for t in played if t.get("host", 0) == host}
    for host in range(2)
  ]
  assert [len(tasks) for tasks in tasks_of] == [2, 2]
  assert not tasks_of[0] & tasks_of[1]
  evaluations = [
    json.loads((run / "evaluations" / "grpo.json").read_text())
    for run in (folder, alone)
  ]
  for name in ("gyms", "macro", "splits", "averages"):
    assert evaluations[0][name] == evaluations[1][name], name


@pytest.mark.slow
@pytest.mark.parametrize(
  "doomed,phase,heard",
  [
    pytest.param(1, "rollout", ["rollout"], marks=pytest.mark.exhaustive),
    # With host 0 goes what it said last, up to a second before.
    pytest.param(
      0,
      "update",
      ["rollout", "exchange of episodes", "update"],
      marks=pytest.mark.exhaustive,
    ),
  ],
)
def test_a_lost_host_is_named_and_a_restart_goes_on(
  place, alone, doomed, phase, heard
):
  folder = place.folder / f"killed_{phase}"
  both = place.start_two(folder.name, doomed=doomed, when=(phase, "2"))
  assert both[doomed].wait(timeout=600) == -signal.SIGKILL
  lost_at = time.monotonic()
  _, errors = both[1 - doomed].communicate(timeout=120)
  assert time.monotonic() - lost_at < 60
  assert both[1 - doomed].returncode == host_watch.EXIT_CODE, errors
  [line] = [x for x in errors.splitlines() if x.startswith("error: ")]
  assert f"error: host {doomed} of 2 was last heard of" in line
  assert any(f"ago in phase {name};" in line for name in heard), line
  # Both got somewhere, and neither to the end.
  steps = [line["step"] for line in _lines(folder / "metrics.jsonl")]
  assert steps and steps[-1] < NUM_STEPS - 1
  _finished(place.start_two(folder.name))
  _check_equal(folder, alone)


@pytest.mark.parametrize(
  "change,host,kwargs,want",
  [
    ({}, 0, {}, ""),
    ({"at": 69.0}, 1, {}, "host 1 of 3 was last heard of 31 s ago in phase r"),
    ({"at": 69.0, "ended": ""}, 1, {}, ""),
    ({"ended": "exit code 3"}, 1, {}, ""),  # the others may do so as well
    (
      {"at": 89.0, "ended": "exit code 3"},
      1,
      {},
      "host 1 of 3 ended in phase rollout: exit code 3",
    ),
    ({}, 0, {"is_cut_off": True}, "host 0 of 3 was last heard of 5 s ago in"),
    ({"ended": ""}, 0, {"is_cut_off": True}, ""),
    ({"ended": "why"}, 0, {"is_cut_off": True}, "host 0 of 3 ended in phase"),
    (
      {"phase_s": 601.0},
      2,
      {},
      "host 2 of 3 has been in phase rollout for 601",
    ),
  ],
)
def test_the_watch_says_whom_it_waits_for(change, host, kwargs, want):
  known = {
    i: host_watch.Heard(phase="rollout", phase_s=9.0, at=95.0) for i in range(3)
  }
  known[host] = dataclasses.replace(known[host], **change)
  said = host_watch.verdict(known, 100.0, 30.0, 600.0, **kwargs)
  assert said.startswith(want) and bool(said) == bool(want)


def test_alone_all_is_this_hosts():
  assert hosts.share([1, 2, 3]) == [1, 2, 3]
  assert hosts.gather({"a": 1}) == [{"a": 1}]
  assert hosts.first_before_others(lambda: 5) == 5


@pytest.mark.parametrize(
  "path,value,named",
  [
    ("hosts.coordinator", "here", "hosts.coordinator must be host:port"),
    ("hosts.process_id", 2, "hosts.process_id must be below"),
    ("budget.max_usd", 1.0, "budget.max_usd must be 0 with"),
    ("recording.mode", "record", "recording.mode must be live"),
    ("selection.num_tasks", 2, "selection.num_tasks must be 0"),
    ("evaluation.agent", "oracle", "evaluation.agent must be policy"),
  ],
)
def test_what_several_hosts_cannot_do_is_refused(path, value, named):
  config = config_lib.Config()
  config.hosts = config_hosts.Hosts("a:1", num_processes=2)
  assert not _broken(config)
  section, field = path.split(".")
  setattr(getattr(config, section), field, value)
  assert any(line.startswith(named) for line in _broken(config))


def _broken(c):
  rules = hosts_rules.rules(
    c.hosts, c.evaluation, c.budget, c.recording, c.selection
  )
  return [f"{path} must be {rule}" for path, rule, holds in rules if not holds]
