"""Attention over KV rows: its law, and that longer calls change no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import sharding
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
@pytest.mark.parametrize(
  "shape", [(4, 4, 2, 8), (16, 8, 1, 32), (3, 10, 5, 16)]
)
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


@pytest.mark.parametrize("T", [40, 150])
def test_the_lean_gradient_is_that_of_autodiff(T):
  rng = np.random.default_rng(3)
  q, slope = rng.normal(size=(2, 2, T, 6, 8)).astype(np.float32)
  k, v = rng.normal(size=(2, 2, T, 3, 8)).astype(np.float32)
  segments = np.sort(rng.integers(0, 4, (2, T)))[:, ::-1].astype(np.int32)

  def of(is_lean):
    attend = lambda *x: attention.packed(*x, segments, "xla", is_lean)
    out, back = jax.vjp(attend, q, k, v)
    return out, *back(jnp.asarray(slope))

  for got, want in zip(of(True), of(False), strict=True):
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("T", [128])
def test_splash_equals_plain_attention_and_so_do_its_gradients(T):
  rng = np.random.default_rng(2)
  q = rng.normal(size=(2, T, 4, 128)).astype(np.float32)
  k, v = rng.normal(size=(2, 2, T, 2, 128)).astype(np.float32)
  segments = np.repeat([[1, 2, 3, 0]], 2, 0).repeat(T // 4, 1)

  def loss(q, k, v, name):
    out = attention.packed(q, k, v, jnp.asarray(segments), name)
    real = jnp.where(jnp.asarray(segments)[..., None, None] > 0, out, 0)
    return jnp.sum(jnp.sin(real)), real

  graded = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
  (_, got), got_grads = graded(q, k, v, "splash_interpreted")
  (_, want), want_grads = graded(q, k, v, "xla")
  np.testing.assert_allclose(got, want, atol=2e-5)
  for a, b in zip(got_grads, want_grads, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_splash_on_a_mesh_equals_plain_attention(eight_devices):
  """Each device attends for its own rows and heads, and for them alone."""
  if not eight_devices:
    return
  rng = np.random.default_rng(4)
  q = rng.normal(size=(4, 128, 4, 128)).astype(np.float32)
  k, v = rng.normal(size=(2, 4, 128, 2, 128)).astype(np.float32)
  segments = jnp.asarray(np.repeat([[1, 2, 0]] * 4, [50, 60, 18], 1))
  mesh = sharding.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))

  def loss(q, k, v, name, mesh):
    out = attention.packed(q, k, v, segments, name, mesh)
    return jnp.sum(jnp.sin(jnp.where(segments[..., None, None] > 0, out, 0)))

  graded = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=(3, 4))
  got, got_grads = graded(q, k, v, "splash_interpreted", mesh)
  want, want_grads = graded(q, k, v, "xla", None)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for a, b in zip(got_grads, want_grads, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)
  out = jax.jit(attention.packed, static_argnums=(4, 5, 6))(
    *(q, k, v, segments, "splash_interpreted", False, mesh)
  )
  assert out.sharding.shard_shape(q.shape) == (1, 128, 2, 128)


def test_splash_refuses_rows_that_its_blocks_do_not_divide():
  q = jnp.zeros((1, 100, 2, 128))
  with pytest.raises(ValueError, match="multiple of 128 tokens, got 100"):
    attention.packed(q, q, q, jnp.ones((1, 100), jnp.int32), "splash")


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn_equals_plain_attention():
  rng = np.random.default_rng(3)
  q = rng.normal(size=(2, 128, 4, 64)).astype(jnp.bfloat16)
  k, v = rng.normal(size=(2, 2, 128, 2, 64)).astype(jnp.bfloat16)
  segments = jnp.asarray(np.repeat([[1, 2]], 2, 0).repeat(64, 1))
  got = attention.packed(q, k, v, segments, "cudnn")
  want = attention.packed(q, k, v, segments, "xla")
  np.testing.assert_allclose(
    np.asarray(got, np.float32), np.asarray(want, np.float32), atol=3e-2
  )


_FITS = dict(dtype="bfloat16", head_dim=128, row_length=4096)


@pytest.mark.parametrize(
  "platform, changes, want",
  [
    ("cpu", {}, "xla"),
    ("gpu", {}, "cudnn"),
    ("gpu", {"row_length": 100}, "cudnn"),
    ("gpu", {"dtype": "float32"}, "xla"),
    ("gpu", {"head_dim": 256}, "xla"),
    ("tpu", {}, "splash"),
    ("tpu", {"dtype": "float32"}, "splash"),
    ("tpu", {"head_dim": 32}, "xla"),
    ("tpu", {"row_length": 288}, "xla"),
  ],
)
def test_auto_takes_the_kernel_where_it_computes_the_model(
  platform, changes, want
):
  setting = _FITS | changes
  got = attention.choose("auto", platform=platform, **setting)
  assert got == want and got in attention.IMPLEMENTATIONS
  assert attention.choose("xla", platform=platform, **setting) == "xla"
  kernel = {"gpu": "cudnn", "tpu": "splash"}.get(platform)
  if kernel and want == "xla":
    with pytest.raises(ValueError, match=f"model.attention={kernel} needs "):
      attention.choose(kernel, platform=platform, **setting)


def test_a_kernel_of_another_platform_is_refused():
  with pytest.raises(ValueError, match=r"needs a GPU \(this is a cpu\); set"):
    attention.choose("cudnn", platform="cpu", **_FITS)
