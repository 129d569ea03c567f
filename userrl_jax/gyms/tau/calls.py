"""Reads a tool call that the agent wrote, and says what tools there are.

In: the content of an `answer`. Out: a `Call`, its arguments not yet checked
against the tool, or a ValueError with a hint. Three forms are read: JSON with
`name` and `arguments`; `name: {JSON of arguments}`; and the name followed by
its arguments in order, of which the last takes all the rest.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

HINT = 'answer is a tool call, like {"name": "...", "arguments": {...}}'

_NAME = re.compile(r"[a-z_]{1,60}")


@dataclasses.dataclass(frozen=True)
class Call:
  """A tool's name and what it is given."""

  name: str
  arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One argument that a tool takes."""

  name: str
  kind: str = "text"  # text, list (of texts), or the allowed words: a|b|c
  is_required: bool = True


@dataclasses.dataclass(frozen=True)
class Tool:
  """What a tool is called, takes and does, as the agent may read it."""

  name: str
  parameters: tuple[Parameter, ...]
  about: str

  def line(self) -> str:
    """Returns the tool's line of the listing."""
    parameters = ", ".join(
      f"{p.name}{'' if p.is_required else '?'}: {p.kind}"
      for p in self.parameters
    )
    return f"{self.name}({parameters}): {self.about}"


def read(text: str, tools: Sequence[Tool]) -> Call:
  """Returns the call that a text is.

  Raises:
    ValueError: a hint, when it is none.
  """
  text = text.strip()
  if text.startswith("{"):
    value = _object(text)
    if not {"name"} <= value.keys() <= {"name", "arguments"}:
      raise ValueError(HINT)
    return _call(value["name"], value.get("arguments", {}))
  name, colon, rest = text.partition(":")
  if colon and rest.strip().startswith("{"):
    return _call(name.strip(), _object(rest))
  name, *words = text.split()
  tool = next((tool for tool in tools if tool.name == name), None)
  if tool is None:
    if words or not _NAME.fullmatch(name) or "_" not in name:
      raise ValueError(HINT)
    return Call(name, {})  # of a tool that there is not
  return Call(name, _in_order(tool, words))


def check(call: Call, tool: Tool) -> dict[str, Any]:
  """Returns a call's arguments, lists as lists.

  Raises:
    ValueError: when they are not those that the tool takes.
  """
  known = {p.name: p for p in tool.parameters}
  for name in call.arguments:
    if name not in known:
      raise ValueError(f"{tool.name} takes no {name:.40}")
  checked = {}
  for name, parameter in known.items():
    value = call.arguments.get(name)
    if value is None or value == "" or value == []:
      if parameter.is_required:
        raise ValueError(f"{tool.name} needs {name}")
      continue
    checked[name] = _of_kind(value, parameter)
  return checked


def _of_kind(value: Any, parameter: Parameter) -> Any:
  if parameter.kind == "list":
    if isinstance(value, str):
      value = [part for part in re.split(r"[\s,]+", value) if part]
    if not isinstance(value, list) or any(type(v) is not str for v in value):
      raise ValueError(f"{parameter.name} must be a list of texts")
    return value
  if type(value) in (int, float):
    value = str(value)
  if not isinstance(value, str):
    raise ValueError(f"{parameter.name} must be text")
  allowed = parameter.kind.split("|")
  if len(allowed) > 1 and value not in allowed:
    raise ValueError(f"{parameter.name} must be {parameter.kind}")
  return value


def _in_order(tool: Tool, words: Sequence[str]) -> dict[str, Any]:
  """Returns words as arguments, in the order of the tool's parameters."""
  if not words:
    return {}
  names = [p.name for p in tool.parameters]
  if names[0] == "email" and "@" not in words[0]:
    # A person is found by email, or by a name of many words and a zip code.
    pair = {"name": " ".join(words[:-1]), "zip": words[-1]}
    return {name: value for name, value in pair.items() if value}
  if not names:
    return {"": " ".join(words)}  # which no tool takes
  *head, last = names[: len(words)]
  return {
    **dict(zip(head, words, strict=False)),
    last: " ".join(words[len(head) :]),
  }


def _object(text: str) -> dict[str, Any]:
  try:
    value = json.loads(text, object_pairs_hook=_unique)
  except (ValueError, RecursionError):
    raise ValueError(HINT) from None
  if not isinstance(value, dict):
    raise ValueError(HINT)
  return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  if len(dict(pairs)) < len(pairs):
    raise ValueError("a name must be given once")
  return dict(pairs)


def _call(name: Any, arguments: Any) -> Call:
  if not isinstance(name, str) or not _NAME.fullmatch(name):
    raise ValueError(HINT)
  if not isinstance(arguments, dict):
    raise ValueError(HINT)
  return Call(name, arguments)
