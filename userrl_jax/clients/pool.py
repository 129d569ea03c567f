"""One set of pooled connections a process, shared by all its endpoints.

A pool belongs to the event loop that it was opened on. It is closed with the
last of those who opened it.
"""

import asyncio
from collections.abc import AsyncIterator
import contextlib
from typing import Any

import openai

# A connection for each request under way, of which others bound the number;
# fewer would be closed and opened again and again.
_LIMITS: Any = type(openai.DEFAULT_CONNECTION_LIMITS)(
  max_connections=None,
  max_keepalive_connections=None,
  keepalive_expiry=30.0,
)

# {event loop: (its connections, how many hold them)}
_open: dict[asyncio.AbstractEventLoop, tuple[Any, int]] = {}


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
    client = openai.DefaultAsyncHttpxClient(limits=_LIMITS, timeout=None)
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
