"""Ends a run that is told to end, where nothing is lost.

In: SIGTERM or SIGINT; where hosts are joined, one that any of them gets. Out:
`SystemExit` with 128 and the signal's number (143 for SIGTERM):

  at once    where the state is not being changed: while things are prepared,
             in a rollout, in a look at held-back tasks, in an evaluation
  held back  in an update, until the step is done and can be kept

An open rollout is given up, not waited for: its users may think for minutes,
and a machine that is taken away gives half a minute. Its draws do not depend on
when they are made, so the same episodes are played again.

Where hosts are joined, nothing is given up, as all of them have to leave at the
same place: they tell each other what they heard after every step, and before
the first one of a stage, and leave there together. JAX's own notice of
preemption is off (`hosts`): it takes the signal, and then waits for a number of
a step that a later stage, or a run that goes on, may never come to.
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

from userrl_jax import hosts

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Notice:
  """Hears that the process shall end; a context manager.

  A second signal ends the process as if nobody had heard the first one.
  """

  def __init__(self) -> None:
    self._heard = 0  # the signal that this process heard; 0 is none
    self._number = 0  # the one to end by: joined hosts agree on it
    self._is_held = False
    self._is_joined = False
    self._handlers: dict[int, Any] = {}  # that were there before

  def __enter__(self) -> "Notice":
    self._is_joined = jax.process_count() > 1
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        self._handlers[number] = signal.signal(number, self._hear)
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    self._handlers.clear()

  @property
  def name(self) -> str:
    """The name of the signal to end by, "" without one."""
    return signal.Signals(self._number).name if self._number else ""

  def hold(self) -> None:
    """Holds back from now on, until `reached` or `release`."""
    self._is_held = True

  def release(self) -> None:
    """Ends at once from now on, also when a signal was heard already.

    Not where hosts are joined: they leave together, see `reached`.
    """
    self._is_held = False
    if self._number and not self._is_joined:
      self.leave()

  @contextlib.contextmanager
  def released(self) -> Iterator[None]:
    """Ends at once inside, and holds back again after."""
    try:
      self.release()
      yield
    finally:
      self._is_held = True

  def reached(self) -> bool:
    """Returns whether to keep what is done and then `leave`; all hosts alike.

    Joined hosts ask together: after each step, and where a stage begins.
    """
    # Not what was heard since: the other hosts do not know of it.
    number = max(hosts.gather(self._heard))
    if number:
      self._number = number
    return bool(number)

  def leave(self) -> None:
    """Raises SystemExit with the code of the signal."""
    # Episodes under way end by it too, and nobody asks their tasks: asyncio
    # would print a traceback for each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    raise SystemExit(128 + self._number)

  def _hear(self, number: int, frame: FrameType | None) -> None:
    if self._heard:
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
      return
    self._heard = number
    if self._is_joined:
      self._say(number, "all hosts end after this step")
      return
    self._number = number
    if self._is_held:
      self._say(number, "ends after this step")
    else:
      self.leave()

  def _say(self, number: int, what: str) -> None:
    # Not print: the signal may have come in the middle of one.
    name = signal.Signals(number).name
    os.write(2, f"{name}: {what}; a second one ends it now\n".encode())


def agreed(is_due: bool) -> bool:
  """Returns what the first process says, for what clocks decide."""
  if jax.process_count() == 1:
    return is_due
  return bool(multihost_utils.broadcast_one_to_all(np.array(is_due)))
