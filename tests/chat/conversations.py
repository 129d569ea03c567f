"""Makes conversations as plain data: OpenAI-style messages and tools.

A conversation is {"messages": [...], "tools": [...], "thinking": bool}, made
from its seed alone. Every assistant message has a `reasoning_content`, empty
for no thought, so that the published template takes its `content` for text.
"""

from collections.abc import Iterator
import json
import random
from typing import Any

from userrl_jax.chat import tool_calls

COUNT = 300
NUM_LONG = 20_000  # characters of a very long text

# All added tokens of the published tokenizer, not only those of the chat.
SPECIALS = (
  *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
  *("<|object_ref_start|>", "<|object_ref_end|>"),
  *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
  *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
  *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
  *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
  *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
  *("<think>", "</think>"),
)

_WORDS = (
  *("the ", "four ", "it's ", "f(1, -2)", " = 23", "3.5", "1234567", "I'LL"),
  *("Ärger ", "naïve ", "Ω ", "Привет ", "שלום ", "مرحبا ", "नमस्ते ", "สวัสดี "),
  *("漢字", "かな", "カナ", "한국어 ", "각", "ℵ₀ ", "ﬁ", "½ "),
  *(
    "🙂",
    "👩‍👩‍👧",
    "🏳️‍🌈",
    "👍🏽",
    "🇩🇪",
    "e\u0301",
    "a\u0308\u0301",
    "q\u0323\u0307",
  ),
  *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u200b", "\u2028"),
  *('"', "'", "\\", "\\n", "{", "}}\n", '"}}\n', "[", "\\u0041", '": "', "/*"),
  *(
    "\u2581",
    "\u2581a",
    " \u2581 ",
    "<0x41>",
    "<unk>",
    "<s>",
    "</s>",
    "\ufffd",
  ),
  *(
    "\u0000",
    "\u0007",
    "\u001f",
    "\ufeff",
    "<|im_start",
    "im_end|>",
    "< think>",
  ),
  *(
    "<tools>",
    "</tools>",
    "user\n",
    "assistant\n",
    "system\n",
    '{"name": "f"}',
  ),
)
_RESULTS = ("search", {"x": [1, 2.5, None, True], "y": {}}, [], "", -7, 1e-5)


def all_of_them() -> list[dict[str, Any]]:
  """Returns the conversations of the seeds 0 to 299."""
  return [make(seed) for seed in range(COUNT)]


def make(seed: int) -> dict[str, Any]:
  """Returns the conversation of a seed; a fifth of them spell specials."""
  rng = random.Random(f"conversation|{seed}")
  thinking = seed % 10 != 3 and seed % 50 != 9
  thoughts = {0: "none", 4: "none", 8: "all"}.get(seed % 12, "late")
  makes_text = _TextMaker(rng, seed % 5 == 4, is_tidy=seed % 9 != 0)
  tools = _tools(rng, makes_text) if seed % 3 else []
  messages: list[dict[str, Any]] = []
  if rng.random() < 0.6:
    messages.append({"role": "system", "content": makes_text()})
  messages.append({"role": "user", "content": makes_text()})
  num_turns = rng.randint(1, 6) if thinking else 1 + (seed // 10 % 3 == 0)
  ends_in_turn = seed % 4 == 0 or (not thinking and num_turns == 1)
  for turn in range(num_turns):
    messages.append(_assistant(rng, makes_text, tools))
    if turn + 1 < num_turns or not ends_in_turn:
      messages += _answers(rng, makes_text, messages[-1])
  if seed % 15 == 7:  # 7, 22, ...: with and without tools, of any kind
    rng.choice(messages)["content"] = makes_text.long(seed)
  last_user = max(i for i, m in enumerate(messages) if m["role"] == "user")
  for i, message in enumerate(messages):
    if message["role"] == "assistant":
      has = thoughts == "all" or (thoughts == "late" and i > last_user)
      has = has or (makes_text.is_tidy and message is messages[-1])
      thought = makes_text.thought() if has and thinking else ""
      message["reasoning_content"] = thought
      if makes_text.is_tidy:
        message["content"] = message["content"].lstrip()
  return {"messages": messages, "tools": tools, "thinking": thinking}


def strings(data: Any) -> Iterator[str]:
  """Yields every string in plain data, keys included."""
  if isinstance(data, str):
    yield data
  elif isinstance(data, dict):
    for key, value in data.items():
      yield key
      yield from strings(value)
  elif isinstance(data, list):
    for value in data:
      yield from strings(value)


def without_specials(data: Any) -> Any:
  """Returns plain data with every special string in it spelt otherwise."""
  if isinstance(data, str):
    for special in SPECIALS:
      data = data.replace(special, special[1:])
    return data
  if isinstance(data, dict):
    return {key: without_specials(value) for key, value in data.items()}
  if isinstance(data, list):
    return [without_specials(value) for value in data]
  return data


def spells_specials(data: Any) -> bool:
  """Returns whether any string in plain data holds a special string."""
  return any(special in text for text in strings(data) for special in SPECIALS)


class _TextMaker:
  """Makes awkward texts: empty, white space, short, long."""

  def __init__(self, rng: random.Random, specials: bool, is_tidy: bool):
    self.is_tidy = is_tidy  # no line breaks where the template strips some
    self._rng = rng
    self._words = _WORDS + (SPECIALS * 2 if specials else ())

  def __call__(self) -> str:
    length = self._rng.choice((0, 1, 2, 5, 12, 30, 80))
    text = "".join(self._rng.choices(self._words, k=length))
    return text + self._rng.choice(("", "", "", " ", "\n"))

  def thought(self) -> str:
    text = self()
    return (text.strip("\n") if self.is_tidy else text) or "hm"

  def long(self, seed: int) -> str:
    """Returns one word over and over, or many."""
    num_words = 1 if seed % 2 else NUM_LONG
    words = self._rng.choices(self._words, k=num_words)
    return "".join(words * (NUM_LONG // num_words))[:NUM_LONG]


def _tools(rng: random.Random, makes_text: _TextMaker) -> list[dict[str, Any]]:
  """Returns one to four tools: the gyms' one, and others of any schema."""
  nested = {
    "type": "object",
    "properties": {"größe": {"type": ["number", "null"], "default": 1.0}},
    "additionalProperties": False,
  }
  text = {"type": "string", "description": makes_text(), "enum": ["a", "ß"]}
  schemas = {
    "get_weather": {"type": "object", "properties": {"city": text}},
    "no-arguments": {"type": "object", "properties": {}},
    "plan.trip_2": {"properties": {"where": nested, "x": text}, "required": []},
  }
  tools = [tool_calls.schema(("action", "answer"))]
  for name, parameters in schemas.items():
    function = {"name": name, "description": makes_text()}
    function["parameters"] = parameters
    tools.append({"type": "function", "function": function})
  return rng.sample(tools, rng.randint(1, 4))


def _assistant(
  rng: random.Random, makes_text: _TextMaker, tools: list[dict[str, Any]]
) -> dict[str, Any]:
  """Returns a message with a text, calls or both."""
  message = {"role": "assistant", "content": makes_text()}
  if tools and rng.random() < 0.7:
    if rng.random() < 0.6:
      message["content"] = ""
    calls = [_call(rng, makes_text, tools) for _ in range(_few(rng))]
    message["tool_calls"] = calls
  return message


def _call(
  rng: random.Random, makes_text: _TextMaker, tools: list[dict[str, Any]]
) -> dict[str, Any]:
  name = rng.choice(tools)["function"]["name"]
  keys = rng.sample(["choice", "content", "city", "größe", "a b"], 3)
  values = [makes_text(), makes_text(), rng.choice(_RESULTS)]
  arguments: Any = dict(list(zip(keys, values))[: rng.randint(0, 3)])
  form = rng.randrange(4)
  if form == 0:  # clients send strings, and not all as Python spaces them
    arguments = json.dumps(arguments, ensure_ascii=False)
  elif form == 1:
    arguments = json.dumps(arguments, indent=1)
  return {
    "type": "function",
    "function": {"name": name, "arguments": arguments},
  }


def _answers(
  rng: random.Random, makes_text: _TextMaker, message: dict[str, Any]
) -> list[dict[str, Any]]:
  """Returns what a turn is answered with: responses, users' words, or both."""
  answers = [
    {"role": "tool", "content": makes_text()}
    for _ in message.get("tool_calls", ())
  ]
  if not answers or rng.random() < 0.1:
    for _ in range(_few(rng) if rng.random() < 0.2 else 1):
      answers.append({"role": "user", "content": makes_text()})
  if rng.random() < 0.05:
    answers.append({"role": "system", "content": makes_text()})
  return answers


def _few(rng: random.Random) -> int:
  return rng.choice((1, 1, 1, 2, 3))
