"""Intervals against brute force, hand-worked summaries, and coverage."""

import json

import numpy as np
import pytest

from userrl_jax import statistics
from userrl_jax import types


def make_trajectory(
  task_id: str,
  rewards: list[float],
  member: int = 0,
  fault: types.Fault = types.Fault.OK,
  gym: str = "function",
  info: dict | None = None,
  split: str = "test",
  max_score: float = 1.0,
) -> types.Trajectory:
  task = types.Task(gym, task_id, split, 1, "s", {}, types.Secret({}))
  turns = tuple(
    types.Turn("x", types.Action("answer", "1"), "no", r, info=info or {})
    for r in rewards
  )
  return types.Trajectory(
    task=task,
    member=member,
    iteration=0,
    token_ids_T=np.zeros(0, np.int32),
    logprobs_T=np.zeros(0, np.float32),
    turn_ids_T=np.zeros(0, np.int32),
    turns=turns,
    stop_reason=types.StopReason.TERMINATED,
    fault=fault,
    max_score=max_score,
  )


def naive_bootstrap(values, seed, num_resamples, confidence):
  """Resamples one mean at a time, from the same stream of random places."""
  generator = np.random.default_rng(seed)
  places = generator.integers(len(values), size=(num_resamples, len(values)))
  means = sorted(sum(values[i] for i in row) / len(values) for row in places)

  def quantile(q):  # linear between the two nearest
    place = q * (len(means) - 1)
    below = int(place)
    above = min(below + 1, len(means) - 1)
    return means[below] + (place - below) * (means[above] - means[below])

  tail = (1 - confidence) / 2
  return sum(values) / len(values), quantile(tail), quantile(1 - tail)


def test_bootstrap_agrees_with_brute_force():
  rng = np.random.default_rng(0)
  scores = {f"t{i:02}": rng.random(3).tolist() for i in range(17)}
  got = statistics.bootstrap_mean(
    scores, seed=5, num_resamples=500, confidence=0.9
  )
  values = [sum(s) / 3 for s in scores.values()]
  want = naive_bootstrap(values, 5, 500, 0.9)
  np.testing.assert_allclose([got.mean, got.low, got.high], want, atol=1e-12)
  assert got.num_tasks == 17


def test_resampling_in_parts_is_the_same(monkeypatch):
  scores = {f"t{i:02}": [float(i % 3)] for i in range(23)}
  whole = statistics.bootstrap_mean(scores, seed=1, num_resamples=100)
  monkeypatch.setattr(statistics, "_MAX_DRAWS", 23 * 7)
  assert statistics.bootstrap_mean(scores, seed=1, num_resamples=100) == whole


def test_attempts_of_a_task_are_one_cluster():
  once = {f"t{i}": [float(i % 2)] for i in range(20)}
  often = {task: scores * 50 for task, scores in once.items()}
  a = statistics.bootstrap_mean(once, seed=0)
  b = statistics.bootstrap_mean(often, seed=0)
  assert (a.low, a.high) == (b.low, b.high)
  assert a.low < 0.35 and a.high > 0.65


def test_invalid_attempts_and_order_do_not_count():
  a = {"x": [1.0, None], "y": [None], "z": [0.0, 0.5]}
  got = statistics.bootstrap_mean(a, seed=3)
  assert got.mean == pytest.approx((1.0 + 0.25) / 2)
  assert got.num_tasks == 2
  assert statistics.bootstrap_mean({"z": [0.0, 0.5], "x": [1.0]}, seed=3) == got
  with pytest.raises(ValueError, match="none of 1"):
    statistics.bootstrap_mean({"y": [None]})


def test_interval_covers_the_truth_about_as_often_as_it_says():
  rng = np.random.default_rng(7)
  hits = 0
  for trial in range(200):
    scores = {f"t{i}": [float(x)] for i, x in enumerate(rng.random(60) < 0.3)}
    got = statistics.bootstrap_mean(scores, seed=trial, num_resamples=500)
    hits += got.low <= 0.3 <= got.high
  assert 0.88 <= hits / 200 <= 0.99


def test_paired_difference_is_b_minus_a_and_narrower():
  rng = np.random.default_rng(2)
  hard = {f"t{i}": [float(x)] for i, x in enumerate(rng.random(40))}
  better = {task: [s[0] + 0.1] for task, s in hard.items()}
  got = statistics.paired_difference(hard, better, seed=0)
  assert (got.mean, got.low, got.high) == pytest.approx((0.1, 0.1, 0.1))
  back = statistics.paired_difference(better, hard, seed=0)
  assert back.mean == pytest.approx(-0.1)
  partial = {"t1": [1.0], "t2": [None], "elsewhere": [0.0]}
  assert statistics.paired_difference(hard, partial).num_tasks == 1
  with pytest.raises(ValueError, match="none in common"):
    statistics.paired_difference(hard, {"elsewhere": [0.0]})


def test_paired_difference_agrees_with_brute_force():
  rng = np.random.default_rng(4)
  a = {f"t{i:02}": rng.random(2).tolist() for i in range(11)}
  b = {f"t{i:02}": rng.random(3).tolist() for i in range(11)}
  got = statistics.paired_difference(a, b, seed=8, num_resamples=300)
  values = [sum(b[t]) / 3 - sum(a[t]) / 2 for t in a]
  want = naive_bootstrap(values, 8, 300, 0.95)
  np.testing.assert_allclose([got.mean, got.low, got.high], want, atol=1e-12)


def test_summary_of_hand_worked_episodes():
  invalid = types.Fault.USER_TIMEOUT
  summary = statistics.evaluation_summary(
    [
      make_trajectory("b", [0.0, 0.0, 0.0], member=1),
      make_trajectory("b", [0.25, 0.25], member=0),
      make_trajectory("a", [0.0, 1.0], member=0),
      make_trajectory("a", [], member=1, fault=invalid),
    ],
    stage="grpo",
    temperature=1,
    seed=0,
  )
  gym = summary["gyms"]["function"]
  assert gym["scores_by_task"] == {"a": [1.0, None], "b": [0.5, 0.0]}
  assert gym["score"] == pytest.approx((1.0 + 0.25) / 2)
  assert gym["score_if_invalid_0"] == pytest.approx((0.5 + 0.25) / 2)
  assert gym["score_if_invalid_1"] == pytest.approx((1.0 + 0.25) / 2)
  assert gym["success"] == pytest.approx((1.0 + 0.0) / 2)
  assert gym["turns"] == pytest.approx((2 + 3 + 2) / 3)
  assert (gym["num_tasks"], gym["num_attempts"], gym["invalid"]) == (2, 4, 1)
  assert summary["macro"] == {k: gym[k] for k in ("score", "low", "high")}
  text = json.dumps(summary, allow_nan=False)
  again = statistics.Evaluation.from_dict(json.loads(text))
  assert again.to_dict() == summary
  assert again.gyms["function"].invalid == 1


def test_summary_of_two_gyms_and_of_a_dead_one():
  alive = [
    make_trajectory(f"t{i}", [float(i % 2)], gym=gym)
    for gym in ("function", "travel")
    for i in range(30)
  ]
  summary = statistics.evaluation_summary(alive, "base", 1.0, seed=0)
  macro, one = summary["macro"], summary["gyms"]["function"]
  assert macro["score"] == pytest.approx(0.5)
  # Two independent gyms of equal spread: narrower by sqrt(2).
  ratio = (one["high"] - one["low"]) / (macro["high"] - macro["low"])
  assert 1.2 < ratio < 1.7
  dead = make_trajectory("x", [], fault=types.Fault.GYM_ERROR, gym="tau")
  summary = statistics.evaluation_summary([*alive, dead], "s", 1.0, 0)
  assert summary["gyms"]["tau"]["score"] is None
  assert summary["gyms"]["tau"]["score_if_invalid_1"] == 1.0
  assert summary["macro"]["score"] is None


def test_splits_are_also_summarised_apart():
  summary = statistics.evaluation_summary(
    [
      make_trajectory("a", [1.0], split="fresh"),
      make_trajectory("b", [0.0], split="fresh"),
      make_trajectory("c", [0.25]),
      make_trajectory("d", [3.0], gym="travel", max_score=4.0),
    ],
    "grpo",
    1.0,
    seed=0,
  )
  score = lambda gyms: {name: gym["score"] for name, gym in gyms.items()}
  assert score(summary["splits"]["fresh"]) == {"function": 0.5}
  assert score(summary["splits"]["test"]) == {"function": 0.25, "travel": 0.75}
  assert score(summary["gyms"]) == {
    "function": pytest.approx(1.25 / 3),
    "travel": 0.75,
  }
  again = statistics.Evaluation.from_dict(json.loads(json.dumps(summary)))
  assert again.to_dict() == summary
  assert again.scores["travel"] == {"d": [0.75]}
  assert again.split_scores("fresh") == {"function": {"a": [1.0], "b": [0.0]}}


def test_macro_difference_weighs_gyms_and_runs_equally():
  many = {f"t{i}": [0.0] for i in range(9)}
  few = {"x": [0.5], "y": [0.5]}
  risen = {task: [0.3] for task in many}
  one = ({"f": many, "t": few}, {"f": risen, "t": few})
  got = statistics.paired_macro_difference([one])
  assert (got.mean, got.low, got.high) == pytest.approx((0.15, 0.15, 0.15))
  assert got.num_tasks == 11
  other = ({"f": many, "t": few}, {"f": many, "t": few})
  got = statistics.paired_macro_difference([one, other])
  # Two runs: wider than from the one to the other, by sqrt(2).
  assert (got.mean, got.low, got.high) == pytest.approx(
    (0.075, 0.075 - 0.075 * 2**0.5, 0.075 + 0.075 * 2**0.5)
  )
  with pytest.raises(ValueError, match="same gyms"):
    statistics.paired_macro_difference([({"f": many}, {"t": few})])
  with pytest.raises(ValueError, match="got none"):
    statistics.paired_macro_difference([])


def test_macro_difference_has_the_spread_of_tasks_and_of_runs():
  rng = np.random.default_rng(0)

  def run(shift):
    a = {f"t{i}": [0.0] for i in range(100)}
    return {"f": a}, {"f": {t: [rng.normal(shift, 0.5)] for t in a}}

  width = lambda runs: (
    (got := statistics.paired_macro_difference(runs)).high - got.low
  )
  # The spread of 100 tasks alone: 3.92 standard errors.
  assert width([run(0.2)]) == pytest.approx(3.92 * 0.05, rel=0.25)
  same = width([run(0.2) for _ in range(4)])
  assert same == pytest.approx(3.92 * 0.025, rel=0.6)
  assert width([run(shift) for shift in (0.0, 0.2, 0.4, 0.6)]) > 2 * same


def test_macro_difference_of_three_runs_covers_the_truth():
  rng = np.random.default_rng(1)
  before = {f"t{i}": [0.0] for i in range(50)}
  hits = 0
  for trial in range(300):
    runs = []
    for _ in range(3):
      # The tasks' own spread leaves 0.07 to a run's mean; runs add 0.1.
      after = rng.normal(rng.normal(0.1, 0.1), 0.5, 50)
      rows = {t: [x] for t, x in zip(before, after.tolist(), strict=True)}
      runs.append(({"f": before}, {"f": rows}))
    got = statistics.paired_macro_difference(
      runs, seed=trial, num_resamples=400
    )
    hits += got.low <= 0.1 <= got.high
  assert 0.91 <= hits / 300 <= 0.99


def test_success_is_the_gyms_word_else_a_full_reward():
  assert statistics.is_success(make_trajectory("a", [0.4, 0.6]))
  assert not statistics.is_success(make_trajectory("a", [0.4, 0.5]))
  said = make_trajectory("a", [0.1], info={"success": True})
  assert statistics.is_success(said)
  denied = make_trajectory("a", [1.0], info={"success": False})
  assert not statistics.is_success(denied)
  assert not statistics.is_success(make_trajectory("a", []))


def test_summary_errors():
  with pytest.raises(ValueError, match="got none"):
    statistics.evaluation_summary([], "base", 1.0, 0)
  twice = [make_trajectory("a", [1.0]), make_trajectory("a", [0.0])]
  with pytest.raises(ValueError, match="0 twice for function/a"):
    statistics.evaluation_summary(twice, "base", 1.0, 0)
  with pytest.raises(ValueError, match="fields of Evaluation"):
    statistics.Evaluation.from_dict({"stage": "base"})
