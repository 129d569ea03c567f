"""Moves Qwen3 weights between published folders and our params.

In: a Hugging Face folder (`config.json` and safetensors), and a sharding for
each leaf of the params. Out: the params, float32, and the way back. Tensors go
one at a time from file to devices, each device's part only, and are turned and
stacked there, so the host never holds more than a few of them.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import tensor_files

DTYPES = {"bfloat16": "BF16", "float32": "F32"}  # that `save` writes

_EMBEDDING = published.NAMES["embed/embedding"]
_HEAD = published.NAMES["head/kernel"]
_COMPARED_ELEMENTS = 2**24  # of two tensors at a time


def load(
  folder: published.Folder, config: qwen3.Config, shardings: Any
) -> qwen3.Params:
  """Reads published weights into sharded float32 params.

  Every process reads only what its devices hold. All names, shapes and dtypes
  are checked before anything is put on a device. A head beside tied embeddings,
  which some models are published with, must be equal to the embedding.

  Args:
    folder: holds `model.safetensors`, or an index and its shards; of float32,
      bfloat16 or float16.
    config: shape of the model, as from `published.read_config`.
    shardings: a sharding for each leaf of the params.

  Returns:
    The params, float32.

  Raises:
    ValueError: names the folder and what is missing, unexpected, misshapen,
      of another dtype or damaged.
  """
  folder = pathlib.Path(folder)
  stored = tensor_files.stored(folder)
  tensors = list(published.tensors(config))
  _check(folder, stored, tensors, config)
  of_leaf = collections.defaultdict(list)
  for tensor in tensors:
    of_leaf[tensor.leaf].append(tensor)

  def load_leaf(path, want, sharding):
    parts = of_leaf[published.leaf_name(path)]
    source = _published_sharding(sharding, want.ndim, parts[0])
    read = lambda part: _to_devices(stored[part.name], source)
    is_turned = parts[0].is_turned
    if parts[0].layer is None:
      leaf = _placing(sharding, is_turned)(read(parts[0]))
    else:
      leaf = _allocating(sharding)(want.shape)
      write = _writing(sharding, is_turned)
      for part in parts:
        leaf = write(leaf, read(part), part.layer)
        # Devices lag behind: what they have yet to take would pile up here.
        jax.block_until_ready(leaf)
    return leaf

  shapes = published.shapes(config)
  return jax.tree_util.tree_map_with_path(load_leaf, shapes, shardings)


def save(
  folder: published.Folder,
  params: qwen3.Params,
  config: qwen3.Config,
  *,
  dtype: str = "bfloat16",
  max_shard_bytes: int = 5_000_000_000,
  fields: Mapping[str, Any] | None = None,
  beside: Callable[[pathlib.Path], object] | None = None,
) -> None:
  """Writes params as Qwen3 is published; all or nothing.

  Tied embeddings are written once. For runs of one process.

  Args:
    folder: to write; new, or empty.
    params: of the model, on whichever devices.
    config: shape of the model.
    dtype: of the files, one of `DTYPES`.
    max_shard_bytes: of one file; a larger tensor gets a file of its own.
    fields: further fields of `config.json`, such as `eos_token_id`.
    beside: writes further files into the folder that it is given.

  Raises:
    ValueError: when the folder is not empty, or an argument is wrong.
  """
  check_target(folder)
  if dtype not in DTYPES or max_shard_bytes < 1:
    raise ValueError(
      f"weights must be written as {' or '.join(DTYPES)}, into files of at "
      f"least a byte, got {dtype!r} and max_shard_bytes {max_shard_bytes}"
    )
  folder = pathlib.Path(folder).resolve()
  temporary = folder.with_name(folder.name + ".partial")
  shutil.rmtree(temporary, ignore_errors=True)  # of a save that was killed
  temporary.mkdir(parents=True)
  try:
    values = {**published.config_values(config, dtype), **(fields or {})}
    _write_json(temporary / "config.json", values)
    _write_tensors(temporary, params, config, dtype, max_shard_bytes)
    if beside is not None:
      beside(temporary)
    temporary.rename(folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def check_target(folder: published.Folder) -> None:
  """Refuses a folder that `save` would have to overwrite.

  Raises:
    ValueError: when there is anything but an empty folder.
  """
  folder = pathlib.Path(folder)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise ValueError(
      f"weights must go into a new or empty folder, got {folder}, which is "
      "not empty; give another one"
    )


def _check(
  folder: pathlib.Path,
  stored: Mapping[str, tensor_files.Stored],
  tensors: Sequence[published.Tensor],
  config: qwen3.Config,
) -> None:
  """Holds what a folder has against what the model needs."""
  shapes = {tensor.name: tensor.shape for tensor in tensors}
  if config.tie_embeddings and _HEAD in stored:
    shapes[_HEAD] = shapes[_EMBEDDING]
  missing = [name for name in shapes if name not in stored]
  if missing:
    hint = (
      "tie_word_embeddings is false in its config.json"
      if missing == [_HEAD]
      else "its config.json and its weights must be of one model"
    )
    raise ValueError(
      f"{folder} must hold {_some(missing)}, got no such tensor; {hint}"
    )
  unexpected = sorted(stored.keys() - shapes.keys())
  if unexpected:
    raise ValueError(
      f"{folder} must hold the tensors of a Qwen3 model of its config.json "
      f"and no others, got also {_some(unexpected)}; copy the folder again"
    )
  for name, shape in shapes.items():
    if stored[name].shape != shape:
      raise ValueError(
        f"{folder}: {name} must have shape {shape} by its config.json, got "
        f"{stored[name].shape}; they must be of one model"
      )
    if stored[name].dtype not in tensor_files.DTYPES:
      raise ValueError(
        f"{folder}: {name} must be {', '.join(tensor_files.DTYPES)}, got "
        f"{stored[name].dtype}; convert the weights to one of these"
      )
  if config.tie_embeddings and _HEAD in stored:
    _check_tied(folder, stored[_HEAD], stored[_EMBEDDING])


def _check_tied(
  folder: pathlib.Path,
  head: tensor_files.Stored,
  embedding: tensor_files.Stored,
) -> None:
  """Refuses to drop a head for an embedding that is unlike it."""
  height, width = head.shape
  step = max(1, _COMPARED_ELEMENTS // width)
  for start in range(0, height, step):
    rows = (slice(start, min(start + step, height)), slice(0, width))
    if not np.array_equal(
      tensor_files.read(head, rows), tensor_files.read(embedding, rows)
    ):
      raise ValueError(
        f"{folder}: {_HEAD} must equal {_EMBEDDING} when tie_word_embeddings "
        "is true, got another one; to use it, set that to false in config.json"
      )


def _to_devices(
  tensor: tensor_files.Stored, sharding: jax.sharding.Sharding
) -> jax.Array:
  """Puts a tensor on devices as it is stored; reads each part once."""
  parts: dict[tuple[Any, ...], np.ndarray] = {}

  def read(index: Any) -> np.ndarray:
    key = tuple((axis.start, axis.stop) for axis in index)
    if key not in parts:
      parts[key] = tensor_files.read(tensor, index)
    return parts[key]

  return jax.make_array_from_callback(tensor.shape, sharding, read)


def _published_sharding(
  sharding: jax.sharding.Sharding, num_axes: int, tensor: published.Tensor
) -> jax.sharding.Sharding:
  """Returns how a tensor is split so that devices get what they keep."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding  # of one device
  axes = (*sharding.spec, *[None] * (num_axes - len(sharding.spec)))
  axes = axes if tensor.layer is None else axes[1:]
  axes = axes[::-1] if tensor.is_turned else axes
  spec = jax.sharding.PartitionSpec(*axes)
  return jax.sharding.NamedSharding(sharding.mesh, spec)


# Kept, so that leaves of one shape and sharding share a compiled program.


@functools.cache
def _placing(sharding: jax.sharding.Sharding, is_turned: bool) -> Any:
  """Returns a program from a published tensor to a leaf of ours."""
  return jax.jit(
    functools.partial(_to_ours, is_turned=is_turned), out_shardings=sharding
  )


@functools.cache
def _allocating(sharding: jax.sharding.Sharding) -> Any:
  """Returns a program that makes a leaf of a shape."""
  return jax.jit(jnp.zeros, static_argnums=0, out_shardings=sharding)


@functools.cache
def _writing(sharding: jax.sharding.Sharding, is_turned: bool) -> Any:
  """Returns a program that writes a published tensor into a leaf, in place."""

  def write(leaf: jax.Array, array: jax.Array, layer: int) -> jax.Array:
    ours = _to_ours(array, is_turned)
    return jax.lax.dynamic_update_index_in_dim(leaf, ours, layer, 0)

  return jax.jit(write, donate_argnums=0, out_shardings=sharding)


def _to_ours(array: jax.Array, is_turned: bool) -> jax.Array:
  return (array.T if is_turned else array).astype(jnp.float32)


def _write_tensors(
  folder: pathlib.Path,
  params: qwen3.Params,
  config: qwen3.Config,
  dtype: str,
  max_bytes: int,
) -> None:
  """Writes `model.safetensors`, or shards and their index."""
  leaves = {
    published.leaf_name(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }

  def arrays(shard: Sequence[published.Tensor]) -> Iterator[np.ndarray]:
    for t in shard:
      array = _to_published(leaves[t.leaf], t.layer, t.is_turned, dtype)
      yield np.asarray(array)

  tensors = list(published.tensors(config))
  size = lambda t: tensor_files.num_bytes(t.shape, DTYPES[dtype])
  shards = _deal(tensors, [size(t) for t in tensors], max_bytes)
  for name, shard in shards.items():
    shapes = {t.name: t.shape for t in shard}
    tensor_files.write(folder / name, shapes, DTYPES[dtype], arrays(shard))
  if len(shards) > 1:
    file_of = {t.name: file for file, shard in shards.items() for t in shard}
    metadata = {"total_size": sum(map(size, tensors))}
    _write_json(
      folder / tensor_files.INDEX,
      {"metadata": metadata, "weight_map": file_of},
    )


def _deal(
  tensors: Sequence[published.Tensor], sizes: Sequence[int], max_bytes: int
) -> dict[str, list[published.Tensor]]:
  """Deals tensors to files, in order."""
  shards: list[list[published.Tensor]] = []
  room = 0
  for tensor, size in zip(tensors, sizes, strict=True):
    if not shards or size > room:
      shards.append([])
      room = max_bytes
    shards[-1].append(tensor)
    room -= size
  if len(shards) == 1:
    return {tensor_files.ONE_FILE: shards[0]}
  return {
    f"model-{i + 1:05}-of-{len(shards):05}.safetensors": shard
    for i, shard in enumerate(shards)
  }


@functools.partial(jax.jit, static_argnames=("is_turned", "dtype"))
def _to_published(
  leaf: jax.Array, layer: int | None, is_turned: bool, dtype: str
) -> jax.Array:
  array = leaf if layer is None else leaf[layer]
  return (array.T if is_turned else array).astype(dtype)


def _write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _some(names: Sequence[str]) -> str:
  shown = ", ".join(names[:3])
  return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
