"""Comparisons of arms, from runs whose numbers are known."""

import json

import numpy as np
import pytest

from userrl_jax import compare
from userrl_jax import config as config_lib
from userrl_jax import statistics
from userrl_jax import types

GAINS = {"base": 0.0, "cold_start": 0.4, "grpo": 0.7, "continued": 0.5}
GAINS |= {"continued@2": 0.4}
NUM_STEPS = {"base": 5, "cold_start": 4, "grpo": 2, "continued": 8}


def _trajectory(gym, split, number, score):
  task = types.Task(
    gym, f"{split}{number}", split, 1, "s", {}, types.Secret({})
  )
  turn = types.Turn("x", types.Action("answer", "1"), "no", score)
  return types.Trajectory(
    task=task,
    member=0,
    iteration=0,
    token_ids_T=np.zeros(0, np.int32),
    logprobs_T=np.zeros(0, np.float32),
    turn_ids_T=np.zeros(0, np.int32),
    turns=(turn,),
    stop_reason=types.StopReason.TERMINATED,
  )


def make_run(folder, seed, group_size=8):
  """Writes a run in which stages differ by their gains on every task."""
  config = config_lib.Config(
    seed=seed, stages=("base", "cold_start", "grpo", "continued")
  )
  config.grpo.group_size = group_size
  (folder / "evaluations").mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
  rng = np.random.default_rng(seed)
  ease = rng.uniform(0, 0.2, (2, 20))
  for stage, gain in GAINS.items():
    summary = statistics.evaluation_summary(
      [
        _trajectory(gym, split, i, ease[g, i] + gain - 0.1 * (split == "test"))
        for g, gym in enumerate(("function", "travel"))
        for split in ("fresh", "test")
        for i in range(20)
      ],
      stage,
      1.0,
      seed,
    )
    path = folder / "evaluations" / f"{stage}.json"
    path.write_text(json.dumps(summary))
  lines = [
    {"stage": stage, "step": step, "time/step_s": 30.0 + seed}
    for stage, num in NUM_STEPS.items()
    for step in range(num)
  ]
  (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
  return folder


@pytest.fixture
def runs(tmp_path):
  return [make_run(tmp_path / f"seed{seed}", seed) for seed in (0, 1)]


def test_arms_have_their_updates_time_and_scores(runs):
  arms = {arm.name: arm for arm in compare.compare(runs)}
  assert list(arms)[-1] == "grpo" and set(arms) == set(GAINS)
  assert {name: arm.updates for name, arm in arms.items()} == {
    **NUM_STEPS,
    "continued@2": 2,
  }
  assert arms["continued"].minutes == pytest.approx(8 * 30.5 / 60)
  assert arms["continued@2"].minutes == pytest.approx(2 * 30.5 / 60)
  for name, gain in GAINS.items():
    arm = arms[name]
    assert arm.macro == pytest.approx(np.mean(list(arm.gyms.values())))
    assert arm.splits["fresh"] - arm.splits["test"] == pytest.approx(0.1)
    if name != "grpo":
      assert arm.above.mean == pytest.approx(0.7 - gain)
      assert arm.above.low == pytest.approx(0.7 - gain)
      assert arm.above.num_tasks == 2 * 2 * 40
  assert arms["grpo"].above is None


def test_the_command_prints_a_table_and_writes_numbers(runs, tmp_path, capsys):
  path = tmp_path / "comparison.json"
  assert compare.main([*map(str, runs), "--json", str(path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("| arm | updates | minutes | macro score |")
  (row,) = [line for line in lines if line.startswith("| cold_start ")]
  assert row.endswith("| +0.300 | +0.300 to +0.300 |")
  assert {line.count("|") for line in lines} == {lines[0].count("|")}
  values = json.loads(path.read_text())
  assert [arm["name"] for arm in values][-1] == "grpo"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": 0}, "different seeds"),
    ({"seed": 2, "group_size": 16}, "grpo.group_size: 8 -> 16"),
  ],
)
def test_runs_that_cannot_be_compared(runs, tmp_path, capsys, change, message):
  other = make_run(tmp_path / "other", **change)
  assert compare.main([str(runs[0]), str(other)]) == 2
  assert message in capsys.readouterr().err


def test_an_unfinished_run_is_named(runs, capsys):
  (runs[1] / "evaluations" / "grpo.json").unlink()
  assert compare.main([*map(str, runs)]) == 2
  assert str(runs[1]) in capsys.readouterr().err
