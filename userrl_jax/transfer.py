"""Tells when what is trained on goes far better than what is held out.

In: an evaluation, or looks at held-back tasks, and the steps of the stage. Out:
what is seen and what to try, "" where nothing is wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from userrl_jax import series

# The first that is there is compared. Split dev is for choosing and test is
# not; fresh tasks are held out, though not their structures, from train alone.
_HELD_IN = ("train", "fresh")
_HELD_OUT = ("dev", "fresh", "test")


def of_looks(history: Sequence[series.Numbers]) -> str:
  """Finds held-back tasks that go far worse than those that are trained on.

  Each of the last 3 looks is compared with the window of scores before it, so
  that a steep rise is no lag. The mean of looks is at most 0.7 of that of
  windows, 0.15 below, and beyond 2 standard errors of their differences.
  """
  name, pairs = "selection/score", []
  for place, numbers in enumerate(history):
    if len(look := series.named([numbers], name)):
      scores = series.finite_values(history[:place], series.score)[
        -series.WINDOW :
      ]
      if len(scores) == series.WINDOW:
        pairs.append((scores.mean(), look[0]))
  if len(pairs) < 3:
    return ""
  inner, outer = np.array(pairs[-3:]).T
  inside, outside = inner.mean(), outer.mean()
  error = (inner - outer).std(ddof=1) / 3**0.5
  if inside - outside < max(0.15, 0.3 * inside, 2 * error):
    return ""
  return (
    f"held-back tasks score {outside:.2f}, those that are trained on "
    f"{inside:.2f}; try more tasks (gyms.num_train_tasks), more gyms.names and "
    "gyms.levels, or fewer steps: selection.use with this stage"
  )


def of_evaluation(
  evaluation: Mapping[str, Any], history: Sequence[series.Numbers] = ()
) -> str:
  """Finds held-out tasks that go far worse than held-in ones.

  Held out is split dev, without it fresh where train was played, too, or else
  test. Held in is train or fresh; without these, the last training steps.
  Held-out scores are at most 0.7 of the held-in ones, 0.1 below, and beyond 2
  standard errors.

  Args:
    evaluation: as `scorecard.Evaluation.to_dict` gives it.
    history: of the stage that it evaluates.
  """
  inner = _first(evaluation, _HELD_IN)
  outer = _first(evaluation, [s for s in _HELD_OUT if s != inner])
  held_in, held_out = _macro(evaluation, inner), _macro(evaluation, outer)
  scores = series.finite_values(history, series.score)[-series.WINDOW :]
  if held_in is None and len(scores) == series.WINDOW:
    inner = ""
    held_in = scores.mean(), scores.std(ddof=1) / series.WINDOW**0.5
  if not _is_far_below(held_out, held_in):
    return ""
  (inside, _), (outside, _) = held_in, held_out
  than = f"those of {inner}" if inner else "the last trained ones"
  return (
    f"tasks of split {outer} score {outside:.2f}, {than} {inside:.2f}; try "
    "more tasks (gyms.num_train_tasks), more gyms.names and gyms.levels, or "
    "fewer steps: selection.num_tasks, and selection.use with this stage"
  )


def of_held_out_gyms(
  evaluation: Mapping[str, Any], before: Mapping[str, Any]
) -> str:
  """Finds gyms that are never trained on, and that a stage made far worse.

  The mean of their scores fell to 0.7 or less of what it was, by 0.1 or more,
  and beyond 2 standard errors.

  Args:
    evaluation: of the stage, as `scorecard.Evaluation.to_dict` gives it.
    before: that of the stage that it starts from.
  """
  then, now = (
    _mean((summary.get("held_out") or {}).get("gyms", {}))
    for summary in (before, evaluation)
  )
  if not _is_far_below(now, then):
    return ""
  (better, _), (worse, _) = then, now
  return (
    f"gyms that are never trained on fell from {better:.2f} to {worse:.2f} in "
    "this stage; try a higher grpo.kl_coef, more gyms.names, or fewer steps"
  )


def _is_far_below(
  one: tuple[float, float] | None, other: tuple[float, float] | None
) -> bool:
  """Returns whether a score is; each is a mean and its standard error.

  At most 0.7 of the other one, 0.1 below, and beyond 2 standard errors.
  """
  if one is None or other is None:
    return False
  gap, error = other[0] - one[0], np.hypot(one[1], other[1])
  return bool(gap >= max(0.1, 0.3 * other[0], 2 * error))


def _first(evaluation: Mapping[str, Any], splits: Sequence[str]) -> str:
  """Returns the first of some splits that was evaluated, "" without any."""
  return next((s for s in splits if evaluation["splits"].get(s)), "")


def _macro(
  evaluation: Mapping[str, Any], split: str
) -> tuple[float, float] | None:
  """Returns a split's mean over gyms and its standard error."""
  return _mean(evaluation["splits"].get(split, {}))


def _mean(
  by_name: Mapping[str, Mapping[str, Any]],
) -> tuple[float, float] | None:
  """Returns the mean over gyms and its standard error; None without one."""
  gyms = list(by_name.values())
  if not gyms or any(gym["score"] is None for gym in gyms):
    return None
  errors = [(gym["high"] - gym["low"]) / (2 * 1.96) for gym in gyms]
  mean = float(np.mean([gym["score"] for gym in gyms]))
  return mean, float(np.linalg.norm(errors)) / len(gyms)
