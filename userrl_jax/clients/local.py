"""A client of a model in this process, whose failures have names.

In: chat messages. Out: the text of the reply, or a `types.FaultError` (law L2),
as `endpoint.Endpoint` has them. No network lies between: nothing is sent again,
and while our own engine works through what everybody asks, the clock of the
episode stands still. What is sampled is a function of the episode and of the
number of the request in it, so a run gives the same numbers again.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax import underway
from userrl_jax.clients import endpoint
from userrl_jax.clients import recording as recording_lib
from userrl_jax.clients import shared as shared_lib

_ANYWHERE = "-"  # the draw of a request that no episode makes


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a model said."""

  text: str  # without its thoughts
  is_cut: bool  # by the budget of tokens
  num_tokens_in: int
  num_tokens_out: int


class TooLong(Exception):
  """A prompt that leaves the model no room for its reply."""


class Model(Protocol):
  """A model that samples in this process; several clients may share it."""

  @property
  def num_device_calls(self) -> int:
    """Returns how often a device worked for it; a call serves many requests."""

  def opened(self) -> contextlib.AbstractAsyncContextManager[None]:
    """Samples, for whoever asks on this event loop, while it is entered."""

  async def reply(
    self,
    messages: endpoint.Messages,
    temperature: float,
    max_tokens: int,
    draw: str,
  ) -> Reply:
    """Returns the reply to a dialogue.

    Args:
      messages: each with a role and a content.
      temperature: 0 takes the likeliest token.
      max_tokens: of the reply.
      draw: what is sampled is a function of it and of the dialogue.

    Raises:
      TooLong: when the prompt leaves no room.
      types.FaultError: ENGINE_ERROR when a device call failed.
    """


class Local:
  """A model in this process as user or judge.

  `async with` opens it on the running event loop; it may be opened again later,
  on another loop.
  """

  def __init__(
    self,
    settings: config.User,
    role: str,
    shared: shared_lib.Shared,
    model: Model,
  ):
    """Takes the model; it is opened with the client.

    Args:
      settings: `model` (its name), `temperature`, `max_tokens`.
      role: user or judge: the section of the config that it is of.
      shared: with the other models of the run.
      model: who replies.
    """
    self._settings = settings
    self._role = role
    self._shared = shared
    self._model = model
    self._opened = contextlib.AsyncExitStack()
    self._num_asked = self._num_in = self._num_out = 0
    self._failures: dict[str, int] = {}

  @property
  def counts(self) -> endpoint.Counts:
    """Returns the counters as they are now."""
    return endpoint.Counts(
      num_requests=self._num_asked,
      num_tokens_in=self._num_in,
      num_tokens_out=self._num_out,
      failures=dict(self._failures),
    )

  @property
  def outages(self) -> tuple[int, float]:
    """Returns 0 outages of 0 seconds: it is here."""
    return 0, 0.0

  @property
  def num_device_calls(self) -> int:
    """Returns the device calls of its model, whoever asked."""
    return self._model.num_device_calls

  async def __aenter__(self) -> "Local":
    self._opened.enter_context(self._shared.opened())
    if self._shared.recording.mode != "replay":  # which asks nobody
      await self._opened.enter_async_context(self._model.opened())
    return self

  async def __aexit__(self, *error: object) -> None:
    await self._opened.aclose()

  async def complete(self, messages: Sequence[dict[str, str]]) -> str:
    """Returns the model's reply to a dialogue.

    Raises:
      types.FaultError: USER_UNPARSABLE (a reply that is empty or cut off),
        USER_ERROR (a prompt that leaves no room for a reply), or ENGINE_ERROR.
      types.SetupError: when a replay has no such request.
    """
    episode = underway.current()
    draw = _ANYWHERE if episode is None else episode.draw()
    sampling = {
      "temperature": self._settings.temperature,
      "max_tokens": self._settings.max_tokens,
      "schema": None,
    }
    request = recording_lib.Request(
      self._role, self._settings.model, draw, sampling, messages
    )
    try:
      return await self._shared.recording.answer(
        request, lambda: self._ask(messages, draw)
      )
    except types.FaultError as error:
      fault = str(error.fault)
      self._failures[fault] = self._failures.get(fault, 0) + 1
      raise

  async def _ask(self, messages: Sequence[dict[str, str]], draw: str) -> str:
    self._num_asked += 1
    try:
      with underway.paused():
        reply = await self._model.reply(
          messages,
          self._settings.temperature,
          self._settings.max_tokens,
          f"{self._role}|{draw}",
        )
    except TooLong as error:
      # The same again would be as long.
      raise types.FaultError(
        types.Fault.USER_ERROR, str(error), is_final=True
      ) from error
    self._num_in += reply.num_tokens_in
    self._num_out += reply.num_tokens_out
    if reply.is_cut:
      raise types.FaultError(
        types.Fault.USER_UNPARSABLE,
        f"the reply was cut off at {self._settings.max_tokens} tokens",
      )
    if not reply.text.strip():
      raise types.FaultError(types.Fault.USER_UNPARSABLE, "the reply was empty")
    return reply.text
