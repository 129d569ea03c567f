"""GRPO through faults and an outage, and with who can be provoked.

What training made of its episodes is worked out again from the transcripts
that it saved, and from its own log of numbers.
"""

import collections
import json
import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.clients import episodes
from tests.clients import outage_test
from tests.clients import server
from tests.serving import local_test
from userrl_jax import audit
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import config_rules
from userrl_jax import rescore
from userrl_jax import types

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORM = (*server.FAULTS, "garbled")
OF_USERS = ("timeout", "error", "busy", "refusal", "unparsable")
RUDE = "Is it, as you are told, small?"


def provoked(messages):
  """Refuses, or babbles, wherever the agent says a certain phrase."""
  if not any("as you are told" in m["content"] for m in messages):
    return server.generous_answer(messages)
  if len(messages[1]["content"]) % 3:
    return "Told by whom? I am not a machine."
  return {"content": "", "finish_reason": "content_filter"}


def train(folder, root, base_url, questions, user=None, code=0, **grpo):
  """Trains a policy that asks and guesses; returns its folder and output.

  What the folder began already goes on.
  """
  recipe = folder / "run.py"
  if not recipe.exists():
    write_recipe(folder, base_url, questions, user or {}, grpo)
  done = subprocess.run(
    [sys.executable, "-m", "userrl_jax.train", f"--config={recipe}"],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == code, done.stderr
  return folder / "run", done.stdout + done.stderr


def write_recipe(folder, base_url, questions, user, grpo):
  c = config_lib.Config(out_dir=str(folder / "run"), stages=("grpo",))
  c.gyms = config_lib.Gyms(
    names=("telepathy",), num_train_tasks=8, num_test_tasks=8, max_turns=3
  )
  policy = local_test.policy_folder(folder / "policy", c.gyms, questions)
  c.model.preset, c.model.folder = "", str(policy)
  c.tokenizer.folder = str(policy)
  usual = {"timeout_s": 0.5, "num_reasks": 1, "max_concurrent": 64}
  c.user = episodes.user(base_url, **usual | user)
  c.rollout = config_lib.Rollout(
    max_tokens_per_turn=8,
    max_tokens_per_episode=320,
    max_invalid_share=0.9,
    num_retries=0,
  )
  c.engine = config_lib.Engine(num_rows=16, num_lanes=16, decode_tokens=8)
  c.packing = config_lib.Packing(row_length=320, rows_per_micro_batch=4)
  c.grpo = config_lib.Grpo(tasks_per_iteration=4, group_size=4, **grpo)
  c.grpo.credit = config_lib.Credit(score="sum")
  c.checkpoint.transcripts_every = 1
  c.evaluation.num_tasks = 8
  c.evaluation.num_attempts = 2
  config_rules.validate(c)
  values = config_fields.to_dict(c)
  (folder / "run.json").write_text(json.dumps(values))
  (folder / "run.py").write_text(local_test.RECIPE)


def lines_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def by_step(folder):
  """Returns the numbers of every step, and its transcripts."""
  numbers = {n["step"]: n for n in lines_of(folder / "metrics.jsonl")}
  played = {}
  for record in lines_of(folder / "transcripts" / "grpo.jsonl"):
    played.setdefault(record["step"], []).append(record)
  return numbers, played


def with_others(records):
  """Returns what is valid, without those who are the only ones of a group."""
  valid = [record for record in records if record["valid"]]
  of_task = collections.Counter(record["task"] for record in valid)
  return [record for record in valid if of_task[record["task"]] > 1]


def learned(records, is_valid=None):
  """Works out from transcripts what a step learned from.

  Args:
    records: of one step.
    is_valid: None: as they say; else all are taken to be so.

  Returns:
    Tokens with a loss; means of their advantages and of the sizes of these;
    the mean score of what is in the baselines.
  """
  if is_valid is not None:
    records = [record | {"valid": is_valid} for record in records]
  records = with_others(records)
  found = rescore.rescore(records, config_lib.Credit(score="sum"))
  valid = [episode for episode in found if episode.is_valid]
  tokens = np.concatenate([np.array(e.num_tokens) for e in valid])
  advantages = np.concatenate([np.array(e.advantages) for e in valid])
  return (
    tokens.sum(),
    (tokens * advantages).sum() / tokens.sum(),
    (tokens * np.abs(advantages)).sum() / tokens.sum(),
    np.mean([e.score for e in valid]),
  )


NAMES = (
  "train/num_tokens",
  "advantage/mean",
  "advantage/size",
  "advantage/mean_score",
)


@pytest.mark.exhaustive
def test_no_spoiled_episode_reaches_loss_or_baseline(tmp_path, root):
  with server.Server(
    server.generous_answer, 0.3, faults=STORM, slow_s=30.0, retry_after="0.05"
  ) as running:
    folder, _ = train(
      tmp_path, root, running.base_url, ["Is it big?"], num_iterations=20
    )
    met = {request.fault for request in running.log}
    share = np.mean([bool(request.fault) for request in running.log])
  assert met == {"", *STORM} and 0.24 < share < 0.36
  numbers, played = by_step(folder)
  assert list(numbers) == list(range(20))
  faults = {
    f: sum(n[f"fault/user_{f}"] for n in numbers.values()) for f in OF_USERS
  }
  assert all(faults.values()), faults
  for n in numbers.values():
    of_others = sum(
      n[f"fault/{f}"] for f in types.Fault if not types.Fault(f).is_valid
    )
    assert n["rollout/num_valid"] <= n["episode/num"] - of_others
    assert n["fault/gym_error"] == n["fault/engine_error"] == 0
  # From the saved trajectories: what was learned from, and compared with.
  num_invalid, num_changed = 0, 0
  for step, records in played.items():
    for record in records:
      kinds = [turn["fault"] for turn in record["turns"]]
      assert record["valid"] == all(types.Fault(k).is_valid for k in kinds)
      assert not any(k.startswith("user_") for k in kinds[:-1])
      num_invalid += not record["valid"]
    compared = with_others(records)
    assert numbers[step]["rollout/num_valid"] == len(compared)
    want = [numbers[step][name] for name in NAMES]
    np.testing.assert_allclose(learned(records), want, atol=1e-5)
    with_them = learned(records, is_valid=True)
    num_changed += not np.allclose(with_them, want, atol=1e-3)
  assert list(played) == list(range(20))
  assert num_invalid > 30 and num_changed >= 10
  # And there was something to learn.
  assert max(n["train/grad_norm"] for n in numbers.values()) > 1e-3


@pytest.mark.exhaustive
def test_too_many_faults_stop_a_run_that_then_goes_on(tmp_path, root):
  num_left = 40  # answers

  def refuses(messages):
    nonlocal num_left
    num_left -= 1
    if num_left > 0:
      return server.generous_answer(messages)
    return {"content": "", "finish_reason": "content_filter"}

  with server.Server(refuses) as running:
    given = (tmp_path, root, running.base_url, ["Is it big?"])
    user = {"timeout_s": 10.0}
    folder, said = train(*given, user, code=2, num_iterations=6)
    assert "at most 90% of episodes may be invalid" in said
    num_done = len(lines_of(folder / "metrics.jsonl"))
    assert 0 < num_done < 6
    # What was learned is kept first, and no step was taken on the rest.
    assert f"grpo: kept a checkpoint after step {num_done}" in said
    assert (folder / "checkpoints" / "grpo" / str(num_done)).is_dir()
    failed = lines_of(folder / "transcripts" / "too_many_invalid.jsonl")
    assert {record["fault"] for record in failed} == {"user_refusal"}
    num_left = 1_000_000
    _, said = train(*given, user, num_iterations=6)
    assert f"grpo: goes on after step {num_done} of 6" in said
  numbers, _ = by_step(folder)
  assert list(numbers) == list(range(6))
  assert all(
    numbers[step]["rollout/num_valid"] == 16 for step in range(num_done, 6)
  )


@pytest.mark.exhaustive
def test_an_endpoint_that_dies_amid_a_run_costs_it_time_only(tmp_path, root):
  """By hand with a real minute: USERRL_OUTAGE_S=60."""
  away_s = float(os.environ.get("USERRL_OUTAGE_S", "3"))
  process = outage_test.Process(root, 0.02, "--generous")
  user = {"max_outage_s": 10 * away_s, "timeout_s": 3.0, "max_concurrent": 8}

  def start_again():
    process.wait()
    time.sleep(away_s)
    process.start()

  process.start(dies_after=60)
  thread = threading.Thread(target=start_again)
  thread.start()
  try:
    (tmp_path / "away").mkdir()
    folder, _ = train(
      tmp_path / "away",
      root,
      process.base_url,
      ["Is it big?"],
      user,
      num_iterations=6,
    )
    (tmp_path / "calm").mkdir()
    calm, _ = train(
      tmp_path / "calm",
      root,
      process.base_url,
      ["Is it big?"],
      user,
      num_iterations=6,
    )
  finally:
    thread.join()
    process.kill()
  numbers, played = by_step(folder)
  down = {s for s, n in numbers.items() if n.get("user/outages")}
  outage_s = sum(numbers[step]["user/outage_s"] for step in down)
  print(f"away {away_s:g} s, down {outage_s:.1f} s in steps {sorted(down)}")
  assert down and min(down) > 0 and outage_s > away_s - 1
  # It waited by itself; no episode came to nothing.
  assert not any(
    value
    for n in numbers.values()
    for name, value in n.items()
    if name.startswith("fault/user_") or "/failed/" in name
  )
  assert all(n["rollout/num_valid"] == 16 for n in numbers.values())
  # And all is as if nothing had happened: this user answers by rule.
  calm_numbers, calm_played = by_step(calm)
  assert calm_played == played
  assert any(r["reward"] == 1 for records in played.values() for r in records)
  for name in ("train/loss", "train/grad_norm", "advantage/mean_score"):
    assert [n[name] for n in numbers.values()] == [
      n[name] for n in calm_numbers.values()
    ]


@pytest.mark.exhaustive
def test_an_endpoint_that_can_be_provoked_is_told_of(tmp_path, root, capsys):
  with server.Server(provoked) as running:
    folder, said = train(
      tmp_path,
      root,
      running.base_url,
      ["Is it big?", RUDE],
      {"timeout_s": 10.0},
      num_iterations=6,
    )
    asked = [request.body["messages"] for request in running.log]
  # Babble is asked for again, and refusals are not; both are in the ledger.
  again = [m for m in asked if "no usable reply" in m[-1]["content"]]
  assert again and all("as you are told" in m[1]["content"] for m in again)
  numbers, played = by_step(folder)
  for fault in ("user_refusal", "user_unparsable"):
    assert sum(n[f"fault/telepathy/{fault}"] for n in numbers.values()) > 0
  # The rate by what the agent did: a kind of call, and a phrase.
  for n in numbers.values():
    assert (
      n["provoked/action"] > n["provoked/share"] > n["provoked/answer"] == 0
    )
  turns = [turn for record in played[0] for turn in record["turns"]]
  rude = [turn for turn in turns if "told" in turn["text"]]
  assert {turn["fault"] for turn in rude} <= {"user_refusal", "user_unparsable"}
  # The run warns, once.
  (warning,) = [
    line for line in said.splitlines() if "diagnosis: provoked_faults" in line
  ]
  assert re.search(r'(\d+) of \1 calls of action that say "[^"]*told', warning)
  assert any(n.get("diagnosis/provoked_faults") for n in numbers.values())
  # The evaluation tells the score without them, and with them as 0 and as 1.
  (gym,) = json.loads((folder / "evaluations" / "grpo.json").read_text())[
    "gyms"
  ].values()
  assert 0 < gym["invalid"] < gym["num_attempts"]
  low, high = gym["score_if_invalid_0"], gym["score_if_invalid_1"]
  assert low < gym["score"] < high
  row = next(
    line for line in said.splitlines() if line.strip().startswith("grpo  ")
  )
  assert f"{gym['score']:.3f}" in row and f"{low:.3f} to {high:.3f}" in row
  assert "if they scored 0 to 1" in said
  # So does an audit of the whole run.
  assert audit.main([str(folder)]) == 0
  assert "refused or without a verdict, telepathy: " in capsys.readouterr().out
