"""The `openai` client, as it is, against the app: chats, tools, errors."""

import asyncio
import contextlib
import json
import threading
import urllib.error
import urllib.request

import openai
import pytest

from tests.serving import requests_test
from tests.serving import small
from userrl_jax.serving import app as app_lib
from userrl_jax.serving import connections

TOOLS = [requests_test.TOOL]
QUESTION = [{"role": "user", "content": "what is it?"}]


class Running:
  """A server in a thread of its own."""

  def __init__(self, host, key="", max_pending=256, max_body_bytes=20_000):
    self.host = host
    self.app = app_lib.App(host, "m", key, max_pending)
    # On a busy machine a client may be slow to send, so its time is not cut.
    limits = connections.Limits(max_body_bytes=max_body_bytes)
    self.server = connections.Server(self.app.handle, limits)
    self.started = threading.Event()
    self.stop = asyncio.Event()
    run = lambda: asyncio.run(self._serve())
    self.thread = threading.Thread(target=run, daemon=True)

  def __enter__(self):
    self.thread.start()
    assert self.started.wait(60)
    return self

  def __exit__(self, *error):
    self.loop.call_soon_threadsafe(self.stop.set)
    self.thread.join(60)

  @property
  def base_url(self):
    return f"http://127.0.0.1:{self.port}/v1"

  def client(self, key="any", kind=openai.OpenAI, **options):
    return kind(api_key=key, base_url=self.base_url, max_retries=0, **options)

  async def _serve(self):
    self.loop = asyncio.get_running_loop()
    async with self.host.opened():
      self.port = await self.server.start("127.0.0.1", 0)
      self.started.set()
      await self.stop.wait()
      await self.server.close(5.0)


@pytest.fixture(scope="module")
def random_host(tmp_path_factory):
  return small.host(small.random_folder(tmp_path_factory.mktemp("m") / "m"))


@pytest.fixture(scope="module")
def calling_host(tmp_path_factory):
  folder = tmp_path_factory.mktemp("m") / "m"
  return small.host(
    small.chain_folder(folder, "a", "<tool_call>", small.CALL, "</tool_call>"),
    max_length=512,
  )


def ask(client, text="what is it?", **fields):
  fields = {"max_tokens": 12, "temperature": 0} | fields
  return client.chat.completions.create(
    model="m", messages=[{"role": "user", "content": text}], **fields
  )


@pytest.fixture
def gate(monkeypatch):
  """While it is closed (not set), requests wait before they are sampled."""
  is_open = threading.Event()
  complete = app_lib.completions.complete

  async def complete_later(*of_whom):
    while not is_open.is_set():
      await asyncio.sleep(0.01)
    return await complete(*of_whom)

  monkeypatch.setattr(app_lib.completions, "complete", complete_later)
  return is_open


def test_64_clients_at_once_get_what_they_get_one_by_one(random_host, gate):
  texts = [f"what is {i} and {i * i}?" for i in range(64)]

  async def together(running):
    async with contextlib.AsyncExitStack() as opened:
      clients = [
        await opened.enter_async_context(
          running.client(kind=openai.AsyncOpenAI)
        )
        for _ in texts
      ]
      asked = asyncio.gather(*map(ask, clients, texts))
      while running.app._num_pending < len(texts) and not asked.done():
        await asyncio.sleep(0.01)
      gate.set()
      return await asked

  with Running(random_host) as running:
    before = random_host.engine.counters.device_calls
    at_once = asyncio.run(together(running))
    num_calls = random_host.engine.counters.device_calls - before
    before += num_calls
    one_by_one = [ask(running.client(), text) for text in texts]
    num_calls_alone = random_host.engine.counters.device_calls - before
  assert [r.choices[0].message.content for r in at_once] == [
    r.choices[0].message.content for r in one_by_one
  ]
  assert [r.usage for r in at_once] == [r.usage for r in one_by_one]
  assert [r.choices[0].finish_reason for r in at_once] == [
    r.choices[0].finish_reason for r in one_by_one
  ]
  # Or equality would show little.
  assert len({r.choices[0].message.content for r in at_once}) > 16
  # Eight rows: requests do share device calls.
  assert num_calls < num_calls_alone / 3


def test_usage_counts_every_id(random_host):
  tokenizer = random_host.chat.tokenizer
  ids = random_host.chat.prompt_ids("", "what is it?", ())
  with Running(random_host) as running:
    reply = ask(running.client(), max_tokens=9, n=2, logprobs=True)
  (choice, _) = reply.choices
  assert reply.usage.prompt_tokens == len(ids)
  assert reply.usage.completion_tokens == 18
  assert choice.finish_reason == "length"
  assert len(choice.logprobs.content) <= 9
  assert all(token.logprob <= 0 for token in choice.logprobs.content)
  text = "".join(token.token for token in choice.logprobs.content)
  assert "\ufffd" in text or choice.message.content in text
  assert tokenizer.im_end_id not in ids[-2:]


def test_a_seed_gives_the_same_again_and_members_differ(random_host):
  with Running(random_host) as running:
    client = running.client()
    draw = lambda **fields: [
      c.message.content
      for c in ask(client, temperature=2, n=3, **fields).choices
    ]
    first = draw(seed=5)
    assert draw(seed=5) == first and len(set(first)) == 3
    assert draw(seed=6) != first
    assert draw() != draw()


def test_tools_are_called_answered_and_left_out(calling_host):
  with Running(calling_host) as running:
    client = running.client()
    reply = ask(client, tools=TOOLS, tool_choice="auto")
    (choice,) = reply.choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "a"
    assert call.function.name == "find"
    assert json.loads(call.function.arguments) == {"word": "kite"}
    messages = [
      *QUESTION,
      choice.message,
      {"role": "tool", "tool_call_id": call.id, "content": "a bird"},
    ]
    again = client.chat.completions.create(
      model="m", messages=messages, tools=TOOLS
    )
    assert again.usage.prompt_tokens > reply.usage.total_tokens
    assert again.choices[0].message.tool_calls[0].id != call.id
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
      (choice,) = ask(client, **fields).choices
      assert choice.message.tool_calls is None
      assert choice.finish_reason == "stop"
      assert choice.message.content == f"a<tool_call>{small.CALL}</tool_call>"
    assert reply.usage.completion_tokens == 5


def test_text_to_stop_at_ends_a_turn_before_it(calling_host):
  with Running(calling_host) as running:
    (choice,) = ask(running.client(), stop=["<tool", "never"]).choices
    assert (choice.message.content, choice.finish_reason) == ("a", "stop")
    streamed = list(
      ask(
        running.client(),
        stop=["<tool"],
        stream=True,
        stream_options={"include_usage": True},
      )
    )
  assert streamed[-1].usage.completion_tokens == 2
  assert text_of(streamed) == "a"


def text_of(chunks):
  return "".join(
    chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
  )


def test_a_stream_says_the_same(random_host, calling_host):
  with Running(random_host) as running:
    client = running.client()
    for i in range(6):
      fields = {"max_tokens": 40, "seed": i, "temperature": 1.0}
      whole = ask(client, **fields)
      options = {"stream_options": {"include_usage": True}}
      chunks = list(ask(client, stream=True, **fields, **options))
      if whole.choices[0].message.model_extra.get("reasoning_content"):
        continue  # what was said turned out to be a thought
      assert text_of(chunks) == whole.choices[0].message.content
      assert chunks[-2].choices[0].finish_reason == (
        whole.choices[0].finish_reason
      )
      assert chunks[-1].usage == whole.usage
      assert len(chunks) > 4
  with Running(calling_host) as running:
    chunks = list(ask(running.client(), tools=TOOLS, stream=True))
  calls = [
    c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []
  ]
  assert text_of(chunks) == "a"
  assert [c.function.name for c in calls] == ["find"]
  assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
  ("fields", "error", "message"),
  [
    ({"temperature": 9}, openai.BadRequestError, "temperature must be"),
    ({"max_tokens": 9999}, openai.BadRequestError, "the context holds 256"),
    ({"text": "bird " * 400}, openai.BadRequestError, "the context holds"),
    ({"text": "x" * 30_000}, openai.APIStatusError, "at most 20000 bytes"),
    ({"extra_body": {"x": 1}}, openai.BadRequestError, "no field x"),
    ({"model": "other"}, openai.NotFoundError, "there is no model 'other'"),
  ],
)
def test_what_is_wrong_comes_back_as_openais_errors(
  random_host, fields, error, message
):
  fields = dict(fields)
  messages = [{"role": "user", "content": fields.pop("text", "hi")}]
  with Running(random_host) as running:
    with pytest.raises(error, match=message) as raised:
      running.client().chat.completions.create(
        **({"model": "m", "messages": messages} | fields)
      )
    assert raised.value.type == "invalid_request_error"
    # And the next one is served.
    assert ask(running.client()).choices


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (b'{"model": "m", "mess', "JSON"),
    (b"model=m&messages=hi", "JSON"),
    (b"\xff\xfe", "JSON"),
    (b"[1]", "object"),
    (b"", "JSON"),
  ],
)
def test_a_body_that_is_no_json_gets_400_with_a_reason(
  random_host, body, message
):
  with Running(random_host) as running:
    url = f"{running.base_url}/chat/completions"
    as_json = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, as_json)
    with pytest.raises(urllib.error.HTTPError) as raised:
      urllib.request.urlopen(request, timeout=30)
  with raised.value as reply:
    error = json.load(reply)["error"]
  assert reply.status == 400 and message in error["message"]
  assert error["type"] == "invalid_request_error"


def test_who_has_no_key_is_not_let_in(random_host):
  with Running(random_host, key="s3cret") as running:
    with pytest.raises(openai.AuthenticationError) as raised:
      ask(running.client("wrong"))
    assert "s3cret" not in str(raised.value)
    assert ask(running.client("s3cret")).choices
    with pytest.raises(openai.AuthenticationError):
      running.client("s3cre").models.list()
    (model,) = running.client("s3cret").models.list()
  assert model.id == "m"


def test_beyond_the_queue_clients_are_asked_to_come_again(random_host, gate):
  async def crowd(running):
    gate.clear()
    client = running.client(kind=openai.AsyncOpenAI)
    asked = [
      asyncio.create_task(ask(client, str(i), max_tokens=60)) for i in range(12)
    ]
    while sum(one.done() for one in asked) < 8:
      await asyncio.sleep(0.01)
    gate.set()
    return await asyncio.gather(*asked, return_exceptions=True)

  with Running(random_host, max_pending=4) as running:
    replies = asyncio.run(crowd(running))
    refused = [r for r in replies if isinstance(r, Exception)]
    assert len(refused) == 8
    assert all(isinstance(r, openai.RateLimitError) for r in refused)
    assert all(int(r.response.headers["retry-after"]) >= 1 for r in refused)
    with pytest.raises(openai.RateLimitError):
      ask(running.client(), n=5)
    # Their places are free again, whatever came of them.
    assert asyncio.run(crowd(running)).count(None) == 0
    assert running.app._num_pending == 0


def test_who_hangs_up_leaves_no_row_behind(random_host):
  async def leave(running):
    client = running.client(kind=openai.AsyncOpenAI)
    asked = [
      asyncio.create_task(ask(client, str(i), max_tokens=200, temperature=1))
      for i in range(4)
    ]
    stream = await ask(client, max_tokens=200, stream=True, temperature=1)
    async for _ in stream:
      break
    await stream.close()
    for one in asked:
      one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for _ in range(400):
      if not (running.app._num_pending or random_host.engine.num_rows_held):
        return
      await asyncio.sleep(0.05)
    raise AssertionError("a row, or a place, is still held")

  with Running(random_host) as running:
    asyncio.run(leave(running))
    assert ask(running.client()).choices
