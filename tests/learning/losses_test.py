"""Log-probs of sampled tokens against plain loops and dense forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.learning import losses

B, T, M, D, V = 3, 11, 11, 8, 17


def _inputs(seed=0):
  rng = np.random.default_rng(seed)
  counts = np.array([7, 0, 3])
  return dict(
    hidden=rng.normal(size=(B, T, D)).astype(np.float32),
    head=rng.normal(size=(D, V)).astype(np.float32),
    positions=rng.integers(0, T, (B, M)).astype(np.int32),
    targets=rng.integers(0, V, (B, M)).astype(np.int32),
    mask=np.arange(M) < counts[:, None],
  )


def _stats(hidden, head, x, chunk, temperature):
  return losses.sampled_token_stats(
    hidden,
    lambda h: h @ head,
    x["positions"],
    x["targets"],
    x["mask"],
    chunk=chunk,
    temperature=temperature,
  )


@pytest.mark.parametrize("chunk,temperature", [(1, 1.0), (4, 0.7), (99, 1.3)])
def test_token_stats_equal_a_plain_loop(chunk, temperature):
  x = _inputs()
  got = jax.jit(lambda h, w: _stats(h, w, x, chunk, temperature))(
    x["hidden"], x["head"]
  )
  for b in range(B):
    for m in range(M):
      if not x["mask"][b, m]:
        assert got.logprobs[b, m] == got.entropy[b, m] == got.is_top[b, m] == 0
        continue
      hidden = x["hidden"][b, x["positions"][b, m]].astype(np.float64)
      logits = hidden @ x["head"].astype(np.float64) / temperature
      probs = np.exp(logits - logits.max())
      probs /= probs.sum()
      target = x["targets"][b, m]
      np.testing.assert_allclose(
        got.logprobs[b, m], np.log(probs[target]), atol=2e-6
      )
      np.testing.assert_allclose(
        got.entropy[b, m], -(probs * np.log(probs)).sum(), atol=2e-6
      )
      assert got.is_top[b, m] == (probs.argmax() == target)


def test_gradients_equal_the_dense_form():
  x = _inputs()
  weight = np.random.default_rng(1).normal(size=(B, M))

  def chunked(hidden, head):
    stats = _stats(hidden, head, x, 4, 0.7)
    return jnp.sum(stats.logprobs * weight) + jnp.sum(stats.entropy)

  def dense(hidden, head):
    logprobs = jax.nn.log_softmax(hidden @ head / 0.7)
    rows = np.arange(B)[:, None]
    picked = logprobs[rows, x["positions"], x["targets"]]
    return jnp.sum(jnp.where(x["mask"], picked, 0) * weight)

  got = jax.jit(jax.grad(chunked, (0, 1)))(x["hidden"], x["head"])
  want = jax.grad(dense, (0, 1))(x["hidden"], x["head"])
  for g, w in zip(got, want, strict=True):
    assert jnp.abs(w).max() > 0.1
    np.testing.assert_allclose(g, w, atol=1e-5)


def test_entropy_has_a_gradient_where_it_is_asked_for():
  x = _inputs()

  def chunked(hidden, head, asked):
    stats = losses.sampled_token_stats(
      hidden,
      lambda h: h @ head,
      x["positions"],
      x["targets"],
      x["mask"],
      chunk=4,
      entropy_gradient=asked,
    )
    return stats.entropy.sum()

  def dense(hidden, head):
    logprobs = jax.nn.log_softmax(hidden @ head)
    entropy = -(jnp.exp(logprobs) * logprobs).sum(-1)
    picked = entropy[np.arange(B)[:, None], x["positions"]]
    return jnp.sum(jnp.where(x["mask"], picked, 0))

  arrays = x["hidden"], x["head"]
  for g in jax.grad(chunked, (0, 1))(*arrays, False):
    assert not g.any()
  want = jax.grad(dense, (0, 1))(*arrays)
  for g, w in zip(jax.grad(chunked, (0, 1))(*arrays, True), want, strict=True):
    assert jnp.abs(w).max() > 0.1
    np.testing.assert_allclose(g, w, atol=1e-5)


def test_full_logits_never_exist():
  shape = jax.ShapeDtypeStruct
  rows, tokens, width, vocab, chunk = 2, 512, 16, 4096, 32

  def loss(hidden, head, positions, targets, mask):
    return losses.sampled_token_stats(
      hidden, lambda h: h @ head, positions, targets, mask, chunk=chunk
    ).logprobs.sum()

  places = shape((rows, tokens), jnp.int32)
  compiled = (
    jax.jit(jax.grad(loss, (0, 1)))
    .lower(
      shape((rows, tokens, width), jnp.float32),
      shape((width, vocab), jnp.float32),
      places,
      places,
      shape((rows, tokens), jnp.bool_),
    )
    .compile()
  )
  full_bytes = rows * tokens * vocab * 4
  chunk_bytes = rows * chunk * vocab * 4
  used = compiled.memory_analysis().temp_size_in_bytes
  assert used < 6 * chunk_bytes < full_bytes / 2
