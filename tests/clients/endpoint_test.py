"""The client against a real server: faults, retries, bounds, secrets."""

import asyncio
import dataclasses
import email.utils
import logging
import socket
import time

import pytest

from tests.clients import server
from userrl_jax import config
from userrl_jax import types
from userrl_jax.clients import endpoint

KEY = "sk-very-secret-123"
KEY_ENV = "USERRL_TEST_KEY"
PROMPT = "the hidden thing is a lighthouse"
MESSAGES = [{"role": "user", "content": PROMPT}]
FAULT = types.Fault


def user(base_url, **changes):
  values = {"model": "m", "api_key_env": KEY_ENV, "timeout_s": 15.0}
  return config.User(kind="endpoint", base_url=base_url, **values | changes)


def echo(messages):
  return f"echo {messages[-1]['content']}"


def run(running, *prompts, **changes):
  """Asks all at once; returns texts and errors, and the counters."""

  async def ask():
    async with endpoint.Endpoint(user(running.base_url, **changes)) as client:
      asked = [
        client.complete([{"role": "user", "content": p}]) for p in prompts
      ]
      return await asyncio.gather(*asked, return_exceptions=True), client.counts

  return asyncio.run(ask())


def shown(error):
  """Returns all that a report of an error could print."""
  seen, texts = set(), []
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    texts.append(repr(error) + str(error) + str(vars(error)))
    error = error.__cause__ or error.__context__
  return " ".join(texts)


def test_answers_and_counts():
  with server.Server(echo, key="none", model="m") as running:
    (reply,), counts = run(running, "hello", temperature=0.5, max_tokens=9)
    assert reply == "echo hello"
    assert counts == endpoint.Counts(1, 0, 7, 3, {})
    assert running.log[0].body == {
      "messages": [{"role": "user", "content": "hello"}],
      "model": "m",
      "temperature": 0.5,
      "max_tokens": 9,
    }


@pytest.mark.parametrize(
  ("kind", "fault", "num_requests", "detail"),
  [
    ("error", FAULT.USER_ERROR, 2, "HTTP 500 (server_error, error)"),
    ("503", FAULT.USER_ERROR, 2, "HTTP 503"),
    ("408", FAULT.USER_ERROR, 2, "HTTP 408"),
    ("409", FAULT.USER_ERROR, 2, "HTTP 409"),
    ("busy", FAULT.USER_BUSY, 2, "HTTP 429 (rate_limit_exceeded, error)"),
    ("slow", FAULT.USER_TIMEOUT, 2, "no answer in 0.5 s"),
    ("drip", FAULT.USER_TIMEOUT, 2, "no answer in 0.5 s"),
    ("drop", FAULT.USER_ERROR, 2, "no connection (RemoteProtocolError)"),
    ("html", FAULT.USER_ERROR, 2, "no chat completion"),
    ("garbled", FAULT.USER_ERROR, 2, "no chat completion"),
    ("refusal", FAULT.USER_REFUSAL, 1, "refused to reply"),
    ("declined", FAULT.USER_REFUSAL, 1, "refused to reply"),
    ("filtered", FAULT.USER_REFUSAL, 1, "HTTP 400 (content_filter"),
    ("empty", FAULT.USER_UNPARSABLE, 1, "empty"),
    ("null", FAULT.USER_UNPARSABLE, 1, "empty"),
    ("cut", FAULT.USER_UNPARSABLE, 1, "cut off at 256 tokens"),
  ],
)
def test_each_failure_has_its_fault(
  kind, fault, num_requests, detail, monkeypatch, caplog
):
  monkeypatch.setenv(KEY_ENV, KEY)
  caplog.set_level(logging.DEBUG)
  timeout_s = 0.5 if kind in ("slow", "drip") else 15.0
  with server.Server(echo, script=[kind] * 2, key=KEY) as running:
    (error,), counts = run(running, PROMPT, num_retries=1, timeout_s=timeout_s)
    assert isinstance(error, types.FaultError)
    assert error.fault == fault and detail in error.detail
    assert len(running.log) == num_requests == counts.num_requests
    assert {request.key for request in running.log} == {KEY}
  assert counts.num_retries == num_requests - 1
  assert counts.failures == {str(fault): 1}
  assert KEY not in shown(error) + caplog.text + repr(counts)
  assert PROMPT not in shown(error)


@pytest.mark.parametrize("kind", ["error", "busy", "slow", "drop", "html"])
def test_a_second_try_may_be_good(kind):
  timeout_s = 4.0 if kind == "slow" else 15.0
  with server.Server(echo, script=[kind, ""]) as running:
    (reply,), counts = run(running, "x", num_retries=1, timeout_s=timeout_s)
  assert reply == "echo x"
  assert (counts.num_requests, counts.num_retries) == (2, 1)
  assert counts.failures == {}


SCHEMA = {"type": "object", "properties": {}, "required": []}


def ask_for_json(running, num_times, **changes):
  """Asks one after the other; returns what came of each."""

  async def ask():
    outcomes = []
    async with endpoint.Endpoint(user(running.base_url, **changes)) as client:
      for _ in range(num_times):
        try:
          outcomes.append(await client.complete(MESSAGES, SCHEMA))
        except (types.FaultError, types.SetupError) as error:
          outcomes.append(error)
    return outcomes, client.counts

  return asyncio.run(ask())


@pytest.mark.parametrize("takes_schemas", [True, False])
def test_a_schema_is_sent_where_it_is_taken(takes_schemas):
  with server.Server(echo, takes_schemas=takes_schemas) as running:
    replies, counts = ask_for_json(running, 3)
    assert replies == [f"echo {PROMPT}"] * 3
    formats = [request.body.get("response_format") for request in running.log]
  form = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
  }
  # Who does not take it is asked once; that is no failure and no retry.
  assert formats == ([form] * 3 if takes_schemas else [form, *[None] * 3])
  assert counts.num_retries == 0 and counts.failures == {}


def test_a_bad_request_is_not_blamed_on_a_schema_that_was_taken():
  with server.Server(echo, script=["", "422", "", "422"]) as running:
    (_, error, reply, _), _ = ask_for_json(running, 4)
    assert error.fault == FAULT.USER_ERROR and reply == f"echo {PROMPT}"
    assert len(running.log) == 4
    assert all("response_format" in r.body for r in running.log)


def test_a_request_that_is_bad_in_any_form_is_the_set_up():
  with server.Server(echo, script=["422", "422"]) as running:
    (error,), _ = ask_for_json(running, 1)
    assert isinstance(error, types.SetupError) and len(running.log) == 2


def test_broken_json_is_a_reply_like_any_other():
  with server.Server(echo, script=["broken"]) as running:
    (reply,), _ = run(running, "x")
  assert reply.startswith("{") and not reply.endswith("}")


def test_waits_as_long_as_the_server_asks():
  with server.Server(echo, script=["busy"], retry_after="0.7") as running:
    start = time.monotonic()
    (reply,), _ = run(running, "x")
    assert reply == "echo x" and time.monotonic() - start > 0.7


def test_waits_until_the_date_that_the_server_names():
  date = email.utils.formatdate(time.time() + 2, usegmt=True)
  with server.Server(echo, script=["busy"], retry_after=date) as running:
    start = time.monotonic()
    replies, _ = run(running, "x", "y", max_concurrent=1)
    assert sorted(replies) == ["echo x", "echo y"]
    assert time.monotonic() - start > 0.9  # dates have whole seconds


def test_gives_up_when_the_server_asks_for_too_long():
  with server.Server(echo, script=["busy"], retry_after="3600") as running:
    (error,), counts = run(running, "x")
  assert error.fault == FAULT.USER_BUSY and "3600 s" in error.detail
  assert counts.num_requests == 1


def test_nobody_listens():
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]

  async def ask():
    settings = user(f"http://127.0.0.1:{port}/v1", num_retries=0)
    async with endpoint.Endpoint(settings) as client:
      await client.complete(MESSAGES)

  with pytest.raises(types.FaultError, match="no connection") as caught:
    asyncio.run(ask())
  assert caught.value.fault == FAULT.USER_ERROR


def test_few_requests_at_once_over_few_connections():
  prompts = [str(i) for i in range(64)]
  with server.Server(echo, crowd=8) as running:
    replies, counts = run(running, *prompts, max_concurrent=8)
    assert replies == [f"echo {p}" for p in prompts]
    assert counts.num_requests == len(running.log) == 64
    assert running.max_under_way == 8
    assert running.num_connections <= 8


def test_cancelling_leaves_the_client_usable():
  async def ask(running):
    settings = user(running.base_url, max_concurrent=1, num_retries=0)
    async with endpoint.Endpoint(settings) as client:
      with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
          await client.complete(MESSAGES)
      return await client.complete(MESSAGES), client.counts

  with server.Server(echo, script=["slow"]) as running:
    reply, counts = asyncio.run(ask(running))
  assert reply == f"echo {PROMPT}" and counts.failures == {}


def test_opens_again_on_another_loop():
  with server.Server(echo, delay_s=0.05) as running:
    client = endpoint.Endpoint(user(running.base_url, max_concurrent=1))

    async def ask():
      async with client:
        await asyncio.gather(*(client.complete(MESSAGES) for _ in range(3)))

    asyncio.run(ask())
    asyncio.run(ask())
    assert client.counts.num_requests == 6
    with pytest.raises(RuntimeError, match="async with"):
      asyncio.run(client.complete(MESSAGES))


@pytest.mark.parametrize(
  ("path", "changes", "messages"),
  [
    ("/v1", {"model": "other"}, ("HTTP 404", "model_not_found", "'other'")),
    ("/nowhere", {}, ("HTTP 404", "/nowhere", "user.base_url")),
    ("/v1", {"api_key_env": "USERRL_WRONG_KEY"}, ("401", "USERRL_WRONG_KEY")),
  ],
)
def test_a_wrong_set_up_fails_at_once(path, changes, messages, monkeypatch):
  monkeypatch.setenv(KEY_ENV, KEY)
  monkeypatch.setenv("USERRL_WRONG_KEY", f"{KEY}x")
  with server.Server(echo, key=KEY, model="m") as running:
    url = running.base_url.removesuffix("/v1") + path

    async def ask():
      async with endpoint.Endpoint(user(url, **changes)) as client:
        await client.complete(MESSAGES)

    with pytest.raises(types.SetupError) as caught:
      asyncio.run(ask())
    assert len(running.log) == 1
  text = shown(caught.value)
  for message in (url, *messages):
    assert message in text
  assert KEY not in text and PROMPT not in text


def test_a_bad_request_is_the_set_up_until_one_was_answered():
  with server.Server(echo, script=["422"]) as running:
    (error,), _ = run(running, PROMPT)
    assert isinstance(error, types.SetupError)
    assert "user.max_tokens" in str(error)

  with server.Server(echo, script=["", "422"]) as running:
    (reply, error), _ = run(running, "x", "y", max_concurrent=1)
    assert reply == "echo x" and error.fault == FAULT.USER_ERROR
    assert "HTTP 422" in error.detail and len(running.log) == 2


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model": ""}, "user.model"),
    ({"base_url": "localhost:8000/v1"}, "user.base_url"),
    ({"base_url": "http://localhost:x/v1"}, "user.base_url"),
    ({"base_url": "https://me:pass@host.example/v1"}, "no name and password"),
    ({"base_url": "http://localhost/v1?api-key=pass"}, "without . or #"),
    ({"base_url": "localhost:8000/v1#pass"}, "without . or #"),
    ({"api_key_env": "sk-pass"}, "user.api_key_env must name a variable"),
    ({"api_key_env": "PÄSS"}, "user.api_key_env must name a variable"),
    ({"api_key_env": "hf_pass1234"}, "user.api_key_env must name a variable"),
    ({"api_key_env": "gsk_pass1"}, "user.api_key_env must name a variable"),
    ({"base_url": "https://models.example/v1"}, KEY_ENV),
    ({"base_url": ""}, KEY_ENV),
    ({"base_url": "https://8.8.8.8/v1"}, KEY_ENV),
    ({"base_url": "", "api_key_env": ""}, "user.api_key_env"),
  ],
)
def test_refuses_settings_that_cannot_work(changes, message, monkeypatch):
  monkeypatch.delenv(KEY_ENV, raising=False)
  settings = dataclasses.replace(user("http://localhost:8000/v1"), **changes)
  with pytest.raises(types.SetupError, match=message) as caught:
    endpoint.Endpoint(settings)
  assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
  "host", ["localhost", "127.0.0.1", "[::1]", "10.1.2.3", "gpu-3", "box.local"]
)
def test_a_local_endpoint_needs_no_key(host, monkeypatch):
  monkeypatch.delenv(KEY_ENV, raising=False)
  assert endpoint.Endpoint(user(f"http://{host}:8000/v1")).counts.failures == {}


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-one sk-two", "sk-é"])
def test_a_key_that_no_header_can_carry_is_not_shown(key, monkeypatch):
  monkeypatch.setenv(KEY_ENV, key)
  with pytest.raises(ValueError, match=KEY_ENV) as caught:
    endpoint.Endpoint(user("http://localhost:8000/v1"))
  assert "sk-" not in shown(caught.value)


def test_the_server_repeats_its_faults():
  prompts = [f"question {i}" for i in range(200)]

  def faults(order, seed):
    with server.Server(
      echo, 0.3, seed, faults=("error", "refusal", "empty")
    ) as running:
      run(running, *order, num_retries=0)
      return {r.body["messages"][0]["content"]: r.fault for r in running.log}

  first = faults(prompts, 0)
  assert first == faults(prompts[::-1], 0) != faults(prompts, 1)
  kinds = list(first.values())
  assert 0.2 < 1 - kinds.count("") / 200 < 0.4
  assert set(kinds) == {"", "error", "refusal", "empty"}


def test_waits_grow_and_spread_out():
  client = endpoint.Endpoint(user("http://localhost:8000/v1"))
  for num_failed, whole_s in ((1, 0.25), (2, 0.5), (4, 2.0), (7, 16.0)):
    waits = [client._wait_s(num_failed, 0.0) for _ in range(200)]
    assert whole_s / 2 <= min(waits) < 0.55 * whole_s
    assert 0.95 * whole_s < max(waits) <= whole_s
  # No longer than that, however often; and what is asked for is waited.
  assert max(client._wait_s(60, 0.0) for _ in range(200)) <= 20.0
  waits = [client._wait_s(1, 3.0) for _ in range(200)]
  assert min(waits) >= 3.0 and 3.1 < max(waits) <= 3.125
