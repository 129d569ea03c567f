"""The supervised update against plain cross-entropy."""

import numpy as np
import pytest

from userrl_jax import config
from userrl_jax.learning import batching
from userrl_jax.learning import imitation
from userrl_jax.learning import learner

PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=2, logprob_chunk=16
)
OPTIMIZER = config.Optimizer(learning_rate=1e-2, max_grad_norm=100.0)


@pytest.fixture(scope="module")
def update(model_config, mesh):
  settings = imitation.Settings(OPTIMIZER, PACKING, num_steps=10)
  return imitation.make_update(model_config, settings, mesh)


@pytest.mark.parametrize("all_ids", [False, True])
def test_loss_is_the_mean_cross_entropy_of_the_marked_tokens(
  make_groups, params, mesh, update, logprobs_alone, all_ids
):
  shown = [t for g in make_groups(0) for t in g.trajectories]
  batch, stats = batching.pack_demonstrations(
    shown, PACKING, capacity=6, all_ids=all_ids
  )
  state = learner.init_state(params, OPTIMIZER, 10, mesh)
  state, metrics = update(state, batch)

  logprobs, hits = [], []
  for t in shown:
    alone = np.asarray(logprobs_alone(params, t), np.float64)
    for i in range(1, len(t.token_ids_T)):
      if all_ids or t.turn_ids_T[i] >= 0:
        logprobs.append(alone[i - 1, t.token_ids_T[i]])
        hits.append(alone[i - 1].argmax() == t.token_ids_T[i])
  assert stats.num_sampled_tokens == len(logprobs)
  np.testing.assert_allclose(
    metrics["train/loss"], -np.mean(logprobs), rtol=0, atol=1e-6
  )
  np.testing.assert_allclose(metrics["train/accuracy"], np.mean(hits))
  assert metrics["train/num_tokens"] == len(logprobs)


def test_imitation_learns_and_compiles_once(make_groups, params, mesh, update):
  shown = [t for g in make_groups(0) for t in g.trajectories]
  batch, _ = batching.pack_demonstrations(shown, PACKING, capacity=6)
  state = learner.init_state(params, OPTIMIZER, 10, mesh)
  first = None
  for _ in range(30):
    state, metrics = update(state, batch)
    first = first or metrics["train/loss"]
  assert metrics["train/loss"] < 0.5 * first
  few, _ = batching.pack_demonstrations(shown[:1], PACKING, capacity=6)
  state, _ = update(state, few)
  assert update._cache_size() == 1
  assert state.step == 31
