"""Ids of dialogues against the published template and read as text."""

import random

import pytest

from userrl_jax import types
from userrl_jax.chat import qwen3
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls

CHOICES = (("action",), ("action", "answer"), types.CHOICES, ())


@pytest.mark.parametrize("seed", range(80))
def test_ids_equal_the_published_template(
  seed, real_tokenizer, published, make_text
):
  rng = random.Random(seed)
  choices = CHOICES[seed % 4]
  thinking = seed % 3 != 0

  def text(can_be_empty=True):
    made = make_text(rng.randrange(10**6), specials=False)
    return made if made.strip() or can_be_empty else "ok"

  chat = qwen3.Chat(real_tokenizer, "full")
  system, user = text(), text()
  messages = [{"role": "system", "content": system}] if system else []
  messages.append({"role": "user", "content": user})
  ids = chat.prompt_ids(system, user, choices)
  num_turns = rng.randrange(5)
  last_user = rng.randrange(num_turns + 1) if seed % 5 == 0 else 0
  for turn in range(num_turns):
    # The template drops the thoughts that precede the last user message.
    has_thought = thinking and choices and turn >= last_user
    thought = text(False).strip("\n") or "hm" if has_thought else ""
    said = text().lstrip("\n") if rng.random() < 0.3 else ""
    message = {"role": "assistant", "content": said}
    if thought:
      message["reasoning_content"] = thought
    if choices:
      action = types.Action(rng.choice(choices), text())
      arguments = {"choice": action.choice, "content": action.content}
      function = {"name": "interact_with_env", "arguments": arguments}
      message["tool_calls"] = [{"type": "function", "function": function}]
      ids += chat.call_ids(action, thought, said)
    else:
      ids += chat.text_turn_ids(said, thought)
    messages.append(message)
    if turn + 1 == last_user or not choices:
      words = text()
      messages.append({"role": "user", "content": words})
      ids += chat.user_bridge_ids(words)
    else:
      observations = [text() for _ in range(rng.choice((1, 1, 2)))]
      messages += [{"role": "tool", "content": o} for o in observations]
      ids += chat.bridge_ids(*observations)
  tools = [tool_calls.schema(choices)] if choices else None
  expected = published.apply_chat_template(
    messages, tools=tools, add_generation_prompt=True, return_dict=False
  )
  assert ids == expected


def test_the_end_of_a_thinking_dialogue_equals_the_template(
  real_tokenizer, published
):
  chat = qwen3.Chat(real_tokenizer)
  ids = chat.prompt_ids("", "Hi", ()) + chat.text_turn_ids("Yes.", "Well")
  messages = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "<think>\nWell\n</think>\n\nYes."},
  ]
  expected = published.apply_chat_template(messages, return_dict=False)
  assert ids + real_tokenizer.encode("\n") == expected


def test_closed_thinking_equals_the_template(real_tokenizer, published):
  chat = qwen3.Chat(real_tokenizer, thinking=False)
  expected = published.apply_chat_template(
    [{"role": "user", "content": "Hi"}],
    add_generation_prompt=True,
    enable_thinking=False,
    return_dict=False,
  )
  assert chat.prompt_ids("", "Hi", ()) == expected
  tail = expected[expected.index(real_tokenizer.im_end_id) + 2 :]
  assert chat.bridge_ids("ok")[-len(tail) :] == tail


def test_brief_tool_block_is_short_and_complete(real_tokenizer):
  chat = qwen3.Chat(real_tokenizer, "brief")
  ids = chat.prompt_ids("S", "U", types.CHOICES)
  plain = chat.prompt_ids("S", "U", ())
  assert len(ids) - len(plain) <= 40
  text = real_tokenizer.decode(ids)
  assert '"name": "interact_with_env"' in text
  assert "action|answer|search" in text
  offered = real_tokenizer.decode(chat.prompt_ids("S", "U", ("answer",)))
  assert '"choice": "answer"' in offered and "search" not in offered


def test_profiles_share_all_but_the_tool_block(tokenizer):
  full = qwen3.Chat(tokenizer, "full")
  brief = qwen3.Chat(tokenizer, "brief")
  action = types.Action("answer", "23")
  assert full.bridge_ids("ok") == brief.bridge_ids("ok")
  assert full.call_ids(action) == brief.call_ids(action)
  assert full.prompt_ids("S", "U", ()) == brief.prompt_ids("S", "U", ())
  assert full.prompt_ids("S", "U", ("answer",)) != brief.prompt_ids(
    "S", "U", ("answer",)
  )


def test_the_pieces_of_a_dialogue_read_as_qwen3_writes_them(tokenizer):
  chat = qwen3.Chat(tokenizer, "brief")
  ids = chat.prompt_ids("S", "U", ("action", "answer"))
  ids += chat.call_ids(types.Action("action", '1 "2"\n'), "T", "Hm")
  ids += chat.bridge_ids("= 23", "late")
  ids += chat.text_turn_ids("Bye")
  ids += chat.user_bridge_ids("Wait")
  assert tokenizer.decode(ids) == (
    "<|im_start|>system\nS\n\nReply:\n<tool_call>\n"
    '{"name": "interact_with_env", "arguments": '
    '{"choice": "action|answer", "content": "..."}}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    "<think>\nT\n</think>\n\nHm\n<tool_call>\n"
    '{"name": "interact_with_env", "arguments": '
    '{"choice": "action", "content": "1 \\"2\\"\\n"}}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\n<tool_response>\n= 23\n</tool_response>\n"
    "<tool_response>\nlate\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\nBye<|im_end|>\n"
    "<|im_start|>user\nWait<|im_end|>\n<|im_start|>assistant\n"
  )


def test_special_ids_come_from_the_format_alone(tokenizer, make_text):
  """The markers of a dialogue are the same whatever its texts say."""
  special_ids = set(tokenizer.special_ids.values())

  def markers(chat, system, user, content, said, observation):
    ids = chat.prompt_ids(system, user, types.CHOICES)
    ids += chat.call_ids(types.Action("action", content), said, said)
    ids += chat.bridge_ids(observation)
    ids += chat.text_turn_ids(said)
    ids += chat.user_bridge_ids(observation)
    return [i for i in ids if i in special_ids]

  for profile in qwen3.PROFILES:
    chat = qwen3.Chat(tokenizer, profile)
    expected = markers(chat, "S", "U", "C", "T", "O")
    for seed in range(60):
      texts = [make_text(7 * seed + i, specials=True) or "x" for i in range(5)]
      assert markers(chat, *texts) == expected


def test_calls_parse_back_to_their_action(tokenizer, make_text):
  chat = qwen3.Chat(tokenizer, "brief")
  for seed in range(150):
    content = make_text(seed, specials=True)
    if isinstance(tokenizer, tokenizers.HuggingFaceTokenizer):
      content = tokenizer.decode(tokenizer.encode(content))  # composed form
    action = types.Action(types.CHOICES[seed % 3], content)
    thought = make_text(seed + 1, specials=True)
    ids = chat.call_ids(action, thought)
    assert tool_calls.parse_ids(ids, tokenizer).action == action
    ids = chat.call_ids(action)
    assert ids[-1] == tokenizer.im_end_id
    assert tool_calls.parse(tokenizer.decode(ids)).action == action


def test_a_small_tokenizer_writes_short_turns(small_tokenizer):
  chat = qwen3.Chat(small_tokenizer, "brief")
  ids = chat.call_ids(types.Action("action", "3 2 10 23"))
  assert len(ids) == 6 + 7  # the form, four numbers and three spaces


def test_refuses_unknown_profiles_and_choices(small_tokenizer):
  with pytest.raises(ValueError, match="full, brief, got 'short'"):
    qwen3.Chat(small_tokenizer, "short")
  with pytest.raises(ValueError, match="finish"):
    qwen3.Chat(small_tokenizer).prompt_ids("", "", ("finish",))


@pytest.mark.parametrize("profile", qwen3.PROFILES)
def test_a_system_turn_can_be_a_few_pieces(profile):
  system, choices = "Guess the word.", ("action", "answer")
  phrases = qwen3.prompt_phrases(profile, system, choices)
  tokenizer = tokenizers.train_sentencepiece(
    ["Guess"], 512, [*qwen3.PHRASES, *phrases]
  )
  plain = tokenizers.train_sentencepiece(["Guess"], 512, qwen3.PHRASES)
  ids, longer = (
    qwen3.Chat(t, profile).prompt_ids(system, "Hello.", choices)
    for t in (tokenizer, plain)
  )
  assert tokenizer.decode(ids) == plain.decode(longer)
  body = tokenizer.encode("user\n")[0]
  text_ids = [
    i for i in ids[: ids.index(body)] if i not in tokenizer.special_ids.values()
  ]
  # "system\n", the phrases, and the line break between the two turns.
  assert len(text_ids) == 1 + len(phrases) + 1
  assert len(ids) < len(longer) / 2
