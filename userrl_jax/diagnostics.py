"""Tells when training goes wrong, and what usually helps.

In: the numbers of a stage's past steps, as `metrics.jsonl` has them, or a
finished evaluation. Out: findings, each with its likely remedy. Functions of
numbers only. Thresholds ask for more than noise: what healthy runs do at times
is no finding, so that one is worth reading.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from userrl_jax import series
from userrl_jax import transfer

Numbers = series.Numbers  # of one step

WINDOW = series.WINDOW
TREND = 20  # steps that a line is fitted to
# Nats a token between sampled and recomputed log-probs, on average, that
# rounding or staleness may explain; and with float32 and the same params.
MAX_GAP, MAX_EXACT_GAP = 0.05, 1e-3


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something that goes wrong."""

  name: str
  message: str  # what is seen, and what to try


def diagnose(
  history: Sequence[Numbers], max_gap: float = MAX_GAP, credit: str = ""
) -> list[Finding]:
  """Returns what is wrong at the last of the steps of a stage.

  Args:
    history: of one stage, oldest first. Steps without episodes, such as those
      of imitation, are left out: nothing is found there.
    max_gap: that log-probs may have.
    credit: name of the stage's credit, so that no remedy is in use already.
  """
  history = [numbers for numbers in history if "episode/num" in numbers]
  checks = CHECKS | {
    "logprob_gap": functools.partial(logprob_gap, limit=max_gap),
    "collapse": functools.partial(collapse, credit=credit),
    "decline": functools.partial(decline, credit=credit),
  }
  found = [(name, check(history)) for name, check in checks.items()]
  return [Finding(name, message) for name, message in found if message]


class Watch:
  """Follows a stage step by step, and tells each finding once."""

  def __init__(
    self,
    history: Sequence[Numbers] = (),
    told: Iterable[str] = (),
    max_gap: float = MAX_GAP,
    credit: str = "",
  ):
    """Goes on after past steps, with names of what was told of them."""
    self.history, self._told = list(history), set(told)
    self._max_gap, self._credit = max_gap, credit

  def step(
    self, numbers: Numbers, also: Sequence[Finding] = ()
  ) -> tuple[dict[str, float], list[Finding]]:
    """Takes in the numbers of a finished step.

    Args:
      numbers: of the step.
      also: what was found in its episodes, of which numbers do not tell.

    Returns:
      diagnosis/<name>: 1 for each finding that holds now; and the findings
      that were not told before.
    """
    self.history.append(numbers)
    found = [*diagnose(self.history, self._max_gap, self._credit), *also]
    return {f"diagnosis/{f.name}": 1.0 for f in found}, self._new(found)

  def look(self, numbers: Numbers) -> list[Finding]:
    """Takes in what a look at held-back tasks found; returns what is new."""
    self.history.append(numbers)
    found = [(name, check(self.history)) for name, check in LOOKS.items()]
    return self._new([Finding(n, message) for n, message in found if message])

  def evaluation(
    self,
    summary: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
  ) -> list[Finding]:
    """Returns what an evaluation of the stage's params shows, told once.

    Args:
      summary: the evaluation.
      before: that of what the stage started from, where there is one.
    """
    found = {
      "poor_transfer": transfer.of_evaluation(summary, self.history),
      "held_out_gyms": transfer.of_held_out_gyms(summary, before or {}),
    }
    return self._new(
      [Finding(name, text) for name, text in found.items() if text]
    )

  def _new(self, found: Sequence[Finding]) -> list[Finding]:
    new = [finding for finding in found if finding.name not in self._told]
    self._told |= {finding.name for finding in new}
    return new


def collapse(history: Sequence[Numbers], credit: str = "") -> str:
  """Finds a score that fell to near 0, and spikes on the way.

  The last window's mean is at most a fifth of the best one's, which was 0.15
  or more, and the fall is above 4 standard errors of a window's mean.
  """
  scores = series.finite_values(history, series.score)
  if len(scores) < 2 * WINDOW:
    return ""
  windows = np.convolve(scores, np.ones(WINDOW) / WINDOW, "valid")
  best, last = windows.max(), windows[-1]
  noise = series.noise(scores) / WINDOW**0.5
  if best < 0.15 or last > best / 5 or best - last < 4 * noise:
    return ""
  spikes = [
    f"{what} up to {spike:.0f} times its median"
    for what, name in (
      ("gradient norm", "train/grad_norm"),
      ("loss", "train/loss"),
    )
    if (spike := series.spike(series.named(history, name))) > 5
  ]
  seen = f" with {' and '.join(spikes)}" if spikes else ""
  remedy = "grpo.credit.credit=equalized and a lower"
  if credit == "equalized":
    remedy = "a lower grpo.optimizer.max_grad_norm or"
  return (
    f"the score fell from {best:.2f} to {last:.2f}{seen}; try {remedy} "
    "grpo.optimizer.learning_rate, from a checkpoint before the fall"
  )


def decline(history: Sequence[Numbers], credit: str = "") -> str:
  """Finds a score that was better before, though it is no collapse.

  The mean of the last 10 steps is at most 0.7 of the best one's, which was 0.15
  or more; the fall is 0.1 or more, and above 4 standard errors of a mean.
  """
  scores, size = series.finite_values(history, series.score), 2 * WINDOW
  if len(scores) < 2 * size or collapse(history):
    return ""
  windows = np.convolve(scores, np.ones(size) / size, "valid")
  best, last = windows.max(), windows[-1]
  noise = series.noise(scores) / size**0.5
  if best < 0.15 or last > 0.7 * best or best - last < max(0.1, 4 * noise):
    return ""
  remedy = "grpo.credit.credit=equalized"
  if credit == "equalized":
    remedy = "a lower grpo.optimizer.learning_rate"
  return (
    f"the score fell from {best:.2f} to {last:.2f}, means of {size} steps; try "
    f"{remedy}, or a higher grpo.kl_coef, which keeps the policy near its "
    "start; selection.num_tasks with selection.use=grpo keeps the best "
    "checkpoint"
  )


def early_plateau(history: Sequence[Numbers]) -> str:
  """Finds a low score that does not rise.

  A line through the last 20 steps rises by 0.02 or less, below a score of 0.3.
  """
  scores = series.finite_values(history, series.score)[-TREND:]
  if len(scores) < TREND or scores.mean() >= 0.3:
    return ""
  if collapse(history) or decline(history):  # it was better before
    return ""
  gain, _ = series.trend(scores)
  if gain > 0.02:
    return ""
  return (
    f"the score stays near {scores.mean():.2f} for {TREND} steps; try a cold "
    "start (stage cold_start, more cold_start.num_steps), easier gyms.levels "
    "or a higher grpo.optimizer.learning_rate"
  )


def dead_groups(history: Sequence[Numbers]) -> str:
  """Finds that three groups in four have equal scores and teach nothing."""
  flat = series.last(history, "group/flat_share")
  if flat is None or flat < 0.75:
    return ""
  scores = series.finite_values(history, series.score)[-WINDOW:]
  level = scores.mean() if scores.size else 0.0
  remedy = "a larger grpo.group_size or a higher rollout.temperature"
  if level > 0.8:
    remedy = "harder gyms.levels: most tasks are solved by all members"
  elif level < 0.2:
    remedy = (
      "a cold start, easier gyms.levels or a larger grpo.group_size: most "
      "tasks are solved by no member"
    )
  return f"{flat:.0%} of groups have no advantage; try {remedy}"


def entropy_collapse(history: Sequence[Numbers]) -> str:
  """Finds an entropy below a tenth of what it was at first."""
  first, last = series.first_and_last(history, "train/entropy")
  if first is None or last >= first / 10:
    return ""
  return (
    f"the entropy fell from {first:.3f} to {last:.3f} nats, so members hardly "
    "differ; try a lower grpo.optimizer.learning_rate, a higher "
    "rollout.temperature or a higher grpo.clip_high"
  )


def entropy_blowup(history: Sequence[Numbers]) -> str:
  """Finds an entropy twice of what it was at first, and half a nat above."""
  first, last = series.first_and_last(history, "train/entropy")
  if first is None or last < max(2 * first, first + 0.5):
    return ""
  return (
    f"the entropy rose from {first:.2f} to {last:.2f} nats, so turns become "
    "random; try a lower grpo.optimizer.learning_rate or "
    "grpo.optimizer.max_grad_norm, and look at what earns advantages"
  )


def truncation(history: Sequence[Numbers]) -> str:
  """Finds that three episodes in ten run out of tokens."""
  shares = [
    series.last(history, f"stop/{reason}")
    for reason in ("turn_budget", "episode_budget")
  ]
  share = sum(value for value in shares if value is not None)
  if share < 0.3:
    return ""
  return (
    f"{share:.0%} of episodes end for want of tokens; raise "
    "rollout.max_tokens_per_turn or rollout.max_tokens_per_episode (and "
    "packing.row_length), or shorten turns by a cold start"
  )


def malformed(history: Sequence[Numbers]) -> str:
  """Finds that three turns in ten are no usable call."""
  share = series.last(history, "turn/malformed_share")
  if share is None or share < 0.3:
    return ""
  return (
    f"{share:.0%} of turns are no usable call; try more of the cold start, or "
    "chat.profile=full, which tells the format at length"
  )


def logprob_gap(history: Sequence[Numbers], limit: float = MAX_GAP) -> str:
  """Finds that sampled and recomputed log-probs differ by more than a limit."""
  name = "rollout/logprob_gap"
  # What is exact has no noise to wait for.
  gaps = series.named(history, name)[-1:] if limit < MAX_GAP else ()
  gap = gaps[0] if len(gaps) else series.last(history, name)
  if gap is None or gap < limit:
    return ""
  if limit < MAX_GAP:
    return (
      f"sampled tokens have other log-probs when trained on, by {gap:.1g} nats "
      "on average, where float32 and max_staleness=0 leave room for rounding "
      "alone: sampler and learner differ in params, temperature or context"
    )
  return (
    f"sampled tokens have other log-probs when trained on, by {gap:.3f} nats "
    "on average; lower rollout.max_staleness or "
    "grpo.optimizer.learning_rate, or set model.dtype=float32"
  )


def reward_hack(history: Sequence[Numbers]) -> str:
  """Finds gyms in which the score rises while fewer episodes are solved.

  Lines through the last 20 steps: the score gains 0.1 or more, success loses
  0.05 or more, and both are beyond 3 standard errors of the line.
  """
  gyms = sorted(
    {n[len("success/") :] for h in history for n in series.of(h, "success")}
  )
  seen = []
  for gym in gyms:
    score = series.named(history, f"score/{gym}")[-TREND:]
    success = series.named(history, f"success/{gym}")[-TREND:]
    if min(len(score), len(success)) < TREND:
      continue
    (up, up_error), (down, down_error) = (
      series.trend(score),
      series.trend(success),
    )
    if up >= max(0.1, 3 * up_error) and -down >= max(0.05, 3 * down_error):
      seen.append(f"{gym} (score {up:+.2f}, success {down:+.2f})")
  if not seen:
    return ""
  return (
    f"scores rise while fewer episodes are solved in {', '.join(seen)}; read "
    "its transcripts for turns that earn without helping, and choose a "
    "gyms.reward_profile that pays less for them"
  )


def overfitting(history: Sequence[Numbers]) -> str:
  """Finds a held-out loss that rises while the demonstrations are learned.

  The last two looks are both 0.02 nats and a twentieth above the least one.
  """
  losses = series.named(history, "selection/loss")
  if len(losses) < 3:
    return ""
  best, last = losses.min(), losses[-2:].min()
  if last < max(best + 0.02, 1.05 * best):
    return ""
  return (
    f"the held-out loss rose from {best:.3f} to {losses[-1]:.3f} nats a token; "
    "try fewer cold_start.num_steps (or num_epochs), more demonstrated tasks "
    "(gyms.num_train_tasks), or selection.use with cold_start"
  )


CHECKS: dict[str, Callable[[Sequence[Numbers]], str]] = {
  "collapse": collapse,
  "decline": decline,
  "early_plateau": early_plateau,
  "dead_groups": dead_groups,
  "entropy_collapse": entropy_collapse,
  "entropy_blowup": entropy_blowup,
  "truncation": truncation,
  "malformed": malformed,
  "logprob_gap": logprob_gap,
  "reward_hack": reward_hack,
}


# Of what looks at held-back tasks find, see `selection`.
LOOKS: dict[str, Callable[[Sequence[Numbers]], str]] = {
  "overfitting": overfitting,
  "poor_transfer": transfer.of_looks,
}
