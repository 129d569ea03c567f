"""Imitation: supervised learning on packed dialogues.

The same batch, the same `forward` and the same optimizer step as `learner`,
with the mean cross-entropy of the marked tokens as the loss. Serves the cold
start (the agent's turns of demonstrations) and base pretraining (every id);
which, is decided by `batching.pack_demonstrations`.
"""

from collections.abc import Callable
import dataclasses

import jax

from userrl_jax import config
from userrl_jax.learning import learner
from userrl_jax.learning import optimizers
from userrl_jax.learning import token_stats
from userrl_jax.models import lora
from userrl_jax.models import qwen3


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the supervised update depends on."""

  optimizer: config.Optimizer
  packing: config.Packing
  num_steps: int  # of the stage


def make_update(
  model_config: qwen3.Config, settings: Settings, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[learner.State, learner.Metrics]]:
  """Builds the supervised update: `update(state, batch) -> (state, metrics)`.

  With adapters it is `update(state, batch, base)`, whose params are frozen.
  The loss is the mean of -log p(token) over the whole batch's marked tokens,
  nats. The state is donated; one program is compiled, whatever batches hold.

  Args:
    model_config: shape of the policy.
    settings: optimizer and shapes.
    mesh: from `sharding.make_mesh`.

  Returns:
    The jitted update. Metrics are float32 scalars under `train/`.

  Raises:
    ValueError: when the settings do not make sense together.
  """
  optimizer, schedule = optimizers.make(settings.optimizer, settings.num_steps)
  return learner.compile_update(
    make_gradient(model_config, settings, mesh),
    model_config,
    optimizer,
    schedule,
    settings.packing,
    mesh,
  )


def make_gradient(
  model_config: qwen3.Config, settings: Settings, mesh: jax.sharding.Mesh
) -> learner.Gradient:
  """Builds what the supervised update computes before its step."""

  def gradient(params, batch, frozen):
    num_tokens = learner.count_tokens(batch)

    def loss_of(params, rows):
      stats = token_stats.of_rows(
        lora.complete(params, frozen),
        model_config,
        rows,
        settings.packing,
        mesh,
        temperature=1.0,
      )
      sums = {
        "train/entropy": stats.entropy.sum(),
        "train/accuracy": stats.is_top.sum(),
      }
      return -stats.logprobs.sum() / num_tokens, (sums, {})

    loss, grads, sums, _ = learner.accumulate(loss_of, params, batch, mesh)
    return loss, grads, {name: x / num_tokens for name, x in sums.items()}

  return gradient
