"""Adapters by hand, and params with them against params merged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax.models import lora
from userrl_jax.models import qwen3

PLAIN = dataclasses.replace(
  qwen3.PRESETS["qwen3_tiny"], num_layers=2, vocab_size=64
)
TARGETS = ("q", "o", "down")
MODEL = dataclasses.replace(
  PLAIN, **lora.fields(config.Lora(rank=2, alpha=8.0, targets=TARGETS))
)


@pytest.fixture(scope="module")
def base():
  return qwen3.init(PLAIN, jax.random.key(0))


@pytest.fixture(scope="module")
def moved():
  """Adapters after some steps: neither of their matrices is 0."""
  adapters = qwen3.init_trained(MODEL, jax.random.key(1))
  rng = np.random.default_rng(2)
  noise = lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32)
  return jax.tree.map(noise, adapters)


def test_a_product_and_its_gradient_equal_hand_maths():
  x = np.array([[1.0, 2.0]], np.float32)
  kernel = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], np.float32)
  a = np.array([[1.0], [-1.0]], np.float32)
  b = np.array([[2.0, 0.0, 1.0]], np.float32)
  # x A = -1; x (W + 3 A B) = [1, 2, 3] + 3 * -1 * [2, 0, 1]
  out, pull_back = jax.vjp(
    lambda *arrays: lora.project(*arrays, 3.0), x, kernel, a, b
  )
  np.testing.assert_array_equal(out, [[-5.0, 2.0, 0.0]])
  d_x, d_kernel, d_a, d_b = pull_back(jnp.array([[1.0, 0.0, 2.0]]))
  # W + 3 A B = [[7, 0, 4], [-6, 1, -2]]
  np.testing.assert_array_equal(d_x, [[15.0, -10.0]])
  assert not d_kernel.any()
  # slope B' = 2 + 2 = 4, so d A = 3 x' 4; d B = 3 * -1 * slope
  np.testing.assert_array_equal(d_a, [[12.0], [24.0]])
  np.testing.assert_array_equal(d_b, [[-3.0, 0.0, -6.0]])


def test_new_adapters_change_nothing_and_take_their_place(base):
  adapters = qwen3.init_trained(MODEL, jax.random.key(1))
  layers = adapters["layers"]
  assert {n for part in layers.values() for n in part} == set(TARGETS)
  assert layers["mlp"]["down"]["lora_a"].shape == (2, 384, 2)
  assert layers["mlp"]["down"]["lora_b"].shape == (2, 2, 128)
  whole = lora.complete(adapters, base)
  assert whole["layers"]["mlp"]["up"] is base["layers"]["mlp"]["up"] or (
    whole["layers"]["mlp"]["up"]["kernel"]
    is base["layers"]["mlp"]["up"]["kernel"]
  )
  jax.tree.map(
    np.testing.assert_array_equal, lora.merge(whole, MODEL.adapter_scale), base
  )


def _logits(params, model, tokens):
  places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  hidden, _ = qwen3.forward(
    params, model, tokens, places, jnp.ones_like(tokens)
  )
  return qwen3.logits(params, model, hidden)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sampler_and_the_learner_see_the_same_numbers(base, moved, dtype):
  model = dataclasses.replace(MODEL, dtype=dtype)
  tokens = jnp.arange(12).reshape(2, 6)
  whole = lora.complete(moved, base)
  got = jax.jit(_logits, static_argnums=1)(whole, model, tokens)
  plain = lora.merge(whole, model.adapter_scale)
  want = jax.jit(_logits, static_argnums=1)(plain, PLAIN, tokens)
  unmoved = jax.jit(_logits, static_argnums=1)(base, PLAIN, tokens)
  assert np.abs(want - unmoved).max() > 0.01
  if dtype == "float32":
    np.testing.assert_allclose(got, want, atol=1e-5)

  cache = qwen3.init_cache(model, 2, 8)
  layout = qwen3.sampling_layout(whole, model)
  assert jax.tree.structure(layout) == jax.tree.structure(
    qwen3.sampling_layout(base, PLAIN)
  )
  places = jnp.broadcast_to(jnp.arange(6), (2, 6))
  hidden, _ = qwen3.forward(layout, model, tokens, places, cache=cache)
  sampled = qwen3.logits(layout, model, hidden)
  gap = np.abs(sampled - got).max()
  assert gap < (1e-5 if dtype == "float32" else 0.05)


def test_gradients_are_those_of_the_merged_params(base, moved):
  tokens = jnp.arange(12).reshape(2, 6)
  loss = lambda params: jax.nn.log_softmax(_logits(params, MODEL, tokens))[
    ..., 3
  ].sum()
  got = jax.grad(lambda own: loss(lora.complete(own, base)))(moved)
  want = jax.grad(
    lambda own: loss(lora.merge(lora.complete(own, base), MODEL.adapter_scale))
  )(moved)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4),
    got,
    want,
  )
  assert all(np.abs(w).max() > 0.01 for w in jax.tree.leaves(want))
