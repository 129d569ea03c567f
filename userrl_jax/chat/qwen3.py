"""Writes a dialogue as ids in the Qwen3 chat format, piece by piece.

In: messages and tools, or texts of tasks and users and actions of
demonstrations. Out: the ids to append to a ledger; history is never rendered
again (law L1):

  dialogue_ids  system turn with the tool block, turns so far, opening of a turn
  (sampled)     ... <|im_end|>        or turn_ids
  next_ids      line break, tool responses or others' turns, opening of a turn
  (sampled)     ...

The gyms' dialogues are a case of it: one tool, and after the prompt nothing but
tool responses (`prompt_ids`, `call_ids`, `bridge_ids`).

Markers such as <|im_start|> are special ids because this file writes them;
inside the given texts they are ordinary text. With the profile "full" the ids
equal those of the published template wherever it renders the same history. It
does not where it rewrites what was said: thoughts before the last user message
are dropped, line breaks around others and after them are stripped, a last
assistant turn without a thought gets an empty think block, and with
`enable_thinking=False` only the turn to come has one. A stream keeps all that,
and the border between what was read and what was sampled, where the template
melts a turn's leading line break into the one before it.
"""

from collections.abc import Mapping, Sequence
import itertools
import json
from typing import Any

from userrl_jax import types
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls
from userrl_jax.chat import turns

PROFILES = ("full", "brief")

_CALL_HEAD = f'\n{{"name": "{tool_calls.TOOL_NAME}", "arguments": {{"choice": "'
_CALL_CONTENT = '", "content": "'
_CALL_TAIL = '"}}\n'

PHRASES = (
  _CALL_HEAD,
  *(choice + _CALL_CONTENT for choice in types.CHOICES),
  _CALL_TAIL,
  "system\n",
  "user\n",
  "assistant\n",
)  # what a small tokenizer may treat as single pieces: a turn gets short


class Chat:
  """Writes dialogues for one tokenizer in one profile.

  Args:
    tokenizer: of any kind.
    profile: "full" writes the published template's tool block, with the JSON
      schemas of the tools; "brief" only the form of a call with its choices
      where the gyms' one tool is all there is.
    thinking: False closes thinking before every sampled turn, as the template
      does with `enable_thinking=False`: the empty think block is read, not
      sampled.

  Raises:
    ValueError: when the profile is unknown.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    profile: str = "full",
    thinking: bool = True,
  ):
    if profile not in PROFILES:
      raise ValueError(
        f"chat.profile must be one of {', '.join(PROFILES)}, got {profile!r}"
      )
    self.tokenizer = tokenizer
    self.profile = profile
    self.thinking = thinking

  def dialogue_ids(
    self,
    messages: Sequence[messages_lib.Message],
    tools: Sequence[Mapping[str, Any]] = (),
  ) -> list[int]:
    """Writes all that is read before a turn: the ids that a ledger would hold.

    Args:
      messages: so far, a system message first if there is one.
      tools: as in OpenAI's `tools`, of any schema.
    """
    system = None
    if messages and messages[0].role == "system":
      system = messages[0].text
      messages = messages[1:]
    parts = _system_parts(self.profile, system, tools)
    if system is not None or tools:
      parts = [_IM_START, "system\n", *parts, _IM_END, "\n"]
    return self._history_ids(parts, messages)

  def turn_ids(
    self, text: str = "", thought: str = "", calls: Sequence[turns.Call] = ()
  ) -> list[int]:
    """Writes an assistant turn as it would be sampled.

    Args:
      text: said before the calls.
      thought: of a think block before it; empty for none.
      calls: of any tools.

    Returns:
      ids through `<|im_end|>`.
    """
    return self._ids(*_turn_parts(text, thought, calls), _IM_END)

  def next_ids(self, messages: Sequence[messages_lib.Message]) -> list[int]:
    """Writes what stands between two sampled turns: any messages."""
    return self._history_ids(["\n"], messages)

  def prompt_ids(
    self, system: str, user: str, choices: Sequence[str]
  ) -> list[int]:
    """Writes all that the agent reads before its first turn in a gym.

    Args:
      system: the gym's system text; empty for none.
      user: the first observation.
      choices: what the gym offers; empty for a dialogue without the tool.

    Raises:
      ValueError: when a choice is not one of `types.CHOICES`.
    """
    unknown = [c for c in choices if c not in types.CHOICES]
    if unknown:
      raise ValueError(
        f"choices must be among {', '.join(types.CHOICES)}, got {unknown}"
      )
    messages = [messages_lib.Message("system", system)] if system else []
    messages.append(messages_lib.Message("user", user))
    return self.dialogue_ids(messages, _tools(choices))

  def call_ids(
    self, action: types.Action, thought: str = "", text: str = ""
  ) -> list[int]:
    """Writes an assistant turn that calls the gyms' tool."""
    return self.turn_ids(text, thought, [tool_calls.write(action)])

  def text_turn_ids(self, text: str, thought: str = "") -> list[int]:
    """Writes an assistant turn of plain text, through `<|im_end|>`."""
    return self.turn_ids(text, thought)

  def bridge_ids(self, *observations: str) -> list[int]:
    """Writes what stands between two sampled turns: tool responses.

    Args:
      *observations: one, or one for each call of the turn.
    """
    return self.next_ids(
      [messages_lib.Message("tool", text) for text in observations]
    )

  def user_bridge_ids(self, text: str) -> list[int]:
    """Writes what stands between two sampled turns: a user's plain words."""
    return self.next_ids([messages_lib.Message("user", text)])

  def _opening(self) -> list[str]:
    """Returns the opening of an assistant turn (the generation prompt)."""
    opening = [_IM_START, "assistant\n"]
    if self.thinking:
      return opening
    return [*opening, _THINK, "\n\n", _THINK_END, "\n\n"]

  def _history_ids(
    self, parts: list[str], messages: Sequence[messages_lib.Message]
  ) -> list[int]:
    """Encodes parts, messages and the opening of a turn, as a ledger would.

    A text that was sampled is encoded apart from what was read before it.
    """
    ids: list[int] = []
    for role, run in itertools.groupby(messages, lambda m: m.role):
      if role == "tool":  # responses in a row share a turn
        parts += [_IM_START, "user"]
        for m in run:
          parts += ["\n", _RESPONSE, f"\n{m.text}\n", _RESPONSE_END]
        parts += [_IM_END, "\n"]
        continue
      for m in run:
        if role == "assistant":
          parts += [_IM_START, "assistant\n"] if m.thought else self._opening()
          ids += self._ids(*parts)
          ids += self.turn_ids(m.text, m.thought, m.calls)
          parts = ["\n"]
        else:
          parts += [_IM_START, f"{role}\n{m.text}", _IM_END, "\n"]
    return ids + self._ids(*parts, *self._opening())

  def _ids(self, *parts: str) -> list[int]:
    """Encodes parts; text between two markers is encoded in one go."""
    ids: list[int] = []
    for marker, text in _merged(parts):
      if marker is not None:
        ids.append(self.tokenizer.special_ids[marker])
      ids += self.tokenizer.encode(text)
    return ids


def system_text(
  profile: str, system: str, tools: Sequence[Mapping[str, Any]]
) -> str:
  """Writes a system turn with its tool block as text."""
  return "".join(_system_parts(profile, system, tools))


def turn_text(
  text: str = "", thought: str = "", calls: Sequence[turns.Call] = ()
) -> str:
  """Writes an assistant turn as text, in which special strings are markers.

  `turns.read` reads it back.
  """
  return "".join(_turn_parts(text, thought, calls))


def prompt_phrases(
  profile: str, system: str, choices: Sequence[str]
) -> list[str]:
  """Returns the texts of a system turn, as pieces for a small tokenizer.

  They are the same in every dialogue of a gym. To a model that starts from
  random weights such a text can say no more than which gym it is, so one id
  says it as well as a hundred.
  """
  parts = _system_parts(profile, system or None, _tools(choices))
  return [text for _, text in _merged(parts) if text.strip()]


_IM_START = tokenizers.Special.IM_START
_IM_END = tokenizers.Special.IM_END
_THINK = tokenizers.Special.THINK
_THINK_END = tokenizers.Special.THINK_END
_CALL = tokenizers.Special.TOOL_CALL
_CALL_END = tokenizers.Special.TOOL_CALL_END
_RESPONSE = tokenizers.Special.TOOL_RESPONSE
_RESPONSE_END = tokenizers.Special.TOOL_RESPONSE_END


def _tools(choices: Sequence[str]) -> list[dict[str, Any]]:
  return [tool_calls.schema(choices)] if choices else []


def _merged(parts: Sequence[str]) -> list[tuple[str | None, str]]:
  """Returns pairs of a marker and the text after it; first one has none."""
  pairs: list[tuple[str | None, str]] = [(None, "")]
  for part in parts:
    if isinstance(part, tokenizers.Special):
      pairs.append((part, ""))
    else:
      marker, text = pairs[-1]
      pairs[-1] = (marker, text + part)
  return pairs


def _system_parts(
  profile: str, system: str | None, tools: Sequence[Mapping[str, Any]]
) -> list[str]:
  """Returns what stands in a system turn, texts and markers."""
  parts = [] if system is None else [system]
  if not tools:
    return parts
  if parts:
    parts.append("\n\n")
  choices = tool_calls.offered(tools)
  if profile == "full" or not choices:
    return parts + _full_tool_block(tools)
  form = _call_text(tool_calls.write(types.Action("|".join(choices), "...")))
  return [*parts, "Reply:\n", _CALL, form, _CALL_END]


def _turn_parts(
  text: str, thought: str, calls: Sequence[turns.Call]
) -> list[str]:
  parts: list[str] = []
  if thought:
    parts += [_THINK, f"\n{thought}\n", _THINK_END, "\n\n"]
  parts.append(text)
  for i, call in enumerate(calls):
    space = "\n" if text or i else ""
    parts += [space, _CALL, _call_text(call), _CALL_END]
  return parts


def _call_text(call: turns.Call) -> str:
  """Returns a call between its markers, line breaks included."""
  return f'\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n'


def _full_tool_block(tools: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the published template's tool block, to the letter."""
  schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
  return [
    "# Tools\n\nYou may call one or more functions to assist with the user "
    "query.\n\nYou are provided with function signatures within "
    f"<tools></tools> XML tags:\n<tools>\n{schemas}\n</tools>\n\nFor each "
    "function call, return a json object with function name and arguments "
    "within ",
    _CALL,
    _CALL_END,
    " XML tags:\n",
    _CALL,
    '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
    _CALL_END,
  ]
