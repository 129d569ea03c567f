"""Decides what the next device call does; plain Python over plain ints.

In: sessions, which are episodes that ask for turns. Out: a `Call`: some lanes
that extend, decode or fork. The engine runs it and tells the sessions what
came of it.

A session that asks for a turn goes through

  needs a row -> forks a prompt or extends -> decodes -> has its turn

and keeps its row while its user thinks, so that its history is read once. Each
device has rows and lanes of its own (a tile); calls fill all tiles at once.

Who has read and sampled least goes first. So all users of a wave get something
to think about while others' turns are sampled; were the oldest first, they
would be through early, and the last ones wait for their users alone.

Nothing here may change what is sampled: sizes of a session's extend calls
depend on that session alone.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import enum
import math

import numpy as np

from userrl_jax import config as config_lib
from userrl_jax.inference import sampling

# The small size of an extend call; a session's last piece is rounded up to it.
SMALL_CHUNK = 16
# Positions. Every lane of a call copies its row; of a longer one that takes
# more than a last piece is worth, and memory that nobody planned for.
LONG_ROW = 2048
# Below this share of lanes ready to decode, whoever can read does so first.
_FEW_READY = 0.75


def extend_lanes(settings: config_lib.Engine, chunk: int) -> int:
  """Returns how many rows of a device a call reads `chunk` ids into."""
  return max(1, settings.extend_tokens // chunk)


class Kind(enum.StrEnum):
  """What a device call does."""

  EXTEND = "extend"
  DECODE = "decode"
  FORK = "fork"


@dataclasses.dataclass(frozen=True)
class Sampled:
  """One turn as sampled."""

  token_ids: list[int]
  logprobs: list[float]  # nats, under the distribution drawn from
  model_logprobs: list[float]  # nats, under the untempered, unfiltered one
  stopped: bool  # ended by the stop id; False: its budget ran out


@dataclasses.dataclass(eq=False)
class Session:
  """An episode's standing with the engine."""

  order: int  # of opening
  key_data: np.ndarray  # [2] uint32
  sampling: sampling.Sampling
  wave: int = 0  # an earlier one's sessions go first
  token_ids: list[int] = dataclasses.field(default_factory=list)
  num_written: int = 0  # of them, whose keys and values are in its row
  prompt: tuple[int, ...] = ()  # what it read before its first turn
  tile: int = -1  # device of its row
  row: int = -1  # within the tile; -1 is none
  num_turns: int = 0  # finished
  waiting_since: int = 0  # number of the device call after its last turn
  # Of the turn under way:
  budget: int = 0  # ids it may still sample
  turn_start: int = 0  # in token_ids, where what is sampled begins
  logprobs: list[float] = dataclasses.field(default_factory=list)
  model_logprobs: list[float] = dataclasses.field(default_factory=list)
  done: asyncio.Future | None = None  # set while it is under way
  # Called after each device call that worked for it.
  on_progress: Callable[[], None] | None = None

  @property
  def num_unread(self) -> int:
    return len(self.token_ids) - self.num_written

  @property
  def has_row(self) -> bool:
    return self.row >= 0

  @property
  def knows_prompt(self) -> bool:
    """Whether its row holds its prompt, but for the id that decoding reads."""
    return self.num_written >= len(self.prompt) - 1

  def sampled_so_far(self) -> Sampled:
    """Returns what there is of the turn under way."""
    # Log-probs are booked last, perhaps in another thread at this moment.
    n = len(self.model_logprobs)
    ids = self.token_ids[self.turn_start : self.turn_start + n]
    return Sampled(ids, self.logprobs[:n], self.model_logprobs[:n], False)


@dataclasses.dataclass(frozen=True)
class Call:
  """One device call: its lanes by tile, at most as many as the tile holds."""

  kind: Kind
  tiles: list[list[Session]]
  chunk: int = 0  # extend: ids a lane may read
  sources: dict[Session, Session] = dataclasses.field(default_factory=dict)

  @property
  def sessions(self) -> list[Session]:
    return [session for tile in self.tiles for session in tile]


class Scheduler:
  """Hands out rows and lanes."""

  def __init__(
    self, settings: config_lib.Engine, num_tiles: int, length: int = 0
  ):
    """Makes an idle scheduler.

    Args:
      settings: rows and lanes of a tile, sizes of a call, what to do when all
        rows are taken.
      num_tiles: devices, or groups of them, with rows of their own.
      length: positions of a row.
    """
    self.num_given_up = 0  # rows taken from waiting sessions, so far
    self._settings, self._length = settings, length
    self._free = [list(range(settings.num_rows)) for _ in range(num_tiles)]
    self._asking: list[Session] = []
    # Those with a row, by prompt and in the order of getting it.
    self._holding: dict[tuple[int, ...], dict[Session, None]] = {}
    self._num_calls = 0

  @property
  def asking(self) -> list[Session]:
    """Returns the sessions with a turn under way."""
    return list(self._asking)

  @property
  def num_holding(self) -> int:
    """Returns how many rows are taken."""
    return sum(map(len, self._holding.values()))

  @property
  def num_waiting(self) -> int:
    """Returns how many rows are taken by sessions whose users think."""
    return sum(session.done is None for session in self._all_holding())

  def num_lanes(self, chunk: int = 1) -> int:
    """Returns the lanes of a tile in a call that reads `chunk` ids a lane.

    Of long rows no more than for whole chunks.
    """
    if chunk == 1:
      return self._settings.num_lanes
    if self._length > LONG_ROW:
      chunk = max(chunk, self._settings.extend_chunk)
    return extend_lanes(self._settings, chunk)

  def ask(self, session: Session) -> None:
    """Queues a session that has ids to read and a budget."""
    session.prompt = session.prompt or tuple(session.token_ids)
    self._asking.append(session)

  def withdraw(self, session: Session) -> None:
    """Takes a session out of the queue; its row stays its own."""
    if session in self._asking:
      self._asking.remove(session)
    session.waiting_since = self._num_calls

  def release(self, session: Session) -> None:
    """Takes a session out altogether; its row is free."""
    self.withdraw(session)
    if session.has_row:
      self._free_row(session)

  def forget(self) -> None:
    """Empties every row: what was written is lost."""
    for session in self._all_holding():
      session.num_written = 0

  def next_call(self) -> Call | None:
    """Returns what to do next; None when nobody asks for anything."""
    self._asking.sort(key=lambda s: (s.wave, s.order))
    self._give_rows()
    self._asking.sort(key=lambda s: (s.wave, s.turn_start, s.order))
    self._num_calls += 1
    with_row = [s for s in self._asking if s.has_row]
    ready = self._by_tile(s for s in with_row if s.num_unread == 1)
    reading = [s for s in with_row if s.num_unread > 1]
    forks, reading = self._forks(reading)
    if forks is not None:
      return forks
    if reading:
      chunk, tiles = self._next_extend(reading)
      if self._is_worth(tiles, chunk, ready):
        tiles = self._cut(tiles, self.num_lanes(chunk))
        return Call(Kind.EXTEND, tiles, chunk=chunk)
    if any(ready):
      return Call(Kind.DECODE, self._cut(ready, self.num_lanes()))
    return None

  def _next_extend(
    self, reading: list[Session]
  ) -> tuple[int, list[list[Session]]]:
    """Returns the size of the next pieces, by tile with those who read one.

    It is the first one's size, unless only a call of the other would be full.
    """
    by_chunk: dict[int, list[Session]] = {}
    for session in reading:
      by_chunk.setdefault(self._chunk(session), []).append(session)
    calls = [(chunk, self._by_tile(own)) for chunk, own in by_chunk.items()]
    for chunk, tiles in calls:
      if max(map(len, tiles)) >= self.num_lanes(chunk):
        return chunk, tiles
    return calls[0]

  def _is_worth(
    self, reading: list[list[Session]], chunk: int, ready: list[list[Session]]
  ) -> bool:
    """Returns whether to read before those who are ready decode.

    An idle place costs as much as a busy one, in either kind of call: so for
    the sake of few lanes, only a call that is full, or fills them all.
    """
    num_lanes = self.num_lanes()
    for tile, others in zip(reading, ready, strict=True):
      num_idle = num_lanes - len(others)
      if tile and num_idle > 0:
        if len(others) < _FEW_READY * num_lanes:
          return True
        if len(tile) >= min(num_idle, self.num_lanes(chunk)):
          return True
    return False

  def _chunk(self, session: Session) -> int:
    """Returns how many ids a session reads next, a function of it alone."""
    small = min(SMALL_CHUNK, self._settings.extend_chunk)
    is_long = session.num_unread - 1 > self._settings.extend_chunk - small
    return self._settings.extend_chunk if is_long else small

  def _give_rows(self) -> None:
    """Gives rows to those who ask and have none, the oldest first."""
    for session in [s for s in self._asking if not s.has_row]:
      if not any(self._free) and not self._give_up_a_row():
        return
      tile = self._tile_for(session)
      session.tile, session.row = tile, self._free[tile].pop()
      session.num_written = 0
      self._holding.setdefault(session.prompt, {})[session] = None

  def _tile_for(self, session: Session) -> int:
    """Returns a tile with a free row: best one whose prompt can be forked."""
    for other in self._holding.get(session.prompt, ()):
      if self._free[other.tile]:
        return other.tile
    return max(range(len(self._free)), key=lambda i: (len(self._free[i]), -i))

  def _give_up_a_row(self) -> bool:
    """Frees the row of whoever has waited longest for a user, if any does."""
    waiting = [s for s in self._all_holding() if s.done is None]
    if self._settings.when_full == "wait" or not waiting:
      return False
    self._free_row(min(waiting, key=lambda s: (s.waiting_since, s.order)))
    self.num_given_up += 1
    return True

  def _free_row(self, session: Session) -> None:
    self._free[session.tile].append(session.row)
    alike = self._holding[session.prompt]
    del alike[session]
    if not alike:
      del self._holding[session.prompt]
    session.row, session.num_written = -1, 0

  def _all_holding(self) -> Iterator[Session]:
    for alike in self._holding.values():
      yield from alike

  def _forks(self, reading: list[Session]) -> tuple[Call | None, list[Session]]:
    """Finds prompts that another row has, or is about to have.

    Of several sessions that need the same prompt now, one reads it and the
    others wait to copy it.

    Returns:
      A call that copies, or None; and who must read by extending.
    """
    begun = [s for s in reading if s.num_written]
    readers = {(s.tile, s.prompt) for s in begun if not s.knows_prompt}
    waiting: set[Session] = set()  # for somebody else to read their prompt
    sources: dict[Session, Session] = {}
    for session in [s for s in reading if not s.num_written]:
      alike = (
        other
        for other in self._holding[session.prompt]
        if other.tile == session.tile and other.knows_prompt
      )
      source = next(alike, None)
      if source is not None:
        sources[session] = source
      elif (session.tile, session.prompt) not in readers:
        readers.add((session.tile, session.prompt))
      else:
        waiting.add(session)
    extending = [s for s in reading if s not in sources and s not in waiting]
    if not sources:
      return None, extending
    tiles = self._cut(self._by_tile(sources), self.num_lanes(SMALL_CHUNK))
    chosen = {s: sources[s] for tile in tiles for s in tile}
    return Call(Kind.FORK, tiles, sources=chosen), extending

  def _by_tile(self, sessions: Iterable[Session]) -> list[list[Session]]:
    tiles: list[list[Session]] = [[] for _ in self._free]
    for session in sessions:
      tiles[session.tile].append(session)
    return tiles

  def _cut(self, tiles: list[list[Session]], most: int) -> list[list[Session]]:
    return [tile[:most] for tile in tiles]


def finish_turns(
  sessions: Iterable[Session],
  stop_id: int,
  withdraw: Callable[[Session], None],
) -> None:
  """Gives finished turns to those who await them."""
  for session in sessions:
    if session.on_progress is not None:
      session.on_progress()
    ids = session.token_ids[session.turn_start :]
    stopped = bool(ids) and ids[-1] == stop_id
    if session.done is None or not (stopped or session.budget == 0):
      continue
    withdraw(session)
    session.num_turns += 1
    if not session.done.done():
      session.done.set_result(
        Sampled(ids, session.logprobs, session.model_logprobs, stopped)
      )


def cache_length(max_length: int, block: int) -> int:
  """Returns the positions that a row is given to hold `max_length` ids."""
  unit = block if max_length > block else SMALL_CHUNK
  return math.ceil(max_length / unit) * unit


def call_length(
  needed: int, total: int, block: int, quarters: tuple[int, ...] = (1, 2, 4)
) -> int:
  """Returns how many positions of its rows a call looks at (law L4).

  Args:
    needed: positions that the call's rows use.
    total: from `cache_length`.
    block: positions whose sums belong together; a quarter has whole blocks.
    quarters: of a row that it may look at, from few to 4, which is all.

  Raises:
    ValueError: when a row does not have that many positions.
  """
  quarter = math.ceil(math.ceil(total / block) / 4) * block
  for share in quarters:
    length = min(share * quarter, total)
    if needed <= length:
      return length
  raise ValueError(f"a row has {total} positions, {needed} are needed")
