"""Passes searches of the web through what all endpoints of a run share.

In: a search and how to ask for it. Out: its answer as text, recorded and played
again like any other; each try is a call of the limits and of the budget, under
the role `search`. A search has no tokens and no price here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
import contextlib
import time

from userrl_jax import underway
from userrl_jax.clients import budget as budget_lib
from userrl_jax.clients import recording as recording_lib
from userrl_jax.clients import shared as shared_lib

ROLE = "search"


class Lookup:
  """Lets searches pass; usable while one of the endpoints is open."""

  def __init__(self, shared: shared_lib.Shared):
    self._shared = shared

  @property
  def is_offline(self) -> bool:
    """Returns whether nothing is asked: a recording has all the answers."""
    return self._shared.recording.mode == "replay"

  async def answer(
    self, where: str, query: str, k: int, ask: Callable[[], Awaitable[str]]
  ) -> str:
    """Returns the answer to a search, as it was, or as it is now.

    Args:
      where: what is asked, such as a URL.
      query: of the search.
      k: results at most.
      ask: asks for it.

    Raises:
      types.FaultError: as recorded, or as it comes.
      types.SetupError: when a replay has no such search.
    """
    episode = underway.current()
    request = recording_lib.Request(
      role=ROLE,
      model=where,
      draw="-" if episode is None else episode.draw(),
      sampling={"k": k},
      messages=[{"role": "user", "content": query}],
    )
    return await self._shared.recording.answer(request, ask)

  @contextlib.asynccontextmanager
  async def call(self) -> AsyncIterator[None]:
    """Waits for a place within the limits and books the call made inside.

    Raises:
      types.BudgetSpent: when the budget does not cover another call.
    """
    most = budget_lib.Amount(calls=1)
    async with self._shared.limits.place(0):
      await self._shared.budget.reserve(most)
      start = time.monotonic()
      try:
        yield
      finally:
        seconds = time.monotonic() - start
        cost = budget_lib.Amount(calls=1, seconds=seconds)
        self._shared.budget.settle(ROLE, most, cost)
