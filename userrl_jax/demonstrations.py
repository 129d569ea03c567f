"""Demonstrations by any agent: played, ranked, filtered, written down.

In: the parts of a run, whose `evaluation.agent` plays the training tasks. Out,
in `<out_dir>/`:

  episodes/demonstrations.jsonl   every valid episode as it finishes, with ids
  demonstrations/dialogues.jsonl  the best of them, for `cold_start.source`
  demonstrations/sharegpt.json    the same, in the form of other trainers
  demonstrations/report.json      what was played, kept and left out, by gym

Started again, it plays what is missing only. Where agent and users are
deterministic, so are the files.
"""

import collections
from collections.abc import Mapping, Sequence
import functools
from typing import Any

from userrl_jax import assembly
from userrl_jax import collecting
from userrl_jax import demonstrate
from userrl_jax import exchange
from userrl_jax import flags
from userrl_jax import forecast
from userrl_jax import gyms
from userrl_jax import imported
from userrl_jax import kept_episodes
from userrl_jax import metrics
from userrl_jax import pins
from userrl_jax import recorder
from userrl_jax import types
from userrl_jax.chat import turns
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3

ITERATION = -2  # that of the cold start's own: an oracle demonstrates the same


def check(parts: assembly.Parts) -> None:
  """Refuses what cannot be demonstrated.

  Raises:
    ValueError: names the field.
  """
  c = parts.config
  if c.evaluation.agent == "canned":
    raise ValueError(
      "evaluation.agent must be oracle, policy or endpoint to demonstrate, got "
      "'canned', whose moves are random"
    )
  is_policy = c.evaluation.agent == "policy"
  if is_policy and not c.init_from and not c.model.folder:
    raise ValueError(
      "demonstrations of a policy need init_from, a folder of checkpoints, or "
      "model.folder, got neither; or set --config.evaluation.agent=oracle"
    )


def make(parts: assembly.Parts, command: flags.Command) -> dict[str, Any]:
  """Plays what is missing and writes all files.

  Args:
    parts: of the run; `cold_start` says how many tasks, tries and which are
      kept.
    command: that started it.

  Returns:
    The report.

  Raises:
    SystemExit: with a message and code 2, when the folder holds something else
      or too many episodes fail; with code 3, when the budget is spent.
  """
  c = parts.config
  tasks = parts.tasks[: c.cold_start.num_tasks or None]
  with flags.user_errors():
    run = recorder.Recorder(parts, command)
    is_policy = c.evaluation.agent == "policy"
    params = assembly.first_params(parts) if is_policy else None
    pinned = pins.of(parts, params, tasks)
    pinned["noise"] = c.cold_start.noise
    path = parts.folder / "episodes" / "demonstrations.jsonl"
    same = pins.under_way(pinned, c, tasks, recorder.FREE_FIELDS)
    kept = kept_episodes.KeptEpisodes(path, same, tasks)
  run.tell(forecast.text_of_episodes(parts, tasks, c.cold_start.num_tries))
  if len(kept):
    run.tell(f"{len(kept)} episodes were played already")
  try:
    groups = _play(parts, params, tasks, kept)
  finally:
    kept.close()
  chosen, report = choose(parts, groups)
  report = {"agent": _name(parts), "pins": pinned, "gyms": report}
  written = [_dialogue(parts, t) for t in chosen]
  folder = parts.folder / "demonstrations"
  exchange.write(folder / "dialogues.jsonl", written)
  exchange.write(folder / "sharegpt.json", written)
  metrics.write_json(folder / "report.json", report)
  run.tell(_text(report["gyms"]))
  run.tell(f"{len(written)} demonstrations: {folder / 'dialogues.jsonl'}")
  return report


def choose(
  parts: assembly.Parts, groups: Sequence[types.Group]
) -> tuple[list[types.Trajectory], dict[str, dict[str, Any]]]:
  """Chooses the demonstrations: the best of each task without a flaw.

  Returns:
    Them, task after task, best first, and by gym:
      played, kept: episodes
      score_of_valid, score_of_kept: means; None where there are none
      left_out: reason -> episodes
  """
  settings = parts.config.cold_start
  chosen: list[types.Trajectory] = []
  counts: dict[str, dict[str, Any]] = {}
  for group in groups:
    of = counts.setdefault(
      group.task.gym,
      {"played": [], "kept": [], "left_out": collections.Counter()},
    )
    flaws = [_flaw(parts, t, settings.min_score) for t in group.trajectories]
    good = types.Group(
      group.task,
      [t for t, flaw in zip(group.trajectories, flaws) if not flaw],
    )
    best = demonstrate.rank(good, settings.top_k, settings.min_score)
    chosen += best
    of["played"] += group.trajectories
    of["kept"] += best
    of["left_out"].update(flaw for flaw in flaws if flaw)
    of["left_out"]["better ones of the task"] += len(good.trajectories) - len(
      best
    )
  return chosen, {
    gym: {
      "played": len(of["played"]),
      "kept": len(of["kept"]),
      "score_of_valid": _mean([t.score for t in of["played"] if t.is_valid]),
      "score_of_kept": _mean([t.score for t in of["kept"]]),
      "left_out": {k: n for k, n in sorted(of["left_out"].items()) if n},
    }
    for gym, of in counts.items()
  }


def _flaw(
  parts: assembly.Parts, played: types.Trajectory, min_score: float
) -> str:
  """Returns why an episode is no demonstration; "" when it may be one."""
  if not played.is_valid:
    return f"invalid: {played.fault}"
  for turn in played.turns:
    if turn.fault != types.Fault.OK:
      return f"a turn is {turn.fault}"
  if played.stop_reason == types.StopReason.EPISODE_BUDGET:
    return "longer than rollout.max_tokens_per_episode"
  if played.reward <= 0:
    return "earned nothing"
  if played.score < min_score:
    return "below cold_start.min_score"
  for k in range(len(played.turns)):
    ids = played.token_ids_T[played.turn_ids_T == k].tolist()
    if len(turns.read_ids(ids, parts.tokenizer).calls) != 1:
      return "a turn with several calls"
  return ""


def _play(
  parts: assembly.Parts,
  params: qwen3.Params | None,
  tasks: Sequence[types.Task],
  kept: kept_episodes.KeptEpisodes,
) -> list[types.Group]:
  c = parts.config
  num_tries = c.cold_start.num_tries
  if c.evaluation.agent == "endpoint":
    return collecting.play_endpoint(parts, tasks, num_tries, ITERATION, kept)
  if c.evaluation.agent == "oracle":
    script = functools.partial(
      demonstrate.oracle_script, noise=c.cold_start.noise, settings=c.gyms
    )
    return collecting.play_scripted(
      parts, script, tasks, num_tries, ITERATION, kept
    )
  e = c.evaluation
  how = sampling.Sampling(e.temperature, e.top_k, e.top_p, e.min_p)
  return collecting.play(parts, params, tasks, num_tries, how, ITERATION, kept)


def _dialogue(
  parts: assembly.Parts, played: types.Trajectory
) -> exchange.Dialogue:
  gym = gyms.make(played.task.gym, parts.config.gyms)
  system = gym.system_prompt(parts.config.chat.profile)
  return imported.exported(played, parts.chat, system, gym.choices)


def _name(parts: assembly.Parts) -> str:
  c = parts.config
  names = {
    "endpoint": c.agent.model,
    "policy": c.init_from or c.model.folder,
  }
  return names.get(c.evaluation.agent, c.evaluation.agent)


def _text(report: Mapping[str, Mapping[str, Any]]) -> str:
  lines = []
  for gym, of in report.items():
    reasons = [f"{name} {n}" for name, n in of["left_out"].items()]
    why = f" (left out: {', '.join(reasons)})" if reasons else ""
    lines.append(f"{gym}: {of['kept']} of {of['played']} episodes kept{why}")
  return "\n".join(lines)


def _mean(scores: Sequence[float]) -> float | None:
  return sum(scores) / len(scores) if scores else None
