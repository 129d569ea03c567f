"""Qwen3: published sizes, pieces = whole, and layers held against numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.models import qwen3

CONFIG = qwen3.Config(
  vocab_size=40,
  hidden_size=24,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  intermediate_size=32,
  tie_embeddings=True,
)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request):
  config = dataclasses.replace(CONFIG, tie_embeddings=request.param)
  return config, jax.jit(lambda key: qwen3.init(config, key))(jax.random.key(0))


@pytest.mark.parametrize(
  ("preset", "num_params"),
  [  # as published with the checkpoints
    ("qwen3_0_6b", 596_049_920),
    ("qwen3_1_7b", 1_720_574_976),
    ("qwen3_4b", 4_022_468_096),
    ("qwen3_8b", 8_190_735_360),
    ("qwen3_14b", 14_768_307_200),
    ("qwen3_32b", 32_762_123_264),
  ],
)
def test_presets_have_the_published_number_of_params(preset, num_params):
  config = qwen3.PRESETS[preset]
  shapes = jax.eval_shape(
    lambda key: qwen3.init(config, key), jax.random.key(0)
  )
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == num_params


def test_the_quickstart_model_has_about_a_million_params():
  config = qwen3.PRESETS["qwen3_tiny"]
  shapes = jax.eval_shape(
    lambda key: qwen3.init(config, key), jax.random.key(0)
  )
  num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert 0.5e6 < num_params < 1.5e6


def test_forward_equals_a_transcription_in_numpy(model):
  config, params = model
  tokens_T = np.random.default_rng(0).integers(0, 40, 9)
  hidden_BTD, _ = qwen3.forward(
    params,
    config,
    jnp.asarray(tokens_T)[None],
    jnp.arange(9)[None],
    jnp.ones((1, 9), jnp.int32),
  )
  logits_TV = qwen3.logits(params, config, hidden_BTD)[0]
  np.testing.assert_allclose(
    logits_TV, _numpy_logits(params, config, tokens_T), atol=2e-5
  )


@pytest.mark.parametrize("by_position", [False, True])
def test_cached_pieces_equal_the_packed_whole(model, by_position):
  config, params = model
  tokens_BT = jax.random.randint(jax.random.key(1), (2, 21), 0, 40)
  positions_BT = jnp.broadcast_to(jnp.arange(21), (2, 21))
  whole, _ = qwen3.forward(
    params, config, tokens_BT, positions_BT, jnp.ones_like(tokens_BT)
  )
  cache = qwen3.init_cache(config, 2, 32, by_position)
  layout = qwen3.sampling_layout(params, config)
  pieces = []
  for start, stop in ((0, 10), (10, 19), (19, 20), (20, 21)):
    hidden, cache = qwen3.forward(
      layout,
      config,
      tokens_BT[:, start:stop],
      positions_BT[:, start:stop],
      cache=cache,
    )
    pieces.append(hidden)
  np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=1e-5)


@pytest.mark.parametrize("by_position", [False, True])
def test_padding_positions_write_nothing(model, by_position):
  config, params = model
  empty = qwen3.init_cache(config, 1, 8, by_position)
  tokens_BT = jnp.ones((1, 3), jnp.int32)
  layout = qwen3.sampling_layout(params, config)
  _, cache = qwen3.forward(
    layout, config, tokens_BT, jnp.array([[0, 8, 8]]), cache=empty
  )
  written = np.asarray(cache.values[0])[0, 0].any(-1)
  assert written.tolist() == [True] + [False] * 7
  others = 1 if by_position else 0  # the axis of a key's entries
  written = np.asarray(cache.keys[0])[0, 0].any(others)
  assert written.tolist() == [True] + [False] * 7


def test_remat_changes_no_gradient(model):
  config, params = model
  tokens_BT = jax.random.randint(jax.random.key(2), (1, 8), 0, 40)

  def grads(config):
    def loss(params):
      hidden, _ = qwen3.forward(
        params,
        config,
        tokens_BT,
        jnp.arange(8)[None],
        jnp.ones_like(tokens_BT),
      )
      return jnp.square(hidden).mean()

    return jax.grad(loss)(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    grads(config),
    grads(dataclasses.replace(config, remat="full")),
  )


def _numpy_logits(params, c, tokens_T):
  """Computes [T, V] logits in float64 with explicit loops over heads."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def norm(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.rms_norm_eps) * scale

  def rotate(x_Td):
    half = c.head_dim // 2
    angles = np.outer(
      np.arange(len(x_Td)), c.rope_theta ** (-np.arange(half) / half)
    )
    a, b = x_Td[:, :half], x_Td[:, half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

  x_TD = p["embed"]["embedding"][tokens_T]
  T = len(tokens_T)
  for i in range(c.num_layers):
    layer = jax.tree.map(lambda leaf: leaf[i], p["layers"])  # noqa: B023
    attention, mlp = layer["attention"], layer["mlp"]
    y_TD = norm(x_TD, layer["attention_norm"]["scale"])
    outs = []
    for h in range(c.num_heads):
      n = h // (c.num_heads // c.num_kv_heads)
      q, k, v = (
        y_TD @ attention[name]["kernel"][:, j * c.head_dim :][:, : c.head_dim]
        for name, j in (("q", h), ("k", n), ("v", n))
      )
      q = rotate(norm(q, attention["q_norm"]["scale"]))
      k = rotate(norm(k, attention["k_norm"]["scale"]))
      scores = q @ k.T / np.sqrt(c.head_dim)
      scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      weights /= weights.sum(-1, keepdims=True)
      outs.append(weights @ v)
    x_TD = x_TD + np.concatenate(outs, -1) @ attention["o"]["kernel"]
    y_TD = norm(x_TD, layer["mlp_norm"]["scale"])
    gate = y_TD @ mlp["gate"]["kernel"]
    gate = gate / (1 + np.exp(-gate))
    up = y_TD @ mlp["up"]["kernel"]
    x_TD = x_TD + (gate * up) @ mlp["down"]["kernel"]
  x_TD = norm(x_TD, p["final_norm"]["scale"])
  head_DV = (
    p["embed"]["embedding"].T if c.tie_embeddings else p["head"]["kernel"]
  )
  return x_TD @ head_DV
