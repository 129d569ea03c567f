"""Compares the arms of one or several runs: GRPO against what else was tried.

`python -m userrl_jax.compare RUN_DIR...` reads runs of one recipe that differ
in their seeds and prints a table in Markdown: what every stage reached, with
its updates and its training time, and by how much GRPO is above it. What makes
the runs less comparable stands below the table and on stderr. With
`--json FILE` it also writes the numbers for programs.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np

from userrl_jax import config_fields
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import statistics

SUBJECT = "grpo"  # the stage that all others are compared with
EQUAL_TIME = 0.95  # share of GRPO's minutes that counts as equal time


@dataclasses.dataclass(frozen=True)
class Arm:
  """What one stage came to: means over runs, sums of counts."""

  name: str
  updates: int  # of the stage itself
  minutes: float  # of its training steps, evaluations left out
  minutes_since_base: float  # with those of the stages that led to it
  has_less_time: bool  # an arm with below EQUAL_TIME of GRPO's minutes
  macro: float
  gyms: dict[str, float]
  splits: dict[str, float]  # macro score by split
  invalid: int  # attempts left out of the scores, of all runs
  above: statistics.Interval | None  # GRPO minus this
  above_by_split: dict[str, statistics.Interval]  # on the split's tasks alone
  held_out: "HeldOutGyms | None"  # None where every gym is trained


@dataclasses.dataclass(frozen=True)
class HeldOutGyms:
  """The same of the gyms that were never trained on, in no number above."""

  macro: float
  gyms: dict[str, float]
  invalid: int
  above: statistics.Interval | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The arms, and what a reader must know about the runs."""

  arms: list[Arm]  # GRPO last
  notes: list[str]


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the comparison of the given runs."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.compare",
    description="Compares GRPO with the other arms of runs of one recipe.",
  )
  parser.add_argument("run_dir", nargs="+", type=pathlib.Path)
  parser.add_argument("--json", type=pathlib.Path, help="also write a file")
  arguments = parser.parse_args(argv)
  try:
    comparison = compare(arguments.run_dir)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  for note in comparison.notes:
    print(f"note: {note}", file=sys.stderr)
  print(table(comparison))
  if arguments.json:
    values = dataclasses.asdict(comparison)
    arguments.json.write_text(json.dumps(values, indent=2) + "\n")
  return 0


def compare(folders: Sequence[pathlib.Path]) -> Comparison:
  """Compares every stage that all runs have; notes what some run lacks.

  Raises:
    ValueError: when a folder holds no finished GRPO stage, or the runs are of
      different recipes.
  """
  runs = [run_folder.read(folder, max_training=0) for folder in folders]
  for run in runs:
    if SUBJECT not in run.evaluations:
      raise ValueError(
        f"a comparison needs the evaluation of {SUBJECT}, got "
        f"{list(run.evaluations) or 'none'} in {run.folder}; finish that run"
      )
    dead = _dead_gyms(run.evaluations[SUBJECT])
    if dead:
      raise ValueError(
        f"a comparison needs valid attempts of {SUBJECT} in every gym, got "
        f"none in {', '.join(dead)} of {run.folder}; look at its faults"
      )
  _check_same(runs)
  notes = _differences(runs)
  names = []
  for name in dict.fromkeys(n for run in runs for n in run.evaluations):
    lacks = [note for run in runs if (note := _lack(run, name))]
    if not lacks:
      names.append(name)
    notes += [f"{lack}: {name} is left out of the table" for lack in lacks]
  notes += [
    f"{run.folder}: no times of {stage} in metrics.jsonl, so minutes are "
    "too few"
    for run in runs
    for stage in names
    if stage in run.config["stages"] and not _step_seconds(run, stage)
  ]
  names.sort(key=lambda name: name == SUBJECT)
  notes += [
    f"{run.folder}: {gym} is held out and has no valid attempt of {name}, so "
    "nothing is told of held-out gyms"
    for run in runs
    for name in names
    if (held_out := run.evaluations[name].held_out)
    for gym in _dead_gyms(held_out)
  ]
  limit = EQUAL_TIME * _minutes_since_base(runs, SUBJECT)
  return Comparison([_arm(name, runs, limit) for name in names], notes)


def table(comparison: Comparison) -> str:
  """Returns the arms as a table in Markdown, with footnotes."""
  arms = comparison.arms
  splits, gyms = list(arms[0].splits), list(arms[0].gyms)
  apart = [split for split in splits if split == "test" and len(splits) > 1]
  head = ["arm", "updates", "minutes", "minutes since base"]
  head += ["macro score", *gyms]
  head += [f"macro, {split} tasks" for split in splits]
  head += ["invalid", f"{SUBJECT} is above by", "95% interval", "tasks"]
  head += [f"above, {split} tasks only" for split in apart]
  rows = [head, ["---"] * len(head)]
  for arm in arms:
    row = [arm.name + ("*" if arm.has_less_time else "")]
    row += [str(arm.updates), f"{arm.minutes:.1f}"]
    row += [f"{arm.minutes_since_base:.1f}", f"{arm.macro:.3f}"]
    row += [f"{arm.gyms[gym]:.3f}" for gym in gyms]
    row += [f"{arm.splits[split]:.3f}" for split in splits]
    row += [str(arm.invalid)]
    row += _above(arm.above)
    of_splits = [arm.above_by_split.get(split) for split in apart]
    row += [f"{i.mean:+.3f} ({_ends(i)})" if i else "" for i in of_splits]
    rows.append(row)
  lines = [f"| {' | '.join(row)} |" for row in rows]
  lines += _held_out_lines(arms)
  footnotes = [f"Note: {note}." for note in comparison.notes]
  if any(arm.has_less_time for arm in arms):
    footnotes.insert(
      0,
      f"\\* Below {EQUAL_TIME:.0%} of the training time that {SUBJECT} had "
      "since the base: no comparison at equal time.",
    )
  return "\n".join(lines + [line for note in footnotes for line in ("", note)])


def _held_out_lines(arms: Sequence[Arm]) -> list[str]:
  """Returns a table of the gyms that were never trained on, if any."""
  if not all(arm.held_out for arm in arms):
    return []
  gyms = list(arms[0].held_out.gyms)
  head = ["arm", "macro score", *gyms, "invalid", f"{SUBJECT} is above by"]
  head += ["95% interval", "tasks"]
  rows = [head, ["---"] * len(head)]
  for arm in arms:
    own = arm.held_out
    row = [arm.name, *(f"{s:.3f}" for s in (own.macro, *own.gyms.values()))]
    rows.append([*row, str(own.invalid), *_above(own.above)])
  title = "Held-out gyms, which were never trained on:"
  return ["", title, "", *(f"| {' | '.join(row)} |" for row in rows)]


def _above(above: statistics.Interval | None) -> list[str]:
  if above is None:
    return ["", "", ""]
  return [f"{above.mean:+.3f}", _ends(above), str(above.num_tasks)]


def _ends(interval: statistics.Interval) -> str:
  return f"{interval.low:+.3f} to {interval.high:+.3f}"


def _arm(name: str, runs: Sequence[run_folder.Run], limit: float) -> Arm:
  steps = [_step_seconds(run, name) for run in runs]
  since_base = _minutes_since_base(runs, name)
  evaluations = [run.evaluations[name] for run in runs]
  subjects = [run.evaluations[SUBJECT] for run in runs]
  splits = list(evaluations[0].splits)
  above, above_by_split = None, {}
  if name != SUBJECT:
    above = statistics.paired_macro_difference(
      [(e.scores, s.scores) for e, s in zip(evaluations, subjects, strict=True)]
    )
    above_by_split = {
      split: statistics.paired_macro_difference(
        [
          (e.split_scores(split), s.split_scores(split))
          for e, s in zip(evaluations, subjects, strict=True)
        ]
      )
      for split in splits
    }
  return Arm(
    name=name,
    updates=round(_mean(map(len, steps))),
    minutes=_mean(map(sum, steps)) / 60,
    minutes_since_base=since_base,
    has_less_time=name.startswith(run_folder.ARMS) and since_base < limit,
    macro=_mean(e.macro["score"] for e in evaluations),
    gyms={
      gym: _mean(e.gyms[gym].score for e in evaluations)
      for gym in evaluations[0].gyms
    },
    splits={
      split: _mean(
        g.score for e in evaluations for g in e.splits[split].values()
      )
      for split in splits
    },
    invalid=sum(g.invalid for e in evaluations for g in e.gyms.values()),
    above=above,
    above_by_split=above_by_split,
    held_out=_held_out(name, runs),
  )


def _held_out(name: str, runs: Sequence[run_folder.Run]) -> HeldOutGyms | None:
  """Compares the gyms that were never trained on; None where some run lacks."""
  own = [run.evaluations[name].held_out for run in runs]
  subjects = [run.evaluations[SUBJECT].held_out for run in runs]
  if not all(e and not _dead_gyms(e) for e in own + subjects):
    return None
  above = None
  if name != SUBJECT:
    above = statistics.paired_macro_difference(
      [(e.scores, s.scores) for e, s in zip(own, subjects, strict=True)]
    )
  return HeldOutGyms(
    macro=_mean(e.macro["score"] for e in own),
    gyms={g: _mean(e.gyms[g].score for e in own) for g in own[0].gyms},
    invalid=sum(gym.invalid for e in own for gym in e.gyms.values()),
    above=above,
  )


def _step_seconds(run: run_folder.Run, name: str) -> list[float]:
  """Returns the seconds of every update of a stage."""
  return [
    line["time/step_s"]
    for line in run.metrics
    if line.get("stage") == name and "time/step_s" in line
  ]


def _minutes_since_base(runs: Sequence[run_folder.Run], name: str) -> float:
  """Returns the training time of a stage and of those that led to it."""
  if name == "base":
    return 0.0
  return _mean(
    sum(sum(_step_seconds(run, stage)) for stage in [*before, name]) / 60
    for run in runs
    for before in [run_folder.stages_before(name, run.config["stages"])]
  )


def _mean(values: Iterable[Any]) -> float:
  return float(np.mean(list(values)))


def _dead_gyms(
  evaluation: scorecard.Evaluation | scorecard.HeldOut,
) -> list[str]:
  """Returns the gyms in which an evaluation has nothing to tell from."""
  parts = [evaluation.gyms, *evaluation.splits.values()]
  return sorted(
    {n for gyms in parts for n, g in gyms.items() if g.score is None}
  )


def _lack(run: run_folder.Run, name: str) -> str:
  """Returns why an arm of a run cannot be compared, or an empty string."""
  if name not in run.evaluations:
    return f"{run.folder} has no evaluation of {name}"
  dead = ", ".join(_dead_gyms(run.evaluations[name]))
  return dead and f"{run.folder} has no valid attempt of {name} in {dead}"


def _differences(runs: Sequence[run_folder.Run]) -> list[str]:
  """Notes in what code and machines of the runs differ, or cannot be known."""

  def git(process: dict[str, Any]) -> dict[str, Any]:
    return process.get("git") or {}

  def values(run: run_folder.Run, read: Callable[[dict[str, Any]], Any]) -> str:
    texts = (read(process) for process in run.processes)
    return ", then ".join(dict.fromkeys(str(t or "unknown") for t in texts))

  notes = []
  for what, read in (
    ("commits", lambda process: git(process).get("commit", "")[:12]),
    ("devices", lambda process: ", ".join(process.get("devices", ()))),
  ):
    found = {str(run.folder): values(run, read) for run in runs}
    if len(set(found.values())) > 1 or any(
      ", then " in v for v in found.values()
    ):
      parts = "; ".join(f"{value} in {name}" for name, value in found.items())
      notes.append(f"the runs are of different {what}: {parts}")
  changed = [
    str(run.folder)
    for run in runs
    if any(git(process).get("changed") for process in run.processes)
  ]
  if changed:
    notes.append(f"files differed from the commit in {', '.join(changed)}")
  return notes


def _check_same(runs: Sequence[run_folder.Run]) -> None:
  """Refuses runs that differ in more than their seeds and folders."""
  configs = [config_fields.from_dict(run.config) for run in runs]
  for run, config in zip(runs[1:], configs[1:], strict=True):
    changed = config_fields.differences(config, configs[0])
    changed = {k: v for k, v in changed.items() if k not in ("seed", "out_dir")}
    if changed:
      what = "; ".join(f"{k}: {a!r} -> {b!r}" for k, (a, b) in changed.items())
      raise ValueError(
        f"compared runs must differ in seed and out_dir only, got {what} in "
        f"{run.folder}; compare runs of one recipe"
      )
  seeds = [config.seed for config in configs]
  if len(set(seeds)) < len(seeds):
    raise ValueError(
      f"compared runs must have different seeds, got {seeds}; run the recipe "
      "with another --config.seed"
    )


if __name__ == "__main__":
  sys.exit(main())
