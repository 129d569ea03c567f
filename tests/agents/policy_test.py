"""The policy as an agent: a real model, engine, gym and learner's forward.

The model is built by hand: it draws each next token from a small chain that
mostly writes tool calls, and attends a little, at random, to what it has read.
So real sampling gives well-formed turns, turns of several calls, turns without
a call, and turns that never end.
"""

import asyncio
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config as config_lib
from userrl_jax import gyms
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.agents import policy
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls
from userrl_jax.inference import engine as engine_lib
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode

# A row that is not given back would be waited for without end.
pytestmark = pytest.mark.timeout(120)

GYMS = config_lib.Gyms(max_turns=6)
LIMITS = config_lib.Rollout(
  max_tokens_per_turn=40, max_tokens_per_episode=448, max_malformed=2
)
# Fewer rows than episodes: rows are handed on.
ENGINE = config_lib.Engine(num_rows=8, num_lanes=8, decode_tokens=8)
CALL_END = tokenizers.Special.TOOL_CALL_END


@pytest.fixture(scope="module")
def chat():
  tokenizer = tokenizers.train_sentencepiece(["f = 7"], 512, chat_lib.PHRASES)
  return chat_lib.Chat(tokenizer, "brief")


@pytest.fixture(scope="module")
def model(chat):
  V = chat.tokenizer.vocab_size
  return qwen3.Config(
    vocab_size=V,
    hidden_size=V,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    intermediate_size=32,
    tie_embeddings=False,
  )


@pytest.fixture(scope="module")
def params(chat, model):
  """Of a model whose logits are near `chain[last token]`."""
  encode, special = chat.tokenizer.encode, chat.tokenizer.special_ids
  call = chat.call_ids(types.Action("answer", "7"))
  assert len(set(call)) == len(call), "a chain goes through a token once"
  (opening,), (word,), (loop,) = encode("assistant\n"), encode("w"), encode("~")
  chain = {a: {b: 1.0} for a, b in itertools.pairwise(call)}
  chain[opening] = {call[0]: 0.7, word: 0.2, loop: 0.1}
  chain[word] = {chat.tokenizer.im_end_id: 1.0}
  chain[loop] = {loop: 1.0}
  chain[special[CALL_END]] = {chat.tokenizer.im_end_id: 0.6, call[0]: 0.4}

  V = model.vocab_size
  params = jax.jit(lambda: qwen3.init(model, jax.random.key(1)))()
  kernel_DV = np.zeros((V, V), np.float32)
  for last, following in chain.items():
    for token, p in following.items():
      kernel_DV[last, token] = 25 + np.log(p)
  # The final norm scales the one-hot embedding of a token to sqrt(V).
  params["head"]["kernel"] = jnp.asarray(kernel_DV / np.sqrt(V))
  params["embed"]["embedding"] = jnp.eye(V)
  for name, size in (("o", 0.2), ("down", 0.02)):
    params["layers"] = _scaled(params["layers"], name, size)
  return params


def _scaled(layers, name, size):
  """Scales what a kernel adds to the hidden states."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: size * x if path[-2].key == name else x, layers
  )


def _play(
  chat, model, params, limits=LIMITS, *, seed=0, iteration=0, group_size=6
):
  engine = engine_lib.Engine(
    model,
    ENGINE,
    LIMITS.max_tokens_per_episode,
    chat.tokenizer.im_end_id,
    sharding.make_mesh(config_lib.Mesh()),
  )
  tasks = gyms.load_tasks("function", GYMS, "train", 0)[:4]
  agents = []

  def make_agent(task, member, agent_seed):
    key = np.array([agent_seed >> 32, agent_seed & 0xFFFFFFFF], np.uint32)
    how = sampling.Sampling(limits.temperature)
    agents.append(policy.PolicyAgent(engine, chat, limits, key, how))
    return agents[-1]

  async def play():
    async with engine.serving(params):
      return await collect.collect(
        tasks,
        group_size,
        lambda name: gyms.make(name, GYMS),
        make_agent,
        episode.Settings(limits, GYMS.max_turns, "brief", show_reward=False),
        seed=seed,
        iteration=iteration,
      )

  groups = asyncio.run(play())
  return [t for group in groups for t in group.trajectories], engine


@pytest.fixture(scope="module")
def played(chat, model, params):
  return _play(chat, model, params)


@pytest.fixture(scope="module")
def trajectories(played):
  return played[0]


def _gap(model, params, trajectories, temperature=1.0):
  """Largest |recomputed - sampled| log-prob, by the learner's forward."""
  T = LIMITS.max_tokens_per_episode

  @jax.jit
  def recompute(tokens_T):
    hidden, _ = qwen3.forward(
      params, model, tokens_T[None], jnp.arange(T)[None], jnp.ones((1, T), int)
    )
    logits = qwen3.logits(params, model, hidden)[0, :-1] / temperature
    logprobs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logprobs, tokens_T[1:, None], 1)[:, 0]

  gaps = []
  for t in trajectories:
    padded = np.zeros(T, np.int32)
    padded[: len(t.token_ids_T)] = t.token_ids_T
    logprobs = recompute(padded)[: len(t.token_ids_T) - 1]
    gap = np.abs(logprobs - t.logprobs_T[1:])[t.turn_ids_T[1:] >= 0]
    gaps.append(gap.max())
  return max(gaps)


def test_the_chain_plays_turns_of_every_kind(trajectories):
  turns = [turn for t in trajectories for turn in t.turns]
  assert all(t.is_valid for t in trajectories)
  assert {turn.fault for turn in turns} == {
    "ok",
    "agent_malformed",
    "truncated",
  }
  assert any(turn.text.count(CALL_END) > 1 for turn in turns)
  assert {turn.action for turn in turns} >= {types.Action("answer", "7")}


def test_recomputed_logprobs_equal_the_sampled(model, params, trajectories):
  assert len({t.logprobs_T.tobytes() for t in trajectories}) > 12
  assert _gap(model, params, trajectories) <= 1e-4
  assert _gap(model, params, trajectories, temperature=1.1) > 1e-3
  # History matters to this model, so what was read is in the log-probs too.
  other = [
    dataclasses.replace(t, token_ids_T=np.r_[np.int32(5), t.token_ids_T[1:]])
    for t in trajectories
  ]
  assert _gap(model, params, other) > 1e-3


def test_the_ledger_is_what_was_read_and_sampled(chat, trajectories):
  for t in trajectories:
    gym = gyms.make("function", GYMS)
    first = asyncio.run(gym.reset(t.task, 0)).text
    ids = chat.prompt_ids(gym.system_prompt("brief"), first, gym.choices)
    kinds = [-1] * len(ids)
    for k, turn in enumerate(t.turns):
      sampled = t.token_ids_T[t.turn_ids_T == k].tolist()
      assert chat.tokenizer.decode(sampled) == turn.text
      ids, kinds = ids + sampled, kinds + [k] * len(sampled)
      if k + 1 < len(t.turns):
        num_ignored = max(turn.text.count(CALL_END) - 1, 0)
        answers = [turn.observation] + [tool_calls.IGNORED] * num_ignored
        bridge = chat.bridge_ids(*answers)
        ids, kinds = ids + bridge, kinds + [-1] * len(bridge)
    # Of a dialogue that ran out of turns, the last answer may be read or not.
    assert t.token_ids_T.tolist()[: len(ids)] == ids
    assert t.turn_ids_T.tolist()[: len(ids)] == kinds
    assert (t.turn_ids_T[len(ids) :] == -1).all()
    assert (t.logprobs_T[t.turn_ids_T == -1] == 0).all()
    assert (t.logprobs_T <= 0).all()


def test_calls_after_the_first_are_answered_but_not_played(chat, trajectories):
  num_seen = 0
  for t in trajectories:
    stream = chat.tokenizer.decode(t.token_ids_T.tolist())
    several = [
      turn
      for turn in t.turns[:-1]
      if turn.text.count(CALL_END) > 1 and turn.action
    ]
    ignored = sum(turn.text.count(CALL_END) - 1 for turn in several)
    assert stream.count(tool_calls.IGNORED) == ignored
    for turn in several:  # the first call was played, and answered first
      assert turn.fault == types.Fault.OK
      answer = f"{turn.observation}\n</tool_response>\n<tool_response>\n"
      assert answer + tool_calls.IGNORED in stream
    num_seen += ignored
  assert num_seen > 0


def test_a_turn_that_never_ends_ends_the_episode(trajectories):
  truncated = [t for t in trajectories if t.turns[-1].fault == "truncated"]
  assert truncated
  for t in truncated:
    assert t.stop_reason == types.StopReason.TURN_BUDGET
    assert t.num_sampled_K[-1] == LIMITS.max_tokens_per_turn
    assert "40 tokens" in t.turns[-1].detail
    assert t.turns[-1].action is None and t.turns[-1].reward == 0
    assert t.turn_ids_T[-1] == len(t.turns) - 1
  for t in trajectories:
    faults = [turn.fault for turn in t.turns[:-1]]
    assert types.Fault.TRUNCATED not in faults


def test_a_malformed_turn_is_reminded_and_goes_on(chat, trajectories):
  gone_on = 0
  for t in trajectories:
    stream = chat.tokenizer.decode(t.token_ids_T.tolist())
    malformed = [turn for turn in t.turns if turn.fault == "agent_malformed"]
    for turn in malformed:
      assert turn.action is None and turn.reward == 0
      assert turn.observation == turn.detail
      assert turn.observation.startswith("No tool call found")
      if turn is not t.turns[-1]:
        assert f"{turn.text}\n<|im_start|>user\n<tool_response>" in stream
        assert turn.observation in stream
        gone_on += 1
    assert len(malformed) <= LIMITS.max_malformed + 1
    if len(malformed) > LIMITS.max_malformed:
      assert t.stop_reason == types.StopReason.MALFORMED_LIMIT
  assert gone_on > 0


@pytest.mark.parametrize("room", [6, 31, 40, 60])
def test_the_episode_budget_is_never_passed(chat, model, params, room):
  prompt = len(
    chat.prompt_ids(
      gyms.make("function", GYMS).system_prompt("brief"),
      "f is ready.",
      types.CHOICES,
    )
  )
  limits = dataclasses.replace(LIMITS, max_tokens_per_episode=prompt + room)
  trajectories, _ = _play(chat, model, params, limits)
  lengths = [len(t.token_ids_T) for t in trajectories]
  assert max(lengths) <= prompt + room
  budget_ends = [
    t for t in trajectories if t.stop_reason == types.StopReason.EPISODE_BUDGET
  ]
  assert budget_ends and all(t.is_valid for t in budget_ends)
  if room < LIMITS.max_tokens_per_turn:
    looped = [t for t in trajectories if t.turns[0].text.startswith("~")]
    assert {t.stop_reason for t in looped} == {types.StopReason.EPISODE_BUDGET}
    assert {len(t.token_ids_T) for t in looped} == {prompt + room}


def test_play_is_repeatable_and_leaves_no_row(chat, model, params, played):
  trajectories, engine = played
  again, _ = _play(chat, model, params)
  other, _ = _play(chat, model, params, seed=1)
  later, _ = _play(chat, model, params, iteration=1)
  ids = lambda ts: [t.token_ids_T.tolist() for t in ts]
  assert ids(again) == ids(trajectories) != ids(other)
  # A task that is met again at a later step draws anew.
  for p in range(4):
    met, anew = (ids(ts[6 * p :][:6]) for ts in (trajectories, later))
    assert later[6 * p].task == trajectories[6 * p].task and met != anew
  for a, b in zip(again, trajectories, strict=True):
    np.testing.assert_array_equal(a.logprobs_T, b.logprobs_T)
  assert engine.num_rows_held == 0
