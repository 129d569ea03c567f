"""Reports all runs of a sweep at once: scores by cell, the best one first.

In: the runs of a sweep, finished or not. Out: `report.html`, `report.md` and
`report.json` in its folder. A cell is a setting: its runs differ in their seeds
alone and are averaged, with an interval over tasks and seeds. The best cell is
compared with each other one on the same tasks, seed by seed. Of an experiment
it is `experiment_report` that is written: what was planned, not the best.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from userrl_jax import charts
from userrl_jax import experiment_report
from userrl_jax import experiment_results
from userrl_jax import experiments
from userrl_jax import pages
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import statistics

_TEMPLATE = "sweep_template.html.j2"


@dataclasses.dataclass(frozen=True)
class Member:
  """A run as the sweep knows it."""

  name: str
  cell: str  # its setting: the name without the seed
  folder: pathlib.Path
  problem: str = ""  # why it is not finished; empty where it is
  arm: str = ""  # of the experiment


@dataclasses.dataclass(frozen=True)
class Cell:
  """What the runs of one setting came to: means over its finished runs."""

  name: str
  num_runs: int
  num_finished: int
  score: statistics.Interval | None  # macro, of the last stage; None: none has
  gyms: Mapping[str, float]
  held_out: float | None  # macro of the gyms that were never trained on
  invalid: int  # attempts left out of the scores, of all runs
  best_above: statistics.Interval | None  # by how much the best cell is above


@dataclasses.dataclass(frozen=True)
class Summary:
  """The cells, best first, and what a reader must know about them."""

  cells: Sequence[Cell]
  stages: Sequence[str]  # whose scores these are
  notes: Sequence[str]


def write(
  folder: pathlib.Path,
  members: Sequence[Member],
  experiment: experiments.Experiment | None = None,
) -> tuple[pathlib.Path, str]:
  """Writes the reports; returns the path of the page, and the tables.

  Args:
    folder: of the sweep.
    members: its runs.
    experiment: what they are of, if arms and seeds are all that they differ in.
  """
  if experiment and _are_of_arms(members):
    made, values, notes = _experiment(experiment, members)
    title = experiment.question
  else:
    summary = summarize(members)
    made, values = [_cells(summary)], dataclasses.asdict(summary)
    title, notes = "", summary.notes
  text = "\n\n".join([*map(_markdown, made), *(f"Note: {n}." for n in notes)])
  path = folder / "report.html"
  for target, content in (
    (path, _page(folder, members, made, notes, title)),
    (path.with_suffix(".md"), text + "\n"),
    (path.with_suffix(".json"), json.dumps(values, indent=2) + "\n"),
  ):
    temporary = target.with_suffix(".tmp")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(target)
  return path, text


def summarize(members: Sequence[Member]) -> Summary:
  """Returns the cells of a sweep; what is not finished is in its notes."""
  notes, stages = [], {}
  # cell -> seed -> evaluation of the last stage
  cells: dict[str, dict[Any, scorecard.Evaluation]] = {}
  for member in members:
    own = cells.setdefault(member.cell, {})
    problem = member.problem
    if not problem:
      run = run_folder.read(member.folder, max_training=0)
      stage = last_stage(run)
      evaluation = run.evaluations.get(stage)
      if evaluation is None or evaluation.macro["score"] is None:
        problem = f"no score of {stage or 'any stage'}"
      else:
        stages[stage] = None
        own[run.config["seed"]] = evaluation
    if problem:
      notes.append(f"{member.name}: {problem}")
  sizes = [member.cell for member in members]
  found = [_cell(name, sizes.count(name), own) for name, own in cells.items()]
  found.sort(key=lambda c: -c.score.mean if c.score else np.inf)
  if len(found) > 1 and found[0].score:
    best = found[0].name
    found[1:] = [
      dataclasses.replace(c, best_above=_above(cells[c.name], cells[best]))
      for c in found[1:]
    ]
    notes.append(
      f"the first is the best of {len(found)}, chosen by the scores that are "
      "shown: its own, and by how much it is above, are too good; for a figure "
      "of it alone, evaluate on other tasks"
    )
  if any(c.num_finished == 1 for c in found):
    notes.append(
      "where a setting has one run, its interval is of tasks only, not of runs"
    )
  return Summary(found, list(stages), notes)


def last_stage(run: run_folder.Run) -> str:
  """Returns the stage that a run is for: its last that is no arm."""
  stages = [str(stage) for stage in run.config.get("stages", ())]
  return ([s for s in stages if not s.startswith(run_folder.ARMS)] or [""])[-1]


def table(summary: Summary) -> str:
  """Returns the cells as a table in Markdown, with notes."""
  notes = [f"Note: {note}." for note in summary.notes]
  return "\n\n".join([_markdown(_cells(summary)), *notes])


def _markdown(section: pages.Section) -> str:
  """Returns a section; one without a text is its table alone."""
  rows = [section.head, ["---"] * len(section.head), *section.rows]
  lines = [f"| {' | '.join(row)} |" for row in rows]
  if section.text:
    lines = [f"## {section.title}", "", section.text, "", *lines]
  return "\n".join(lines)


def _are_of_arms(members: Sequence[Member]) -> bool:
  cells = {member.cell for member in members}
  return cells <= {f"arm={m.arm}" if m.arm else "" for m in members}


def _experiment(
  experiment: experiments.Experiment, members: Sequence[Member]
) -> tuple[list[pages.Section], dict[str, Any], list[str]]:
  """Returns sections of an experiment, its numbers, and what is missing."""
  results: dict[str, dict[int, experiment_results.Result]] = {
    name: {} for name in experiment.treatments
  }
  notes = []
  for member in members:
    if member.problem:
      notes.append(f"{member.name}: {member.problem}")
      continue
    run = run_folder.read(member.folder, max_training=0)
    for stage in experiment.stages:
      name = experiment.treatment(member.arm, stage)
      is_ranked = name == experiment.ranks_of
      one = experiment_results.result(run, stage, is_ranked)
      if one is None:
        notes.append(f"{member.name}: no score of {stage}")
        continue
      results[name][int(run.config["seed"])] = one
  others = {}
  for other in experiment.beside:
    others[other.name], problems = experiment_results.beside(other, results)
    notes += problems
  made, values = experiment_report.sections(experiment, results, others)
  return made, {**values, "notes": notes}, notes


def _cells(summary: Summary) -> pages.Section:
  title = "Score with 95% interval"
  estimates = [
    charts.Estimate(f"{n}", c.score.mean, c.score.low, c.score.high, 2)
    for n, c in enumerate(summary.cells, 1)
    if c.score
  ]
  return pages.Section(
    "Settings, best first",
    "",
    *_rows(summary),
    charts.intervals(estimates, title) if estimates else None,
    is_numbered=True,
  )


def _rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
  cells = summary.cells
  gyms = list(dict.fromkeys(gym for cell in cells for gym in cell.gyms))
  has_held_out = any(cell.held_out is not None for cell in cells)
  head = ["setting", "runs", f"score of {', '.join(summary.stages) or '-'}"]
  head += ["95% interval", *gyms] + ["held-out gyms"] * has_held_out
  head += ["invalid", "best is above by", "95% interval", "tasks"]
  rows = []
  for cell in cells:
    runs = f"{cell.num_finished} of {cell.num_runs}"
    row = [cell.name or "all", runs, *_estimate(cell.score, "")]
    row += [_number(cell.gyms.get(gym)) for gym in gyms]
    row += [_number(cell.held_out)] * has_held_out
    row += [str(cell.invalid), *_estimate(cell.best_above, "+")]
    row += [str(cell.best_above.num_tasks) if cell.best_above else ""]
    rows.append(row)
  return head, rows


def _number(value: float | None) -> str:
  return "" if value is None else f"{value:.3f}"


def _estimate(of: statistics.Interval | None, sign: str) -> list[str]:
  if of is None:
    return ["", ""]
  mean, low, high = (f"{x:{sign}.3f}" for x in (of.mean, of.low, of.high))
  return [mean, f"{low} to {high}"]


def _cell(
  name: str, num_runs: int, by_seed: Mapping[Any, scorecard.Evaluation]
) -> Cell:
  runs = list(by_seed.values())
  if not runs:
    return Cell(name, num_runs, 0, None, {}, None, 0, None)
  held_out = [e.held_out.macro["score"] if e.held_out else None for e in runs]
  return Cell(
    name,
    num_runs,
    len(runs),
    score=experiment_results.interval([e.scores for e in runs]),
    gyms={
      gym: float(np.mean([e.gyms[gym].score for e in runs]))
      for gym in runs[0].gyms
    },
    held_out=None if None in held_out else float(np.mean(held_out)),
    invalid=sum(gym.invalid for e in runs for gym in e.gyms.values()),
    best_above=None,
  )


def _above(
  own: Mapping[Any, scorecard.Evaluation],
  best: Mapping[Any, scorecard.Evaluation],
) -> statistics.Interval | None:
  """Returns by how much the best is above; None where it cannot be compared."""
  pairs = [(own[s].scores, best[s].scores) for s in own if s in best]
  try:
    return statistics.paired_macro_difference(pairs)
  except ValueError:  # they share no seed, gyms or tasks
    return None


def _page(
  folder: pathlib.Path,
  members: Sequence[Member],
  made: Sequence[pages.Section],
  notes: Sequence[str],
  title: str,
) -> str:
  return (
    pages.environment()
    .get_template(_TEMPLATE)
    .render(
      name=folder.name,
      title=title,
      sections=made,
      notes=notes,
      members=[
        {
          "name": member.name,
          "problem": member.problem,
          "link": f"{member.folder.name}/report.html",
          "has_report": (member.folder / "report.html").exists(),
        }
        for member in members
      ],
    )
  )
