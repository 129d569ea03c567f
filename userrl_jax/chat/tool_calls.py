"""Reads the agent's turn: finds its tool call and checks it.

In: the sampled ids of a turn (`parse_ids`, where only real special ids delimit
a call) or its text (`parse`, for remote agents). Out: a `Parsed` with an
action, or with a problem and a short reminder that the agent may read.

Accepted: any white space and key order, JSON escapes, raw line breaks in
strings, text and think blocks around the call, arguments given as a string of
JSON, numbers as content (kept as written), extra keys. A call inside a think
block is a thought. Of several calls the first counts. Content is never read as
anything but content: a leading "[answer]" stays text.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import enum
import json
import re
from typing import Any

from userrl_jax import types
from userrl_jax.chat import tokenizers

TOOL_NAME = "interact_with_env"
IGNORED = "Not run: only the first tool call of a turn is run."


class Problem(enum.StrEnum):
  """Why a turn holds no usable call."""

  NONE = ""
  NO_CALL = "no_call"
  UNCLOSED = "unclosed"  # the turn or another call began before its end
  BAD_JSON = "bad_json"
  WRONG_TOOL = "wrong_tool"
  BAD_ARGUMENTS = "bad_arguments"
  UNKNOWN_CHOICE = "unknown_choice"  # or one that the gym does not offer


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What a turn asks for."""

  action: types.Action | None  # None exactly when there is a problem
  problem: Problem = Problem.NONE
  message: str = ""  # for the agent: what was wrong, or what was ignored
  num_ignored: int = 0  # calls after the first


def parse(text: str, choices: Sequence[str] = types.CHOICES) -> Parsed:
  """Parses a turn given as text, in which special strings are markers.

  Args:
    text: the turn, with or without its end-of-turn string.
    choices: the choices that the gym offers.
  """
  bodies: list[str | None] = []
  at = 0
  while marker := _MARKER.search(text, at):
    at = marker.end()
    if marker[0] == _THINK:
      end = text.find(_THINK_END, at)
      if end < 0:  # the rest is a thought
        break
      at = end + len(_THINK_END)
    elif marker[0] == _THINK_END:  # its opening was in the prompt
      bodies.clear()
    else:
      body, at = _cut_body(text, at)
      bodies.append(body)
  return _check(bodies, choices)


def parse_ids(
  ids: Sequence[int],
  tokenizer: tokenizers.Tokenizer,
  choices: Sequence[str] = types.CHOICES,
) -> Parsed:
  """Parses a turn as sampled; only special ids are markers.

  Args:
    ids: sampled ids of one turn; what follows its end of turn is not read.
    tokenizer: the one that the policy was prompted with.
    choices: the choices that the gym offers.
  """
  markers = {tokenizer.special_ids[s]: s for s in _MARKERS}
  ends = (tokenizer.im_end_id, tokenizer.pad_id)
  bodies: list[str | None] = []
  body: list[int] | None = None  # ids of the call being read
  in_thought = False
  for i in map(int, ids):
    if i in ends:
      break
    marker = markers.get(i)
    if in_thought:
      in_thought = marker != _THINK_END
    elif marker == _CALL:
      if body is not None:
        bodies.append(None)
      body = []
    elif body is not None and marker == _CALL_END:
      bodies.append(tokenizer.decode(body))
      body = None
    elif body is not None:
      body.append(i)
    elif marker == _THINK:
      in_thought = True
    elif marker == _THINK_END:  # its opening was in the prompt
      bodies.clear()
  if body is not None:
    bodies.append(None)
  return _check(bodies, choices)


def parse_body(body: str, choices: Sequence[str] = types.CHOICES) -> Parsed:
  """Parses the JSON of one call: `{"name": ..., "arguments": {...}}`."""
  try:
    call = _load(body)
  except _JSON_ERRORS:
    return _problem(Problem.BAD_JSON, choices)
  if not isinstance(call, dict):
    return _problem(Problem.BAD_JSON, choices)
  if call.get("name") != TOOL_NAME:
    return _problem(Problem.WRONG_TOOL, choices)
  arguments = call.get("arguments")
  if isinstance(arguments, str):
    try:
      arguments = _load(arguments)
    except _JSON_ERRORS:
      return _problem(Problem.BAD_ARGUMENTS, choices)
  if not isinstance(arguments, dict):
    return _problem(Problem.BAD_ARGUMENTS, choices)
  choice = arguments.get("choice")
  content = arguments.get("content")
  if not isinstance(choice, str) or not isinstance(content, str):
    return _problem(Problem.BAD_ARGUMENTS, choices)
  if choice not in choices:
    return _problem(Problem.UNKNOWN_CHOICE, choices)
  # Half of a \ud83d\ude00 pair is no character and cannot be written anywhere.
  content = re.sub("[\ud800-\udfff]", "\ufffd", str(content))
  return Parsed(types.Action(choice, content))


_THINK = tokenizers.Special.THINK
_THINK_END = tokenizers.Special.THINK_END
_CALL = tokenizers.Special.TOOL_CALL
_CALL_END = tokenizers.Special.TOOL_CALL_END
_MARKERS = (_THINK, _THINK_END, _CALL, _CALL_END)
_MARKER = re.compile(f"{_THINK}|{_THINK_END}|{_CALL}")
_CALL_BORDER = re.compile(f"{_CALL}|{_CALL_END}")
_JSON_ERRORS = (ValueError, RecursionError)
_REMINDERS = {
  Problem.NO_CALL: "No tool call found. Call the tool once.",
  Problem.UNCLOSED: "The tool call was not closed.",
  Problem.BAD_JSON: "The tool call is not valid JSON.",
  Problem.WRONG_TOOL: f"Unknown tool. Call {TOOL_NAME}.",
  Problem.BAD_ARGUMENTS: "The arguments must be two texts: choice, content.",
  Problem.UNKNOWN_CHOICE: "The choice must be one of: {choices}.",
}


class _Number(str):
  """A JSON number as it was written."""


def _reject_constant(name: str) -> None:
  raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
  strict=False,  # models write raw line breaks inside strings
  parse_int=_Number,
  parse_float=_Number,
  parse_constant=_reject_constant,
)


def _load(text: str) -> Any:
  return _DECODER.decode(text)


def _cut_body(text: str, start: int) -> tuple[str | None, int]:
  """Cuts the call that starts here out of a text.

  A JSON value is skipped as a whole, so a string in it that spells a marker
  does not close the call.

  Returns:
    the body, None when the call is not closed, and where to read on.
  """
  first = start + len(text[start:]) - len(text[start:].lstrip())
  after = start
  with contextlib.suppress(*_JSON_ERRORS):  # classified later, from the body
    _, after = _DECODER.raw_decode(text, first)
  border = _CALL_BORDER.search(text, after)
  if border is None:
    return None, len(text)
  if border[0] == _CALL:
    return None, border.start()
  return text[start : border.start()], border.end()


def _check(bodies: Sequence[str | None], choices: Sequence[str]) -> Parsed:
  """Checks the first of a turn's calls and counts the others."""
  if not bodies:
    return _problem(Problem.NO_CALL, choices)
  if bodies[0] is None:
    parsed = _problem(Problem.UNCLOSED, choices)
  else:
    parsed = parse_body(bodies[0], choices)
  if len(bodies) == 1:
    return parsed
  return dataclasses.replace(
    parsed, num_ignored=len(bodies) - 1, message=parsed.message or IGNORED
  )


def _problem(problem: Problem, choices: Sequence[str]) -> Parsed:
  message = _REMINDERS[problem].format(choices=", ".join(choices))
  return Parsed(None, problem, message)
