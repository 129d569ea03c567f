"""What the server does with a request: paths, keys, how many there may be.

In: a `connections.Request`. Out: a `connections.Response`, in OpenAI's form;
errors as well. What goes wrong in one request is told to its client alone.
"""

import asyncio
from collections.abc import AsyncIterator
import concurrent.futures
import contextlib
import functools
import hmac
import math
import sys
import time
import traceback
from typing import Any

from userrl_jax import types
from userrl_jax.serving import completions
from userrl_jax.serving import connections
from userrl_jax.serving import host as host_lib
from userrl_jax.serving import requests

_DONE = "[DONE]"  # how OpenAI ends a stream
_MAX_RETRY_S = 60
# Of who writes prompts as ids; device calls have threads of their own.
_NUM_WRITERS = 2


class App:
  """Answers requests with one model."""

  def __init__(
    self, host: host_lib.Host, name: str, key: str = "", max_pending: int = 256
  ):
    """Takes the model, which must be open while requests come.

    Args:
      host: of the model.
      name: that clients know it by.
      key: that a request must show; empty lets in any.
      max_pending: completions sampled or waiting at once; more are sent away.
    """
    self._host = host
    self._name = name
    self._key = key
    self._max_pending = max_pending
    self._num_pending = 0
    self._mean_s = 1.0  # of a request lately
    self.has_failed = asyncio.Event()  # the engine did: no request can go well
    self._created = int(time.time())
    self._writers = concurrent.futures.ThreadPoolExecutor(
      _NUM_WRITERS, "userrl_jax prompts"
    )

  async def handle(self, request: connections.Request) -> connections.Response:
    """Answers a request; raises nothing but what cancels it."""
    try:
      return await self._route(request)
    except requests.Refused as error:
      return connections.Response(error.body, error.status, error.headers)
    except Exception as error:
      return self._failure(error)

  async def _route(self, request: connections.Request) -> connections.Response:
    path, model_path = request.path.rstrip("/"), f"/v1/models/{self._name}"
    methods = {
      "/health": "GET",
      "/v1/models": "GET",
      model_path: "GET",
      "/v1/chat/completions": "POST",
    }
    if path != "/health":
      self._check_key(request)
    if path not in methods:
      raise requests.Refused(
        f"there is no {request.path[:100]} here; there is {', '.join(methods)}",
        status=404,
        code="not_found",
      )
    if request.method != methods[path]:
      raise requests.Refused(
        f"{path} must be asked for by {methods[path]}, got {request.method}",
        status=405,
        headers={"Allow": methods[path]},
      )
    if path == "/health":
      state = "failed" if self.has_failed.is_set() else "ok"
      about = {"model": self._name, "pending": self._num_pending}
      return connections.Response(
        {"status": state, **about}, 200 if state == "ok" else 503
      )
    if path == model_path:
      return connections.Response(self._about())
    if path == "/v1/models":
      listed = {"object": "list", "data": [self._about()]}
      return connections.Response(listed)
    return await self._chat(request)

  def _check_key(self, request: connections.Request) -> None:
    given = request.headers.get("authorization", "")
    wanted = f"Bearer {self._key}"
    if self._key and not hmac.compare_digest(
      given.encode("latin-1"), wanted.encode("latin-1")
    ):
      raise requests.Refused(
        "the header Authorization must be Bearer and this server's key",
        status=401,
        code="invalid_api_key",
      )

  def _about(self) -> dict[str, Any]:
    return {
      "id": self._name,
      "object": "model",
      "created": self._created,
      "owned_by": "userrl_jax",
    }

  async def _chat(self, request: connections.Request) -> connections.Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    # Else any web page could ask, from the browser of who is at this machine.
    if kind.lower() != "application/json":
      raise requests.Refused(
        f"the Content-Type must be application/json, got {kind!r:.60}",
        status=415,
      )
    asked = requests.read(request.body)
    if asked.model != self._name:
      raise requests.Refused(
        f"there is no model {asked.model!r:.100} here; there is {self._name}",
        "model",
        status=404,
        code="model_not_found",
      )
    with contextlib.ExitStack() as place:
      self._take_place(asked.n, place)
      write = functools.partial(completions.prompt, self._host, asked)
      loop = asyncio.get_running_loop()
      prompt = await loop.run_in_executor(self._writers, write)
      if not asked.stream:
        start = time.monotonic()
        body = await completions.complete(self._host, self._name, asked, prompt)
        self._mean_s += 0.1 * (time.monotonic() - start - self._mean_s)
        return connections.Response(body)
      events = completions.chunks(self._host, self._name, asked, prompt)
      return connections.Response(
        events=self._until_done(events), on_sent=place.pop_all().close
      )

  def _take_place(self, count: int, place: contextlib.ExitStack) -> None:
    """Counts completions as long as the place is kept.

    Raises:
      requests.Refused: when there is none, with the seconds to wait.
    """
    if self._num_pending + count > self._max_pending:
      wait_s = min(max(math.ceil(self._mean_s), 1), _MAX_RETRY_S)
      raise requests.Refused(
        f"at most {self._max_pending} completions may be under way or wait, "
        f"got {self._num_pending} and {count} more; try again in {wait_s} s",
        status=429,
        code="rate_limit_exceeded",
        headers={"Retry-After": str(wait_s)},
      )
    self._num_pending += count
    place.callback(self._leave, count)

  def _leave(self, count: int) -> None:
    self._num_pending -= count

  async def _until_done(
    self,
    chunks: AsyncIterator[dict[str, Any]],
  ) -> AsyncIterator[Any]:
    """Yields the events of a stream; an error is the last one."""
    closing: Any = chunks
    async with contextlib.aclosing(closing):
      try:
        async for chunk in chunks:
          yield chunk
        yield _DONE
      except Exception as error:
        yield self._failure(error).body

  def _failure(self, error: Exception) -> connections.Response:
    """Returns what is our own fault, without a word of what was asked."""
    while isinstance(error, ExceptionGroup):
      error = error.exceptions[0]
    if isinstance(error, types.FaultError):
      what, code = "the engine failed", str(error.fault)
      self.has_failed.set()
    else:
      what, code = "an error of the server's own", type(error).__name__
    # Without its text, which may repeat what was asked.
    traceback.print_tb(error.__traceback__, limit=-8, file=sys.stderr)
    print(f"{what}: {type(error).__name__}", file=sys.stderr, flush=True)
    refused = requests.Refused(f"{what}; see its log", status=500, code=code)
    return connections.Response(refused.body, refused.status)
