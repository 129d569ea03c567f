"""Messages as OpenAI-style clients send and get them."""

import pytest

from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import turns

Message = messages_lib.Message


def call(name="f", arguments="{}"):
  function = {"name": name, "arguments": arguments}
  return {"id": "call_7", "type": "function", "function": function}


def assistant(**fields):
  return {"role": "assistant", "content": None, **fields}


@pytest.mark.parametrize(
  ("raw", "expected"),
  [
    ({"role": "system", "content": "S"}, Message("system", "S")),
    ({"role": "developer", "content": "S"}, Message("system", "S")),
    ({"role": "user", "content": "", "name": "u"}, Message("user")),
    (
      {
        "role": "user",
        "content": [
          {"type": "text", "text": "a"},
          {"type": "text", "text": "b"},
        ],
      },
      Message("user", "ab"),
    ),
    (
      {"role": "tool", "content": "x", "tool_call_id": "call_7"},
      Message("tool", "x"),
    ),
    (assistant(), Message("assistant")),
    (assistant(reasoning_content=None), Message("assistant")),
    (
      assistant(content="a <think>", reasoning_content="T"),
      Message("assistant", "a <think>", "T"),
    ),
    (
      assistant(tool_calls=[call(arguments='{"é":  1}')]),
      Message("assistant", calls=(turns.Call("f", '{"é":  1}'),)),
    ),
    (
      assistant(tool_calls=[call(arguments={"é": [1, None]}), call("g")]),
      Message(
        "assistant",
        calls=(turns.Call("f", '{"é": [1, null]}'), turns.Call("g", "{}")),
      ),
    ),
  ],
)
def test_reads_messages(raw, expected):
  assert messages_lib.from_openai([raw]) == [expected]


@pytest.mark.parametrize(
  ("raw", "words"),
  [
    ("hi", ["object whose role is a string", "'hi'"]),
    ({"content": "x"}, ["role"]),
    ({"role": "function", "content": "x"}, ["messages[1].role", "'function'"]),
    ({"role": "user"}, ["messages[1].content", "text", "None"]),
    ({"role": "user", "content": 5}, ["messages[1].content", "5"]),
    (
      {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
      ["messages[1].content", "image_url"],
    ),
    (assistant(content={}), ["messages[1].content"]),
    (assistant(reasoning_content=1), ["messages[1].reasoning_content"]),
    (assistant(tool_calls=1), ["messages[1].tool_calls must be a list"]),
    (assistant(tool_calls=[{"name": "f"}]), ["tool_calls[0]", "function"]),
    (
      assistant(tool_calls=[call(), call('f"')]),
      ["messages[1].tool_calls[1].function.name", "quotes"],
    ),
    (assistant(tool_calls=[call("")]), ["name must be given"]),
    (
      assistant(tool_calls=[call(arguments=None)]),
      ["tool_calls[0].function.arguments", "None"],
    ),
  ],
)
def test_refuses_messages(raw, words):
  with pytest.raises(ValueError) as error:
    messages_lib.from_openai([{"role": "user", "content": "x"}, raw])
  assert all(word in str(error.value) for word in words)


def test_refuses_no_messages_and_tools_without_a_name():
  with pytest.raises(ValueError, match="at least one"):
    messages_lib.from_openai([])
  good = {"type": "function", "function": {"name": "f"}}
  messages_lib.check_tools([good, good])
  for bad in ({"name": "f"}, {"function": {}}, {"function": {"name": "\n"}}):
    with pytest.raises(ValueError, match=r"tools\[1\]"):
      messages_lib.check_tools([good, bad])


def test_writes_messages():
  good = turns.Call("f", '{"x": 1}')
  source = "<tool_call>{</tool_call>"
  broken = turns.Call("", "", turns.Problem.BAD_JSON, source)
  write = messages_lib.to_openai
  plain = {"role": "assistant", "content": "Hi"}
  assert write(turns.Turn("", "Hi")) == plain
  assert write(turns.Turn("T", "Hi")) == {**plain, "reasoning_content": "T"}
  assert write(turns.Turn()) == {**plain, "content": ""}
  sent = write(turns.Turn("", "", (good, good)), "turn2_")
  assert sent["content"] is None
  function = {"name": "f", "arguments": '{"x": 1}'}
  assert sent["tool_calls"] == [
    {"id": f"turn2_{i}", "type": "function", "function": function}
    for i in range(2)
  ]
  sent = write(turns.Turn("", "Hi", (broken, good)))
  assert sent["content"] == f"Hi\n{source}"
  assert len(sent["tool_calls"]) == 1
  assert "tool_calls" not in write(turns.Turn("", "", (broken,)))
