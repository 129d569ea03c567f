"""Bodies of requests: what is read, and what is refused with which reason."""

import json

import pytest

from tests.serving import small
from userrl_jax.serving import requests

TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}


def test_a_request_is_read():
  request = requests.read(
    small.body(
      tools=[TOOL],
      tool_choice="auto",
      temperature=0,
      top_p=0.5,
      max_completion_tokens=7,
      max_tokens=7,
      stop="x",
      n=2,
      seed=-1,
      stream=True,
      stream_options={"include_usage": True},
      chat_template_kwargs={"enable_thinking": False},
      frequency_penalty=0.0,
      response_format={"type": "text"},
      user="me",
      logit_bias=None,
    )
  )
  assert request.messages[0].text == "what is it?"
  assert request.tools == (TOOL,)
  assert (request.temperature, request.top_p) == (0.0, 0.5)
  assert (request.max_tokens, request.stop, request.n) == (7, ("x",), 2)
  assert (request.seed, request.stream) == (-1, True)
  assert (request.include_usage, request.thinking) == (True, False)


def test_what_is_not_asked_for_has_openais_defaults():
  request = requests.read(small.body())
  assert (request.temperature, request.top_p, request.n) == (1.0, 1.0, 1)
  assert request.max_tokens is None and request.seed is None
  assert not (request.stream or request.logprobs or request.tools)
  assert requests.read(small.body(tools=[TOOL], tool_choice="none")).tools == ()


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (b"", "the body must be JSON"),
    (b"\xff\xfe", "the body must be JSON"),
    (b'{"model": ', "the body must be JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[1]", "must be a JSON object, got [1]"),
  ],
)
def test_what_is_no_json_object_is_refused(body, message):
  with pytest.raises(requests.Refused, match=message.replace("[", r"\[")) as e:
    requests.read(body)
  assert e.value.status == 400
  assert e.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
  ("fields", "param", "message"),
  [
    ({"model": None}, "model", "must be a name, got None"),
    ({"messages": []}, "messages", "at least one"),
    ({"messages": "hi"}, "messages", "must be a list"),
    ({"messages": [{"role": "robot"}]}, "messages", "messages[0].role"),
    (
      {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
      "messages",
      "messages[0].content must be a text",
    ),
    ({"temperature": "hot"}, "temperature", "must be a number, 0 to 2"),
    ({"temperature": 2.5}, "temperature", "0 to 2, got 2.5"),
    ({"temperature": True}, "temperature", "got True"),
    ({"temperature": -0.1}, "temperature", "0 to 2"),
    ({"temperature": float("nan")}, "temperature", "got nan"),
    ({"top_p": 0}, "top_p", "above 0"),
    ({"top_p": 10**400}, "top_p", "up to 1"),
    ({"min_p": 1.5}, "min_p", "0 to 1"),
    ({"top_k": 1.5}, "top_k", "whole number"),
    ({"max_tokens": 0}, "max_tokens", "in 1 to"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "equal"),
    ({"n": 17}, "n", "in 1 to 16"),
    ({"seed": 2**64}, "seed", "got 18446744073709551616"),
    ({"stop": ["a"] * 5}, "stop", "up to 4"),
    ({"stop": [""]}, "stop", "none of them empty"),
    ({"stop": 3}, "stop", "a text"),
    ({"stream": 1}, "stream", "true or false"),
    ({"stream": True, "logprobs": True}, "logprobs", "false in a stream"),
    ({"stream_options": {"x": 1}}, "stream_options", "include_usage alone"),
    ({"tools": {}, "tool_choice": "auto"}, "tool_choice", "needs tools"),
    ({"tools": [1]}, "tools", 'tools[0] must be of type "function"'),
    ({"tools": [{"type": "function"}]}, "tools", "tools[0]"),
    (
      {"tools": [TOOL], "tool_choice": "required"},
      "tool_choice",
      "auto or none",
    ),
    ({"frequency_penalty": 1}, "frequency_penalty", "must be 0, or left out"),
    ({"parallel_tool_calls": False}, "parallel_tool_calls", "must be true"),
    ({"top_logprobs": False}, "top_logprobs", "must be 0"),
    (
      {"response_format": {"type": "json_object"}},
      "response_format",
      "can do nothing else",
    ),
    ({"functions": []}, "functions", "there is no field functions"),
    ({"temprature": 1}, "temprature", "there is no field temprature"),
  ],
)
def test_what_is_wrong_is_named(fields, param, message):
  with pytest.raises(requests.Refused) as refused:
    requests.read(small.body(**fields))
  error = refused.value.body["error"]
  assert refused.value.status == 400 and error["param"] == param
  assert message in error["message"]
  json.dumps(refused.value.body)
