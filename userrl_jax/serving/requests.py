"""Reads the body of a chat completion request; knows no JAX.

In: bytes. Out: a `Request`, or a `Refused` that says in OpenAI's error schema
what is wrong. Nothing is silently left out: what this server does not do is
refused, unless it is asked for at the value that asks for nothing.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import math
from typing import Any

from userrl_jax.chat import messages as messages_lib

MAX_CHOICES = 16
_MAX_STOPS = 4
# Labels for the books of whoever runs a server.
_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
# Values that ask for nothing; none other is known.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
  "frequency_penalty": (0,),
  "presence_penalty": (0,),
  "logit_bias": ({},),
  "top_logprobs": (0,),
  "response_format": ({"type": "text"},),
  "parallel_tool_calls": (True,),
  "store": (False,),
  "service_tier": ("auto", "default"),
  "modalities": (["text"],),
}
_KNOWN = (
  "model",
  "messages",
  "tools",
  "tool_choice",
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "max_tokens",
  "max_completion_tokens",
  "stop",
  "n",
  "seed",
  "logprobs",
  "stream",
  "stream_options",
  "chat_template_kwargs",
)


class Refused(Exception):
  """A request that is not served, as the response says it.

  Attributes:
    status: of HTTP.
    param: the field that is wrong; None for none.
    code: short, for programs; None for none.
    headers: of the response.
  """

  def __init__(
    self,
    message: str,
    param: str | None = None,
    status: int = 400,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
  ):
    super().__init__(message)
    self.status = status
    self.param = param
    self.code = code
    self.headers = dict(headers or {})

  @property
  def body(self) -> dict[str, Any]:
    """Returns it in OpenAI's error schema."""
    kind = "invalid_request_error" if self.status < 500 else "server_error"
    if self.status == 429:
      kind = "rate_limit_error"
    error = {"type": kind, "param": self.param, "code": self.code}
    return {"error": {"message": str(self), **error}}


@dataclasses.dataclass(frozen=True)
class Request:
  """A chat completion, as asked for."""

  model: str
  messages: tuple[messages_lib.Message, ...]
  tools: tuple[Mapping[str, Any], ...] = ()  # that may be called
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0
  max_tokens: int | None = None  # None: what the context holds
  stop: tuple[str, ...] = ()
  n: int = 1
  seed: int | None = None
  logprobs: bool = False
  stream: bool = False
  include_usage: bool = False  # in a stream
  thinking: bool | None = None  # None: as the server has it


def read(body: bytes) -> Request:
  """Reads a request.

  Raises:
    Refused: names the first field that is wrong, and what it must be.
  """
  raw = _object(body)
  for name in raw:
    _check_known(name, raw)
  if not isinstance(raw.get("model"), str):
    raise Refused(f"model must be a name, got {_shown(raw, 'model')}", "model")
  if not isinstance(raw.get("messages"), list):
    got = _shown(raw, "messages")
    raise Refused(f"messages must be a list, got {got}", "messages")
  stream = _flag(raw, "stream")
  logprobs = _flag(raw, "logprobs")
  if stream and logprobs:
    raise Refused("logprobs must be false in a stream, got true", "logprobs")
  try:
    messages = tuple(messages_lib.from_openai(raw["messages"]))
  except ValueError as error:
    raise Refused(str(error), "messages") from error
  return Request(
    model=raw["model"],
    messages=messages,
    tools=_tools(raw),
    temperature=_number(raw, "temperature", 1.0, "0 to 2", lambda x: x <= 2),
    top_p=_number(raw, "top_p", 1.0, "above 0, up to 1", lambda x: 0 < x <= 1),
    top_k=_whole(raw, "top_k", 0, 0, 2**31 - 1),
    min_p=_number(raw, "min_p", 0.0, "0 to 1", lambda x: x <= 1),
    max_tokens=_max_tokens(raw),
    stop=_stop(raw),
    n=_whole(raw, "n", 1, 1, MAX_CHOICES),
    seed=_whole(raw, "seed", None, -(2**63), 2**63 - 1),
    logprobs=logprobs,
    stream=stream,
    include_usage=_option(raw, "stream_options", "include_usage") or False,
    thinking=_option(raw, "chat_template_kwargs", "enable_thinking"),
  )


def _object(body: bytes) -> dict[str, Any]:
  try:
    raw = json.loads(body)
  except (ValueError, RecursionError) as error:
    why = "nested too deeply" if isinstance(error, RecursionError) else error
    raise Refused(f"the body must be JSON, got: {why}") from error
  if not isinstance(raw, dict):
    raise Refused(f"the body must be a JSON object, got {_short(raw)}")
  return raw


def _check_known(name: str, raw: Mapping[str, Any]) -> None:
  if name in _KNOWN or name in _LABELS or raw[name] is None:
    return
  if name not in _NEUTRAL:
    raise Refused(
      f"there is no field {name:.60}; this server knows {', '.join(_KNOWN)}",
      name[:60],
      code="unknown_parameter",
    )
  if not any(_is(raw[name], value) for value in _NEUTRAL[name]):
    allowed = " or ".join(json.dumps(value) for value in _NEUTRAL[name])
    raise Refused(
      f"{name} must be {allowed}, or left out, got {_shown(raw, name)}; this "
      "server can do nothing else",
      name,
      code="unsupported_value",
    )


def _tools(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
  """Returns the tools that the model is told of: none with tool_choice none."""
  tools = raw.get("tools") or []
  if not isinstance(tools, list):
    raise Refused(f"tools must be a list, got {_shown(raw, 'tools')}", "tools")
  for i, tool in enumerate(tools):
    if not isinstance(tool, dict) or tool.get("type") != "function":
      raise Refused(f'tools[{i}] must be of type "function"', "tools")
  try:
    messages_lib.check_tools(tools)
  except ValueError as error:
    raise Refused(str(error), "tools") from error
  choice = raw.get("tool_choice")
  if choice not in (None, "auto", "none"):
    raise Refused(
      "tool_choice must be auto or none: nothing holds the model to a call, "
      f"got {_shown(raw, 'tool_choice')}",
      "tool_choice",
      code="unsupported_value",
    )
  if choice == "auto" and not tools:
    raise Refused("tool_choice needs tools, got none", "tool_choice")
  return () if choice == "none" else tuple(tools)


def _max_tokens(raw: Mapping[str, Any]) -> int | None:
  names = ("max_completion_tokens", "max_tokens")
  given = [_whole(raw, name, None, 1, 2**31 - 1) for name in names]
  if None not in given and given[0] != given[1]:
    raise Refused(
      f"max_tokens must equal max_completion_tokens ({given[0]}) where both "
      f"are given, got {given[1]}",
      "max_tokens",
    )
  return given[1] if given[0] is None else given[0]


def _stop(raw: Mapping[str, Any]) -> tuple[str, ...]:
  given = raw.get("stop")
  stops = [given] if isinstance(given, str) else given or []
  is_list = isinstance(stops, list) and len(stops) <= _MAX_STOPS
  if not is_list or not all(isinstance(s, str) and s for s in stops):
    raise Refused(
      f"stop must be a text or up to {_MAX_STOPS}, none of them empty, got "
      f"{_shown(raw, 'stop')}",
      "stop",
    )
  return tuple(stops)


def _option(raw: Mapping[str, Any], name: str, key: str) -> bool | None:
  """Returns the one truth value that an object may hold."""
  given = raw.get(name)
  if given is None:
    return None
  if not isinstance(given, dict) or not given.keys() <= {key}:
    raise Refused(
      f"{name} must be an object of {key} alone, got {_shown(raw, name)}", name
    )
  value = given.get(key)
  if value is not None and not isinstance(value, bool):
    raise Refused(f"{name}.{key} must be true or false", name)
  return value


def _flag(raw: Mapping[str, Any], name: str) -> bool:
  value = raw.get(name)
  if value is not None and not isinstance(value, bool):
    raise Refused(
      f"{name} must be true or false, got {_shown(raw, name)}", name
    )
  return bool(value)


def _number(
  raw: Mapping[str, Any],
  name: str,
  default: float,
  rule: str,
  holds: Callable[[float], bool],
) -> float:
  value = raw.get(name)
  if value is None:
    return default
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  # Huge whole numbers compare, but are no floats.
  if not (is_number and 0 <= value < math.inf and holds(value)):
    got = _shown(raw, name)
    raise Refused(f"{name} must be a number, {rule}, got {got}", name)
  return float(value)


def _whole(
  raw: Mapping[str, Any], name: str, default: Any, low: int, high: int
) -> Any:
  value = raw.get(name)
  if value is None:
    return default
  if not isinstance(value, int) or isinstance(value, bool):
    got = _shown(raw, name)
    raise Refused(f"{name} must be a whole number, got {got}", name)
  if not low <= value <= high:
    raise Refused(f"{name} must be in {low} to {high}, got {value}", name)
  return value


def _is(value: Any, wanted: Any) -> bool:
  """Compares, True and 1 apart."""
  is_flag = isinstance(value, bool), isinstance(wanted, bool)
  return bool(value == wanted) and is_flag[0] == is_flag[1]


def _shown(raw: Mapping[str, Any], name: str) -> str:
  return _short(raw[name]) if name in raw else "nothing"


def _short(value: Any) -> str:
  return repr(value)[:100]
