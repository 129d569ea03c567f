"""One set of pooled connections a process, shared by all its endpoints.

It belongs to the event loop that it was opened on, and is closed with the last
of those who opened it. For every request a pool looks at each connection that
it has, so with hundreds of requests under way one pool of all would cost more
time than all else: they are spread over small ones.
"""

import asyncio
from collections.abc import AsyncIterator
import contextlib
from typing import Any

import httpx2
import openai

POOL_SIZE = 16  # requests under way in a pool before there is another one

# A connection for each request under way, of which others bound the number;
# fewer would be closed and opened again and again.
_LIMITS = httpx2.Limits(
  max_connections=None, max_keepalive_connections=None, keepalive_expiry=30.0
)

# {event loop: (its connections, how many hold them)}
_open: dict[asyncio.AbstractEventLoop, tuple[Any, int]] = {}


class Pools(httpx2.AsyncBaseTransport):
  """Sends each request through the first pool that has room for it."""

  def __init__(self) -> None:
    self._certificates = httpx2.create_ssl_context()  # read once for all
    self._pools: list[httpx2.AsyncHTTPTransport] = []
    self._under_way: list[int] = []

  async def handle_async_request(
    self, request: httpx2.Request
  ) -> httpx2.Response:
    """Returns the response, whose body is still to be read."""
    place = self._place()
    self._under_way[place] += 1
    try:
      return await self._pools[place].handle_async_request(request)
    finally:
      self._under_way[place] -= 1

  async def aclose(self) -> None:
    """Closes all connections."""
    for pool in self._pools:
      await pool.aclose()

  def _place(self) -> int:
    for place, number in enumerate(self._under_way):
      if number < POOL_SIZE:
        return place
    pool = httpx2.AsyncHTTPTransport(verify=self._certificates, limits=_LIMITS)
    self._pools.append(pool)
    self._under_way.append(0)
    return len(self._pools) - 1


@contextlib.asynccontextmanager
async def connections() -> AsyncIterator[Any]:
  """Opens the connections of the running event loop.

  Yields:
    What the `openai` package takes as `http_client`.
  """
  loop = asyncio.get_running_loop()
  client, num_holders = _open.get(loop, (None, 0))
  if client is None:
    # Without a timeout: theirs starts anew with every chunk; ours does not.
    # Limits are for the pools of proxies that the environment names.
    client = openai.DefaultAsyncHttpxClient(
      transport=Pools(), limits=_LIMITS, timeout=None
    )
  _open[loop] = client, num_holders + 1
  try:
    yield client
  finally:
    _, num_holders = _open[loop]
    if num_holders == 1:
      del _open[loop]
      await client.aclose()
    else:
      _open[loop] = client, num_holders - 1
