"""What the code below an episode may know of it: its draws and its deadline.

An episode is opened where it is played; a gym, a user and a client, which know
nothing of episodes, ask here. Each asyncio task sees its own episode, and the
tasks that it starts see the same. Knows no JAX.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
import contextlib
import contextvars
import dataclasses
import hashlib
import itertools
import secrets


class Episode:
  """What can be drawn in an episode, the same however it is scheduled."""

  def __init__(self, name: str, gym: str):
    """Takes a name that no other episode has, and that of the gym."""
    self.name = name
    self.gym = gym
    self._draws = itertools.count()
    self._words = itertools.count()

  def draw(self) -> str:
    """Returns the name of the next request of the episode."""
    return f"{self.name}#{next(self._draws)}"

  def word(self) -> str:
    """Returns the next word of 32 hex digits that the agent cannot know.

    It is the same when the episode is played again, so that a request is.
    """
    text = f"word|{self.name}|{next(self._words)}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclasses.dataclass
class _Deadline:
  """A time limit whose clock can be stopped."""

  timeout: asyncio.Timeout
  num_pauses: int = 0  # under way at once
  left_s: float = 0.0  # when the first of them began


_EPISODE: contextvars.ContextVar[Episode | None] = contextvars.ContextVar(
  "episode", default=None
)
_DEADLINE: contextvars.ContextVar[_Deadline | None] = contextvars.ContextVar(
  "deadline", default=None
)


@contextlib.contextmanager
def episode(name: str, gym: str) -> Iterator[None]:
  """Opens an episode for what runs inside.

  Args:
    name: of this episode alone, the same whenever it is played.
    gym: its name.
  """
  token = _EPISODE.set(Episode(name, gym))
  try:
    yield
  finally:
    _EPISODE.reset(token)


def current() -> Episode | None:
  """Returns the episode under way, None outside of any."""
  return _EPISODE.get()


def secret_word() -> str:
  """Returns 32 hex digits that nobody who is asked or judged can know.

  In an episode they are the same whenever it is played; random elsewhere.
  """
  here = _EPISODE.get()
  return secrets.token_hex(16) if here is None else here.word()


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
  """Limits the time of what runs inside, pauses left out.

  Raises:
    TimeoutError: when it took longer.
  """
  async with asyncio.timeout(seconds) as timeout:
    token = _DEADLINE.set(_Deadline(timeout))
    try:
      yield
    finally:
      _DEADLINE.reset(token)


@contextlib.contextmanager
def paused() -> Iterator[None]:
  """Stops the clock of the deadline: what is waited for is nobody's fault.

  Such as our own limits, or an endpoint that is down for everybody. Where no
  deadline is open, nothing is stopped.
  """
  deadline = _DEADLINE.get()
  if deadline is None:
    yield
    return
  loop = asyncio.get_running_loop()
  if not deadline.num_pauses:
    deadline.left_s = (deadline.timeout.when() or 0.0) - loop.time()
    deadline.timeout.reschedule(None)
  deadline.num_pauses += 1
  try:
    yield
  finally:
    deadline.num_pauses -= 1
    if not deadline.num_pauses and not deadline.timeout.expired():
      deadline.timeout.reschedule(loop.time() + deadline.left_s)


async def expire() -> None:
  """Waits as something that is never done: until the deadline cancels it.

  Where one is open it passes at once.
  """
  deadline = _DEADLINE.get()
  if deadline is not None:
    deadline.timeout.reschedule(asyncio.get_running_loop().time())
  await asyncio.Event().wait()
