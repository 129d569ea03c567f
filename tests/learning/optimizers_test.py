"""What a step does to each kind of weight, and how large it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import optimizers


def _by_name(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {"/".join(k.key for k in path): np.array(x) for path, x in leaves}


def _two_steps(params, grads, optimizer):
  """Returns by how much two equal gradients change each weight, by name."""

  @jax.jit
  def run(params):
    state, moved = optimizer.init(params), params
    for _ in range(2):
      updates, state = optimizer.update(grads, state, moved)
      moved = optax.apply_updates(moved, updates)
    return jax.tree.map(jnp.subtract, moved, params)

  return _by_name(run(params))


@pytest.fixture(scope="module")
def grads(params):
  rng = np.random.default_rng(7)
  draw = lambda x: jnp.asarray(1e-2 * rng.normal(size=x.shape), jnp.float32)
  return jax.tree.map(draw, params)


def test_muon_orthogonalises_the_layers_and_leaves_the_rest_to_adamw(
  params, grads
):
  make = lambda name: optimizers.make(
    config.Optimizer(name=name, learning_rate=1e-2, max_grad_norm=1e6), 10
  )[0]
  adamw = _two_steps(params, grads, make("adamw"))
  muon = _two_steps(params, grads, make("muon"))
  adam = lambda **kw: _two_steps(
    params, grads, optax.adamw(1e-2, weight_decay=0.0, **kw)
  )
  wanted, wanted_ahead = adam(), adam(nesterov=True)
  for name, step in adamw.items():
    np.testing.assert_allclose(step, wanted[name], atol=1e-6)
    if "layers" not in name or "kernel" not in name:
      np.testing.assert_allclose(muon[name], wanted_ahead[name], atol=1e-6)
      continue
    for layer, against in zip(muon[name], step, strict=True):
      sizes = np.linalg.svd(layer, compute_uv=False)
      assert sizes.max() < 2 * np.quantile(sizes, 0.1)  # any but the least
      assert 0.1 < np.sqrt((layer**2).mean()) / 2e-2 < 0.3  # 0.2 of the rate
      assert (layer * against).sum() > 0  # the same way downhill


@pytest.mark.parametrize("share", [0.1, 0.9, 1.1, 10.0])
def test_gradients_are_clipped_by_their_norm_over_all_weights(grads, share):
  """As the first moment of one step tells, on both sides of the limit."""
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(grads)]
  norm = np.sqrt(sum((x**2).sum() for x in leaves))
  settings = config.Optimizer(b1=0.8, max_grad_norm=float(share * norm))
  optimizer, _ = optimizers.make(settings, 10)
  step = jax.jit(lambda g: optimizer.update(g, optimizer.init(g), g))
  _, state = step(grads)
  moments = jax.tree.leaves(optax.tree.get(state, "mu"))
  for moment, gradient in zip(moments, leaves, strict=True):
    want = (1 - 0.8) * gradient * min(1.0, share)
    np.testing.assert_allclose(moment, want, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_spares_norms_and_embeddings(params, name):
  optimizer, _ = optimizers.make(
    config.Optimizer(name=name, learning_rate=0.1, weight_decay=0.1), 10
  )
  zeros = jax.tree.map(jnp.zeros_like, params)
  changes = _two_steps(params, zeros, optimizer)
  spared = {name for name, change in changes.items() if not change.any()}
  assert spared == {
    "embed/embedding",
    "final_norm/scale",
    "layers/attention_norm/scale",
    "layers/mlp_norm/scale",
    "layers/attention/q_norm/scale",
    "layers/attention/k_norm/scale",
  }
  for name in set(changes) - spared:  # 1 - 0.01, twice
    np.testing.assert_allclose(
      changes[name], (0.99**2 - 1) * _by_name(params)[name], rtol=1e-4
    )
  optimizer, _ = optimizers.make(
    config.Optimizer(learning_rate=0.1, weight_decay=0.1, decay_all=True), 10
  )
  for name, change in _two_steps(params, zeros, optimizer).items():
    np.testing.assert_allclose(
      change, (0.99**2 - 1) * _by_name(params)[name], rtol=1e-4
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_are_sharded_like_their_weights(params, name):
  mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
  optimizer, _ = optimizers.make(config.Optimizer(name=name), 10)
  moments = jax.eval_shape(optimizer.init, params)
  of_weight = dict(
    jax.tree_util.tree_leaves_with_path(sharding.param_shardings(params, mesh))
  )
  checked = set()
  for path, where in jax.tree_util.tree_leaves_with_path(
    sharding.param_shardings(moments, mesh)
  ):
    for weight, want in of_weight.items():
      if path[-len(weight) :] == weight:
        assert where.spec == want.spec
        checked.add(weight)
  assert checked == set(of_weight)


def test_schedules():
  rate = lambda **kw: optimizers.make(
    config.Optimizer(learning_rate=1.0, **kw), 14
  )[1]
  constant = rate(warmup_steps=4)
  np.testing.assert_allclose(
    [constant(i) for i in (0, 1, 4, 13)], [0.2, 0.4, 1, 1], atol=1e-6
  )
  cosine = rate(warmup_steps=4, schedule="cosine")
  np.testing.assert_allclose(
    [cosine(i) for i in (4, 9, 14, 99)], [1, 0.55, 0.1, 0.1], atol=1e-6
  )
  assert rate()(0) == 1.0


def test_an_unknown_method_is_refused():
  with pytest.raises(ValueError, match="adamw or muon; got 'sgd'"):
    optimizers.make(config.Optimizer(name="sgd"), 10)
