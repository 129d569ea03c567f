"""Updates of adapters: the base stays, devices do not matter, KL is to it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import batching
from userrl_jax.learning import imitation
from userrl_jax.learning import learner
from userrl_jax.models import lora
from userrl_jax.models import qwen3

OPTIMIZER = config.Optimizer(learning_rate=1e-2)
GRPO = config.Grpo(
  kl_coef=0.1,
  credit=config.Credit(score="mean", credit="r2g"),
  optimizer=OPTIMIZER,
)
PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=8, logprob_chunk=16
)
LORA = config.Lora(rank=4, alpha=8.0, targets=("q", "v", "o", "up", "down"))


@pytest.fixture(scope="module")
def adapted(model_config):
  return dataclasses.replace(model_config, **lora.fields(LORA))


def _place(params, mesh):
  """Copies: what a test keeps must not be what an update may donate."""
  where = sharding.param_shardings(params, mesh)
  return jax.device_put(jax.tree.map(np.array, params), where)


def _updates(adapted, base, mesh, batches, grpo=GRPO):
  """Returns the states after each update, their metrics and the base."""
  update = learner.make_update(
    adapted, learner.Settings(grpo, PACKING, temperature=1.0), mesh
  )
  adapters = qwen3.init_trained(adapted, jax.random.key(1))
  state = learner.init_state(adapters, OPTIMIZER, 10, mesh)
  frozen = _place(base, mesh)
  states, seen = [], []
  for batch in batches:
    state, metrics = update(state, batch, frozen)
    states.append(jax.device_get(state))
    seen.append(jax.device_get(metrics))
  assert update._cache_size() == 1
  return state, states, seen, frozen


def _batches(make_groups, num=3):
  return [
    batching.pack(
      make_groups(seed, P=6, most=9),
      PACKING,
      group_size=4,
      max_turns=3,
      num_tasks=6,
      capacity=3,
    )[0]
    for seed in range(num)
  ]


def test_only_adapters_are_trained_and_the_kl_is_to_the_base(
  make_groups, adapted, params, mesh
):
  state, states, seen, frozen = _updates(
    adapted, params, mesh, _batches(make_groups)
  )
  jax.tree.map(np.testing.assert_array_equal, frozen, params)
  of_adapters = jax.eval_shape(
    lambda: qwen3.init_trained(adapted, jax.random.key(0))
  )
  # Trained: adapters. Kept for them: two moments of each, and counts.
  shapes = lambda tree: sorted(x.shape for x in jax.tree.leaves(tree))
  assert shapes(state.params) == shapes(of_adapters)
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert shapes(moments) == sorted(2 * shapes(of_adapters))
  for first, last in zip(
    jax.tree.leaves(states[0].params),
    jax.tree.leaves(states[-1].params),
    strict=True,
  ):
    assert np.abs(first - last).max() > 0
  # New adapters change nothing, so the first update starts at the base.
  assert seen[0]["train/reference_kl"] == pytest.approx(0, abs=1e-6)
  assert seen[2]["train/reference_kl"] > 1e-5


def test_an_imitated_token_becomes_likelier(
  make_trajectory, adapted, params, mesh
):
  rng = np.random.default_rng(0)
  shown = [make_trajectory(rng, [5, 4], [0.0, 1.0]) for _ in range(4)]
  batch, _ = batching.pack_demonstrations(shown, PACKING, capacity=1)
  update = imitation.make_update(
    adapted, imitation.Settings(OPTIMIZER, PACKING, 10), mesh
  )
  adapters = qwen3.init_trained(adapted, jax.random.key(1))
  state = learner.init_state(adapters, OPTIMIZER, 10, mesh)
  frozen, seen = _place(params, mesh), []
  for _ in range(4):
    state, metrics = update(state, batch, frozen)
    seen.append(float(metrics["train/loss"]))
  assert seen[-1] < seen[0] - 0.5
  jax.tree.map(np.testing.assert_array_equal, frozen, params)


def test_one_and_eight_devices_agree(
  eight_devices, make_groups, adapted, params
):
  if not eight_devices:
    return
  batches = _batches(make_groups)
  one = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
  many = sharding.make_mesh(
    config.Mesh(data=2, fsdp=2, tensor=2), jax.devices()
  )
  _, states, metrics, _ = _updates(adapted, params, one, batches)
  state, others, other_metrics, _ = _updates(adapted, params, many, batches)
  for got, want in zip(other_metrics, metrics, strict=True):
    assert want["train/grad_norm"] > 1e-3
    for name, value in want.items():
      np.testing.assert_allclose(
        got[name], value, rtol=1e-5, atol=1e-5, err_msg=name
      )
  for got, want in zip(others, states, strict=True):
    jax.tree.map(
      lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=2e-5),
      got,
      want,
    )
  # Split as their bases are: [2, 32, 4] and [2, 4, 64] of up, moments as well.
  split = {
    jax.tree_util.keystr(path): x.sharding.shard_shape(x.shape)
    for path, x in jax.tree_util.tree_leaves_with_path(state)
    if "['up']" in jax.tree_util.keystr(path)
  }
  assert len(split) == 6
  for path, shape in split.items():
    assert shape == ((2, 16, 4) if "lora_a" in path else (2, 4, 32))


@pytest.mark.exhaustive
def test_a_sliced_head_gives_the_same_update(
  make_groups, adapted, params, mesh, monkeypatch
):
  """Adapters and whole params, by chunks alone and by slices as well."""
  plain = dataclasses.replace(adapted, adapter_rank=0)
  grpo = dataclasses.replace(GRPO, entropy_coef=0.1)
  settings = learner.Settings(grpo, PACKING, temperature=0.9)
  batch, seen = _batches(make_groups, 1)[0], []
  for size in (64, 24):
    monkeypatch.setattr("userrl_jax.learning.vocabulary_slices.SLICE", size)
    _, states, metrics, _ = _updates(adapted, params, mesh, [batch], grpo)
    update = learner.make_update(plain, settings, mesh)
    whole = learner.init_state(params, OPTIMIZER, 10, mesh)
    whole, of_whole = update(whole, batch, _place(params, mesh))
    seen.append((states[0].opt_state, whole.opt_state, metrics[0], of_whole))
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6),
    *seen,
  )
  assert jnp.isfinite(seen[0][2]["train/loss"])
