"""The tables of a report beside those of scores and faults.

In: a `run_folder.Run`. Out: plain rows for the template; a table without a row
is not shown. Numbers are those of the run's files, read and added up.
"""

import collections
from collections.abc import Mapping, Sequence
import math
from typing import Any

from userrl_jax import config as config_lib
from userrl_jax import rescore
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import selection

# What measures are called on the page, in order; others follow by their name.
_MEASURES = {
  "reward": "reward, as in the paper",
  "normalised": "normalised score",
  "pass@1": "pass@1",
  "effective_turns": "effective turns",
  "time_weighted": "time-weighted score",
  "questions": "questions to the user",
  "words_read": "words the user had to read",
  "completed": "completed",
  "truncated": "truncated",
  "format_validity": "valid calls",
}
_LEFT_OUT = ("score", "pass^1")  # of the table above; and the same as pass@1
# What is added up of a stage's steps, and what the page calls it.
_COSTS = {
  "time/step_s": "seconds",
  "episode/num": "episodes",
  "rollout/tokens_sampled": "tokens sampled",
  "rollout/tokens_read": "tokens read",
  "train/num_tokens": "tokens learned",
  "user/requests": "requests to models",
  "user/retries": "of them again",
  "user/tokens_in": "tokens in",
  "user/tokens_out": "tokens out",
  "user/usd": "US dollars",
  "user/outage_s": "seconds of outage",
}


def measures(run: run_folder.Run) -> dict[str, Any]:
  """Returns every measure of each stage's evaluation, by gym and averaged."""
  rows = []
  for stage, evaluation in run.evaluations.items():
    for group, label, mean in evaluation.groups:
      for gym, found in group.gyms.items():
        rows.append((stage, label.format(gym), dict(found.measures)))
      if len(group.gyms) > 1:
        for title, own in scorecard.averages_of(group.averages, mean):
          rows.append((stage, title, dict(own)))
    own = scorecard.averages_of(evaluation.overall, scorecard.MEAN_OF_ALL)
    rows += [(stage, title, dict(values)) for title, values in own]
  there = {name for _, _, values in rows for name in values} - set(_LEFT_OUT)
  names = [name for name in _MEASURES if name in there]
  names += sorted(there - set(names))
  return {
    "names": [(name, _MEASURES.get(name, name)) for name in names],
    "rows": rows,
  }


def profiles(run: run_folder.Run) -> dict[str, Any]:
  """Returns the score of each stage with users of each profile, by gym."""
  rows = [
    (stage, profile, dict(gyms))
    for stage, evaluation in run.evaluations.items()
    for profile, gyms in evaluation.profiles.items()
  ]
  gyms = dict.fromkeys(gym for _, _, own in rows for gym in own)
  return {"gyms": list(gyms), "rows": rows}


def forgetting(run: run_folder.Run) -> list[tuple[str, Mapping[str, float]]]:
  """Returns what each stage's evaluation says of a fixed set, oldest first.

  Before them what the params said that the run started from, if it is known.
  """
  found = {"start": run.forgetting_start} | {
    stage: evaluation.forgetting
    for stage, evaluation in run.evaluations.items()
  }
  return [(name, numbers) for name, numbers in found.items() if numbers]


def information(run: run_folder.Run) -> dict[str, Any]:
  """Returns the mean bits that turns told, by stage, gym and number of turn.

  Of valid episodes that had the turn, in gyms that count bits.
  """
  rows, most = [], 0
  for stage, dialogues in run.played.items():
    by_gym: dict[str, list[list[float]]] = {}
    for dialogue in dialogues:
      bits = _bits(dialogue)
      if bits and dialogue.get("valid", True):
        by_gym.setdefault(str(dialogue["gym"]), []).append(bits)
    for gym, episodes in sorted(by_gym.items()):
      num_turns = max(map(len, episodes))
      turns = [[e[k] for e in episodes if len(e) > k] for k in range(num_turns)]
      rows.append(
        {
          "stage": stage,
          "gym": gym,
          "num": len(episodes),
          "episode": _mean([sum(episode) for episode in episodes]),
          "turns": [_mean(of_turn) for of_turn in turns],
        }
      )
      most = max(most, num_turns)
  return {"rows": rows, "num_turns": most}


def costs(run: run_folder.Run) -> dict[str, Any]:
  """Adds up what each stage took, in training and evaluation, and all of it."""
  rows = []
  for what, lines in (
    ("training", run.metrics),
    ("evaluation", run.evaluation_costs),
  ):
    sums: dict[str, collections.Counter[str]] = {}
    for line in lines:
      own = sums.setdefault(str(line.get("stage")), collections.Counter())
      for name in _COSTS:
        value = line.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
          own[name] += value
      own["steps"] += what == "training" and "time/step_s" in line
    rows += [
      (stage, what, sums[stage]) for stage in run.stages if stage in sums
    ]
  names = [n for n in _COSTS if any(own[n] for _, _, own in rows)]
  rows.sort(key=lambda row: run.stages.index(row[0]))
  if len(rows) > 1:
    total: collections.Counter[str] = collections.Counter()
    for _, _, own in rows:
      total.update(own)
    rows.append(("", "", total))
  columns = [("steps", "steps"), *((name, _COSTS[name]) for name in names)]
  return {"columns": columns, "rows": rows if names else []}


def commands(run: run_folder.Run) -> list[tuple[str, str]]:
  """Returns when and with which command each process of a run was started."""
  found = []
  for number, process in enumerate(run.processes):
    command = process.get("command")
    if command:
      text = command if isinstance(command, str) else " ".join(command)
      time = str(process.get("time", "")) if number else ""
      found.append((f"resumed {time}".strip() if number else "", text))
  return found


def chosen(run: run_folder.Run) -> list[dict[str, Any]]:
  """Returns which checkpoint of each stage is best, and which is used."""
  rows = []
  for stage, record in selection.read(run.folder).items():
    looks = record.get("looks", [])
    at = {step: value for step, value in looks}
    if looks and {record.get("best"), record.get("used")} <= at.keys():
      row = {"stage": stage, "num": len(looks), **record}
      row |= {"value": at[record["best"]], "used_value": at[record["used"]]}
      rows.append(row)
  return rows


def credited(
  run: run_folder.Run, count: int
) -> tuple[dict[str, list[dict[str, Any]]], str]:
  """Returns each stage's last training dialogues, with what turns were given.

  A turn gets `credit`, the `advantage` that all its tokens carry, and `share`:
  the advantage over the largest that is shown, for its colour. Computed anew
  from the last step's transcripts, as training does.

  Args:
    run: whose `trained` holds all of the last step.
    count: dialogues of a stage, the last ones, flat groups only where there
      are no others.

  Returns:
    stage -> dialogues; and why there are no advantages, if there are none.
  """
  shown = {stage: d[-count:] for stage, d in run.trained.items()}
  try:
    settings = config_lib.Credit(**run.config["grpo"]["credit"])
    for stage, dialogues in run.trained.items():
      given = rescore.rescore(dialogues, settings)
      pairs = list(zip(dialogues, given, strict=True))
      pairs = sorted(pairs, key=lambda pair: not pair[1].is_flat)[-count:]
      size = max((abs(a) for _, e in pairs for a in e.advantages), default=0.0)
      shown[stage] = [
        {**d, "turns": _with_credit(d["turns"], e, size)} for d, e in pairs
      ]
  except (ValueError, KeyError, TypeError) as error:
    return shown, f"{type(error).__name__}: {error}"
  return shown, ""


def _with_credit(
  turns: Sequence[Mapping[str, Any]], episode: rescore.Episode, size: float
) -> list[dict[str, Any]]:
  if not episode.is_valid:
    return [dict(turn) for turn in turns]
  return [
    {
      **turn,
      "credit": own,
      "advantage": advantage,
      "share": advantage / size if size else 0.0,
    }
    for turn, own, advantage in zip(
      turns, episode.credits, episode.advantages, strict=True
    )
  ]


def _bits(dialogue: Mapping[str, Any]) -> list[float]:
  bits = [
    (turn.get("privileged") or {}).get("information_bits")
    for turn in dialogue["turns"]
  ]
  return [] if None in bits else [float(b) for b in bits if b is not None]


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)
