"""Advantages as the loss takes them: of each sampled token of packed rows.

Comes in: a `Batch`, its group arrays whole on every device. Goes out: what each
turn's tokens carry, and the same by token, wherever its row lies. The update's
own steps, so that what is held against the host's float64 is what trains.
"""

from types import ModuleType

import jax.numpy as jnp

from userrl_jax import config
from userrl_jax.learning import batching
from userrl_jax.learning import credit

Array = batching.Array


def of_turns(
  batch: batching.Batch, settings: config.Credit, xp: ModuleType = jnp
) -> Array:
  """Computes the advantage of each turn's tokens, [P, G, K].

  Args:
    batch: whose rewards, masks, counts and facts are read, not its rows.
    settings: of the method; see `credit.check`.
    xp: jax.numpy (float32) or numpy (float64).
  """
  return credit.group_advantages(
    batch.rewards_PGK,
    batch.turn_mask_PGK,
    batch.num_tokens_PGK,
    batch.valid_PG,
    settings,
    xp,
    batch.facts_PGKF,
  )


def of_tokens(
  advantages_PGK: Array, slots_BM: Array, xp: ModuleType = jnp
) -> Array:
  """Gives each token its turn's advantage, [B, M]; 0 on padding.

  Args:
    advantages_PGK: from `of_turns`.
    slots_BM: of the rows, see `batching.Rows`.
    xp: jax.numpy or numpy.
  """
  return xp.where(slots_BM >= 0, advantages_PGK.reshape(-1)[slots_BM], 0.0)
