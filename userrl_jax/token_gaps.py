"""Measures turn by turn how far sampled log-probs are from recomputed ones.

In: the params that an iteration's episodes were sampled with, and its groups.
Out: the same groups, whose trajectories say the gap of each turn, for readers
of dialogues. The update prints the gap of all tokens (`rollout/logprob_gap`);
here it is told apart, in a program of its own and only where dialogues are
kept.
"""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import assembly
from userrl_jax import sharding
from userrl_jax import stages
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import learner
from userrl_jax.learning import token_stats
from userrl_jax.models import qwen3

Measure = Callable[[qwen3.Params, Sequence[types.Group]], list[types.Group]]


def make(parts: assembly.Parts, stage: stages.Stage) -> Measure:
  """Returns what measures the groups of an iteration; compiles on first use.

  Of more groups than an iteration has, as after a refill, the first are
  measured. Trajectories that are invalid or sampled nothing have no gaps.
  """
  c = parts.config
  program = _program(parts)
  shape = stage.per_step, c.grpo.group_size, c.gyms.max_turns

  def measure(
    params: qwen3.Params, groups: Sequence[types.Group]
  ) -> list[types.Group]:
    P, G, K = shape
    first = groups[:P]
    batch, _ = batching.pack(
      first,
      c.packing,
      group_size=G,
      max_turns=K,
      num_tasks=P,
      capacity=batching.capacity(
        P * G, c.rollout.max_tokens_per_episode, c.packing
      ),
    )
    slots = np.asarray(batch.rows.slots)
    [placed] = learner.placed([batch], c.packing, parts.mesh)
    gaps = jax.device_get(
      program(params, placed.rows, placed.num_micro_batches)
    )
    is_token = slots >= 0
    count = lambda weights=None: np.bincount(
      slots[is_token], weights, minlength=P * G * K
    ).reshape(shape)
    totals_PGK, counts_PGK = count(gaps[is_token]), count()
    means_PGK = totals_PGK / np.maximum(counts_PGK, 1)
    measured = [
      dataclasses.replace(
        group,
        trajectories=[
          _with_gaps(t, means_PGK[p, g], counts_PGK[p, g])
          for g, t in enumerate(group.trajectories)
        ],
      )
      for p, group in enumerate(first)
    ]
    return measured + list(groups[P:])

  return measure


def _with_gaps(
  trajectory: types.Trajectory, means_K: np.ndarray, counts_K: np.ndarray
) -> types.Trajectory:
  if not counts_K.any():
    return trajectory
  gaps = tuple(float(gap) for gap in means_K[: len(trajectory.turns)])
  return dataclasses.replace(trajectory, logprob_gaps=gaps)


def _program(parts: assembly.Parts) -> Callable[..., jax.Array]:
  """Returns the jitted (params, rows, how many) -> [A, B, M] gaps, nats."""
  packing, mesh = parts.config.packing, parts.mesh

  def gaps(params, rows, num_micro_batches):
    def fill(i, gaps_ABM):
      own = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), rows
      )
      stats = token_stats.of_rows(
        *(params, parts.model, own, packing, mesh),
        temperature=parts.config.rollout.temperature,
      )
      return gaps_ABM.at[i].set(jnp.abs(stats.logprobs - own.logprobs))

    return jax.lax.fori_loop(
      0, num_micro_batches, fill, jnp.zeros_like(rows.logprobs)
    )

  where = learner.batch_shardings(packing, mesh)
  return jax.jit(
    gaps,
    in_shardings=(None, where.rows, where.num_micro_batches),
    out_shardings=sharding.replicated(mesh),
  )
