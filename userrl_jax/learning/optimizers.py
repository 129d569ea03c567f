"""Optimizers of every stage: clipping, AdamW or Muon, a schedule.

In: a stage's settings and length. Out: an optax transformation whose state is
shaped like the params, so that it is sharded and kept as they are.
"""

from typing import Any

import jax
import optax
import optax.contrib

from userrl_jax import config

Params = Any

# Root mean square of AdamW's steps, in units of the rate.
_ADAMW_RMS = 0.2


def make(
  settings: config.Optimizer, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Makes clipping by global norm, then AdamW or Muon under a schedule.

  Muon (Jordan et al. 2024) moves the matrices of the layers by orthogonalised
  momentum, scaled to the usual size of AdamW's steps so that rates carry over
  (Liu et al. 2025, arXiv 2502.16982), and all else by AdamW, both with
  Nesterov's look ahead. Weight decay spares norms and embeddings, unless
  `decay_all` is set.

  Args:
    settings: method, rates and betas.
    num_steps: length of the stage, for the cosine.

  Returns:
    The optimizer and its schedule (optimizer steps -> learning rate).

  Raises:
    ValueError: for an unknown method or schedule, or a number out of range.
  """
  rate, warmup = settings.learning_rate, settings.warmup_steps
  if settings.max_grad_norm <= 0 or rate < 0 or warmup < 0:
    raise ValueError(
      "optimizer.max_grad_norm must be above 0, learning_rate and warmup_steps "
      f"at least 0; got {settings.max_grad_norm}, {rate} and {warmup}"
    )
  match settings.schedule:
    case "constant":
      schedule = optax.constant_schedule(rate)
    case "cosine":
      schedule = optax.cosine_decay_schedule(
        rate, max(1, num_steps - warmup), alpha=0.1
      )
    case unknown:
      raise ValueError(
        f"optimizer.schedule must be constant or cosine; got {unknown!r}"
      )
  if warmup:
    # The first update already moves: a rate of 0 would waste a batch.
    rise = optax.linear_schedule(rate / (warmup + 1), rate, warmup)
    schedule = optax.join_schedules([rise, schedule], [warmup])
  match settings.name:
    case "adamw":
      direction = optax.scale_by_adam(settings.b1, settings.b2)
    case "muon":
      direction = optax.contrib.muon(
        -1.0,  # what follows turns it downhill
        adam_b1=settings.b1,
        adam_b2=settings.b2,
        muon_weight_dimension_numbers=_layer_matrices,
        consistent_rms=_ADAMW_RMS,
      )
    case unknown:
      raise ValueError(f"optimizer.name must be adamw or muon; got {unknown!r}")
  optimizer = optax.chain(
    optax.clip_by_global_norm(settings.max_grad_norm),
    direction,
    optax.add_decayed_weights(
      settings.weight_decay, None if settings.decay_all else _decayed
    ),
    optax.scale_by_learning_rate(schedule),
  )
  return optimizer, schedule


def _layer_matrices(params: Params) -> Params:
  """Marks the stacked matrices of the layers, [L, in, out], for Muon."""

  def leaf(path, x):
    is_matrix = path[-1].key == "kernel" and x.ndim == 3
    return optax.contrib.MuonDimensionNumbers(1, 2) if is_matrix else None

  return jax.tree_util.tree_map_with_path(leaf, params)


def _decayed(params: Params) -> Params:
  """Marks the weights that decay: all but norms and embeddings."""

  def leaf(path, _):
    names = [str(k.key) for k in path]
    return not any("norm" in name or name == "embed" for name in names)

  return jax.tree_util.tree_map_with_path(leaf, params)
