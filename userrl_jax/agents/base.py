"""What every agent is to an episode: someone who reads and acts.

An agent is single-use, as the gym is. It keeps the ledger of its episode: the
ids it read and the ids it sampled, which is what training learns from.
"""

import dataclasses
from typing import Protocol

from userrl_jax import types
from userrl_jax.chat import ledger as ledger_lib


@dataclasses.dataclass(frozen=True)
class Reply:
  """What an agent did with its turn."""

  text: str  # decoded for reading
  action: types.Action | None  # None unless the fault is OK
  fault: types.Fault = types.Fault.OK  # OK, AGENT_MALFORMED or TRUNCATED
  detail: str = ""  # why, when not OK; the reminder that the agent then reads
  stop: types.StopReason | None = None  # set when no further turn can follow


class Agent(Protocol):
  """The agent's side of an episode."""

  ledger: ledger_lib.Ledger

  async def begin(
    self, system: str, first: str, choices: tuple[str, ...]
  ) -> None:
    """Reads the rules and the first message."""

  def has_room(self) -> bool:
    """Returns whether its budget allows another turn."""

  async def act(self) -> Reply:
    """Takes a turn.

    Raises:
      types.FaultError: when something other than the agent failed.
    """

  def observe(self, text: str) -> None:
    """Reads what its action brought."""

  def close(self) -> None:
    """Gives back what the episode held; called once, whatever happened."""


def check_prompt(num_ids: int, max_tokens_per_episode: int) -> None:
  """Refuses a prompt that leaves no room for a turn.

  Raises:
    types.SetupError: when the prompt fills the episode's budget.
  """
  if num_ids >= max_tokens_per_episode:
    raise types.SetupError(
      "rollout.max_tokens_per_episode must leave room after the prompt, got "
      f"{max_tokens_per_episode} for a prompt of {num_ids} ids; raise it or "
      "choose chat.profile brief"
    )
