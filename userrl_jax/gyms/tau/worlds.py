"""What a world of tools is: our shop, or a tau-bench checkout.

A call and what the episode has done so far come in; text for the agent and what
the episode has done now go out. Worlds keep nothing of an episode: whatever it
changed is in `Situation.changes`, JSON of the changed records.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol

from userrl_jax.gyms.tau import calls

ERROR = "Error: "  # opens a reply that refuses a call


@dataclasses.dataclass(frozen=True)
class Situation:
  """What an episode has made of its world."""

  changes: str  # canonical JSON of the records that are not as they were
  user_id: str = ""  # who was identified


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a call did."""

  text: str
  situation: Situation
  looked: tuple[str, ...] = ()  # ids of records whose state the reply tells
  is_transfer: bool = False

  @property
  def is_error(self) -> bool:
    return self.text.startswith(ERROR)


class World(Protocol):
  """Tools that work on records."""

  @property
  def tools(self) -> Sequence[calls.Tool]:
    """What the agent may call."""

  @property
  def policy(self) -> str:
    """What the agent must keep to."""

  def run(
    self, rows: Mapping[str, Any], situation: Situation, call: calls.Call
  ) -> Outcome:
    """Runs a call of one of `tools`.

    Args:
      rows: records that the episode began with, besides the world's own.
      situation: before the call.
      call: as the agent wrote it; bad arguments give an error as text.
    """


def refused(situation: Situation, reason: str) -> Outcome:
  """Returns the outcome of a call that did nothing."""
  return Outcome(ERROR + reason, situation)
