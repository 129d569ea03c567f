"""Lets the policy play ahead of the update: `rollout.max_staleness` above 0.

In: the parts of a run and its tasks. Out: what gives the groups of one
iteration after the other. Episodes of later iterations already play while users
of this one think and while the device learns:

  staleness 0   play 0 | update 0 | play 1 | update 1 | ...
  staleness 1   play 0 ....... | update 0 |      | update 1 | ...
                    play 1 ................ |
                                    play 2 ...............

The next iteration's begin when half of this one's are over: were all begun at
once, their last and slowest episodes would leave the device idle together. An
episode then lives across an update: what it samples before has the log-probs
of the older params, and keeps them.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
import concurrent.futures
import contextlib
import threading
from typing import Any

from userrl_jax import assembly
from userrl_jax import collecting
from userrl_jax import data
from userrl_jax import hosts
from userrl_jax import types
from userrl_jax.gyms import judging
from userrl_jax.inference import sampling as sampling_lib
from userrl_jax.models import qwen3

THREAD = "userrl_jax ahead"  # its name, while there is one

# (iteration, params) -> its groups
Collect = Callable[[int, qwen3.Params], list[types.Group]]


@contextlib.contextmanager
def collector(
  parts: assembly.Parts, tasks: data.Stream[types.Task], num_iterations: int
) -> Iterator[Collect]:
  """Collects one iteration after the other, within the allowed staleness.

  Args:
    parts: of the run.
    tasks: one draw an iteration; what was only played ahead stays in it.
    num_iterations: none is played beyond.

  Yields:
    A function that returns the groups of an iteration, sampled with the given
    params or, within `rollout.max_staleness`, with earlier ones.
  """
  config = parts.config
  sampling = sampling_lib.Sampling(config.rollout.temperature)
  group_size = config.grpo.group_size
  if not config.rollout.max_staleness:
    yield lambda iteration, params: collecting.refill(
      tasks,
      lambda drawn, before: collecting.play(
        parts, params, drawn, group_size, sampling, iteration, before=before
      ),
      config.grpo,
    )
    return
  runner = _Runner(parts)
  running: dict[int, concurrent.futures.Future] = {}
  halves: dict[int, Half] = {}

  def groups(iteration: int, params: qwen3.Params) -> list[types.Group]:
    runner.use(params)
    last = min(iteration + config.rollout.max_staleness, num_iterations - 1)
    for i in range(iteration, last + 1):
      if i not in running:
        drawn = hosts.share(tasks.peek(i - iteration))
        halves[i] = Half(len(drawn) * group_size)
        before = halves.pop(i - 1, None) if i > iteration else None
        play = collecting.play_serving(
          parts, drawn, group_size, sampling, i, runner.judge, halves[i]
        )
        running[i] = runner.play(_after(before, play))
    # What this host plays of it is played already, or being played.
    play_own = lambda own: running.pop(iteration).result()
    return collecting.gathered(parts, next(tasks), group_size, play_own)

  try:
    yield groups
  finally:
    runner.close()


class Half:
  """Tells when half of a collection's episodes are over; keeps none."""

  def __init__(self, num_episodes: int):
    self._num_left = num_episodes - num_episodes // 2
    self.over = asyncio.Event()
    if not num_episodes:
      self.over.set()

  def find(self, task: types.Task, member: int) -> None:
    """Returns nothing: every episode is to be played."""

  def add(self, trajectory: types.Trajectory) -> None:
    """Counts an episode that has just finished."""
    self._num_left -= 1
    if self._num_left <= 0:
      self.over.set()


async def _after(
  before: Half | None, play: Coroutine[Any, Any, list[types.Group]]
) -> list[types.Group]:
  """Plays when half of the collection before is over."""
  try:
    if before is not None:
      await before.over.wait()
  except asyncio.CancelledError:
    play.close()
    raise
  return await play


class _Runner:
  """An event loop in a thread of its own, in which the engine serves."""

  def __init__(self, parts: assembly.Parts):
    self.judge: judging.Judge | None = None
    self._parts = parts
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
      target=self._loop.run_forever, name=THREAD, daemon=True
    )
    self._playing: set[asyncio.Task | None] = set()
    self._opened = contextlib.AsyncExitStack()

  def use(self, params: qwen3.Params) -> None:
    """Samples with these params from now on."""
    if self._thread.ident is not None:
      self._submit(self._parts.engine.swap(params)).result()
      return
    self._thread.start()
    self._submit(self._open(params)).result()

  def play(
    self, episodes: Coroutine[Any, Any, list[types.Group]]
  ) -> concurrent.futures.Future[list[types.Group]]:
    """Begins to play; returns where the groups will be."""

    async def tracked():
      task = asyncio.current_task()
      self._playing.add(task)
      try:
        return await episodes
      finally:
        self._playing.discard(task)

    return self._submit(tracked())

  def close(self) -> None:
    """Ends what still runs, and the thread."""
    if self._thread.ident is None:
      return
    try:
      self._submit(self._close()).result()
    finally:
      self._loop.call_soon_threadsafe(self._loop.stop)
      self._thread.join()
      self._loop.close()

  async def _open(self, params: qwen3.Params) -> None:
    enter = self._opened.enter_async_context
    self.judge = await enter(self._parts.user.opened())
    await enter(self._parts.engine.serving(params))

  async def _close(self) -> None:
    playing = list(self._playing)
    for task in playing:
      task.cancel()
    await asyncio.gather(*playing, return_exceptions=True)
    await self._opened.aclose()

  def _submit(
    self, coroutine: Coroutine[Any, Any, Any]
  ) -> concurrent.futures.Future:
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
