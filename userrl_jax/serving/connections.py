"""HTTP/1.1 over sockets: requests in, responses out; knows no JAX.

`h11`, which the client libraries bring along, reads and writes the protocol;
here are the sockets, the limits on what comes in, and who hangs up. A handler
whose client is gone is cancelled.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
import contextlib
import dataclasses
import json
from typing import Any

import h11

from userrl_jax.serving import requests

_MAX_HEAD_BYTES = 32 * 1024
_CHUNK_BYTES = 64 * 1024
_BACKLOG = 1024
_LINGER_S = 2.0
_ERRORS = (ConnectionError, h11.LocalProtocolError, TimeoutError)


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a client may ask of the server's memory and patience."""

  max_body_bytes: int = 4 * 2**20
  max_connections: int = 1024
  idle_s: float = 120.0  # a connection without a request
  read_s: float = 30.0  # from a request's first byte to its last


@dataclasses.dataclass(frozen=True)
class Request:
  """A request as it came in; names of headers are in lower case."""

  method: str
  path: str  # without ? and what follows
  headers: Mapping[str, str]
  body: bytes


@dataclasses.dataclass(frozen=True)
class Response:
  """JSON, or a stream of JSON values as server-sent events."""

  body: Any = None
  status: int = 200
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  events: AsyncIterator[Any] | None = None  # instead of a body
  on_sent: Callable[[], None] = lambda: None  # called once, whatever happened


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Server:
  """Serves a handler until it is closed."""

  def __init__(self, handler: Handler, limits: Limits | None = None):
    self._handler = handler
    self._limits = limits or Limits()
    self._server: asyncio.Server | None = None
    self._tasks: set[asyncio.Task[None]] = set()
    self._idle: set[asyncio.Task[None]] = set()  # between two requests
    self._is_closing = False

  async def start(self, host: str, port: int) -> int:
    """Binds the port, 0 for any free one; returns it.

    Raises:
      OSError: when it cannot be bound.
    """
    self._server = await asyncio.start_server(
      self._connected, host, port, backlog=_BACKLOG
    )
    return int(self._server.sockets[0].getsockname()[1])

  async def close(
    self, grace_s: float, hurry: asyncio.Event | None = None
  ) -> bool:
    """Takes no more requests; waits for those under way.

    Args:
      grace_s: how long; what is not done then is cut off.
      hurry: when it is set, nobody is waited for.

    Returns:
      Whether all were answered.
    """
    self._is_closing = True
    if self._server is not None:
      self._server.close()
    for task in self._idle:
      task.cancel()
    left = set(self._tasks)
    finishing: asyncio.Future[Any] = asyncio.gather(
      *left, return_exceptions=True
    )
    hurrying: asyncio.Future[Any] = asyncio.ensure_future(
      (hurry or asyncio.Event()).wait()
    )
    await asyncio.wait(
      {finishing, hurrying},
      timeout=grace_s,
      return_when=asyncio.FIRST_COMPLETED,
    )
    hurrying.cancel()
    is_finished = finishing.done()
    for task in left:
      task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return is_finished

  async def _connected(
    self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    task = asyncio.current_task()
    assert task is not None
    self._tasks.add(task)
    one = _Connection(reader, writer, self._limits)
    try:
      if self._is_closing or len(self._tasks) > self._limits.max_connections:
        refused = requests.Refused(
          "the server has no connection left; try again later", status=503
        )
        await one.send(_refusal(refused), must_close=True)
        return
      while await self._serve_one(one, task):
        pass
    except asyncio.CancelledError:
      pass  # closing: idle, or out of time
    except _ERRORS:
      pass  # who hung up or fell silent needs no answer
    finally:
      self._tasks.discard(task)
      self._idle.discard(task)
      with contextlib.suppress(Exception):
        writer.close()

  async def _serve_one(
    self, one: "_Connection", task: asyncio.Task[None]
  ) -> bool:
    """Serves a request; returns whether another may follow."""
    self._idle.add(task)
    try:
      if not await one.begins():
        return False
    finally:
      self._idle.discard(task)
    try:
      request = await one.read()
    except requests.Refused as error:
      await one.send(_refusal(error), must_close=True)
      await one.linger()
      return False
    response = await one.unless_gone(self._handler(request))
    try:
      await one.send(response, must_close=self._is_closing)
    finally:
      response.on_sent()
    return one.may_go_on() and not self._is_closing


class _Connection:
  """One client's socket and where its protocol stands."""

  def __init__(
    self,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    limits: Limits,
  ):
    self._reader = reader
    self._writer = writer
    self._limits = limits
    self._protocol = h11.Connection(
      h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES
    )

  async def begins(self) -> bool:
    """Waits for the first byte of a request; False when the client is gone."""
    if self._protocol.trailing_data[0]:
      return True
    async with asyncio.timeout(self._limits.idle_s):
      data = await self._reader.read(_CHUNK_BYTES)
    if data:
      self._protocol.receive_data(data)
    return bool(data)

  async def read(self) -> Request:
    """Reads a whole request.

    Raises:
      requests.Refused: when it is not HTTP, too large or too slow.
    """
    try:
      async with asyncio.timeout(self._limits.read_s):
        return await self._read()
    except TimeoutError:
      raise requests.Refused(
        f"a request must come within {self._limits.read_s:g} s", status=408
      ) from None
    except h11.RemoteProtocolError as error:
      status = error.error_status_hint
      raise requests.Refused(
        f"a request must be HTTP/1.1, got: {error}", status=status
      ) from error

  async def _read(self) -> Request:
    head, parts, size = None, [], 0
    while True:
      event = self._protocol.next_event()
      if event is h11.NEED_DATA:
        if self._protocol.they_are_waiting_for_100_continue:
          go_on = h11.InformationalResponse(status_code=100, headers=[])
          self._writer.write(self._protocol.send(go_on) or b"")
        data = await self._reader.read(_CHUNK_BYTES)
        self._protocol.receive_data(data)
      elif isinstance(event, h11.Request):
        head = event
        self._check_size(_content_length(head))
      elif isinstance(event, h11.Data):
        parts.append(bytes(event.data))
        size += len(event.data)
        self._check_size(size)
      elif isinstance(event, h11.EndOfMessage):
        break
      else:  # ConnectionClosed
        raise ConnectionResetError
    assert head is not None
    target = head.target.decode("ascii", "replace")
    return Request(
      head.method.decode("ascii", "replace"),
      target.partition("?")[0],
      {k.decode("latin-1"): v.decode("latin-1") for k, v in head.headers},
      b"".join(parts),
    )

  def _check_size(self, num_bytes: int) -> None:
    if num_bytes > self._limits.max_body_bytes:
      raise requests.Refused(
        f"a request must have at most {self._limits.max_body_bytes} bytes, got "
        f"{num_bytes} or more; shorten it",
        status=413,
        code="request_too_large",
      )

  async def unless_gone(self, work: Coroutine[Any, Any, Any]) -> Any:
    """Awaits what makes a response, or a part; cancels it for who hangs up.

    Raises:
      ConnectionResetError: when the client did.
    """
    if self._protocol.trailing_data[0]:  # the next request is here already
      return await work
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(self._reader.read(_CHUNK_BYTES))
    try:
      await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
      if watch.done():
        if not (data := watch.result()):
          raise ConnectionResetError
        self._protocol.receive_data(data)
      await asyncio.wait({task})
    except BaseException:
      task.cancel()
      made: Any = await asyncio.gather(task, return_exceptions=True)
      if isinstance(made[0], Response):
        made[0].on_sent()
      raise
    finally:
      watch.cancel()
      await asyncio.gather(watch, return_exceptions=True)
    return task.result()

  async def send(self, response: Response, must_close: bool = False) -> None:
    """Writes a response."""
    headers = {"Cache-Control": "no-store", **response.headers}
    if must_close:
      headers["Connection"] = "close"
    if response.events is not None:
      await self._stream(response, headers)
      return
    data = json.dumps(response.body, ensure_ascii=False).encode(
      "utf-8", "replace"
    )
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(data))
    self._write(
      h11.Response(status_code=response.status, headers=list(headers.items())),
      h11.Data(data=data),
      h11.EndOfMessage(),
    )
    await self._writer.drain()

  async def _stream(self, response: Response, headers: dict[str, str]) -> None:
    events: Any = response.events
    headers["Content-Type"] = "text/event-stream; charset=utf-8"
    self._write(
      h11.Response(status_code=response.status, headers=list(headers.items()))
    )
    async with contextlib.aclosing(events):
      while (event := await self.unless_gone(_after(events))) is not None:
        text = event if isinstance(event, str) else json.dumps(event)
        self._write(h11.Data(data=f"data: {text}\n\n".encode()))
        await self._writer.drain()
    self._write(h11.EndOfMessage())
    await self._writer.drain()

  async def linger(self) -> None:
    """Reads on for a moment, so that a refusal is read before we hang up."""
    self._writer.write_eof()
    num_left = 2 * self._limits.max_body_bytes
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(_LINGER_S):
        while num_left > 0 and (data := await self._reader.read(_CHUNK_BYTES)):
          num_left -= len(data)

  def may_go_on(self) -> bool:
    """Makes ready for another request; False when there can be none."""
    p = self._protocol
    if p.our_state is not h11.DONE or p.their_state is not h11.DONE:
      return False
    p.start_next_cycle()
    return True

  def _write(self, *events: Any) -> None:
    for event in events:
      data = self._protocol.send(event)
      if data:
        self._writer.write(data)


async def _after(events: AsyncIterator[Any]) -> Any:
  """Returns the next event, None after the last."""
  return await anext(events, None)


def _content_length(head: h11.Request) -> int:
  values = [v for name, v in head.headers if name == b"content-length"]
  return int(values[0]) if values else 0


def _refusal(error: requests.Refused) -> Response:
  return Response(error.body, error.status, error.headers)
