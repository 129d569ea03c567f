"""The sampler that episodes share: rows for histories, lanes for decoding.

An episode opens a row, keeps it from its first turn to its last, and asks for
turns; whatever is pending is batched into the next device call:

  open -> sample(new ids) -> sample(new ids) -> ... -> close

`serving(params)` runs the loop that does the device work; params are its
argument, the engine keeps none. Device calls run in a thread, so users may
think while rows decode. Results depend on a row's own ids and key, never on
scheduling.
"""

import asyncio
from collections.abc import AsyncIterator
import contextlib
import dataclasses
import functools

import jax
import numpy as np

from userrl_jax import config as config_lib
from userrl_jax import types
from userrl_jax.inference import cache as cache_lib
from userrl_jax.models import qwen3


@dataclasses.dataclass(frozen=True)
class Sampled:
  """One turn as sampled."""

  token_ids: list[int]
  logprobs: list[float]  # nats, under the distribution drawn from
  stopped: bool  # ended by the stop id; False: its budget ran out


@dataclasses.dataclass
class Counters:
  """What the engine did since they were last taken."""

  tokens_sampled: int = 0
  tokens_read: int = 0
  positions_computed: int = 0  # of extend and decode, padding included
  device_calls: int = 0

  @property
  def padding(self) -> float:
    """Share of computed positions that held no real token."""
    real = self.tokens_sampled + self.tokens_read
    return 1 - real / max(self.positions_computed, 1)


@dataclasses.dataclass(eq=False)
class Row:
  """An episode's place in the cache."""

  index: int
  order: int  # of opening; the queue's order, so that runs are repeatable
  key_data: np.ndarray  # [2] uint32
  num_written: int = 0  # positions whose keys and values are in the cache
  unread: list[int] = dataclasses.field(default_factory=list)
  budget: int = 0  # tokens it may still sample this turn
  token_ids: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)
  done: asyncio.Future | None = None  # set while a turn is being sampled


class Engine:
  """Batches the turns of many episodes into few device calls."""

  def __init__(
    self,
    model: qwen3.Config,
    settings: config_lib.Engine,
    max_length: int,
    stop_id: int,
  ):
    """Reserves the KV cache.

    Args:
      model: shape of the model.
      settings: rows, lanes, and sizes of a device call.
      max_length: positions a row can hold.
      stop_id: the id that ends a turn.
    """
    self.counters = Counters()
    self._model = model
    self._settings = settings
    self._max_length = max_length
    self._stop_id = stop_id
    self._cache: qwen3.Cache | None = None
    self._free = list(range(settings.num_rows))
    self._pending: list[Row] = []
    self._num_opened = 0
    self._freed = asyncio.Event()
    self._asked = asyncio.Event()
    self._temperature = 1.0

  @contextlib.asynccontextmanager
  async def serving(
    self, params: qwen3.Params, temperature: float
  ) -> AsyncIterator[None]:
    """Does the device work of all open rows while the context is entered.

    Args:
      params: to sample with.
      temperature: of every turn; 0 is greedy.

    Raises:
      Exception: what a device call raised; every waiting turn then ends in an
        engine fault.
    """
    # Events belong to the loop that waits on them.
    self._freed, self._asked = asyncio.Event(), asyncio.Event()
    self._temperature = temperature
    if self._cache is None:
      self._cache = qwen3.init_cache(
        self._model, self._settings.num_rows, self._max_length
      )
    loop = asyncio.create_task(self._serve(params))
    try:
      yield
    finally:
      loop.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await loop

  async def open(self, key: jax.Array | np.ndarray) -> Row:
    """Waits for a free row.

    Args:
      key: [2] uint32 data of the PRNG key that all its sampling comes from.
    """
    while not self._free:
      self._freed.clear()
      await self._freed.wait()
    self._num_opened += 1
    return Row(self._free.pop(), self._num_opened, np.asarray(key, np.uint32))

  def close(self, row: Row) -> None:
    """Gives the row to the next episode."""
    if row in self._pending:
      self._pending.remove(row)
    self._free.append(row.index)
    self._freed.set()

  async def sample(self, row: Row, new_ids: list[int], budget: int) -> Sampled:
    """Reads ids into a row, then samples a turn.

    Args:
      row: an open row with no turn under way.
      new_ids: ids to read first; at least one.
      budget: ids it may sample, at least 1.

    Raises:
      ValueError: when the row cannot hold that many ids.
      types.FaultError: ENGINE_ERROR when a device call failed.
    """
    assert row.done is None and new_ids and budget > 0
    # The last id of the turn before was sampled but not yet read.
    unread = row.unread + list(new_ids)
    if row.num_written + len(unread) + budget > self._max_length:
      raise ValueError(
        f"a row holds {self._max_length} ids, got {row.num_written} written, "
        f"{len(unread)} to read and a budget of {budget}; lower the budget"
      )
    row.unread, row.budget = unread, budget
    row.token_ids, row.logprobs = [], []
    row.done = asyncio.get_running_loop().create_future()
    self._pending.append(row)
    self._asked.set()
    try:
      return await row.done
    finally:
      row.done = None

  def num_programs(self) -> int:
    """Returns how many programs the device calls have compiled so far."""
    return cache_lib.extend._cache_size() + cache_lib.decode._cache_size()

  def take_counters(self) -> Counters:
    """Returns the counters and starts them anew."""
    taken, self.counters = self.counters, Counters()
    return taken

  async def _serve(self, params: qwen3.Params) -> None:
    in_thread = functools.partial(
      asyncio.get_running_loop().run_in_executor, None
    )
    while True:
      await self._settle()
      if not self._pending:
        self._asked.clear()
        await self._asked.wait()
        continue
      self._pending.sort(key=lambda row: row.order)
      reading = [row for row in self._pending if len(row.unread) > 1]
      try:
        if reading:
          lanes = reading[: self._settings.num_lanes]
          await in_thread(self._extend, params, lanes)
        else:
          lanes = self._pending[: self._settings.num_lanes]
          await in_thread(self._decode, params, lanes)
      except Exception as error:
        self._fail(error)
        raise
      for row in lanes:
        self._finish(row)

  async def _settle(self) -> None:
    """Lets every episode that can go on do so before the next call.

    A rule-based user answers without waiting, so after a few rounds of the
    event loop all its episodes are pending again: batches are full, and the
    same in every run.
    """
    for _ in range(4):
      await asyncio.sleep(0)

  def _finish(self, row: Row) -> None:
    stopped = bool(row.token_ids) and row.token_ids[-1] == self._stop_id
    if row not in self._pending or not (stopped or row.budget == 0):
      return
    self._pending.remove(row)
    if row.done is not None and not row.done.done():
      row.done.set_result(Sampled(row.token_ids, row.logprobs, stopped))

  def _fail(self, error: Exception) -> None:
    for row in self._pending:
      if row.done is not None and not row.done.done():
        row.done.set_exception(
          types.FaultError(types.Fault.ENGINE_ERROR, repr(error))
        )
    self._pending.clear()

  def _extend(self, params: qwen3.Params, lanes: list[Row]) -> None:
    """Reads a chunk of every lane's ids, all but its last."""
    most = max(len(row.unread) - 1 for row in lanes)
    chunk = self._settings.extend_chunk
    T = types.round_up_length(min(most, chunk), chunk, smallest=32)
    B = self._settings.num_lanes
    tokens_BT = np.zeros((B, T), np.int32)
    counts_B = np.zeros(B, np.int32)
    for i, row in enumerate(lanes):
      part = row.unread[: min(len(row.unread) - 1, T)]
      tokens_BT[i, : len(part)] = part
      counts_B[i] = len(part)
    starts_B = self._starts(lanes)
    self._cache = cache_lib.extend(
      params,
      self._cache,
      self._rows(lanes),
      tokens_BT,
      starts_B,
      counts_B,
      config=self._model,
      length=self._length(int((starts_B + counts_B).max())),
    )
    for row, count in zip(lanes, counts_B.tolist(), strict=False):
      del row.unread[:count]
      row.num_written += count
    self.counters.tokens_read += int(counts_B.sum())
    self.counters.positions_computed += B * T
    self.counters.device_calls += 1

  def _decode(self, params: qwen3.Params, lanes: list[Row]) -> None:
    """Samples some tokens in every lane."""
    n = self._settings.decode_tokens
    B = self._settings.num_lanes
    pad = lambda values: np.array(values + [0] * (B - len(lanes)), np.int32)
    starts_B = self._starts(lanes)
    budgets_B = pad([row.budget for row in lanes])
    key_data_B = np.zeros((B, 2), np.uint32)
    for i, row in enumerate(lanes):
      key_data_B[i] = row.key_data
    ends_B = starts_B + np.minimum(budgets_B, n)
    self._cache, decoded = cache_lib.decode(
      params,
      self._cache,
      self._rows(lanes),
      pad([row.unread[0] for row in lanes]),
      starts_B,
      budgets_B,
      key_data_B,
      np.float32(self._temperature),
      np.int32(self._stop_id),
      config=self._model,
      length=self._length(int(ends_B.max())),
      num_tokens=n,
    )
    token_ids_Bn, logprobs_Bn = jax.device_get(decoded)
    num_steps = 0
    for i, row in enumerate(lanes):
      count = int((token_ids_Bn[i] >= 0).sum())
      ids = token_ids_Bn[i, :count].tolist()
      row.token_ids += ids
      row.logprobs += logprobs_Bn[i, :count].tolist()
      row.unread = ids[-1:]
      row.num_written += count
      row.budget -= count
      num_steps = max(num_steps, count)
      self.counters.tokens_sampled += count
    self.counters.positions_computed += B * num_steps
    self.counters.device_calls += 1

  def _rows(self, lanes: list[Row]) -> np.ndarray:
    """Returns [B] int32 row indices; num_rows for idle lanes."""
    rows_B = np.full(
      self._settings.num_lanes, self._settings.num_rows, np.int32
    )
    rows_B[: len(lanes)] = [row.index for row in lanes]
    return rows_B

  def _starts(self, lanes: list[Row]) -> np.ndarray:
    starts_B = np.zeros(self._settings.num_lanes, np.int32)
    starts_B[: len(lanes)] = [row.num_written for row in lanes]
    return starts_B

  def _length(self, needed: int) -> int:
    return types.round_up_length(needed, self._max_length, smallest=256)
