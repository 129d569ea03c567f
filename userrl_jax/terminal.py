"""Talks with a person, line by line, while everything else goes on.

In: lines of a stream, such as those typed at a keyboard or piped in. Out: what
the person reads. A line is read in a thread of its own, so an event loop never
waits for a person. Knows no JAX.
"""

import asyncio
import contextlib
import io
import sys
import threading
from typing import TextIO

from userrl_jax import types

QUIT = "quit"  # typed alone, it ends the conversation, as the end of input does


class Terminal:
  """Where a person reads and types."""

  def __init__(self, typed: TextIO, shown: TextIO):
    """Takes the streams; nothing is read before something is asked.

    Args:
      typed: lines of the person.
      shown: what the person reads.
    """
    self._typed = typed
    self._shown = shown

  def say(self, text: str = "") -> None:
    """Shows a text; what would steer a terminal is spelt out."""
    self._show(f"{plain(text)}\n")

  async def ask(self, prompt: str) -> str:
    """Returns the next line, without the spaces around it.

    Raises:
      types.FaultError: CANCELLED, when the person leaves: by `quit`, or by
        the end of input (ctrl-D).
    """
    self._show(plain(prompt))
    line = await self._line()
    if not line:
      self._show("\n")  # nobody pressed enter
    if not line or line.strip().lower() == QUIT:
      detail = "the person left" if line else "the person's input ended"
      raise types.FaultError(types.Fault.CANCELLED, detail, is_final=True)
    return line.strip()

  async def _line(self) -> str:
    """Returns the next line with its end, or an empty text at the end of all.

    The thread dies with the process: nobody has to press enter for that.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def settle(text: str, error: Exception | None) -> None:
      if line.done():  # nobody waits for it any more
        return
      if error is None:
        line.set_result(text)
      else:
        line.set_exception(error)

    def read() -> None:
      text, error = "", None
      try:
        text = self._typed.readline()
      except Exception as caught:
        error = caught
      with contextlib.suppress(RuntimeError):  # the loop has ended before
        loop.call_soon_threadsafe(settle, text, error)

    threading.Thread(target=read, daemon=True).start()
    return await line

  def _show(self, text: str) -> None:
    self._shown.write(text)
    self._shown.flush()


def of_process() -> Terminal:
  """Returns the terminal that the process was started in.

  Bytes that are no text of its encoding are replaced, in and out.
  """
  if isinstance(sys.stdin, io.TextIOWrapper):
    sys.stdin.reconfigure(errors="replace")
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
  return Terminal(sys.stdin or io.StringIO(), sys.stdout)


def plain(text: str) -> str:
  """Returns a text whose control characters, but for line ends, are spelt out.

  A model's text is shown to a person: it must not move the cursor, change
  colours, or paint over what is true.
  """
  return "".join(
    c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text
  )


def quoted(text: str) -> str:
  """Returns a text with a bar before each line: somebody else's words."""
  return "\n".join(f"  | {line}" for line in plain(text).splitlines() or [""])
