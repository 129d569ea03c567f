"""Trains an agent: `python -m userrl_jax.train --config=configs/quickstart.py`.

The stages of a run, each a loop over the flow of the package:

  base        a random model learns the format from random canned dialogues
  cold_start  supervised fine-tuning on ranked oracle demonstrations
  grpo        tasks -> episodes -> groups -> batch -> update

and, where the config names them, arms that GRPO is compared with:

  continued_updates  the cold start goes on instead, for as many updates
  continued          the same for longer, to compare at equal time
  rl_only_updates    GRPO from the base model, for as many updates
  rl_only            the same for longer, to compare at equal time

Every stage is evaluated on held-out tasks; a killed run, started again with
the same command, goes on where it was and ends with the same table.
"""

from userrl_jax import ahead
from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import evaluate
from userrl_jax import fitting
from userrl_jax import flags
from userrl_jax import forecast
from userrl_jax import forgetting
from userrl_jax import hosts
from userrl_jax import recorder
from userrl_jax import report
from userrl_jax import selection
from userrl_jax import stages
from userrl_jax import token_gaps
from userrl_jax.learning import batching
from userrl_jax.learning import iterations
from userrl_jax.learning import learner
from userrl_jax.models import lora
from userrl_jax.models import qwen3


def main(config: config_lib.Config, command: flags.Command) -> None:
  """Runs the configured stages, one after the other, and reports."""
  with flags.user_errors():
    fitting.check(config)
    parts = assembly.build(config)
    held_out = assembly.held_out_tasks(config)
    to_do = stages.plan(parts)
    run = recorder.Recorder(parts, command)
  with run, fitting.explained(parts.config):
    run.tell(forecast.text(parts, to_do))
    for stage in to_do:
      stage = stages.counted(parts, stage)
      learn = imitate if stage.dialogues else reinforce
      # No name for the params: they would live beside the next stage's.
      scores = evaluate.evaluate(
        parts, learn(parts, run, stage), held_out, stage.name
      )
      run.show_evaluation(scores)
  if hosts.is_first():
    run.finish(report.write(parts.folder))


def reinforce(
  parts: assembly.Parts, run: recorder.Recorder, stage: stages.Stage
) -> qwen3.Params:
  """Improves the policy by multi-turn GRPO; returns its params."""
  config = parts.config
  state, update = stages.start(parts, stage)
  beside = stages.beside(parts, stage)
  _note_start(parts, stage, state, beside["frozen"])
  make_stream = lambda: stages.stream(parts, stage)
  state, tasks = run.begin(stage, state, make_stream, update)
  best = selection.Selector(parts, run, stage)
  best.look(run.remaining().start, state, beside["frozen"])
  measure_gaps = token_gaps.make(parts, stage)
  with ahead.collector(parts, tasks, stage.num_steps) as collect:
    for iteration in run.remaining():
      with run.saving_what_is_done(iteration, state):
        params = lora.complete(state.params, beside["frozen"])
        groups = collect(iteration, params)
      batches, packed = iterations.pack(
        groups,
        config.packing,
        config.grpo,
        max_turns=config.gyms.max_turns,
        num_tasks=stage.per_step,
        capacity=stages.capacity(parts, stage),
        seed=(config.seed, iteration),
      )
      hosts.enter("update")
      if run.keeps_dialogues(iteration):
        groups = measure_gaps(params, groups)
      batches = learner.placed(batches, config.packing, parts.mesh)
      state, metrics = iterations.run(update, state, batches, **beside)
      run.record(iteration, metrics, packed, groups)
      best.look(iteration + 1, state, beside["frozen"])
      run.save_when_due(iteration + 1, state)
  return best.chosen(stages.finished(parts, stage, state, beside["frozen"]))


def imitate(
  parts: assembly.Parts, run: recorder.Recorder, stage: stages.Stage
) -> qwen3.Params:
  """Learns from dialogues made without a policy; returns the params."""
  state, update = stages.start(parts, stage)
  frozen = stages.frozen(parts, stage)
  beside = () if frozen is None else (frozen,)
  _note_start(parts, stage, state, frozen)
  make_stream = lambda: stages.stream(parts, stage)
  state, dialogues = run.begin(stage, state, make_stream, update)
  best = selection.Selector(parts, run, stage)
  best.look(run.remaining().start, state, frozen)
  for step in run.remaining():
    batch, packed = batching.pack_demonstrations(
      next(dialogues),
      parts.config.packing,
      capacity=stages.capacity(parts, stage),
      all_ids=stage.name == "base",
    )
    hosts.enter("update")
    [batch] = learner.placed([batch], parts.config.packing, parts.mesh)
    state, metrics = update(state, batch, *beside)
    run.record(step, metrics, packed)
    best.look(step + 1, state, frozen)
    run.save_when_due(step + 1, state)
  return best.chosen(stages.finished(parts, stage, state, frozen))


def _note_start(
  parts: assembly.Parts,
  stage: stages.Stage,
  state: learner.State,
  frozen: qwen3.Params | None,
) -> None:
  """Keeps what is known before the first stage, to see what is forgotten."""
  if stage.name == parts.config.stages[0]:
    # Adapters begin as nothing.
    is_whole = "embed" in state.params
    forgetting.note_start(parts, state.params if is_whole else frozen)


if __name__ == "__main__":
  flags.run(hosts.joined(main))
