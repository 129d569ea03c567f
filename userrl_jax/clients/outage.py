"""A circuit breaker: what is down for everybody is nobody's fault.

In: whether requests were answered. Out: while they are not, requests wait,
with the clocks of their episodes stopped, and one at a time tries whether the
endpoint is back. So nothing is lost that can go on.
"""

import asyncio
from collections.abc import AsyncIterator
import contextlib
import logging
import random
import time

from userrl_jax import types
from userrl_jax import underway

_TRIP_AT = 5  # failures, with no answer between them
_FIRST_PAUSE_S = 0.25  # before the first trial; doubles with each
_MAX_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class Outage:
  """Knows whether an endpoint is down, and who may try it."""

  def __init__(self, max_s: float, where: str):
    """Starts with an endpoint that is up.

    Args:
      max_s: how long an outage may take; 0 never takes it for one.
      where: the endpoint, as messages name it.
    """
    self.num_answers = 0  # of any kind, so far
    self.num_outages = 0
    self.total_s = 0.0  # of outages that are over
    self._max_s = max_s
    self._where = where
    self._random = random.Random()
    self._num_failures = 0  # since the last answer
    self._began: float | None = None  # while it is down
    self._num_trials = 0
    self.reopen()

  def reopen(self) -> None:
    """Makes ready for another event loop."""
    self._trial = asyncio.Lock()

  @property
  def is_on(self) -> bool:
    """Returns whether the endpoint is taken for down."""
    return self._began is not None

  def answered(self) -> None:
    """Notes an answer, a refusal among them: somebody is there."""
    self.num_answers += 1
    self._num_failures = 0
    if self._began is None:
      return
    outage_s = time.monotonic() - self._began
    self._began = None
    self.total_s += outage_s
    _log.warning("%s answers again after %.0f s", self._where, outage_s)

  def failed(self, *, has_given_up: bool, wait_s: float = 0.0) -> bool:
    """Notes a request without an answer.

    Args:
      has_given_up: it was tried as often as it may be, and nobody else got an
        answer in the meantime.
      wait_s: that the endpoint asks for before the next.

    Returns:
      Whether the endpoint is down, and the request may wait for it.
    """
    self._num_failures += 1
    trips = has_given_up or self._num_failures >= _TRIP_AT
    if self._max_s and trips and self._began is None:
      self._began = time.monotonic()
      self._num_trials = 0
      self.num_outages += 1
      _log.warning(
        "%s does not answer; rollouts wait for it, at most %g s",
        self._where,
        self._max_s,
      )
    self._asked_s = wait_s
    return self.is_on

  @contextlib.asynccontextmanager
  async def passage(self) -> AsyncIterator[None]:
    """Lets a request through, at once unless the endpoint is down.

    While it is, one at a time, after a pause.

    Raises:
      types.SetupError: when it was down for too long.
    """
    if self._began is None:
      yield
      return
    with underway.paused():
      async with self._trial:
        await self._pause()
        if self._began is not None:
          yield
          return
    yield

  async def _pause(self) -> None:
    if self._began is None:
      return
    left_s = self._began + self._max_s - time.monotonic()
    if left_s <= 0:
      raise types.SetupError(
        f"{self._where} must answer, got nothing for {self._max_s:g} s "
        "(user.max_outage_s); start it and then the same command again: the "
        "run goes on from its last checkpoint"
      )
    pause_s = min(_FIRST_PAUSE_S * 2**self._num_trials, _MAX_PAUSE_S)
    self._num_trials += 1
    pause_s *= self._random.uniform(0.5, 1)
    await asyncio.sleep(min(max(pause_s, self._asked_s), left_s))
