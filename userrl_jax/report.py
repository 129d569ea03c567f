"""Turns a run's folder into one HTML page that can be sent to a colleague.

`python -m userrl_jax.report RUN_DIR...` writes `RUN_DIR/report.html`. In: the
files of a run, whichever are there. Out: a page without network assets: table
by stage, paired differences, curves, faults, config, dialogues. Everything a
model wrote is hostile text and escaped.
"""

import argparse
import base64
import collections
from collections.abc import Mapping, Sequence
import datetime
import hashlib
import itertools
import json
import math
import pathlib
import re
import sys
from typing import Any

from userrl_jax import charts
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import pages
from userrl_jax import report_tables
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import statistics
from userrl_jax import types

# What is drawn first, in order; every other number follows, folded away.
CURVES = (
  ("score", r"score/"),
  ("success", r"success/"),
  ("flat groups by gym", r"flat/"),
  ("loss", r"(train/)?loss$"),
  ("entropy", r".*entropy$"),
  ("gradient norm", r".*grad_norm$"),
  ("logprob gap", r".*logprob_gap$"),
  ("turns", r".*turns$"),
  ("tokens a turn", r".*tokens_per_turn$"),
  ("invalid share", r".*invalid_share$"),
  ("malformed share", r".*malformed_share$"),
  ("flat groups", r".*flat_share$"),
  ("speed", r".*tokens_per_s$"),
)
MAX_TASKS = 200  # whose dialogues are on the page
MAX_TRAINING = 24  # dialogues from the end of each stage's training
MAX_CHARS = 6000  # of one text

_TEMPLATE = "report_template.html.j2"


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the reports of the given runs and prints where they are."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.report",
    description="Writes RUN_DIR/report.html, one self-contained page.",
  )
  parser.add_argument("run_dir", nargs="+", type=pathlib.Path)
  try:
    for folder in parser.parse_args(argv).run_dir:
      print(write(folder))
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def write(run_dir: str | pathlib.Path) -> pathlib.Path:
  """Writes the report of a run.

  Args:
    run_dir: the `out_dir` of a run, finished or not.

  Returns:
    The path of the page.

  Raises:
    ValueError: when there is no such folder.
  """
  run = run_folder.read(run_dir, MAX_TRAINING)
  environment = pages.environment()
  environment.filters |= {"shorten": _shorten, "csp_hash": _csp_hash}
  trained, no_credit = report_tables.credited(run, MAX_TRAINING)
  colours = {stage: n for n, stage in enumerate(run.stages)}
  page = environment.get_template(_TEMPLATE).render(
    run=run,
    colours={s: n % charts.NUM_COLOURS for s, n in colours.items()},
    written=datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
    facts=_facts(run),
    splits=list(
      dict.fromkeys(s for e in run.evaluations.values() for s in e.splits)
    ),
    score_charts=_score_charts(run, colours),
    differences=(differences := _differences(run)),
    difference_charts=_difference_charts(differences, colours),
    curves=_curves(run, colours),
    faults=_faults(run),
    config_changes=_config_changes(run),
    dialogues=_dialogues(run),
    measures=report_tables.measures(run),
    profiles=report_tables.profiles(run),
    forgetting=report_tables.forgetting(run),
    information=report_tables.information(run),
    costs=report_tables.costs(run),
    commands=report_tables.commands(run),
    chosen=report_tables.chosen(run),
    trained={
      stage: [{**d, "shown_score": _score(d)} for d in dialogues]
      for stage, dialogues in trained.items()
    },
    no_credit=no_credit,
  )
  path = run.folder / "report.html"
  temporary = path.with_suffix(".tmp")
  temporary.write_text(page, encoding="utf-8", errors="replace")
  temporary.replace(path)
  return path


def _facts(run: run_folder.Run) -> list[tuple[str, str]]:
  """Returns what the page's head says about the run, in words."""
  skipped = ("command", "differences", "argv", "resumed")
  facts = [
    (key, value if isinstance(value, str) else json.dumps(value))
    for key, value in run.environment.items()
    if key not in skipped
  ]
  # Not time_s, which starts anew when a run is resumed.
  times = [m["time/step_s"] for m in run.metrics if "time/step_s" in m]
  if times:
    facts.append(("time of training", f"{sum(times) / 60:.1f} minutes"))
  if len(run.processes) > 1:
    facts.append(("times resumed", str(len(run.processes) - 1)))
  commits = [(p.get("git") or {}).get("commit") for p in run.processes]
  if len(set(commits)) > 1:
    facts.append(("commits, one after the other", json.dumps(commits)))
  for key in ("seed", "stages"):
    if key in run.config:
      facts.append((key, json.dumps(run.config[key])))
  return facts


def _score_charts(
  run: run_folder.Run, colours: Mapping[str, int]
) -> list[dict[str, Any]]:
  """Draws the stages' scores: as a mean of gyms first, then of each gym."""
  parts: dict[str, list[charts.Estimate]] = {scorecard.MEAN: []}
  for stage, evaluation in run.evaluations.items():
    for group, label, mean in evaluation.groups:
      gyms = {label.format(name): vars(gym) for name, gym in group.gyms.items()}
      scores = {mean: group.macro, **gyms} if len(gyms) > 1 else gyms
      for name, e in scores.items():
        if e["score"] is not None:
          numbers = e["score"], e["low"], e["high"]
          estimate = charts.Estimate(stage, *numbers, colours[stage])
          parts.setdefault(name, []).append(estimate)
  return _interval_charts("Score with 95% interval", parts)


def _interval_charts(
  what: str, parts: Mapping[str, list[charts.Estimate]], zero: bool = False
) -> list[dict[str, Any]]:
  shown = {name: rows for name, rows in parts.items() if rows}
  titles = {n: f"{what}: {n}" if len(shown) > 1 else what for n in shown}
  return [
    {"title": titles[n], "svg": charts.intervals(rows, titles[n], zero)}
    for n, rows in shown.items()
  ]


def _differences(run: run_folder.Run) -> list[dict[str, Any]]:
  """Compares stages on the tasks both played, gym by gym and as a mean."""
  rows = []
  for before, after in _pairs(run):
    a, b = run.evaluations[before], run.evaluations[after]
    shared = []  # name, groups of both stages, gyms
    groups = zip(a.groups, b.groups, strict=False)
    for (one, label, mean), (other, *_) in groups:
      gyms = [gym for gym in other.gyms if gym in one.gyms]
      if len(gyms) > 1:
        shared.append((mean, (one, other), gyms))
      shared += [(label.format(g), (one, other), [g]) for g in gyms]
    for name, both, gyms in shared:
      row = {"before": before, "after": after, "gym": name}
      sides = ({gym: group.scores[gym] for gym in gyms} for group in both)
      try:
        row["interval"] = statistics.paired_macro_difference(
          [tuple(sides)], seed=int(run.config.get("seed", 0))
        )
      except ValueError as error:
        row["problem"] = str(error)
      if a.temperature != b.temperature:
        row["problem"] = "another temperature: not comparable"
      rows.append(row)
  return rows


def _pairs(run: run_folder.Run) -> list[tuple[str, str]]:
  """Returns the stages to compare: (before, after)."""
  arms = [s for s in run.evaluations if s.startswith(run_folder.ARMS)]
  stages = [stage for stage in run.evaluations if stage not in arms]
  pairs = list(itertools.pairwise(stages))
  if len(stages) > 2:
    pairs.append((stages[0], stages[-1]))
  return pairs + [(arm, "grpo") for arm in arms if "grpo" in stages]


def _difference_charts(
  differences: Sequence[Mapping[str, Any]], colours: Mapping[str, int]
) -> list[dict[str, Any]]:
  parts: dict[str, list[charts.Estimate]] = {scorecard.MEAN: []}
  for row in differences:
    if "problem" not in row:
      # GRPO against an arm has the colour of the arm: there are many.
      is_arm = row["before"].startswith(run_folder.ARMS)
      label = "vs {before}" if is_arm else "{before} → {after}"
      estimate = charts.Estimate(
        label.format(**row),
        row["interval"].mean,
        row["interval"].low,
        row["interval"].high,
        colours[row["before" if is_arm else "after"]],
      )
      parts.setdefault(row["gym"], []).append(estimate)
  title = "Difference on the same tasks with 95% interval"
  return _interval_charts(title, parts, zero=True)


def _curves(
  run: run_folder.Run, colours: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
  """Draws every number of metrics.jsonl: the important ones, and the rest."""
  series: dict[str, dict[str, list[charts.Point]]] = {}
  for line in run.metrics:
    for name, value in line.items():
      if name in ("stage", "step") or "stage" not in line:
        continue
      if isinstance(value, (int, float)) and "step" in line:
        points = series.setdefault(name, {}).setdefault(str(line["stage"]), [])
        points.append((float(line["step"]), float(value)))

  def draw(name: str, title: str) -> dict[str, Any]:
    by_stage = {s: series[name][s] for s in run.stages if s in series[name]}
    title = title if title == name else f"{title} ({name})"
    return {"title": title, "svg": charts.curve(by_stage, colours, title)}

  main, left = [], sorted(series)
  for title, pattern in CURVES:
    for name in [n for n in left if re.match(pattern, n)]:
      main.append(draw(name, title))
      left.remove(name)
  return {"main": main, "rest": [draw(name, name) for name in left]}


def _faults(run: run_folder.Run) -> dict[str, Any]:
  """Counts faults by kind (law L2), in training and in evaluation."""
  columns: dict[str, collections.Counter[str]] = {}
  for line in run.metrics:
    for name, value in line.items():
      parts = name.split("/")
      if parts[0] == "fault" and len(parts) == 2 and math.isfinite(value):
        column = f"{line.get('stage')}, training"
        columns.setdefault(column, collections.Counter())[parts[1]] += int(
          value
        )
  for stage, dialogues in run.played.items():
    counts = columns[f"{stage}, evaluation"] = collections.Counter()
    for dialogue in dialogues:
      faults = [turn.get("fault") for turn in dialogue["turns"]]
      if dialogue["fault"] not in faults:
        faults.append(dialogue["fault"])
      counts.update(str(f) for f in faults if f and f != types.Fault.OK)
  return {
    "columns": columns,
    "rows": [
      {
        "kind": str(kind),
        "valid": kind.is_valid,
        "counts": [columns[c][str(kind)] for c in columns],
      }
      for kind in types.Fault
      if kind != types.Fault.OK
    ],
  }


def _config_changes(
  run: run_folder.Run,
) -> dict[str, list[tuple[str, str, str]]]:
  """Lists what differs from the recipe and from the package's defaults."""
  changes = {}
  recipe = run.environment.get("differences")
  if isinstance(recipe, dict):
    changes["the recipe"] = [
      (field, json.dumps(pair[0]), json.dumps(pair[1]))
      for field, pair in recipe.items()
      if isinstance(pair, list) and len(pair) == 2
    ]
  if run.config:
    # Through JSON, so that tuples compare as the lists that they become.
    default = json.loads(json.dumps(config_fields.to_dict(config_lib.Config())))
    before, here = run_folder.flat(default), run_folder.flat(run.config)
    changes["the defaults"] = [
      (
        field,
        json.dumps(before[field]) if field in before else "not there",
        json.dumps(here[field]) if field in here else "not there",
      )
      for field in dict.fromkeys([*before, *here])
      if before.get(field) != here.get(field)
    ]
  return changes


def _dialogues(run: run_folder.Run) -> dict[str, Any]:
  """Puts the stages' first attempts at each task side by side."""
  # (gym, split) -> task -> stage -> dialogue
  parts: dict[tuple[str, str], dict[str, dict[str, dict[str, Any]]]] = {}
  for stage, dialogues in run.played.items():
    for dialogue in sorted(dialogues, key=lambda d: d.get("member", 0)):
      part = str(dialogue["gym"]), str(dialogue.get("split", ""))
      tasks = parts.setdefault(part, {})
      tasks.setdefault(str(dialogue["task"]), {}).setdefault(stage, dialogue)
  ordered = [
    [
      (*part, task, parts[part][task])
      for task in sorted(parts[part], key=_natural)
    ]
    for part in sorted(parts)
  ]
  turns = itertools.zip_longest(*ordered)
  shown = [task for turn in turns for task in turn if task][:MAX_TASKS]
  counts = collections.Counter((gym, split) for gym, split, *_ in shown)
  return {
    "num_tasks": sum(map(len, ordered)),
    "parts": [
      {
        "name": " ".join(filter(None, part)),
        "shown": counts[part],
        "num_tasks": len(parts[part]),
      }
      for part in sorted(parts)
    ],
    "gyms": sorted({gym for gym, _ in parts}),
    "splits": sorted(
      {split for _, split in parts} | ({"train"} if run.trained else set())
    ),
    "tasks": [
      {
        "gym": gym,
        "split": split,
        "id": task,
        "stages": stages,
        "scores": {stage: _score(d) for stage, d in stages.items()},
      }
      for gym, split, task, stages in shown
    ],
  }


def _score(dialogue: Mapping[str, Any]) -> float | None:
  """Returns the score of a transcript; None where it is invalid."""
  if not dialogue.get("valid", dialogue["fault"] == types.Fault.OK):
    return None
  return float(dialogue.get("score", dialogue["reward"]))


def _natural(text: str) -> list[tuple[int, Any]]:
  """Orders t2 before t10."""
  return [
    (0, int(part)) if part.isdecimal() else (1, part)
    for part in re.split(r"(\d+)", text)
  ]


def _shorten(value: Any) -> str:
  text = value if isinstance(value, str) else json.dumps(value)
  if len(text) <= MAX_CHARS:
    return text
  return f"{text[:MAX_CHARS]} … {len(text) - MAX_CHARS} more characters"


def _csp_hash(script: str) -> str:
  """Returns the only script that the page may run, as its policy says it."""
  digest = hashlib.sha256(str(script).encode()).digest()
  return f"sha256-{base64.b64encode(digest).decode()}"


if __name__ == "__main__":
  sys.exit(main())
