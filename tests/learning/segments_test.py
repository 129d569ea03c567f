"""Trajectories that share a row do not feel each other."""

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import config
from userrl_jax.learning import batching
from userrl_jax.learning import token_stats

PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=1, logprob_chunk=16
)


def test_gradients_of_a_segment_do_not_depend_on_another(
  make_trajectory, model_config, params, mesh
):
  rng = np.random.default_rng(0)
  made = [make_trajectory(rng, [6, 5], [0, 1], member=i) for i in range(3)]
  batch, stats = batching.pack_demonstrations(made, PACKING, capacity=1)
  assert stats.num_rows == 1
  rows = jax.tree.map(lambda x: x[0], batch.rows)
  of_token = np.take_along_axis(rows.segment_ids, rows.sampled_positions, 1)
  is_sampled = rows.slots >= 0

  @jax.jit
  def gradient(params, token_ids, weights):
    def loss(params):
      changed = rows._replace(token_ids=token_ids)
      stats = token_stats.of_rows(
        params, model_config, changed, PACKING, mesh, 1.0
      )
      return (stats.logprobs * weights).sum()

    return jax.grad(loss)(params)

  for own in (1, 2, 3):
    weights = jnp.asarray((of_token == own) & is_sampled, jnp.float32)
    want = gradient(params, rows.token_ids, weights)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 0.01
    for other in (1, 2, 3):
      ids = np.where(
        rows.segment_ids == other, (rows.token_ids + 7) % 64, rows.token_ids
      )
      got = gradient(params, ids, weights)
      gap = jax.tree.map(lambda g, w: float(jnp.abs(g - w).max()), got, want)
      largest = max(jax.tree.leaves(gap))
      assert largest > 1e-3 if own == other else largest == 0, (own, other)
