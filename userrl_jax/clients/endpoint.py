"""A pooled client of one OpenAI-style endpoint, whose failures have names.

In: chat messages. Out: the text of the reply, or a `types.FaultError` (law L2)
whose detail shows neither the key nor a word of what was asked or answered.
What asking again cannot mend, such as a wrong key, is a `types.SetupError`.
"""

import asyncio
from collections.abc import Mapping, Sequence
import dataclasses
import email.utils
import ipaddress
import math
import os
import random
import re
import time
from typing import Any
import urllib.parse

import openai

from userrl_jax import config
from userrl_jax import types

OPENAI_URL = "https://api.openai.com/v1"

_FIRST_WAIT_S = 0.25  # before the first retry; doubles with each
_MAX_WAIT_S = 20.0  # who asks for more has no answer in time for an episode
_RETRIED = (408, 409, 429)  # and everything from 500
_ABOUT_CONTENT = (400, 413, 422)  # one prompt may be at fault, not the set-up
_REFUSAL_CODES = (
  "content_filter",
  "content_policy_violation",
  "invalid_prompt",
)
_HINTS = {
  401: "check the key in {api_key_env}",
  403: "check the key in {api_key_env} and what it may use",
  404: "check user.base_url, which most often ends in /v1, and user.model",
}
_ANY_HINT = "check user.model, user.max_tokens and user.temperature"
_CODE = re.compile(r"[A-Za-z_][\w.\-]{0,39}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Counts:
  """What an endpoint has done so far."""

  num_requests: int = 0  # sent, retries included
  num_retries: int = 0
  num_tokens_in: int = 0  # as the endpoint tells; 0 where it tells nothing
  num_tokens_out: int = 0
  # {fault: calls of `complete` that ended in it}
  failures: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Failure:
  """Why one request gave no text."""

  fault: types.Fault
  detail: str
  may_retry: bool = False
  wait_s: float = 0.0  # that the endpoint asks for


class Endpoint:
  """A model behind a URL.

  `async with` opens its pool of connections on the running event loop and
  closes it; it may be opened again later, on another loop.
  """

  def __init__(self, settings: config.User):
    """Checks the settings and reads the key; connects to nothing.

    Raises:
      types.SetupError: when there is no model, no usable URL, or no key where
        one is needed.
    """
    if not settings.model:
      raise types.SetupError(
        "user.model must name the model when user.kind is endpoint, got ''"
      )
    self._settings = settings
    self._base_url = settings.base_url or OPENAI_URL
    url = _checked_url(self._base_url)
    self._where = (
      f"{url.scheme}://{url.netloc}{url.path} with model {settings.model!r}"
    )
    host = url.hostname or ""
    self._key = _key(settings.api_key_env, host, self._where)
    # OpenAI's newer models refuse max_tokens; other servers know no other name.
    is_openai = host == urllib.parse.urlsplit(OPENAI_URL).hostname
    self._limit = "max_completion_tokens" if is_openai else "max_tokens"
    self._random = random.Random()
    self._client: openai.AsyncOpenAI | None = None
    self._slots = asyncio.Semaphore(settings.max_concurrent)
    self._has_answered = False
    self._totals = dict.fromkeys(
      ("num_requests", "num_retries", "num_tokens_in", "num_tokens_out"), 0
    )
    self._failures: dict[str, int] = {}

  @property
  def counts(self) -> Counts:
    """Returns the counters as they are now."""
    return Counts(**self._totals, failures=dict(self._failures))

  async def __aenter__(self) -> "Endpoint":
    if self._client is not None:
      raise RuntimeError("the endpoint is open already: open it once")
    self._client = openai.AsyncOpenAI(
      api_key=self._key,
      base_url=self._base_url,
      timeout=None,  # theirs starts anew with every chunk; ours: see _ask
      max_retries=0,  # ours are counted and bounded
    )
    # A semaphore belongs to the event loop on which it first waited.
    self._slots = asyncio.Semaphore(self._settings.max_concurrent)
    _ = self._client.chat.completions  # imports much: not in a deadline
    return self

  async def __aexit__(self, *error: object) -> None:
    client, self._client = self._client, None
    if client is not None:
      await client.close()

  async def complete(self, messages: Sequence[Mapping[str, str]]) -> str:
    """Returns the model's reply to a dialogue.

    Args:
      messages: each with a role and a content.

    Raises:
      types.SetupError: when the endpoint refuses the key, the model or the
        settings.
      types.FaultError: after retries of what may mend itself: USER_TIMEOUT,
        USER_ERROR (no connection, an HTTP error, no chat completion),
        USER_REFUSAL, or USER_UNPARSABLE (a reply that is empty or cut off).
      RuntimeError: when the endpoint is not open.
    """
    client = self._client
    if client is None:
      raise RuntimeError("open the endpoint with `async with` before asking it")
    num_failed = 0
    while True:
      async with self._slots:
        outcome = await self._ask(client, messages)
      if isinstance(outcome, str):
        return outcome
      num_failed += 1
      if not outcome.may_retry or num_failed > self._settings.num_retries:
        fault = str(outcome.fault)
        self._failures[fault] = self._failures.get(fault, 0) + 1
        raise types.FaultError(outcome.fault, outcome.detail)
      await asyncio.sleep(self._wait_s(num_failed, outcome.wait_s))
      self._totals["num_retries"] += 1

  async def _ask(
    self, client: openai.AsyncOpenAI, messages: Sequence[Mapping[str, str]]
  ) -> str | _Failure:
    """Sends one request and returns its text, or why there is none."""
    settings = self._settings
    limit: dict[str, Any] = {self._limit: settings.max_tokens}
    chat: Any = messages  # the library's own types name every role apart
    self._totals["num_requests"] += 1
    try:
      async with asyncio.timeout(settings.timeout_s):
        reply = await client.chat.completions.create(
          model=settings.model,
          messages=chat,
          temperature=settings.temperature,
          **limit,
        )
    except TimeoutError:
      return _Failure(
        types.Fault.USER_TIMEOUT, f"no answer in {settings.timeout_s:g} s", True
      )
    except openai.APIStatusError as error:
      failure = self._status_failure(error)
    except openai.OpenAIError as error:
      kind = type(error.__cause__ or error).__name__
      return _Failure(
        types.Fault.USER_ERROR, f"no connection ({kind}) to {self._where}", True
      )
    except ValueError:  # the body calls itself JSON and is not
      return self._no_completion()
    else:
      return self._text(reply)
    if isinstance(failure, types.SetupError):
      raise failure  # outside of the handler, whose exception holds the key
    return failure

  def _status_failure(
    self, error: openai.APIStatusError
  ) -> _Failure | types.SetupError:
    """Returns what an HTTP error means for a request, or for the set-up."""
    status = error.status_code
    said: list[Any] = [error.code, error.type, error.param]
    codes: list[str] = [code for code in said if self._tells(code)]
    detail = f"HTTP {status}" + (f" ({', '.join(codes)})" if codes else "")
    if not set(_REFUSAL_CODES).isdisjoint(codes):
      return _Failure(types.Fault.USER_REFUSAL, f"refused: {detail}")
    if status in _RETRIED or status >= 500:
      wait_s = _retry_after_s(error.response.headers)
      if wait_s > _MAX_WAIT_S:
        return _Failure(
          types.Fault.USER_ERROR,
          f"{detail}, to be asked again in {wait_s:g} s; we wait at most "
          f"{_MAX_WAIT_S:g} s",
        )
      return _Failure(types.Fault.USER_ERROR, detail, True, wait_s)
    if status in _ABOUT_CONTENT and self._has_answered:
      return _Failure(types.Fault.USER_ERROR, detail)
    hint = _HINTS.get(status, _ANY_HINT)
    hint = hint.format(api_key_env=self._settings.api_key_env or "user.api_key")
    return types.SetupError(
      f"the endpoint {self._where} must take our requests, got {detail}; {hint}"
    )

  def _tells(self, code: Any) -> bool:
    """Whether a field of an error is a mere code, free of key and prompt."""
    return (
      isinstance(code, str)
      and _CODE.fullmatch(code) is not None
      and self._key not in code
    )

  def _text(self, reply: Any) -> str | _Failure:
    """Returns the text of a reply, which the library does not check."""
    self._count_tokens(getattr(reply, "usage", None))
    choices: Any = getattr(reply, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
      return self._no_completion()
    self._has_answered = True
    reason = getattr(choices[0], "finish_reason", None)
    content = getattr(message, "content", None)
    if reason == "content_filter" or getattr(message, "refusal", None):
      return _Failure(types.Fault.USER_REFUSAL, "the model refused to reply")
    if reason == "length":
      return _Failure(
        types.Fault.USER_UNPARSABLE,
        f"the reply was cut off at {self._settings.max_tokens} tokens",
      )
    if not isinstance(content, str) or not content.strip():
      return _Failure(types.Fault.USER_UNPARSABLE, "the reply was empty")
    return content

  def _no_completion(self) -> _Failure:
    return _Failure(
      types.Fault.USER_ERROR, f"no chat completion from {self._where}", True
    )

  def _count_tokens(self, usage: Any) -> None:
    for total, field in (
      ("num_tokens_in", "prompt_tokens"),
      ("num_tokens_out", "completion_tokens"),
    ):
      told = getattr(usage, field, None)
      self._totals[total] += told if isinstance(told, int) else 0

  def _wait_s(self, num_failed: int, asked_s: float) -> float:
    """Returns how long to wait before the next try, drawn at random.

    At least what the endpoint asked for; the rest spreads out clients that
    failed together.
    """
    backoff_s = min(_FIRST_WAIT_S * 2 ** (num_failed - 1), _MAX_WAIT_S)
    return max(asked_s, backoff_s / 2) + self._random.uniform(0, backoff_s / 2)


def _checked_url(base_url: str) -> urllib.parse.SplitResult:
  try:
    url = urllib.parse.urlsplit(base_url)
    is_usable = url.scheme in ("http", "https") and bool(url.hostname)
    _ = url.port  # raises when it is no number
  except ValueError:
    is_usable = False
  # Neither is shown: either may hold a key.
  if "@" in base_url:
    raise types.SetupError(
      "user.base_url must hold no name and password; put the key into the "
      "variable that user.api_key_env names"
    )
  if "?" in base_url or "#" in base_url:
    raise types.SetupError(
      "user.base_url must end with its path, without ? or # and what follows; "
      "put a key into the variable that user.api_key_env names"
    )
  if not is_usable:
    raise types.SetupError(
      "user.base_url must look like http://localhost:8000/v1, or be empty for "
      f"OpenAI's, got {base_url!r}"
    )
  return url


def _key(api_key_env: str, host: str, where: str) -> str:
  """Returns the key; a placeholder for a local endpoint that needs none."""
  if api_key_env and not _VARIABLE.fullmatch(api_key_env):
    raise types.SetupError(  # not shown: it may be the key itself
      "user.api_key_env must name a variable (letters, digits and _), got "
      "something else; put the key into a variable and name that one"
    )
  key = os.environ.get(api_key_env, "").strip() if api_key_env else ""
  if key:
    # An HTTP library would quote such a key in its complaint.
    if not (key.isascii() and key.isprintable() and " " not in key):
      raise types.SetupError(
        f"the key in {api_key_env} must be printable ASCII without blanks"
      )
    return key
  if _is_local(host):
    return "none"
  if not api_key_env:
    raise types.SetupError(
      "user.api_key_env must name the variable that holds the key for "
      f"{where}, got ''"
    )
  raise types.SetupError(
    f"set the environment variable {api_key_env} to the key for {where}, or "
    "name another variable in user.api_key_env"
  )


def _is_local(host: str) -> bool:
  """Whether a host is this one, or one that only a private network knows."""
  try:
    address = ipaddress.ip_address(host)
  except ValueError:
    return "." not in host or host.endswith((".localhost", ".local"))
  return address.is_private or address.is_loopback or address.is_link_local


def _retry_after_s(headers: Mapping[str, str]) -> float:
  """Returns the seconds of a Retry-After header, 0 when there is none."""
  value = headers.get("retry-after", "")
  try:
    seconds = float(value)
  except ValueError:
    date = email.utils.parsedate_tz(value)
    seconds = email.utils.mktime_tz(date) - time.time() if date else 0.0
  return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
