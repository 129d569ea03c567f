"""Attention over KV rows: its law, and that longer calls change no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.models import attention


def _inputs(B, T, H, N, d, C):
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  positions_BT = rng.integers(0, 200 - T, (B, 1)) + np.arange(T)
  return (
    normal(B, T, H, d),
    normal(B, N, d, C),
    normal(B, N, C, d),
    positions_BT,
  )


@pytest.mark.parametrize("T", [1, 32])
@pytest.mark.parametrize("shape", [(4, 4, 2, 8), (16, 8, 1, 32), (3, 5, 5, 16)])
def test_a_longer_call_changes_no_bit(T, shape):
  B, H, N, d = shape
  q, keys, values, positions_BT = _inputs(B, T, H, N, d, 1024)
  cached = jax.jit(attention.cached)
  short = cached(q, keys[..., :256], values[:, :, :256], positions_BT)
  for C in (512, 768, 1024):
    longer = cached(q, keys[..., :C], values[:, :, :C], positions_BT)
    np.testing.assert_array_equal(longer, short)


def test_rows_are_attended_up_to_each_querys_position():
  q, keys, values, positions_BT = _inputs(2, 3, 4, 2, 8, 512)
  got = attention.cached(q, keys, values, positions_BT)
  for b in range(2):
    for t in range(3):
      stop = positions_BT[b, t] + 1
      for h in range(4):
        scores = q[b, t, h] @ keys[b, h // 2, :, :stop] / np.sqrt(8)
        weights = np.exp(scores - scores.max())
        want = weights @ values[b, h // 2, :stop] / weights.sum()
        np.testing.assert_allclose(got[b, t, h], want, atol=1e-5)


def test_packed_segments_equal_rows_of_their_own():
  rng = np.random.default_rng(1)
  q = rng.normal(size=(1, 150, 4, 8)).astype(np.float32)
  k, v = rng.normal(size=(2, 1, 150, 2, 8)).astype(np.float32)
  segments = np.repeat([1, 2, 0], [70, 60, 20])[None]
  packed = attention.packed(q, k, v, jnp.asarray(segments))
  for start, stop in ((0, 70), (70, 130)):
    part = slice(start, stop)
    row = lambda x, part=part: x[:, part]
    alone = attention.packed(
      row(q), row(k), row(v), jnp.ones((1, stop - start), jnp.int32)
    )
    np.testing.assert_allclose(packed[:, part], alone, atol=1e-6)
