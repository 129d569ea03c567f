"""A model behind an OpenAI-style endpoint as the agent.

In: the gym's texts, sent as a chat with the gym's tool. Out: actions, and a
ledger in which its turns stand as the policy would have sampled them, so that a
demonstration is a trajectory like any other. Calls are taken from `tool_calls`
of the reply and from `<tool_call>` blocks of its text, by the same rules as
everybody's (`chat.turns`). What it says is its own doing, nothing at all too;
an endpoint that fails makes the episode invalid (law L2).
"""

from collections.abc import Sequence
import json
from typing import Any

from userrl_jax import config
from userrl_jax import types
from userrl_jax.agents import base
from userrl_jax.chat import ledger as ledger_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tool_calls
from userrl_jax.chat import turns
from userrl_jax.clients import endpoint


class EndpointAgent:
  """Asks an endpoint for each turn.

  Its history is sent as it was: contents and calls, but not what an endpoint
  tells of thoughts apart from the content, which none takes back.
  """

  def __init__(
    self,
    client: endpoint.Endpoint,
    chat: chat_lib.Chat,
    limits: config.Rollout,
    has_tools: bool = True,
  ):
    """Makes an agent for one episode.

    Args:
      client: that is open.
      chat: how its dialogue is written as ids.
      limits: token budgets: of the episode by `chat`'s tokenizer, of a turn by
        the model's own, as the client was told.
      has_tools: False writes the tool into the system text, and calls are text.
    """
    self.ledger = ledger_lib.Ledger()
    self._client = client
    self._chat = chat
    self._limits = limits
    self._has_tools = has_tools
    self._tools: list[dict[str, Any]] = []
    self._history: list[dict[str, Any]] = []
    self._waiting: list[str] = []  # ids of calls that nobody responded to
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
    self.ledger.read(ids)
    tools = [tool_calls.schema(choices)]
    if self._has_tools:
      self._tools = tools
    else:
      system = chat_lib.system_text("full", system, tools)
    self._history = [
      {"role": "system", "content": system},
      {"role": "user", "content": first},
    ]

  def has_room(self) -> bool:
    return self._has_room

  async def act(self) -> base.Reply:
    try:
      reply = await self._client.complete(self._history, tools=self._tools)
    except types.FaultError as error:
      raise types.FaultError(
        types.Fault.AGENT_ERROR, f"{error.fault}: {error.detail}", is_final=True
      ) from None  # its cause may hold what was said
    said = json.loads(reply)
    calls = [turns.Call(*call) for call in said["calls"]]
    text = chat_lib.turn_text(said["text"], said["thought"], calls)
    turn = turns.read(text)
    self._remember(said["text"], calls)
    ids = self._turn_ids(turn)
    room = self._limits.max_tokens_per_episode - self.ledger.num_tokens
    number, self._num_turns = self._num_turns, self._num_turns + 1
    if said["is_cut"]:
      ids = ids[:-1]  # it did not end its turn
    self.ledger.sample(ids[:room], [0.0] * len(ids[:room]), number)
    if len(ids) > room:
      limit = self._limits.max_tokens_per_episode
      return base.Reply(
        text,
        None,
        types.Fault.TRUNCATED,
        f"the episode is longer than {limit} tokens",
        types.StopReason.EPISODE_BUDGET,
      )
    if said["is_cut"]:
      limit = self._limits.max_tokens_per_turn
      return base.Reply(
        text,
        None,
        types.Fault.TRUNCATED,
        f"no end of turn within {limit} tokens",
        types.StopReason.TURN_BUDGET,
      )
    parsed = tool_calls.check(turn, self._choices)
    self._num_ignored = parsed.num_ignored
    if parsed.action is None:
      return base.Reply(text, None, types.Fault.AGENT_MALFORMED, parsed.message)
    return base.Reply(text, parsed.action)

  def observe(self, text: str) -> None:
    responses = [text, *[tool_calls.IGNORED] * self._num_ignored]
    for response in responses:
      message = {"role": "user", "content": response}
      if self._waiting:
        call = self._waiting.pop(0)
        message |= {"role": "tool", "tool_call_id": call}
      self._history.append(message)
    ids = self._chat.bridge_ids(*responses)
    room = self._limits.max_tokens_per_episode - self.ledger.num_tokens
    self._has_room = len(ids) < room
    if self._has_room:
      self.ledger.read(ids)

  def close(self) -> None:
    pass

  def _remember(self, text: str, calls: Sequence[turns.Call]) -> None:
    """Appends its turn to the history; a call that no server reads, as text."""
    read = turns.read(chat_lib.turn_text(calls=calls)).calls
    good = [call for call in read if not call.problem]
    texts = [text, *(call.source for call in read if call.problem)]
    message: dict[str, Any] = {
      "role": "assistant",
      "content": "\n".join(filter(None, texts)),
    }
    self._waiting = [f"call_{self._num_turns}_{i}" for i in range(len(good))]
    if good:
      message["tool_calls"] = [
        {
          "id": name,
          "type": "function",
          "function": {"name": call.name, "arguments": call.arguments},
        }
        for name, call in zip(self._waiting, good, strict=True)
      ]
    self._history.append(message)

  def _turn_ids(self, turn: turns.Turn) -> list[int]:
    """Returns a turn as ids; what is no call of anything stays text."""
    texts = [turn.text, *(call.source for call in turn.calls if call.problem)]
    return self._chat.turn_ids(
      "\n".join(filter(None, texts)),
      turn.thought,
      [call for call in turn.calls if not call.problem],
    )
