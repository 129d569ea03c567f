"""300 conversations as ids, against the published template and read back.

Our ids are built as an episode builds them: piece by piece into a ledger. The
template renders whole conversations. It renders another text than the one that
was read and sampled in these cases (`keeps_words` is their negation):

  - a thought before the last user message: the template drops it
  - line breaks around a thought, and before the text that follows it: stripped
  - the conversation ends in an assistant turn without a thought, thinking on:
    an empty think block is put in
  - thinking off: the empty think block that opened earlier turns is left out

Where a turn without a thought begins with white space that holds a line break,
the text is the same and tokens may not be: those of the template run over the
border to what was sampled (`keeps_borders` is the negation).

Apart from those, texts that spell special tokens cannot be compared, because
the template makes special tokens of them; ours do not.
"""

import collections
import itertools
import re
import unicodedata

import pytest

from tests.chat import conversations
from userrl_jax.chat import ledger as ledger_lib
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls
from userrl_jax.chat import turns

ALL = conversations.all_of_them()
# As the published tokenizer splits texts; to it these four are no white space.
LINE_BREAK_FIRST = re.compile(r"[^\S\x1c-\x1f]*[\r\n]")


def keeps_words(conversation) -> bool:
  """Returns whether the template renders the text that was read and sampled."""
  messages, thinking = conversation["messages"], conversation["thinking"]
  last_user = max(i for i, m in enumerate(messages) if m["role"] == "user")
  for i, message in enumerate(messages):
    if message["role"] != "assistant":
      continue
    is_last = i + 1 == len(messages)
    thought, text = message["reasoning_content"], message["content"]
    if thought:
      kept = i > last_user and thought == thought.strip("\n")
      kept = kept and not text.startswith("\n")
    elif thinking:
      kept = i < last_user or not is_last
    else:
      kept = i > last_user and is_last and not text.startswith("\n")
    if not kept:
      return False
  return True


def keeps_borders(conversation) -> bool:
  """Returns whether no token can run over the border to a sampled text."""
  for message in conversation["messages"]:
    if message["role"] == "assistant" and not message["reasoning_content"]:
      text = message["content"]
      if text and message.get("tool_calls"):
        text += "\n"
      if LINE_BREAK_FIRST.match(text):
        return False
  return True


def keeps_history(conversation) -> bool:
  """Returns whether the template renders what was read and sampled."""
  return keeps_words(conversation) and keeps_borders(conversation)


def kinds(conversation) -> set[str]:
  """Returns what is in a conversation."""
  messages = conversation["messages"]
  said = [m for m in messages if m["role"] == "assistant"]
  calls = [m.get("tool_calls", ()) for m in said]
  roles = [m["role"] for m in messages]
  texts = list(conversations.strings(messages))
  contents = [m["content"] for m in messages]
  holds = {
    "thinking off": not conversation["thinking"],
    "system": roles[0] == "system",
    "no system": roles[0] != "system",
    "system later": "system" in roles[1:],
    "tools": bool(conversation["tools"]),
    "several tools": len(conversation["tools"]) > 1,
    "no tools, several turns": not conversation["tools"] and len(said) > 1,
    "call": any(calls),
    "several calls": any(len(c) > 1 for c in calls),
    "text and call": any(m["content"] and c for m, c in zip(said, calls)),
    "thought and text": any(
      m["reasoning_content"] and m["content"] and not c
      for m, c in zip(said, calls)
    ),
    "thought and call": any(
      m["reasoning_content"] and c for m, c in zip(said, calls)
    ),
    "responses in a row": ("tool", "tool") in itertools.pairwise(roles),
    "user after response": ("tool", "user") in itertools.pairwise(roles),
    "user twice": ("user", "user") in itertools.pairwise(roles),
    "several turns": len(said) > 1,
    "six turns": len(said) == 6,
    "ends in a turn": roles[-1] == "assistant",
    "empty": "" in contents,
    "white space around": any(t != t.strip() for t in contents),
    "very long": any(len(t) >= conversations.NUM_LONG for t in texts),
    "not composed": any(not unicodedata.is_normalized("NFC", t) for t in texts),
    "U+2581": any("\u2581" in t for t in texts),
  }
  return {kind for kind, holding in holds.items() if holding}


def play(chat, conversation):
  """Writes a conversation piece by piece, as an episode does.

  Returns:
    the ledger, and [(number of messages, number of ids)] at each opening of a
    turn, the one that would follow included.
  """
  ledger = ledger_lib.Ledger()
  waiting: list[messages_lib.Message] = []
  openings = []
  num_turns = 0

  def read():
    if num_turns:
      ledger.read(chat.next_ids(waiting))
    else:
      ledger.read(chat.dialogue_ids(waiting, conversation["tools"]))

  messages = messages_lib.from_openai(conversation["messages"])
  for i, message in enumerate(messages):
    if message.role != "assistant":
      waiting.append(message)
      continue
    read()
    openings.append((i, len(ledger)))
    waiting = []
    ids = chat.turn_ids(message.text, message.thought, message.calls)
    ledger.sample(ids, [-1.0] * len(ids), num_turns)
    num_turns += 1
  if waiting:
    read()
    openings.append((len(messages), len(ledger)))
  return ledger, openings


def published_ids(published, conversation, num_messages=None, **kwargs):
  messages = conversation["messages"][:num_messages]
  return published.apply_chat_template(
    messages,
    tools=conversation["tools"] or None,
    add_generation_prompt=messages[-1]["role"] != "assistant",
    enable_thinking=conversation["thinking"],
    **{"return_dict": False, **kwargs},
  )


def spells_nothing(conversation) -> bool:
  return not conversations.spells_specials(conversation)


def test_ids_equal_the_published_template(real_tokenizer, published):
  counts, turns_compared = collections.Counter(), 0
  line_break = real_tokenizer.encode("\n")
  for seed, conversation in enumerate(ALL):
    if not spells_nothing(conversation):
      continue
    chat = qwen3.Chat(real_tokenizer, thinking=conversation["thinking"])
    ledger, openings = play(chat, conversation)
    for num_messages, num_ids in openings:
      part = {
        **conversation,
        "messages": conversation["messages"][:num_messages],
      }
      if keeps_history(part):
        expected = published_ids(published, part)
        assert list(ledger.token_ids[:num_ids]) == expected, seed
        turns_compared += 1
    if keeps_history(conversation):
      ids = list(ledger.token_ids)
      if conversation["messages"][-1]["role"] == "assistant":
        ids += line_break  # the next piece brings it
      assert ids == published_ids(published, conversation), seed
      counts.update(["all", *kinds(conversation)])
  assert counts["all"] >= 200
  assert turns_compared >= 600
  rare = {k: counts[k] for c in ALL for k in kinds(c) if counts[k] < 5}
  assert not rare


def test_the_template_rewrites_all_other_histories(real_tokenizer, published):
  """The predicate leaves out no conversation that could be compared."""
  others = [c for c in ALL if spells_nothing(c) and not keeps_words(c)]
  assert len(others) >= 20
  for conversation in others:
    chat = qwen3.Chat(real_tokenizer, thinking=conversation["thinking"])
    ids = list(play(chat, conversation)[0].token_ids)
    if conversation["messages"][-1]["role"] == "assistant":
      ids += real_tokenizer.encode("\n")
    assert ids != published_ids(published, conversation)


def test_a_whole_dialogue_has_the_ids_of_its_ledger(tokenizer):
  compared = 0
  for conversation in ALL:
    chat = qwen3.Chat(tokenizer, thinking=conversation["thinking"])
    messages = messages_lib.from_openai(conversation["messages"])
    if messages[-1].role != "assistant":
      ids = chat.dialogue_ids(messages, conversation["tools"])
      assert tuple(ids) == play(chat, conversation)[0].token_ids
      compared += 1
  assert compared >= 200


def test_special_strings_in_texts_are_text(tokenizer):
  """Markers come from the format alone, whatever the texts say."""
  special_ids = set(tokenizer.special_ids.values())
  spelling = [c for c in ALL if not spells_nothing(c)]
  assert len(spelling) >= 55
  spelt = set()
  for conversation in spelling:
    chat = qwen3.Chat(tokenizer, thinking=conversation["thinking"])
    plain = conversations.without_specials(conversation)
    assert spells_nothing(plain)
    found, expected = (
      [i for i in play(chat, c)[0].token_ids if i in special_ids]
      for c in (conversation, plain)
    )
    assert found == expected
    for text in conversations.strings(conversation):
      ids = tokenizer.encode(text)
      assert special_ids.isdisjoint(ids)
      assert tokenizer.decode(ids) == composed(text, tokenizer)
      spelt |= {s for s in conversations.SPECIALS if s in text}
  assert spelt == set(conversations.SPECIALS)
  assert spelt >= tokenizer.special_ids.keys()


def test_ids_read_as_the_template_writes(real_tokenizer, published):
  """Our ids say the template's text, special strings and borders or not."""
  counts = collections.Counter()
  for conversation in ALL:
    # The template takes a user's text in these markers for a tool's.
    wrapped = any(
      m["role"] == "user" and m["content"].startswith("<tool_response>")
      for m in conversation["messages"]
    )
    if wrapped or not keeps_words(conversation):
      continue
    chat = qwen3.Chat(real_tokenizer, thinking=conversation["thinking"])
    text = real_tokenizer.decode(play(chat, conversation)[0].token_ids)
    if conversation["messages"][-1]["role"] == "assistant":
      text += "\n"
    expected = published_ids(published, conversation, tokenize=False)
    assert text == unicodedata.normalize("NFC", expected)
    counts["spells"] += not spells_nothing(conversation)
    counts["runs over"] += not keeps_borders(conversation)
  assert counts["spells"] >= 30 and counts["runs over"] >= 3


def test_turns_are_read_back(tokenizer):
  """What was thought, said and called comes out of the ids as it went in."""
  num_calls = 0
  for conversation in ALL:
    chat = qwen3.Chat(tokenizer)
    for message in messages_lib.from_openai(conversation["messages"]):
      if message.role != "assistant":
        continue
      expected = turns.Turn(
        composed(message.thought, tokenizer),
        composed(message.text, tokenizer),
        tuple(
          turns.Call(c.name, composed(c.arguments, tokenizer))
          for c in message.calls
        ),
      )
      ids = chat.turn_ids(message.text, message.thought, message.calls)
      turn = turns.read_ids(ids, tokenizer)
      assert turn == expected
      if spells_nothing(conversation):
        assert turns.read(tokenizer.decode(ids)) == expected
      (back,) = messages_lib.from_openai([messages_lib.to_openai(turn)])
      assert (back.text, back.thought, back.calls) == (
        *(expected.text, expected.thought, expected.calls),
      )
      num_calls += len(turn.calls)
  assert num_calls >= 500


def test_the_built_in_tokenizer_round_trips_every_text(small_tokenizer):
  texts = {text for c in ALL for text in conversations.strings(c)}
  assert len(texts) > 2000 and any("\u2581" in text for text in texts)
  for text in texts:
    assert small_tokenizer.decode(small_tokenizer.encode(text)) == text


@pytest.mark.parametrize("thinking", [True, False])
def test_the_gyms_tool_is_a_case_of_any_tools(tokenizer, thinking):
  """Only where it stands alone, as it is, a brief prompt shortens it."""
  full, brief = (qwen3.Chat(tokenizer, p, thinking) for p in qwen3.PROFILES)
  dialogue = [
    messages_lib.Message("system", "S"),
    messages_lib.Message("user", "U"),
  ]
  tool = tool_calls.schema(("answer",))
  other = {"type": "function", "function": {**tool["function"], "name": "f"}}
  for tools in ([other], [tool, tool], [tool, other]):
    ids = brief.dialogue_ids(dialogue, tools)
    assert ids == full.dialogue_ids(dialogue, tools)
  for chat in (full, brief):
    ids = chat.prompt_ids("S", "U", ("answer",))
    assert chat.dialogue_ids(dialogue, [tool]) == ids
    is_brief = "Reply:" in tokenizer.decode(ids)
    assert is_brief == (chat is brief)
    assert chat.prompt_ids("", "U", ()) == chat.dialogue_ids(dialogue[1:])


def composed(text, tokenizer):
  """Returns a text as the tokenizer gives it back."""
  if isinstance(tokenizer, tokenizers.HuggingFaceTokenizer):
    return unicodedata.normalize("NFC", text)
  return text
