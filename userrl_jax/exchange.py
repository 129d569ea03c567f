"""Dialogues in files that others write and read: texts and calls, no ids.

In: `.jsonl`, our lines of OpenAI-style messages, or `.json`, a list in the
ShareGPT form that UserRL's cold start is made of. Out: `Dialogue`s; and back.

  .jsonl  {"messages": [...], "tools": [...], "gym": "turtle", "task": "t7",
           "split": "train", "score": 1.0}
  .json   [{"conversations": [{"from": "human", "value": "..."},
                              {"from": "gpt", "value": "<think>..."},
                              {"from": "observation", "value": "..."}, ...],
            "system": "...", "tools": "[...]"}, ...]

`python -m userrl_jax.exchange FROM TO` turns one into the other. Of ours,
ShareGPT has no place for gym, task, split and score. Knows no JAX.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import turns

SPEAKERS = {"human": "user", "gpt": "assistant", "observation": "tool"}

_ABOUT = ("gym", "task", "split")
_KEYS = {
  ".jsonl": ("messages", "tools", *_ABOUT, "score"),
  ".json": ("conversations", "system", "tools"),
}


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """What an agent read, thought, said and called, up to its last turn."""

  # A system message first, if any; an assistant's last. A call that cannot be
  # read stands in its turn with its problem.
  messages: tuple[messages_lib.Message, ...]
  tools: tuple[Mapping[str, Any], ...] = ()  # as in OpenAI's `tools`
  gym: str = ""  # this and what follows: empty where nobody says
  task: str = ""
  split: str = ""
  score: float | None = None  # in [0, 1]
  # File and record, as errors name it; equal dialogues may come from anywhere.
  where: str = dataclasses.field(default="", compare=False)

  @property
  def is_well_formed(self) -> bool:
    """True when every call can be read."""
    calls = [call for message in self.messages for call in message.calls]
    return not any(call.problem for call in calls)


def read(path: pathlib.Path) -> list[Dialogue]:
  """Reads a file of either form, or all files of a folder in their order.

  Of a folder, `.jsonl` files; where there are none, `.json` files.

  Raises:
    ValueError: when there is nothing to read, or a record is not what it must
      be; names file, line or record, and field.
  """
  if path.is_dir():
    found = sorted(path.glob("*.jsonl")) or sorted(path.glob("*.json"))
    if not found:
      raise ValueError(f"{path} must hold .jsonl or .json files, got none")
    return [dialogue for one in found for dialogue in read(one)]
  if path.suffix not in _KEYS:
    raise ValueError(
      "dialogues must be a .jsonl file (ours), a .json file (ShareGPT) or a "
      f"folder of them, got {str(path)!r}"
    )
  text = _text(path)
  if path.suffix == ".json":
    return _read_sharegpt(path, text)
  return [
    _from_ours(f"{path}, line {number}", line)
    for number, line in enumerate(text.split("\n"), 1)
    if line.strip()
  ]


def write(path: pathlib.Path, dialogues: Sequence[Dialogue]) -> None:
  """Writes a file whole or not at all, in the form that its suffix says.

  Raises:
    ValueError: when the suffix is of neither, or a dialogue does not fit the
      form.
  """
  if path.suffix not in _KEYS:
    raise ValueError(
      f"a file of dialogues must end in .jsonl (ours) or .json (ShareGPT), got "
      f"{str(path)!r}"
    )
  to_record = _to_ours if path.suffix == ".jsonl" else _to_sharegpt
  records = [to_record(dialogue) for dialogue in dialogues]
  dump = lambda value, **form: json.dumps(value, ensure_ascii=False, **form)
  if path.suffix == ".jsonl":
    text = "".join(dump(record) + "\n" for record in records)
  else:
    text = dump(records, indent=1) + "\n"
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.partial")
  temporary.write_text(text, encoding="utf-8", newline="\n")
  temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
  """Turns a file of dialogues into one of the other form."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.exchange",
    description="Turns dialogues from one form into another.",
  )
  parser.add_argument("source", help=".jsonl, .json, or a folder of them")
  parser.add_argument("target", help=".jsonl (ours) or .json (ShareGPT)")
  arguments = parser.parse_args(argv)
  try:
    dialogues = read(pathlib.Path(arguments.source))
    good = [dialogue for dialogue in dialogues if dialogue.is_well_formed]
    write(pathlib.Path(arguments.target), good)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  bad = [d.where for d in dialogues if not d.is_well_formed]
  if bad:
    print(f"left out, a call that cannot be read: {len(bad)} ({bad[0]}, ...)")
  print(f"{len(good)} dialogues: {arguments.target}")
  return 0


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} must be readable UTF-8 text; {error}") from error


def _read_sharegpt(path: pathlib.Path, text: str) -> list[Dialogue]:
  try:
    records = json.loads(text)
  except ValueError as error:
    raise ValueError(f"{path} must be a list in JSON; {error}") from error
  if not isinstance(records, list):
    raise ValueError(f"{path} must be a list of dialogues, got {records!r:.60}")
  return [
    _from_sharegpt(f"{path}, record {number}", record)
    for number, record in enumerate(records, 1)
  ]


def _from_ours(where: str, line: str) -> Dialogue:
  try:
    record = json.loads(line)
  except ValueError as error:
    raise ValueError(f"{where}: must be one JSON object; {error}") from error
  _check_keys(where, record, ".jsonl")
  about = {name: _get(where, record, name, str, "text", "") for name in _ABOUT}
  score = _get(where, record, "score", (int, float, type(None)), "a number")
  if score is not None and not 0 <= score <= 1:
    raise ValueError(f"{where}: field 'score' must be in [0, 1], got {score!r}")
  raw = _get(where, record, "messages", list, "a list of messages", [])
  try:
    messages = messages_lib.from_openai(raw)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  for i, message in enumerate(messages):
    for j, call in enumerate(message.calls):
      if not _is_object(call.arguments):
        raise ValueError(
          f"{where}: messages[{i}].tool_calls[{j}].function.arguments must be "
          f"JSON of an object, got {call.arguments!r:.60}"
        )
  _check_order(where, "messages", [message.role for message in messages])
  return Dialogue(
    tuple(messages), _tools(where, record), **about, score=score, where=where
  )


def _from_sharegpt(where: str, record: Any) -> Dialogue:
  _check_keys(where, record, ".json")
  noun = "a list of what was said"
  said = _get(where, record, "conversations", list, noun, [])
  system = _get(where, record, "system", str, "text", "")
  messages = [messages_lib.Message("system", system)] if system else []
  for i, one in enumerate(said):
    place = f"{where}, conversations[{i}]"
    if not isinstance(one, dict):
      raise ValueError(f"{place} must be an object, got {one!r:.60}")
    speaker = one.get("from")
    if speaker not in SPEAKERS:
      raise ValueError(
        f"{place}: field 'from' must be one of {', '.join(SPEAKERS)}, got "
        f"{speaker!r:.60}"
      )
    value = _get(place, one, "value", str, "text")
    if value is None:
      raise ValueError(f"{place}: field 'value' must be text, got none")
    # Learners of this form take turns: even places are read, odd ones said.
    if (speaker == "gpt") != bool(i % 2) or (not i and speaker != "human"):
      wanted = "gpt" if i % 2 else "human" if not i else "human or observation"
      raise ValueError(
        f"{place}: field 'from' must be {wanted} here, got {speaker!r}"
      )
    if speaker == "gpt":
      turn = turns.read(value)
      messages.append(
        messages_lib.Message("assistant", turn.text, turn.thought, turn.calls)
      )
    else:
      messages.append(messages_lib.Message(SPEAKERS[speaker], value))
  _check_order(where, "conversations", [message.role for message in messages])
  return Dialogue(tuple(messages), _tools(where, record), where=where)


def _to_ours(dialogue: Dialogue) -> dict[str, Any]:
  record: dict[str, Any] = {
    "messages": messages_lib.dialogue_to_openai(dialogue.messages),
    "tools": [dict(tool) for tool in dialogue.tools],
  }
  record |= {name: getattr(dialogue, name) for name in _ABOUT}
  return record | {"score": dialogue.score}


def _to_sharegpt(dialogue: Dialogue) -> dict[str, Any]:
  messages, system = dialogue.messages, ""
  if messages[0].role == "system":
    system, messages = messages[0].text, messages[1:]
  names = {role: speaker for speaker, role in SPEAKERS.items()}
  said = []
  for i, message in enumerate(messages):
    if (message.role == "assistant") != bool(i % 2):
      raise ValueError(
        f"{dialogue.where or 'a dialogue'}: in ShareGPT what is read and what "
        f"the agent says must take turns, got {message.role} at place {i}; "
        "write .jsonl"
      )
    value = message.text
    if message.role == "assistant":
      value = chat_lib.turn_text(message.text, message.thought, message.calls)
    said.append({"from": names[message.role], "value": value})
  tools = json.dumps([dict(t) for t in dialogue.tools], ensure_ascii=False)
  return {"conversations": said, "system": system, "tools": tools}


def _tools(where: str, record: Mapping[str, Any]) -> tuple[Any, ...]:
  """Returns the tools of a record, which ShareGPT has as a text of JSON."""
  noun = "a list of tools, or a text of JSON that is one"
  tools = _get(where, record, "tools", (list, str), noun, [])
  if isinstance(tools, str):
    try:
      tools = json.loads(tools) if tools.strip() else []
    except ValueError as error:
      raise ValueError(f"{where}: field 'tools' must be {noun}") from error
  if not isinstance(tools, list):
    raise ValueError(
      f"{where}: field 'tools' must be {noun}, got {tools!r:.60}"
    )
  # Some write the function alone.
  wrapped = [
    {"type": "function", "function": tool}
    if isinstance(tool, dict) and "name" in tool and "function" not in tool
    else tool
    for tool in tools
  ]
  try:
    messages_lib.check_tools(wrapped)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  return tuple(wrapped)


def _check_keys(where: str, record: Any, suffix: str) -> None:
  if not isinstance(record, dict):
    raise ValueError(f"{where}: must be an object, got {record!r:.60}")
  unknown = sorted(record.keys() - set(_KEYS[suffix]))
  if unknown:
    raise ValueError(
      f"{where}: fields must be among {', '.join(_KEYS[suffix])}, got "
      f"{unknown[0]!r}"
    )


def _check_order(where: str, field: str, roles: Sequence[str]) -> None:
  """Refuses what could not be imitated: where no turn ends a dialogue."""
  if "system" in roles[1:]:
    raise ValueError(
      f"{where}: in {field!r} only the first may be the system's"
    )
  if "assistant" not in roles or roles[-1] != "assistant":
    raise ValueError(
      f"{where}: field {field!r} must end with a turn of the agent, got "
      f"{roles[-1] if roles else 'nothing'}"
    )
  if roles[0] == "assistant":
    raise ValueError(f"{where}: field {field!r} must begin with what is read")


def _is_object(text: str) -> bool:
  try:
    return isinstance(turns.load(text), dict)
  except (ValueError, RecursionError):
    return False


def _get(
  where: str,
  record: Mapping[str, Any],
  name: str,
  kinds: Any,
  noun: str,
  default: Any = None,
) -> Any:
  """Returns a field of a record, or the default where it is left out."""
  value = record.get(name)
  if value is None:
    return default
  if not isinstance(value, kinds) or isinstance(value, bool):
    raise ValueError(
      f"{where}: field {name!r} must be {noun}, got {value!r:.60}"
    )
  return value


if __name__ == "__main__":
  sys.exit(main())
