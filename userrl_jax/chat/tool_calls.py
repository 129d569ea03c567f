"""Writes and checks calls of the gyms' one tool.

In: an agent's turn, as sampled ids or as text. Out: a `Parsed` with an action,
or with a problem and a short reminder that the agent may read.

What a call may look like is up to `turns`. Of several calls the first counts.
Numbers may be content (kept as written). Content is never read as anything but
content: a leading "[answer]" stays text.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

from userrl_jax import types
from userrl_jax.chat import tokenizers
from userrl_jax.chat import turns

TOOL_NAME = "interact_with_env"
IGNORED = "Not run: only the first tool call of a turn is run."


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What a turn asks for."""

  action: types.Action | None  # None exactly when there is a problem
  problem: turns.Problem = turns.Problem.NONE
  message: str = ""  # for the agent: what was wrong, or what was ignored
  num_ignored: int = 0  # calls after the first


def schema(choices: Sequence[str]) -> dict[str, Any]:
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
      "name": TOOL_NAME,
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


def offered(tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
  """Returns the choices if these tools are the gyms' one; else none."""
  try:
    (tool,) = tools
    properties = tool["function"]["parameters"]["properties"]
    choices = tuple(properties["choice"]["enum"])
  except (KeyError, TypeError, ValueError):
    return ()
  return choices if tool == schema(choices) else ()


def write(action: types.Action) -> turns.Call:
  """Returns the call that an action is."""
  arguments = {"choice": action.choice, "content": action.content}
  return turns.Call(TOOL_NAME, json.dumps(arguments, ensure_ascii=False))


def parse(text: str, choices: Sequence[str] = types.CHOICES) -> Parsed:
  """Parses a turn given as text, in which special strings are markers.

  Args:
    text: the turn, with or without its end-of-turn string.
    choices: the choices that the gym offers.
  """
  return check(turns.read(text), choices)


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
  return check(turns.read_ids(ids, tokenizer), choices)


def check(turn: turns.Turn, choices: Sequence[str] = types.CHOICES) -> Parsed:
  """Checks the first of a turn's calls and counts the others."""
  if not turn.calls:
    return _problem(turns.Problem.NO_CALL, choices)
  parsed = _check_call(turn.calls[0], choices)
  if len(turn.calls) == 1:
    return parsed
  return dataclasses.replace(
    parsed,
    num_ignored=len(turn.calls) - 1,
    message=parsed.message or IGNORED,
  )


_REMINDERS = {
  turns.Problem.NO_CALL: "No tool call found. Call the tool once.",
  turns.Problem.UNCLOSED: "The tool call was not closed.",
  turns.Problem.BAD_JSON: "The tool call is not valid JSON.",
  turns.Problem.WRONG_TOOL: f"Unknown tool. Call {TOOL_NAME}.",
  turns.Problem.BAD_ARGUMENTS: (
    "The arguments must be two texts: choice, content."
  ),
  turns.Problem.UNKNOWN_CHOICE: "The choice must be one of: {choices}.",
}


def _check_call(call: turns.Call, choices: Sequence[str]) -> Parsed:
  if call.name and call.name != TOOL_NAME:
    return _problem(turns.Problem.WRONG_TOOL, choices)
  if call.problem:
    return _problem(call.problem, choices)
  arguments = turns.load(call.arguments)
  choice, content = arguments.get("choice"), arguments.get("content")
  if not isinstance(choice, str) or not isinstance(content, str):
    return _problem(turns.Problem.BAD_ARGUMENTS, choices)
  if choice not in choices:
    return _problem(turns.Problem.UNKNOWN_CHOICE, choices)
  # Half of a \ud83d\ude00 pair is no character and cannot be written anywhere.
  content = re.sub("[\ud800-\udfff]", "\ufffd", str(content))
  return Parsed(types.Action(choice, content))


def _problem(problem: turns.Problem, choices: Sequence[str]) -> Parsed:
  message = _REMINDERS[problem].format(choices=", ".join(choices))
  return Parsed(None, problem, message)
