"""Embeddings of tokens, with a gradient that adds to the head's.

Comes in: the matrix and ids. Goes out: their rows, and the matrix. Of a tied
model the matrix has two gradients: the head's, dense, and that of the lookup,
one row a token. Autodiff would scatter the latter into zeros, as large as the
matrix, and add the two. Here the matrix passes through the lookup on its way to
the head, so on the way back the rows are added where the head's gradient is:

  matrix -> lookup -> head        gradient <- lookup adds rows <- head's
              |                                   |
            layers                              layers
"""

import functools

import jax


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(
  embedding_VD: jax.Array, tokens_BT: jax.Array, dtype: str
) -> tuple[jax.Array, jax.Array]:
  """Looks up tokens; what uses the matrix later must use the returned one.

  Args:
    embedding_VD: [V, D] float32.
    tokens_BT: [B, T] int32.
    dtype: compute dtype.

  Returns:
    ([B, T, D] of the dtype, the matrix).
  """
  return embedding_VD[tokens_BT].astype(dtype), embedding_VD


def _forward(embedding_VD, tokens_BT, dtype):
  return lookup(embedding_VD, tokens_BT, dtype), tokens_BT


def _backward(dtype, tokens_BT, slopes):
  del dtype
  of_rows_BTD, of_matrix_VD = slopes
  added = of_matrix_VD.at[tokens_BT].add(of_rows_BTD.astype(of_matrix_VD.dtype))
  return added, None


lookup.defvjp(_forward, _backward)
