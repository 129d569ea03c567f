"""What the reply to a request means, or that there was none.

In: what the `openai` package returned or raised. Out: a text, a `Failure` with
a fault of its own, or a `types.SetupError`. Neither the key nor a word of what
was asked or answered is in them, whatever a server repeats.
"""

from collections.abc import Mapping
import dataclasses
import email.utils
import json
import math
import re
import time
from typing import Any

import openai

from userrl_jax import types

_RETRIED = (408, 409, 429)  # and everything from 500
_ABOUT_CONTENT = (400, 413, 422)  # one prompt may be at fault, not the set-up
_ABOUT_FORMAT = (400, 415, 422, 501)  # of who knows no response_format
_REFUSAL_CODES = (
  "content_filter",
  "content_policy_violation",
  "invalid_prompt",
)
_HINTS = {
  401: "check the key in {env}",
  403: "check the key in {env} and what it may use",
  404: "check {role}.base_url, which most often ends in /v1, and {role}.model",
}
_ANY_HINT = "check {role}.model, {role}.max_tokens and {role}.temperature"
_CODE = re.compile(r"[A-Za-z_][\w.\-]{0,39}")


@dataclasses.dataclass(frozen=True)
class Failure:
  """Why one request gave no text."""

  fault: types.Fault
  detail: str
  may_retry: bool = False
  wait_s: float = 0.0  # that the endpoint asks for
  is_format: bool = False  # it may be that only the JSON schema is not taken
  may_cost: bool = False  # it was sent, and nobody told what it took


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads the replies of one endpoint."""

  where: str  # as messages name it
  role: str  # the section of the config that it is of
  key: str  # never shown
  api_key_env: str
  max_tokens: int  # of a reply

  def text(self, reply: Any) -> str | Failure:
    """Returns the text of a reply, which the library does not check."""
    choices: Any = getattr(reply, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
      return self.no_completion()
    reason = getattr(choices[0], "finish_reason", None)
    content = getattr(message, "content", None)
    if reason == "content_filter" or getattr(message, "refusal", None):
      return Failure(types.Fault.USER_REFUSAL, "the model refused to reply")
    if reason == "length":
      return Failure(
        types.Fault.USER_UNPARSABLE,
        f"the reply was cut off at {self.max_tokens} tokens",
      )
    if not isinstance(content, str) or not content.strip():
      return Failure(types.Fault.USER_UNPARSABLE, "the reply was empty")
    return content

  def turn(self, reply: Any) -> str | Failure:
    """Returns an agent's turn as JSON, whatever it is worth.

    Its fields: `text`, `thought` (where the endpoint tells it), `calls` (pairs
    of a name and arguments as they were written) and `is_cut`. What the model
    says is the agent's own doing, a refusal in words and nothing at all too;
    what its provider holds back is not.
    """
    choices: Any = getattr(reply, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
      return self.no_completion()
    reason = getattr(choices[0], "finish_reason", None)
    if reason == "content_filter":
      return Failure(types.Fault.USER_REFUSAL, "the reply was held back")
    told = lambda of, name: str(getattr(of, name, None) or "")
    functions = [
      getattr(call, "function", None)
      for call in getattr(message, "tool_calls", None) or ()
    ]
    return json.dumps(
      {
        "text": told(message, "content") or told(message, "refusal"),
        "thought": told(message, "reasoning_content"),
        "calls": [[told(f, "name"), told(f, "arguments")] for f in functions],
        "is_cut": reason == "length",
      }
    )

  def no_completion(self) -> Failure:
    """Returns what a reply means that is no chat completion."""
    return Failure(
      types.Fault.USER_ERROR,
      f"no chat completion from {self.where}",
      may_retry=True,
      may_cost=True,
    )

  def no_connection(self, error: openai.OpenAIError) -> Failure:
    """Returns what it means that nothing came back."""
    kind = type(error.__cause__ or error).__name__
    return Failure(
      types.Fault.USER_ERROR,
      f"no connection ({kind}) to {self.where}",
      may_retry=True,
      may_cost=not kind.startswith("Connect"),  # else nothing was sent
    )

  def of_status(
    self, error: openai.APIStatusError, has_answered: bool, has_schema: bool
  ) -> Failure | types.SetupError:
    """Returns what an HTTP error means for a request, or for the set-up.

    Args:
      error: as raised.
      has_answered: the endpoint took a request of ours before.
      has_schema: a JSON schema was sent, of which it never took one.
    """
    status = error.status_code
    said: list[Any] = [error.code, error.type, error.param]
    codes: list[str] = [code for code in said if self._tells(code)]
    detail = f"HTTP {status}" + (f" ({', '.join(codes)})" if codes else "")
    if not set(_REFUSAL_CODES).isdisjoint(codes):
      return Failure(types.Fault.USER_REFUSAL, f"refused: {detail}")
    if has_schema and status in _ABOUT_FORMAT:
      return Failure(types.Fault.USER_ERROR, detail, is_format=True)
    if status in _RETRIED or status >= 500:
      busy = types.Fault.USER_BUSY
      return Failure(
        busy if status == 429 else types.Fault.USER_ERROR,
        detail,
        may_retry=True,
        wait_s=retry_after_s(error.response.headers),
      )
    if status in _ABOUT_CONTENT and has_answered:
      return Failure(types.Fault.USER_ERROR, detail)
    hint = _HINTS.get(status, _ANY_HINT).format(
      env=self.api_key_env or f"{self.role}.api_key", role=self.role
    )
    return types.SetupError(
      f"the endpoint {self.where} must take our requests, got {detail}; {hint}"
    )

  def _tells(self, code: Any) -> bool:
    """Whether a field of an error is a mere code, free of key and prompt."""
    return (
      isinstance(code, str)
      and _CODE.fullmatch(code) is not None
      and self.key not in code
    )


def usage(reply: Any) -> tuple[int, int] | None:
  """Returns the tokens in and out that a reply tells of, None when it does not.

  One that is told alone has the other at 0.
  """
  told = getattr(reply, "usage", None)
  counts = [
    getattr(told, field, None)
    for field in ("prompt_tokens", "completion_tokens")
  ]
  if not any(isinstance(count, int) for count in counts):
    return None
  return tuple(  # type: ignore[return-value]
    count if isinstance(count, int) else 0 for count in counts
  )


def retry_after_s(headers: Mapping[str, str]) -> float:
  """Returns the seconds of a Retry-After header, 0 when there is none.

  The header holds seconds, or a date.
  """
  value = headers.get("retry-after", "")
  try:
    seconds = float(value)
  except ValueError:
    date = email.utils.parsedate_tz(value)
    seconds = email.utils.mktime_tz(date) - time.time() if date else 0.0
  return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
