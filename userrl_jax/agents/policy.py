"""The policy on the device as an agent: ids in, ids out, through the engine."""

import numpy as np

from userrl_jax import config
from userrl_jax import types
from userrl_jax.agents import base
from userrl_jax.chat import ledger as ledger_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tool_calls
from userrl_jax.inference import engine as engine_lib
from userrl_jax.inference import sampling as sampling_lib


class PolicyAgent:
  """Samples its turns from the engine and keeps them exactly as sampled."""

  def __init__(
    self,
    engine: engine_lib.Engine,
    chat: chat_lib.Chat,
    limits: config.Rollout,
    key: np.ndarray,
    sampling: sampling_lib.Sampling,
    wave: int = 0,
  ):
    """Makes an agent for one episode.

    Args:
      engine: that is serving the policy's params.
      chat: how dialogues are written as ids.
      limits: token budgets of a turn and of the episode.
      key: [2] uint32 data of the PRNG key that all its sampling comes from.
      sampling: how its tokens are drawn.
      wave: the iteration; the engine serves earlier ones first.
    """
    self.ledger = ledger_lib.Ledger()
    self._engine = engine
    self._chat = chat
    self._limits = limits
    self._session = engine.open(key, sampling, wave)
    self._unread: list[int] = []
    self._choices: tuple[str, ...] = ()
    self._num_turns = 0
    self._num_ignored = 0
    self._has_room = True

  async def begin(
    self, system: str, first: str, choices: tuple[str, ...]
  ) -> None:
    self._choices = choices
    ids = self._chat.prompt_ids(system, first, choices)
    base.check_prompt(len(ids), self._limits.max_tokens_per_episode)
    self._read(ids)

  def has_room(self) -> bool:
    return self._has_room

  async def act(self) -> base.Reply:
    room = self._room()
    budget = min(self._limits.max_tokens_per_turn, room)
    sampled = await self._engine.sample(self._session, self._unread, budget)
    self._unread = []
    self.ledger.sample(sampled.token_ids, sampled.logprobs, self._num_turns)
    self._num_turns += 1
    text = self._chat.tokenizer.decode(sampled.token_ids)
    if not sampled.stopped:
      stop = types.StopReason.TURN_BUDGET
      if budget < self._limits.max_tokens_per_turn:
        stop = types.StopReason.EPISODE_BUDGET
      detail = f"no end of turn within {budget} tokens"
      return base.Reply(text, None, types.Fault.TRUNCATED, detail, stop)
    parsed = tool_calls.parse_ids(
      sampled.token_ids, self._chat.tokenizer, self._choices
    )
    self._num_ignored = parsed.num_ignored
    if parsed.action is None:
      return base.Reply(text, None, types.Fault.AGENT_MALFORMED, parsed.message)
    return base.Reply(text, parsed.action)

  def observe(self, text: str) -> None:
    ignored = [tool_calls.IGNORED] * self._num_ignored
    ids = self._chat.bridge_ids(text, *ignored)
    self._has_room = len(ids) < self._room()
    if self._has_room:
      self._read(ids)

  def close(self) -> None:
    self._engine.close(self._session)

  def _read(self, ids: list[int]) -> None:
    self.ledger.read(ids)
    self._unread = self._unread + ids

  def _room(self) -> int:
    return self._limits.max_tokens_per_episode - self.ledger.num_tokens
