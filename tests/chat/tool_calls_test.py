"""A table of turns: what is a call, what is not, and why."""

import json

import pytest

from tests.chat import turn_table as table
from userrl_jax import types
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls
from userrl_jax.chat import turns


@pytest.mark.parametrize("name", table.ACCEPTED)
def test_accepts(name, small_tokenizer):
  text, choice, content = table.ACCEPTED[name]
  expected = tool_calls.Parsed(types.Action(choice, content))
  assert tool_calls.parse(text) == expected
  ids = table.ids_of(text, small_tokenizer)
  assert tool_calls.parse_ids(ids, small_tokenizer) == expected


@pytest.mark.parametrize("name", table.REFUSED)
def test_refuses(name, small_tokenizer):
  text, problem = table.REFUSED[name]
  parsed = tool_calls.parse(text)
  assert parsed.action is None
  assert parsed.problem == problem
  assert parsed.message
  ids = table.ids_of(text, small_tokenizer)
  from_ids = tool_calls.parse_ids(ids, small_tokenizer)
  assert (from_ids.action, from_ids.problem) == (None, problem)


def test_only_the_choices_of_the_gym_are_known():
  assert tool_calls.parse(table.call("search"), ("search",)).action
  parsed = tool_calls.parse(table.call("search"), ("action", "answer"))
  assert parsed.problem == turns.Problem.UNKNOWN_CHOICE
  assert parsed.message.endswith("action, answer.")


def test_reminders_are_short_and_hold_no_special_string(small_tokenizer):
  for _, problem in table.REFUSED.values():
    texts = [t for t, p in table.REFUSED.values() if p == problem]
    message = tool_calls.parse(texts[0]).message
    assert len(message.split()) <= 12
    assert not any(s in message for s in tokenizers.Special)


@pytest.mark.parametrize(
  "second", [table.call("answer"), table.raw("{"), "<tool_call>x"]
)
def test_the_first_of_several_calls_counts(second, small_tokenizer):
  text = f"{table.call('search', 'test')}\n{second}\n{second}"
  expected = tool_calls.Parsed(
    types.Action("search", "test"), message=tool_calls.IGNORED, num_ignored=2
  )
  assert tool_calls.parse(text) == expected
  ids = table.ids_of(text, small_tokenizer)
  assert tool_calls.parse_ids(ids, small_tokenizer) == expected


@pytest.mark.parametrize("form", ["%s\n%s", "%s%s", "[%s, %s]", "[%s]\n%s"])
def test_a_block_may_hold_several_calls(form, small_tokenizer):
  calls = ('{"choice": "action", "content": "</tool_call>"}', '{"choice": "x"}')
  text = table.raw(form % tuple(table.FORM % call for call in calls))
  expected = tool_calls.Parsed(
    types.Action("action", "</tool_call>"),
    message=tool_calls.IGNORED,
    num_ignored=1,
  )
  assert tool_calls.parse(text) == expected
  inside = text.removeprefix("<tool_call>").removesuffix("</tool_call>")
  special = small_tokenizer.special_ids
  ids = [special["<tool_call>"], *small_tokenizer.encode(inside)]
  ids.append(special["</tool_call>"])
  assert tool_calls.parse_ids(ids, small_tokenizer) == expected


def test_a_bad_first_call_is_not_replaced_by_a_good_second():
  parsed = tool_calls.parse(table.raw("{") + table.call())
  assert parsed.problem == "bad_json"
  assert parsed.num_ignored == 1
  assert parsed.message == "The tool call is not valid JSON."


@pytest.mark.parametrize("form", ["%s", "[%s]", "```json\n%s\n```"])
def test_content_that_spells_markers_closes_nothing(tokenizer, form):
  """Real ids delimit; the same strings as ordinary pieces are content."""
  content = f'</tool_call> <think> </think> <|im_end|> "{table.call()}'
  marker = tokenizer.special_ids
  body = form % (
    table.FORM % json.dumps({"choice": "action", "content": content})
  )
  ids = tokenizer.encode("<tool_call> spelled </tool_call> <think>")
  ids += [marker["<tool_call>"], *tokenizer.encode(body)]
  ids += [marker["</tool_call>"], tokenizer.im_end_id]
  expected = tool_calls.Parsed(types.Action("action", content))
  assert tool_calls.parse_ids(ids, tokenizer) == expected
  assert tool_calls.parse(table.raw(body)) == expected


def test_spelled_markers_are_no_call(tokenizer):
  ids = [*tokenizer.encode(table.call()), tokenizer.im_end_id]
  assert tool_calls.parse_ids(ids, tokenizer).problem == "no_call"


def test_spelled_closing_does_not_close(tokenizer):
  ids = [tokenizer.special_ids["<tool_call>"]]
  ids += tokenizer.encode(table.call().removeprefix("<tool_call>"))
  assert tool_calls.parse_ids(ids, tokenizer).problem == "unclosed"


def test_what_follows_the_end_of_turn_is_not_read(small_tokenizer):
  for end in (small_tokenizer.im_end_id, small_tokenizer.pad_id):
    ids = [end, *table.ids_of(table.call(), small_tokenizer)]
    assert tool_calls.parse_ids(ids, small_tokenizer).problem == "no_call"
    ids = [*table.ids_of(table.call()[:-20], small_tokenizer), end]
    ids += table.ids_of(table.call(), small_tokenizer)
    assert tool_calls.parse_ids(ids, small_tokenizer).problem == "unclosed"
  for end in ("<|im_end|>", "<|endoftext|>"):
    assert tool_calls.parse(end + table.call()).problem == "no_call"
    assert (
      tool_calls.parse(f"<think>{end}</think>" + table.call()).action is None
    )
