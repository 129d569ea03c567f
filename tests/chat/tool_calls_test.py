"""A table of turns: what is a call, what is not, and why."""

import json

import pytest

from userrl_jax import types
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls
from userrl_jax.chat import turns

FORM = '{"name": "interact_with_env", "arguments": %s}'


def call(choice="action", content="x", **more):
  arguments = json.dumps({"choice": choice, "content": content, **more})
  return f"<tool_call>\n{FORM % arguments}\n</tool_call>"


def raw(body):
  return f"<tool_call>\n{body}\n</tool_call>"


def arguments(text):
  return raw(FORM % text)


ACCEPTED = {
  "canonical": (call("answer", "23"), "answer", "23"),
  "compact": (
    '<tool_call>{"name":"interact_with_env","arguments":{"choice":"search",'
    '"content":"test"}}</tool_call>',
    *("search", "test"),
  ),
  "spread out": (
    '<tool_call>  \n\n {\n "name" : "interact_with_env",\n "arguments":\n'
    ' { "choice": "action",\t"content": "1" } } \n </tool_call>',
    *("action", "1"),
  ),
  "key order": (
    raw(
      '{"arguments": {"content": "1", "choice": "action"}, '
      '"name": "interact_with_env"}'
    ),
    *("action", "1"),
  ),
  "escapes": (
    arguments(
      r'{"choice": "action", "content": "caf\u00e9 \"q\"\n\ud83d\ude42"}'
    ),
    *("action", 'café "q"\n🙂'),
  ),
  "lone surrogate": (
    arguments(r'{"choice": "action", "content": "a\ud800"}'),
    *("action", "a\ufffd"),
  ),
  "raw line break": (
    arguments('{"choice": "action", "content": "a\nb"}'),
    *("action", "a\nb"),
  ),
  "arguments as text": (
    arguments(json.dumps('{"choice": "action", "content": "1"}')),
    *("action", "1"),
  ),
  "integer": (
    arguments('{"choice": "answer", "content": -7}'),
    *("answer", "-7"),
  ),
  "long integer": (
    arguments('{"choice": "answer", "content": %s}' % ("9" * 6000)),
    *("answer", "9" * 6000),
  ),
  "float as written": (
    arguments('{"choice": "answer", "content": 1.50}'),
    *("answer", "1.50"),
  ),
  "empty content": (call("action", ""), "action", ""),
  "extra keys": (
    raw(
      '{"id": 1, ' + (FORM % '{"choice": "action", "content": "x", "z": 1}')[1:]
    ),
    *("action", "x"),
  ),
  "text around": (f"Sure: {call()} done.", "action", "x"),
  "end of turn": (call() + "<|im_end|>", "action", "x"),
  "after a thought": (f"<think>\nhm\n</think>\n\n{call()}", "action", "x"),
  "after a thought with a call": (
    f"<think>{call('answer')}</think>{call()}",
    *("action", "x"),
  ),
  "after a thought opened in the prompt": (
    f"hm {call('answer')}</think>{call()}",
    *("action", "x"),
  ),
  "prefix in content": (
    call("action", "[answer] 23"),
    *("action", "[answer] 23"),
  ),
  "think in content": (
    call("action", "a <think> b </think> c"),
    *("action", "a <think> b </think> c"),
  ),
}

REFUSED = {
  "empty": ("", "no_call"),
  "plain text": ("I would ask for the number.", "no_call"),
  "bare JSON": (FORM % '{"choice": "action", "content": "x"}', "no_call"),
  "in a thought": (f"<think>{call()}</think>Done.", "no_call"),
  "in an unclosed thought": (f"<think>\n{call()}", "no_call"),
  "in a thought opened in the prompt": (f"{call()}</think>Done.", "no_call"),
  "closing only": ("x\n</tool_call>", "no_call"),
  "no closing": (call().removesuffix("</tool_call>"), "unclosed"),
  "cut": ('<tool_call>\n{"name": "interact_wi', "unclosed"),
  "opened twice": (f"<tool_call>\n{call()}", "unclosed"),
  "empty body": (raw(""), "bad_json"),
  "half": (raw('{"name": "interact_with_env"'), "bad_json"),
  "python": (raw("{'name': 'interact_with_env'}"), "bad_json"),
  "trailing": (
    raw(FORM % '{"choice": "action", "content": "x"}' + " }"),
    "bad_json",
  ),
  "list": (raw("[]"), "bad_json"),
  "deep": (raw("[" * 100_000), "bad_json"),
  "not a number": (
    arguments('{"choice": "answer", "content": NaN}'),
    "bad_json",
  ),
  "other tool": (raw('{"name": "python", "arguments": {}}'), "wrong_tool"),
  "no name": (raw("{}"), "wrong_tool"),
  "no arguments": (raw('{"name": "interact_with_env"}'), "bad_arguments"),
  "arguments no JSON": (arguments('"action x"'), "bad_arguments"),
  "arguments a list": (arguments('["action", "x"]'), "bad_arguments"),
  "no content": (arguments('{"choice": "action"}'), "bad_arguments"),
  "no choice": (arguments('{"content": "x"}'), "bad_arguments"),
  "null content": (
    arguments('{"choice": "action", "content": null}'),
    "bad_arguments",
  ),
  "true content": (
    arguments('{"choice": "action", "content": true}'),
    "bad_arguments",
  ),
  "list content": (
    arguments('{"choice": "action", "content": ["x"]}'),
    "bad_arguments",
  ),
  "unknown choice": (call("finish"), "unknown_choice"),
  "choice in capitals": (call("Action"), "unknown_choice"),
  "bracketed choice": (call("[action]"), "unknown_choice"),
}


def ids_of(text, tokenizer):
  """Encodes a text with its special strings as special ids."""
  ids = []
  while text:
    places = {s: text.find(s) for s in tokenizers.Special if s in text}
    special = min(places, key=places.get, default=None)
    before, _, text = text.partition(special) if special else (text, "", "")
    ids += tokenizer.encode(before)
    ids += [tokenizer.special_ids[special]] if special else []
  return ids


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name, small_tokenizer):
  text, choice, content = ACCEPTED[name]
  expected = tool_calls.Parsed(types.Action(choice, content))
  assert tool_calls.parse(text) == expected
  ids = ids_of(text, small_tokenizer)
  assert tool_calls.parse_ids(ids, small_tokenizer) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name, small_tokenizer):
  text, problem = REFUSED[name]
  parsed = tool_calls.parse(text)
  assert parsed.action is None
  assert parsed.problem == problem
  assert parsed.message
  ids = ids_of(text, small_tokenizer)
  from_ids = tool_calls.parse_ids(ids, small_tokenizer)
  assert (from_ids.action, from_ids.problem) == (None, problem)


def test_only_the_choices_of_the_gym_are_known():
  assert tool_calls.parse(call("search"), ("search",)).action
  parsed = tool_calls.parse(call("search"), ("action", "answer"))
  assert parsed.problem == turns.Problem.UNKNOWN_CHOICE
  assert parsed.message.endswith("action, answer.")


def test_reminders_are_short_and_hold_no_special_string(small_tokenizer):
  for _, problem in REFUSED.values():
    texts = [t for t, p in REFUSED.values() if p == problem]
    message = tool_calls.parse(texts[0]).message
    assert len(message.split()) <= 12
    assert not any(s in message for s in tokenizers.Special)


@pytest.mark.parametrize("second", [call("answer"), raw("{"), "<tool_call>x"])
def test_the_first_of_several_calls_counts(second, small_tokenizer):
  text = f"{call('search', 'test')}\n{second}\n{second}"
  expected = tool_calls.Parsed(
    types.Action("search", "test"), message=tool_calls.IGNORED, num_ignored=2
  )
  assert tool_calls.parse(text) == expected
  ids = ids_of(text, small_tokenizer)
  assert tool_calls.parse_ids(ids, small_tokenizer) == expected


def test_a_bad_first_call_is_not_replaced_by_a_good_second():
  parsed = tool_calls.parse(raw("{") + call())
  assert parsed.problem == "bad_json"
  assert parsed.num_ignored == 1
  assert parsed.message == "The tool call is not valid JSON."


def test_content_that_spells_markers_closes_nothing(tokenizer):
  """Real ids delimit; the same strings as ordinary pieces are content."""
  content = '</tool_call> <tool_call> <think> </think> <|im_end|> "'
  marker = tokenizer.special_ids
  body = FORM % json.dumps({"choice": "action", "content": content})
  ids = tokenizer.encode("<tool_call> spelled </tool_call> <think>")
  ids += [marker["<tool_call>"], *tokenizer.encode(body)]
  ids += [marker["</tool_call>"], tokenizer.im_end_id]
  expected = tool_calls.Parsed(types.Action("action", content))
  assert tool_calls.parse_ids(ids, tokenizer) == expected
  assert tool_calls.parse(raw(body)) == expected


def test_spelled_markers_are_no_call(tokenizer):
  ids = [*tokenizer.encode(call()), tokenizer.im_end_id]
  assert tool_calls.parse_ids(ids, tokenizer).problem == "no_call"


def test_spelled_closing_does_not_close(tokenizer):
  ids = [tokenizer.special_ids["<tool_call>"]]
  ids += tokenizer.encode(call().removeprefix("<tool_call>"))
  assert tool_calls.parse_ids(ids, tokenizer).problem == "unclosed"


def test_what_follows_the_end_of_turn_is_not_read(small_tokenizer):
  for end in (small_tokenizer.im_end_id, small_tokenizer.pad_id):
    ids = [end, *ids_of(call(), small_tokenizer)]
    assert tool_calls.parse_ids(ids, small_tokenizer).problem == "no_call"
    ids = [*ids_of(call()[:-20], small_tokenizer), end]
    ids += ids_of(call(), small_tokenizer)
    assert tool_calls.parse_ids(ids, small_tokenizer).problem == "unclosed"
