"""How close the client comes to what an endpoint allows; run by hand.

  python -m tests.benchmarks.endpoint_speed --latency_s 4 --seconds 40
  python -m tests.benchmarks.endpoint_speed --latency_s 0.1 --num_calls 50000

Conversations ask one question after the other, each answered after a fixed
time by a server in a process of its own. Ideal is one call a conversation and
latency. One JSON line: calls a second and their share of the ideal, the
client's CPU time a call, its memory after `--early` calls and after all, the
connections that the server accepted, and the sockets and file descriptors that
are left when all is closed.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import resource
import time

from userrl_jax import config
from userrl_jax import users

REPLY = json.dumps(
  {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
      {
        "index": 0,
        "message": {"role": "assistant", "content": '{"answer": "Yes"}'},
        "finish_reason": "stop",
      }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
  }
).encode()
HEAD = (
  f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
  f"Content-Length: {len(REPLY)}\r\n\r\n"
).encode()
PROMPT = "A question of about the length that questions in gyms have. " * 20


def serve(latency_s: float, port: multiprocessing.Queue, accepted) -> None:
  """Answers every request after so many seconds, over kept connections."""

  async def converse(reader, writer):
    accepted.value += 1
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
      while True:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.split(b"content-length:")[1].split(b"\r\n")[0]
        await reader.readexactly(int(length))
        await asyncio.sleep(latency_s)
        writer.write(HEAD + REPLY)
        await writer.drain()
    writer.close()

  async def run():
    server = await asyncio.start_server(converse, "127.0.0.1", 0, backlog=1024)
    port.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()

  asyncio.run(run())


def num_open() -> tuple[int, int]:
  """Returns how many sockets, and files of any kind, this process has open."""
  links = []
  for name in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError):  # that of the listing itself
      links.append(os.readlink(f"/proc/self/fd/{name}"))
  return sum(link.startswith("socket:") for link in links), len(links)


def resident_mib() -> float:
  """Returns the memory that this process holds now."""
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * resource.getpagesize() / 2**20


async def ask_all(flags: argparse.Namespace, base_url: str, accepted) -> dict:
  """Lets all conversations ask until the calls, or the time, are used up."""
  who = users.User(
    config.User(
      kind="endpoint",
      base_url=base_url,
      model="m",
      timeout_s=60.0,
      max_concurrent=flags.conversations,
    )
  )
  num_done, memory_early_mib = 0, 0.0
  before = num_open()
  start, cpu = time.monotonic(), time.process_time()

  async def converse(judge):
    nonlocal num_done, memory_early_mib
    while (
      num_done + flags.conversations <= flags.num_calls
      and time.monotonic() - start < flags.seconds
    ):
      await judge._complete([{"role": "user", "content": PROMPT}])
      num_done += 1
      if num_done == flags.early:
        memory_early_mib = resident_mib()

  async with who.opened() as judge:
    await asyncio.gather(*(converse(judge) for _ in range(flags.conversations)))
    took_s = time.monotonic() - start
  memory_mib = resident_mib()
  ideal = flags.conversations / flags.latency_s
  # Closed connections leave the event loop in its next rounds.
  await asyncio.sleep(0.5)
  sockets, files = (
    now - then for now, then in zip(num_open(), before, strict=True)
  )
  return {
    "calls": num_done,
    "calls_per_s": round(num_done / took_s, 1),
    "share_of_ideal": round(num_done / took_s / ideal, 3),
    "cpu_ms_a_call": round(1e3 * (time.process_time() - cpu) / num_done, 2),
    "memory_early_mib": round(memory_early_mib, 1),
    "memory_mib": round(memory_mib, 1),
    "connections": accepted.value,
    "sockets_left": sockets,
    "files_left": files,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--conversations", type=int, default=512)
  parser.add_argument("--latency_s", type=float, default=4.0)
  parser.add_argument("--num_calls", type=int, default=1_000_000)
  parser.add_argument("--seconds", type=float, default=1e9)
  parser.add_argument("--early", type=int, default=5000)
  flags = parser.parse_args()
  port: multiprocessing.Queue = multiprocessing.Queue()
  accepted = multiprocessing.Value("l", 0)
  process = multiprocessing.Process(
    target=serve, args=(flags.latency_s, port, accepted), daemon=True
  )
  process.start()
  base_url = f"http://127.0.0.1:{port.get()}/v1"
  print(json.dumps(asyncio.run(ask_all(flags, base_url, accepted))))
  process.terminate()


if __name__ == "__main__":
  main()
