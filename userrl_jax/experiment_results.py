"""What the treatments of an experiment came to, and the tests planned of them.

In: folders of finished runs, and the experiment. Out: results by treatment and
seed, and differences, paired by task and seed, whose intervals are of tasks and
runs (`statistics.paired_macro_difference`).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from userrl_jax import experiments
from userrl_jax import rescore
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import statistics
from userrl_jax import student_t

LEVEL = 0.05  # of a primary test, and of all others of an experiment together

_FIELDS = ("gym", "task", "member", "valid", "profile", "max_score")


@dataclasses.dataclass(frozen=True)
class Training:
  """How a stage trained; an imitation has no scores and samples nothing."""

  scores: Sequence[float] = ()  # of each step's episodes, the mean over gyms
  # Of its steps, each taken to last as long as the median one: pauses are left
  # out, and so are evaluations.
  minutes: float = 0.0
  num_tokens: int = 0  # sampled
  num_invalid: int = 0  # episodes left out


@dataclasses.dataclass(frozen=True)
class Result:
  """What one run's treatment came to."""

  evaluation: scorecard.Evaluation
  # Of each episode of that evaluation: _FIELDS and the rewards of its turns.
  played: Sequence[Mapping[str, Any]]
  trained: Sequence[Mapping[str, Any]]  # training transcripts, if wanted
  findings: Sequence[str]  # names of what went wrong in training
  training: Training = Training()
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # Its processes, with what each was told to do; see `run_folder.Run`.
  processes: Sequence[Mapping[str, Any]] = ()


# treatment -> seed -> what it came to
Results = Mapping[str, Mapping[int, Result]]


def result(
  run: run_folder.Run, stage: str, is_ranked: bool = False
) -> Result | None:
  """Returns what a stage of a run came to; None where it has no score.

  Args:
    run: as it was read.
    stage: of it.
    is_ranked: whether its training transcripts are wanted, too.
  """
  evaluation = run.evaluations.get(stage)
  if evaluation is None or evaluation.macro["score"] is None:
    return None
  path = run.folder / "transcripts" / f"{stage}.jsonl"
  return Result(
    evaluation,
    [
      {name: record.get(name) for name in _FIELDS}
      | {"rewards": [turn["reward"] for turn in record["turns"]]}
      for record in run.played.get(stage, ())
    ],
    rescore.read(path) if is_ranked and path.exists() else (),
    [str(line["name"]) for line in run.findings if line["stage"] == stage],
    training(run, stage),
    run.config,
    run.processes,
  )


def beside(
  other: experiments.Beside, results: Results
) -> tuple[dict[int, Result], list[str]]:
  """Returns other runs of the seeds that there are, and what is wrong.

  Left out is what was evaluated on other tasks than the treatments were.
  """
  found: dict[int, Result] = {}
  problems = []
  of_seed = {seed: one for own in results.values() for seed, one in own.items()}
  for seed in sorted(of_seed):
    folder = pathlib.Path(other.folder.format(seed=seed))
    one = None
    if (folder / "config.json").exists():
      run = run_folder.read(folder, max_training=0)
      one = result(run, other.evaluation)
    if one is None:
      problems.append(f"{other.name}: no {other.evaluation} of {folder}")
    elif _tasks(one) != _tasks(of_seed[seed]):
      problems.append(f"{other.name}: {folder} was evaluated on other tasks")
    else:
      found[seed] = one
  return found, problems


def _tasks(result: Result) -> dict[str, set[str]]:
  return {gym: set(tasks) for gym, tasks in result.evaluation.scores.items()}


def training(run: run_folder.Run, stage: str) -> Training:
  """Returns how a stage of a run trained, from its metrics."""
  steps = [
    line
    for line in run.metrics
    if line.get("stage") == stage and "time/step_s" in line
  ]
  seconds = [line["time/step_s"] for line in steps]
  total = lambda name: sum(line.get(name, 0.0) for line in steps)
  return Training(
    [score for line in steps if (score := _score(line)) is not None],
    float(np.median(seconds)) * len(seconds) / 60 if seconds else 0.0,
    int(total("rollout/tokens_sampled")),
    round(
      sum(
        line.get("episode/invalid_share", 0.0) * line.get("episode/num", 0.0)
        for line in steps
      )
    ),
  )


def _score(line: Mapping[str, Any]) -> float | None:
  """Returns a step's score: the mean over gyms, or that of the only one."""
  if "score/macro" in line:
    return float(line["score/macro"])
  of_gyms = [value for name, value in line.items() if name.startswith("score/")]
  return float(of_gyms[0]) if len(of_gyms) == 1 else None


def planned(
  experiment: experiments.Experiment, results: Results
) -> list[dict[str, Any]]:
  """Makes the tests of an experiment; those without runs have no numbers.

  A primary test holds where the interval of 95% is above minus its margin; of
  the k others the interval is one of 1 - 0.05 / k, so that all of them together
  err in one case of twenty (Bonferroni). The t interval of the runs'
  differences is told beside, at the same level; no verdict goes by it.
  """
  num_others = sum(not test.is_primary for test in experiment.tests)
  made = []
  for test in experiment.tests:
    values: dict[str, Any] = dataclasses.asdict(test)
    made.append(values)
    above, below = results.get(test.above, {}), results.get(test.below, {})
    seeds = sorted(above.keys() & below.keys())
    if not seeds:
      continue
    pairs = [
      tuple(
        measured(side[seed], test.measure, test.users)
        for side in (below, above)
      )
      for seed in seeds
    ]
    share = LEVEL if test.is_primary else LEVEL / max(1, num_others)
    own = statistics.paired_macro_difference(pairs)
    wide = statistics.paired_macro_difference(pairs, confidence=1 - share)
    verdict = "cannot be told"
    if wide.low > -test.margin + statistics.TIE:
      verdict = "holds"
    elif wide.high < -test.margin - statistics.TIE:
      verdict = "the contrary holds"
    of_seeds = [
      statistics.paired_macro_difference([p], num_resamples=2).mean
      for p in pairs
    ]
    values |= {
      "seeds": seeds,
      "difference": dataclasses.asdict(own),
      "level": 1 - share,
      "wide": [wide.low, wide.high],
      "t_interval": student_t.interval(of_seeds, 1 - share),
      "of_seeds": of_seeds,
      "verdict": verdict,
    }
  return made


def measured(
  result: Result, measure: str, profile: str = ""
) -> statistics.GymScores:
  """Returns a measure by gym and task; None where an attempt is invalid."""
  evaluation = result.evaluation
  if measure == "score":
    if not profile:
      return evaluation.scores
    gyms = evaluation.profiles[profile]
    return {name: gym.scores_by_task for name, gym in gyms.items()}
  by_gym: dict[str, dict[str, list[float | None]]] = {}
  for record in sorted(result.played, key=lambda r: r["member"]):
    if record["gym"] in evaluation.gyms and profile in (
      "",
      record["profile"],
    ):
      tasks = by_gym.setdefault(record["gym"], {})
      value = _READ[measure](record) if record["valid"] else None
      tasks.setdefault(record["task"], []).append(value)
  return by_gym


def macro(result: Result, measure: str) -> float | None:
  """Returns the mean over gyms of a measure; None without transcripts."""
  means = [
    list(statistics.task_means(tasks).values())
    for tasks in measured(result, measure).values()
  ]
  return float(np.mean([np.mean(own) for own in means])) if means else None


def interval(runs: Sequence[statistics.GymScores]) -> statistics.Interval:
  """Estimates the mean over gyms and runs: how far it is above nothing.

  So its bootstrap is that of differences, over runs and the tasks of each.
  """
  nothing = lambda gyms: {
    gym: dict.fromkeys(tasks, (0.0,)) for gym, tasks in gyms.items()
  }
  return statistics.paired_macro_difference(
    [(nothing(gyms), gyms) for gyms in runs]
  )


def _time_weighted(record: Mapping[str, Any]) -> float:
  """Computes what `measures.time_weighted_score` does, of a transcript."""
  weighted = sum(r / (i + 1) for i, r in enumerate(record["rewards"]))
  return float(weighted / record["max_score"])


_READ: dict[str, Callable[[Mapping[str, Any]], float]] = {
  "time_weighted": _time_weighted,
  "turns": lambda record: float(len(record["rewards"])),
}
