"""The files of a published folder: safetensors, whole or in shards.

In: a folder. Out: what its files hold, without reading it, and parts of single
tensors. And the way back: tensors, one at a time, into a file.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from userrl_jax.models import published

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Dtypes that safetensors calls otherwise.
DTYPES = {
  "F32": np.dtype(np.float32),
  "BF16": jnp.dtype("bfloat16"),
  "F16": np.dtype(np.float16),
}


class Stored(NamedTuple):
  """A tensor of a folder."""

  name: str
  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: str  # as safetensors calls it


def stored(folder: pathlib.Path) -> dict[str, Stored]:
  """Returns what a folder's files hold, by name; reads no tensor.

  `model.safetensors` comes before an index, as it does in `transformers`.

  Raises:
    ValueError: when the folder or a file is missing or damaged, or files hold
      another thing than the index says.
  """
  if not folder.is_dir():
    raise ValueError(
      f"published weights must be in a folder, got {folder}, which is none; "
      "give the folder that holds config.json"
    )
  if (folder / ONE_FILE).is_file():
    return _headers(folder / ONE_FILE)
  if not (folder / INDEX).is_file():
    found = sorted(path.name for path in folder.iterdir())[:8]
    raise ValueError(
      f"{folder} must hold {ONE_FILE} or {INDEX}, got {found}; weights in "
      "other formats are not read"
    )
  file_of = published.read_json(folder / INDEX).get("weight_map")
  if not isinstance(file_of, dict) or not all(
    isinstance(file, str) and pathlib.PurePath(file).name == file
    for file in file_of.values()
  ):
    raise ValueError(
      f"{folder / INDEX} must hold a weight_map from tensors to files beside "
      "it, got another thing; copy it again"
    )
  found_in: dict[str, Stored] = {}
  for file in sorted(set(file_of.values())):
    if not (folder / file).is_file():
      raise ValueError(
        f"{folder} must hold {file}, which {INDEX} names, got no such file; "
        "copy the folder again"
      )
    found_in |= _headers(folder / file)
  for name, file in file_of.items():
    if name not in found_in or found_in[name].file.name != file:
      raise ValueError(
        f"{folder / file} must hold {name}, as {INDEX} says, got no such "
        "tensor; copy the folder again"
      )
  return found_in


def read(tensor: Stored, index: tuple[slice, ...]) -> np.ndarray:
  """Reads a part of a tensor, in the dtype of the file.

  Raises:
    ValueError: when the file cannot be read.
  """
  # Opened anew each time: pages of a mapped file count as memory once read.
  try:
    with safetensors.safe_open(tensor.file, "np") as file:
      return file.get_slice(tensor.name)[index]
  except (safetensors.SafetensorError, OSError) as error:
    raise _unreadable(tensor.file, error) from error


def num_bytes(shape: Sequence[int], dtype: str) -> int:
  """Returns the size of a tensor in a file."""
  return math.prod(shape) * DTYPES[dtype].itemsize


def write(
  path: pathlib.Path,
  shapes: Mapping[str, Sequence[int]],
  dtype: str,
  arrays: Iterable[np.ndarray],
) -> None:
  """Writes a file, taking its arrays one at a time.

  By hand, because the library wants all tensors of a file in memory at once.
  A file is its header's length in 8 bytes, the header in JSON, the tensors.

  Args:
    path: of the file.
    shapes: of the tensors, by name.
    dtype: of them all, as safetensors calls it.
    arrays: the tensors in the order of `shapes`, of that dtype.
  """
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, shape in shapes.items():
    start, end = end, end + num_bytes(shape, dtype)
    header[name] = {
      "dtype": dtype,
      "shape": list(shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # so that the tensors are aligned
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for shape, array in zip(shapes.values(), arrays, strict=True):
      assert array.shape == tuple(shape) and array.dtype == DTYPES[dtype]
      file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _headers(path: pathlib.Path) -> dict[str, Stored]:
  try:
    with safetensors.safe_open(path, "np") as file:
      parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      return {
        name: Stored(name, path, tuple(part.get_shape()), part.get_dtype())
        for name, part in parts.items()
      }
  except (safetensors.SafetensorError, OSError) as error:
    raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, error: Exception) -> ValueError:
  return ValueError(
    f"{path} must be a whole safetensors file, got: {error}; copy it again"
  )
