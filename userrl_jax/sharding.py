"""Where arrays live: one mesh, one table of logical axes.

Comes in: the mesh settings and a tree of arrays or shapes. Goes out: a
`NamedSharding` for every leaf. Params and optimizer state are split by the
table; rows of a batch, and the sampler's KV rows, are split over `data` and
`fsdp`; the rest is replicated.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import config

AXES = ("data", "fsdp", "tensor")

# The one table: logical axis -> mesh axes that split it.
MESH_AXES: dict[str, tuple[str, ...]] = {
  "row": ("data", "fsdp"),
  "layer": (),
  "whole": (),
  "vocab": ("tensor",),
  "width": ("fsdp",),
  "heads": ("tensor",),
  "hidden": ("tensor",),
}

# Logical axes of a weight, by its last two names; others are replicated.
PARAM_AXES: dict[tuple[str, str], tuple[str, ...]] = {
  ("embed", "embedding"): ("vocab", "width"),
  ("head", "kernel"): ("width", "vocab"),
  ("q", "kernel"): ("layer", "width", "heads"),
  ("k", "kernel"): ("layer", "width", "heads"),
  ("v", "kernel"): ("layer", "width", "heads"),
  ("o", "kernel"): ("layer", "heads", "width"),
  ("gate", "kernel"): ("layer", "width", "hidden"),
  ("up", "kernel"): ("layer", "width", "hidden"),
  ("down", "kernel"): ("layer", "hidden", "width"),
}
# Adapters, [L, in, r] and [L, r, out], go the way of what they adapt.
PARAM_AXES |= {
  (name, leaf): (axes[0], "whole", axes[2])
  if leaf == "lora_b"
  else (*axes[:2], "whole")
  for (name, _), axes in PARAM_AXES.items()
  if axes[0] == "layer"
  for leaf in ("lora_a", "lora_b")
}


def make_mesh(
  settings: config.Mesh, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """Arranges devices as [data, fsdp, tensor].

  Args:
    settings: the size of each axis; at most one is -1 and takes the rest.
    devices: to use; all by default.

  Returns:
    The mesh.

  Raises:
    ValueError: when the sizes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  # Hosts one after the other, so that `tensor` stays within one.
  devices.sort(key=lambda device: device.process_index)
  sizes = [settings.data, settings.fsdp, settings.tensor]
  known = math.prod(size for size in sizes if size != -1)
  if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if min(sizes) < 1 or math.prod(sizes) != len(devices):
    raise ValueError(
      "mesh.data x mesh.fsdp x mesh.tensor must be the number of devices, "
      f"{len(devices)}, with at most one -1 that takes the rest; got "
      f"{settings.data} x {settings.fsdp} x {settings.tensor}"
    )
  return jax.sharding.Mesh(
    np.array(devices).reshape(sizes),
    AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
  )


def of_host(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
  """Returns the part of a mesh that is this host's; alone, all of it.

  Raises:
    ValueError: when it is no block of the mesh with the whole of `tensor`.
  """
  is_own = np.vectorize(lambda device: device.process_index)(mesh.devices)
  places = np.nonzero(is_own == jax.process_index())
  block = mesh.devices[np.ix_(*map(np.unique, places))]
  if block.size != len(places[0]) or block.shape[2] != mesh.shape["tensor"]:
    raise ValueError(
      "the devices of a host must be a block of the mesh with all of "
      f"mesh.tensor, got {len(places[0])} devices of a mesh of "
      f"{' x '.join(map(str, mesh.devices.shape))}; choose mesh.tensor, and "
      "mesh.data or mesh.fsdp, so that they divide the devices of a host"
    )
  return jax.sharding.Mesh(block, AXES, axis_types=mesh.axis_types)


def to_host(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Gathers params, in their sampling layout, on this host's own devices.

  All hosts call it together; afterwards none needs another to sample.

  Args:
    tree: layers unstacked, wherever it lives.
    mesh: of this host alone.

  Returns:
    The same on the mesh's devices.
  """
  where = sampling_shardings(tree, mesh)
  if all(x.is_fully_addressable for x in jax.tree.leaves(tree)):
    return jax.device_put(tree, where)
  of_all = jax.tree.leaves(tree)[0].sharding.mesh
  whole = jax.device_put(tree, sampling_shardings(tree, of_all))
  return jax.tree.map(
    lambda x, own: jax.make_array_from_single_device_arrays(
      x.shape, own, [shard.data for shard in x.addressable_shards]
    ),
    whole,
    where,
  )


def place(tree: Any, shardings: Any) -> Any:
  """Puts arrays that every host has whole where their shardings say.

  Every device takes its own part, and nothing goes from host to host.

  Args:
    tree: arrays; None stays None.
    shardings: of the arrays, or of whole subtrees.
  """

  def put(where, subtree):
    return jax.tree.map(
      lambda x: jax.make_array_from_callback(
        np.shape(x), where, lambda index: np.asarray(x)[index]
      ),
      subtree,
    )

  return jax.tree.map(put, shardings, tree)


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def param_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shards params, and any tree that holds copies of them.

  Leaves are known by their last two names, so optimizer moments and a whole
  `learner.State` go the way of their params. A dimension that its mesh axes do
  not divide stays whole.

  Args:
    tree: arrays or ShapeDtypeStructs.
    mesh: from `make_mesh`.

  Returns:
    A tree of NamedShardings.
  """
  return _shardings(tree, mesh, PARAM_AXES)


def sampling_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shards params in their sampling layout: over `tensor` alone.

  Every device that has rows of its own holds all layers of its share of the
  heads, so that sampling needs no other device's params.

  Args:
    tree: arrays or ShapeDtypeStructs, layers unstacked.
    mesh: from `make_mesh`.

  Returns:
    A tree of NamedShardings.
  """
  whole_width = {
    names: tuple(
      "whole" if axis == "width" else axis for axis in axes if axis != "layer"
    )
    for names, axes in PARAM_AXES.items()
  }
  return _shardings(tree, mesh, whole_width)


def cache_sharding(
  mesh: jax.sharding.Mesh, num_kv_heads: int
) -> jax.sharding.NamedSharding:
  """Shards [S, N, ...] keys and values: rows, and heads where they divide."""
  heads = MESH_AXES["heads"] if _divides("heads", num_kv_heads, mesh) else None
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(MESH_AXES["row"], heads)
  )


def vocab_parts(mesh: jax.sharding.Mesh, vocab_size: int) -> int:
  """Returns into how many parts the vocabulary of a matrix is split."""
  divides = _divides("vocab", vocab_size, mesh)
  return _num_parts("vocab", mesh) if divides else 1


def row_parts(mesh: jax.sharding.Mesh, num_rows: int) -> int:
  """Returns into how many parts so many rows are split."""
  return _num_parts("row", mesh) if _divides("row", num_rows, mesh) else 1


def num_head_parts(mesh: jax.sharding.Mesh, num_kv_heads: int) -> int:
  """Returns over how many devices the heads of a row are split."""
  divides = _divides("heads", num_kv_heads, mesh)
  return _num_parts("heads", mesh) if divides else 1


def num_row_parts(mesh: jax.sharding.Mesh) -> int:
  """Returns over how many devices, or groups of them, rows are split."""
  return _num_parts("row", mesh)


def row_axes_beside_tensor(mesh: jax.sharding.Mesh) -> tuple[str, ...]:
  """Returns the axes of rows where heads are split as well, else none."""
  both = num_row_parts(mesh) > 1 and _num_parts("heads", mesh) > 1
  return MESH_AXES["row"] if both else ()


def by_rows(
  tile: Callable[..., Any], mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
  """Makes every device run a function on its own rows, without the others.

  Args:
    tile: `(params, *arrays) -> arrays`, all but params with rows as their
      first axis; scalars are the same everywhere.
    mesh: over whose `data` and `fsdp` the rows are split; `tensor` is left to
      the compiler.

  Returns:
    The function of whole arrays.
  """
  if num_row_parts(mesh) == 1:
    return tile
  rows = jax.sharding.PartitionSpec(MESH_AXES["row"])
  whole = jax.sharding.PartitionSpec()

  def call(params, *arrays):
    spec = lambda x: rows if jnp.ndim(x) else whole
    return jax.shard_map(
      tile,
      mesh=mesh,
      in_specs=(whole, *jax.tree.map(spec, arrays)),
      out_specs=rows,
      axis_names=set(MESH_AXES["row"]),
      check_vma=False,
    )(params, *arrays)

  return call


def by_row(x: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
  """Keeps packed rows, [B, ...], where they are split, the rest of them whole.

  Left to itself the compiler lets activations follow params that `fsdp` splits:
  every device then computes a part of all rows and they add it up, twice a
  matrix. None is one device.
  """
  if not _has_choice(mesh) or not _divides("row", x.shape[0], mesh):
    return x
  spec = jax.sharding.PartitionSpec(MESH_AXES["row"])
  return jax.lax.with_sharding_constraint(
    x, jax.sharding.NamedSharding(mesh, spec)
  )


def looked_up(x_BTD: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
  """Brings embeddings, of a matrix that `fsdp` splits, to their rows.

  In two steps, each of which is one exchange: a compiler that is to make both
  at once gathers all rows on every device.
  """
  width = MESH_AXES["width"]
  if _has_choice(mesh) and _divides("width", x_BTD.shape[-1], mesh):
    beside = tuple(axis for axis in MESH_AXES["row"] if axis not in width)
    spec = jax.sharding.PartitionSpec(beside, None, width)
    x_BTD = jax.lax.with_sharding_constraint(
      x_BTD, jax.sharding.NamedSharding(mesh, spec)
    )
  return by_row(x_BTD, mesh)


def gathered(params: Any, mesh: jax.sharding.Mesh | None) -> Any:
  """Gathers what `fsdp` splits of some params, for a device to compute with.

  Args:
    params: of one layer, or of what is beside the layers.
    mesh: of the update; None is one device.
  """
  if not _has_choice(mesh):
    return params
  return jax.lax.with_sharding_constraint(
    params, sampling_shardings(params, mesh)
  )


def _has_choice(mesh: jax.sharding.Mesh | None) -> bool:
  """Returns whether params are split, so that activations could be, too."""
  return mesh is not None and mesh.shape["fsdp"] * mesh.shape["tensor"] > 1


def by_rows_and_heads(
  attend: Callable[..., jax.Array], mesh: jax.sharding.Mesh, num_kv_heads: int
) -> Callable[..., jax.Array]:
  """Makes every device attend for its own packed rows and heads.

  Args:
    attend: `(q_BTHd, k_BTNd, v_BTNd, segment_ids_BT) -> [B, T, H, d]`.
    mesh: over whose `data` and `fsdp` the rows are split, over `tensor` the
      heads, where it divides those of the keys.
    num_kv_heads: N.

  Returns:
    The function of whole arrays.
  """
  if mesh.size == 1:
    return attend
  heads = MESH_AXES["heads"] if _divides("heads", num_kv_heads, mesh) else None
  whole = jax.sharding.PartitionSpec(MESH_AXES["row"], None, heads)
  return jax.shard_map(
    attend,
    mesh=mesh,
    in_specs=(whole, whole, whole, jax.sharding.PartitionSpec(*whole[:1])),
    out_specs=whole,
    check_vma=False,
  )


def row_sharding(
  mesh: jax.sharding.Mesh, num_rows: int
) -> jax.sharding.NamedSharding:
  """Shards [A, B, ...] packed rows over B.

  Args:
    mesh: from `make_mesh`.
    num_rows: B.

  Returns:
    The sharding.

  Raises:
    ValueError: when the rows do not divide over the data and fsdp axes.
  """
  if not _divides("row", num_rows, mesh):
    raise ValueError(
      "packing.rows_per_micro_batch must be a multiple of mesh.data x "
      f"mesh.fsdp = {_num_parts('row', mesh)}; got {num_rows}"
    )
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, MESH_AXES["row"])
  )


def _shardings(
  tree: Any,
  mesh: jax.sharding.Mesh,
  axes_of: Mapping[tuple[str, str], tuple[str, ...]],
) -> Any:
  """Shards leaves by their last two names; others are replicated."""

  def leaf_sharding(path, leaf):
    names = [str(getattr(k, "key", getattr(k, "name", ""))) for k in path]
    logical = axes_of.get(tuple(names[-2:]), ())
    if len(logical) != len(leaf.shape):
      return replicated(mesh)
    spec = [
      MESH_AXES[axis] if _divides(axis, size, mesh) else None
      for axis, size in zip(logical, leaf.shape, strict=True)
    ]
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def _num_parts(axis: str, mesh: jax.sharding.Mesh) -> int:
  return math.prod(mesh.shape[name] for name in MESH_AXES[axis])


def _divides(axis: str, size: int, mesh: jax.sharding.Mesh) -> bool:
  return size % _num_parts(axis, mesh) == 0
