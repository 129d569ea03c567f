"""Measures a policy on held-out tasks.

`python -m userrl_jax.evaluate --config=... --config.init_from=CHECKPOINTS
--config.out_dir=NEW` plays the tasks of `evaluation.splits` and prints scores
with intervals; `--config.model.folder=FOLDER` measures published weights. As a
function, `evaluate` does the same after each stage of a training run. Finished
evaluations are kept in `<out_dir>/evaluations/` and not repeated.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

from userrl_jax import assembly
from userrl_jax import checkpoint
from userrl_jax import collecting
from userrl_jax import config as config_lib
from userrl_jax import flags
from userrl_jax import recorder
from userrl_jax import scorecard
from userrl_jax import types
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3

# Iteration of evaluation episodes: apart from all that training draws.
_ITERATION = -10


def main(config: config_lib.Config, command: flags.Command) -> None:
  """Evaluates the params of `init_from`, or published ones; prints a table."""
  with flags.user_errors():
    parts = assembly.build(config)
    if not config.init_from and not config.model.folder:
      raise ValueError(
        "evaluating needs init_from, a folder of checkpoints, or model.folder, "
        "got neither; e.g. "
        "--config.init_from=runs/quickstart/checkpoints/grpo"
      )
    tasks = assembly.held_out_tasks(config)
    run = recorder.Recorder(parts, command)
    name, step = _what(config)
    params = assembly.first_params(parts, step=step)
  run.show_evaluation(evaluate(parts, params, tasks, name))


def evaluate(
  parts: assembly.Parts,
  params: qwen3.Params,
  tasks: Sequence[types.Task],
  stage: str,
) -> dict[str, Any]:
  """Plays the held-out tasks, once a stage.

  Args:
    parts: of the run.
    params: of the policy.
    tasks: to play.
    stage: name of the result's file.

  Returns:
    The summary that `scorecard.evaluation_summary` makes; also written, with
    its transcripts, into the run's folder.
  """
  settings = parts.config.evaluation
  with flags.user_errors():
    earlier = recorder.read_evaluation(parts.folder, stage)
  if earlier is not None:
    return earlier
  groups = collecting.play(
    parts,
    params,
    tasks,
    settings.num_attempts,
    sampling.Sampling(
      settings.temperature, settings.top_k, settings.top_p, settings.min_p
    ),
    _ITERATION,
  )
  trajectories = [t for group in groups for t in group.trajectories]
  recorder.write_transcripts(
    parts.folder / "transcripts" / f"evaluation_{stage}.jsonl", trajectories
  )
  summary = scorecard.evaluation_summary(
    trajectories,
    stage=stage,
    temperature=settings.temperature,
    seed=parts.config.seed,
  )
  recorder.write_json(recorder.evaluation_path(parts.folder, stage), summary)
  return summary


def _what(config: config_lib.Config) -> tuple[str, int | None]:
  """Returns a name of what is evaluated, and its step if it has one.

  A later checkpoint of the same folder is something else.
  """
  if not config.init_from:
    return pathlib.Path(config.model.folder).resolve().name, None
  step = checkpoint.last_step(config.init_from)
  return f"{pathlib.Path(config.init_from).resolve().name}@{step}", step


if __name__ == "__main__":
  flags.run(main)
