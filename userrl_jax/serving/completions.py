"""Answers a chat request: prompt ids, sampled turns, the body of a response.

In: a `requests.Request` and a `host.Host`. Out: OpenAI's `chat.completion`, or
its chunks one by one. The ids of the dialogue are those that an agent's ledger
would hold; calls are read from ids, where text cannot pass for a marker.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
import contextlib
import dataclasses
import secrets
import time
from typing import Any

from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.chat import turns
from userrl_jax.inference import engine as engine_lib
from userrl_jax.inference import sampling as sampling_lib
from userrl_jax.serving import host as host_lib
from userrl_jax.serving import requests


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What is read before the turn, and how many ids it may have."""

  ids: list[int]
  budget: int


@dataclasses.dataclass(frozen=True)
class Choice:
  """One turn, or what there is of it."""

  message: dict[str, Any]
  num_tokens: int
  reason: str = ""  # why it ended; empty while it goes on
  logprobs: dict[str, Any] | None = None


def prompt(host: host_lib.Host, request: requests.Request) -> Prompt:
  """Writes the dialogue as ids; may take a while for a long one.

  Raises:
    requests.Refused: when the context cannot hold it with its answer.
  """
  chat = host.chat
  if request.thinking not in (None, chat.thinking):
    chat = chat_lib.Chat(chat.tokenizer, chat.profile, bool(request.thinking))
  ids = chat.dialogue_ids(request.messages, request.tools)
  room = host.max_length - len(ids)
  if room < max(request.max_tokens or 1, 1):
    asked = f" and {request.max_tokens} to sample" if request.max_tokens else ""
    raise requests.Refused(
      f"the context holds {host.max_length} tokens, got {len(ids)} in the "
      f"messages{asked}; shorten them or lower max_tokens",
      "messages",
      code="context_length_exceeded",
    )
  return Prompt(ids, request.max_tokens or room)


async def complete(
  host: host_lib.Host, name: str, request: requests.Request, prompt: Prompt
) -> dict[str, Any]:
  """Returns the body of a response, all its choices sampled together.

  Raises:
    types.FaultError: ENGINE_ERROR when a device call failed.
  """
  head = _head(name, "chat.completion")
  listen = lambda i: _last(_choices(host, request, prompt, head["id"], i))
  async with asyncio.TaskGroup() as group:
    tasks = [group.create_task(listen(i)) for i in range(request.n)]
  done = [task.result() for task in tasks]
  return head | {
    "choices": [
      {
        "index": i,
        "message": choice.message | {"refusal": None},
        "logprobs": choice.logprobs,
        "finish_reason": choice.reason,
      }
      for i, choice in enumerate(done)
    ],
    "usage": _usage(prompt, sum(choice.num_tokens for choice in done)),
  }


async def chunks(
  host: host_lib.Host, name: str, request: requests.Request, prompt: Prompt
) -> AsyncIterator[dict[str, Any]]:
  """Yields the chunks of a streamed response.

  Text comes as it is sampled, calls when they are whole. What may yet turn out
  to be a line break of the format or a text to stop at is held back.

  Raises:
    types.FaultError: ENGINE_ERROR when a device call failed.
  """
  head = _head(name, "chat.completion.chunk")
  news: asyncio.Queue[tuple[int, Choice | None]] = asyncio.Queue()

  async def listen(i: int) -> None:
    async for choice in _choices(host, request, prompt, head["id"], i):
      news.put_nowait((i, choice))
    news.put_nowait((i, None))

  def chunk(i: int, delta: dict[str, Any], reason: str | None = None):
    choice = {"index": i, "delta": delta, "logprobs": None}
    return head | {"choices": [choice | {"finish_reason": reason}]}

  senders = [_Deltas(request.stop) for _ in range(request.n)]
  num_tokens = 0
  listeners = [asyncio.create_task(listen(i)) for i in range(request.n)]
  try:
    for i in range(request.n):
      yield chunk(i, {"role": "assistant", "content": ""})
    num_open = request.n
    while num_open:
      i, choice = await _next(news, listeners)
      if choice is None:
        num_open -= 1
        continue
      for delta in senders[i].of(choice):
        yield chunk(i, delta)
      if choice.reason:
        num_tokens += choice.num_tokens
        yield chunk(i, {}, choice.reason)
    if request.include_usage:
      yield head | {"choices": [], "usage": _usage(prompt, num_tokens)}
  finally:
    for listener in listeners:
      listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)


class _Deltas:
  """Says what of a message is new, without what may not stay."""

  def __init__(self, stops: Sequence[str]):
    self._stops = stops
    self._sent = {"reasoning_content": "", "content": ""}

  def of(self, choice: Choice) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    for field, sent in self._sent.items():
      text = choice.message.get(field) or ""
      text = text if choice.reason else self._safe(text)
      if not text.startswith(sent):  # what was said turned out to be a thought
        sent = ""
      if len(text) > len(sent):
        deltas.append({field: text[len(sent) :]})
        self._sent[field] = text
    calls = choice.message.get("tool_calls", ()) if choice.reason else ()
    if calls:
      indexed = [{"index": i} | call for i, call in enumerate(calls)]
      deltas.append({"tool_calls": indexed})
    return deltas

  def _safe(self, text: str) -> str:
    # Half a character decodes to this mark.
    text = text.rstrip("\ufffd").rstrip("\n")
    begun = [
      k
      for stop in self._stops
      for k in range(1, len(stop))
      if text.endswith(stop[:k])
    ]
    return text[: len(text) - max(begun, default=0)]


async def _choices(
  host: host_lib.Host,
  request: requests.Request,
  prompt: Prompt,
  response: str,
  index: int,
) -> AsyncIterator[Choice]:
  """Yields a choice, more of it each time; the last one has a reason."""
  sampling = sampling_lib.Sampling(
    request.temperature, request.top_k, request.top_p, request.min_p
  )
  seed = secrets.randbits(63) if request.seed is None else request.seed
  key = host_lib.key_data(f"{seed}|{index}")
  tokenizer = host.chat.tokenizer
  has_tools = bool(request.tools)
  num_searched = 0
  sampled_turn = host.sampled(prompt.ids, prompt.budget, sampling, key)
  async with contextlib.aclosing(sampled_turn):
    async for sampled in sampled_turn:
      ids = sampled.token_ids
      end = _end(ids, tokenizer, request.stop, num_searched)
      num_searched = len(ids)
      ids = ids[:end]
      is_whole = end is not None or sampled.stopped or len(ids) >= prompt.budget
      if not is_whole and not request.stream:
        continue
      calls = f"{response.replace('chatcmpl-', 'call_')}_{index}_"
      message = _message(ids, tokenizer, has_tools, calls)
      _cut(message, request.stop)
      if not is_whole:
        yield Choice(message, len(ids))
        continue
      reason = "stop" if end is not None or sampled.stopped else "length"
      if reason == "stop" and "tool_calls" in message:
        reason = "tool_calls"
      logprobs = (
        _logprobs(sampled, ids, tokenizer) if request.logprobs else None
      )
      yield Choice(message, len(ids), reason, logprobs)
      return


async def _last(choices: AsyncIterator[Choice]) -> Choice:
  async for choice in choices:
    last = choice
  return last


async def _next(
  news: asyncio.Queue[tuple[int, Choice | None]],
  listeners: Sequence[asyncio.Task[None]],
) -> tuple[int, Choice | None]:
  """Returns what comes next; raises what a listener raised instead."""
  while True:
    for listener in listeners:
      if listener.done() and (error := listener.exception()):
        raise error
    if not news.empty():
      return news.get_nowait()
    get = asyncio.ensure_future(news.get())
    await asyncio.wait(
      [get, *(one for one in listeners if not one.done())],
      return_when=asyncio.FIRST_COMPLETED,
    )
    if get.done():
      return get.result()
    get.cancel()


def _end(
  ids: Sequence[int],
  tokenizer: tokenizers.Tokenizer,
  stops: Sequence[str],
  num_searched: int,
) -> int | None:
  """Returns how many ids a turn has that stops here, None when it goes on.

  The id that ends a text to stop at is the last one, however many were sampled
  in the same device call.
  """
  num_ids = len(ids)
  ends = [num_ids + 1]
  if tokenizer.pad_id in ids[num_searched:]:  # the end of a base model's text
    ends.append(ids.index(tokenizer.pad_id, num_searched) + 1)
  has_stop = lambda n: any(s in tokenizer.decode(ids[:n]) for s in stops)
  if stops and has_stop(num_ids):
    grown = range(num_searched, num_ids + 1)
    ends.append(next(n for n in grown if has_stop(n)))
  return min(ends) if min(ends) <= num_ids else None


def _message(
  ids: Sequence[int],
  tokenizer: tokenizers.Tokenizer,
  has_tools: bool,
  id_prefix: str,
) -> dict[str, Any]:
  """Returns a turn as a message; without tools nothing in it is a call."""
  if has_tools:
    turn = turns.read_ids(ids, tokenizer)
  else:
    turn = _plain_turn(ids, tokenizer)
  return messages_lib.to_openai(turn, id_prefix)


def _plain_turn(
  ids: Sequence[int], tokenizer: tokenizers.Tokenizer
) -> turns.Turn:
  special = tokenizer.special_ids
  think = special[tokenizers.Special.THINK]
  think_end = special[tokenizers.Special.THINK_END]
  ids = [i for i in ids if i not in (tokenizer.im_end_id, tokenizer.pad_id)]
  opening = ids[:1] == [think]
  if think_end in ids:
    border = ids.index(think_end)
  elif opening:
    border = len(ids)
  else:
    return turns.Turn(text=tokenizer.decode(ids))
  thought = tokenizer.decode(ids[int(opening) : border])
  text = tokenizer.decode(ids[border + 1 :])
  return turns.Turn(
    thought.removeprefix("\n").removesuffix("\n"),
    text.removeprefix("\n").removeprefix("\n"),
  )


def _cut(message: dict[str, Any], stops: Sequence[str]) -> None:
  for field in ("content", "reasoning_content"):
    text = message.get(field)
    places = [text.find(stop) for stop in stops if stop in text] if text else []
    if places:
      message[field] = text[: min(places)]


def _logprobs(
  sampled: engine_lib.Sampled,
  ids: Sequence[int],
  tokenizer: tokenizers.Tokenizer,
) -> dict[str, Any]:
  """Returns the log-probs of what was said, under the untempered model."""
  ends = (tokenizer.im_end_id, tokenizer.pad_id)
  return {
    "content": [
      {
        "token": tokenizer.decode([i]),
        "logprob": logprob,
        "bytes": None,
        "top_logprobs": [],
      }
      for i, logprob in zip(ids, sampled.model_logprobs)
      if i not in ends
    ],
    "refusal": None,
  }


def _head(name: str, kind: str) -> dict[str, Any]:
  return {
    "id": f"chatcmpl-{secrets.token_hex(12)}",
    "object": kind,
    "created": int(time.time()),
    "model": name,
    "system_fingerprint": None,
  }


def _usage(prompt: Prompt, num_sampled: int) -> dict[str, int]:
  return {
    "prompt_tokens": len(prompt.ids),
    "completion_tokens": num_sampled,
    "total_tokens": len(prompt.ids) + num_sampled,
  }
