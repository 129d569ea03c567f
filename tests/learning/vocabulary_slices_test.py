"""Log-probs over slices of the vocabulary against the dense form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import losses
from userrl_jax.learning import vocabulary_slices

B, T, M, D, V = 8, 11, 9, 8, 64
COUNTS = np.array([7, 0, 3, 1, 0, 4, 2, 3])  # two chunks of 4, one of padding


def _inputs(is_tied, seed=0):
  rng = np.random.default_rng(seed)
  mask = np.arange(M) < COUNTS[:, None]
  mask[0, 2] = False  # a hole
  return dict(
    hidden=rng.normal(size=(B, T, D)).astype(np.float32),
    matrix=rng.normal(size=(V, D) if is_tied else (D, V)).astype(np.float32),
    positions=rng.integers(0, T, (B, M)).astype(np.int32),
    targets=rng.integers(0, 50, (B, M)).astype(np.int32),
    mask=mask,
    weights=rng.normal(size=(2, B, M)).astype(np.float32),
  )


def _sliced(hidden, matrix, x, head, **options):
  return vocabulary_slices.sampled_token_stats(
    hidden,
    matrix,
    head,
    x["positions"],
    x["targets"],
    x["mask"],
    **dict(chunk=4, slice_size=20) | options,
  )


def _dense(hidden, matrix, x, head, temperature):
  """The formulas, all logits at once."""
  logits = hidden @ (matrix.T if head.is_tied else matrix) / temperature
  logits = logits[..., : head.num_ids or None]
  logprobs = jax.nn.log_softmax(logits)[np.arange(B)[:, None], x["positions"]]
  picked = jnp.take_along_axis(logprobs, x["targets"][..., None], -1)[..., 0]
  stats = losses.TokenStats(
    picked,
    -(jnp.exp(logprobs) * logprobs).sum(-1),
    picked >= logprobs.max(-1),
  )
  return jax.tree.map(lambda y: jnp.where(x["mask"], y, 0), stats)


def _weighed(stats, x):
  of_logprobs, of_entropy = x["weights"]
  return (stats.logprobs * of_logprobs + stats.entropy * of_entropy).sum()


@pytest.mark.parametrize(
  ("is_tied", "num_ids", "temperature", "slice_size"),
  [
    (True, 0, 1.0, 20),  # the last slice overlaps the one before
    (False, 51, 0.7, 16),  # the last one is of no tokens
    (True, 51, 1.3, 64),
    (False, 0, 1.0, 999),
  ],
)
def test_values_and_gradients_equal_the_dense_form(
  is_tied, num_ids, temperature, slice_size
):
  x = _inputs(is_tied)
  head = vocabulary_slices.Head(is_tied, num_ids)
  matrix = x["matrix"].T if is_tied else x["matrix"]
  likeliest = (x["hidden"] @ matrix)[..., : num_ids or None].argmax(-1)
  x["targets"][0] = likeliest[0, x["positions"][0]]

  def of(form, **options):
    def loss(hidden, matrix):
      stats = form(hidden, matrix, x, head, temperature=temperature, **options)
      return _weighed(stats, x), stats

    compute = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    return compute(x["hidden"], x["matrix"])

  got = of(_sliced, slice_size=slice_size, entropy_gradient=True)
  want = of(_dense)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-6, atol=2e-6),
    got,
    want,
  )
  assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(want))
  if num_ids:
    of_matrix = got[1][1] if is_tied else got[1][1].T
    assert not of_matrix[num_ids:].any()


def test_gradients_equal_finite_differences():
  with jax.enable_x64(True):
    x = _inputs(is_tied=False)
    head = vocabulary_slices.Head(False, 51, "float64")
    options = dict(temperature=0.7, entropy_gradient=True)

    @jax.jit
    def loss(hidden, matrix):
      return _weighed(_sliced(hidden, matrix, x, head, **options), x)

    at = [x[name].astype(np.float64) for name in ("hidden", "matrix")]
    slopes = jax.jit(jax.grad(loss, (0, 1)))(*at)
    rng = np.random.default_rng(3)
    for _ in range(4):
      steps = [rng.normal(size=a.shape) for a in at]
      up, down = (
        loss(*(a + sign * 1e-5 * s for a, s in zip(at, steps)))
        for sign in (1, -1)
      )
      along = sum((g * s).sum() for g, s in zip(slopes, steps))
      assert slopes[0].dtype == np.float64 and abs(along) > 0.01
      np.testing.assert_allclose(along, (up - down) / 2e-5, rtol=1e-8)


def test_the_entropy_has_a_gradient_only_where_it_is_asked_for():
  x = _inputs(is_tied=True)
  head = vocabulary_slices.Head(True)
  slopes = jax.grad(lambda h, w: _sliced(h, w, x, head).entropy.sum(), (0, 1))(
    x["hidden"], x["matrix"]
  )
  assert not any(slope.any() for slope in slopes)


def test_half_precision_rounds_products_only():
  x = _inputs(is_tied=True)
  hidden = x["hidden"].astype(jnp.bfloat16)
  rounded = np.asarray(
    jnp.asarray(x["matrix"], jnp.bfloat16).astype(np.float32)
  )
  head = vocabulary_slices.Head(True, dtype="bfloat16")
  loss = lambda form, head, **options: jax.value_and_grad(
    lambda h, w: _weighed(form(h, w, x, head, **options), x), (0, 1)
  )
  value, (of_hidden, of_matrix) = loss(_sliced, head, entropy_gradient=True)(
    hidden, x["matrix"]
  )
  # Products of halves are exact in float32, so values are those of float32.
  want, (wants_hidden, wants_matrix) = loss(_dense, head, temperature=1.0)(
    hidden.astype(np.float32), rounded
  )
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert (of_hidden.dtype, of_matrix.dtype) == (jnp.bfloat16, np.float32)
  np.testing.assert_allclose(of_matrix, wants_matrix, atol=0.03)
  np.testing.assert_allclose(
    of_hidden.astype(np.float32), wants_hidden, atol=0.03
  )


def test_padding_costs_nothing():
  """What is computed at a chunk of padding alone would show as no number."""
  x = _inputs(is_tied=True)
  x["positions"] = np.broadcast_to(np.arange(M, dtype=np.int32), (B, M))
  hidden = x["hidden"].copy()
  hidden[:, 8:] = np.nan  # the third chunk
  head = vocabulary_slices.Head(True)
  loss = lambda h, w: _weighed(_sliced(h, w, x, head), x)
  value, slopes = jax.value_and_grad(loss, (0, 1))(hidden, x["matrix"])
  assert np.isfinite(value)
  assert np.isfinite(slopes[1]).all() and not slopes[0][:, 8:].any()


def test_a_frozen_matrix_gets_no_gradient():
  x = _inputs(is_tied=True)
  seen = []
  for is_frozen in (True, False):
    head = vocabulary_slices.Head(True, is_frozen=is_frozen)
    loss = lambda h, w, head=head: _weighed(_sliced(h, w, x, head), x)
    seen.append(jax.grad(loss, (0, 1))(x["hidden"], x["matrix"]))
  np.testing.assert_array_equal(seen[0][0], seen[1][0])
  assert not seen[0][1].any() and seen[1][1].any()


@pytest.mark.parametrize("is_tied", [True, False])
def test_one_and_eight_devices_agree(eight_devices, is_tied):
  if not eight_devices:
    return
  x = _inputs(is_tied)
  seen = []
  for settings, devices in (
    (config.Mesh(), jax.devices()[:1]),
    (config.Mesh(data=2, fsdp=2, tensor=2), jax.devices()),
    (config.Mesh(data=1, fsdp=2, tensor=4), jax.devices()),
  ):
    mesh = sharding.make_mesh(settings, devices)
    head = vocabulary_slices.Head(is_tied, 51, mesh=mesh)
    names = ("embed", "embedding") if is_tied else ("head", "kernel")
    tree = {names[0]: {names[1]: x["matrix"]}}
    where = jax.tree.leaves(sharding.param_shardings(tree, mesh))[0]
    rows = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(sharding.MESH_AXES["row"])
    )

    def loss(hidden, matrix, x, head=head):
      stats = _sliced(hidden, matrix, x, head, entropy_gradient=True)
      return _weighed(stats, x), stats

    compute = jax.jit(
      jax.value_and_grad(loss, (0, 1), has_aux=True),
      in_shardings=(rows, where, None),
      out_shardings=(None, (rows, where)),
    )
    own = {k: v for k, v in x.items() if k not in ("hidden", "matrix")}
    lowered = compute.lower(x["hidden"], x["matrix"], own).compile()
    seen.append(jax.device_get(lowered(x["hidden"], x["matrix"], own)))
    # Whole logits, or a whole matrix, are gathered nowhere.
    part = V // mesh.shape["tensor"]
    assert mesh.size == 1 or f"{V},{D}]" not in lowered.as_text(), part
  for other in seen[1:]:
    jax.tree.map(
      lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-5, atol=2e-6),
      other,
      seen[0],
    )
