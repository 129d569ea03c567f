"""Gradients that are written by hand against those of autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.models import embedding
from userrl_jax.models import products


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_a_products_gradient_is_that_of_autodiff(shape):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 7, shape[0])).astype(np.float32)
  kernel = rng.normal(size=shape).astype(np.float32)
  loss = lambda multiply: lambda x, w: jnp.sin(multiply(x, w)).sum()
  got = jax.grad(loss(products.project), (0, 1))(x, kernel)
  want = jax.grad(loss(jnp.matmul), (0, 1))(x, kernel)
  for one, other in zip(got, want, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("dtype,atol", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_a_lookup_adds_to_the_gradient_of_the_head(dtype, atol):
  rng = np.random.default_rng(0)
  matrix = rng.normal(size=(11, 4)).astype(np.float32)
  tokens = rng.integers(0, 6, (2, 7))  # some more than once, some never

  def loss(matrix, look_up):
    x, head = look_up(matrix)
    return jnp.sin(x.astype(jnp.float32) @ head.T).sum()

  plain = lambda matrix: (matrix[tokens].astype(dtype), matrix)
  added = lambda matrix: embedding.lookup(matrix, tokens, dtype)
  want = jax.grad(loss)(matrix, plain)
  np.testing.assert_allclose(jax.grad(loss)(matrix, added), want, atol=atol)
  # What only looks up has a gradient, too.
  alone = jax.grad(lambda m: added(m)[0].astype(jnp.float32).sum())(matrix)
  counts = np.bincount(tokens.ravel(), minlength=11)
  np.testing.assert_array_equal(alone, np.repeat(counts[:, None], 4, 1))
