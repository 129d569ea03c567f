"""An event loop whose clock jumps: on a busy machine too, nothing is late.

Its time stands still while anything can run, and goes to the next deadline
when all wait. Not for what waits for threads, sockets or processes: they need
real time.
"""

import asyncio
import selectors
import threading


class _Selector(selectors.DefaultSelector):
  """Waits for no time; counts the time that it was to wait."""

  now = 0.0

  def select(self, timeout=None):
    ready = super().select(None if timeout is None else 0)
    if not ready and timeout is not None:
      self.now += max(timeout, 0)
    return ready


class _Loop(asyncio.SelectorEventLoop):
  def __init__(self):
    self._waits = _Selector()
    super().__init__(self._waits)

  def time(self):
    return self._waits.now


def run(main):
  """As `asyncio.run`."""
  num_threads = threading.active_count()
  with asyncio.Runner(loop_factory=_Loop) as runner:
    result = runner.run(main)
    assert threading.active_count() <= num_threads, "threads need real time"
    return result


def now():
  """Returns the seconds since the loop that runs began."""
  return asyncio.get_running_loop().time()
