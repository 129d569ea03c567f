"""Reports how the treatments of an experiment trained, and what they differ in.

In: results. Out: sections: scores of training episodes as curves, with what
training took, and the fields of configs in which treatments are not alike.
"""

from collections.abc import Sequence
import json
from typing import Any

import numpy as np

from userrl_jax import charts
from userrl_jax import experiment_results
from userrl_jax import pages
from userrl_jax import run_folder
from userrl_jax import series

_NUM_PARTS = 4  # of a training, whose mean scores are told
_OWN = ("out_dir", "seed")  # of each run


def curves(results: experiment_results.Results) -> pages.Section | None:
  """Returns the scores of training episodes; None where nothing was played."""
  rows, lines = [], {}
  for name, own in results.items():
    trained = [own[seed].training for seed in sorted(own)]
    curve = _mean_curve([t.scores for t in trained])
    if not curve:
      continue
    lines[name] = list(enumerate(_smooth(curve)))
    parts = np.array_split(np.array(curve), _NUM_PARTS)
    row = [name, *(f"{p.mean():.3f}" if p.size else "" for p in parts)]
    row.append(f"{np.mean([t.minutes for t in trained]):.1f}")
    row.append(f"{np.mean([t.num_tokens for t in trained]) / 1e3:,.0f}")
    rows.append([*row, str(sum(t.num_invalid for t in trained))])
  if not rows:
    return None
  quarters = [f"quarter {n}" for n in range(1, _NUM_PARTS + 1)]
  title = f"Score of training episodes, means of {series.WINDOW} iterations"
  return pages.Section(
    "Training",
    "Scores of training episodes, on training tasks: the mean of runs, by "
    "quarter of the training, and as curves. Minutes and thousands of sampled "
    "tokens are a run's: the median step's time, times the number of steps, so "
    "that pauses are left out, and evaluations. Invalid episodes are of all "
    "runs.",
    ["treatment", *quarters, "minutes", "1000 tokens", "invalid episodes"],
    rows,
    charts.lines(lines, title),
  )


def settings(results: experiment_results.Results) -> pages.Section | None:
  """Returns the fields in which treatments differ; None where in nothing."""
  flat = {}
  for name, own in results.items():
    if own:
      fields = run_folder.flat(next(iter(own.values())).config)
      flat[name] = {field: _told(value) for field, value in fields.items()}
  known = dict.fromkeys(field for own in flat.values() for field in own)
  differing = [
    field
    for field in known
    if field not in _OWN and len({own.get(field) for own in flat.values()}) > 1
  ]
  if not differing:
    return None
  rows = [
    [name, *(own.get(field, "") for field in differing)]
    for name, own in flat.items()
  ]
  return pages.Section(
    "What treatments differ in",
    "Every field of the config that is not the same in all.",
    ["treatment", *differing],
    rows,
  )


def _mean_curve(runs: Sequence[Sequence[float]]) -> list[float]:
  """Returns the mean over runs, as far as all of them go."""
  length = min(map(len, runs), default=0)
  return [float(np.mean(of)) for of in zip(*(run[:length] for run in runs))]


def _smooth(values: Sequence[float]) -> list[float]:
  """Returns means of each value and those before it, a window in all."""
  return [
    float(np.mean(values[max(0, n - series.WINDOW + 1) : n + 1]))
    for n in range(len(values))
  ]


def _told(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)
