"""A model behind an endpoint as the agent, against a real server and gym."""

import asyncio

import numpy as np
import pytest

from tests.agents import guesser
from tests.clients import server
from userrl_jax import config as config_lib
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import imported
from userrl_jax import types
from userrl_jax import users
from userrl_jax.agents import endpoint as endpoint_agent
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.rollout import episode

Fault, Stop = types.Fault, types.StopReason
GYMS = config_lib.Gyms(
  names=("telepathy",),
  num_train_tasks=1,
  telepathy=config_gyms.Telepathy(guess_limit=0),
)
CALL = guesser.call("action", "Is it big?")


@pytest.fixture(scope="module")
def chat():
  tokenizer = tokenizers.train_sentencepiece(["f = 7"], 512, chat_lib.PHRASES)
  return chat_lib.Chat(tokenizer, "full")


def play(chat, answer, has_tools=True, max_tokens=8192, **faults):
  """Plays one game; returns the trajectory, its requests and the gym."""
  (task,) = gyms.load_tasks("telepathy", GYMS, "train", 0)
  limits = config_lib.Rollout(
    max_tokens_per_turn=77, max_tokens_per_episode=max_tokens, max_malformed=2
  )
  with server.Server(answer, **faults) as running:
    agent = config_lib.Agent("m", running.base_url)
    settings = users.agent_settings(
      config_lib.User(num_retries=0),
      agent,
      config_lib.Evaluation(agent="endpoint", temperature=0.5),
      limits,
    )
    user = users.User(config_lib.User(), agent=settings)
    gym = gyms.make("telepathy", GYMS)

    async def one():
      async with user.opened() as judge:
        assert judge is None  # rules answer
        return await episode.play(
          task,
          gym,
          endpoint_agent.EndpointAgent(user.agent, chat, limits, has_tools),
          episode.Settings(limits, 6, "full", show_reward=False),
          seed=0,
          member=0,
          iteration=0,
        )

    played = asyncio.run(one())
    counts = user.take_counts()
    assert counts["agent/requests"] == len(running.log)
    return played, [request.body for request in running.log], gym


def text_of(chat, played, turn):
  ids = played.token_ids_T[played.turn_ids_T == turn].tolist()
  return chat.tokenizer.decode(ids)


def test_calls_come_as_calls_and_go_back_as_such(chat):
  played, bodies, gym = play(chat, guesser.answer)
  assert played.reward > 0 and played.stop_reason == Stop.TERMINATED
  assert {turn.fault for turn in played.turns} == {Fault.OK}
  assert len(bodies) == len(played.turns) > 1
  first, second = bodies[:2]
  assert first["temperature"] == 0.5 and first["max_tokens"] == 77
  (tool,) = first["tools"]
  offered = tool["function"]["parameters"]["properties"]["choice"]["enum"]
  assert tuple(offered) == gym.choices
  assert [m["role"] for m in second["messages"]] == [
    *("system", "user", "assistant", "tool")
  ]
  said, heard = second["messages"][2:]
  assert said["content"] == "I guess." and heard["content"] == (
    played.turns[0].observation
  )
  assert said["tool_calls"][0]["id"] == heard["tool_call_id"]
  # The ledger has each turn as the policy would have sampled it.
  guess = played.turns[0].action.content
  assert text_of(chat, played, 0) == (
    'I guess.\n<tool_call>\n{"name": "interact_with_env", "arguments": '
    f'{{"choice": "answer", "content": "{guess}"}}}}\n</tool_call><|im_end|>'
  )
  system = gym.system_prompt("full")
  written = imported.exported(played, chat, system, gym.choices)
  again = imported.trajectory(written, chat)
  np.testing.assert_array_equal(again.token_ids_T, played.token_ids_T)
  np.testing.assert_array_equal(again.turn_ids_T, played.turn_ids_T)


def test_without_tools_calls_are_text(chat):
  def as_text(fields, number):
    call = fields["tool_calls"][0]["function"]["arguments"]
    return (
      f"<think>\nNumber {number}.\n</think>\n\n<tool_call>\n"
      f'{{"name": "interact_with_env", "arguments": {call}}}\n</tool_call>'
    )

  played, bodies, _ = play(
    chat, lambda m: guesser.answer(m, as_text), has_tools=False
  )
  assert played.reward > 0
  assert {turn.fault for turn in played.turns} == {Fault.OK}
  assert all("tools" not in body for body in bodies)
  assert "interact_with_env" in bodies[0]["messages"][0]["content"]
  roles = [message["role"] for message in bodies[1]["messages"]]
  assert roles == ["system", "user", "assistant", "user"]
  assert bodies[1]["messages"][2]["content"] == played.turns[0].text
  assert text_of(chat, played, 0) == played.turns[0].text + "<|im_end|>"


@pytest.mark.parametrize(
  ("reply", "fault", "roles"),
  [
    ("I do not know.", Fault.AGENT_MALFORMED, ["user"]),
    ({}, Fault.AGENT_MALFORMED, ["user"]),
    ({"refusal": "I would rather not."}, Fault.AGENT_MALFORMED, ["user"]),
    (guesser.fields('{"choice": '), Fault.AGENT_MALFORMED, ["user"]),
    (guesser.fields(CALL, name="other"), Fault.AGENT_MALFORMED, ["tool"]),
    (guesser.fields('{"choice": "win"}'), Fault.AGENT_MALFORMED, ["tool"]),
    (guesser.fields(CALL, CALL), Fault.OK, ["tool", "tool"]),
    (guesser.fields(CALL, "{"), Fault.OK, ["tool", "user"]),
    (
      guesser.fields(CALL, reasoning_content="Hm.", content=None),
      Fault.OK,
      ["tool"],
    ),
  ],
)
def test_what_it_says_is_its_own_doing(chat, reply, fault, roles):
  wrap = lambda fields, number: reply if number == 0 else fields
  played, bodies, _ = play(chat, lambda m: guesser.answer(m, wrap))
  assert played.is_valid and played.turns[0].fault == fault
  assert [turn.fault for turn in played.turns[1:]] == [Fault.OK] * (
    len(played.turns) - 1
  )
  said, *heard = bodies[1]["messages"][2:]
  assert [message["role"] for message in heard] == roles
  asked = [call["id"] for call in said.get("tool_calls", ())]
  assert [m["tool_call_id"] for m in heard if m["role"] == "tool"] == asked
  assert "reasoning_content" not in said
  assert heard[0]["content"] == played.turns[0].observation
  if isinstance(reply, dict) and "reasoning_content" in reply:
    assert text_of(chat, played, 0).startswith("<think>\nHm.\n</think>\n\n")


def test_who_never_calls_reaches_the_limit(chat):
  played, bodies, _ = play(chat, lambda m: "Hello.")
  assert played.is_valid and played.stop_reason == Stop.MALFORMED_LIMIT
  assert len(bodies) == 3 and played.reward == 0


def test_budgets_of_tokens_hold(chat):
  cut = {"content": "I think", "finish_reason": "length"}
  played, _, _ = play(chat, lambda m: cut)
  assert played.is_valid and played.stop_reason == Stop.TURN_BUDGET
  assert text_of(chat, played, 0) == "I think"  # no end of turn to learn
  whole, _, _ = play(chat, guesser.answer)
  first = int(np.argmax(whole.turn_ids_T >= 0))
  played, _, _ = play(chat, guesser.answer, max_tokens=first + 5)
  assert played.is_valid and played.stop_reason == Stop.EPISODE_BUDGET
  assert played.token_ids_T.size == first + 5


@pytest.mark.parametrize(
  ("met", "detail"),
  [
    ("error", "user_error: HTTP 500"),
    ("busy", "user_busy: HTTP 429"),
    ("refusal", "user_refusal: the reply was held back"),
    ("html", "user_error: no chat completion"),
  ],
)
def test_an_endpoint_that_fails_makes_the_episode_invalid(chat, met, detail):
  played, _, _ = play(chat, guesser.answer, script=["", met])
  assert not played.is_valid and played.fault == Fault.AGENT_ERROR
  assert played.detail.startswith(detail) and len(played.turns) == 1


def test_a_wrong_key_ends_the_run(chat):
  with pytest.raises(types.SetupError, match="check the key"):
    play(chat, guesser.answer, script=["401"])
