"""A model with an engine of its own: prompts in, sampled turns out.

In: a `folders.Source` and how much it may hold. Out: a `Host`, which answers
whoever asks at the same time together: clients over HTTP (`app`), or the gyms
of a run as user and judge (`local_models`). Its params never change, so it
keeps them in their sampling layout alone.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
import contextlib
import hashlib
import os

import jax
import numpy as np

from userrl_jax import config
from userrl_jax import lowering
from userrl_jax import memory
from userrl_jax import sharding
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import turns
from userrl_jax.clients import endpoint
from userrl_jax.clients import local as local_lib
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import engine as engine_lib
from userrl_jax.inference import sampling as sampling_lib
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.serving import folders

_EXTEND_TOKENS = 512  # ids that all rows together may read in a device call
GREEDY = sampling_lib.Sampling(temperature=0)


class Host:
  """A frozen model and who asks it; a `local_lib.Model`."""

  def __init__(
    self,
    source: folders.Source,
    num_rows: int,
    max_length: int,
    field: str,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Plans its memory; loads nothing.

    All its devices share the rows, each with the whole model: none waits for
    another, so two models can work on them at once.

    Args:
      source: of the model.
      num_rows: requests sampled at once, on each device.
      max_length: ids of a prompt and its reply together.
      field: the setting that names the model.
      devices: of this process; None is all of them.

    Raises:
      ValueError: when a device can not hold the model and its rows.
    """
    self.source = source
    self.chat = source.chat
    self.max_length = max_length
    # A request keeps its row until it is answered: none waits for a user.
    self._settings = config.Engine(
      num_rows=num_rows, num_lanes=num_rows, extend_tokens=_EXTEND_TOKENS
    )
    self._mesh = sharding.make_mesh(
      config.Mesh(), list(devices or jax.local_devices())
    )
    self.engine = engine_lib.Engine(
      source.model,
      self._settings,
      max_length,
      source.chat.tokenizer.im_end_id,
      self._mesh,
    )
    self._layout: qwen3.Params | None = None
    self._opened = contextlib.AsyncExitStack()
    self._num_open = 0
    _check_memory(self, field)

  @property
  def num_device_calls(self) -> int:
    return self.engine.counters.device_calls

  @property
  def params_bytes(self) -> int:
    """Returns what the params take on each device."""
    model = self.source.model
    shapes = jax.tree.leaves(published.shapes(model))
    return sum(x.size for x in shapes) * np.dtype(model.dtype).itemsize

  @property
  def cache_bytes(self) -> int:
    """Returns what the KV rows take on each device."""
    return self.engine.cache_bytes // self._mesh.size

  @property
  def device_bytes(self) -> int:
    """Returns what it takes of each device at least, its calls included."""
    length = lowering.row_length(self.max_length)
    made = memory.sampling(
      self.source.model, self._settings, length, self._mesh
    )
    return self.params_bytes + self.cache_bytes + made

  @contextlib.asynccontextmanager
  async def opened(self) -> AsyncIterator[None]:
    """Samples while it is entered, by whomever; loads the params at first.

    Raises:
      ValueError: when the params cannot be read.
    """
    if not self._num_open:
      if self._layout is None:
        self._layout = await asyncio.to_thread(self._load)
      await self._opened.enter_async_context(self.engine.serving(self._layout))
    self._num_open += 1
    try:
      yield
    finally:
      self._num_open -= 1
      if not self._num_open:
        await self._opened.aclose()

  async def sampled(
    self,
    ids: Sequence[int],
    budget: int,
    sampling: sampling_lib.Sampling,
    key: np.ndarray,
  ) -> AsyncIterator[engine_lib.Sampled]:
    """Samples a turn; yields what there is of it, more each time.

    The last one is the whole turn. Who stops listening ends it.

    Args:
      ids: the prompt.
      budget: ids it may sample; with the prompt at most `max_length`.
      sampling: how they are drawn.
      key: [2] uint32, of all randomness.

    Raises:
      types.FaultError: ENGINE_ERROR when a device call failed.
    """
    session = self.engine.open(key, sampling)
    news = asyncio.Event()
    session.on_progress = news.set
    turn = asyncio.ensure_future(self.engine.sample(session, list(ids), budget))
    turn.add_done_callback(lambda _: news.set())
    try:
      while True:
        await news.wait()
        news.clear()
        if turn.done():
          yield turn.result()
          return
        yield session.sampled_so_far()
    finally:
      turn.cancel()
      self.engine.close(session)

  async def reply(
    self,
    messages: endpoint.Messages,
    temperature: float,
    max_tokens: int,
    draw: str,
  ) -> local_lib.Reply:
    """Answers as user or judge; see `local_lib.Model`."""
    ids = self.chat.dialogue_ids(messages_lib.from_openai(messages))
    if len(ids) + max_tokens > self.max_length:
      raise local_lib.TooLong(
        f"a prompt of {len(ids)} ids leaves no room for a reply of "
        f"{max_tokens} in local.max_length ({self.max_length})"
      )
    sampling = sampling_lib.Sampling(temperature)
    key = key_data(f"{draw}|{max_tokens}")
    async for piece in self.sampled(ids, max_tokens, sampling, key):
      sampled = piece  # the last one is the whole turn
    turn = turns.read_ids(sampled.token_ids, self.chat.tokenizer)
    text = messages_lib.to_openai(turn)["content"] or ""
    return local_lib.Reply(
      text, not sampled.stopped, len(ids), len(sampled.token_ids)
    )

  def _load(self) -> qwen3.Params:
    """Returns the params laid out for sampling, a copy on each device."""
    model = self.source.model
    params = self.source.load(self._mesh)
    layout = cache_lib.lay_out(params, model, self._mesh)
    return jax.block_until_ready(layout)


def local_models(
  user: config.User,
  judge: config.Judge,
  settings: config.Local,
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, Host]:
  """Returns the models of `user.kind` local, by folder; {} for other kinds.

  Args:
    user: who they are.
    judge: may be another one.
    settings: of both.
    devices: of this process, that they work on; None is all of them.

  Raises:
    ValueError: when a folder holds no model, or they do not fit the devices.
  """
  if user.kind != "local":
    return {}
  names = {"user.model": user.model}
  if judge.model and judge.model != user.model:
    names["judge.model"] = judge.model
  hosts: dict[str, Host] = {}
  for field, folder in names.items():
    source = folders.read(folder, field, settings.dtype, settings.thinking)
    hosts[folder] = Host(
      source, settings.num_rows, settings.max_length, field, devices
    )
  return hosts


def halves(
  mesh: jax.sharding.Mesh,
) -> tuple[jax.sharding.Mesh, jax.sharding.Mesh]:
  """Splits the devices of a mesh in two, each half with whole models.

  Raises:
    ValueError: when neither `data` nor `fsdp` is even.
  """
  even = [i for i in range(2) if mesh.devices.shape[i] % 2 == 0]
  if not even:
    raise ValueError(
      "a mesh that two models share by halves (local.devices apart) must have "
      "an even number of devices along data or fsdp, got "
      f"{' x '.join(map(str, mesh.devices.shape))}; choose mesh.data or "
      "mesh.fsdp, or local.devices=share"
    )
  first, second = (
    jax.sharding.Mesh(half, mesh.axis_names, axis_types=mesh.axis_types)
    for half in np.split(mesh.devices, 2, axis=even[0])
  )
  return first, second


def key_data(text: str) -> np.ndarray:
  """Returns [2] uint32, a PRNG key that is a function of a text."""
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return np.frombuffer(digest, np.uint32)


def _check_memory(host: Host, field: str) -> None:
  """Refuses what cannot fit, as far as the device tells what it has.

  Raises:
    ValueError: names the bytes.
  """
  device = jax.local_devices()[0]
  stats = device.memory_stats() or {}
  limit = stats.get("bytes_limit", 0)
  if device.platform == "cpu":
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if limit and host.device_bytes > limit:
    raise ValueError(
      f"{field}: the model must fit into the {limit / 2**30:.1f} GiB of a "
      f"device, got at least {host.device_bytes / 2**30:.1f}, of which "
      f"{host.params_bytes / 2**30:.1f} are params and "
      f"{host.cache_bytes / 2**30:.1f} KV rows; lower num_rows or max_length, "
      "or compute in bfloat16"
    )
