"""UserRL's released things, a user behind an endpoint, and faults on the way.

A tiny model trains on `all_entities_refined.json` through a local server that
spoils one request in twenty. What was spoiled is in the ledger, and in nothing
else: not in rewards, not in losses, not in scores.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.clients import server
from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types

RECIPE = """
from userrl_jax import config


def get_config():
  c = config.Config(out_dir="given", stages=("cold_start", "grpo"))
  c.model.num_layers = 1
  c.gyms.names = ("telepathy",)
  c.gyms.levels = (2,)
  c.gyms.tasks = {tasks!r}
  c.gyms.num_train_tasks = c.gyms.num_test_tasks = 8
  c.evaluation.num_tasks = 8
  c.user.kind = "endpoint"
  c.user.base_url = {base_url!r}
  c.user.model = "small"
  c.user.timeout_s = 5.0
  c.user.num_retries = c.user.num_reasks = c.rollout.num_retries = 0
  c.rollout.max_invalid_share = 0.6
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 320
  c.engine = config.Engine(num_rows=32, num_lanes=32, decode_tokens=8)
  c.packing = config.Packing(row_length=320, rows_per_micro_batch=4)
  c.tokenizer.vocab_size = 768
  c.cold_start.noise = 0.0
  c.cold_start.num_steps = 120
  c.cold_start.num_tries = 4
  c.cold_start.episodes_per_step = 6
  c.cold_start.optimizer = config.Optimizer(learning_rate=1e-2, warmup_steps=5)
  c.grpo.num_iterations = 3
  c.grpo.tasks_per_iteration = 4
  c.grpo.group_size = 8
  return c
"""
USER_FAULTS = {
  str(fault) for fault in types.Fault if str(fault).startswith("user_")
}


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(shared, root, tmp_path_factory):
  """A finished run and the server it talked to."""
  folder = tmp_path_factory.mktemp("telepathy")
  with server.Server(
    server.telepathy_answer, fault_share=0.05, slow_s=6.0
  ) as running:
    recipe = RECIPE.format(
      tasks=str(shared / "upstream" / "gyms"), base_url=running.base_url
    )
    (folder / "recipe.py").write_text(recipe)
    done = subprocess.run(
      [
        *(sys.executable, "-m", "userrl_jax.train"),
        f"--config={folder / 'recipe.py'}",
        f"--config.out_dir={folder / 'run'}",
      ],
      cwd=root,
      env={**os.environ, "OPENAI_API_KEY": "sk-never-to-be-seen"},
      capture_output=True,
      text=True,
      timeout=800,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run", list(running.log), done.stdout


@pytest.mark.slow
def test_faults_are_in_the_ledger(run):
  folder, log, out = run
  assert sum(bool(request.fault) for request in log) > 0.03 * len(log)
  counted = sum(
    line[f"fault/{fault}"]
    for line in _lines(folder / "metrics.jsonl")
    if line["stage"] == "grpo"
    for fault in USER_FAULTS
  )
  assert counted > 0
  for line in _lines(folder / "metrics.jsonl"):
    if line["stage"] == "grpo":
      faults = sum(line[f"fault/{fault}"] for fault in USER_FAULTS)
      assert line["rollout/num_valid"] == line["episode/num"] - faults
      assert line["fault/gym_error"] == line["fault/engine_error"] == 0
  assert "faults" in out


@pytest.mark.slow
def test_every_spoilt_request_is_in_the_ledger_once(run):
  """Demonstrations, training and evaluations; nothing is asked twice here."""
  folder, log, _ = run
  spoilt = [bool(request.fault) for request in log]
  faults = json.loads(
    (folder / "dialogues" / "cold_start_faults.json").read_text()
  )
  ledger = sum(faults[fault] for fault in USER_FAULTS & set(faults))
  assert ledger > 0 and set(faults) <= USER_FAULTS
  for line in _lines(folder / "metrics.jsonl"):
    ledger += sum(line.get(f"fault/{fault}", 0) for fault in USER_FAULTS)
  for path in (folder / "transcripts").glob("evaluation_*.jsonl"):
    ledger += sum(t["fault"] in USER_FAULTS for t in _lines(path))
  # First come the word that checks the endpoint, and texts for the tokenizer.
  assert sum(spoilt[60:]) <= ledger <= sum(spoilt)


@pytest.mark.slow
def test_faults_are_nowhere_else(run):
  folder, _, _ = run
  first = _lines(folder / "metrics.jsonl")
  first = next(line for line in first if line["stage"] == "grpo")
  played = [t for t in _lines(folder / "transcripts" / "grpo.jsonl")]
  played = [t for t in played if t["step"] == 0]
  valid = [t for t in played if t["valid"]]
  assert len(valid) == first["rollout/num_valid"] < len(played) == 32
  assert first["reward/telepathy"] == pytest.approx(
    np.mean([t["reward"] for t in valid])
  )
  for t in played:
    faults = [turn["fault"] for turn in t["turns"]]
    assert t["valid"] == (not USER_FAULTS & set(faults))
    # A spoiled turn is the last, and it earned nothing.
    assert not USER_FAULTS & set(faults[:-1])
    if not t["valid"]:
      assert t["turns"][-1]["reward"] == 0 and t["turns"][-1]["detail"]
  # Somebody wins among the valid ones, or the test would tell nothing.
  assert any(t["reward"] == 1 for t in valid)


@pytest.mark.slow
def test_evaluations_leave_them_out_and_bound_what_they_hide(run):
  folder, _, _ = run
  gym = json.loads((folder / "evaluations" / "grpo.json").read_text())
  gym = gym["gyms"]["telepathy"]
  scores = [s for task in gym["scores_by_task"].values() for s in task]
  assert gym["invalid"] == scores.count(None)
  assert gym["score_if_invalid_0"] <= gym["score"] <= gym["score_if_invalid_1"]


@pytest.mark.slow
def test_no_secret_and_no_key_is_written(run, shared):
  folder, log, _ = run
  assert {request.key for request in log} == {"sk-never-to-be-seen"}
  for path in folder.rglob("*"):
    if path.is_file():
      assert b"sk-never-to-be-seen" not in path.read_bytes(), path
  settings = gyms_settings(shared)
  glosses = {
    task.id: task.secret.reveal()["gloss"]
    for split in ("train", "test")
    for task in gyms.load_tasks("telepathy", settings, split, 0)
  }
  for path in (folder / "transcripts").glob("*.jsonl"):
    for t in _lines(path):
      observed = [t["prompt"], *(turn["observation"] for turn in t["turns"])]
      assert not any(glosses[t["task"]] in text for text in observed)


def gyms_settings(shared):
  return config.Gyms(
    levels=(2,),
    tasks=str(shared / "upstream" / "gyms"),
    num_train_tasks=1000,
    num_test_tasks=1000,
  )
