"""What a run shows while it goes on: one line a step, and tables.

In: the same dicts of numbers that `metrics.Writers` takes. Out: text, in
colour on a terminal and plain elsewhere.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import time
from typing import Any, TextIO

import rich.box
import rich.console
import rich.table
import rich.text

from userrl_jax import scorecard
from userrl_jax import types


class Console:
  """Prints the progress of a run."""

  def __init__(
    self,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    is_quiet: bool = False,
  ):
    """Prints to `file` (standard output when None); `clock` is in seconds.

    A quiet one prints nothing.
    """
    self._console = rich.console.Console(
      file=file, highlight=False, quiet=is_quiet
    )
    if not self._console.is_terminal:
      # Rich assumes 80 columns and would cut a table's numbers short.
      self._console.width = 1000
    self._clock = clock
    self._stage = ""
    # (step, time) of the latest lines: the first steps compile.
    self._times: collections.deque[tuple[int, float]] = collections.deque(
      maxlen=11
    )

  def show(
    self, stage: str, step: int, num_steps: int, numbers: Mapping[str, Any]
  ) -> None:
    """Prints the line of a finished step.

    Shows what is there of: score/*, success/*, train/loss,
    rollout/logprob_gap_max (sampled against recomputed), episode/turns,
    */tokens_per_s, fault/*, episode/invalid_share, user/requests and
    user/retries, */programs (compiled so far), */padding (share). Of several
    gyms the score is the macro score, "-" where a gym has no valid episode to
    tell from.

    Args:
      stage: of the step.
      step: counts from 0.
      num_steps: of the stage.
      numbers: as `Writers.write` takes them.
    """
    if stage != self._stage:
      self._stage = stage
      self._times.clear()
    self._times.append((step, self._clock()))
    parts = [(f"{stage} {step + 1}/{num_steps}", "bold")]
    for text, style in _line_parts(numbers):
      parts += [(" | ", "dim"), (text, style)]
    left = num_steps - step - 1
    (first, began), (last, now) = self._times[0], self._times[-1]
    if left and last > first:
      eta = _duration(left * (now - began) / (last - first))
      parts += [(" | ", "dim"), (f"eta {eta}", "dim")]
    self.print(rich.text.Text.assemble(*parts))

  def show_table(self, summaries: Sequence[Mapping[str, Any]]) -> None:
    """Prints evaluations, as `scorecard.evaluation_summary` gives them."""
    table = rich.table.Table(box=rich.box.SIMPLE)
    for name in ("stage", "gym", "score", "95% interval", "success", "turns"):
      table.add_column(name)
    table.add_column("tasks")
    table.add_column("invalid")
    groups = [
      (summary, *group)
      for summary in summaries
      for group in scorecard.groups(summary, summary.get("held_out"))
    ]
    has_bounds = any(
      e["invalid"] for _, group, *_ in groups for e in group["gyms"].values()
    )
    if has_bounds:
      table.add_column("if they scored 0 to 1")
    splits = list(dict.fromkeys(n for s in summaries for n in s["splits"]))
    if len(splits) > 1:
      for split in splits:
        table.add_column(f"{split} tasks only")
    for summary, group, label, mean in groups:
      stage = summary["stage"]
      for gym, e in group["gyms"].items():
        known = e["score"] is not None
        row = [
          stage,
          label.format(gym),
          _score(e),
          f"{e['low']:.3f} to {e['high']:.3f}" if known else "-",
          f"{e['success']:.0%}" if known else "-",
          f"{e['turns']:.2f}" if known else "-",
          str(e["num_tasks"]),
          str(e["invalid"]),
        ]
        if has_bounds:
          low, high = e["score_if_invalid_0"], e["score_if_invalid_1"]
          row.append(f"{low:.3f} to {high:.3f}" if e["invalid"] else "-")
        of_splits = [group["splits"].get(s, {}).get(gym) for s in splits]
        row += [_score(own) if own else "-" for own in of_splits]
        table.add_row(*row[: len(table.columns)])
      macro = group["macro"]
      if len(group["gyms"]) > 1:
        known = macro["score"] is not None
        own = list(group["gyms"].values())
        row = [
          stage,
          mean,
          _score(macro),
          f"{macro['low']:.3f} to {macro['high']:.3f}" if known else "-",
        ]
        if any(e["invalid"] for e in own):
          low, high = (
            _mean(e[f"score_if_invalid_{value}"] for e in own)
            for value in (0, 1)
          )
          num_invalid = str(sum(e["invalid"] for e in own))
          row += ["", "", "", num_invalid, f"{low:.3f} to {high:.3f}"]
        table.add_row(*row, style="bold")
      if mean == scorecard.MEAN_HELD_OUT:
        overall = summary.get("overall", {})
        for title, own in scorecard.averages_of(overall, scorecard.MEAN_OF_ALL):
          e = own["score"]
          interval = f"{e['low']:.3f} to {e['high']:.3f}"
          table.add_row(
            stage, title, f"{e['mean']:.3f}", interval, style="bold"
          )
    self.print(table)
    self._show_profiles(summaries[-1])

  def _show_profiles(self, summary: Mapping[str, Any]) -> None:
    """Prints an evaluation by profile of its users, where they have one."""
    of = summary.get("profiles", {})
    if not of:
      return
    names = list(dict.fromkeys(gym for gyms in of.values() for gym in gyms))
    table = rich.table.Table(box=rich.box.SIMPLE)
    for name in ("stage", "users", *names):
      table.add_column(name)
    for profile, gyms in of.items():
      cells = [_score(gyms[name]) if name in gyms else "-" for name in names]
      table.add_row(summary["stage"], profile, *cells)
    self.print(table)

  def print(self, what: Any) -> None:
    """Prints anything rich can, a string as it is; never wraps a line."""
    if isinstance(what, str):
      what = rich.text.Text(what)
    self._console.print(what, soft_wrap=True)


def _score(evaluation: Mapping[str, Any]) -> str:
  score = evaluation["score"]
  return "-" if score is None else f"{score:.3f}"


def _line_parts(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns (text, style) of what a line can say about these numbers."""
  values = {name: float(value) for name, value in numbers.items()}

  def named(subject="", what=""):
    return {
      name: value
      for name, value in values.items()
      if name.startswith(subject) and name.endswith(what)
    }

  parts = []
  score = _score_text(values)
  if score:
    parts.append((score, "green"))
  if "train/loss" in values:
    parts.append((f"loss {values['train/loss']:.4f}", ""))
  if "rollout/logprob_gap_max" in values:
    gap = values["rollout/logprob_gap_max"]
    parts.append((f"logprob gap {gap:.0e}", "" if gap < 1e-3 else "bold red"))
  if "episode/turns" in values:
    parts.append((f"turns {values['episode/turns']:.2f}", ""))
  for speed in list(named(what="/tokens_per_s").values())[:1]:
    parts.append((f"{speed:,.0f} tokens/s", "cyan"))
  counts = {f: values.get(f"fault/{f}") for f in types.Fault}
  if any(count is not None for count in counts.values()):
    own = int(sum(counts[f] or 0 for f in counts if f.is_valid))
    other = int(sum(counts[f] or 0 for f in counts if not f.is_valid))
    style = "bold red" if other else ""
    text = f"faults {other}"
    if other and "episode/invalid_share" in values:
      text += f", {values['episode/invalid_share']:.1%} of episodes invalid"
    parts.append((f"{text} (+{own} of the agent)", style))
  if "user/requests" in values:
    text = f"user {int(values['user/requests'])} requests"
    if values.get("user/retries"):
      text += f" ({int(values['user/retries'])} again)"
    parts.append((text, ""))
  programs = named(what="/programs")
  if programs:
    parts.append((f"programs {int(sum(programs.values()))}", ""))
  paddings = named(what="/padding")
  if paddings:
    shares = [f"{n.split('/')[0]} {v:.0%}" for n, v in paddings.items()]
    parts.append((f"padding {', '.join(shares)}", ""))
  return parts


def _score_text(values: Mapping[str, float]) -> str:
  """Returns score and success, of each gym where there are several."""
  of_gyms, successes = {}, []
  macro = values.get("score/macro")
  for name, value in values.items():
    subject, _, gym = name.partition("/")
    if subject == "score" and gym != "macro":
      of_gyms[gym] = f"{value:.2f}"
      score = value
    elif subject == "success":
      successes.append(value)
    elif subject == "fault" and "/" in gym:  # of a gym without valid episodes
      of_gyms.setdefault(gym.partition("/")[0], "-")
  if not successes and set(of_gyms.values()) <= {"-"}:
    return ""
  if len(of_gyms) == 1:
    text = f"score {score:.3f}"
  else:
    own = ", ".join(f"{gym} {text}" for gym, text in sorted(of_gyms.items()))
    text = f"score {'-' if macro is None else f'{macro:.3f}'} ({own})"
  return text + (f" success {_mean(successes):.0%}" if successes else "")


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f"{hours}:{minutes:02}:{seconds:02}"
    if hours
    else (f"{minutes}:{seconds:02}")
  )


def _mean(values: Iterable[float]) -> float:
  values = list(values)
  return sum(values) / len(values)
