"""What must hold of choosing checkpoints and of epochs; knows no JAX.

In: the settings of `selection` and the few others that it depends on. Out:
rules for `config_rules`, which refuses a config that breaks one.
"""

from collections.abc import Sequence

from userrl_jax import config
from userrl_jax import config_selection
from userrl_jax import method_rules

# Stages in which something is looked at.
IMITATING = ("cold_start", "continued_updates", "continued")
PLAYING = ("grpo", "rl_only_updates", "rl_only")


def rules(
  selection: config_selection.Selection,
  stages: Sequence[str],
  cold_start: config.ColdStart,
  checkpoint: config.Checkpoint,
  max_staleness: int,
) -> list[method_rules.Rule]:
  """Returns what must hold between fields that are right by themselves."""
  is_on, every = selection.num_tasks > 0, checkpoint.every_steps
  plays = bool(set(stages) & set(PLAYING))
  looked_at = (set(IMITATING) | set(PLAYING)) & set(stages)
  made = [
    (
      f"selection.{name}",
      f"a multiple of checkpoint.every_steps ({every}) with "
      "selection.num_tasks: a run that was killed goes on from there",
      not is_on or not every or value % every == 0,
    )
    for name, value in (
      ("loss_every", selection.loss_every),
      ("play_every", selection.play_every),
    )
  ]
  return [
    *made,
    (
      "checkpoint.every_steps",
      "above 0 with selection.num_tasks: a run that was killed would go on "
      "from before its best look",
      not is_on or every > 0,
    ),
    (
      "selection.use",
      "stages of this run other than base",
      set(selection.use) <= looked_at,
    ),
    (
      "selection.num_tasks",
      "above 0 with selection.use: tasks that tell which is best",
      is_on or not selection.use,
    ),
    (
      "rollout.max_staleness",
      "0 with selection.num_tasks: the engine cannot play them while it plays "
      "ahead",
      not is_on or not plays or max_staleness == 0,
    ),
    (
      "cold_start.num_steps",
      f"left at {config.ColdStart().num_steps} with cold_start.num_epochs, "
      "which gives the steps",
      not cold_start.num_epochs
      or cold_start.num_steps == config.ColdStart().num_steps,
    ),
  ]
