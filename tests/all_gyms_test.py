"""The recipe of all eight gyms, with a tiny model and two steps a stage."""

import json
import os

import pytest

from userrl_jax import config as config_lib
from userrl_jax import flags
from userrl_jax import train

TRAINED = {"travel", "turtle", "persuade", "function", "tau"}
HELD_OUT = {"intention", "telepathy", "search"}
STAGES = ("base", "cold_start", "grpo")


def _tiny(root, folder):
  c = flags.load_recipe(str(root / "configs" / "all_gyms.py"))
  c.out_dir = str(folder)
  c.model.num_layers = 1
  c.mesh.cpu_devices = 1
  c.gyms.num_train_tasks = 12
  c.gyms.num_test_tasks = c.evaluation.num_tasks = 1
  c.rollout.max_tokens_per_turn = 4
  c.engine = config_lib.Engine(num_rows=8, num_lanes=8, decode_tokens=4)
  for stage in (c.base, c.cold_start):  # of one shape, compiled once
    stage.num_steps, stage.episodes_per_step = 2, 4
    stage.optimizer = config_lib.Optimizer()  # Muon takes long to compile
  c.base.num_episodes = c.base.num_copies = 5
  c.grpo.num_iterations = 2
  c.grpo.tasks_per_iteration, c.grpo.group_size = 5, 2
  c.grpo.optimizer.warmup_steps = 1
  return c


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_stage_trains_on_five_gyms_and_is_tried_on_all(
  root, tmp_path, capsys, run_apart
):
  if "USERRL_APART" not in os.environ:
    # Less optimised code compiles in half the time.
    flags_of_xla = "--xla_backend_optimization_level=0"
    run_apart(USERRL_APART="1", XLA_FLAGS=flags_of_xla)
    return
  config = _tiny(root, tmp_path)
  assert set(config.gyms.names) == TRAINED
  assert set(config.evaluation.held_out_gyms) == HELD_OUT
  train.main(config, flags.Command((), "configs/all_gyms.py", {}))
  steps = [
    json.loads(line)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  assert [step["stage"] for step in steps] == [
    s for s in STAGES for _ in (0, 1)
  ]
  for step in steps[-2:]:
    assert {f"score/{gym}" for gym in TRAINED} <= step.keys()
    assert not {f"score/{gym}" for gym in HELD_OUT} & step.keys()
    assert step["rollout/logprob_gap_max"] < 1e-4
  for stage in STAGES:
    path = tmp_path / "evaluations" / f"{stage}.json"
    evaluation = json.loads(path.read_text())
    assert evaluation["gyms"].keys() == TRAINED
    assert evaluation["held_out"]["gyms"].keys() == HELD_OUT
    for gyms in (evaluation, evaluation["held_out"]):
      assert all(gym["invalid"] == 0 for gym in gyms["gyms"].values())
      assert gyms["splits"].keys() == {"fresh", "test"}
  trained = (tmp_path / "transcripts" / "grpo.jsonl").read_text().splitlines()
  assert {json.loads(line)["gym"] for line in trained} <= TRAINED
  shown = capsys.readouterr().out
  assert shown.count("mean of held-out gyms") == 1 + 2 + 3
