"""A pooled client of one OpenAI-style endpoint, whose failures have names.

In: chat messages. Out: the text of the reply, or a `types.FaultError` (law L2)
whose detail shows neither the key nor a word of what was asked or answered.
What asking again cannot mend, such as a wrong key, is a `types.SetupError`.

A request passes, from the outside in:

  recording   is it answered already?
  retries     here, and nowhere below: the library's own are off
  outage      is the endpoint down for everybody? then wait for it
  limits      at once, and a minute
  budget      is the most that it can cost still there?
  deadline    here, and nowhere below: of one request
"""

import asyncio
from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import json
import random
import time
from typing import Any
import urllib.parse

import openai

from userrl_jax import config
from userrl_jax import types
from userrl_jax import underway
from userrl_jax.clients import address
from userrl_jax.clients import budget as budget_lib
from userrl_jax.clients import outage as outage_lib
from userrl_jax.clients import outcomes
from userrl_jax.clients import pool
from userrl_jax.clients import recording as recording_lib
from userrl_jax.clients import shared as shared_lib

OPENAI_URL = address.OPENAI_URL

_FIRST_WAIT_S = 0.25  # before the first retry; doubles with each
_MAX_WAIT_S = 20.0  # who asks for more has no answer in time for an episode
_ANYWHERE = "-"  # the draw of a request that no episode makes

Messages = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any]  # a JSON schema
Tools = Sequence[Mapping[str, Any]]  # as in OpenAI's `tools`


@dataclasses.dataclass(frozen=True)
class Counts:
  """What an endpoint has done so far."""

  num_requests: int = 0  # sent, retries included
  num_retries: int = 0
  num_tokens_in: int = 0  # as the endpoint tells; 0 where it tells nothing
  num_tokens_out: int = 0
  # {fault: calls of `complete` that ended in it}
  failures: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Endpoint:
  """A model behind a URL.

  `async with` opens its part of the process's connections on the running event
  loop and closes it; it may be opened again later, on another loop.
  """

  def __init__(
    self,
    settings: config.User,
    role: str = "user",
    shared: shared_lib.Shared | None = None,
  ):
    """Checks the settings and reads the key; connects to nothing.

    Args:
      settings: of the endpoint.
      role: user, judge or agent: the section of the config that it is of.
      shared: with the other endpoints of the run; None is for itself.

    Raises:
      types.SetupError: when there is no model, no usable URL, or no key where
        one is needed.
    """
    if not settings.model:
      raise types.SetupError(
        f"{role}.model must name the model of an endpoint, got ''"
      )
    self._settings = settings
    self._role = role
    self._shared = shared or shared_lib.Shared(settings)
    self._base_url = settings.base_url or OPENAI_URL
    url = address.checked_url(self._base_url, role)
    where = f"{url.scheme}://{url.netloc}{url.path} with model "
    where += repr(settings.model)
    host = url.hostname or ""
    self._key = "none"
    if self._shared.recording.mode != "replay":  # which asks nobody
      self._key = address.key(settings.api_key_env, host, where, role)
    self._reader = outcomes.Reader(
      where, role, self._key, settings.api_key_env, settings.max_tokens
    )
    # OpenAI's newer models refuse max_tokens; other servers know no other name.
    is_openai = host == urllib.parse.urlsplit(OPENAI_URL).hostname
    self._limit = "max_completion_tokens" if is_openai else "max_tokens"
    self._prices = budget_lib.Prices(
      settings.usd_per_million_in, settings.usd_per_million_out
    )
    self._outage = outage_lib.Outage(
      settings.max_outage_s, f"the endpoint {where}"
    )
    self._random = random.Random()
    self._client: openai.AsyncOpenAI | None = None
    self._opened = contextlib.AsyncExitStack()
    self._has_answered = False
    self._takes_schema: bool | None = None  # None: not known yet
    self._totals = dict.fromkeys(
      ("num_requests", "num_retries", "num_tokens_in", "num_tokens_out"), 0
    )
    self._failures: dict[str, int] = {}

  @property
  def counts(self) -> Counts:
    """Returns the counters as they are now."""
    return Counts(**self._totals, failures=dict(self._failures))

  @property
  def outages(self) -> tuple[int, float]:
    """Returns how often the endpoint was down, and for how long (seconds)."""
    return self._outage.num_outages, self._outage.total_s

  async def __aenter__(self) -> "Endpoint":
    if self._client is not None:
      raise RuntimeError("the endpoint is open already: open it once")
    self._opened.enter_context(self._shared.opened())
    self._outage.reopen()
    self._client = openai.AsyncOpenAI(
      api_key=self._key,
      base_url=self._base_url,
      timeout=None,  # theirs starts anew with every chunk; ours: see _send
      max_retries=0,  # ours are counted and bounded
      http_client=await self._opened.enter_async_context(pool.connections()),
    )
    _ = self._client.chat.completions  # imports much: not in a deadline
    return self

  async def __aexit__(self, *error: object) -> None:
    self._client = None
    await self._opened.aclose()

  async def complete(
    self,
    messages: Messages,
    schema: Schema | None = None,
    tools: Tools | None = None,
  ) -> str:
    """Returns the model's reply to a dialogue.

    Args:
      messages: each with a role and a content, and what `tools` bring with it.
      schema: the JSON schema that the reply shall follow, where the endpoint
        can hold the model to one; None asks for text.
      tools: that the model may call; the reply is then that of an agent, see
        `outcomes.Reader.turn`. None asks for text. Not with a schema.

    Raises:
      types.SetupError: when the endpoint refuses the key, the model or the
        settings, is down for too long, or when a replay has no such request.
      types.BudgetSpent: when the budget may not cover it.
      types.FaultError: after retries of what may mend itself: USER_TIMEOUT,
        USER_BUSY (HTTP 429), USER_ERROR (no connection, another HTTP error, no
        chat completion), USER_REFUSAL, or USER_UNPARSABLE (a reply that is
        empty or cut off).
      RuntimeError: when the endpoint is not open.
    """
    client = self._client
    if client is None:
      raise RuntimeError("open the endpoint with `async with` before asking it")
    episode = underway.current()
    sampling: dict[str, Any] = {
      "temperature": self._settings.temperature,
      "max_tokens": self._settings.max_tokens,
      "schema": schema,
    }
    if tools is not None:  # requests without are known as they always were
      sampling["tools"] = tools
    request = recording_lib.Request(
      role=self._role,
      model=self._settings.model,
      draw=_ANYWHERE if episode is None else episode.draw(),
      sampling=sampling,
      messages=messages,
    )
    try:
      return await self._shared.recording.answer(
        request, lambda: self._until_answered(client, messages, schema, tools)
      )
    except types.FaultError as error:
      fault = str(error.fault)
      self._failures[fault] = self._failures.get(fault, 0) + 1
      raise

  async def ping(self) -> None:
    """Asks for one word, recorded nowhere; raises as `complete` does."""
    client = self._client
    if client is None:
      raise RuntimeError("open the endpoint with `async with` before asking it")
    await self._until_answered(
      client, [{"role": "user", "content": "Say: ready"}], None, None
    )

  async def _until_answered(
    self,
    client: openai.AsyncOpenAI,
    messages: Messages,
    schema: Schema | None,
    tools: Tools | None,
  ) -> str:
    """Asks until there is an answer, or a failure that stays one."""
    outage = self._outage
    num_failed, num_answers = 0, outage.num_answers
    while True:
      async with outage.passage():
        outcome = await self._ask(client, messages, schema, tools)
        if isinstance(outcome, str):
          outage.answered()
          return outcome
        if not outcome.may_retry:
          outage.answered()
          raise types.FaultError(outcome.fault, outcome.detail)
        num_failed += 1
        is_last = (
          num_failed > self._settings.num_retries
          or outcome.wait_s > _MAX_WAIT_S
        )
        is_down = outage.failed(
          has_given_up=is_last and num_answers == outage.num_answers,
          wait_s=outcome.wait_s,
        )
      if is_down:  # no retry of this request is used up by that
        num_failed, num_answers = 0, outage.num_answers
      elif outcome.wait_s > _MAX_WAIT_S:
        raise types.FaultError(
          outcome.fault,
          f"{outcome.detail}, to be asked again in {outcome.wait_s:g} s; we "
          f"wait at most {_MAX_WAIT_S:g} s",
          is_final=True,
        )
      elif is_last:
        raise types.FaultError(outcome.fault, outcome.detail, is_final=True)
      else:
        await asyncio.sleep(self._wait_s(num_failed, outcome.wait_s))
      self._totals["num_retries"] += 1

  async def _ask(
    self,
    client: openai.AsyncOpenAI,
    messages: Messages,
    schema: Schema | None,
    tools: Tools | None,
  ) -> str | outcomes.Failure:
    """Sends a request, again without its schema where that is not taken."""
    if self._takes_schema is False:
      schema = None
    outcome = await self._send(client, messages, schema, tools)
    if schema is None or not isinstance(outcome, outcomes.Failure):
      self._takes_schema = True if schema is not None else self._takes_schema
    elif outcome.is_format:
      outcome = await self._send(client, messages, None, tools)
      if isinstance(outcome, str):
        self._takes_schema = False
    return outcome

  async def _send(
    self,
    client: openai.AsyncOpenAI,
    messages: Messages,
    schema: Schema | None,
    tools: Tools | None,
  ) -> str | outcomes.Failure:
    """Sends one request, within all limits, and books what it cost."""
    most_in = _most_tokens(messages, schema, tools)
    most_out = self._settings.max_tokens
    most = self._cost(most_in, most_out)
    shared = self._shared
    async with shared.limits.place(most.tokens) as passed:
      await shared.budget.reserve(most)
      self._totals["num_requests"] += 1
      start = time.monotonic()
      cost = most  # unless something else is known of it
      try:
        outcome, told = await self._exchange(client, messages, schema, tools)
        if told is not None:
          self._totals["num_tokens_in"] += told[0]
          self._totals["num_tokens_out"] += told[1]
          cost = self._cost(*told)
        elif isinstance(outcome, types.SetupError) or (
          isinstance(outcome, outcomes.Failure) and not outcome.may_cost
        ):
          cost = self._cost(0, 0)
      finally:
        cost = dataclasses.replace(cost, seconds=time.monotonic() - start)
        shared.budget.settle(self._role, most, cost)
        shared.limits.correct(passed, cost.tokens)
    if isinstance(outcome, types.SetupError):
      raise outcome  # outside of the handler, whose exception holds the key
    wait_s = 0.0 if isinstance(outcome, str) else outcome.wait_s
    if 0 < wait_s <= _MAX_WAIT_S:
      shared.limits.hold(wait_s)
    return outcome

  async def _exchange(
    self,
    client: openai.AsyncOpenAI,
    messages: Messages,
    schema: Schema | None,
    tools: Tools | None,
  ) -> tuple[str | outcomes.Failure | types.SetupError, tuple[int, int] | None]:
    """Sends one request.

    Returns:
      Its text, or why there is none; and the tokens that it took, in and out,
      None when nobody told.
    """
    settings, reader = self._settings, self._reader
    options: dict[str, Any] = {self._limit: settings.max_tokens}
    if schema is not None:
      options["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
      }
    if tools:
      options["tools"] = tools
    chat: Any = messages  # the library's own types name every role apart
    try:
      async with asyncio.timeout(settings.timeout_s):
        reply = await client.chat.completions.create(
          model=settings.model,
          messages=chat,
          temperature=settings.temperature,
          **options,
        )
    except TimeoutError:
      detail = f"no answer in {settings.timeout_s:g} s"
      fault = types.Fault.USER_TIMEOUT
      return outcomes.Failure(fault, detail, True, may_cost=True), None
    except openai.APIStatusError as error:
      has_schema = schema is not None and not self._takes_schema
      return reader.of_status(error, self._has_answered, has_schema), None
    except openai.OpenAIError as error:
      return reader.no_connection(error), None
    except ValueError:  # the body calls itself JSON and is not
      return reader.no_completion(), None
    outcome = reader.text(reply) if tools is None else reader.turn(reply)
    if isinstance(outcome, str) or not outcome.may_retry:
      self._has_answered = True
      if isinstance(outcome, outcomes.Failure):
        outcome = dataclasses.replace(outcome, may_cost=True)
    return outcome, outcomes.usage(reply)

  def _cost(self, tokens_in: int, tokens_out: int) -> budget_lib.Amount:
    usd = self._prices.usd(tokens_in, tokens_out)
    return budget_lib.Amount(1, tokens_in + tokens_out, usd)

  def _wait_s(self, num_failed: int, asked_s: float) -> float:
    """Returns how long to wait before the next try, drawn at random.

    At least what the endpoint asked for; the rest spreads out clients that
    failed together.
    """
    backoff_s = min(_FIRST_WAIT_S * 2 ** (num_failed - 1), _MAX_WAIT_S)
    return max(asked_s, backoff_s / 2) + self._random.uniform(0, backoff_s / 2)


def _most_tokens(
  messages: Messages, schema: Schema | None, tools: Tools | None
) -> int:
  """Returns the most tokens that a request can be read as.

  A token of text is one byte at least; a chat template adds some to each
  message and to the whole.
  """
  texts = [f"{m['role']}{m['content']}" for m in messages]
  texts += [json.dumps(m["tool_calls"]) for m in messages if "tool_calls" in m]
  texts += [json.dumps(form) for form in (schema, tools) if form is not None]
  num_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
  return num_bytes + 16 * len(texts) + 64
