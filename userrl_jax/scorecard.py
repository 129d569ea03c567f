"""Summarises the episodes of an evaluation, by gym, by split and over gyms.

In: finished trajectories. Out: what `evaluations/<stage>.json` holds: scores
with intervals, every measure of `measures`, counts of faults and stops, and
averages over gyms. Invalid attempts are left out and counted. Gyms that are
never trained on are a group of their own and in no number of the others, but
for the averages over all gyms, which are named so.
"""

import collections
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from userrl_jax import measures
from userrl_jax import statistics
from userrl_jax import types

Tasks = Mapping[str, Sequence[types.Trajectory]]  # task id -> its attempts
# A measure's mean, low and high, and num_tasks or the gyms that it is over.
Estimate = Mapping[str, Any]

MEAN, MEAN_HELD_OUT = "mean of gyms", "mean of held-out gyms"
MEAN_OF_ALL = "mean of all gyms"

_empty = functools.partial(dataclasses.field, default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GymEvaluation:
  """What one gym's episodes came to. None: no valid attempt to tell from."""

  score: float | None  # mean over tasks of the mean score of valid attempts
  low: float | None
  high: float | None
  success: float | None  # share of solved attempts, averaged like the score
  num_tasks: int
  num_attempts: int  # of all tasks together, invalid ones included
  turns: float | None  # a valid attempt
  invalid: int  # attempts left out of every number above
  score_if_invalid_0: float  # bounds: the score had they all failed
  score_if_invalid_1: float  # or all succeeded
  scores_by_task: Mapping[str, statistics.Scores]
  success_by_task: Mapping[str, statistics.Scores] = _empty()
  # Every measure of `measures`, and pass@k and pass^k: mean, low, high,
  # num_tasks, like the score. What is not defined for the gym is left out.
  measures: Mapping[str, Estimate] = _empty()
  faults: Mapping[str, int] = _empty()  # kind -> count, where it occurred
  stops: Mapping[str, int] = _empty()  # reason -> episodes, where it occurred


class _ScoresByTask:
  gyms: Mapping[str, GymEvaluation]
  splits: Mapping[str, Mapping[str, GymEvaluation]]

  @property
  def scores(self) -> statistics.GymScores:
    """Returns the scores of every gym by task."""
    return _scores(self.gyms)

  def split_scores(self, split: str) -> statistics.GymScores:
    """Returns the same of the tasks of one split alone."""
    return _scores(self.splits[split])


@dataclasses.dataclass(frozen=True)
class HeldOut(_ScoresByTask):
  """What the gyms that are never trained on came to, as in `Evaluation`."""

  gyms: Mapping[str, GymEvaluation]
  macro: Mapping[str, float | None]
  splits: Mapping[str, Mapping[str, GymEvaluation]]
  averages: Mapping[str, Mapping[str, Estimate]]


@dataclasses.dataclass(frozen=True)
class Evaluation(_ScoresByTask):
  """What `evaluations/<stage>.json` holds."""

  stage: str
  temperature: float
  gyms: Mapping[str, GymEvaluation]  # over the tasks of all splits
  macro: Mapping[str, float | None]  # score, low, high: mean over gyms
  # Split -> gym -> the same of that split's tasks alone: fresh tasks are of
  # structures that training has, test tasks are not.
  splits: Mapping[str, Mapping[str, GymEvaluation]]
  # "macro" (mean over gyms) and "micro" (by the paper's weights) -> measure ->
  # mean, low, high, and the gyms that it is over.
  averages: Mapping[str, Mapping[str, Estimate]] = _empty()
  # What was evaluated: digests of model, user, tasks and config.
  pins: Mapping[str, Any] = _empty()
  forgetting: Mapping[str, float] = _empty()  # see `forgetting.check`
  # Profile of the users -> gym -> the same of the episodes with them alone,
  # held-out gyms included.
  profiles: Mapping[str, Mapping[str, GymEvaluation]] = _empty()
  held_out: HeldOut | None = None  # gyms that nothing above is over
  # With held-out gyms: `averages` over these and the others together, "micro"
  # only where they are all of the paper.
  overall: Mapping[str, Mapping[str, Estimate]] = _empty()

  def to_dict(self) -> dict[str, Any]:
    """Returns it as JSON-able dicts; what came later only where it is there."""
    values = dataclasses.asdict(self)
    for name in ("held_out", "profiles", "overall"):
      if not values[name]:
        del values[name]
    return values

  @property
  def groups(self) -> list[tuple["Evaluation | HeldOut", str, str]]:
    """Returns what `groups` does of this evaluation."""
    return groups(self, self.held_out)

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> "Evaluation":
    """Reads what `to_dict` made.

    Raises:
      ValueError: when a field is missing or unknown.
    """
    try:
      values = _with_gyms(values)
      if values.get("held_out"):
        values["held_out"] = HeldOut(**_with_gyms(values["held_out"]))
      of_profiles = values.get("profiles") or {}
      values["profiles"] = {k: _read(v) for k, v in of_profiles.items()}
      return cls(**values)
    except (TypeError, KeyError, AttributeError) as error:
      raise ValueError(
        f"an evaluation must have the fields of Evaluation, got {error}"
      ) from error


def _with_gyms(values: Mapping[str, Any]) -> dict[str, Any]:
  splits = {k: _read(v) for k, v in values["splits"].items()}
  return {**values, "gyms": _read(values["gyms"]), "splits": splits}


def _read(gyms: Mapping[str, Any]) -> dict[str, GymEvaluation]:
  return {k: GymEvaluation(**v) for k, v in gyms.items()}


def _scores(gyms: Mapping[str, GymEvaluation]) -> statistics.GymScores:
  return {name: gym.scores_by_task for name, gym in gyms.items()}


def groups(evaluation: Any, held_out: Any) -> list[tuple[Any, str, str]]:
  """Returns each group of gyms, a format of its gyms' names, and its mean's.

  Args:
    evaluation: an `Evaluation`, or the dict that it makes.
    held_out: that of it; None where every gym is trained.
  """
  of = [(evaluation, "{}", MEAN)]
  return of + [(held_out, "{} (held out)", MEAN_HELD_OUT)] * bool(held_out)


def averages_of(
  averages: Mapping[str, Mapping[str, Estimate]], mean: str
) -> list[tuple[str, Mapping[str, Estimate]]]:
  """Returns the averages that there are, each with what it is called."""
  titles = {"macro": mean, "micro": f"weighted {mean}"}
  return [(titles[k], averages[k]) for k in titles if averages.get(k)]


def evaluation_summary(
  trajectories: Sequence[types.Trajectory],
  stage: str,
  temperature: float,
  seed: int,
  pins: Mapping[str, Any] | None = None,
  held_out_gyms: Collection[str] = (),
) -> dict[str, Any]:
  """Summarises the episodes of an evaluation.

  A trajectory's score is the sum of its turn rewards as a share of what its
  task can give. Invalid ones are left out and counted, and bounds say what
  the score had been with each of them at 0 or at 1. The macro score is the
  mean over gyms; its interval resamples the tasks of each gym apart.

  Args:
    trajectories: of any gyms; attempts at a task are told by `member`.
    stage: which stage was evaluated.
    temperature: of the sampling.
    seed: of the bootstrap.
    pins: what was evaluated, kept with the numbers.
    held_out_gyms: that are never trained on; they are summarised apart.

  Returns:
    `Evaluation.to_dict()`.

  Raises:
    ValueError: without trajectories of trained gyms, or with two of one task
      and member.
  """
  is_held_out = lambda t: t.task.gym in held_out_gyms
  trained = [t for t in trajectories if not is_held_out(t)]
  held_out = [t for t in trajectories if is_held_out(t)]
  if not trained:
    raise ValueError("an evaluation must have episodes, got none")
  return Evaluation(
    stage,
    float(temperature),
    **_group(trained, seed),
    pins=pins or {},
    held_out=HeldOut(**_group(held_out, seed)) if held_out else None,
    overall=_overall(trajectories, seed) if held_out else {},
    profiles={
      profile: _group(own, seed)["gyms"]
      for profile in sorted({t.profile for t in trajectories} - {""})
      if (own := [t for t in trajectories if t.profile == profile])
    },
  ).to_dict()


def _group(
  trajectories: Sequence[types.Trajectory], seed: int
) -> dict[str, Any]:
  """Returns the fields of `HeldOut`, over the gyms of these trajectories."""
  by_gym = _by_gym(trajectories)
  gyms = {gym: _gym_evaluation(tasks, seed) for gym, tasks in by_gym.items()}
  splits = {
    split: {
      gym: gyms[gym] if len(own) == len(tasks) else _gym_evaluation(own, seed)
      for gym, tasks in by_gym.items()
      if (own := {k: v for k, v in tasks.items() if v[0].task.split == split})
    }
    for split in dict.fromkeys(t.task.split for t in trajectories)
  }
  return {
    "gyms": gyms,
    "macro": _macro(gyms, seed),
    "splits": splits,
    "averages": _averages(by_gym, seed),
  }


def _by_gym(
  trajectories: Sequence[types.Trajectory],
) -> dict[str, dict[str, list[types.Trajectory]]]:
  by_gym: dict[str, dict[str, list[types.Trajectory]]] = {}
  by_name = lambda t: (t.task.gym, t.task.id, t.member)
  for t in sorted(trajectories, key=by_name):
    attempts = by_gym.setdefault(t.task.gym, {}).setdefault(t.task.id, [])
    if attempts and attempts[-1].member == t.member:
      raise ValueError(
        f"attempts at a task must differ in member, got {t.member} twice for "
        f"{t.task.gym}/{t.task.id}"
      )
    attempts.append(t)
  return by_gym


def _overall(
  trajectories: Sequence[types.Trajectory], seed: int
) -> dict[str, dict[str, Estimate]]:
  by_gym = _by_gym(trajectories)
  averages = _averages(by_gym, seed)
  if by_gym.keys() != measures.PAPER_TEST_TASKS.keys():
    averages.pop("micro", None)
  return averages


def _gym_evaluation(tasks: Tasks, seed: int) -> GymEvaluation:
  def mean(scores_by_task):
    means = list(statistics.task_means(scores_by_task).values())
    return float(np.mean(means)) if means else None

  score = lambda t: t.score
  scores, solved = _by_task(tasks, score), _by_task(tasks, _solved)
  attempts = [t for group in tasks.values() for t in group]
  valid = [t for t in attempts if t.is_valid]
  interval = statistics.bootstrap_mean(scores, seed=seed) if valid else None
  values = _values(tasks)
  return GymEvaluation(
    score=interval.mean if interval else None,
    low=interval.low if interval else None,
    high=interval.high if interval else None,
    success=mean(solved),
    num_tasks=len(tasks),
    num_attempts=len(attempts),
    turns=float(np.mean([len(t.turns) for t in valid])) if valid else None,
    invalid=len(attempts) - len(valid),
    score_if_invalid_0=mean(_by_task(tasks, score, 0.0)),
    score_if_invalid_1=mean(_by_task(tasks, score, 1.0)),
    scores_by_task=scores,
    success_by_task=solved,
    measures={
      name: {
        **_estimate(average, resampled),
        "num_tasks": len(statistics.task_means(values[name])),
      }
      for name, (average, resampled) in statistics.bootstrap_means(
        values, seed=seed
      ).items()
    },
    faults=_counts(f for t in attempts for f in measures.faults(t)),
    stops=_counts(t.stop_reason for t in attempts),
  )


def _solved(trajectory: types.Trajectory) -> float:
  return float(measures.is_success(trajectory))


def _by_task(
  tasks: Tasks,
  value: Callable[[types.Trajectory], float | None],
  if_invalid: float | None = None,
) -> dict[str, list[float | None]]:
  return {
    task: [value(t) if t.is_valid else if_invalid for t in attempts]
    for task, attempts in tasks.items()
  }


def _values(tasks: Tasks) -> dict[str, Mapping[str, statistics.Scores]]:
  """Returns measure -> task id -> its values, of attempts or of the task."""
  values: dict[str, Mapping[str, statistics.Scores]] = {
    name: _by_task(tasks, measure)
    for name, measure in measures.MEASURES.items()
  }
  solved = {
    task: [x for x in attempts if x is not None]
    for task, attempts in _by_task(tasks, _solved).items()
  }
  for sign, estimate in (
    ("pass@", measures.pass_at_k),
    ("pass^", measures.pass_hat_k),
  ):
    for k in measures.ks(max(map(len, tasks.values()))):
      values[f"{sign}{k}"] = {
        task: [estimate(len(own), round(sum(own)), k)]
        for task, own in solved.items()
      }
  return values


def _estimate(mean: float, resampled: np.ndarray) -> dict[str, float]:
  low, high = statistics.ends(resampled)
  return {"mean": mean, "low": low, "high": high}


def _counts(names: Iterable[str]) -> dict[str, int]:
  return dict(sorted(collections.Counter(map(str, names)).items()))


def _macro(
  gyms: Mapping[str, GymEvaluation], seed: int
) -> dict[str, float | None]:
  """Averages over gyms; a gym without a valid attempt leaves no macro score."""
  if any(gym.score is None for gym in gyms.values()):
    return {"score": None, "low": None, "high": None}
  # Each gym resamples with a seed of its own, so that gyms of equal size do
  # not move together; the first has the run's: with one gym, macro = gym.
  resampled = np.mean(
    [
      statistics.resampled_means(
        np.array(list(statistics.task_means(gym.scores_by_task).values())),
        seed + place,
      )
      for place, gym in enumerate(gyms.values())
    ],
    axis=0,
  )
  score = float(np.mean([gym.score for gym in gyms.values()]))
  low, high = statistics.ends(resampled)
  return {"score": score, "low": low, "high": high}


def _averages(
  by_gym: Mapping[str, Tasks], seed: int
) -> dict[str, dict[str, Estimate]]:
  """Averages every measure over the gyms that have it.

  macro = (1 / G) sum_g m_g; micro = sum_g N_g m_g / sum_g N_g, where N_g are
  the test tasks of the gym in the paper (Table 1; `analyze.py` of UserRL's
  code weighs so), whatever number was played here. Example: Travel 0.5 (471)
  and Telepathy 1.0 (41) make macro 0.75 and micro 276.5 / 512 = 0.54.

  A gym without a valid attempt leaves no average at all, and one that the
  paper lacks leaves no micro average.
  """
  resampled = {
    gym: statistics.bootstrap_means(_values(tasks), seed=seed + place)
    for place, (gym, tasks) in enumerate(by_gym.items())
  }
  if not all(resampled.values()):
    return {}
  weights = {"macro": dict.fromkeys(by_gym, 1)}
  if by_gym.keys() <= measures.PAPER_TEST_TASKS.keys():
    weights["micro"] = measures.PAPER_TEST_TASKS
  names = dict.fromkeys(n for own in resampled.values() for n in own)
  averages: dict[str, dict[str, Estimate]] = {kind: {} for kind in weights}
  for kind, name in itertools.product(weights, names):
    gyms = [gym for gym, own in resampled.items() if name in own]
    shares = [weights[kind][gym] for gym in gyms]
    average = lambda values, shares=shares: np.average(
      values, axis=0, weights=shares
    )
    averages[kind][name] = {
      **_estimate(
        float(average([resampled[gym][name][0] for gym in gyms])),
        average([resampled[gym][name][1] for gym in gyms]),
      ),
      "gyms": gyms,
    }
  return averages
