"""Trains an agent: `python -m userrl_jax.train --config=configs/quickstart.py`.

The stages of a run, each a loop over the flow of the package:

  base        a random model learns the format from random canned dialogues
  cold_start  supervised fine-tuning on ranked oracle demonstrations
  grpo        tasks -> episodes -> groups -> batch -> update

and, where the config names them, arms that GRPO is compared with:

  continued   the cold start goes on instead
  rl_only     GRPO from the base model, without a cold start

Every stage is evaluated on held-out tasks; a killed run, started again with
the same command, goes on where it was and ends with the same table.
"""

from collections.abc import Callable

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import data
from userrl_jax import demonstrate
from userrl_jax import evaluate
from userrl_jax import flags
from userrl_jax import recorder
from userrl_jax import report
from userrl_jax.learning import batching
from userrl_jax.learning import imitation
from userrl_jax.learning import learner
from userrl_jax.models import qwen3

# Stages whose params a stage may start from: the first that the run has.
STARTS = {
  "base": (),
  "cold_start": ("base",),
  "grpo": ("cold_start", "base"),
  "continued": ("cold_start",),
  "rl_only": ("base",),
}

# Plays the held-out tasks with params and shows the scores under a name.
Measure = Callable[[str, qwen3.Params], None]


def main(config: config_lib.Config, command: flags.Command) -> None:
  """Runs the configured stages, one after the other, and reports."""
  with flags.user_errors():
    parts = assembly.build(config)
    held_out = assembly.held_out_tasks(config)
    run = recorder.Recorder(parts, command)

  def measure(name: str, params: qwen3.Params) -> None:
    run.show_evaluation(evaluate.evaluate(parts, params, held_out, name))

  for stage in config.stages:
    start = next((s for s in STARTS[stage] if s in config.stages), None)
    with flags.user_errors():
      folder = parts.folder / "checkpoints" / start if start else ""
      params = assembly.first_params(parts, folder)
    train = reinforce if stage in ("grpo", "rl_only") else imitate
    measure(stage, train(parts, run, stage, params, measure))
  run.finish(report.write(parts.folder))


def reinforce(
  parts: assembly.Parts,
  run: recorder.Recorder,
  stage: str,
  params: qwen3.Params,
  measure: Measure,
) -> qwen3.Params:
  """Improves the policy by multi-turn GRPO; returns its params."""
  grpo, config = parts.config.grpo, parts.config
  num_iterations = grpo.num_iterations
  if stage == "rl_only":
    num_iterations = config.comparison.rl_only_iterations
  tasks = data.task_stream(parts.tasks, grpo.tasks_per_iteration, config.seed)
  update = learner.make_update(
    parts.model,
    learner.Settings(grpo, config.packing, config.rollout.temperature),
    parts.mesh,
  )
  state = learner.init_state(params, grpo.optimizer, num_iterations, parts.mesh)
  state = run.begin(stage, state, tasks, num_iterations, update)
  for iteration in run.remaining():
    groups = assembly.collect_groups(
      parts,
      state.params,
      next(tasks),
      grpo.group_size,
      config.rollout.temperature,
      iteration,
    )
    batch, packed = batching.pack(
      groups,
      config.packing,
      group_size=grpo.group_size,
      max_turns=config.gyms.max_turns,
      num_tasks=grpo.tasks_per_iteration,
      capacity=batching.capacity(
        grpo.tasks_per_iteration * grpo.group_size,
        config.rollout.max_tokens_per_episode,
        config.packing,
      ),
    )
    state, metrics = update(state, batch)
    run.record(iteration, metrics, packed, groups)
    if iteration + 1 == grpo.num_iterations < num_iterations:
      measure(f"{stage}@{iteration + 1}", state.params)
    run.save_when_due(iteration + 1, state)
  return state.params


def imitate(
  parts: assembly.Parts,
  run: recorder.Recorder,
  stage: str,
  params: qwen3.Params,
  measure: Measure,
) -> qwen3.Params:
  """Learns from dialogues made without a policy; returns the params."""
  config = parts.config
  settings = config.base if stage == "base" else config.cold_start
  make = demonstrate.canned if stage == "base" else demonstrate.ranked
  num_steps, seed = settings.num_steps, config.seed
  if stage == "continued":  # in another order than the cold start saw
    num_steps = config.comparison.continued_steps
    seed = data.MAX_SEED - 1 - seed
  dialogues = make(config, parts.tasks, parts.chat, parts.episodes)
  with flags.user_errors():
    stream = data.trajectory_stream(dialogues, settings.episodes_per_step, seed)
  update = imitation.make_update(
    parts.model,
    imitation.Settings(settings.optimizer, config.packing, num_steps),
    parts.mesh,
  )
  state = learner.init_state(params, settings.optimizer, num_steps, parts.mesh)
  state = run.begin(stage, state, stream, num_steps, update)
  for step in run.remaining():
    batch, packed = batching.pack_demonstrations(
      next(stream),
      config.packing,
      capacity=batching.capacity(
        settings.episodes_per_step,
        config.rollout.max_tokens_per_episode,
        config.packing,
      ),
      all_ids=stage == "base",
    )
    state, metrics = update(state, batch)
    run.record(step, metrics, packed)
    if stage == "continued" and step + 1 == config.grpo.num_iterations:
      measure(f"{stage}@{step + 1}", state.params)
    run.save_when_due(step + 1, state)
  return state.params


if __name__ == "__main__":
  flags.run(main)
