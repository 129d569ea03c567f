"""Whole runs with a user behind an endpoint: replayed, stopped, resumed."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.clients import episodes
from tests.clients import server
from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import config_rules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2700)]


def make_config(folder, base_url, **changes):
  c = config_lib.Config(out_dir=str(folder), stages=("cold_start", "grpo"))
  c.model.num_layers = 1
  c.gyms = config_lib.Gyms(
    names=("telepathy",), num_train_tasks=12, num_test_tasks=2, max_turns=3
  )
  c.user = episodes.user(base_url, temperature=1.0, timeout_s=30.0)
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
  c.checkpoint.transcripts_every = 1
  for path, value in changes.items():
    section, name = path.split("__")
    setattr(getattr(c, section), name, value)
  config_rules.validate(c)
  return c


# Numbers of how long users took and what the engine did meanwhile.
OF_SCHEDULING = (
  *("time", "user/", "rollout/idle", "rollout/lanes", "rollout/rows"),
  *("rollout/padding", "rollout/queued"),
)

RECIPE = """
import json, pathlib
from userrl_jax import config_fields


def get_config():
  path = pathlib.Path(__file__).with_suffix(".json")
  return config_fields.from_dict(json.loads(path.read_text()))
"""


def run(config, root):
  """Trains in a process of its own; returns how it ended."""
  folder = pathlib.Path(config.out_dir)
  recipe = folder.with_suffix(".py")
  recipe.write_text(RECIPE)
  values = config_fields.to_dict(config)
  recipe.with_suffix(".json").write_text(json.dumps(values))
  return subprocess.run(
    [sys.executable, "-m", "userrl_jax.train", f"--config={recipe}"],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=900,
  )


def trained(config, parts):
  """Returns the final params as arrays, and what does not tell the time."""
  folder = pathlib.Path(config.out_dir)
  params = assembly.first_params(parts, folder / "checkpoints" / "grpo")
  numbers = [
    {
      name: value
      for name, value in json.loads(line).items()
      if not name.startswith(OF_SCHEDULING) and "per_s" not in name
    }
    for line in (folder / "metrics.jsonl").read_text().splitlines()
  ]
  texts = {
    path.name: path.read_bytes() for path in folder.glob("transcripts/*.jsonl")
  }
  return jax.tree.leaves(params), numbers, texts


def of_grpo(config):
  lines = (pathlib.Path(config.out_dir) / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in lines.splitlines()]
  return [line for line in lines if line["stage"] == "grpo"]


@pytest.mark.exhaustive
def test_a_recorded_run_is_played_again_offline(tmp_path, root):
  recorded = {
    "recording__mode": "record",
    "recording__file": str(tmp_path / "answers.sqlite"),
    # Of some, no demonstration succeeds: this user has no mind of its own.
    "gyms__num_train_tasks": 36,
  }
  with server.Server(
    episodes.moody_in_order(),
    0.1,
    faults=("error", "refusal", "broken", "empty"),
  ) as running:
    first = make_config(tmp_path / "first", running.base_url, **recorded)
    done = run(first, root)
    assert done.returncode == 0, done.stderr
    url = running.base_url
  recorded["recording__mode"] = "replay"
  again = make_config(tmp_path / "again", url, **recorded)
  done = run(again, root)
  assert done.returncode == 0, done.stderr
  parts = assembly.build(again)  # of both; this one needs no endpoint
  params, *written = trained(first, parts)
  same, *same_written = trained(again, parts)
  assert [x.tobytes() for x in map(np.asarray, params)] == [
    x.tobytes() for x in map(np.asarray, same)
  ]
  assert written == same_written and len(written[1]) == 3
  told = [json.loads(x) for x in written[1]["grpo.jsonl"].splitlines()]
  assert {record["step"] for record in told} == {0, 1, 2}
  # Or the replay would show little: the policy has asked, and faults occurred.
  assert sum(line["user/requests"] for line in of_grpo(first)) > 10
  assert sum(line["user/replayed"] for line in of_grpo(again)) > 10
  assert sum(line["user/requests"] for line in of_grpo(again)) == 0
  assert any(request.fault for request in running.log)


@pytest.mark.exhaustive
def test_a_spent_budget_stops_with_a_checkpoint_and_goes_on(tmp_path, root):
  changes = {
    "grpo__num_iterations": 4,
    "cold_start__episodes_per_step": 2,
    "user__max_tokens": 16,
    "user__usd_per_million_in": 1.0,
    "user__usd_per_million_out": 4.0,
  }
  usd = (400 * 1.0 + 16 * 4.0) / 1e6  # of a call
  with server.Server(server.telepathy_answer, tokens=(400, 16)) as running:
    config = make_config(tmp_path / "run", running.base_url, **changes)
    # Stopped before GRPO, then amid it, then not at all.
    config.budget.max_calls = 10
    done = run(config, root)
    assert done.returncode == 3 and "budget.max_calls=10" in done.stderr
    assert len(running.log) == 10
    config.budget.max_calls = 10_000
    whole = make_config(tmp_path / "whole", running.base_url, **changes)
    done = run(whole, root)
    assert done.returncode == 0
    foretold = re.search(
      r"^at most ([\d,]+) calls of the user", done.stdout, re.M
    )
    per_iteration = [line["user/requests"] for line in of_grpo(whole)]
    of_all = json.loads((tmp_path / "whole" / "budget.json").read_text())
    num_all = sum(x["calls"] for x in of_all["spent"])
    # The first word is not of the run, and nothing was asked again.
    assert 0.2 < (num_all - 1) / int(foretold[1].replace(",", "")) <= 1
    num_others = num_all - sum(per_iteration)
    running.log.clear()
    # Half-way by cost, and room for the most that one more call may cost.
    num_half = 10 + num_others + sum(per_iteration[:2])
    config.budget.max_usd = float(num_half * usd + 2000e-6)
    done = run(config, root)
    assert done.returncode == 3 and "budget.max_usd" in done.stderr, done.stderr
    assert (10 + len(running.log)) * usd <= config.budget.max_usd
    spent = json.loads((tmp_path / "run" / "budget.json").read_text())
    told = sum(x["usd"] for x in spent["spent"])
    assert told == pytest.approx((10 + len(running.log)) * usd, rel=1e-9)
    num_done = len(of_grpo(config))
    kept = tmp_path / "run" / "checkpoints" / "grpo" / str(num_done)
    assert 0 < num_done < 4 and kept.is_dir(), done.stdout
    assert f"checkpoint after step {num_done}" in done.stdout
    config.budget.max_usd *= 10
    done = run(config, root)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in of_grpo(config)] == list(range(4))
    spent = json.loads((tmp_path / "run" / "budget.json").read_text())
    assert sum(x["calls"] for x in spent["spent"]) == 10 + len(running.log)
