"""Comparisons of arms, from runs whose numbers are known."""

import json

import numpy as np
import pytest

from userrl_jax import compare
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import types

GAINS = {"base": 0.0, "cold_start": 0.4, "grpo": 0.7, "continued": 0.5}
GAINS |= {"continued_updates": 0.45, "rl_only_updates": 0.05, "rl_only": 0.1}
NUM_STEPS = {"base": 5, "cold_start": 4, "grpo": 2, "continued": 8}
NUM_STEPS |= {"continued_updates": 2, "rl_only_updates": 2, "rl_only": 5}
MINUTE = 60.0
# Of one minute a step; cold start and GRPO had 6 since the base.
SINCE_BASE = {"base": 0, "cold_start": 4, "grpo": 6, "continued": 12}
SINCE_BASE |= {"continued_updates": 6, "rl_only_updates": 2, "rl_only": 5}


def trajectory(gym, split, number, score):
  """Returns an episode of one turn."""
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


def make_run(folder, seed, group_size=8, commit="abc", held_out_gyms=()):
  """Writes a run in which stages differ by their gains on every task."""
  config = config_lib.Config(seed=seed, stages=tuple(NUM_STEPS))
  config.grpo.group_size = group_size
  (folder / "evaluations").mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(config_fields.to_dict(config)))
  rng = np.random.default_rng(seed)
  ease = rng.uniform(0, 0.2, (2, 20))
  for stage, gain in GAINS.items():
    summary = scorecard.evaluation_summary(
      [
        trajectory(gym, split, i, ease[g, i] + gain - 0.1 * (split == "test"))
        for g, gym in enumerate(("function", "travel"))
        for split in ("fresh", "test")
        for i in range(20)
      ],
      stage,
      1.0,
      seed,
      held_out_gyms=held_out_gyms,
    )
    path = folder / "evaluations" / f"{stage}.json"
    path.write_text(json.dumps(summary))
  environment = {
    "git": {"commit": commit, "changed": False},
    "devices": ["cpu"],
  }
  (folder / "environment.json").write_text(json.dumps(environment))
  lines = [
    {"stage": stage, "step": step, "time/step_s": MINUTE - 1 + 2 * seed}
    for stage, num in NUM_STEPS.items()
    for step in range(num)
  ]
  (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
  return folder


@pytest.fixture
def runs(tmp_path):
  return [make_run(tmp_path / f"seed{seed}", seed) for seed in (0, 1)]


def test_arms_have_their_updates_time_and_scores(runs):
  comparison = compare.compare(runs)
  arms = {arm.name: arm for arm in comparison.arms}
  assert comparison.notes == []
  assert list(arms)[-1] == "grpo" and set(arms) == set(GAINS)
  assert {name: arm.updates for name, arm in arms.items()} == NUM_STEPS
  assert arms["continued"].minutes == pytest.approx(8)
  assert arms["continued_updates"].minutes == pytest.approx(2)
  minutes = {name: arm.minutes_since_base for name, arm in arms.items()}
  assert minutes == pytest.approx(SINCE_BASE)
  assert [arm.name for arm in comparison.arms if arm.has_less_time] == [
    "rl_only_updates",
    "rl_only",
  ]
  for name, gain in GAINS.items():
    arm = arms[name]
    assert arm.macro == pytest.approx(np.mean(list(arm.gyms.values())))
    assert arm.splits["fresh"] - arm.splits["test"] == pytest.approx(0.1)
    if name != "grpo":
      assert arm.above.mean == pytest.approx(0.7 - gain)
      assert arm.above.low == pytest.approx(0.7 - gain)
      assert arm.above.num_tasks == 2 * 2 * 40
      on_test = arm.above_by_split["test"]
      assert on_test.mean == pytest.approx(0.7 - gain)
      assert on_test.num_tasks == 2 * 2 * 20
  assert arms["grpo"].above is None and arms["grpo"].above_by_split == {}


def test_the_command_prints_a_table_and_writes_numbers(runs, tmp_path, capsys):
  path = tmp_path / "comparison.json"
  assert compare.main([*map(str, runs), "--json", str(path)]) == 0
  printed = capsys.readouterr()
  lines = printed.out.splitlines()
  assert lines[0].startswith(
    "| arm | updates | minutes | minutes since base | macro score |"
  )
  assert lines[0].endswith("| tasks | above, test tasks only |")
  (row,) = [line for line in lines if line.startswith("| cold_start ")]
  assert row.endswith(
    "| 0 | +0.300 | +0.300 to +0.300 | 160 | +0.300 (+0.300 to +0.300) |"
  )
  rows = [line for line in lines if line.startswith("|")]
  assert {line.count("|") for line in rows} == {lines[0].count("|")}
  shortest, short = [line for line in rows if "*" in line]
  assert shortest.startswith("| rl_only_updates* | 2 | 2.0 | 2.0 |")
  assert short.startswith("| rl_only* | 5 | 5.0 | 5.0 |")
  assert lines[-1].startswith("\\* Below 95% of the training time that grpo")
  assert printed.err == ""
  values = json.loads(path.read_text())
  assert [arm["name"] for arm in values["arms"]][-1] == "grpo"


def _spoil(evaluation):
  """Leaves no valid attempt in a gym."""
  for gyms in (evaluation["gyms"], *evaluation["splits"].values()):
    gyms["travel"]["score"] = None
    gyms["travel"]["scores_by_task"] = {}
  evaluation["macro"]["score"] = None
  return evaluation


def test_what_a_run_lacks_is_said(runs, tmp_path, capsys):
  folder = runs[1] / "evaluations"
  (folder / "rl_only.json").unlink()
  path = folder / "continued.json"
  path.write_text(json.dumps(_spoil(json.loads(path.read_text()))))
  path = runs[0] / "metrics.jsonl"
  kept = [
    line
    for line in path.read_text().splitlines()
    if "continued_updates" not in line
  ]
  path.write_text("\n".join(kept))
  assert compare.main([*map(str, runs)]) == 0
  printed = capsys.readouterr()
  for text in (
    f"{runs[1]} has no evaluation of rl_only: rl_only is left out of the table",
    f"{runs[1]} has no valid attempt of continued in travel: continued is left",
    f"{runs[0]}: no times of continued_updates in metrics.jsonl",
  ):
    assert f"note: {text}" in printed.err and f"Note: {text}" in printed.out
  assert "| continued |" not in printed.out and "| rl_only*" not in printed.out
  path = runs[0] / "evaluations" / "grpo.json"
  path.write_text(json.dumps(_spoil(json.loads(path.read_text()))))
  assert compare.main([*map(str, runs)]) == 2
  assert "valid attempts of grpo in every gym" in capsys.readouterr().err


def test_other_code_and_devices_are_said(runs, tmp_path, capsys):
  other = make_run(tmp_path / "other", 5, commit="def")
  path = runs[0] / "environment.json"
  later = {"commit": "abc", "changed": True, "devices": ["TPU v5e"]}
  environment = {**json.loads(path.read_text()), "resumed": [later]}
  path.write_text(json.dumps(environment))
  notes = compare.compare([*runs, other]).notes
  names = [*map(str, runs), str(other)]
  assert notes == [
    f"the runs are of different commits: abc in {names[0]}; abc in {names[1]}; "
    f"def in {names[2]}",
    f"the runs are of different devices: cpu, then TPU v5e in {names[0]}; cpu "
    f"in {names[1]}; cpu in {names[2]}",
    f"files differed from the commit in {names[0]}",
  ]


def test_stages_know_what_led_to_them():
  stages = tuple(NUM_STEPS)
  before = run_folder.stages_before
  for name in ("grpo", "continued_updates", "continued"):
    assert before(name, stages) == ["cold_start"]
  for name in ("rl_only_updates", "rl_only", "base"):
    assert before(name, stages) == []
  assert before("grpo", ("base", "grpo")) == before("grpo", ("grpo",)) == []


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


def test_held_out_gyms_are_compared_apart(tmp_path, runs):
  held_out = [
    make_run(tmp_path / f"held_out{seed}", seed, held_out_gyms=("travel",))
    for seed in (0, 1)
  ]
  comparison = compare.compare(held_out)
  for arm, both in zip(
    comparison.arms, compare.compare(runs).arms, strict=True
  ):
    assert both.held_out is None
    assert set(arm.gyms) == {"function"} and arm.invalid == 0
    assert arm.macro == pytest.approx(both.gyms["function"])
    assert arm.held_out.gyms == {"travel": pytest.approx(both.gyms["travel"])}
    assert arm.held_out.macro == pytest.approx(both.gyms["travel"])
    above = arm.held_out.above
    if arm.name == "grpo":
      assert above is None
    else:
      assert above.mean == pytest.approx(0.7 - GAINS[arm.name])
      assert above.num_tasks == arm.above.num_tasks == 2 * 40
  first, second = compare.table(comparison).split("\n\nHeld-out gyms")
  assert "travel" not in first and "travel" in second
  assert len(first.splitlines()) == len(GAINS) + 2
  path = held_out[1] / "evaluations" / "continued.json"
  values = json.loads(path.read_text())
  values["held_out"]["gyms"]["travel"]["score"] = None
  path.write_text(json.dumps(values))
  comparison = compare.compare(held_out)
  assert set(arm.name for arm in comparison.arms) == set(GAINS)
  (note,) = comparison.notes
  assert "travel is held out and has no valid attempt of continued" in note
  assert "Held-out gyms" not in compare.table(comparison)
