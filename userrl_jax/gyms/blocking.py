"""Notices calls that block the event loop: sleeping, waiting, asking, running.

A gym that blocks stops every other episode of its process for as long. Python
announces such calls itself (PEP 578 audit events; `time.sleep` is replaced
meanwhile, as not every version announces it), so nothing is measured and a busy
machine changes nothing. What is awaited, and what runs in another thread, is
not noticed.
"""

from collections.abc import Iterator
import contextlib
import sys
import threading
import time
from typing import Any

# Audit events -> what a person calls them. Connecting is only noticed where
# the socket waits for it; asyncio's sockets do not.
_BLOCKING = {
  "builtins.input": "input",
  "os.system": "os.system",
  "subprocess.Popen": "subprocess",
  "socket.getaddrinfo": "socket.getaddrinfo",
  "socket.gethostbyname": "socket.gethostbyname",
  "socket.connect": "socket.connect",
  "urllib.Request": "urllib.request",
}

_watches: dict[int, list[str]] = {}  # by thread
_hooked: list[bool] = []


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
  """Yields a list that calls of this thread go to while it is open."""
  if not _hooked:
    sys.addaudithook(_notice)  # for good: Python can take none back
    _hooked.append(True)
  calls: list[str] = []
  _watches[threading.get_ident()] = calls
  sleep = time.sleep

  def noticed(seconds: Any) -> None:
    _note("time.sleep")
    sleep(seconds)

  time.sleep = noticed
  try:
    yield calls
  finally:
    time.sleep = sleep
    del _watches[threading.get_ident()]


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
  if not _watches or event not in _BLOCKING:
    return
  if event == "socket.connect" and arguments[0].gettimeout() == 0:
    return
  _note(_BLOCKING[event])


def _note(name: str) -> None:
  calls = _watches.get(threading.get_ident())
  if calls is not None:
    calls.append(name)
