"""Evaluations: repeatable, played once, and without what failed."""

import dataclasses
import json
import types as python_types

import numpy as np
import pytest

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import evaluate
from userrl_jax import gyms
from userrl_jax import scorecard
from userrl_jax import types
from userrl_jax.gyms import function


@pytest.fixture(scope="module")
def config():
  c = config_lib.Config()
  c.model.num_layers = 1
  c.gyms.num_train_tasks = 32
  c.gyms.num_test_tasks = 10
  c.gyms.max_turns = 2
  c.rollout.max_tokens_per_turn = 8
  c.rollout.max_tokens_per_episode = 256
  c.rollout.max_invalid_share = 0.5
  c.engine = config_lib.Engine(num_rows=8, num_lanes=8, decode_tokens=8)
  c.cold_start.episodes_per_step = 8
  c.grpo.tasks_per_iteration = 8
  c.evaluation.num_tasks = 6
  c.evaluation.num_attempts = 2
  return c


@pytest.fixture(scope="module")
def built(config, tmp_path_factory):
  """Parts and random params; params are not among the parts (law L3)."""
  folder = tmp_path_factory.mktemp("built")
  parts = assembly.build(dataclasses.replace(config, out_dir=str(folder)))
  return parts, assembly.first_params(parts)


@pytest.fixture
def parts(built, tmp_path):
  """The same parts in a folder of their own."""
  return dataclasses.replace(built[0], folder=tmp_path)


@pytest.fixture
def tasks(config):
  return assembly.held_out_tasks(config)


def _transcripts(folder, stage):
  path = folder / "transcripts" / f"evaluation_{stage}.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_evaluation_is_repeatable(parts, built, tasks, tmp_path):
  one = evaluate.evaluate(parts, built[1], tasks, "one")
  other = evaluate.evaluate(parts, built[1], tasks, "other")
  assert one == {**other, "stage": "one"}
  texts = lambda stage: [
    [turn["text"] for turn in t["turns"]] for t in _transcripts(tmp_path, stage)
  ]
  assert texts("one") == texts("other")
  assert len({str(text) for text in texts("one")}) > 6  # attempts draw apart
  assert json.loads((tmp_path / "evaluations" / "one.json").read_text()) == one


def test_the_first_held_out_tasks_are_played(parts, built, tasks, tmp_path):
  summary = evaluate.evaluate(parts, built[1], tasks, "grpo")
  gym = summary["gyms"]["function"]
  assert list(gym["scores_by_task"]) == [task.id for task in tasks[:6]]
  assert {task.split for task in tasks} == {"test"}
  assert gym["num_tasks"] == 6 and gym["num_attempts"] == 12
  played = _transcripts(tmp_path, "grpo")
  assert [(t["task"], t["member"]) for t in played] == [
    (task.id, member) for task in tasks[:6] for member in (0, 1)
  ]


def test_what_was_evaluated_is_not_played_again(parts, tmp_path):
  path = tmp_path / "evaluations" / "grpo.json"
  path.parent.mkdir()
  path.write_text('{"stage": "grpo", "gyms": {}}')
  # Without params and tasks there is nothing that could be played.
  summary = evaluate.evaluate(parts, None, (), "grpo")
  assert summary == {"stage": "grpo", "gyms": {}}
  assert not (tmp_path / "transcripts").exists()


def test_a_damaged_evaluation_is_a_users_error(parts, tmp_path, capsys):
  path = tmp_path / "evaluations" / "grpo.json"
  path.parent.mkdir()
  path.write_text('{"stage": ')
  with pytest.raises(SystemExit) as stopped:
    evaluate.evaluate(parts, None, (), "grpo")
  assert stopped.value.code == 2
  assert f"{path} must hold a finished evaluation" in capsys.readouterr().err


class _FailingGym(function.Gym):
  """A gym whose user is away for the tasks of an even number."""

  def start(self, task, seed):
    if _is_away(task):
      raise types.FaultError(types.Fault.USER_TIMEOUT, "the user is away")
    return super().start(task, seed)


def _is_away(task):
  return int(task.id.rpartition("-")[2]) % 2 == 0


def test_what_failed_is_left_out(parts, built, tasks, tmp_path, monkeypatch):
  # Registered as any outside gym is.
  entry = python_types.SimpleNamespace(**vars(function))
  entry.Gym = _FailingGym
  monkeypatch.setitem(gyms.GYMS, "function", entry)
  away = {task.id for task in tasks[:6] if _is_away(task)}
  assert len(away) == 3
  gym = evaluate.evaluate(parts, built[1], tasks, "grpo")["gyms"]["function"]
  assert gym["invalid"] == 6
  for task, scores in gym["scores_by_task"].items():
    assert scores == ([None, None] if task in away else [0.0, 0.0])
  assert gym["score"] == gym["score_if_invalid_0"] == 0.0
  assert gym["score_if_invalid_1"] == 0.5
  faults = {t["task"]: t["fault"] for t in _transcripts(tmp_path, "grpo")}
  assert {task for task, f in faults.items() if f == "user_timeout"} == away


def test_too_many_failures_stop_the_run_and_are_kept(
  config, parts, built, monkeypatch, capsys
):
  entry = python_types.SimpleNamespace(**vars(function))
  entry.Gym = _FailingGym
  monkeypatch.setitem(gyms.GYMS, "function", entry)
  tasks = assembly.load_tasks(config, "test")
  away = [task for task in tasks if _is_away(task)]
  with pytest.raises(SystemExit) as stopped:
    evaluate.evaluate(parts, built[1], away[:4], "grpo")
  assert stopped.value.code == 2
  kept = parts.folder / "transcripts" / "too_many_invalid.jsonl"
  message = capsys.readouterr().err
  assert "8 of 8; the most frequent fault is user_timeout" in message
  assert message.endswith(f"the failed episodes are in {kept}\n")
  lines = [json.loads(line) for line in kept.read_text().splitlines()]
  assert [line["fault"] for line in lines] == ["user_timeout"] * 8
  assert not (parts.folder / "evaluations" / "grpo.json").exists()


def test_the_temperature_of_the_evaluation_counts(parts, built, tasks):
  config = dataclasses.replace(
    parts.config,
    evaluation=dataclasses.replace(parts.config.evaluation, temperature=1e-6),
  )
  cold = dataclasses.replace(parts, config=config)
  evaluate.evaluate(cold, built[1], tasks, "cold")
  played = _transcripts(parts.folder, "cold")
  texts = [[turn["text"] for turn in t["turns"]] for t in played]
  assert texts[0::2] == texts[1::2]  # without chance, attempts are the same
  logprobs = [turn["mean_logprob"] for t in played for turn in t["turns"]]
  np.testing.assert_allclose(logprobs, 0, atol=1e-4)


def test_every_profile_meets_every_task(config, built, tmp_path):
  changed = dataclasses.replace(
    config,
    gyms=dataclasses.replace(config.gyms, names=("telepathy",), max_turns=6),
    rollout=dataclasses.replace(config.rollout, max_tokens_per_episode=4096),
    evaluation=dataclasses.replace(
      config.evaluation, agent="oracle", profiles=("plain", "terse")
    ),
  )
  parts = dataclasses.replace(built[0], config=changed, folder=tmp_path)
  parts = dataclasses.replace(
    parts, episodes=dataclasses.replace(parts.episodes, max_turns=6)
  )
  tasks = assembly.held_out_tasks(changed)
  found = evaluate.evaluate(parts, None, tasks, "oracle")
  of = found["profiles"]
  assert list(of) == ["plain", "terse"]
  assert {of[p]["telepathy"]["num_attempts"] for p in of} == {2 * len(tasks)}
  assert of["plain"]["telepathy"]["score"] == 1.0
  assert of["terse"]["telepathy"]["score"] < 1.0  # the oracle knows no "y"
  assert found["gyms"]["telepathy"]["num_attempts"] == 4 * len(tasks)
  kept = _transcripts(tmp_path, "oracle")
  assert [r["profile"] for r in kept[:4]] == ["plain"] * 2 + ["terse"] * 2
  read = scorecard.Evaluation.from_dict(found)
  assert read.to_dict() == found
