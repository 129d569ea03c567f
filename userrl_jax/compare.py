"""Compares the arms of one or several runs: GRPO against what else was tried.

`python -m userrl_jax.compare RUN_DIR...` reads runs of one recipe that differ
in their seeds and prints a table in Markdown: what every stage reached, with
its updates and its training time, and by how much GRPO is above it. With
`--json FILE` it also writes the numbers for programs.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np

from userrl_jax import config as config_lib
from userrl_jax import run_folder
from userrl_jax import statistics

SUBJECT = "grpo"  # the stage that all others are compared with


@dataclasses.dataclass(frozen=True)
class Arm:
  """What one stage came to, as a mean over runs."""

  name: str
  updates: int  # of the stage itself
  minutes: float  # of its training steps, evaluations left out
  macro: float
  gyms: dict[str, float]
  splits: dict[str, float]  # macro score by split
  above: statistics.Interval | None  # GRPO minus this


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
    arms = compare(arguments.run_dir)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(table(arms))
  if arguments.json:
    values = [dataclasses.asdict(arm) for arm in arms]
    arguments.json.write_text(json.dumps(values, indent=2) + "\n")
  return 0


def compare(folders: Sequence[pathlib.Path]) -> list[Arm]:
  """Returns every stage that all runs have, GRPO last.

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
  _check_same(runs)
  names = [
    name
    for name in runs[0].evaluations
    if all(name in run.evaluations for run in runs)
  ]
  names.sort(key=lambda name: name == SUBJECT)
  return [_arm(name, runs) for name in names]


def table(arms: Sequence[Arm]) -> str:
  """Returns the arms as a table in Markdown."""
  splits, gyms = list(arms[0].splits), list(arms[0].gyms)
  head = ["arm", "updates", "minutes", "macro score", *gyms]
  head += [f"macro, {split} tasks" for split in splits]
  head += [f"{SUBJECT} is above by", "95% interval"]
  rows = [head, ["---"] * len(head)]
  for arm in arms:
    row = [arm.name, str(arm.updates), f"{arm.minutes:.1f}", f"{arm.macro:.3f}"]
    row += [f"{arm.gyms[gym]:.3f}" for gym in gyms]
    row += [f"{arm.splits[split]:.3f}" for split in splits]
    above = arm.above
    row += (
      [f"{above.mean:+.3f}", f"{above.low:+.3f} to {above.high:+.3f}"]
      if above
      else ["", ""]
    )
    rows.append(row)
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _arm(name: str, runs: Sequence[run_folder.Run]) -> Arm:
  stage, _, limit = name.partition("@")
  steps = [
    [
      line["time/step_s"]
      for line in run.metrics
      if line["stage"] == stage and line["step"] < int(limit or sys.maxsize)
    ]
    for run in runs
  ]
  evaluations = [run.evaluations[name] for run in runs]
  above = None
  if name != SUBJECT:
    above = statistics.paired_macro_difference(
      [(run.evaluations[name].scores, run.evaluations[SUBJECT].scores)
       for run in runs]
    )  # fmt: skip

  def mean(values: Any) -> float:
    return float(np.mean(list(values)))

  return Arm(
    name=name,
    updates=round(mean(map(len, steps))),
    minutes=mean(map(sum, steps)) / 60,
    macro=mean(e.macro["score"] for e in evaluations),
    gyms={
      gym: mean(e.gyms[gym].score for e in evaluations)
      for gym in evaluations[0].gyms
    },
    splits={
      split: mean(
        g.score for e in evaluations for g in e.splits[split].values()
      )
      for split in evaluations[0].splits
    },
    above=above,
  )


def _check_same(runs: Sequence[run_folder.Run]) -> None:
  """Refuses runs that differ in more than their seeds and folders."""
  configs = [config_lib.from_dict(run.config) for run in runs]
  for run, config in zip(runs[1:], configs[1:], strict=True):
    changed = config_lib.differences(config, configs[0])
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
