"""Keeps the frozen base of adapters once, beside the checkpoints of a stage.

Comes in: the params that a stage with adapters starts from. Goes out: the same
bits whenever it goes on, and whole params for whoever samples or starts from
its checkpoints, which hold adapters and their optimizer alone:

  checkpoints/<stage>/<step>/          adapters, moments, step
                      base/0/          params, with a digest of every array
                      base/lora.json   rank, scale and targets

A checkpoint folder is complete by itself: neither the stage before nor a
published folder has to stay as it was.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import os
import pathlib
import shutil

import jax

from userrl_jax import checkpoint
from userrl_jax import hosts
from userrl_jax import sharding
from userrl_jax.models import lora
from userrl_jax.models import qwen3

NAME = "base"  # of the folder that it is kept in
_SETTINGS = "lora.json"
_FIELDS = ("adapter_rank", "adapter_scale", "adapter_targets")


def kept(
  folder: pathlib.Path,
  make: Callable[[], qwen3.Params],
  model: qwen3.Config,
  mesh: jax.sharding.Mesh,
) -> qwen3.Params:
  """Returns the base of a stage: the kept one, where the stage goes on.

  Args:
    folder: of the stage's checkpoints.
    make: makes the params that the stage starts from.
    model: with adapters.
    mesh: from `sharding.make_mesh`.

  Raises:
    ValueError: when the stage has checkpoints, and their base is not readable
      or had other adapters.
  """
  own = folder / NAME
  if hosts.gather(_has_checkpoint(folder))[0]:
    then, now = _with_adapters(own, model), model
    if then != now:
      raise ValueError(
        "lora must be what the checkpoints were made with, got "
        f"{_adapters(now)}; {own} says {_adapters(then)}"
      )
    return checkpoint.load_params(own, _wanted(model, mesh))
  if hosts.is_first():
    shutil.rmtree(own, ignore_errors=True)  # of a run that had not begun
  hosts.gather(None)  # none writes there before
  base = make()
  with checkpoint.Store(own, keep=1) as store:
    if hosts.is_first():
      (own / _SETTINGS).write_text(json.dumps(_adapters(model)) + "\n")
    store.save(0, {"params": base}, {})
  return base


def load_params(
  folder: str | os.PathLike[str],
  model: qwen3.Config,
  mesh: jax.sharding.Mesh,
  step: int | None = None,
) -> qwen3.Params:
  """Reads the whole params of a checkpoint, adapters merged.

  Args:
    folder: of a stage's checkpoints, with adapters or without.
    model: its adapters do not matter.
    mesh: from `sharding.make_mesh`.
    step: which checkpoint; the last one when None.

  Raises:
    ValueError: when the folder does not hold params of this model.
  """
  own = pathlib.Path(folder) / NAME
  wanted = _wanted(model, mesh)
  if not own.is_dir():
    return checkpoint.load_params(folder, wanted, step)
  model = _with_adapters(own, model)
  shapes = jax.eval_shape(lambda: qwen3.init_trained(model, jax.random.key(0)))
  adapters = checkpoint.load_params(folder, _placed(shapes, mesh), step)
  return merged(adapters, checkpoint.load_params(own, wanted), model, mesh)


def merged(
  params: qwen3.Params,
  frozen: qwen3.Params | None,
  model: qwen3.Config,
  mesh: jax.sharding.Mesh,
) -> qwen3.Params:
  """Returns plain params of what is trained; frozen ones are used up.

  Where no adapters are trained, they are returned as they are. They have the
  same bits on every mesh, so that what goes on elsewhere is known again: every
  device multiplies whole adapters, as the order of a sum depends on shapes. It
  does so layer by layer, since a whole product is as large as its matrix.
  """
  if not model.adapter_rank or "embed" in params:
    return params
  assert frozen is not None
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  everywhere = lambda x: jax.lax.with_sharding_constraint(x, whole)

  def merge_layer(kernel_a_b):
    kernel, a, b = kernel_a_b
    product = everywhere(everywhere(a) @ everywhere(b))
    return kernel + model.adapter_scale * product

  add = lambda frozen, own: lora.merge_by(
    lora.complete(own, frozen), functools.partial(jax.lax.map, merge_layer)
  )
  where = sharding.param_shardings(frozen, mesh)
  return jax.jit(add, out_shardings=where, donate_argnums=0)(frozen, params)


def _has_checkpoint(folder: pathlib.Path) -> bool:
  return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def _adapters(model: qwen3.Config) -> dict[str, object]:
  return {name: getattr(model, name) for name in _FIELDS}


def _with_adapters(own: pathlib.Path, model: qwen3.Config) -> qwen3.Config:
  """Returns the model with the adapters that a kept base says."""
  path = own / _SETTINGS
  try:
    values = json.loads(path.read_text())
    values["adapter_targets"] = tuple(values["adapter_targets"])
    return dataclasses.replace(
      model, **{name: values[name] for name in _FIELDS}
    )
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} must say which adapters the checkpoints beside it are, got "
      f"{type(error).__name__}: {error}; restore a copy"
    ) from error


def _wanted(model: qwen3.Config, mesh: jax.sharding.Mesh) -> qwen3.Params:
  plain = dataclasses.replace(model, adapter_rank=0)
  shapes = jax.eval_shape(lambda: qwen3.init(plain, jax.random.key(0)))
  return _placed(shapes, mesh)


def _placed(shapes: qwen3.Params, mesh: jax.sharding.Mesh) -> qwen3.Params:
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    shapes,
    sharding.param_shardings(shapes, mesh),
  )
