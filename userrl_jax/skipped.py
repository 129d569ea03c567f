"""Keeps what an update was given that was skipped because it was not finite.

In: a stage's update, and what examines a skipped one. Out: the same update,
and `<out_dir>/skipped/<stage>-<update>/` for each of the first few:

  report.json  which update, where the first value is that is not finite, the
               loss, and the norms of the gradient by weight and layer
  batch.npz    the batch, by field, without its unused micro-batches
"""

from collections.abc import Callable
import dataclasses
import json
import math
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from userrl_jax import console
from userrl_jax import hosts
from userrl_jax import leaves
from userrl_jax import sharding
from userrl_jax.learning import batching
from userrl_jax.learning import learner
from userrl_jax.learning import soundness

MOST = 5  # dumps of a run


class Update:
  """A jitted update that leaves a dump where it is skipped as not finite.

  Called like the update, and returns what it returns; waits for it. Of several
  hosts all examine, and the first writes.
  """

  def __init__(
    self,
    update: Callable[..., tuple[learner.State, learner.Metrics]],
    examine: soundness.Examine,
    mesh: jax.sharding.Mesh,
    out_dir: pathlib.Path,
    stage: str,
  ):
    self._update = update
    self._examine = examine
    self._gather = jax.jit(
      lambda batch: batch, out_shardings=sharding.replicated(mesh)
    )
    self._folder = out_dir / "skipped"
    self._stage = stage
    self._tell = console.Console(is_quiet=not hosts.is_first()).print

  def __call__(
    self, state: learner.State, batch: batching.Batch, *frozen: learner.Params
  ) -> tuple[learner.State, learner.Metrics]:
    """Takes the step; see `learner.make_update`."""
    state, metrics = self._update(state, batch, *frozen)
    # Without a token an update is skipped too, and nothing is wrong.
    if metrics["train/skipped"] > 0 and metrics["train/num_tokens"] > 0:
      self._keep(state, batch, frozen)
    return state, metrics

  def _cache_size(self) -> int:
    return self._update._cache_size()

  def _keep(self, state, batch, frozen):
    number = int(state.step)  # from 1
    what = f"{self._stage}: update {number} was skipped, it is not finite"
    folder = self._folder / f"{self._stage}-{number}"
    others = [p for p in self._folder.glob("*-*[0-9]") if p != folder]
    if len(others) >= MOST:
      self._tell(f"{what}; {self._folder} holds {MOST} such batches already")
      return
    findings = self._examine(state.params, batch, *frozen)
    batch = jax.device_get(self._gather(batch))
    if hosts.is_first():
      _write(folder, self._stage, number, findings, batch)
    hosts.gather(None)  # the others count folders, too
    self._tell(
      f"{what}; first of all {findings.first or 'nothing, when done again'}. "
      f"Its batch and gradient norms are in {folder}"
    )


def read_batch(folder: pathlib.Path) -> batching.Batch:
  """Reads the batch of a dump, as the update takes it."""
  with np.load(folder / "batch.npz", allow_pickle=False) as arrays:
    of = leaves.nest(dict(arrays))
  return batching.Batch(**of | {"rows": batching.Rows(**of["rows"])})


def _write(folder, stage, number, findings, batch):
  """Writes a dump, whole or not at all."""
  partial = folder.with_name(f"{folder.name}.partial")
  for path in (partial, folder):  # of a process that was killed
    shutil.rmtree(path, ignore_errors=True)
  partial.mkdir(parents=True)
  used = int(batch.num_micro_batches)
  rows = jax.tree.map(lambda x: x[:used], batch.rows)
  np.savez_compressed(
    partial / "batch.npz", **leaves.by_path(batch._replace(rows=rows))
  )
  report = {"stage": stage, "update": number} | dataclasses.asdict(findings)
  (partial / "report.json").write_text(
    json.dumps(_jsonable(report), indent=2) + "\n"
  )
  partial.rename(folder)


def _jsonable(value: Any) -> Any:
  """Returns the same with what JSON has no number for as text."""
  if isinstance(value, dict):
    return {key: _jsonable(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_jsonable(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value
