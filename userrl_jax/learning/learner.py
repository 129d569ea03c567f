"""The learner: one jitted, sharded, donated step from a batch to new params.

Comes in: a `State` and a packed `Batch`. Goes out: the next state and metrics.
Inside the one program: credit -> advantages by token -> a loop over the used
micro-batches that adds up gradients -> clipping and AdamW -> metrics. Sums are
divided by numbers of the whole update, so neither packing, micro-batching nor
the mesh changes a number (law L7).
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import advantages
from userrl_jax.learning import baselines
from userrl_jax.learning import batching
from userrl_jax.learning import credit
from userrl_jax.learning import losses
from userrl_jax.learning import optimizers
from userrl_jax.learning import policy_losses
from userrl_jax.learning import token_stats
from userrl_jax.models import lora
from userrl_jax.models import qwen3

Params = Any
Metrics = dict[str, jax.Array]
# (params, batch, frozen params or None) -> loss, its gradient, metrics.
Gradient = Callable[
  [Params, batching.Batch, Params], tuple[jax.Array, Params, Metrics]
]


class State(NamedTuple):
  """What an update changes and a checkpoint keeps.

  Attributes:
    params: float32 master weights.
    opt_state: moments and count of the optimizer.
    step: [] int32, updates made, skipped ones included.
    num_skipped: [] int32, updates that changed nothing, because the gradient
      was not finite or there was no token to learn from.
  """

  params: Params
  opt_state: optax.OptState
  step: jax.Array
  num_skipped: jax.Array


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the update of GRPO depends on."""

  grpo: config.Grpo
  packing: config.Packing
  temperature: float  # that the trajectories were sampled at


def init_state(
  params: Params,
  settings: config.Optimizer,
  num_steps: int,
  mesh: jax.sharding.Mesh,
) -> State:
  """Starts a stage from params: fresh optimizer state, step 0.

  Args:
    params: any float params; they are copied, since updates donate the state.
    settings: the stage's optimizer.
    num_steps: length of the stage.
    mesh: from `sharding.make_mesh`.

  Returns:
    The state, sharded; every array is made where it lives.
  """
  optimizer, _ = optimizers.make(settings, num_steps)

  def start(params):
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    zero = jnp.zeros((), jnp.int32)
    return State(params, optimizer.init(params), zero, zero)

  shardings = sharding.param_shardings(jax.eval_shape(start, params), mesh)
  return jax.jit(start, out_shardings=shardings)(params)


def make_update(
  model_config: qwen3.Config, settings: Settings, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[State, Metrics]]:
  """Builds the GRPO update: `update(state, batch) -> (state, metrics)`.

  With `grpo.kl_coef` it is `update(state, batch, frozen)`: params of the model,
  sharded as those that are trained, whose log-probs are computed in the same
  program. With adapters as well: the state holds those alone, and the frozen
  params are both what they adapt and what the KL is to. The state is donated.
  One program is compiled, whatever batches hold.

  Args:
    model_config: shape of the policy.
    settings: method, shapes and temperature.
    mesh: from `sharding.make_mesh`.

  Returns:
    The jitted update. Metrics are float32 scalars under `train/`,
    `advantage/` and `rollout/`.

  Raises:
    ValueError: when the settings do not make sense together.
  """
  grpo = settings.grpo
  credit.check(grpo.credit)
  policy_losses.check(grpo)
  if settings.temperature <= 0:
    raise ValueError(
      f"rollout.temperature must be above 0; got {settings.temperature}. "
      "Greedy samples have no log-prob to learn from"
    )
  optimizer, schedule = optimizers.make(
    grpo.optimizer, grpo.num_iterations * grpo.num_mini_batches
  )
  return compile_update(
    make_gradient(model_config, settings, mesh),
    model_config,
    optimizer,
    schedule,
    settings.packing,
    mesh,
    has_reference=grpo.kl_coef > 0,
  )


def make_gradient(
  model_config: qwen3.Config, settings: Settings, mesh: jax.sharding.Mesh
) -> Gradient:
  """Builds what the GRPO update computes before its step; see `make_update`."""
  grpo = settings.grpo

  def gradient(params, batch, frozen):
    advantages_PGK = advantages.of_turns(batch, grpo.credit)
    arrays = batch.rewards_PGK, batch.turn_mask_PGK, batch.num_tokens_PGK
    scores_PG = credit.score(*arrays, grpo.credit, jnp)
    num_tokens = count_tokens(batch)
    weights_PG, denominator = policy_losses.AGGREGATIONS[grpo.aggregation](
      jnp.where(batch.in_loss_PG, batch.num_tokens_PGK.sum(-1), 0), grpo
    )

    def loss_of(params: Params, rows: batching.Rows):
      mask_BM = rows.slots >= 0
      advantages_BM = advantages.of_tokens(advantages_PGK, rows.slots)
      sequences_BM = rows.slots // advantages_PGK.shape[-1]
      look = functools.partial(
        token_stats.of_rows,
        model_config=model_config,
        rows=rows,
        packing=settings.packing,
        mesh=mesh,
        temperature=settings.temperature,
      )
      stats = look(
        lora.complete(params, frozen),
        entropy_gradient=grpo.entropy_coef > 0,
      )
      reference_BM = look(frozen).logprobs if grpo.kl_coef > 0 else None
      loss, sums = policy_losses.total(
        policy_losses.Tokens(
          stats.logprobs,
          _old_logprobs(rows, stats, grpo),
          advantages_BM,
          mask_BM,
          sequences_BM,
          scores_PG.size,
        ),
        grpo,
        entropy_BM=stats.entropy,
        sampled_logprobs_BM=rows.logprobs,
        reference_logprobs_BM=reference_BM,
        weights_BM=(
          None if weights_PG is None else weights_PG.reshape(-1)[sequences_BM]
        ),
      )
      gap_BM = jnp.where(mask_BM, jnp.abs(stats.logprobs - rows.logprobs), 0.0)
      sums = {f"train/{name}": value for name, value in sums.items()} | {
        "train/entropy": stats.entropy.sum(),
        "rollout/logprob_gap": gap_BM.sum(),
        "advantage/mean": advantages_BM.sum(),
        "advantage/size": jnp.abs(advantages_BM).sum(),
      }
      sums = jax.tree.map(jax.lax.stop_gradient, sums)
      maxima = {"rollout/logprob_gap_max": gap_BM.max()}
      return loss / denominator, (sums, maxima)

    loss, grads, sums, maxima = accumulate(loss_of, params, batch, mesh)
    metrics = {name: value / num_tokens for name, value in sums.items()}
    metrics |= maxima | _group_metrics(scores_PG, batch.valid_PG)
    return loss, grads, metrics

  return gradient


def count_tokens(batch: batching.Batch, at_least: int = 1) -> jax.Array:
  """Counts the update's tokens with a loss: the denominator of every mean."""
  num_tokens = jnp.sum(batch.rows.slots >= 0, dtype=jnp.int32)
  return jnp.maximum(num_tokens, at_least).astype(jnp.float32)


def accumulate(
  loss_of: Callable[[Params, batching.Rows], tuple[jax.Array, tuple]],
  params: Params,
  batch: batching.Batch,
  mesh: jax.sharding.Mesh,
) -> tuple[jax.Array, Params, Metrics, Metrics]:
  """Adds up losses, gradients and metrics over the used micro-batches.

  Args:
    loss_of: (params, rows of one micro-batch) -> (its share of the loss,
      (metrics to add, metrics to take the largest of)).
    params: to differentiate by.
    batch: of which `num_micro_batches` are computed.
    mesh: gradients are kept sharded like params.

  Returns:
    The loss, its gradient, the summed and the largest metrics.
  """
  compute = jax.value_and_grad(loss_of, has_aux=True)

  def pick(i):
    return jax.tree.map(
      lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch.rows
    )

  def add(i, carry):
    (loss, (sums, maxima)), grads = compute(params, pick(i))
    old_loss, old_grads, old_sums, old_maxima = carry
    plus = functools.partial(jax.tree.map, jnp.add)
    return (
      old_loss + loss,
      plus(old_grads, grads),
      plus(old_sums, sums),
      jax.tree.map(jnp.maximum, old_maxima, maxima),
    )

  _, (sums, maxima) = jax.eval_shape(loss_of, params, jax.eval_shape(pick, 0))
  zeros = functools.partial(
    jax.tree.map, lambda x: jnp.zeros(x.shape, jnp.float32)
  )
  grads = jax.lax.with_sharding_constraint(
    zeros(params), sharding.param_shardings(params, mesh)
  )
  return jax.lax.fori_loop(
    0,
    batch.num_micro_batches,
    add,
    (jnp.zeros(()), grads, zeros(sums), zeros(maxima)),
  )


def advance(
  state: State,
  loss: jax.Array,
  grads: Params,
  num_tokens: jax.Array,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
) -> tuple[State, Metrics]:
  """Takes the optimizer step, unless there is nothing sound to step on.

  A loss or gradient that is not finite, or no token at all, leaves params and
  optimizer as they are and is counted; `step` moves on either way.

  Returns:
    The next state, and loss, norm, rate and whether it was skipped.
  """
  grad_norm = optax.tree.norm(grads)
  is_sound = jnp.isfinite(grad_norm) & jnp.isfinite(loss) & (num_tokens > 0)

  def move(params, opt_state):
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = jax.lax.cond(
    is_sound,
    move,
    lambda params, opt_state: (params, opt_state),
    state.params,
    state.opt_state,
  )
  rate = schedule(state.step - state.num_skipped)
  num_skipped = state.num_skipped + jnp.where(is_sound, 0, 1)
  metrics = {
    "train/loss": loss,
    "train/grad_norm": grad_norm,
    "train/learning_rate": jnp.asarray(rate, jnp.float32),
    "train/num_tokens": num_tokens,
    "train/skipped": 1.0 - is_sound.astype(jnp.float32),
    "train/num_skipped": num_skipped.astype(jnp.float32),
  }
  return State(params, opt_state, state.step + 1, num_skipped), metrics


def compile_update(
  gradient: Gradient,
  model_config: qwen3.Config,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  packing: config.Packing,
  mesh: jax.sharding.Mesh,
  has_reference: bool = False,
) -> Callable[..., tuple[State, Metrics]]:
  """Jits gradient and step, with shardings of state, batch and frozen params.

  The state is donated. Batches may be numpy arrays; they go where they belong.

  Raises:
    ValueError: when the packing fits neither the loss nor the mesh.
  """
  if packing.logprob_chunk <= 0:
    raise ValueError(
      f"packing.logprob_chunk must be above 0; got {packing.logprob_chunk}"
    )

  def update(
    state: State, batch: batching.Batch, frozen: Params = None
  ) -> tuple[State, Metrics]:
    loss, grads, metrics = gradient(state.params, batch, frozen)
    num_tokens = count_tokens(batch, at_least=0)
    state, of_step = advance(
      state, loss, grads, num_tokens, optimizer, schedule
    )
    return state, of_step | metrics

  def start(key):
    params = qwen3.init_trained(model_config, key)
    zero = jnp.zeros((), jnp.int32)
    return State(params, optimizer.init(params), zero, zero)

  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = jax.eval_shape(start, key)
  state_shardings = sharding.param_shardings(shapes, mesh)
  whole = sharding.replicated(mesh)
  arguments = [state_shardings, batch_shardings(packing, mesh)]
  if has_reference or model_config.adapter_rank:
    all_shapes = jax.eval_shape(lambda key: qwen3.init(model_config, key), key)
    arguments.append(sharding.param_shardings(all_shapes, mesh))
  return jax.jit(
    update,
    in_shardings=tuple(arguments),
    out_shardings=(state_shardings, whole),
    donate_argnums=0,
  )


def batch_shardings(
  packing: config.Packing, mesh: jax.sharding.Mesh
) -> batching.Batch:
  """Returns where the arrays of a batch live: rows are split, the rest is not.

  Raises:
    ValueError: when the rows do not divide over the mesh.
  """
  rows = sharding.row_sharding(mesh, packing.rows_per_micro_batch)
  return batching.Batch(
    batching.Rows(*[rows] * len(batching.Rows._fields)),
    *[sharding.replicated(mesh)] * (len(batching.Batch._fields) - 1),
  )


def placed(
  batches: Sequence[batching.Batch],
  packing: config.Packing,
  mesh: jax.sharding.Mesh,
) -> list[batching.Batch]:
  """Puts batches, which every host has whole, on the devices of all hosts."""
  where = batch_shardings(packing, mesh)
  return [sharding.place(batch, where) for batch in batches]


def _old_logprobs(
  rows: batching.Rows, stats: losses.TokenStats, grpo: config.Grpo
) -> jax.Array:
  """Returns the log-probs that ratios start from."""
  if not grpo.importance_cap:
    return rows.logprobs  # the sampler's
  if grpo.num_mini_batches == 1:  # the learner's are those of this very step
    return jax.lax.stop_gradient(stats.logprobs)
  return rows.old_logprobs


def _group_metrics(scores_PG: jax.Array, valid_PG: jax.Array) -> Metrics:
  """Describes the groups that have a valid member."""
  has_member_P = valid_PG.any(-1)
  flat_P = baselines.flat_groups(scores_PG, valid_PG, jnp) & has_member_P
  num_valid = jnp.maximum(valid_PG.sum(), 1)
  return {
    "advantage/flat_share": flat_P.sum() / jnp.maximum(has_member_P.sum(), 1),
    "advantage/mean_score": jnp.where(valid_PG, scores_PG, 0).sum() / num_valid,
    "rollout/num_valid": valid_PG.sum().astype(jnp.float32),
  }
