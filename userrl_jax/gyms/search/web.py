"""Finds pages on the web, through Serper's search API.

In: queries. Out: hits, as those of an index, or a `types.FaultError` (law L2).
What asking again cannot mend, such as a missing or wrong key, is a
`types.SetupError`; a missing one is told before anything runs. Neither shows
the key. All games on an event loop share a pool of connections. Where a model
answers in the game, searches are recorded, limited and booked as its calls are.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
import contextlib
import dataclasses
import json
import os
import re
import time
from typing import Any, Protocol
import urllib.parse
import weakref

import httpx2

from userrl_jax import config_gyms
from userrl_jax import types
from userrl_jax.gyms.search import index

_MAX_BODY_BYTES = 2**20
_MAX_CONNECTIONS = 32
_FIRST_WAIT_S = 0.25  # before the second try; doubles with each
_RETRIED = (408, 429)  # and everything from 500
_ABOUT_SETUP = (401, 403, 404)
_LOCAL = ("localhost", "127.0.0.1", "::1")
# No small letters: many a key (hf_aB1, gsk_x) would pass for a name with them.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")

_Pool = tuple[httpx2.AsyncClient, AsyncGenerator[None, None]]
_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = (
  weakref.WeakKeyDictionary()
)


class Passage(Protocol):
  """What searches of a run pass through; see `clients.lookup`."""

  @property
  def is_offline(self) -> bool:
    """Returns whether nobody is asked, so that no key is needed."""

  async def answer(
    self, where: str, query: str, k: int, ask: Callable[[], Awaitable[str]]
  ) -> str:
    """Returns the answer to a search, recorded or asked for."""

  def call(self) -> contextlib.AbstractAsyncContextManager[None]:
    """Waits until a call may be made, and books it."""


class Web:
  """The web as a retriever; cheap to make."""

  def __init__(
    self, settings: config_gyms.Search, passage: Passage | None = None
  ):
    """Checks the settings and reads the key; connects to nothing.

    Args:
      settings: of the gym.
      passage: that searches pass through; None: they go straight out.

    Raises:
      types.SetupError: when there is no usable URL, or no key.
    """
    self._settings = settings
    self._passage = passage
    _check_url(settings.web_url)
    is_offline = passage is not None and passage.is_offline
    self._key = "" if is_offline else _key(settings.api_key_env)

  async def search(self, query: str, k: int) -> Sequence[index.Hit]:
    """Returns the k best hits at most, an answer box first.

    Tries again what may mend itself until `timeout_s` are over.

    Raises:
      types.SetupError: when the server refuses the key or the address.
      types.FaultError: GYM_ERROR, with what went wrong last.
    """
    if self._passage is None:
      return await self._until_found(query, k)

    async def ask() -> str:
      found = await self._until_found(query, k)
      return json.dumps([dataclasses.astuple(hit) for hit in found])

    text = await self._passage.answer(self._settings.web_url, query, k, ask)
    return tuple(index.Hit(*hit) for hit in json.loads(text))

  async def _until_found(self, query: str, k: int) -> Sequence[index.Hit]:
    """Asks until there is an answer, or a failure that stays one."""
    deadline = time.monotonic() + self._settings.timeout_s
    wait_s = _FIRST_WAIT_S
    while True:
      began = time.monotonic()
      async with (
        self._passage.call() if self._passage else contextlib.nullcontext()
      ):
        deadline += time.monotonic() - began  # our own limits take no time
        found = await self._ask(query, k, deadline)
      if not isinstance(found, _Failure):
        return found
      wait_s = max(wait_s, found.wait_s)
      if not found.may_retry or time.monotonic() + wait_s >= deadline:
        raise types.FaultError(types.Fault.GYM_ERROR, f"web: {found.detail}")
      await asyncio.sleep(wait_s)
      wait_s *= 2

  async def _ask(
    self, query: str, k: int, deadline: float
  ) -> "Sequence[index.Hit] | _Failure":
    """Sends one request; a fault of the set-up is raised."""
    client = await _client()
    # Half a surrogate pair, which JSON may spell, fits in no request.
    text = query.encode("utf-8", "replace").decode("utf-8")
    status, body, retry_after = 0, b"", ""
    try:
      async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
        async with client.stream(
          "POST",
          self._settings.web_url,
          headers={"X-API-KEY": self._key},
          json={"q": text, "num": k},
        ) as response:
          status = response.status_code
          retry_after = response.headers.get("retry-after", "")
          async for part in response.aiter_bytes():
            body += part
            if len(body) > _MAX_BODY_BYTES:
              return _Failure("a reply of more than a megabyte")
    except TimeoutError:
      return _Failure(f"no answer in {self._settings.timeout_s:g} s")
    except httpx2.HTTPError as error:
      return _Failure(f"no connection ({type(error).__name__})", True)
    if status in _ABOUT_SETUP:
      raise types.SetupError(
        f"the search at gyms.search.web_url must take our requests, got HTTP "
        f"{status}; check that address and the key in "
        f"{self._settings.api_key_env}"
      )
    if status != 200:
      may_retry = status in _RETRIED or status >= 500
      return _Failure(f"HTTP {status}", may_retry, _seconds(retry_after))
    try:
      return _hits(json.loads(body))[:k]
    except (ValueError, RecursionError):
      return _Failure("a reply that is no list of results", True)


class _Failure:
  """Why one request gave no hits."""

  def __init__(self, detail: str, may_retry: bool = False, wait_s: float = 0.0):
    self.detail = detail
    self.may_retry = may_retry
    self.wait_s = wait_s


def _hits(reply: Any) -> tuple[index.Hit, ...]:
  """Returns the results of a reply, those without any text left out.

  Raises:
    ValueError: when the reply is none.
  """
  if not isinstance(reply, dict):
    raise ValueError("a reply must be an object")
  organic = reply.get("organic", [])
  if not isinstance(organic, list):
    raise ValueError("results must be a list")
  found = []
  box = reply.get("answerBox")
  if isinstance(box, dict):
    found.append((box.get("title"), box.get("answer") or box.get("snippet")))
  for item in organic:
    if not isinstance(item, dict):
      raise ValueError("a result must be an object")
    found.append((item.get("title"), item.get("snippet")))
  return tuple(
    index.Hit(title if isinstance(title, str) else "Answer", snippet)
    for title, snippet in found
    if isinstance(snippet, str) and snippet.strip()
  )


async def _client() -> httpx2.AsyncClient:
  """Returns the client of the running event loop."""
  loop = asyncio.get_running_loop()
  if loop not in _pools:
    client = httpx2.AsyncClient(
      timeout=None,  # theirs starts anew with every chunk; ours: see _ask
      limits=httpx2.Limits(max_connections=_MAX_CONNECTIONS),
    )
    closing = _closing(client)
    await anext(closing)
    _pools[loop] = client, closing
  return _pools[loop][0]


async def _closing(client: httpx2.AsyncClient) -> AsyncGenerator[None, None]:
  """Closes a client when its loop ends, which ends the loop's generators."""
  try:
    yield
  finally:
    await client.aclose()


def _check_url(web_url: str) -> None:
  try:
    url = urllib.parse.urlsplit(web_url)
    safe = url.scheme == "https" or url.hostname in _LOCAL
    is_usable = safe and url.scheme in ("http", "https") and bool(url.hostname)
    _ = url.port  # raises when it is no number
  except ValueError:
    is_usable = False
  if not is_usable or "@" in web_url or "?" in web_url:
    # Not shown: it may hold a key.
    raise types.SetupError(
      "gyms.search.web_url must look like https://google.serper.dev/search, "
      "without a name, a password or a query, got something else; put the key "
      "into the variable that gyms.search.api_key_env names"
    )


def _key(api_key_env: str) -> str:
  if not _VARIABLE.fullmatch(api_key_env):
    raise types.SetupError(  # not shown: it may be the key itself
      "gyms.search.api_key_env must name a variable (A-Z, digits and _), "
      "got something else; put the key into a variable and name that one"
    )
  key = os.environ.get(api_key_env, "").strip()
  if not key:
    raise types.SetupError(
      f"set the environment variable {api_key_env} to a key for the web search "
      "of gyms.search, name another variable in gyms.search.api_key_env, or "
      "set gyms.search.source=corpus"
    )
  if not (key.isascii() and key.isprintable() and " " not in key):
    raise types.SetupError(
      f"the key in {api_key_env} must be printable ASCII without blanks"
    )
  return key


def _seconds(retry_after: str) -> float:
  """Returns the seconds of a Retry-After header, 0 when it tells none."""
  digits = retry_after.strip()
  return (
    float(digits) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", digits) else 0.0
  )
