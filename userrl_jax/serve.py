"""Serves a model to OpenAI-style clients, on our own engine.

`python -m userrl_jax.serve --model=FOLDER` takes a run, a run's
`checkpoints/<stage>`, or published weights with their tokenizer, and answers
`/v1/chat/completions` (with tools, streamed or not), `/v1/models` and
`/health`. Requests share device calls, however many come at once.

What a seed gives does not depend on what else is served. SIGINT or SIGTERM
finishes what is under way, within `--grace_s`; a second one does not wait.
"""

import argparse
import asyncio
from collections.abc import Sequence
import logging
import os
import signal
import sys

from userrl_jax import process
from userrl_jax.serving import app as app_lib
from userrl_jax.serving import connections
from userrl_jax.serving import folders
from userrl_jax.serving import host as host_lib

_WARM_UP_TOKENS = 2


def main(argv: Sequence[str] | None = None) -> int:
  """Serves until it is told to stop; returns the exit code."""
  arguments = _parser().parse_args(argv)
  # Orbax warns that a checkpoint opened for reading is opened for reading.
  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    key = _key(arguments.api_key_env)
    process.use_compile_cache()
    host = _host(arguments)
    return asyncio.run(_serve(host, key, arguments))
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:  # before anything was served
    return 130


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.serve",
    description="Serves a model to OpenAI-style clients.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add = parser.add_argument
  add("--model", required=True, help="a run, checkpoints, published weights")
  add("--name", default="", help="that clients ask for; by default the folder")
  add("--host", default="127.0.0.1", help="address to listen on")
  add("--port", type=int, default=8000, help="0 takes a free one")
  add("--api_key_env", default="", help="variable that holds a key to ask for")
  add("--dtype", default="auto", choices=folders.DTYPES, help="to compute in")
  add("--max_length", type=int, default=4096, help="ids of prompt and reply")
  add("--num_rows", type=int, default=16, help="requests sampled at once")
  add("--max_pending", type=int, default=256, help="sampled or waiting; or 429")
  add("--max_body_bytes", type=int, default=4 * 2**20, help="of a request")
  add("--grace_s", type=float, default=30.0, help="to finish when stopped")
  return parser


def _host(arguments: argparse.Namespace) -> host_lib.Host:
  """Reads the model's folder; loads nothing."""
  for name in ("max_length", "num_rows", "max_pending", "max_body_bytes"):
    value = getattr(arguments, name)
    if value < 1:
      raise ValueError(f"--{name} must be positive, got {value}")
  if not 0 <= arguments.port < 2**16 or not 0 <= arguments.grace_s < 2**31:
    raise ValueError(
      "--port must be 0 to 65535 and --grace_s 0 or more, got "
      f"{arguments.port} and {arguments.grace_s}"
    )
  source = folders.read(arguments.model, "--model", arguments.dtype)
  return host_lib.Host(
    source, arguments.num_rows, arguments.max_length, "--model"
  )


def _key(variable: str) -> str:
  """Returns the key that requests must show, "" for none.

  Raises:
    ValueError: when the variable holds none; shows nothing of it.
  """
  if not variable:
    return ""
  key = os.environ.get(variable, "").strip()
  if not key or not (key.isascii() and key.isprintable()):
    raise ValueError(
      "--api_key_env must name a variable of the environment that holds a key "
      "of printable ASCII"
    )
  return key


async def _serve(
  host: host_lib.Host, key: str, arguments: argparse.Namespace
) -> int:
  name = arguments.name or host.source.name
  app = app_lib.App(host, name, key, arguments.max_pending)
  limits = connections.Limits(max_body_bytes=arguments.max_body_bytes)
  server = connections.Server(app.handle, limits)
  stop = asyncio.Event()
  hurry = asyncio.Event()

  def on_signal() -> None:
    (hurry if stop.is_set() else stop).set()

  loop = asyncio.get_running_loop()
  for number in (signal.SIGINT, signal.SIGTERM):
    loop.add_signal_handler(number, on_signal)
  async with host.opened():
    await _warm_up(host)
    port = await server.start(arguments.host, arguments.port)
    address = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(
      f"serving {name} at http://{address}:{port}/v1: "
      f"{arguments.num_rows} rows of {host.max_length} ids a device, "
      f"{host.params_bytes / 2**30:.2f} GiB of params and "
      f"{host.cache_bytes / 2**30:.2f} GiB of KV rows",
      flush=True,
    )
    if not key and arguments.host not in ("127.0.0.1", "::1", "localhost"):
      print("anybody who reaches it may ask: see --api_key_env", flush=True)
    await _first(stop, app.has_failed)
    print("stopping: finishing what is under way", flush=True)
    finished = await server.close(arguments.grace_s, hurry)
  print("stopped" if finished else "stopped; some were cut off", flush=True)
  return 0


async def _first(*events: asyncio.Event) -> None:
  waiting = [asyncio.create_task(event.wait()) for event in events]
  await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
  for one in waiting:
    one.cancel()


async def _warm_up(host: host_lib.Host) -> None:
  """Samples a word, so that what cannot run fails before anybody asks."""
  ids = host.chat.prompt_ids("", "Hello", ())
  budget = min(_WARM_UP_TOKENS, host.max_length - len(ids))
  if budget < 1:
    raise ValueError(
      f"--max_length must hold a prompt, got {host.max_length} for {len(ids)}"
    )
  key = host_lib.key_data("")
  async for _ in host.sampled(ids, budget, host_lib.GREEDY, key):
    pass


if __name__ == "__main__":
  sys.exit(main())
