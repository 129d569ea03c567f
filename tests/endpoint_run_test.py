"""Whole runs with a user behind an endpoint: replayed, stopped, resumed."""

import json
import pathlib
import random

import jax
import numpy as np
import pytest

from tests.clients import episodes
from tests.clients import server
from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import flags
from userrl_jax import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def make_config(folder, base_url, **changes):
  c = config_lib.Config(out_dir=str(folder), stages=("cold_start", "grpo"))
  c.model.num_layers = 1
  c.gyms = config_lib.Gyms(
    names=("telepathy",), num_train_tasks=12, num_test_tasks=2, max_turns=3
  )
  c.user = episodes.user(base_url, temperature=1.0)
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 320
  c.rollout.max_invalid_share = 0.7
  c.engine = config_lib.Engine(num_rows=24, num_lanes=16, decode_tokens=8)
  c.packing = config_lib.Packing(row_length=320, rows_per_micro_batch=4)
  c.tokenizer.vocab_size = 640
  c.cold_start.noise = 0.0
  c.cold_start.num_steps = 60
  c.cold_start.episodes_per_step = 6
  c.cold_start.optimizer = config_lib.Optimizer(
    learning_rate=1e-2, warmup_steps=5
  )
  c.grpo.num_iterations = 3
  c.grpo.tasks_per_iteration = 4
  c.grpo.group_size = 4
  c.evaluation.num_tasks = 2
  c.checkpoint.every_steps = 100
  for path, value in changes.items():
    section, name = path.split("__")
    setattr(getattr(c, section), name, value)
  config_rules.validate(c)
  return c


def run(config):
  """Trains; returns the exit code."""
  try:
    train.main(config, flags.Command((), "recipe.py", {}))
  except SystemExit as stop:
    return stop.code
  return 0


def trained(config):
  """Returns the final params, and what does not tell the time."""
  folder = pathlib.Path(config.out_dir)
  params = assembly.first_params(
    assembly.build(config), folder / "checkpoints" / "grpo"
  )
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  numbers = [
    {
      name: value
      for name, value in json.loads(line).items()
      if not name.startswith(("time", "user/")) and "per_s" not in name
    }
    for line in lines
  ]
  transcripts = {
    path.name: path.read_bytes() for path in folder.glob("transcripts/*.jsonl")
  }
  return params, numbers, transcripts


def of_grpo(config):
  lines = (pathlib.Path(config.out_dir) / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in lines.splitlines()]
  return [line for line in lines if line["stage"] == "grpo"]


def test_a_recorded_run_is_played_again_offline(tmp_path):
  file = str(tmp_path / "answers.sqlite")
  random.seed(3)
  with server.Server(
    episodes.moody, 0.1, faults=("error", "refusal", "broken", "empty")
  ) as running:
    first = make_config(
      tmp_path / "first",
      running.base_url,
      recording__mode="record",
      recording__file=file,
    )
    assert run(first) == 0
    url, num_asked = running.base_url, len(running.log)
  again = make_config(
    tmp_path / "again",
    url,
    recording__mode="replay",
    recording__file=file,
  )
  assert run(again) == 0
  (params, numbers, texts), (same, same_numbers, same_texts) = (
    trained(first),
    trained(again),
  )
  jax.tree.map(np.testing.assert_array_equal, params, same)
  assert texts == same_texts and numbers == same_numbers
  assert len(texts) == 3 and num_asked > 50
  # Or the replay would show little: the policy has asked, and faults occurred.
  assert sum(line["user/requests"] for line in of_grpo(first)) > 10
  assert sum(line["user/requests"] for line in of_grpo(again)) == 0


def test_a_spent_budget_stops_with_a_checkpoint_and_goes_on(tmp_path, capsys):
  with server.Server(episodes.moody) as running:
    config = make_config(
      tmp_path / "run",
      running.base_url,
      grpo__num_iterations=6,
      user__usd_per_million_out=100.0,
      budget__max_usd=1000.0,
      budget__max_calls=100_000,
    )
    whole = make_config(tmp_path / "whole", running.base_url)
    assert run(whole) == 0
    before = [line["user/requests"] for line in of_grpo(whole)]
    num_before = len(running.log) - sum(before)
    running.log.clear()
    # Enough for all before GRPO and for an iteration or two of it.
    config.budget.max_calls = num_before + int(sum(before[:2]))
    assert run(config) == 3
    message = capsys.readouterr()
    assert "budget.max_calls" in message.err
    assert len(running.log) <= config.budget.max_calls
    done = len(of_grpo(config))
    assert 0 < done < 6
    kept = tmp_path / "run" / "checkpoints" / "grpo" / str(done)
    assert kept.is_dir() and f"checkpoint after step {done}" in message.out
    num_asked = len(running.log)
    assert run(config) == 3  # at once: what was spent stays so
    assert len(running.log) == num_asked
    config.budget.max_calls *= 10
    assert run(config) == 0
    assert [line["step"] for line in of_grpo(config)] == list(range(6))
    spent = json.loads((tmp_path / "run" / "budget.json").read_text())
    assert sum(x["calls"] for x in spent["spent"]) == len(running.log)
