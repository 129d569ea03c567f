"""A state as a flat dict, path -> leaf, as checkpoints name what they hold."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_SEPARATOR = "/"


def by_path(tree: Any) -> dict[str, Any]:
  """Returns path -> leaf in tree order; a path is keys joined by slashes."""
  pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator=_SEPARATOR): leaf
    for path, leaf in pairs
  }
  assert len(leaves) == len(pairs), "two leaves of a state have one path"
  return leaves


def arrays_by_path(tree: Any) -> dict[str, jax.Array]:
  """Returns the same, with numbers as arrays.

  Raises:
    ValueError: when a leaf is neither; names it.
  """
  return {path: _as_array(path, leaf) for path, leaf in by_path(tree).items()}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested dicts, so that reading needs none of our classes."""
  nested: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *parents, name = path.split(_SEPARATOR)
    inner = nested
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[name] = leaf
  return nested


def _as_array(path: str, leaf: Any) -> jax.Array:
  try:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
  except TypeError as error:
    raise ValueError(
      f"a state must hold arrays only, got {type(leaf).__name__} at {path}; "
      "put it into the extras"
    ) from error
