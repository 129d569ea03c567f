"""Reports an experiment: its treatments, planned tests and what else it asks.

In: what its treatments came to, and the experiment. Out: sections of a page,
each a table, some with a chart, and the same numbers for programs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from userrl_jax import charts
from userrl_jax import config as config_lib
from userrl_jax import experiment_commands
from userrl_jax import experiment_results
from userrl_jax import experiment_training
from userrl_jax import experiments
from userrl_jax import pages
from userrl_jax import rescore
from userrl_jax import statistics

RANKED = ("naive", "r2g", "em", "predicted", "information")  # against bits

_PAIRS_RESAMPLES = 2000  # of each of many differences that nobody planned


def sections(
  experiment: experiments.Experiment,
  results: experiment_results.Results,
  others: experiment_results.Results | None = None,
) -> tuple[list[pages.Section], dict[str, Any]]:
  """Returns the parts of an experiment's report, and their numbers.

  Args:
    experiment: what was asked.
    results: of its treatments.
    others: of what stands beside them, by name.
  """
  tests = experiment_results.planned(experiment, results)
  every = {**(others or {}), **results}
  first = treatments(every)
  if others:
    names = ", ".join(others)
    text = f"{first.text} Of other runs of the same seeds, in no test: {names}."
    first = dataclasses.replace(first, text=text)
  made = [
    first,
    _tests_section(tests),
    differences(every),
  ]
  made += [
    section
    for section in (
      users(every),
      trade_off(results) if experiment.has_trade_off else None,
      ranks(experiment, results),
      experiment_training.curves(results),
      experiment_training.settings(results),
      experiment_commands.section(every),
    )
    if section
  ]
  values = {
    "question": experiment.question,
    "tests": tests,
    "sections": {s.title: [list(s.head), *map(list, s.rows)] for s in made},
  }
  return made, values


def treatments(results: experiment_results.Results) -> pages.Section:
  """Returns the scores of every treatment: means over its runs."""
  first = next((r for own in results.values() for r in own.values()), None)
  gyms = list(first.evaluation.gyms) if first else []
  head = ["treatment", "runs", "score", "95% interval", *gyms]
  head += ["of runs", "turns", "time-weighted", "success", "perplexity"]
  head += ["perplexity, all", "valid calls", "invalid", "found in training"]
  rows, estimates = [], []
  for name, own in results.items():
    if not own:
      rows.append([name, "0", *[""] * (len(head) - 2)])
      continue
    runs = [own[seed] for seed in sorted(own)]
    of = experiment_results.interval(
      [experiment_results.measured(r, "score") for r in runs]
    )
    estimates.append(charts.Estimate(name, of.mean, of.low, of.high, 2))
    row = [name, str(len(runs)), f"{of.mean:.3f}", _ends(of)]
    row += [_mean(r.evaluation.gyms[gym].score for r in runs) for gym in gyms]
    macros = [r.evaluation.macro["score"] for r in runs]
    row.append(" ".join(f"{macro:.3f}" for macro in macros))
    row += [
      _mean(experiment_results.macro(r, m) for r in runs)
      for m in ("turns", "time_weighted")
    ]
    row.append(_average(runs, "pass@1"))
    row += [
      _mean(r.evaluation.forgetting.get(f"perplexity_{of_ids}") for r in runs)
      for of_ids in ("turns", "all")
    ]
    row.append(_average(runs, "format_validity"))
    of_gyms = [g for r in runs for g in r.evaluation.gyms.values()]
    row.append(str(sum(gym.invalid for gym in of_gyms)))
    found = [name for r in runs for name in r.findings]
    row.append(", ".join(f"{f} {found.count(f)}" for f in dict.fromkeys(found)))
    rows.append(row)
  title = "Score with 95% interval"
  return pages.Section(
    "Treatments",
    "Means over runs; the interval is of tasks and runs. Turns, time-weighted "
    "score and success are of the evaluation; perplexity is that of the "
    "agent's tokens in a fixed set of demonstrations, and of all tokens there, "
    "what the agent reads among them: training is on the agent's alone. The "
    "last column counts the runs in which training said so.",
    head,
    rows,
    charts.intervals(estimates, title) if estimates else None,
  )


def differences(results: experiment_results.Results) -> pages.Section:
  """Returns by how much each treatment's score is above each other one's."""
  names = [name for name, own in results.items() if own]
  rows = []
  for above in names:
    row = [above]
    for below in names:
      seeds = sorted(results[above].keys() & results[below].keys())
      if above == below or not seeds:
        row.append("")
        continue
      one = statistics.paired_macro_difference(
        [
          tuple(
            experiment_results.measured(results[n][s], "score")
            for n in (below, above)
          )
          for s in seeds
        ],
        num_resamples=_PAIRS_RESAMPLES,
      )
      row.append(f"{one.mean:+.3f} ({_ends(one, '+')})")
    rows.append(row)
  return pages.Section(
    "Every difference of scores",
    "Row minus column, paired by task and seed, with its own interval of 95%. "
    "Of many, some are above 0 by chance: what was planned stands above.",
    ["", *names],
    rows,
  )


def users(results: experiment_results.Results) -> pages.Section | None:
  """Returns the score of every treatment with every kind of user."""
  profiles = list(
    dict.fromkeys(
      profile
      for own in results.values()
      for r in own.values()
      for profile in r.evaluation.profiles
    )
  )
  if not profiles:
    return None
  rows = []
  for name, own in results.items():
    if not own:
      continue
    row = [name]
    for profile in profiles:
      of = experiment_results.interval(
        [
          experiment_results.measured(own[s], "score", profile)
          for s in sorted(own)
        ]
      )
      row.append(f"{of.mean:.3f} ({_ends(of)})")
    rows.append(row)
  return pages.Section(
    "Trained with, met",
    "Rows are the users of training, columns those of the evaluation: mean "
    "score of gyms and runs, with its interval of 95%.",
    ["", *profiles],
    rows,
  )


def trade_off(results: experiment_results.Results) -> pages.Section | None:
  """Returns turns and score of all treatments, and which none beats in both."""
  points = {}
  for name, own in results.items():
    if not own:
      continue
    runs = [own[seed] for seed in sorted(own)]
    both = [
      experiment_results.interval(
        [experiment_results.measured(r, m) for r in runs]
      )
      for m in ("turns", "score")
    ]
    points[name] = both
  if not points:
    return None
  front = {
    name
    for name, (turns, score) in points.items()
    if not any(
      t.mean <= turns.mean
      and s.mean >= score.mean
      and (t.mean, s.mean) != (turns.mean, score.mean)
      for t, s in points.values()
    )
  }
  order = sorted(points, key=lambda name: points[name][0].mean)
  rows = [
    [
      name,
      *(text for of in points[name] for text in (f"{of.mean:.3f}", _ends(of))),
      "yes" if name in front else "",
    ]
    for name in order
  ]
  title = "Score against turns; filled dots are on the Pareto front"
  return pages.Section(
    "Turns against score",
    "On the Pareto front no other treatment has both as few turns and as high "
    "a score, by their means.",
    ["treatment", "turns", "95% interval", "score", "95% interval", "on front"],
    rows,
    charts.scatter(
      [
        charts.Spot(
          name,
          *((of.mean, of.low, of.high) for of in points[name]),
          is_filled=name in front,
        )
        for name in order
      ],
      *("turns", "score", title),
    ),
  )


def ranks(
  experiment: experiments.Experiment, results: experiment_results.Results
) -> pages.Section | None:
  """Returns how far each credit of turns follows what turns told.

  Spearman's correlation with exact bits over all turns but the last of an
  episode, and over questions alone, of one treatment's training episodes,
  credited anew step by step.
  """
  own = results.get(experiment.ranks_of, {})
  found: dict[str, dict[str, list[tuple[float | None, ...]]]] = {}
  for seed in sorted(own):
    steps: dict[int, list[rescore.Record]] = {}
    for record in own[seed].trained:
      steps.setdefault(int(record["iteration"]), []).append(record)
    for credit in RANKED:
      settings = config_lib.Credit(credit=credit)
      episodes = [
        episode
        for records in steps.values()
        if credit != "information" or any(map(rescore.has_bits, records))
        for episode in rescore.rescore(records, settings)
        if episode.is_valid
      ]
      for gym in sorted({e.gym for e in episodes if e.bits}):
        of_gym = [e for e in episodes if e.gym == gym]
        both = tuple(
          rescore.rank_with_bits(of_gym, choice) for choice in ("", "action")
        )
        found.setdefault(gym, {}).setdefault(credit, []).append(both)
  if not found:
    return None
  rows = []
  for gym, by_credit in found.items():
    for credit in RANKED:
      row = [gym, credit]
      for values in zip(*by_credit.get(credit, [(None, None)])):
        row.append(_mean(values) or "never varies")
        row.append(" ".join("–" if v is None else f"{v:.3f}" for v in values))
      rows.append(row)
  return pages.Section(
    "Credit of turns and what they told",
    f"Spearman's correlation with exact bits, of {experiment.ranks_of}'s "
    "training episodes (last turns left out), mean over runs and each run's. "
    "Of all turns it says above all whether a credit tells questions from "
    "searches and answers, which tell next to nothing; of questions alone, "
    "whether it tells good ones from bad ones. A credit that never varies "
    "before the last turn has none; information is made of the bits "
    "themselves.",
    ["gym", "credit", "all turns", "of runs", "questions alone", "of runs"],
    rows,
  )


def _tests_section(tests: Sequence[Mapping[str, Any]]) -> pages.Section:
  head = ["question", "above", "below", "of", "difference", "95% interval"]
  head += ["level of the test", "its interval", "t interval", "of runs"]
  head.append("verdict")
  rows = []
  for test in tests:
    what = test["measure"] + (
      f", {test['users']} users" if test["users"] else ""
    )
    margin = f", but for {test['margin']}" if test["margin"] else ""
    primary = " (primary)" if test["is_primary"] else ""
    row = [test["question"] + primary, test["above"], test["below"]]
    row.append(what + margin)
    if "difference" not in test:
      rows.append([*row, *["" for _ in range(6)], "no runs"])
      continue
    own, (low, high) = test["difference"], test["wide"]
    row += [f"{own['mean']:+.3f}", f"{own['low']:+.3f} to {own['high']:+.3f}"]
    row += [f"{test['level']:.1%}", f"{low:+.3f} to {high:+.3f}"]
    ends = test["t_interval"]
    row.append(f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "")
    row.append(" ".join(f"{value:+.3f}" for value in test["of_seeds"]))
    rows.append([*row, _verdict(test)])
  return pages.Section(
    "Planned tests",
    "Paired by task and seed. A verdict goes by the interval at the level of "
    "the test: 95% for a primary one; the others share 5%. It is too narrow "
    "where runs spread much more than their tasks account for. Beside it, in "
    "no verdict, Student's t interval over runs at the same level, which is "
    "right then, and wide with few runs.",
    head,
    rows,
  )


def _verdict(test: Mapping[str, Any]) -> str:
  """Returns a verdict; of fewer than three runs it says that it is a hint."""
  num_runs, verdict = len(test["seeds"]), str(test["verdict"])
  if "holds" not in verdict or num_runs >= 3:
    return verdict
  return f"{verdict} ({('one run', 'two runs')[num_runs - 1]}: a hint)"


def _average(runs: Sequence[experiment_results.Result], name: str) -> str:
  averages = [r.evaluation.averages.get("macro", {}).get(name) for r in runs]
  return _mean(a["mean"] if a else None for a in averages)


def _mean(values: Any) -> str:
  known = [value for value in values if value is not None]
  return f"{np.mean(known):.3f}" if known else ""


def _ends(of: statistics.Interval, sign: str = "") -> str:
  return f"{of.low:{sign}.3f} to {of.high:{sign}.3f}"
