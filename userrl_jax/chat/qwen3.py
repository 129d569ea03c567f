"""Writes a dialogue as ids in the Qwen3 chat format, piece by piece.

In: texts of tasks and users, actions of demonstrations. Out: the ids to append
to a ledger; history is never rendered again (law L1):

  prompt_ids   system turn with the tool block, user turn, opening of a turn
  (sampled)    ... <|im_end|>        or call_ids / text_turn_ids
  bridge_ids   line break, tool response as a user turn, opening of a turn
  (sampled)    ...

Markers such as <|im_start|> are special ids because this file writes them;
inside the given texts they are ordinary text. With the profile "full" the ids
equal those of the published template wherever it renders the same history
(it moves or drops think blocks of earlier turns; a stream never does).
"""

from collections.abc import Sequence
import json

from userrl_jax import types
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls

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
      schema of the tool; "brief" only the form of a call with its choices.
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

  def prompt_ids(
    self, system: str, user: str, choices: Sequence[str]
  ) -> list[int]:
    """Writes all that the agent reads before its first turn.

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
    parts = _system_parts(self.profile, system, choices)
    if parts:
      parts = [_IM_START, "system\n", *parts, _IM_END, "\n"]
    return self._ids(*parts, *_user_turn(user), *self._opening())

  def call_ids(
    self, action: types.Action, thought: str = "", text: str = ""
  ) -> list[int]:
    """Writes an assistant turn that calls the tool, as it would be sampled.

    Args:
      action: the call's arguments.
      thought: of a think block before it; empty for none.
      text: said before the call.

    Returns:
      ids through `<|im_end|>`.
    """
    space = "\n" if text else ""
    call = (_CALL, _call_json(action), _CALL_END)
    return self._ids(*_thought(thought), text, space, *call, _IM_END)

  def text_turn_ids(self, text: str, thought: str = "") -> list[int]:
    """Writes an assistant turn of plain text, through `<|im_end|>`."""
    return self._ids(*_thought(thought), text, _IM_END)

  def bridge_ids(self, *observations: str) -> list[int]:
    """Writes what stands between two sampled turns: tool responses.

    Args:
      *observations: one, or one for each call of the turn.
    """
    responses = []
    for text in observations:
      responses += ["\n", _RESPONSE, f"\n{text}\n", _RESPONSE_END]
    turn = (_IM_START, "user", *responses, _IM_END, "\n")
    return self._ids("\n", *turn, *self._opening())

  def user_bridge_ids(self, text: str) -> list[int]:
    """Writes what stands between two sampled turns: a user's plain words."""
    return self._ids("\n", *_user_turn(text), *self._opening())

  def _opening(self) -> tuple[str, ...]:
    """Returns the opening of an assistant turn (the generation prompt)."""
    opening = (_IM_START, "assistant\n")
    if self.thinking:
      return opening
    return (*opening, _THINK, "\n\n", _THINK_END, "\n\n")

  def _ids(self, *parts: str) -> list[int]:
    """Encodes parts; text between two markers is encoded in one go."""
    ids, text = [], ""
    for part in parts:
      if isinstance(part, tokenizers.Special):
        ids += self.tokenizer.encode(text)
        ids.append(self.tokenizer.special_ids[part])
        text = ""
      else:
        text += part
    return ids + self.tokenizer.encode(text)


def prompt_phrases(
  profile: str, system: str, choices: Sequence[str]
) -> list[str]:
  """Returns the texts of a system turn, as pieces for a small tokenizer.

  They are the same in every dialogue of a gym. To a model that starts from
  random weights such a text can say no more than which gym it is, so one id
  says it as well as a hundred.
  """
  texts, text = [], ""
  for part in _system_parts(profile, system, choices):
    if isinstance(part, tokenizers.Special):
      texts.append(text)
      text = ""
    else:
      text += part
  return [text for text in [*texts, text] if text.strip()]


def tool_schema(choices: Sequence[str]) -> dict:
  """Returns the tool's JSON schema in the form of OpenAI's `tools`."""
  properties = {
    "choice": {
      "type": "string",
      "enum": list(choices),
      "description": "What kind of move this is.",
    },
    "content": {
      "type": "string",
      "description": "The move itself, in the form that the task asks for.",
    },
  }
  return {
    "type": "function",
    "function": {
      "name": tool_calls.TOOL_NAME,
      "description": (
        "Makes one move in the task. The system message says what each choice "
        "does here."
      ),
      "parameters": {
        "type": "object",
        "properties": properties,
        "required": list(properties),
      },
    },
  }


_IM_START = tokenizers.Special.IM_START
_IM_END = tokenizers.Special.IM_END
_THINK = tokenizers.Special.THINK
_THINK_END = tokenizers.Special.THINK_END
_CALL = tokenizers.Special.TOOL_CALL
_CALL_END = tokenizers.Special.TOOL_CALL_END
_RESPONSE = tokenizers.Special.TOOL_RESPONSE
_RESPONSE_END = tokenizers.Special.TOOL_RESPONSE_END


def _system_parts(
  profile: str, system: str, choices: Sequence[str]
) -> list[str]:
  """Returns what stands in a system turn, texts and markers."""
  parts = [system] if system else []
  if not choices:
    return parts
  if parts:
    parts.append("\n\n")
  if profile == "full":
    schema = json.dumps(tool_schema(choices), ensure_ascii=False)
    return parts + _full_tool_block(schema)
  form = _call_json(types.Action("|".join(choices), "..."))
  return [*parts, "Reply:\n", _CALL, form, _CALL_END]


def _user_turn(text: str) -> tuple[str, ...]:
  return _IM_START, f"user\n{text}", _IM_END, "\n"


def _thought(thought: str) -> tuple[str, ...]:
  if not thought:
    return ()
  return _THINK, f"\n{thought}\n", _THINK_END, "\n\n"


def _call_json(action: types.Action) -> str:
  """Returns a call between its markers, line breaks included."""
  content = json.dumps(action.content, ensure_ascii=False)[1:-1]
  return _CALL_HEAD + action.choice + _CALL_CONTENT + content + _CALL_TAIL


def _full_tool_block(schema: str) -> list[str]:
  """Returns the published template's tool block, to the letter."""
  return [
    "# Tools\n\nYou may call one or more functions to assist with the user "
    "query.\n\nYou are provided with function signatures within "
    f"<tools></tools> XML tags:\n<tools>\n{schema}\n</tools>\n\nFor each "
    "function call, return a json object with function name and arguments "
    "within ",
    _CALL,
    _CALL_END,
    " XML tags:\n",
    _CALL,
    '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
    _CALL_END,
  ]
