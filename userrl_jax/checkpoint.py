"""Saves and restores the state of a stage with Orbax (law L10).

In: any pytree of arrays (params, optimizer, step), and a small JSON dict
(Grain state, seeds, counters). Out: a folder

  <folder>/<step>/        one finished checkpoint: state, extras, digests
  <folder>/tokenizer/     the tokenizer, beside them
  <folder>/config.json    the resolved config, beside them

A checkpoint is written under a temporary name and renamed when complete, so
a killed save leaves nothing that looks finished. The file format notices most
damage but not a flipped bit inside an array, so every array's digest is kept
and compared after loading. A stage goes on from its latest whole checkpoint and
says which ones it passed over; they are kept as <step>.damaged.
"""

from collections.abc import Callable, Mapping
import contextlib
import json
import os
import pathlib
import shutil
from typing import Any, Protocol
import zlib

import jax
import orbax.checkpoint as ocp

from userrl_jax import checkpoint_faults
from userrl_jax import checkpoint_reading
from userrl_jax import digests
from userrl_jax import leaves as leaves_lib


class Tokenizer(Protocol):
  """What a checkpoint needs of a tokenizer."""

  fingerprint: str

  def save(self, folder: Any) -> None:
    """Writes the tokenizer's files into a folder."""


class Store:
  """Keeps the latest checkpoints of one stage in a folder.

  Usable as a context manager. Saving blocks until the state is copied, so the
  caller may donate or change it right after; it is written in the background.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    keep: int = 2,
    tell: Callable[[str], None] = print,
  ):
    """Opens or creates a folder of checkpoints.

    Args:
      folder: local folder; made when it is not there.
      keep: how many of the latest checkpoints to keep, at least 1.
      tell: shows a warning.

    Raises:
      ValueError: when `keep` is below 1, or hosts see different checkpoints.
    """
    if keep < 1:
      raise ValueError(
        f"checkpoint.keep must be at least 1, got {keep}; a run that keeps "
        "none cannot resume"
      )
    self.folder = pathlib.Path(folder).absolute()
    self.folder.mkdir(parents=True, exist_ok=True)
    self._tell = tell
    self._orbax = _open(self.folder, keep)
    checkpoint_faults.seen_by_all(self._orbax)

  def __enter__(self) -> "Store":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()

  def describe(
    self, tokenizer: Tokenizer | None, config: Mapping[str, Any]
  ) -> None:
    """Writes the tokenizer and the resolved config beside the checkpoints.

    Args:
      tokenizer: the run's, or None when it has none.
      config: the resolved config, JSON-able.

    Raises:
      ValueError: when the folder already holds another tokenizer: its
        checkpoints would then be read with the wrong vocabulary.
    """
    if tokenizer is not None:
      self._describe_tokenizer(tokenizer)
    path = self.folder / "config.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(config, indent=2) + "\n")
    temporary.replace(path)

  def _describe_tokenizer(self, tokenizer: Tokenizer) -> None:
    target = self.folder / "tokenizer"
    mark = target / "fingerprint.txt"
    if target.exists():
      found = mark.read_text().strip() if mark.exists() else "no fingerprint"
      if found != tokenizer.fingerprint:
        raise ValueError(
          f"the checkpoints in {self.folder} must be of this run's tokenizer "
          f"({tokenizer.fingerprint[:12]}), got {found[:12]}; use another "
          "out_dir or the tokenizer that made them"
        )
      return
    temporary = self.folder / "tokenizer.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tokenizer.save(temporary)
    (temporary / mark.name).write_text(tokenizer.fingerprint + "\n")
    temporary.rename(target)

  def save(self, step: int, state: Any, extras: Mapping[str, Any]) -> None:
    """Begins to write one checkpoint; then those beyond `keep` are dropped.

    Waits for the one before it.

    Args:
      step: number of steps done; larger than every saved one.
      state: pytree of arrays, at least one of them.
      extras: small JSON-able dict that `restore` gives back as it is.

    Raises:
      ValueError: when the step is not above the latest, the state holds
        something other than arrays, or the extras are not JSON-able.
      WriteError: when this one, or the one before it, cannot be written.
    """
    latest = self.latest_step()
    if latest is not None and step <= latest:
      raise ValueError(
        f"a checkpoint's step must be above the latest in {self.folder} "
        f"({latest}), got {step}; restore the latest before going on"
      )
    leaves = leaves_lib.arrays_by_path(state)
    text = json.dumps(dict(extras))
    if json.loads(text) != dict(extras):
      raise ValueError(
        "extras must come back from JSON as they went in (string keys, lists, "
        f"finite numbers), got {dict(extras)!r}"
      )
    record = {
      "extras": text,
      "extras_crc32": zlib.crc32(text.encode()),
      "digests": digests.of(leaves),
    }
    with checkpoint_faults.writing(self.folder):
      self._orbax.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(leaves_lib.nest(leaves)),
          extras=ocp.args.JsonSave(record),
        ),
        force=True,
      )

  def check(self) -> None:
    """Raises WriteError when a checkpoint was not written; does not wait."""
    if not self._orbax.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Waits until what was saved is written; raises WriteError if it is not."""
    with checkpoint_faults.writing(self.folder):
      self._orbax.wait_until_finished()

  def latest_step(self) -> int | None:
    """Returns the step of the latest checkpoint that was saved, or None."""
    return self._orbax.latest_step()

  def restore(
    self, abstract_state: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint, checked against what is wanted before it is loaded.

    Args:
      abstract_state: pytree of arrays or `jax.ShapeDtypeStruct`; the result
        has its structure, shapes, dtypes and (where given) shardings.
      step: which checkpoint; the latest whole one when None.

    Returns:
      The state, bit-equal to what was saved, and the extras.

    Raises:
      ValueError: when there is no such checkpoint, it cannot be read, is
        damaged, or holds other leaves, shapes or dtypes; without a step, when
        that is so of every checkpoint. Never falls back to a fresh start. Of
        several hosts all do without a checkpoint that one cannot read.
    """
    self.wait()
    _choose_step(self._orbax, self.folder, step)  # or there is none
    with contextlib.closing(_open_to_read(self.folder)) as orbax:
      if step is not None:
        return self._restore(orbax, abstract_state, step)
      restored, used, failures = checkpoint_faults.newest_whole(
        self._orbax.all_steps(),
        lambda step: self._restore(orbax, abstract_state, step),
      )
    if failures:
      checkpoint_faults.set_aside(self.folder, failures, used, self._tell)
      self._orbax.reload()
    return restored

  def _restore(
    self, orbax: ocp.CheckpointManager, abstract_state: Any, step: int
  ) -> tuple[Any, dict[str, Any]]:
    wanted = leaves_lib.by_path(abstract_state)
    where = self.folder / str(step)
    with checkpoint_faults.on_all_hosts():
      saved = checkpoint_reading.saved_leaves(orbax, where, step)
      unwanted = sorted(set(saved) - set(wanted))
      if unwanted:
        raise ValueError(
          f"checkpoint {where} must hold what this run trains and nothing "
          f"else, got also {leaves_lib.some(unwanted)}; restore it with the "
          "config that made it"
        )
      leaves_lib.check(where, saved, wanted, exact_dtype=True)
      read = checkpoint_reading.read(orbax, where, step, saved, wanted)
    return checkpoint_reading.proven(where, read, abstract_state, wanted)

  def close(self) -> None:
    """Waits for what is being written and lets go of the folder.

    Raises:
      WriteError: when it cannot be written.
    """
    try:
      self.wait()
    finally:
      self._orbax.close()


def last_step(folder: str | os.PathLike[str]) -> int:
  """Returns the step of the latest checkpoint in a folder.

  Raises:
    ValueError: when there is no such folder, or no checkpoint in it.
  """
  orbax = _open_to_read(folder)
  try:
    return _choose_step(orbax, pathlib.Path(orbax.directory), None)
  finally:
    orbax.close()


def load_params(
  folder: str | os.PathLike[str], abstract_params: Any, step: int | None = None
) -> Any:
  """Reads only the params of a checkpoint, for `init_from`.

  Args:
    folder: a folder that a `Store` wrote; its states have a field `params`.
    abstract_params: pytree of arrays or `jax.ShapeDtypeStruct`. A dtype other
      than the saved one converts.
    step: which checkpoint; the latest when None.

  Returns:
    The params, in the structure and shardings of `abstract_params`.

  Raises:
    ValueError: when there is no checkpoint in the folder, it cannot be read,
      is damaged, or its params have other names or shapes.
  """
  orbax = _open_to_read(folder)
  folder = pathlib.Path(orbax.directory)
  try:
    step = _choose_step(orbax, folder, step)
    where = folder / str(step)
    abstract = {"params": abstract_params}
    wanted = leaves_lib.by_path(abstract)
    with checkpoint_faults.on_all_hosts():
      saved = checkpoint_reading.saved_leaves(orbax, where, step)
      saved = {p: a for p, a in saved.items() if p.startswith("params/")}
      unwanted = sorted(set(saved) - set(wanted))
      if unwanted:
        raise ValueError(
          f"checkpoint {where} must hold the configured model, got also "
          f"{leaves_lib.some(unwanted)}; set model to what made the checkpoint"
        )
      leaves_lib.check(where, saved, wanted, exact_dtype=False)
      read = checkpoint_reading.read(orbax, where, step, saved, wanted)
    return checkpoint_reading.proven(where, read, abstract, wanted)[0]["params"]
  finally:
    orbax.close()


def _open_to_read(folder: str | os.PathLike[str]) -> ocp.CheckpointManager:
  folder = pathlib.Path(folder).absolute()
  if not folder.is_dir():
    raise ValueError(
      f"init_from must be a folder with checkpoints, got {folder}, which is "
      "not there; give a run's checkpoints/<stage>"
    )
  return _open(folder, keep=None)


def _open(folder: pathlib.Path, keep: int | None) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    folder,
    # What is written in the background is a copy on the host, made before
    # saving returns. On the CPU it is the array itself, which JAX then does not
    # let an update reuse, donated or not.
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      enable_async_checkpointing=keep is not None,
      # Else a folder that cannot be made shows after a timeout of minutes.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      read_only=keep is None,
      # Reading waits for no other host: one that fails would not come.
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        active_processes={jax.process_index()} if keep is None else None
      ),
    ),
    item_handlers={
      "state": ocp.PyTreeCheckpointHandler(),
      "extras": ocp.JsonCheckpointHandler(),
    },
  )


def _choose_step(
  orbax: ocp.CheckpointManager, folder: pathlib.Path, step: int | None
) -> int:
  steps = checkpoint_faults.seen_by_all(orbax)
  if not steps:
    found = sorted(p.name for p in folder.iterdir())[:8]
    raise ValueError(
      f"{folder} must hold a finished checkpoint (a folder named by its "
      f"step), got {found}; give a run's checkpoints/<stage>"
    )
  if step is None:
    return steps[-1]
  if step not in steps:
    raise ValueError(
      f"a checkpoint in {folder} must be one of {steps}, got {step}"
    )
  return step
