"""Reads an agent's turn: its thought, its text, its calls of any tool.

In: the sampled ids of a turn (`read_ids`, where only real special ids are
markers) or its text (`read`, from remote agents, where their strings are). Out:
a `Turn`. What the pieces of `qwen3.Chat.turn_ids` were is what is read back.

A call is accepted when it can mean one thing only: any white space and key
order, JSON escapes, raw line breaks in strings, arguments given as a string of
JSON, further keys. A block may hold several calls, one after the other or as a
list, and a code fence around them. Everything else is a call with a problem:
nothing is repaired. A call inside a think block is a thought.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import enum
import json
import re
from typing import Any

from userrl_jax.chat import tokenizers


class Problem(enum.StrEnum):
  """Why a turn holds no usable call."""

  NONE = ""
  NO_CALL = "no_call"
  UNCLOSED = "unclosed"  # the turn or another call began before its end
  BAD_JSON = "bad_json"
  WRONG_TOOL = "wrong_tool"  # no name, or not that of a tool
  BAD_ARGUMENTS = "bad_arguments"
  UNKNOWN_CHOICE = "unknown_choice"  # the gyms' tool: or one not offered


@dataclasses.dataclass(frozen=True)
class Call:
  """A call of a tool, or why it is none."""

  name: str = ""
  arguments: str = ""  # JSON of one object, as it was written
  problem: Problem = Problem.NONE
  source: str = ""  # all of it, markers included, when there is a problem


@dataclasses.dataclass(frozen=True)
class Turn:
  """What an agent thought, said and called."""

  thought: str = ""
  text: str = ""
  calls: tuple[Call, ...] = ()


class Number(str):
  """A JSON number as it was written."""


def read(text: str) -> Turn:
  """Reads a turn given as text, in which special strings are markers.

  A JSON value is skipped as a whole, so a string in it that spells a marker
  does not close the call.

  Args:
    text: the turn, with or without its end-of-turn string.
  """
  sections = [_Section()]
  at = start = 0
  while marker := _MARKER.search(text, start):
    start = marker.end()
    if marker[0] in _ENDS:
      text = text[: marker.start()]
      break
    if marker[0] in _HEEDED[sections[-1].kind]:
      _cut(sections, text[at : marker.start()], marker[0])
      at = start
      if marker[0] == _CALL:
        start = _json_end(text, at)
  sections[-1].text = text[at:]
  return _turn(sections)


def read_ids(ids: Sequence[int], tokenizer: tokenizers.Tokenizer) -> Turn:
  """Reads a turn as sampled; only special ids are markers.

  Args:
    ids: sampled ids of one turn; what follows its end of turn is not read.
    tokenizer: the one that the policy was prompted with.
  """
  markers = {tokenizer.special_ids[s]: s for s in (*_MARKERS, *_ENDS)}
  sections = [_Section()]
  run: list[int] = []
  for i in map(int, ids):
    marker = markers.get(i)
    if marker in _ENDS:
      break
    if marker in _HEEDED[sections[-1].kind]:
      _cut(sections, tokenizer.decode(run), marker)
      run = []
    else:
      run.append(i)
  sections[-1].text = tokenizer.decode(run)
  return _turn(sections)


def load(text: str) -> Any:
  """Loads JSON with its numbers as written, each a `Number`.

  Raises:
    ValueError: when it is no JSON, or an object names a key twice.
    RecursionError: when it is nested too deeply.
  """
  return _DECODER.decode(text)


_THINK = tokenizers.Special.THINK
_THINK_END = tokenizers.Special.THINK_END
_CALL = tokenizers.Special.TOOL_CALL
_CALL_END = tokenizers.Special.TOOL_CALL_END
_MARKERS = (_THINK, _THINK_END, _CALL, _CALL_END)
_ENDS = (tokenizers.Special.IM_END, tokenizers.Special.PAD)
_MARKER = re.compile("|".join(map(re.escape, (*_MARKERS, *_ENDS))))
# {a section's kind: markers that end it}. Others are ordinary text in it.
_HEEDED: dict[str, tuple[str, ...]] = {
  "": (_THINK, _THINK_END, _CALL),
  _THINK: (_THINK_END,),
  _CALL: (_CALL, _CALL_END),
}
_CLOSING = {"": "", _THINK: _THINK_END.value, _CALL: _CALL_END.value}

_JSON_ERRORS = (ValueError, RecursionError)
_SPACE = re.compile(r"[ \t\n\r]*")
_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n")
_FENCED = re.compile(_FENCE.pattern + r"(.*)\n[ \t]*```\s*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CONTROL = re.compile("[\0-\x1f]")


def _reject_constant(name: str) -> None:
  raise ValueError(f"{name} is not JSON")


def _reject_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  members = dict(pairs)
  if len(members) < len(pairs):
    raise ValueError("a key stands there twice")
  return members


_DECODER = json.JSONDecoder(
  strict=False,  # models write raw line breaks inside strings
  parse_int=Number,
  parse_float=Number,
  parse_constant=_reject_constant,
  object_pairs_hook=_reject_twins,
)


@dataclasses.dataclass
class _Section:
  """A piece of a turn between two markers."""

  kind: str = ""  # its opening marker; empty for text
  text: str = ""
  is_closed: bool = False

  @property
  def source(self) -> str:
    closing = _CLOSING[self.kind] if self.is_closed else ""
    return f"{self.kind}{self.text}{closing}"


def _cut(sections: list[_Section], text: str, marker: str) -> None:
  """Ends the last section at a marker and begins another."""
  sections[-1].text = text
  if marker == _THINK_END and not sections[-1].kind:
    # Its opening was in the prompt: all that was said so far is a thought.
    thought = "".join(section.source for section in sections)
    sections[:] = [_Section(_THINK, thought)]
  sections[-1].is_closed = marker == _CLOSING[sections[-1].kind]
  sections.append(_Section(marker if marker in (_THINK, _CALL) else ""))


def _turn(sections: Sequence[_Section]) -> Turn:
  """Puts a turn together, less the line breaks that belong to the format."""
  thoughts, texts = [], []
  calls: list[Call] = []
  for i, section in enumerate(sections):
    text = section.text
    if section.kind == _CALL:
      calls += _calls(section)
    elif section.kind == _THINK:
      thoughts.append(text.removeprefix("\n").removesuffix("\n"))
    else:
      if i and sections[i - 1].kind == _THINK:
        text = text.removeprefix("\n").removeprefix("\n")
      if i + 1 < len(sections) and sections[i + 1].kind == _CALL:
        text = text.removesuffix("\n")
      texts.append(text)
  return Turn("\n".join(thoughts), "".join(texts), tuple(calls))


def _calls(section: _Section) -> list[Call]:
  """Returns the calls of a block, at least one."""
  if not section.is_closed:
    return [Call(problem=Problem.UNCLOSED, source=section.source)]
  texts = []
  with contextlib.suppress(*_JSON_ERRORS):
    texts = _split_block(section.text)
  if not texts or not all(text.startswith("{") for text in texts):
    return [Call(problem=Problem.BAD_JSON, source=section.source)]
  return [_call(text) for text in texts]


def _call(text: str) -> Call:
  """Returns the call that the text of a JSON object stands for."""
  call = load(text)
  source = f"{_CALL}\n{text}\n{_CALL_END}"
  name, arguments = call.get("name"), call.get("arguments")
  if type(name) is not str or not name:
    return Call(problem=Problem.WRONG_TOOL, source=source)
  if type(arguments) is str:
    written = arguments.strip()
    try:
      arguments = load(written)
    except _JSON_ERRORS:
      arguments = None
  else:
    written = dict(_members(text)).get("arguments", "")
  if not isinstance(arguments, dict):
    return Call(name, "", Problem.BAD_ARGUMENTS, source)
  return Call(name, _STRING.sub(_without_control, written))


def _split_block(body: str) -> list[str]:
  """Splits a block into the texts of its JSON values, lists taken apart."""
  fenced = _FENCED.fullmatch(body)
  body = fenced[1] if fenced else body
  texts = []
  at = _skip(body, 0)
  while at < len(body):
    value, end = _DECODER.raw_decode(body, at)
    if isinstance(value, list):
      texts += [text for _, text in _members(body[at:end])]
    else:
      texts.append(body[at:end])
    at = _skip(body, end)
  return texts


def _members(text: str) -> Iterator[tuple[str, str]]:
  """Yields (key, text of the value) of an object or a list known to be JSON."""
  at = _skip(text, 1)
  while text[at] not in "]}":
    key = ""
    if text[0] == "{":
      key, at = _DECODER.raw_decode(text, at)
      at = _skip(text, _skip(text, at) + len(":"))
    start = at
    _, at = _DECODER.raw_decode(text, start)
    yield key, text[start:at]
    at = _skip(text, at)
    if text[at] == ",":
      at = _skip(text, at + 1)


def _json_end(text: str, at: int) -> int:
  """Returns where the JSON values end that begin at a place, if any do."""
  fence = _FENCE.match(text, at)
  at = fence.end() if fence else at
  with contextlib.suppress(*_JSON_ERRORS):  # classified later, from the body
    while True:
      _, at = _DECODER.raw_decode(text, _skip(text, at))
  return at


def _skip(text: str, at: int) -> int:
  """Returns the first place from `at` that is no JSON white space."""
  space = _SPACE.match(text, at)
  assert space  # it matches nothing, too
  return space.end()


def _without_control(string: re.Match[str]) -> str:
  """Escapes the control characters of a JSON string, as strict JSON asks."""
  return _CONTROL.sub(lambda c: json.dumps(c[0])[1:-1], string[0])
