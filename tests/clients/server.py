"""A small OpenAI-style server with faults that can be told in advance.

It stands in for a model's endpoint, over real sockets. By hand:
  python -m tests.clients.server --port 8123 --fault_share 0.05
plays the user of Telepathy, from the prompts of `telepathy/prompted.py`.
"""

import argparse
import collections
from collections.abc import Callable, Sequence
import dataclasses
import hashlib
from http import server
import json
import os
import re
import signal
import socket
import threading
import time
from typing import Any

FAULTS = ("error", "busy", "slow", "drop", "broken", "refusal", "empty")
# Only where named: rarer ways to fail; in `script`, any HTTP status as text.
RARE = ("declined", "cut", "null", "html", "garbled", "filtered", "drip")

# No word border: in JSON the closing fence follows the n of an escaped newline.
_NONCE = re.compile(r"[0-9a-f]{32}")
_FENCED = re.compile(r"<<<([0-9a-f]{32})\n(.*)\n\1>>>", re.S)

# What waits for a crowd that does not come goes on after so long.
_CROWD_S = 60.0


@dataclasses.dataclass(frozen=True)
class Request:
  """What came in, and what was done about it."""

  path: str
  key: str
  body: dict[str, Any]
  fault: str  # empty: none


@dataclasses.dataclass(frozen=True)
class Reply:
  """What goes out."""

  data: bytes
  status: int = 200
  content_type: str = "application/json"
  retry_after: str = ""
  drips: bool = False  # a byte at a time


class Server:
  """Serves chat completions while its context is open."""

  def __init__(
    self,
    answer: Callable[[list[dict[str, str]]], str],
    fault_share: float = 0.0,
    seed: int = 0,
    *,
    faults: Sequence[str] = FAULTS,
    script: Sequence[str] = (),
    key: str = "",
    model: str = "",
    delay_s: float = 0.0,
    crowd: int = 0,
    slow_s: float = 30.0,
    retry_after: str = "0.1",
    takes_schemas: bool = True,
    tokens: tuple[int, int] = (7, 3),
    port: int = 0,
    dies_after: int = 0,
  ):
    """Binds the port.

    Args:
      answer: the fake model: messages to the text of the reply, or to fields
        of its message (and `finish_reason`).
      fault_share: of requests. Which ones follows from the seed, the body of
        the request without its random fence, and how often this body came: so
        reruns agree, whatever the order.
      seed: see there.
      faults: kinds that may happen, of FAULTS and RARE.
      script: what the first requests meet, in order of arrival: of FAULTS,
        of RARE, an HTTP status, or "" for an answer.
      key: the only key that is let in; empty lets in any.
      model: the only model that is there; empty serves any.
      delay_s: how long every answer takes.
      crowd: the first answer waits until so many requests are under way.
      slow_s: how long a slow one takes.
      retry_after: header of a `busy` reply.
      takes_schemas: whether a request may have a response_format.
      tokens: in and out, that every answer is said to have taken.
      port: 0 picks a free one.
      dies_after: that many requests the process is killed; 0 for never.
    """
    assert set(faults) <= {*FAULTS, *RARE}
    assert all(f in ("", *FAULTS, *RARE) or f.isdigit() for f in script)
    self.log: list[Request] = []
    self.num_connections = 0
    self.num_under_way = 0
    self.max_under_way = 0
    self._answer = answer
    self._fault_share = fault_share
    self._seed = seed
    self._faults = tuple(faults)
    self._script = list(script)
    self._key = key
    self._model = model
    self._delay_s = delay_s
    self._crowd = threading.Event()
    self._crowd_size = crowd
    self._slow_s = slow_s
    self._retry_after = retry_after
    self._takes_schemas = takes_schemas
    self._tokens = tokens
    self._dies_after = dies_after
    self._seen: collections.Counter[str] = collections.Counter()
    self._lock = threading.Lock()
    self.stop = threading.Event()
    owner = self

    class Handler(_Handler):
      server_of = owner

    self._http = _Http(("127.0.0.1", port), Handler)
    self._thread = threading.Thread(
      target=self._http.serve_forever, args=(0.05,), daemon=True
    )

  @property
  def base_url(self) -> str:
    return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

  def __enter__(self) -> "Server":
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    self.stop.set()
    self._http.shutdown()
    self._http.server_close()
    self._thread.join()

  def connected(self) -> None:
    with self._lock:
      self.num_connections += 1

  def reply(self, path: str, key: str, body: dict[str, Any]) -> Reply | None:
    """Returns the reply; None drops the connection."""
    with self._lock:
      fault = self._fault(body)
      self.log.append(Request(path, key, body, fault))
      if len(self.log) == self._dies_after:
        os.kill(os.getpid(), signal.SIGKILL)
      self.num_under_way += 1
      self.max_under_way = max(self.max_under_way, self.num_under_way)
      if self.num_under_way >= self._crowd_size:
        self._crowd.set()
    try:
      self._crowd.wait(_CROWD_S)
      self.stop.wait(self._slow_s if fault == "slow" else self._delay_s)
      return self._reply(path, key, body, fault)
    finally:
      with self._lock:
        self.num_under_way -= 1

  def _reply(self, path, key, body, fault):
    if path != "/v1/chat/completions":
      return _failed(404, "not_found")
    if self._key and key != self._key:
      # As careless as a server may be: it repeats the key.
      return _failed(401, "invalid_api_key", f"wrong key {key}", key)
    if self._model and body["model"] != self._model:
      return _failed(404, "model_not_found")
    if "response_format" in body and not self._takes_schemas:
      return _failed(400, "unsupported", param="response_format")
    if fault == "drop":
      return None
    if fault == "error":
      return _failed(500, "server_error", str(body["messages"]))
    if fault == "busy":
      reply = _failed(429, "rate_limit_exceeded")
      return dataclasses.replace(reply, retry_after=self._retry_after)
    if fault.isdigit():
      return _failed(int(fault), "scripted", str(body["messages"]))
    if fault == "filtered":
      return _failed(400, "content_filter")
    if fault == "html":
      return Reply(b"<p>Welcome</p>", content_type="text/html")
    if fault == "garbled":
      return Reply(b'{"choices": [')
    reply = _completion(body, fault, self._answer, self._tokens)
    return dataclasses.replace(reply, drips=fault == "drip")

  def _fault(self, body: dict[str, Any]) -> str:
    text = _NONCE.sub("nonce", json.dumps(body, sort_keys=True))
    self._seen[text] += 1
    if self._script:
      return self._script.pop(0)
    if not self._faults:
      return ""
    draw = _share(self._seed, text, self._seen[text])
    if draw >= self._fault_share:
      return ""
    return self._faults[int(draw / self._fault_share * len(self._faults))]


def telepathy_answer(messages: list[dict[str, str]]) -> str:
  """Plays the user of Telepathy: a fixed truth for every pair of texts."""
  prompt = messages[min(1, len(messages) - 1)]["content"]
  fenced = _FENCED.search(prompt)
  if fenced is None:
    return "ready"
  text = fenced[2]
  after = prompt[fenced.end() :]
  name = re.search(r"^Name: (.*)$", after, re.M)
  assert name is not None, prompt
  if '"right"' in messages[0]["content"]:
    return json.dumps({"right": _plain(text) == _plain(name[1])})
  says_yes = _share(_plain(name[1]), _plain(text)) < 0.5
  return json.dumps({"answer": "Yes" if says_yes else "No"})


def generous_answer(messages: list[dict[str, str]]) -> str:
  """Plays the same, but for half of the things any guess is right."""
  said = telepathy_answer(messages)
  if "right" not in said:
    return said
  name = re.search(r"^Name: (.*)$", messages[1]["content"], re.M)
  assert name is not None
  return json.dumps({"right": _share(name[1]) < 0.5})


class _Http(server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128

  def handle_error(self, request, client_address):
    pass  # a client that gave up is no news


class _Handler(server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"  # keeps connections open
  disable_nagle_algorithm = True
  server_of: Server

  def setup(self):
    super().setup()
    self.server_of.connected()

  def do_POST(self):
    body = self.rfile.read(int(self.headers["Content-Length"]))
    key = self.headers.get("Authorization", "").removeprefix("Bearer ")
    reply = self.server_of.reply(self.path, key, json.loads(body))
    if reply is None:
      self.close_connection = True
      self.connection.shutdown(socket.SHUT_RDWR)
      return
    self.send_response(reply.status)
    self.send_header("Content-Type", reply.content_type)
    if reply.retry_after:
      self.send_header("Retry-After", reply.retry_after)
    self.send_header("Content-Length", str(len(reply.data)))
    self.end_headers()
    if reply.drips:
      for byte in reply.data:  # never silent for long, and never done
        self.wfile.write(bytes([byte]))
        self.server_of.stop.wait(0.1)
    else:
      self.wfile.write(reply.data)

  def log_message(self, *args):
    pass


def _completion(body, fault, answer, tokens):
  reason, refusal = "stop", None
  if fault == "broken":
    content: Any = '{"answer": "Yes", "rig'
  elif fault == "refusal":
    content, reason = "", "content_filter"
  elif fault == "declined":
    content, refusal = None, "I would rather not."
  elif fault == "cut":
    content, reason = '{"answer"', "length"
  elif fault == "empty":
    content = "  "
  elif fault == "null":
    content = None
  else:
    content = answer(body["messages"])
  message = {"role": "assistant", "content": content, "refusal": refusal}
  if isinstance(content, dict):  # an agent's: fields of its message
    message |= {"content": None, **content}
    reason = message.pop("finish_reason", reason)
  reply = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": int(time.time()),
    "model": body["model"],
    "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    "usage": {
      "prompt_tokens": tokens[0],
      "completion_tokens": tokens[1],
      "total_tokens": sum(tokens),
    },
  }
  return Reply(json.dumps(reply).encode())


def _failed(status, code, message="", param=None):
  error = {"message": message, "type": "error", "code": code, "param": param}
  return Reply(json.dumps({"error": error}).encode(), status)


def _share(*key: Any) -> float:
  digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
  return int.from_bytes(digest) / 2**64


def _plain(text: str) -> str:
  return " ".join(re.findall(r"\w+", text.lower()))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--port", type=int, default=8123)
  parser.add_argument("--fault_share", type=float, default=0.0)
  parser.add_argument("--faults", nargs="*", choices=FAULTS, default=FAULTS)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--delay_s", type=float, default=0.0)
  parser.add_argument("--dies_after", type=int, default=0)
  parser.add_argument("--generous", action="store_true")
  flags = vars(parser.parse_args())
  answer = generous_answer if flags.pop("generous") else telepathy_answer
  with Server(answer, **flags) as running:
    print(f"serving on {running.base_url}; stop with Ctrl-C", flush=True)
    try:
      threading.Event().wait()
    except KeyboardInterrupt:
      print(f"answered {len(running.log)} requests")


if __name__ == "__main__":
  main()
