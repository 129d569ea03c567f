"""Agents that follow a script: oracles that demonstrate, and canned moves.

Their turns are written as ids just as the policy would sample them, so a
demonstration is a trajectory like any other.
"""

from collections.abc import Callable, Sequence

from userrl_jax import types
from userrl_jax.agents import base
from userrl_jax.chat import ledger as ledger_lib
from userrl_jax.chat import qwen3 as chat_lib

# Maps the observations read so far, the first message included, to an action.
Script = Callable[[Sequence[str]], types.Action]


class ScriptedAgent:
  """Asks a script for each action and writes it down as a sampled turn."""

  def __init__(
    self, script: Script, chat: chat_lib.Chat, max_tokens_per_episode: int
  ):
    self.ledger = ledger_lib.Ledger()
    self._script = script
    self._chat = chat
    self._max_tokens = max_tokens_per_episode
    self._observations: list[str] = []
    self._has_room = True
    self._num_turns = 0

  async def begin(
    self, system: str, first: str, choices: tuple[str, ...]
  ) -> None:
    ids = self._chat.prompt_ids(system, first, choices)
    base.check_prompt(len(ids), self._max_tokens)
    self.ledger.read(ids)
    self._observations.append(first)

  def has_room(self) -> bool:
    return self._has_room

  async def act(self) -> base.Reply:
    action = self._script(self._observations)
    ids = self._chat.call_ids(action)[: self._room()]
    self.ledger.sample(ids, [0.0] * len(ids), self._num_turns)
    self._num_turns += 1
    text = self._chat.tokenizer.decode(ids)
    if ids[-1] != self._chat.tokenizer.im_end_id:
      return base.Reply(
        text,
        None,
        types.Fault.TRUNCATED,
        f"the episode is longer than {self._max_tokens} tokens",
        types.StopReason.EPISODE_BUDGET,
      )
    return base.Reply(text, action)

  def observe(self, text: str) -> None:
    self._observations.append(text)
    ids = self._chat.bridge_ids(text)
    self._has_room = len(ids) < self._room()
    if self._has_room:
      self.ledger.read(ids)

  def close(self) -> None:
    pass

  def _room(self) -> int:
    return self._max_tokens - self.ledger.num_tokens
