"""The sampler that episodes share: rows for histories, lanes for decoding.

An episode opens a session, keeps it from its first turn to its last, and asks
for turns; whatever is pending is batched into the next device call:

  open -> sample(new ids) -> sample(new ids) -> ... -> close

`serving(params)` runs the loop that does the device work; params are its
argument, the engine keeps none. Device calls run in a thread, so users may
think while rows decode. Results depend on a session's own ids and key, never
on scheduling: `scheduler` says what a call does, `cache` does it.
"""

import asyncio
from collections.abc import AsyncIterator
import contextlib
import functools
import time

import jax
import numpy as np

from userrl_jax import config as config_lib
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import counters as counters_lib
from userrl_jax.inference import sampling as sampling_lib
from userrl_jax.inference import scheduler
from userrl_jax.models import attention
from userrl_jax.models import kv_rows
from userrl_jax.models import qwen3

Sampled = scheduler.Sampled
Session = scheduler.Session

# A decode call ends early when fewer of its lanes still sample: an idle lane
# costs as much as a busy one, and a call's overhead is about one token.
_MIN_BUSY = 0.75


class Engine:
  """Batches the turns of many episodes into few device calls."""

  def __init__(
    self,
    model: qwen3.Config,
    settings: config_lib.Engine,
    max_length: int,
    stop_id: int,
    mesh: jax.sharding.Mesh,
  ):
    """Plans the KV cache.

    Args:
      model: shape of the model.
      settings: rows, lanes, and sizes of a device call.
      max_length: ids that a row can hold.
      stop_id: the id that ends a turn.
      mesh: devices to sample on; rows are split over `data` and `fsdp`, heads
        over `tensor`.
    """
    self.counters = counters_lib.Counters()
    self._model = model
    self._settings = settings
    self._max_length = max_length
    self._length = scheduler.cache_length(max_length, attention.CACHE_BLOCK)
    self._stop_id = stop_id
    self._mesh = mesh
    self._num_tiles = sharding.num_row_parts(mesh)
    self._cache: kv_rows.Cache | None = None
    self._layout: qwen3.Params | None = None
    self._scheduler = scheduler.Scheduler(
      settings, self._num_tiles, self._length
    )
    self._lanes_are_rows = settings.num_lanes == settings.num_rows
    self._num_opened = 0
    self._asked = asyncio.Event()
    self._device = asyncio.Lock()  # held during a device call
    self._failure: Exception | None = None

  @property
  def cache_bytes(self) -> int:
    """Returns what the KV rows of all devices take together."""
    num_rows = self._settings.num_rows * self._num_tiles
    return qwen3.cache_bytes(self._model, num_rows, self._length)

  @property
  def num_rows_held(self) -> int:
    """Returns how many rows episodes have at the moment."""
    return self._scheduler.num_holding

  @contextlib.asynccontextmanager
  async def serving(self, params: qwen3.Params) -> AsyncIterator[None]:
    """Does the device work of all sessions while the context is entered.

    A copy of the params in their sampling layout lives as long, unless they
    come in it, and so do the KV rows, unless an episode has one still.

    Args:
      params: to sample with, as they are or as `cache.lay_out` made them.

    Raises:
      Exception: what a device call raised; every waiting turn then ends in an
        engine fault, and so does every later one.
    """
    # These belong to the loop that waits on them.
    self._asked, self._device = asyncio.Event(), asyncio.Lock()
    self._failure = None
    self._lay_out(params)
    loop = asyncio.create_task(self._serve())
    try:
      yield
    finally:
      loop.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await loop
      self._layout = None
      if not self._scheduler.num_holding:  # an update needs the memory
        self._cache = None

  async def swap(self, params: qwen3.Params) -> None:
    """Samples with other params from the next device call on.

    Rows keep what earlier params wrote: an episode lives across an update.
    """
    async with self._device:
      self._lay_out(params)

  def _lay_out(self, params: qwen3.Params) -> None:
    self._layout = None  # freed before its successor is made
    self._layout = cache_lib.lay_out(params, self._model, self._mesh)

  def open(
    self,
    key: jax.Array | np.ndarray,
    sampling: sampling_lib.Sampling | None = None,
    wave: int = 0,
  ) -> Session:
    """Begins a session; a row is given to it when it first asks for a turn.

    Args:
      key: [2] uint32 data of the PRNG key that all its sampling comes from.
      sampling: how its tokens are drawn; by default from the model itself.
      wave: such as the iteration; sessions of an earlier one go first.
    """
    self._num_opened += 1
    how = sampling or sampling_lib.Sampling()
    return Session(self._num_opened, np.asarray(key, np.uint32), how, wave)

  def close(self, session: Session) -> None:
    """Ends a session, also in the middle of a turn; its row is free."""
    self._scheduler.release(session)
    self._asked.set()

  async def sample(
    self, session: Session, new_ids: list[int], budget: int
  ) -> Sampled:
    """Reads ids into a session, then samples a turn.

    Args:
      session: an open one with no turn under way.
      new_ids: ids to read first; at least one.
      budget: ids it may sample, at least 1.

    Raises:
      ValueError: when a row cannot hold that many ids.
      types.FaultError: ENGINE_ERROR when a device call failed.
    """
    assert session.done is None and new_ids and budget > 0
    num_ids = len(session.token_ids)
    if num_ids + len(new_ids) + budget > self._max_length:
      raise ValueError(
        f"a row holds {self._max_length} ids, got {num_ids} so far, "
        f"{len(new_ids)} to read and a budget of {budget}; lower the budget"
      )
    if self._failure is not None:
      raise _fault(self._failure)
    session.token_ids += map(int, new_ids)
    session.budget, session.turn_start = budget, len(session.token_ids)
    session.logprobs, session.model_logprobs = [], []
    session.done = asyncio.get_running_loop().create_future()
    self._scheduler.ask(session)
    self._asked.set()
    try:
      return await session.done
    finally:
      self._scheduler.withdraw(session)
      session.done = None

  def num_programs(self) -> int:
    """Returns how many programs the device calls have compiled so far."""
    return cache_lib.num_programs()

  def take_counters(self) -> counters_lib.Counters:
    """Returns the counters and starts them anew."""
    taken, self.counters = self.counters, counters_lib.Counters()
    return taken

  async def _serve(self) -> None:
    in_thread = functools.partial(
      asyncio.get_running_loop().run_in_executor, None
    )
    last = time.monotonic()
    while True:
      await self._settle()
      given_up = self._scheduler.num_given_up
      try:
        call = self._scheduler.next_call()
        if call is None:
          self._asked.clear()
          await self._asked.wait()
          continue
        self.counters.rows_given_up += self._scheduler.num_given_up - given_up
        begun = time.monotonic()
        async with self._device:
          await in_thread(self._run, call)
        ended = time.monotonic()
        self._count(begun - last, ended - begun)
        last = ended
        scheduler.finish_turns(
          call.sessions, self._stop_id, self._scheduler.withdraw
        )
      except Exception as error:  # else whoever waits would wait for ever
        self._fail(error)
        raise

  def _count(self, idle_s: float, busy_s: float) -> None:
    """Counts a device call and who has rows after it."""
    counters = self.counters
    counters.device_calls += 1
    counters.idle_s += idle_s
    counters.busy_s += busy_s
    counters.rows_held += self._scheduler.num_holding
    counters.rows_waiting += self._scheduler.num_waiting
    counters.queued += sum(not s.has_row for s in self._scheduler.asking)

  async def _settle(self) -> None:
    """Lets every episode that can go on do so before the next call.

    A rule-based user answers without waiting, so after a few rounds of the
    event loop all its episodes are pending again: batches are full, and the
    same in every run.
    """
    for _ in range(4):
      await asyncio.sleep(0)

  def _fail(self, error: Exception) -> None:
    self._failure = error
    self._cache = None  # a failed call may have taken it along
    self._scheduler.forget()
    for session in self._scheduler.asking:
      self._scheduler.withdraw(session)
      if session.done is not None and not session.done.done():
        session.done.set_exception(_fault(error))

  def _run(self, call: scheduler.Call) -> None:
    """Runs a device call and books what came of it."""
    if self._cache is None:
      self._cache = cache_lib.init(
        config=self._model,
        mesh=self._mesh,
        num_rows=self._settings.num_rows,
        length=self._length,
        by_position=not cache_lib.is_cpu(self._mesh),
      )
    run = {
      scheduler.Kind.EXTEND: self._extend,
      scheduler.Kind.DECODE: self._decode,
      scheduler.Kind.FORK: self._fork,
    }[call.kind]
    run(call)

  def _extend(self, call: scheduler.Call) -> None:
    """Reads a chunk of every lane's ids, all but its last."""
    lanes = self._lanes(call, self._scheduler.num_lanes(call.chunk))
    B, T = len(lanes), call.chunk
    tokens_BT = np.zeros((B, T), np.int32)
    counts_B = np.zeros(B, np.int32)
    starts_B = np.zeros(B, np.int32)
    for i, session in enumerate(lanes):
      if session is None:
        continue
      starts_B[i] = session.num_written
      part = session.token_ids[session.num_written : -1][:T]
      tokens_BT[i, : len(part)] = part
      counts_B[i] = len(part)
    self._cache = cache_lib.extend(
      self._layout,
      self._cache,
      self._rows(lanes),
      tokens_BT,
      starts_B,
      counts_B,
      config=self._model,
      mesh=self._mesh,
      length=self._call_length(int((starts_B + counts_B).max())),
    )
    jax.block_until_ready(self._cache)
    for i, session in enumerate(lanes):
      if session is not None and session.has_row:
        session.num_written += int(counts_B[i])
    self.counters.tokens_read += int(counts_B.sum())
    self.counters.positions_extended += B * T

  def _fork(self, call: scheduler.Call) -> None:
    """Copies prompts from rows that hold them."""
    lanes = self._lanes(call, self._scheduler.num_lanes(scheduler.SMALL_CHUNK))
    sources = [s and call.sources[s] for s in lanes]
    self._cache = cache_lib.fork(
      self._cache, self._rows(sources), self._rows(lanes), mesh=self._mesh
    )
    jax.block_until_ready(self._cache)
    for session in call.sessions:
      if session.has_row:
        session.num_written = len(session.prompt) - 1
        self.counters.tokens_forked += session.num_written

  def _decode(self, call: scheduler.Call) -> None:
    """Samples some tokens in every lane."""
    n = self._settings.decode_tokens
    num_lanes = self._scheduler.num_lanes()
    lanes = self._lanes(call, num_lanes, at_rows=self._lanes_are_rows)
    B = len(lanes)
    column = lambda value, dtype=np.int32: np.array(
      [0 if s is None else value(s) for s in lanes], dtype
    )
    starts_B = column(lambda s: s.num_written)
    budgets_B = column(lambda s: s.budget)
    key_data_B = np.zeros((B, 2), np.uint32)
    for i, session in enumerate(lanes):
      if session is not None:
        key_data_B[i] = session.key_data
    ends_B = starts_B + np.minimum(budgets_B, n)
    length = self._call_length(int(ends_B.max()), (1, 2, 3, 4))
    idle = sampling_lib.Sampling()
    self._cache, decoded = cache_lib.decode(
      self._layout,
      self._cache,
      cache_lib.Lanes(
        rows_B=self._rows(lanes),
        current_B=column(lambda s: s.token_ids[-1]),
        starts_B=starts_B,
        budgets_B=budgets_B,
        key_data_B=key_data_B,
        knobs=sampling_lib.knobs([s.sampling if s else idle for s in lanes]),
      ),
      np.int32(self._stop_id),
      np.float32(_MIN_BUSY),
      config=self._model,
      mesh=self._mesh,
      length=length,
      num_tokens=n,
      # XLA for CPUs would copy a part of a row again for every token.
      in_place=self._lanes_are_rows
      and (length == self._length or not cache_lib.is_cpu(self._mesh)),
    )
    token_ids_Bn, logprobs_Bn, model_logprobs_Bn = jax.device_get(decoded)
    counts_B = (token_ids_Bn >= 0).sum(1)
    for i, session in enumerate(lanes):
      count = int(counts_B[i])
      if session is None or not session.has_row:
        continue
      session.token_ids += token_ids_Bn[i, :count].tolist()
      session.logprobs += logprobs_Bn[i, :count].tolist()
      session.model_logprobs += model_logprobs_Bn[i, :count].tolist()
      session.num_written += count
      session.budget -= count
    num_steps = counts_B.reshape(self._num_tiles, -1).max(1).sum()
    self.counters.tokens_sampled += int(counts_B.sum())
    self.counters.positions_decoded += int(num_steps) * num_lanes

  def _lanes(
    self, call: scheduler.Call, per_tile: int, at_rows: bool = False
  ) -> list[Session | None]:
    """Returns all tiles' lanes; None is idle. At rows, lane i is row i's."""
    lanes: list[Session | None] = [None] * (per_tile * self._num_tiles)
    for t, tile in enumerate(call.tiles):
      for i, session in enumerate(tile):
        place = session.row if at_rows else i
        if place >= 0:  # not closed in the meantime
          lanes[t * per_tile + place] = session
    self.counters.lanes += len(lanes)
    self.counters.lanes_busy += len(call.sessions)
    return lanes

  def _rows(self, lanes: list[Session | None]) -> np.ndarray:
    """Returns [B] int32 row indices; num_rows for idle lanes."""
    none = self._settings.num_rows
    return np.array(
      [s.row if s is not None and s.has_row else none for s in lanes], np.int32
    )

  def _call_length(
    self, needed: int, quarters: tuple[int, ...] = (1, 2, 4)
  ) -> int:
    block = attention.CACHE_BLOCK
    return scheduler.call_length(needed, self._length, block, quarters)


def _fault(error: Exception) -> types.FaultError:
  return types.FaultError(types.Fault.ENGINE_ERROR, repr(error))
