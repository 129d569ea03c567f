"""Messages of a dialogue, and the form in which OpenAI-style clients send them.

In: a client's `messages` and `tools`. Out: typed messages, which `qwen3.Chat`
writes as ids; and an agent's turn as a message to send back.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from userrl_jax.chat import turns

ROLES = ("system", "user", "assistant", "tool")


@dataclasses.dataclass(frozen=True)
class Message:
  """What one side says; thought and calls are the assistant's."""

  role: str  # one of ROLES
  text: str = ""
  thought: str = ""
  calls: tuple[turns.Call, ...] = ()


def from_openai(raw: Sequence[Mapping[str, Any]]) -> list[Message]:
  """Reads the `messages` of a request.

  Tool responses keep their order: the format has no ids of calls.

  Args:
    raw: at least one. Texts may come in parts; arguments of calls as JSON
      strings, which are written as they are, or as objects.

  Raises:
    ValueError: names the message that is wrong and what it must be.
  """
  if not raw:
    raise ValueError("messages must hold at least one, got none")
  return [_message(f"messages[{i}]", one) for i, one in enumerate(raw)]


def check_tools(raw: Sequence[Mapping[str, Any]]) -> None:
  """Checks the `tools` of a request.

  Raises:
    ValueError: names the tool that is wrong and what it must be.
  """
  for i, tool in enumerate(raw):
    function = _get(tool, "function", Mapping, f"tools[{i}]")
    _name(function, f"tools[{i}].function")


def to_openai(turn: turns.Turn, id_prefix: str = "call_") -> dict[str, Any]:
  """Writes an agent's turn as the message of a response.

  Args:
    turn: as read. A call with a problem is given back as text, as sampled.
    id_prefix: of the calls' ids; a number follows.
  """
  texts = [turn.text, *(call.source for call in turn.calls if call.problem)]
  text = "\n".join(filter(None, texts))
  calls = [call for call in turn.calls if not call.problem]
  message: dict[str, Any] = {"role": "assistant", "content": text}
  if turn.thought:
    message["reasoning_content"] = turn.thought
  if calls:
    message["content"] = text or None
    message["tool_calls"] = [
      {
        "id": f"{id_prefix}{i}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
      }
      for i, call in enumerate(calls)
    ]
  return message


def dialogue_to_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
  """Writes a dialogue as the `messages` of a request; contents are texts.

  Calls get ids that are theirs alone; the tool responses after them take those,
  in order. A response to no call has none.
  """
  raw: list[dict[str, Any]] = []
  waiting: list[str] = []
  for number, message in enumerate(messages):
    if message.role == "assistant":
      turn = turns.Turn(message.thought, message.text, message.calls)
      raw.append(to_openai(turn, f"call_{number}_"))
      raw[-1]["content"] = raw[-1]["content"] or ""
      waiting = [call["id"] for call in raw[-1].get("tool_calls", ())]
      continue
    raw.append({"role": message.role, "content": message.text})
    if message.role == "tool" and waiting:
      raw[-1]["tool_call_id"] = waiting.pop(0)
  return raw


_SYNONYMS = {"developer": "system"}  # newer clients' word


def _message(place: str, raw: Mapping[str, Any]) -> Message:
  role = _get(raw, "role", str, place)
  role = _SYNONYMS.get(role, role)
  if role not in ROLES:
    raise ValueError(
      f"{place}.role must be one of {', '.join(ROLES)}, got {role!r}"
    )
  if role != "assistant":
    return Message(role, _text(raw.get("content"), f"{place}.content"))
  text = raw.get("content")
  thought = raw.get("reasoning_content")
  calls = raw.get("tool_calls")
  if calls is not None and not isinstance(calls, Sequence):
    raise ValueError(f"{place}.tool_calls must be a list, got {calls!r}")
  return Message(
    role,
    "" if text is None else _text(text, f"{place}.content"),
    "" if thought is None else _text(thought, f"{place}.reasoning_content"),
    tuple(
      _call(call, f"{place}.tool_calls[{i}]")
      for i, call in enumerate(calls or ())
    ),
  )


def _text(content: Any, place: str) -> str:
  if isinstance(content, str):
    return content
  if isinstance(content, Sequence):
    parts = [
      part.get("text") if isinstance(part, Mapping) else None
      for part in content
    ]
    if all(isinstance(part, str) for part in parts):
      return "".join(map(str, parts))
  raise ValueError(
    f"{place} must be a text or a list of text parts, got {content!r:.100}; "
    "the model reads nothing else"
  )


def _call(raw: Mapping[str, Any], place: str) -> turns.Call:
  function = _get(raw, "function", Mapping, place)
  name = _name(function, f"{place}.function")
  arguments = function.get("arguments")
  if isinstance(arguments, Mapping):
    arguments = json.dumps(arguments, ensure_ascii=False)
  if not isinstance(arguments, str):
    raise ValueError(
      f"{place}.function.arguments must be JSON of an object, "
      f"got {arguments!r:.100}"
    )
  return turns.Call(name, arguments)


def _name(function: Mapping[str, Any], place: str) -> str:
  name = _get(function, "name", str, place)
  # The format writes it between quotes as it is.
  if not name or json.dumps(name, ensure_ascii=False) != f'"{name}"':
    raise ValueError(
      f"{place}.name must be given, without quotes, backslashes and control "
      f"characters, got {name!r}"
    )
  return name


def _get(raw: Any, key: str, kind: type, place: str) -> Any:
  value = raw.get(key) if isinstance(raw, Mapping) else None
  if not isinstance(value, kind):
    what = "a string" if kind is str else "an object"
    raise ValueError(
      f"{place} must be an object whose {key} is {what}, got {raw!r:.100}"
    )
  return value
