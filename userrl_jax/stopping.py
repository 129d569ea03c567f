"""Ends a run that is told to end, where nothing is lost.

In: SIGTERM or SIGINT; of hosts that are joined, the notice that any of them
gets. Out: `SystemExit` with 128 and the signal's number (143 for SIGTERM):

  at once    where the state is not being changed: while things are prepared,
             in a rollout, in an evaluation
  held back  in an update, until the step is done and can be kept

An open rollout is given up, not waited for: its users may think for minutes,
and a machine that is taken away gives half a minute. Its draws do not depend on
when they are made, so the same episodes are played again.

Where hosts are joined, a rollout is not given up either: all of them have to
leave after the same step, which JAX's preemption sync point finds.
"""

from collections.abc import Iterator
import contextlib
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Notice:
  """Hears that the process shall end; a context manager.

  A second signal ends the process as if nobody had heard the first one.
  """

  def __init__(self) -> None:
    self._number = 0  # of the signal that was heard; 0 is none
    self._is_held = False
    self._handlers: dict[int, Any] = {}  # that were there before

  def __enter__(self) -> "Notice":
    # Of joined hosts JAX hears the signals itself, to tell the other hosts.
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and not jax.distributed.is_initialized():
      for number in _SIGNALS:
        self._handlers[number] = signal.signal(number, self._hear)
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    self._handlers.clear()

  @property
  def name(self) -> str:
    """The name of the signal that was heard, "" without one."""
    return signal.Signals(self._number).name if self._number else ""

  def hold(self) -> None:
    """Holds back from now on, until `reached` or `release`."""
    self._is_held = True

  def release(self) -> None:
    """Ends at once from now on, also when a signal was heard already."""
    self._is_held = False
    if self._number:
      self.leave()

  @contextlib.contextmanager
  def released(self) -> Iterator[None]:
    """Ends at once inside, and holds back again after."""
    try:
      self.release()
      yield
    finally:
      self._is_held = True

  def reached(self, step: int) -> bool:
    """Returns whether to keep what is done and then `leave`; all hosts alike.

    Args:
      step: number of steps done. Joined hosts ask after each one.
    """
    if jax.distributed.is_initialized() and not self._number:
      # The number that Orbax asks with when it saves: JAX keeps the last one.
      has_notice = multihost_utils.reached_preemption_sync_point(step)
      self._number = signal.SIGTERM if has_notice else 0
    return bool(self._number)

  def leave(self) -> None:
    """Raises SystemExit with the code of the signal."""
    # Episodes under way end by it too, and nobody asks their tasks: asyncio
    # would print a traceback for each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    raise SystemExit(128 + self._number)

  def _hear(self, number: int, frame: FrameType | None) -> None:
    if self._number:
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
      return
    self._number = number
    if self._is_held:
      # Not print: the signal may have come in the middle of one.
      line = f"{self.name}: ends after this step; a second one ends it now\n"
      os.write(2, line.encode())
    else:
      self.leave()


def agreed(is_due: bool) -> bool:
  """Returns what the first process says, for what clocks decide."""
  if jax.process_count() == 1:
    return is_due
  return bool(multihost_utils.broadcast_one_to_all(np.array(is_due)))
