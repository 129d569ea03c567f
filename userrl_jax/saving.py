"""Decides when the state of a stage is saved: on schedule, or told to end.

In: the schedule, and after every step the state. Out: checkpoints, written in
the background; at the end of a stage and of the run they are waited for.
"""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import time
from typing import Any

from userrl_jax import checkpoint
from userrl_jax import checkpoint_faults
from userrl_jax import config
from userrl_jax import data
from userrl_jax import flags
from userrl_jax import stopping
from userrl_jax.learning import learner


class Saver:
  """Saves the stages of a run, one after the other; a context manager."""

  def __init__(self, schedule: config.Checkpoint, tell: Callable[[str], None]):
    """Saves on this schedule; `tell` shows a line."""
    self._schedule, self._tell = schedule, tell
    self._store: checkpoint.Store | None = None
    self._notice = stopping.Notice()

  def __enter__(self) -> "Saver":
    self._notice.__enter__()
    return self

  def __exit__(
    self, kind: Any, error: BaseException | None, trace: Any
  ) -> None:
    self._notice.hold()  # a first signal ends no writing; a second one does
    try:
      self.close()
    finally:
      self._notice.__exit__(kind, error, trace)
    if self._notice.name and isinstance(error, SystemExit):
      self._tell(
        f"ended by {self._notice.name}; the same command goes on from the last "
        "checkpoint"
      )

  def open(self, folder: pathlib.Path, num_steps: int) -> checkpoint.Store:
    """Opens the store of the next stage, which has so many steps."""
    self._name, self._num_steps = folder.name, num_steps
    self._store = checkpoint.Store(folder, self._schedule.keep, self._tell)
    return self._store

  def begin(self, stream: data.Stream[Any]) -> None:
    """Begins the steps of the stage, which learns from this stream.

    Raises:
      SystemExit: when a joined host was told to end since the last step.
    """
    self._stream, self._saved_at = stream, time.monotonic()
    self._notice.hold()
    if self._notice.reached():
      self._notice.leave()

  def save_when_due(self, num_done: int, state: learner.State) -> None:
    """Saves a checkpoint on schedule and at the end of the stage.

    Args:
      num_done: steps of the stage so far.
      state: after them; it may be donated right after.

    Raises:
      SystemExit: when the run is told to end, with what is done kept; or, with
        a message, when a checkpoint cannot be written.
    """
    assert self._store is not None
    is_last = num_done == self._num_steps
    is_told = self._notice.reached()
    with _write_errors():
      if is_last or is_told or self._is_due(num_done):
        self._save(num_done, state, self._stream.get_state())
      self._store.check()
    if is_last:
      self.close()
    if is_told:
      self._notice.leave()
    if is_last:
      self._notice.release()

  @contextlib.contextmanager
  def saving_what_is_done(
    self, num_done: int, state: learner.State
  ) -> Iterator[None]:
    """Saves a checkpoint when what runs inside has to end the run.

    Inside, a signal ends it at once.

    Args:
      num_done: steps of the stage so far.
      state: after them; what runs inside does not change it.
    """
    if self._store is None:  # the stage is complete, and kept
      yield
      return
    place = self._stream.get_state()
    try:
      with self._notice.released():
        yield
    except SystemExit:
      if num_done > (self._store.latest_step() or 0):
        with _write_errors():
          self._save(num_done, state, place)
        self._tell(f"{self._name}: kept a checkpoint after step {num_done}")
      raise

  @contextlib.contextmanager
  def keeping_beside(self) -> Iterator[None]:
    """Has what is kept beside the checkpoints be whole, and after the last one.

    Inside, no signal ends the run.

    Raises:
      SystemExit: with a message, when it cannot be written; or, where the stage
        is complete, when a signal came meanwhile.
    """
    self._notice.hold()
    with _write_errors():
      if self._store is not None:
        self._store.wait()
      yield
    if self._store is None:
      self._notice.release()

  def close(self) -> None:
    """Waits for what is being written, and ends the stage.

    Raises:
      SystemExit: with a message, when it cannot be written.
    """
    store, self._store = self._store, None
    if store is not None:
      with _write_errors():
        store.close()

  def _is_due(self, num_done: int) -> bool:
    every_steps = self._schedule.every_steps
    if every_steps and num_done % every_steps == 0:
      return True
    if not self._schedule.every_minutes:
      return False
    minutes = (time.monotonic() - self._saved_at) / 60
    return stopping.agreed(minutes >= self._schedule.every_minutes)

  def _save(self, num_done: int, state: learner.State, place: Any) -> None:
    assert self._store is not None
    self._store.save(num_done, state, {"next_step": num_done, "stream": place})
    self._saved_at = time.monotonic()


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
  """Turns a checkpoint that cannot be written into a message and exit code."""
  try:
    yield
  except checkpoint_faults.WriteError:
    with flags.user_errors():
      raise
