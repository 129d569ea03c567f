"""Measures an agent on held-out tasks.

`python -m userrl_jax.evaluate --config=... --config.init_from=CHECKPOINTS
--config.out_dir=NEW` plays the tasks of `evaluation.splits` and prints scores
with intervals; `--config.model.folder=FOLDER` measures published weights. As a
function, `evaluate` does the same after each stage of a training run. With
`--config.evaluation.agent=oracle` (or canned) the gyms' demonstrators play
instead (or random moves), for a ceiling (or a floor); with `endpoint`, the
model that section `agent` names. Finished evaluations are
kept in `<out_dir>/evaluations/` and not repeated; one that was killed goes on.
"""

from collections.abc import Mapping, Sequence
import functools
import pathlib
import re
from typing import Any

import jax

from userrl_jax import assembly
from userrl_jax import checkpoint
from userrl_jax import collecting
from userrl_jax import config as config_lib
from userrl_jax import costs
from userrl_jax import demonstrate
from userrl_jax import flags
from userrl_jax import forecast
from userrl_jax import forgetting
from userrl_jax import hosts
from userrl_jax import kept_episodes
from userrl_jax import metrics
from userrl_jax import pins
from userrl_jax import recorder
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import types
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3
from userrl_jax.users import profiles

# Iteration of evaluation episodes: apart from all that training draws.
_ITERATION = -10


def main(config: config_lib.Config, command: flags.Command) -> None:
  """Evaluates the configured agent; prints a table."""
  with flags.user_errors():
    parts = assembly.build(config)
    is_policy = config.evaluation.agent == "policy"
    if is_policy and not config.init_from and not config.model.folder:
      raise ValueError(
        "evaluating needs init_from, a folder of checkpoints, or model.folder, "
        "got neither; e.g. "
        "--config.init_from=runs/quickstart/checkpoints/grpo"
      )
    tasks = assembly.held_out_tasks(config)
    run = recorder.Recorder(parts, command)
    name, step = _what(config)
    params = assembly.first_params(parts, step=step) if is_policy else None
  num_attempts = _num_members(config.evaluation)
  run.tell(forecast.text_of_episodes(parts, tasks, num_attempts))
  run.show_evaluation(evaluate(parts, params, tasks, name))


def evaluate(
  parts: assembly.Parts,
  params: qwen3.Params | None,
  tasks: Sequence[types.Task],
  stage: str,
) -> dict[str, Any]:
  """Plays the held-out tasks, once a stage.

  Every episode is kept as it finishes, until all have; an evaluation that was
  killed goes on with those that are missing and ends with the same numbers.

  Args:
    parts: of the run.
    params: of the policy; None for an agent that follows a script.
    tasks: to play.
    stage: name of the result's file.

  Returns:
    The summary that `scorecard.evaluation_summary` makes; also written, with
    its transcripts, into the run's folder.

  Raises:
    SystemExit: with a message and code 2, when what the folder holds under
      this name is damaged, or an evaluation of something else.
  """
  settings = parts.config.evaluation
  with flags.user_errors():
    read = run_folder.read_evaluation
    [earlier, *_] = hosts.gather(
      read(parts.folder, stage) if hosts.is_first() else None
    )
    if earlier is not None:
      _check_pins(parts, earlier.get("pins"), params, tasks, stage)
      _forget_kept(parts.folder, stage)
      return earlier
    pinned = pins.of(parts, params, tasks)
    same = pins.under_way(pinned, parts.config, tasks, recorder.FREE_FIELDS)
    kept = _open_kept(parts.folder, stage, same, tasks)
  if len(kept) and hosts.is_first():
    print(
      f"{stage}: {len(kept)} of {len(tasks) * _num_members(settings)} episodes "
      "were played already"
    )
  num_kept, spent = len(kept), costs.Evaluation(parts, stage)
  try:
    groups = _play(parts, params, tasks, kept)
  finally:
    kept.close()
  trajectories = [t for group in groups for t in group.trajectories]
  spent.keep(len(trajectories) - num_kept)
  if hosts.is_first():
    metrics.write_transcripts(
      parts.folder / "transcripts" / f"evaluation_{stage}.jsonl", trajectories
    )
  summary = scorecard.evaluation_summary(
    trajectories,
    stage=stage,
    temperature=settings.temperature,
    seed=parts.config.seed,
    pins=pinned,
    held_out_gyms=settings.held_out_gyms,
  )
  if settings.forgetting_tasks and params is not None:
    summary["forgetting"] = forgetting.check(parts, params)
  if hosts.is_first():
    metrics.write_json(run_folder.evaluation_path(parts.folder, stage), summary)
  hosts.gather(None)  # not before it is there
  kept.remove()
  return summary


def _open_kept(
  folder: pathlib.Path,
  stage: str,
  pinned: Mapping[str, Any],
  tasks: Sequence[types.Task],
) -> kept_episodes.KeptEpisodes:
  """Opens what was played already, on however many hosts that was.

  The first host takes over all of it and sends it to the others, so that none
  reads a file that another host's disk may show it late.
  """
  path = kept_episodes.path_of(folder, stage, jax.process_index())
  if not hosts.is_first():
    [taken, *_] = hosts.gather([])
    return kept_episodes.KeptEpisodes(path, pinned, tasks, given=taken)
  others = kept_episodes.paths_of_others(folder, stage)
  kept = kept_episodes.KeptEpisodes(path, pinned, tasks, taken_over=others)
  hosts.gather(kept.lines)
  kept.lines.clear()
  return kept


def _forget_kept(folder: pathlib.Path, stage: str) -> None:
  """Deletes the episodes of a finished evaluation, if a kill left them."""
  if hosts.is_first():
    first = kept_episodes.path_of(folder, stage)
    for path in (first, *kept_episodes.paths_of_others(folder, stage)):
      path.unlink(missing_ok=True)


def _play(
  parts: assembly.Parts,
  params: qwen3.Params | None,
  tasks: Sequence[types.Task],
  kept: kept_episodes.KeptEpisodes,
) -> list[types.Group]:
  """Lets the configured agent play what is not kept yet."""
  settings = parts.config.evaluation
  users = profiles.each(settings.profiles, settings.num_attempts)
  if settings.agent == "policy":
    return collecting.play(
      parts,
      params,
      tasks,
      _num_members(settings),
      sampling.Sampling(
        settings.temperature, settings.top_k, settings.top_p, settings.min_p
      ),
      _ITERATION,
      kept,
      users,
    )
  if settings.agent == "endpoint":
    return collecting.play_endpoint(
      parts, tasks, _num_members(settings), _ITERATION, kept, users
    )
  scripts = {
    "oracle": functools.partial(
      demonstrate.oracle_script, noise=0.0, settings=parts.config.gyms
    ),
    "canned": demonstrate.canned_script,
  }
  return collecting.play_scripted(
    parts,
    scripts[settings.agent],
    tasks,
    _num_members(settings),
    _ITERATION,
    kept,
    users,
  )


def _num_members(settings: config_lib.Evaluation) -> int:
  """Returns how many episodes a task has."""
  return settings.num_attempts * max(1, len(settings.profiles))


def _check_pins(
  parts: assembly.Parts,
  pinned: Mapping[str, Any] | None,
  params: qwen3.Params | None,
  tasks: Sequence[types.Task],
  stage: str,
) -> None:
  """Refuses a finished evaluation of another model or of other tasks."""
  if not pinned:
    return  # of an earlier version
  now = pins.of(parts, params, tasks)
  changed = pins.differences(pinned, now, ("agent", "model", "tasks"))
  if changed:
    raise ValueError(
      f"{run_folder.evaluation_path(parts.folder, stage)} must be an "
      "evaluation of what is given now, got one of another "
      f"{', '.join(changed)}; give another --config.out_dir, or delete the "
      "file to play anew"
    )


def _what(config: config_lib.Config) -> tuple[str, int | None]:
  """Returns a name of what is evaluated, and its step if it has one.

  A later checkpoint of the same folder is something else.
  """
  if config.evaluation.agent == "endpoint":
    return re.sub(r"[^\w.-]+", "-", config.agent.model), None
  if config.evaluation.agent != "policy":
    return config.evaluation.agent, None
  if not config.init_from:
    return pathlib.Path(config.model.folder).resolve().name, None
  step = checkpoint.last_step(config.init_from)
  return f"{pathlib.Path(config.init_from).resolve().name}@{step}", step


if __name__ == "__main__":
  flags.run(hosts.joined(main))
