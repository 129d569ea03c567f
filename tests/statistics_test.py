"""Intervals and paired tests against brute force, and coverage."""

import itertools

import numpy as np
import pytest

from userrl_jax import statistics
from userrl_jax import student_t


def naive_bootstrap(values, seed, num_resamples, confidence):
  """Resamples one mean at a time, from the same stream of random places."""
  generator = np.random.default_rng(seed)
  places = generator.integers(len(values), size=(num_resamples, len(values)))
  means = sorted(sum(values[i] for i in row) / len(values) for row in places)
  tail = (1 - confidence) / 2
  ends = quantile(means, tail), quantile(means, 1 - tail)
  return sum(values) / len(values), *ends


def quantile(ordered, q):
  """Returns a quantile, linear between the two nearest values."""
  place = q * (len(ordered) - 1)
  below = int(place)
  above = min(below + 1, len(ordered) - 1)
  return ordered[below] + (place - below) * (ordered[above] - ordered[below])


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


def naive_macro_difference(runs, seed, num_resamples, confidence):
  """Draws runs, and for each draw tasks gym by gym, one loop a level."""
  n = len(runs)
  drawn = np.random.default_rng(seed).integers(n, size=(num_resamples, n))
  differences = [
    [
      [
        sum(b[gym][task]) / len(b[gym][task])
        - sum(a[gym][task]) / len(a[gym][task])
        for task in sorted(a[gym])
      ]
      for gym in sorted(a)
    ]
    for a, b in runs
  ]

  def places(slot, run, gym):
    num = len(differences[run][gym])
    generator = np.random.default_rng((seed, slot, run, gym))
    return generator.integers(num, size=(num_resamples, num))

  tasks = {
    (slot, run, gym): places(slot, run, gym)
    for slot in range(n)
    for run in range(n)
    for gym in range(len(differences[run]))
  }
  means = []
  for resample in range(num_resamples):
    of_runs = []
    for slot in range(n):
      run = drawn[resample][slot]
      of_gyms = []
      for gym, values in enumerate(differences[run]):
        row = tasks[slot, run, gym][resample]
        of_gyms.append(sum(values[i] for i in row) / len(row))
      of_runs.append(sum(of_gyms) / len(of_gyms))
    means.append(sum(of_runs) / n)
  of_runs = [sum(sum(v) / len(v) for v in gyms) / 2 for gyms in differences]
  mean = sum(of_runs) / n
  wider = (n / (n - 1)) ** 0.5 if n > 1 else 1.0
  tail = (1 - confidence) / 2
  ends = [quantile(sorted(means), q) for q in (tail, 1 - tail)]
  return mean, *(mean + (end - mean) * wider for end in ends)


@pytest.mark.parametrize("num_runs", [1, 2, 3])
@pytest.mark.parametrize("confidence", [0.95, 0.994])
def test_macro_difference_agrees_with_brute_force(num_runs, confidence):
  rng = np.random.default_rng(num_runs)
  scores = lambda: {
    gym: {f"t{i:02}": rng.random(2).tolist() for i in range(num)}
    for gym, num in (("travel", 5), ("function", 9))
  }
  runs = [(scores(), scores()) for _ in range(num_runs)]
  got = statistics.paired_macro_difference(
    runs, seed=6, num_resamples=300, confidence=confidence
  )
  want = naive_macro_difference(runs, 6, 300, confidence)
  np.testing.assert_allclose(
    [got.mean, got.low, got.high], want, rtol=0, atol=1e-9
  )
  assert got.num_tasks == 14 * num_runs


def test_macro_difference_of_five_runs_covers_at_the_level_of_verdicts():
  """That of eight tests that share 5%, runs spreading as their tasks do."""
  rng = np.random.default_rng(3)
  tasks = [f"t{i}" for i in range(30)]
  before = {t: [0.0] for t in tasks}
  hits = 0
  for trial in range(200):
    runs = []
    for _ in range(5):
      after = rng.normal(rng.normal(0.1, 0.09), 0.5, len(tasks))
      rows = {t: [x] for t, x in zip(tasks, after.tolist(), strict=True)}
      runs.append(({"f": before}, {"f": rows}))
    got = statistics.paired_macro_difference(
      runs, seed=trial, num_resamples=1000, confidence=0.994
    )
    hits += got.low <= 0.1 <= got.high
  assert hits / 200 >= 0.98
  # It is no wider than such certainty asks for: t with 4 degrees of freedom.
  spread = (0.09**2 + 0.5**2 / len(tasks)) ** 0.5 / 5**0.5
  assert (got.high - got.low) / 2 < 5.2 * spread


@pytest.mark.parametrize(
  ("num_runs", "confidence", "covered"), [(5, 0.95, 0.89), (2, 0.988, 0.87)]
)
def test_macro_difference_is_too_narrow_where_runs_spread(
  num_runs, confidence, covered
):
  """By 3 times what their tasks account for; t of their means is not."""
  rng = np.random.default_rng(5)
  tasks = [f"t{i}" for i in range(30)]
  before = {t: [0.0] for t in tasks}
  hits, hits_of_t = 0, 0
  for trial in range(400):
    runs, means = [], []
    for _ in range(num_runs):
      spread = 3 * 0.5 / len(tasks) ** 0.5
      after = rng.normal(rng.normal(0.1, spread), 0.5, len(tasks))
      means.append(float(after.mean()))
      rows = {t: [x] for t, x in zip(tasks, after.tolist(), strict=True)}
      runs.append(({"f": before}, {"f": rows}))
    got = statistics.paired_macro_difference(
      runs, seed=trial, num_resamples=500, confidence=confidence
    )
    hits += got.low <= 0.1 <= got.high
    low, high = student_t.interval(means, confidence)
    hits_of_t += low <= 0.1 <= high
  assert hits / 400 == pytest.approx(covered, abs=0.045)
  assert hits_of_t / 400 == pytest.approx(confidence, abs=0.03)


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


def test_many_measures_are_resampled_as_one_is():
  rng = np.random.default_rng(1)
  values = lambda tasks: {f"t{i:02}": rng.random(2).tolist() for i in tasks}
  measures = {
    "a": values(range(9)),
    "b": values(range(9)),
    "none": {"x": [None]},
  }
  measures["fewer"] = {**values(range(7)), "t07": [None, None]}
  got = statistics.bootstrap_means(measures, seed=3, num_resamples=400)
  assert list(got) == ["a", "b", "fewer"]
  for name, (mean, resampled) in got.items():
    means = [sum(v) / 2 for v in measures[name].values() if None not in v]
    want = naive_bootstrap(means, 3, 400, 0.95)
    assert (mean, *statistics.ends(resampled)) == pytest.approx(want, abs=1e-9)


def naive_sign_p(differences):
  """Counts every pattern of signs, one at a time."""
  signs = [d > 0 for d in differences if d]
  uneven = lambda pattern: abs(2 * sum(pattern) - len(pattern))
  patterns = list(itertools.product((0, 1), repeat=len(signs)))
  return sum(uneven(p) >= uneven(signs) for p in patterns) / len(patterns)


def naive_permutation_p(differences):
  seen = abs(sum(differences))
  patterns = list(itertools.product((-1, 1), repeat=len(differences)))
  sums = [abs(sum(s * d for s, d in zip(p, differences))) for p in patterns]
  return sum(x >= seen - 1e-9 for x in sums) / len(patterns)


@pytest.mark.parametrize("seed", range(12))
def test_paired_tests_agree_with_brute_force(seed):
  rng = np.random.default_rng(seed)
  tasks = [f"t{i:02}" for i in range(rng.integers(1, 11))]
  draw = lambda: {t: (rng.integers(0, 4, 2) / 4).tolist() for t in tasks}
  a, b = draw(), draw()
  a[tasks[-1]][0] = None  # of the pair only the other attempt counts
  got = statistics.paired_test(a, b, seed=seed, num_resamples=200)
  differences = [
    float(np.mean([y - x for x, y in zip(a[t], b[t]) if x is not None]))
    for t in tasks
  ]
  interval = got.difference
  assert (interval.mean, interval.low, interval.high) == pytest.approx(
    naive_bootstrap(differences, seed, 200, 0.95), abs=1e-9
  )
  assert got.num_better == sum(d > 0 for d in differences)
  assert got.num_worse == sum(d < 0 for d in differences)
  assert got.num_better + got.num_worse + got.num_equal == len(tasks)
  assert got.sign_p == pytest.approx(naive_sign_p(differences), abs=1e-9)
  assert got.permutation_p == pytest.approx(
    naive_permutation_p(differences), abs=1e-9
  )


def test_paired_tests_by_hand():
  assert statistics.sign_test(7, 1) == pytest.approx(18 / 256, abs=1e-9)
  assert statistics.sign_test(0, 0) == statistics.sign_test(3, 3) == 1.0
  ones = np.ones(3)
  assert statistics.permutation_test(ones) == 2 / 8
  assert statistics.permutation_test(np.zeros(4)) == 1.0
  with pytest.raises(ValueError, match="got 1 and 2 at x"):
    statistics.paired_test({"x": [1.0]}, {"x": [1.0, 0.0]})
  with pytest.raises(ValueError, match="none in 1 common"):
    statistics.paired_test({"x": [None], "y": [1.0]}, {"x": [1.0]})


def test_drawn_sign_patterns_are_near_the_exact_p(monkeypatch):
  values = np.random.default_rng(5).normal(0.4, 1.0, 12)
  exact = statistics.permutation_test(values)
  monkeypatch.setattr(statistics, "_MAX_EXACT", 3)
  drawn = statistics.permutation_test(values, seed=1)
  assert drawn != exact
  assert drawn == pytest.approx(exact, abs=4 * (exact / 10_000) ** 0.5)
  monkeypatch.setattr(statistics, "_MAX_DRAWS", 12 * 7)
  assert statistics.permutation_test(values, seed=1) == drawn


def test_a_test_without_effect_is_rarely_sure():
  rng = np.random.default_rng(11)
  ps = [statistics.permutation_test(rng.normal(0, 1, 10)) for _ in range(400)]
  assert 0.02 < np.mean(np.array(ps) <= 0.05) < 0.085
