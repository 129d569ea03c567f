"""HTTP as it comes over the socket: malformed, slow, large, several at once."""

import asyncio
import json

import pytest

from userrl_jax.serving import connections

# A busy machine may take its time; only the refused wait for it.
PATIENCE_S = 60.0
LIMITS = connections.Limits(max_body_bytes=1000)


async def echo(request):
  if request.path == "/slow":
    await asyncio.sleep(0.3)
  if request.path == "/stream":
    return connections.Response(events=_count())
  return connections.Response([request.method, request.body.decode()])


async def _count():
  for i in range(3):
    yield {"i": i}
  yield "[DONE]"


def talk(*sent, limits=LIMITS, handler=echo, close_at=None):
  """Sends bytes on one connection; returns what came back, up to its end.

  The server is closed at its end, or when an event is set.
  """

  async def main():
    server = connections.Server(handler, limits)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not server._idle:  # it has not seen us yet
      await asyncio.sleep(0.01)
    for part in sent:
      writer.write(part)
      await writer.drain()
      await asyncio.sleep(0.05)
    closing = None
    if close_at is not None:
      await close_at.wait()
      closing = asyncio.create_task(server.close(PATIENCE_S))
    data = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    finished = await (closing or server.close(PATIENCE_S))
    return data, finished

  return asyncio.run(main())


def get(path="/", more=""):
  return f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


def post(body, more="Connection: close\r\n"):
  head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{more}"
  return f"{head}\r\n{body}".encode()


def bodies(data):
  """Returns the JSON bodies of responses, one after the other."""
  found = []
  while data:
    head, _, rest = data.partition(b"\r\n\r\n")
    (length,) = [
      int(line.split(b":")[1])
      for line in head.lower().split(b"\r\n")
      if line.startswith(b"content-length")
    ]
    found.append((int(head.split()[1]), json.loads(rest[:length])))
    data = rest[length:]
  return found


@pytest.mark.parametrize(
  ("sent", "status", "message"),
  [
    ((b"hello\r\n\r\n",), 400, "must be HTTP/1.1"),
    ((b"GET / HTTP/1.1\r\n\r\n",), 400, "Host"),
    ((b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000,), 431, "HTTP/1.1"),
    ((post("a" * 1001),), 413, "at most 1000 bytes, got 1001"),
    (
      (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"400\r\n" + b"a" * 1024,
      ),
      413,
      "at most 1000 bytes",
    ),
    (
      (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",),
      400,
      "HTTP/1.1",
    ),
  ],
)
def test_what_is_no_request_is_answered_with_the_reason(sent, status, message):
  data, _ = talk(*sent)
  ((got, body),) = bodies(data)
  assert got == status and message in body["error"]["message"]


def test_what_does_not_come_to_its_end_is_refused_in_time():
  limits = connections.Limits(read_s=0.5)
  ((status, body),) = bodies(talk(post("abc")[:-1], limits=limits)[0])
  assert status == 408
  assert "must come within 0.5 s" in body["error"]["message"]


def test_requests_follow_each_other_also_without_waiting():
  data, _ = talk(get(), post("ab", ""), get("/slow"), post("cd") + get())
  assert [body for _, body in bodies(data)] == [
    ["GET", ""],
    ["POST", "ab"],
    ["GET", ""],
    ["POST", "cd"],
  ]
  data, _ = talk(get("/slow") + post("ab"))
  assert [body for _, body in bodies(data)] == [["GET", ""], ["POST", "ab"]]


def test_a_body_may_come_in_pieces_and_after_permission():
  whole = post("ab", "Expect: 100-continue\r\nConnection: close\r\n")
  data, _ = talk(whole[:20], whole[20:-2], whole[-2:])
  assert data.startswith(b"HTTP/1.1 100 ")
  assert data.endswith(b'["POST", "ab"]')


def test_events_are_streamed():
  data, _ = talk(get("/stream", "Connection: close\r\n"))
  assert b"text/event-stream" in data
  assert data.count(b"data: ") == 4 and b"data: [DONE]\n\n" in data


def test_closing_finishes_what_is_under_way_and_hangs_up_on_the_idle():
  is_asked = asyncio.Event()

  async def finish(request):
    is_asked.set()
    return await echo(request)

  data, finished = talk(get("/slow"), handler=finish, close_at=is_asked)
  assert finished and b'["GET", ""]' in data
  assert b"connection: close" in data.lower()
  data, finished = talk(close_at=is_asked)
  assert finished and data == b""


def test_closing_cuts_off_what_takes_too_long():
  async def main():
    is_asked = asyncio.Event()

    async def never(request):
      is_asked.set()
      await asyncio.Event().wait()

    server = connections.Server(never, LIMITS)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get())
    await writer.drain()
    await is_asked.wait()
    finished = await server.close(0.2)
    data = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return data, finished

  assert asyncio.run(main()) == (b"", False)


def test_too_many_connections_are_refused():
  async def main():
    limits = connections.Limits(max_connections=1)
    server = connections.Server(echo, limits)
    port = await server.start("127.0.0.1", 0)
    first = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = await asyncio.wait_for(reader.read(), PATIENCE_S)
    for one in (first[1], writer):
      one.close()
    await server.close(1.0)
    return data

  ((status, _),) = bodies(asyncio.run(main()))
  assert status == 503


def test_a_handler_whose_client_is_gone_is_cancelled():
  async def main():
    is_asked, is_over = asyncio.Event(), asyncio.Event()

    async def wait(request):
      try:
        is_asked.set()
        await asyncio.Event().wait()
      finally:
        is_over.set()

    server = connections.Server(wait, LIMITS)
    port = await server.start("127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/gone"))
    await writer.drain()
    await is_asked.wait()
    writer.close()
    await asyncio.wait_for(is_over.wait(), PATIENCE_S)
    assert await server.close(PATIENCE_S)

  asyncio.run(main())
