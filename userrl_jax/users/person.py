"""A person as the user: is shown what a model would be asked, types verdicts.

In: the question that a gym has for whoever answers the agent. Out: the typed
verdict, field by field, and again until it is one. Shown is the whole text of
the question with all its values, what is hidden from the agent among them, as
the one who answers needs it; left out are the fence and the JSON of a model's
prompt. What a gym asks of a judge only (`by_judge`) goes to a model, where one
is given, and its values are then not shown to the person.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import enum
import json
import math
import re
import string
import typing
from typing import Any, TypeVar

from userrl_jax import terminal as terminal_lib
from userrl_jax import underway
from userrl_jax.gyms import judging

T = TypeVar("T")

_YES = ("yes", "y", "true")
_NO = ("no", "n", "false")
_NONE = "none"  # an empty list
_AGAIN = "?"  # typed alone, it shows the whole question


class PersonJudge(judging.Judge):
  """Puts the questions of gyms to a person and takes only typed verdicts."""

  def __init__(
    self,
    terminal: terminal_lib.Terminal,
    judge: judging.Judge | None = None,
  ):
    """Takes where the person is.

    Args:
      terminal: of the person.
      judge: gives the verdicts that gyms ask of a judge; None: the person.
    """
    self._terminal = terminal
    self._judge = judge
    self._known: set[Any] = set()  # what the person has read

  @property
  def is_apart(self) -> bool:
    """Returns whether a model judges, so that the person need not."""
    return self._judge is not None

  async def verdict(
    self,
    system: str,
    template: str,
    values: Mapping[str, str | judging.AgentText],
    kind: type[T],
    check: Callable[[T], None] | None = None,
    by_judge: bool = False,
  ) -> T:
    """Returns the person's verdict; see `judging.Judge.verdict`.

    The clock of the turn stands still: a person may think.

    Raises:
      types.FaultError: CANCELLED, when the person leaves.
      Exception: whatever the judge raises, as it is.
    """
    if by_judge and self._judge is not None:
      return await self._judge.verdict(
        system, template, values, kind, check, by_judge
      )
    with underway.paused():
      self._show(system, template, values)
      show_all = lambda: self._terminal.say(_whole(system, template, values))
      fields: dict[str, Any] = {}
      while True:
        try:
          fields = await self._fields(kind, show_all, fields)
          found = judging.parse(json.dumps(fields), kind)
          if check is not None:
            check(found)
          return found
        except ValueError as error:
          self._terminal.say(f"{error}; once more:")

  def _show(
    self,
    system: str,
    template: str,
    values: Mapping[str, str | judging.AgentText],
  ) -> None:
    """Shows a question; of one that is known, what the agent wrote anew."""
    own = {k: v for k, v in values.items() if isinstance(v, str)}
    key = (system, template, tuple(sorted(own.items())))
    self._terminal.say()
    if key not in self._known:
      self._known.add(key)
      self._terminal.say(_whole(system, template, values))
      return
    for name, value in values.items():
      if isinstance(value, judging.AgentText):
        self._terminal.say(f"{name}:\n{terminal_lib.quoted(value.text)}")
    self._terminal.say(f"(all else as before; {_AGAIN} shows it)")

  async def _fields(
    self, kind: Any, show_all: Callable[[], None], earlier: Mapping[str, Any]
  ) -> dict[str, Any]:
    """Returns the fields of a verdict, as JSON values.

    What was typed at an earlier try need not be typed again.
    """
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
      has_default = (
        field.default is not dataclasses.MISSING
        or field.default_factory is not dataclasses.MISSING
      )
      prompt = f"{field.name} ({form(hints[field.name])}"
      if field.name in earlier:
        kept = json.dumps(earlier[field.name], ensure_ascii=False)
        prompt += f"; enter keeps {kept}"
      while True:
        line = await self._terminal.ask(f"{prompt}): ")
        if line == _AGAIN:
          show_all()
          continue
        if not line and field.name in earlier:
          fields[field.name] = earlier[field.name]
          break
        if not line and has_default:
          break
        try:
          fields[field.name] = read(line, hints[field.name])
          break
        except ValueError as error:
          self._terminal.say(f"{field.name} must be {error}, got {line!r}")
    return fields


def form(kind: Any) -> str:
  """Returns how a person writes a field of a verdict."""
  if kind is bool:
    return "yes | no"
  if kind is int:
    return "a whole number"
  if kind is float:
    return "a number"
  if kind is str:
    return "text"
  if isinstance(kind, enum.EnumMeta):
    return " | ".join(_names(kind))
  if _is_list(kind):
    item = form(typing.get_args(kind)[0])
    return f"{_NONE}, or with commas, each {item}"
  return f"JSON of the form {judging.shape(kind)}"


def read(line: str, kind: Any) -> Any:
  """Returns what a line says, as the JSON value of a field.

  Names may be in any case, and cut short where only one begins so.

  Raises:
    ValueError: with the form that a line must have.
  """
  if kind is bool:
    if line.lower() in (*_YES, *_NO):
      return line.lower() in _YES
  elif kind in (int, float):
    with contextlib.suppress(ValueError):
      if math.isfinite(kind(line)):
        return kind(line)
  elif kind is str:
    return line
  elif isinstance(kind, enum.EnumMeta):
    names = _names(kind)
    same = [n for n in names if n.lower() == line.lower()]
    begun = [n for n in names if line and n.lower().startswith(line.lower())]
    found = same or begun
    if len(found) == 1:
      return names[found[0]].value
  elif _is_list(kind):
    item = typing.get_args(kind)[0]
    if line.lower() == _NONE:
      return []
    parts = re.split(r"\s*,\s*" if item is str else r"[\s,]+", line)
    with contextlib.suppress(ValueError):
      return [read(part, item) for part in parts if part]
  else:
    with contextlib.suppress(ValueError):
      return json.loads(line)
  raise ValueError(form(kind))


def _names(kind: Any) -> dict[str, Any]:
  return {str(member.value): member for member in kind}


def _is_list(kind: Any) -> bool:
  if typing.get_origin(kind) is not tuple:
    return False
  return not dataclasses.is_dataclass(typing.get_args(kind)[0])


def _whole(
  system: str,
  template: str,
  values: Mapping[str, str | judging.AgentText],
) -> str:
  """Returns a question as a person reads it, the agent's words behind bars."""
  filled = {
    name: terminal_lib.quoted(value.text)
    if isinstance(value, judging.AgentText)
    else value
    for name, value in values.items()
  }
  return f"{system}\n\n{string.Template(template).substitute(filled)}"
