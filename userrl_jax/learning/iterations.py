"""Iterations: which groups are learned from, and in which optimizer steps.

Comes in: all groups that an iteration played. Goes out: one batch a step, and,
after the steps, one set of metrics. With two mini-batches, of six groups:

  played     a b c d e f      b and e are flat: nothing to learn, dropped
  shuffled   d a | f c        whole groups, so credit compares as before
  steps      update, update   old log-probs are those of the iteration
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import config
from userrl_jax import types
from userrl_jax.learning import baselines
from userrl_jax.learning import batching
from userrl_jax.learning import credit
from userrl_jax.learning import learner
from userrl_jax.learning import rewards
from userrl_jax.learning import token_stats
from userrl_jax.models import lora
from userrl_jax.models import qwen3

Recompute = Callable[[learner.Params, batching.Batch], jax.Array]


def informative(
  groups: Sequence[types.Group], settings: config.Credit
) -> list[types.Group]:
  """Returns the groups whose valid members do not all score alike."""
  if not groups:
    return []
  members = [t for group in groups for t in group.trajectories]
  arrays = rewards.to_arrays(
    groups,
    settings,
    num_tasks=len(groups),
    group_size=max(len(group.trajectories) for group in groups),
    max_turns=max((len(t.turns) for t in members), default=0) or 1,
  )
  scores_PG = credit.score(
    arrays.rewards_PGK, arrays.turn_mask_PGK, arrays.num_tokens_PGK, settings
  )
  is_flat_P = baselines.flat_groups(scores_PG, arrays.valid_PG)
  return [g for g, flat in zip(groups, is_flat_P, strict=True) if not flat]


def pack(
  groups: Sequence[types.Group],
  packing: config.Packing,
  grpo: config.Grpo,
  *,
  max_turns: int,
  num_tasks: int,
  capacity: int,
  seed: tuple[int, ...],
) -> tuple[list[batching.Batch], batching.PackStats]:
  """Packs the groups of an iteration, one batch an optimizer step.

  A group of which fewer than two members are valid has nothing to compare and
  is dropped, unless groups are of one. With `flat_groups` other than keep, flat
  groups are dropped; of more than `num_tasks` that are left, the first are
  taken.

  Args:
    groups: that were played.
    packing: shapes of the rows.
    grpo: what is dropped, and how many steps there are.
    max_turns: K, the most turns a trajectory may have.
    num_tasks: most groups of an iteration.
    capacity: of a batch, see `batching.capacity`.
    seed: of the shuffle; another one for every iteration.

  Returns:
    At least one batch, at most `num_mini_batches`; and what packing wasted.

  Raises:
    ValueError: when something does not fit its shape; names what.
  """
  num_played = len(groups)
  groups = [group for group in groups if not group.has_too_few]
  if grpo.flat_groups != "keep":
    groups = informative(groups, grpo.credit)
  num_flat = num_played - len(groups)
  if grpo.flat_groups != "keep":
    groups = groups[:num_tasks]
  num_batches = min(grpo.num_mini_batches, max(1, len(groups)))
  order = np.arange(len(groups))
  if num_batches > 1:
    order = np.random.default_rng(seed).permutation(len(groups))
  packed = [
    batching.pack(
      [groups[i] for i in part],
      packing,
      group_size=grpo.group_size,
      max_turns=max_turns,
      num_tasks=math.ceil(num_tasks / grpo.num_mini_batches),
      capacity=capacity,
      credit=grpo.credit,
      overlong=grpo.overlong,
    )
    for part in np.array_split(order, num_batches)
  ]
  stats = _joined_stats([stats for _, stats in packed], packing)
  return (
    [batch for batch, _ in packed],
    dataclasses.replace(stats, num_flat_groups=num_flat),
  )


def run(
  update: Callable[..., tuple[learner.State, learner.Metrics]],
  state: learner.State,
  batches: Sequence[batching.Batch],
  *,
  frozen: learner.Params | None = None,
  recompute: Recompute | None = None,
) -> tuple[learner.State, learner.Metrics]:
  """Takes the optimizer steps of an iteration, one a batch.

  Args:
    update: from `learner.make_update`.
    state: donated.
    batches: from `pack`.
    frozen: params that the KL is to, or that adapters adapt; None without.
    recompute: from `make_recompute`, where ratios start from the learner's
      log-probs and there are several steps.

  Returns:
    The state, and metrics: means over all the steps' tokens, except that the
    mean score is over their trajectories and the flat share over their groups,
    maxima and counts are those of all of them, the rate is the last one, and
    the gap of log-probs is that of the first step, before params moved.
  """
  if recompute is not None:
    params = lora.complete(state.params, frozen)
    batches = [
      batch._replace(
        rows=batch.rows._replace(old_logprobs=recompute(params, batch))
      )
      for batch in batches
    ]
  references = () if frozen is None else (frozen,)
  seen = []
  num_groups = [np.asarray(b.valid_PG).any(-1).sum() for b in batches]
  for batch in batches:
    state, metrics = update(state, batch, *references)
    seen.append(metrics)
  return state, _joined_metrics(seen, num_groups)


def make_recompute(
  model_config: qwen3.Config,
  settings: learner.Settings,
  mesh: jax.sharding.Mesh,
) -> Recompute | None:
  """Builds what computes [A, B, M] log-probs before an iteration's first step.

  Returns:
    The jitted `(params, batch) -> logprobs`; None where none are needed: ratios
    start from the sampler's, or the one step finds them by itself.
  """
  grpo = settings.grpo
  if not grpo.importance_cap or grpo.num_mini_batches == 1:
    return None

  def recompute(params, batch):
    def fill(i, logprobs_ABM):
      pick = lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
      stats = token_stats.of_rows(
        params,
        model_config,
        jax.tree.map(pick, batch.rows),
        settings.packing,
        mesh,
        settings.temperature,
      )
      return logprobs_ABM.at[i].set(stats.logprobs)

    return jax.lax.fori_loop(
      0, batch.num_micro_batches, fill, jnp.zeros_like(batch.rows.logprobs)
    )

  where = learner.batch_shardings(settings.packing, mesh)
  return jax.jit(
    recompute,
    in_shardings=(None, where),
    out_shardings=where.rows.old_logprobs,
  )


def _joined_stats(
  parts: Sequence[batching.PackStats], packing: config.Packing
) -> batching.PackStats:
  """Adds up what packing several batches wasted."""
  if len(parts) == 1:
    return parts[0]
  add = lambda field: sum(getattr(part, field) for part in parts)
  fields = [field.name for field in dataclasses.fields(batching.PackStats)]
  sums = {name: add(name) for name in fields if name != "pad_share"}
  row_tokens = packing.rows_per_micro_batch * packing.row_length
  places = sums["num_micro_batches"] * row_tokens
  pad_share = 1 - sums["num_tokens"] / max(1, places)
  return batching.PackStats(pad_share=pad_share, **sums)


def _joined_metrics(
  seen: Sequence[learner.Metrics], num_groups: Sequence[int]
) -> learner.Metrics:
  """Makes one set of metrics of several steps'.

  Args:
    seen: of each step.
    num_groups: of each step, that have a valid member.
  """
  if len(seen) == 1:
    return seen[0]
  # What a mean is over weighs it: tokens, where nothing else is said.
  weights = {
    name: counts / jnp.maximum(counts.sum(), 1)
    for name, counts in (
      ("", jnp.stack([m["train/num_tokens"] for m in seen])),
      (
        "advantage/mean_score",
        jnp.stack([m["rollout/num_valid"] for m in seen]),
      ),
      ("advantage/flat_share", jnp.asarray(num_groups, jnp.float32)),
    )
  }

  def join(name, values):
    values = jnp.stack(values)
    if name in ("train/learning_rate", "train/num_skipped"):
      return values[-1]
    if name.startswith("rollout/logprob_gap"):
      return values[0]
    if name in ("train/num_tokens", "train/skipped", "rollout/num_valid"):
      return values.sum()
    if name.endswith("_max"):
      return values.max()
    return (values * weights.get(name, weights[""])).sum()

  return {
    name: join(name, [metrics[name] for metrics in seen]) for name in seen[0]
  }
