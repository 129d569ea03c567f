"""Reads a checkpoint and proves it, on all hosts or on none (law L10).

In: an open folder of checkpoints, a step and what is wanted of it. Out: its
leaves and extras, bit-equal to what was saved. A host reads by itself and waits
for no other; before the digests, which all hosts work out together, each knows
that all could read (`checkpoint_faults.on_all_hosts`).
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any
import zlib

import jax
import orbax.checkpoint as ocp

from userrl_jax import checkpoint_faults
from userrl_jax import digests
from userrl_jax import leaves as leaves_lib

# Leaves by path in their saved dtypes, extras, digests by path.
Read = tuple[dict[str, jax.Array], dict[str, Any], dict[str, int]]


def saved_leaves(
  orbax: ocp.CheckpointManager, where: pathlib.Path, step: int
) -> dict[str, Any]:
  """Returns path -> metadata (shape, dtype) without loading any array."""
  try:
    metadata = orbax.item_metadata(step)["state"]
    if metadata is None:
      raise ValueError("what its state holds is not written there")
    return leaves_lib.by_path(metadata.tree)
  except Exception as error:
    raise checkpoint_faults.unreadable(where, error) from error


def read(
  orbax: ocp.CheckpointManager,
  where: pathlib.Path,
  step: int,
  saved: Mapping[str, Any],
  wanted: Mapping[str, Any],
) -> Read:
  """Reads (leaves, extras, digests), the leaves in their saved dtypes."""
  targets = {
    path: jax.ShapeDtypeStruct(
      want.shape, saved[path].dtype, sharding=_sharding(want)
    )
    for path, want in wanted.items()
  }
  item = leaves_lib.nest(targets)
  try:
    restored = orbax.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          item,
          restore_args=ocp.checkpoint_utils.construct_restore_args(item),
          partial_restore=True,
        ),
        extras=ocp.args.JsonRestore(),
      ),
    )
    record = restored["extras"]
    text = record["extras"]
    if zlib.crc32(text.encode()) != record["extras_crc32"]:
      raise ValueError("its extras are not what was saved")
    leaves = leaves_lib.by_path(restored["state"])
    expected = {path: record["digests"][path] for path in leaves}
    return leaves, json.loads(text), expected
  except Exception as error:
    raise checkpoint_faults.unreadable(where, error) from error


def proven(
  where: pathlib.Path,
  found: Read,
  abstract: Any,
  wanted: Mapping[str, Any],
) -> tuple[Any, dict[str, Any]]:
  """Proves what was read by its digests, all hosts together; converts it."""
  leaves, extras, expected = found
  with checkpoint_faults.on_all_hosts():
    own = digests.of(leaves)
    changed = sorted(p for p in leaves if own[p] != expected[p])
    if changed:
      error = ValueError(f"{leaves_lib.some(changed)} are not what was saved")
      raise checkpoint_faults.unreadable(where, error)
  ordered = [
    leaves[path].astype(want.dtype)
    if leaves[path].dtype != want.dtype
    else leaves[path]
    for path, want in wanted.items()
  ]
  return jax.tree.unflatten(jax.tree.structure(abstract), ordered), extras


def _sharding(want: Any) -> jax.sharding.Sharding:
  sharding = getattr(want, "sharding", None)
  if isinstance(sharding, jax.sharding.Sharding):
    return sharding
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
