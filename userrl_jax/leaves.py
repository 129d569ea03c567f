"""A state as a flat dict, path -> leaf, as checkpoints name what they hold."""

from collections.abc import Mapping
import os
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


def check(
  where: os.PathLike[str],
  saved: Mapping[str, Any],
  wanted: Mapping[str, Any],
  exact_dtype: bool,
) -> None:
  """Holds what a checkpoint has saved against what is wanted, leaf by leaf.

  Args:
    where: the checkpoint, for messages.
    saved: path -> what has a shape and a dtype.
    wanted: path -> the same; paths beyond these are not looked at.
    exact_dtype: whether dtypes must be equal too.

  Raises:
    ValueError: when a leaf is missing, or of another shape or dtype.
  """
  missing = sorted(set(wanted) - set(saved))
  if missing:
    raise ValueError(
      f"checkpoint {where} must hold {some(missing)}, got "
      f"{some(sorted(saved))}; restore it with the config that made it"
    )
  for path, want in wanted.items():
    have = saved[path]
    if tuple(have.shape) != tuple(want.shape):
      raise ValueError(
        f"checkpoint {where} must fit the configured model and optimizer: "
        f"{path} is saved with shape {tuple(have.shape)}, wanted "
        f"{tuple(want.shape)}; restore it with the config that made it"
      )
    if exact_dtype and jnp.dtype(have.dtype) != jnp.dtype(want.dtype):
      raise ValueError(
        f"checkpoint {where} must fit the configured model and optimizer: "
        f"{path} is saved as {jnp.dtype(have.dtype)}, wanted "
        f"{jnp.dtype(want.dtype)}; restore it with the config that made it"
      )


def some(paths: list[str]) -> str:
  """Returns the first few paths, and how many more there are."""
  shown = ", ".join(paths[:4])
  return shown + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _as_array(path: str, leaf: Any) -> jax.Array:
  try:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
  except TypeError as error:
    raise ValueError(
      f"a state must hold arrays only, got {type(leaf).__name__} at {path}; "
      "put it into the extras"
    ) from error
