"""Reports of experiments, from runs whose numbers are known."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import experiment_results
from userrl_jax import experiments
from userrl_jax import metrics
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import statistics
from userrl_jax import sweep_report
from userrl_jax import types

SEEDS = (0, 1, 2, 3, 4)
# arm -> score of every task, turns until it, what plain users add to it
ARMS = {
  "good": (0.6, 4, 0.1),
  "quick": (0.5, 2, 0.2),
  "poor": (0.3, 5, 0.1),
}
NUM_TASKS = 6
_test = experiments.Test
EXPERIMENT = experiments.Experiment(
  "Which is best?",
  arms=tuple(ARMS),
  tests=(
    _test("first", "good", "poor", is_primary=True),
    _test("second", "poor", "good"),
    _test("sooner", "quick", "good", "time_weighted"),
    _test("turns", "good", "quick", "turns"),
    _test("plain", "quick", "good", users="plain"),
    _test("within", "quick", "good", users="plain", margin=0.2),
  ),
  has_trade_off=True,
  ranks_of="good",
)


def _episode(gym, number, member, score, num_turns, profile=""):
  """Returns an episode that is paid in its last turn."""
  task = types.Task(
    gym, f"t{number}", "test", 1, "s", {}, types.Secret({"thing": "kite"})
  )
  turn = types.Turn("x", types.Action("action", "Is it big?"), "Yes.", 0.0)
  turn_ids = np.arange(num_turns, dtype=np.int32)
  return types.Trajectory(
    task=task,
    member=member,
    iteration=0,
    token_ids_T=np.zeros(num_turns, np.int32),
    logprobs_T=np.zeros(num_turns, np.float32),
    turn_ids_T=turn_ids,
    turns=(
      *[turn] * (num_turns - 1),
      types.Turn("x", types.Action("answer", "7"), "no", score),
    ),
    stop_reason=types.StopReason.TERMINATED,
    profile=profile,
  )


def _record(rewards, bits, choices, member, iteration):
  """Returns a training transcript of Telepathy with these turns."""
  turns = [
    {
      "reward": r,
      "num_tokens": 2,
      "fault": "ok",
      "action": {"choice": choice, "content": f"{b} {k}"},
      "observation": "Yes." * round(1 + 2 * b),
      "privileged": {"information_bits": b},
    }
    for k, (r, b, choice) in enumerate(zip(rewards, bits, choices, strict=True))
  ]
  return {
    **{"gym": "telepathy", "task": "t", "member": member, "valid": True},
    **{"iteration": iteration, "max_score": 1.0, "turns": turns},
  }


def _member(folder, arm, seed):
  """Writes a run of an arm; tasks and seeds add the same in all arms."""
  name = f"arm={arm},seed={seed}"
  score, num_turns, plain = ARMS[arm]
  config = config_lib.Config(seed=seed, stages=("grpo",))
  config.out_dir, config.grpo.credit.gamma = name, score
  made = folder / name
  (made / "evaluations").mkdir(parents=True)
  (made / "transcripts").mkdir()
  values = json.dumps(config_fields.to_dict(config))
  (made / "config.json").write_text(values)
  ease = np.random.default_rng(seed).uniform(0, 0.1, (2, NUM_TASKS))
  ease -= ease.mean(axis=1, keepdims=True)
  episodes = [
    _episode(
      gym,
      i,
      member,
      score + ease[g, i] + 0.02 * seed + more,
      num_turns,
      profile,
    )
    for g, gym in enumerate(("function", "travel"))
    for i in range(NUM_TASKS)
    for member, (profile, more) in enumerate(
      (("plain", plain), ("terse", -plain))
    )
  ]
  summary = scorecard.evaluation_summary(episodes, "grpo", 1.0, seed)
  summary["forgetting"] = {
    "perplexity_turns": 1.5 + 0.1 * seed,
    "perplexity_all": 20.0 + seed,
  }
  (made / "evaluations" / "grpo.json").write_text(json.dumps(summary))
  _write(made / "transcripts" / "evaluation_grpo.jsonl", map(_told, episodes))
  _write(
    made / "transcripts" / "grpo.jsonl",
    [
      # By r2g a turn has more credit the later it is: it tells the search from
      # questions, and ranks these the wrong way round.
      _record(
        [0.0, 0.0, 0.0, 1.0],
        [0.0, 1.0, 0.5, 0.0],
        ["search", "action", "action", "answer"],
        member,
        step,
      )
      for step in (0, 5)
      for member in (0, 1)
    ],
  )
  steps = [
    {
      **{"stage": "grpo", "step": step, "time/step_s": 15.0},
      **{"rollout/tokens_sampled": 2000, "score/macro": score + 0.1 * seed},
      **{"episode/num": 4.0, "episode/invalid_share": 0.25 * (step == 7)},
    }
    for step in range(8)
  ]
  steps[0]["score/macro"] = 0.0
  steps[5]["time/step_s"] = 1200.0  # it was paused
  _write(made / "metrics.jsonl", [*steps, {"stage": "grpo", "step": 7}])
  environment = {
    "command": f"python -m userrl_jax.train --config=x.py:{arm} --seed={seed}",
    "git": {"commit": "0123456789abcdef", "changed": False},
  }
  if arm == "poor":
    environment["resumed"] = [{"commit": "fedcba9876543210", "changed": True}]
  (made / "environment.json").write_text(json.dumps(environment))
  found = {"stage": "grpo", "step": 3, "name": "collapse", "message": "it fell"}
  lines = [json.dumps(found)] * (arm == "poor" and seed < 2)
  (made / "diagnostics.jsonl").write_text("\n".join(lines))
  return sweep_report.Member(name, f"arm={arm}", made, arm=arm)


def _told(episode):
  return metrics.trajectory_record(episode)


def _write(path, records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_members(folder):
  """Writes the runs of every arm and seed."""
  return [_member(folder, arm, seed) for arm in ARMS for seed in SEEDS]


@pytest.fixture(scope="module")
def members(tmp_path_factory):
  return make_members(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(members, tmp_path_factory):
  folder = tmp_path_factory.mktemp("report")
  page, text = sweep_report.write(folder, members, EXPERIMENT)
  return json.loads(page.with_suffix(".json").read_text()), text, page


def _rows(report, title):
  head, *rows = report[0]["sections"][title]
  return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_planned_tests_are_paired_by_task_and_seed(report):
  tests = {test["question"]: test for test in report[0]["tests"]}
  for question, mean in (
    ("first", 0.3),
    ("second", -0.3),
    ("turns", 2.0),
    ("plain", 0.0),
    # 0.6 / 4 and 0.5 / 2, and what seeds add, 0.04 on average, likewise.
    ("sooner", 0.54 / 2 - 0.64 / 4),
  ):
    test = tests[question]
    assert test["difference"]["mean"] == pytest.approx(mean, abs=1e-9)
    assert test["seeds"] == list(SEEDS)
    assert np.mean(test["of_seeds"]) == pytest.approx(mean, abs=1e-9)
  assert [tests[q]["verdict"] for q in tests] == [
    *("holds", "the contrary holds", "holds", "holds"),
    *("cannot be told", "holds"),
  ]


def test_tests_that_are_not_primary_share_a_level(report, members):
  tests = {test["question"]: test for test in report[0]["tests"]}
  assert tests["first"]["level"] == pytest.approx(0.95)
  assert tests["first"]["wide"] == [
    tests["first"]["difference"][end] for end in ("low", "high")
  ]
  sooner = tests["sooner"]
  assert sooner["level"] == pytest.approx(1 - 0.05 / 5)
  assert sooner["wide"][0] < sooner["difference"]["low"]
  runs = {
    arm: [
      experiment_results.result(run_folder.read(m.folder, 0), "grpo")
      for m in members
      if m.arm == arm
    ]
    for arm in ("quick", "good")
  }
  pairs = [
    tuple(experiment_results.measured(r, "time_weighted") for r in both)
    for both in zip(runs["good"], runs["quick"], strict=True)
  ]
  wide = statistics.paired_macro_difference(pairs, confidence=0.99)
  assert sooner["wide"] == [wide.low, wide.high]


def test_measures_of_transcripts_are_those_of_the_evaluation(members):
  for member in members[:1] + members[-1:]:
    run = run_folder.read(member.folder, 0)
    one = experiment_results.result(run, "grpo")
    averages = one.evaluation.averages["macro"]
    assert experiment_results.macro(one, "time_weighted") == pytest.approx(
      averages["time_weighted"]["mean"]
    )
    gyms = one.evaluation.gyms.values()
    turns = np.mean([gym.turns for gym in gyms])
    assert experiment_results.macro(one, "turns") == pytest.approx(turns)


def test_treatments_are_means_of_runs(report):
  rows = _rows(report, "Treatments")
  assert list(rows) == list(ARMS)
  for arm, (score, num_turns, _) in ARMS.items():
    row = rows[arm]
    assert float(row["score"]) == pytest.approx(score + 0.04, abs=6e-4)
    assert (row["runs"], float(row["turns"])) == ("5", num_turns)
    of_runs = [float(text) for text in row["of runs"].split()]
    assert of_runs == pytest.approx([score + 0.02 * s for s in SEEDS], abs=6e-4)
  assert [rows[arm]["found in training"] for arm in ARMS] == [
    *("", "", "collapse 2"),
  ]


def test_every_difference_is_told_both_ways(report):
  rows = _rows(report, "Every difference of scores")
  assert rows["good"]["poor"].startswith("+0.300 (+0.300 to ")
  assert rows["poor"]["good"].startswith("-0.300 (-0.300 to ")
  assert rows["good"]["good"] == ""


def test_training_is_told_by_quarters_and_drawn(report):
  rows = _rows(report, "Training")
  for arm, (score, _, _) in ARMS.items():
    row, mean = rows[arm], score + 0.1 * np.mean(SEEDS)
    assert float(row["quarter 1"]) == pytest.approx(mean / 2, abs=6e-4)
    assert float(row["quarter 4"]) == pytest.approx(mean, abs=6e-4)
    assert (row["minutes"], row["1000 tokens"]) == ("2.0", "16")
    assert row["invalid episodes"] == "5"  # one of each run
  assert "<title>good: 0.800 at the end</title>" in report[2].read_text()


def test_what_differs_is_told_field_by_field(report):
  rows = _rows(report, "What treatments differ in")
  assert rows["quick"] == {"treatment": "quick", "grpo.credit.gamma": "0.5"}


def test_users_make_a_matrix(report):
  rows = _rows(report, "Trained with, met")
  for arm, (score, _, plain) in ARMS.items():
    for profile, more in (("plain", plain), ("terse", -plain)):
      mean = float(rows[arm][profile].split()[0])
      assert mean == pytest.approx(score + 0.04 + more, abs=6e-4)


def test_the_front_has_what_nothing_beats_in_both(report):
  rows = _rows(report, "Turns against score")
  assert list(rows) == ["quick", "good", "poor"]  # by turns
  assert [row["on front"] for row in rows.values()] == ["yes", "yes", ""]
  page = report[2].read_text()
  assert "Score against turns" in page and ">quick</text>" in page


def test_credit_is_ranked_against_bits(report):
  head, *rows = report[0]["sections"]["Credit of turns and what they told"]
  found = {row[1]: row[2::2] for row in rows}
  assert head[2::2] == ["all turns", "questions alone"]
  # Credits rise, ranks of bits are 1, 3, 2; of questions alone 2, 1.
  assert list(map(float, found["r2g"])) == [0.5, -1.0]
  assert list(map(float, found["information"])) == [1.0, 1.0]
  assert found["em"] == found["naive"] == ["never varies"] * 2


def test_text_and_page_say_the_same(report):
  values, text, page = report
  for title in values["sections"]:
    assert f"## {title}" in text and f"<h2>{title}</h2>" in page.read_text()
  head = page.read_text().partition("<h2>")[0]
  assert (
    "<h1>Which is best?</h1>" in head and f"Sweep {page.parent.name}" in head
  )
  assert text.count("| holds |") == 4


def test_other_runs_stand_beside_and_are_in_no_test(report, members, tmp_path):
  names = {seed: f"arm=poor,seed={seed}" for seed in SEEDS}
  folder = members[0].folder.parent
  shutil.copytree(folder, tmp_path / "runs")
  elsewhere = tmp_path / "runs" / names[1]
  path = elsewhere / "evaluations" / "grpo.json"
  text = path.read_text()
  assert "t0" in text
  path.write_text(text.replace("t0", "other"))
  shutil.rmtree(tmp_path / "runs" / names[2])
  start = experiments.Beside(
    "start", f"{tmp_path}/runs/arm=poor,seed={{seed}}", "grpo"
  )
  experiment = dataclasses.replace(EXPERIMENT, beside=(start,))
  page, text = sweep_report.write(tmp_path, members, experiment)
  values = json.loads(page.with_suffix(".json").read_text())
  assert values["tests"] == report[0]["tests"]
  assert values["notes"] == [
    f"start: {elsewhere} was evaluated on other tasks",
    f"start: no grpo of {tmp_path / 'runs' / names[2]}",
  ]
  rows = _rows((values,), "Treatments")
  assert list(rows) == ["start", *ARMS] and rows["start"]["runs"] == "3"
  for row in rows["start"]["of runs"].split():
    assert row in rows["poor"]["of runs"].split()
  assert "in no test: start." in text
  # Paired with the same seeds: nothing, seed by seed.
  differences = _rows((values,), "Every difference of scores")
  assert differences["start"]["poor"] == "+0.000 (+0.000 to +0.000)"
  assert "start" in _rows((values,), "Trained with, met")
  for title in ("Turns against score", "What treatments differ in", "Training"):
    assert values["sections"][title] == report[0]["sections"][title]


def test_what_is_not_finished_is_told(members, tmp_path):
  last = members[-1]
  gone = [
    sweep_report.Member(last.name, last.cell, last.folder, "failed", last.arm)
  ]
  _, text = sweep_report.write(tmp_path, [*members[:5], *gone], EXPERIMENT)
  values = json.loads((tmp_path / "report.json").read_text())
  assert values["notes"] == [f"{last.name}: failed"]
  assert "difference" not in values["tests"][0] and "| no runs |" in text
  sweep_report.write(tmp_path, gone, EXPERIMENT)  # nothing at all is there


def test_another_grid_makes_the_usual_report(members, tmp_path):
  others = [
    sweep_report.Member(m.name, f"{m.cell},rate=1", m.folder, arm=m.arm)
    for m in members
  ]
  _, text = sweep_report.write(tmp_path, others, EXPERIMENT)
  assert text.startswith("| setting") and "Planned tests" not in text


RECIPE = """
from userrl_jax import config
from userrl_jax import experiments

EXPERIMENT = experiments.Experiment(
  "Which?", arms=("a", "b"), stages=("base", "grpo"),
  tests=(experiments.Test("one", {above!r}, "b base", {measure!r}),),
)


def get_config(arm="a"):
  return config.Config(seed=ord(arm))
"""


def test_a_recipe_brings_its_experiment(tmp_path):
  path = tmp_path / "recipe.py"
  path.write_text(RECIPE.format(above="a grpo", measure="turns"))
  argv = [f"--config={path}", "--config.seed=3"]
  found = experiments.of(argv)
  assert found.treatments == ["a base", "a grpo", "b base", "b grpo"]
  assert experiments.with_arm(argv, "b") == [f"{argv[0]}:b", argv[1]]
  assert experiments.of([f"{argv[0]}:a"]) is None  # that one arm is meant
  for above, measure, words in (
    ("grpo", "turns", "must name one of a base, a grpo, .* got 'grpo'"),
    ("a grpo", "haste", "a measure must be one of score, .* got 'haste'"),
  ):
    path.write_text(RECIPE.format(above=above, measure=measure))
    with pytest.raises(ValueError, match=words):
      experiments.of(argv)
  with pytest.raises(ValueError, match="given as --config=file.py"):
    experiments.with_arm(["--config", str(path)], "a")
