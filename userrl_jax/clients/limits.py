"""Limits that all requests of a run keep together.

In: the limits and, for each request, an estimate of its tokens. Out: a place,
once there is one: in order of arrival, so nobody starves. In no 60 seconds are
more requests or tokens let through than the limits say.
"""

import asyncio
import collections
from collections.abc import AsyncIterator, Callable
import contextlib
import time

from userrl_jax import underway

_WINDOW_S = 60.0


class Limits:
  """Lets requests pass, at most so many at once and a minute.

  While one waits, the clock of its episode's deadline stands still.
  """

  def __init__(
    self,
    max_concurrent: int,
    requests_per_minute: int = 0,
    tokens_per_minute: int = 0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Sets the limits.

    Args:
      max_concurrent: requests under way at once.
      requests_per_minute: 0 is no limit.
      tokens_per_minute: in and out together; 0 is no limit.
      clock: in seconds.
    """
    self._max_concurrent = max_concurrent
    self._requests_per_minute = requests_per_minute
    self._tokens_per_minute = tokens_per_minute
    self._clock = clock
    self._held_until = 0.0
    self._passed: collections.deque[_Passed] = collections.deque()
    self._num_tokens = 0  # of those
    self.reopen()

  def reopen(self) -> None:
    """Makes ready for another event loop; what has passed still counts."""
    # Locks belong to the event loop on which they first waited.
    self._slots = asyncio.Semaphore(self._max_concurrent)
    self._turn = asyncio.Lock()

  def hold(self, seconds: float) -> None:
    """Lets nobody pass for so long: the endpoint asked for it."""
    self._held_until = max(self._held_until, self._clock() + seconds)

  @contextlib.asynccontextmanager
  async def place(self, num_tokens: int) -> AsyncIterator["_Passed"]:
    """Waits for a place and keeps it.

    Args:
      num_tokens: the most that the request can take, in and out.

    Yields:
      What was booked, to be corrected by `correct`.
    """
    with underway.paused():
      await self._slots.acquire()
    try:
      with underway.paused():
        passed = await self._pass(num_tokens)
      yield passed
    finally:
      self._slots.release()

  def correct(self, passed: "_Passed", num_tokens: int) -> None:
    """Books what a request has really taken."""
    if passed.is_counted:
      self._num_tokens += num_tokens - passed.num_tokens
    passed.num_tokens = num_tokens

  async def _pass(self, num_tokens: int) -> "_Passed":
    async with self._turn:
      while (wait_s := self._wait_s(num_tokens)) > 0:
        await asyncio.sleep(wait_s)
      passed = _Passed(self._clock(), num_tokens)
      if self._requests_per_minute or self._tokens_per_minute:
        self._passed.append(passed)
        self._num_tokens += num_tokens
      return passed

  def _wait_s(self, num_tokens: int) -> float:
    """Returns how long nobody may pass; 0 when the next one may."""
    now = self._clock()
    while self._passed and now - self._passed[0].time_s >= _WINDOW_S:
      oldest = self._passed.popleft()
      oldest.is_counted = False
      self._num_tokens -= oldest.num_tokens
    wait_s = self._held_until - now
    if self._passed and (
      0 < self._requests_per_minute <= len(self._passed)
      # One that is above the limit by itself passes alone, or it never would.
      or 0 < self._tokens_per_minute < self._num_tokens + num_tokens
    ):
      wait_s = max(wait_s, self._passed[0].time_s + _WINDOW_S - now)
    return wait_s


class _Passed:
  """A request that was let through."""

  def __init__(self, time_s: float, num_tokens: int):
    self.time_s = time_s
    self.num_tokens = num_tokens
    self.is_counted = True
