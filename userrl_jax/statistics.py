"""Turns numbers of episodes into estimates with honest intervals; numpy only.

In: scores by task, one for each attempt, None where an attempt was invalid.
Out: means with bootstrap intervals, paired differences and paired tests.

The task is the unit everywhere: attempts at one task share its difficulty, so
they are averaged first and tasks are what is resampled.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95

Scores = Sequence[float | None]  # of one task, one for each attempt
GymScores = Mapping[str, Mapping[str, Scores]]  # gym -> task id -> scores

TIE = 1e-9  # differences of a task closer to 0 than this are none

_MAX_DRAWS = 4_000_000  # resampled task places held at once
_MAX_EXACT = 14  # differences whose sign patterns are all counted


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean and its bootstrap interval."""

  mean: float
  low: float
  high: float
  num_tasks: int  # that the mean is over


def bootstrap_mean(
  scores_by_task: Mapping[str, Scores],
  *,
  seed: int = 0,
  num_resamples: int = NUM_RESAMPLES,
  confidence: float = CONFIDENCE,
) -> Interval:
  """Estimates the mean score with a percentile bootstrap over tasks.

  Method: average the valid attempts of each task; resample the N task means N
  at a time with replacement; the interval runs between the percentiles of
  the resampled means (Efron and Tibshirani 1993, chapter 13). Tasks are the
  clusters. Tasks without a valid attempt are left out. With one task the
  interval has no width, which tells nothing about its certainty.

  Args:
    scores_by_task: task id -> scores of its attempts, None when invalid.
    seed: of the resampling; equal input and seed give equal output.
    num_resamples: how many resampled means.
    confidence: mass of the interval, in (0, 1).

  Raises:
    ValueError: when no task has a valid attempt.
  """
  means = np.array(list(task_means(scores_by_task).values()))
  if not means.size:
    raise ValueError(
      "a mean needs at least one task with a valid attempt, got none of "
      f"{len(scores_by_task)}; look at the faults of the transcripts"
    )
  return _interval(means, seed, num_resamples, confidence)


def bootstrap_means(
  measures: Mapping[str, Mapping[str, Scores]],
  *,
  seed: int | tuple[int, ...] = 0,
  num_resamples: int = NUM_RESAMPLES,
) -> dict[str, tuple[float, np.ndarray]]:
  """Resamples the means of many measures of the same tasks at once.

  Method: that of `bootstrap_mean`. Measures that have the same tasks are
  resampled together, by how often each task was drawn, so that one more costs
  little and all see the same draws.

  Args:
    measures: name -> task id -> values of its attempts, None when invalid.
    seed: of the resampling.
    num_resamples: how many resampled means.

  Returns:
    Name -> (mean, [num_resamples] float64 resampled means); a measure without
    a value is left out.
  """
  means = {name: task_means(values) for name, values in measures.items()}
  together: dict[tuple[str, ...], list[str]] = {}
  for name, by_task in means.items():
    if by_task:
      together.setdefault(tuple(by_task), []).append(name)
  resampled = {}
  for tasks, names in together.items():
    values_NM = np.array([[means[n][task] for n in names] for task in tasks])
    drawn_RM = _resampled_columns(values_NM, seed, num_resamples)
    for place, name in enumerate(names):
      values = values_NM[:, place]
      resampled[name] = float(values.mean()), drawn_RM[:, place]
  return {name: resampled[name] for name in means if name in resampled}


def ends(
  resampled: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
  """Returns the percentiles between which an interval runs."""
  tail = (1 - confidence) / 2
  low, high = np.quantile(resampled, [tail, 1 - tail])
  return float(low), float(high)


def paired_difference(
  a_by_task: Mapping[str, Scores],
  b_by_task: Mapping[str, Scores],
  *,
  seed: int = 0,
  num_resamples: int = NUM_RESAMPLES,
  confidence: float = CONFIDENCE,
) -> Interval:
  """Estimates by how much `b` scores above `a` on the tasks both have.

  Method: for each task with a valid attempt on both sides, the difference of
  its mean scores, b minus a; then the bootstrap of `bootstrap_mean` over
  these differences. Pairing takes the tasks' difficulty out, so the interval
  is narrower than that of two separate means. A task that is invalid on one
  side is left out of both.

  Args:
    a_by_task: task id -> scores of the one compared with.
    b_by_task: task id -> scores of the one asked about.
    seed: as in `bootstrap_mean`, like the next two.
    num_resamples: how many resampled means.
    confidence: mass of the interval, in (0, 1).

  Raises:
    ValueError: when they share no task with valid attempts.
  """
  differences = _differences(a_by_task, b_by_task)
  return _interval(differences, seed, num_resamples, confidence)


def paired_macro_difference(
  runs: Sequence[tuple[GymScores, GymScores]],
  *,
  seed: int = 0,
  num_resamples: int = NUM_RESAMPLES,
  confidence: float = CONFIDENCE,
) -> Interval:
  """Estimates by how much `b` scores above `a`, as a mean over gyms.

  Method: differences by task as in `paired_difference`, averaged over the
  tasks of a gym, over gyms, over runs. The bootstrap has two levels: it draws
  runs with replacement, and for each draw the tasks of each gym. Runs drawn
  from n runs spread less than runs do, by (n-1)/n in variance, so with n > 1
  the interval is widened about the mean by sqrt(n / (n-1)).

  With one run the interval is of tasks only. Three runs tell little of their
  spread: simulated, an interval of 95% covers the truth in 97 of 100 cases
  when the means of runs spread as much as their tasks account for, and in 90
  when they spread twice as much on top of it. Five runs that spread three times
  as much as their tasks account for are covered in 89 of 100, and two of them,
  at 98.8%, in 87: where runs spread much more than tasks it is too narrow, and
  `student_t.interval` of the runs' means covers what it says.

  Args:
    runs: (a, b) of each run, each gym -> task id -> scores.
    seed: as in `bootstrap_mean`, like the next two.
    num_resamples: how many resampled means.
    confidence: mass of the interval, in (0, 1).

  Raises:
    ValueError: without runs, or when a gym shares no task between a and b.
  """
  if not runs:
    raise ValueError("a difference over runs needs at least one, got none")
  differences = []
  for a, b in runs:
    if a.keys() != b.keys() or not a:
      raise ValueError(
        f"a macro difference needs the same gyms on both sides, got "
        f"{sorted(a)} and {sorted(b)}"
      )
    differences.append([_differences(a[gym], b[gym]) for gym in sorted(a)])
  drawn = np.random.default_rng(seed).integers(
    len(runs), size=(num_resamples, len(runs))
  )
  places = np.arange(num_resamples)
  resampled = np.zeros(num_resamples)
  for slot in range(len(runs)):
    of_runs = [
      np.mean(
        [
          resampled_means(values, (seed, slot, run, gym), num_resamples)
          for gym, values in enumerate(gyms)
        ],
        axis=0,
      )
      for run, gyms in enumerate(differences)
    ]
    resampled += np.stack(of_runs)[drawn[:, slot], places] / len(runs)
  mean = np.mean([np.mean([v.mean() for v in gyms]) for gyms in differences])
  tail = (1 - confidence) / 2
  ends = np.quantile(resampled, [tail, 1 - tail])
  widening = np.sqrt(len(runs) / (len(runs) - 1)) if len(runs) > 1 else 1.0
  low, high = mean + (ends - mean) * widening
  num_tasks = sum(values.size for gyms in differences for values in gyms)
  return Interval(float(mean), float(low), float(high), num_tasks)


@dataclasses.dataclass(frozen=True)
class PairedTest:
  """By how much b is above a on the same tasks, and how sure that is."""

  difference: Interval  # b minus a
  num_better: int  # tasks on which b is above a
  num_worse: int
  num_equal: int
  sign_p: float
  permutation_p: float


def paired_test(
  a_by_task: Mapping[str, Scores],
  b_by_task: Mapping[str, Scores],
  *,
  seed: int = 0,
  num_resamples: int = NUM_RESAMPLES,
) -> PairedTest:
  """Tests whether b differs from a on the same tasks and attempts.

  Method: of each attempt that is valid on both sides, b minus a, averaged over
  the attempts of a task; of these N differences the bootstrap interval, and
  the p of `sign_test` and `permutation_test`. Only tasks that both have count.

  Raises:
    ValueError: when they share no valid attempt, or a shared task has another
      number of attempts.
  """
  by_task: dict[str, Scores] = {}
  for task in sorted(a_by_task.keys() & b_by_task.keys()):
    a, b = a_by_task[task], b_by_task[task]
    if len(a) != len(b):
      raise ValueError(
        f"a paired test needs the same attempts on both sides, got {len(a)} "
        f"and {len(b)} at {task}; evaluate both with one num_attempts"
      )
    by_task[task] = [
      None if x is None or y is None else y - x for x, y in zip(a, b)
    ]
  values = np.array(list(task_means(by_task).values()))
  if not values.size:
    raise ValueError(
      "a paired test needs attempts that are valid on both sides, got none in "
      f"{len(by_task)} common tasks; evaluate both on the same tasks"
    )
  num_better = int((values > TIE).sum())
  num_worse = int((values < -TIE).sum())
  return PairedTest(
    _interval(values, seed, num_resamples, CONFIDENCE),
    num_better,
    num_worse,
    values.size - num_better - num_worse,
    sign_test(num_better, num_worse),
    permutation_test(values, seed=seed, num_resamples=num_resamples),
  )


def sign_test(num_better: int, num_worse: int) -> float:
  """Computes the exact two-sided p of the sign test; ties are left out.

  p = min(1, 2 sum_(i <= min(b, w)) C(b + w, i) / 2^(b + w)): how likely so
  uneven a split is when better and worse are a toss of a coin (Conover 1999,
  section 3.4). Example: 7 better and 1 worse give 2 (1 + 8) / 256 = 0.0703.
  """
  n, fewer = num_better + num_worse, min(num_better, num_worse)
  tail = sum(math.comb(n, i) for i in range(fewer + 1))
  return min(1.0, 2 * tail / 2**n)


def permutation_test(
  differences: np.ndarray,
  *,
  seed: int = 0,
  num_resamples: int = NUM_RESAMPLES,
) -> float:
  """Computes the two-sided p of the sign-flip permutation test of a mean.

  If a and b were the same, each task's difference had either sign: p is the
  share of sign patterns whose sum is at least as far from 0 as the one seen
  (Good 2005, section 3.2). Of up to 14 differences that are not 0 all patterns
  are counted, and p is exact; of more, `num_resamples` are drawn, and
  p = (1 + hits) / (1 + draws). Example: differences 1, 1, 1 give 2 / 8.

  Args:
    differences: [N] one for each task.
    seed: of drawn patterns.
    num_resamples: how many are drawn.
  """
  values = differences[np.abs(differences) > TIE]
  if not values.size:
    return 1.0
  least = abs(values.sum()) - TIE * values.size
  if values.size <= _MAX_EXACT:
    bits = np.arange(2**values.size)[:, None] >> np.arange(values.size) & 1
    return float((np.abs((2 * bits - 1) @ values) >= least).mean())
  generator = np.random.default_rng(seed)
  rows, hits = max(1, _MAX_DRAWS // values.size), 0
  for start in range(0, num_resamples, rows):
    shape = (min(rows, num_resamples - start), values.size)
    signs = 2 * generator.integers(2, size=shape) - 1
    hits += int((np.abs(signs @ values) >= least).sum())
  return (1 + hits) / (1 + num_resamples)


def _differences(
  a_by_task: Mapping[str, Scores], b_by_task: Mapping[str, Scores]
) -> np.ndarray:
  """Returns [N] float64, b minus a of every task that is valid in both."""
  a, b = task_means(a_by_task), task_means(b_by_task)
  differences = np.array([b[task] - a[task] for task in a if task in b])
  if not differences.size:
    raise ValueError(
      "a paired difference needs tasks with valid attempts on both sides, got "
      f"{len(a)} and {len(b)} tasks and none in common; evaluate both on the "
      "same tasks"
    )
  return differences


def task_means(scores_by_task: Mapping[str, Scores]) -> dict[str, float]:
  """Returns task id -> mean of its valid scores, sorted, empty tasks left out.

  Sorted, so that the order of the input changes no interval.
  """
  valid = {
    task: [score for score in scores if score is not None]
    for task, scores in scores_by_task.items()
  }
  return {
    task: float(np.mean(valid[task])) for task in sorted(valid) if valid[task]
  }


def _interval(
  values: np.ndarray, seed: int, num_resamples: int, confidence: float
) -> Interval:
  resampled = resampled_means(values, seed, num_resamples)
  tail = (1 - confidence) / 2
  low, high = np.quantile(resampled, [tail, 1 - tail])
  return Interval(float(values.mean()), float(low), float(high), values.size)


def resampled_means(
  values: np.ndarray,
  seed: int | tuple[int, ...],
  num_resamples: int = NUM_RESAMPLES,
) -> np.ndarray:
  """Returns [num_resamples] float64, means of values drawn with replacement."""
  generator = np.random.default_rng(seed)
  rows = max(1, _MAX_DRAWS // values.size)
  parts = []
  for start in range(0, num_resamples, rows):
    shape = (min(rows, num_resamples - start), values.size)
    parts.append(values[generator.integers(values.size, size=shape)].mean(1))
  return np.concatenate(parts)


def _resampled_columns(
  values_NM: np.ndarray, seed: int | tuple[int, ...], num_resamples: int
) -> np.ndarray:
  """Returns [num_resamples, M], the same draws for each of M columns."""
  generator = np.random.default_rng(seed)
  N = len(values_NM)
  rows = max(1, _MAX_DRAWS // N)
  parts = []
  for start in range(0, num_resamples, rows):
    num = min(rows, num_resamples - start)
    places = generator.integers(N, size=(num, N)) + N * np.arange(num)[:, None]
    counts = np.bincount(places.ravel(), minlength=num * N).reshape(num, N)
    parts.append(counts @ values_NM / N)
  return np.concatenate(parts)
