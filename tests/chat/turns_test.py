"""Turns with calls of any tool: what was thought, said and called."""

import json

import hypothesis
from hypothesis import strategies
import pytest

from tests.chat import turn_table
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3
from userrl_jax.chat import turns

A = '<tool_call>\n{"name": "a", "arguments": {"x": 1.50, "y": [true]}}\n'
A += "</tool_call>"
CALL_A = turns.Call("a", '{"x": 1.50, "y": [true]}')
B = '<tool_call>{"arguments": "{}", "name": "b"}</tool_call>'
CALL_B = turns.Call("b", "{}")


def bad(problem, source, name=""):
  return turns.Call(name, "", turns.Problem(problem), source)


@pytest.mark.parametrize(
  ("text", "thought", "said", "calls"),
  [
    ("", "", "", ()),
    ("Hi\n", "", "Hi\n", ()),
    ("\n\nHi<|im_end|>\n", "", "\n\nHi", ()),
    ("<think>\nT\n</think>\n\nHi", "T", "Hi", ()),
    ("<think>T</think>Hi", "T", "Hi", ()),
    ("<think>\n\n</think>\n\nHi", "", "Hi", ()),
    ("<think>\n\nT\n\n</think>\n\n\nHi", "\nT\n", "\nHi", ()),
    ("<think>\nT", "T", "", ()),
    ("<think>a<think>b</think>c", "a<think>b", "c", ()),
    ("T\n</think>\n\nHi", "T", "Hi", ()),
    ("<think>T</think>a</think>b", "<think>T</think>a", "b", ()),
    ("<think>S</think>a<think>T</think>b", "S\nT", "ab", ()),
    (A, "", "", (CALL_A,)),
    (f"{A}\n{B}", "", "", (CALL_A, CALL_B)),
    (f"Hi\n{A}", "", "Hi", (CALL_A,)),
    (f"Hi{A} {B}. ", "", "Hi . ", (CALL_A, CALL_B)),
    (f"<think>\nT\n</think>\n\n{A}\n", "T", "\n", (CALL_A,)),
    (f"<think>\n{A}\n</think>\n\n{B}", A, "", (CALL_B,)),
    (f"x{A}y</think>z", f"x{A}y", "z", ()),
    ("a</tool_call>b", "", "a</tool_call>b", ()),
    (f"a {A[:20]}", "", "a ", (bad("unclosed", A[:20]),)),
    (
      f"<tool_call>\n{B}",
      *("", ""),
      (bad("unclosed", "<tool_call>\n"), CALL_B),
    ),
    (
      "<tool_call>{}</tool_call>",
      *("", ""),
      (bad("wrong_tool", "<tool_call>\n{}\n</tool_call>"),),
    ),
    (
      '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
      *("", ""),
      (
        bad(
          "wrong_tool",
          '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>',
        ),
      ),
    ),
    (
      "<tool_call>[{}, x]</tool_call>",
      *("", ""),
      (bad("bad_json", "<tool_call>[{}, x]</tool_call>"),),
    ),
    (
      '<tool_call>[{"name": "a"} , {"name":"b","arguments": {}}]</tool_call>',
      *("", ""),
      (
        bad("bad_arguments", '<tool_call>\n{"name": "a"}\n</tool_call>', "a"),
        CALL_B,
      ),
    ),
    (
      '<tool_call>{"name": "é\\n", "arguments": {"x": "a\n\t\0",\n"z": {} }}'
      "</tool_call>",
      *("", ""),
      (turns.Call("é\n", '{"x": "a\\n\\t\\u0000",\n"z": {} }'),),
    ),
  ],
)
def test_reads(text, thought, said, calls, small_tokenizer):
  expected = turns.Turn(thought, said, calls)
  assert turns.read(text) == expected
  ids = turn_table.ids_of(text, small_tokenizer)
  assert turns.read_ids(ids, small_tokenizer) == expected


PIECES = strategies.sampled_from(
  [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>"),
    *('{"name": "a", "arguments": ', '{"x": "', '"', '"}', "{}", "}", "[", "]"),
    *("\n", " ", ",", "\\", ":", "1", "\0", "```json\n", "\n```", "é", A, B),
  ]
)


@hypothesis.settings(
  max_examples=500, derandomize=True, database=None, deadline=None
)
@hypothesis.given(pieces=strategies.lists(PIECES))
def test_whatever_is_written_is_a_usable_call_or_has_a_problem(pieces):
  turn = turns.read("".join(pieces))
  for call in turn.calls:
    if call.problem:
      assert call.source.startswith("<tool_call>") and not call.arguments
    else:
      assert call.name and isinstance(json.loads(call.arguments), dict)


def test_arguments_are_strict_json_of_any_size():
  numbers = {"x": "9" * 6000, "y": "-0.10", "z": "1E400"}
  body = ",".join(f'"{key}":{number}' for key, number in numbers.items())
  text = f'<tool_call>{{"name": "a", "arguments": {{{body}}}}}</tool_call>'
  (call,) = turns.read(text).calls
  assert call.arguments == f"{{{body}}}"
  assert turns.load(call.arguments) == numbers
  long = json.dumps({"x": 'a\n"\\' * 5000}).replace("\\n", "\n")
  text = f'<tool_call>{{"name": "a", "arguments": {long}}}</tool_call>'
  (call,) = turns.read(text).calls
  assert json.loads(call.arguments) == {"x": 'a\n"\\' * 5000}


def test_a_client_hands_back_a_turn_with_the_same_ids(tokenizer):
  """So a server may find the row that already holds a dialogue's beginning."""
  chat = qwen3.Chat(tokenizer)
  arguments = '{"x":1.50,  "y": "é\\u00e9"}'
  for calls in ([turns.Call("a", arguments)], [CALL_A, CALL_B]):
    ids = chat.turn_ids("Hm", "T", calls)
    sent = messages_lib.to_openai(turns.read_ids(ids, tokenizer))
    (back,) = messages_lib.from_openai([json.loads(json.dumps(sent))])
    assert chat.turn_ids(back.text, back.thought, back.calls) == ids
