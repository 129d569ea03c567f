"""An endpoint that fails in every way, under whole games of all model users.

Its replies follow from a seed: valid ones, wrapped ones, what is no verdict,
nothing, refusals, errors and silence. What an episode made of them is checked
against the games played again with its valid verdicts alone.
"""

import asyncio
import collections
import dataclasses
import hashlib
import json

import pytest

from tests.clients import server
from tests.gyms import fake_judge
from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.agents import scripted
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.clients import endpoint
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms import judging
from userrl_jax.rollout import episode

PROMPTED = [name for name, gym in gyms.GYMS.items() if gym.Gym.has_user]
SETTINGS = config.Gyms(tasks="pack", levels=(1, 2, 3), max_turns=8)
LIMITS = config.Rollout(
  max_tokens_per_episode=65536,
  max_malformed=99,
  step_timeout_s=60.0,
  num_retries=1,
)
NUM_EPISODES = 10
TIMEOUT_S = 5.0

GOOD = ("valid", "wrapped")
BAD = ("prose", "empty object", "extra field", "wrong type", "two", "list")
KINDS = (*GOOD * 8, *BAD)

# The fault of an episode by the last reply that it got.
FAULTS = {
  "slow": types.Fault.USER_TIMEOUT,
  "refusal": types.Fault.USER_REFUSAL,
  "error": types.Fault.USER_ERROR,
  "drop": types.Fault.USER_ERROR,
  "busy": types.Fault.USER_BUSY,
  **dict.fromkeys((*BAD, "empty", "broken"), types.Fault.USER_UNPARSABLE),
}


def drawn(messages):
  """Returns the kind of the reply to a request, and whether it pays."""
  digest = hashlib.blake2b(json.dumps(messages).encode()).digest()
  return KINDS[digest[0] % len(KINDS)], digest[1] % 2 == 0


def answer(messages):
  """Plays every user and judge, well or badly."""
  kind, pays = drawn(messages)
  valid = fake_judge.verdict(messages, pays)
  fields = json.loads(valid)
  return {
    "valid": valid,
    "wrapped": f"Let me see.\n```json\n{valid}\n```\n",
    "prose": f"I'm sorry, but I would rather not say: {valid}",
    "empty object": "{}",
    "extra field": json.dumps(fields | {"reward": 1}),
    "wrong type": json.dumps({field: {"value": 1} for field in fields}),
    "two": f"```\n{valid}\n```\n```\n{valid}\n```",
    "list": f"[{valid}]",
  }[kind]


@dataclasses.dataclass
class Played:
  """An episode, with what the endpoint did in it."""

  trajectory: types.Trajectory
  kinds: list[str]  # of all replies
  verdicts: list[list[str]]  # of each turn that was played
  failed: list[types.Fault]  # of requests


class Table:
  """Plays episodes of one gym, one after the other, over one server."""

  def __init__(self, name, chat):
    self._name = name
    self._chat = chat

  async def play(self):
    """Returns what was played, and the client's own count of failures."""
    tasks = gyms.load_tasks(self._name, SETTINGS, "test", 0)
    with server.Server(
      answer,
      fault_share=0.15,
      seed=1,
      slow_s=60.0,
      retry_after="0.01",
      takes_schemas=False,
    ) as running:
      settings = config.User(
        kind="endpoint",
        base_url=running.base_url,
        model="m",
        api_key_env="",
        timeout_s=TIMEOUT_S,
        num_retries=0,
      )
      async with endpoint.Endpoint(settings) as client:
        played = [
          await self._episode(client, running, tasks[i % len(tasks)], i)
          for i in range(NUM_EPISODES)
        ]
        return played, client.counts.failures

  async def _episode(self, client, running, task, number):
    tries, verdicts, failed = [], [], []
    num_before = len(running.log)

    async def complete(messages):
      try:
        reply = await client.complete(messages)
      except types.FaultError as error:
        failed.append(error.fault)
        raise
      if drawn(messages)[0] in GOOD and reply == answer(messages):
        tries[-1].append(reply)
      return reply

    gym = gyms.make(self._name, SETTINGS, judging.Judge(complete, 1))
    step = gym.step

    async def noted(action):
      tries.append([])
      played = await step(action)
      verdicts.append(tries[-1])
      return played

    gym.step = noted
    moves = iter(await _moves(self._name, task, number))
    trajectory = await episode.play(
      task,
      gym,
      scripted.ScriptedAgent(lambda _: next(moves), self._chat, 65536),
      episode.Settings(LIMITS, SETTINGS.max_turns, "brief", False),
      seed=number,
      member=0,
      iteration=0,
    )
    kinds = [
      request.fault or drawn(request.body["messages"])[0]
      for request in running.log[num_before:]
    ]
    return Played(trajectory, kinds, verdicts, failed)


async def _moves(name, task, number):
  """Returns moves of the demonstrator against rules, and some at random."""
  rng = base.episode_rng(task.id, number)
  player = gyms.oracle(name)(task, rng)
  gym = gyms.make(name, SETTINGS)
  known = await contract.play_async(gym, task, player.next_action)
  canned = gyms.canned(name)
  moves = [
    canned(rng) if rng.random() < 0.2 else rng.choice(known.actions)
    for _ in range(SETTINGS.max_turns)
  ]
  if name not in ("search", "telepathy"):
    return moves
  # There rules know the very name; so that the judge is asked, it is framed.
  return [
    types.Action(m.choice, f"old {m.content}") if m.choice == "answer" else m
    for m in moves
  ]


async def _replayed(played, number):
  """Plays the turns of an episode again, with its valid verdicts alone."""
  left = collections.deque()

  async def complete(messages):
    return left.popleft()

  task = played.trajectory.task
  gym = gyms.make(task.gym, SETTINGS, judging.Judge(complete, 0))
  await gym.reset(task, number)
  steps = []
  for verdicts, turn in zip(played.verdicts, played.trajectory.turns):
    left.extend(verdicts)
    steps.append(await gym.step(turn.action))
    assert not left
  return steps


@pytest.fixture(scope="module")
def tables():
  chat = chat_lib.Chat(
    tokenizers.train_sentencepiece(["a b c"] * 3, 512, chat_lib.PHRASES),
    "brief",
  )

  async def play():
    return await asyncio.gather(*(Table(n, chat).play() for n in PROMPTED))

  return dict(zip(PROMPTED, asyncio.run(play()), strict=True))


@pytest.mark.parametrize("name", PROMPTED)
def test_every_episode_is_what_its_valid_verdicts_make_it(tables, name):
  played, counts = tables[name]
  for number, one in enumerate(played):
    trajectory = one.trajectory
    assert trajectory.fault == FAULTS.get(
      one.kinds[-1] if one.kinds else "", types.Fault.OK
    )
    *before, end = trajectory.turns
    assert all(turn.fault.is_valid for turn in before)
    assert (end.fault, end.reward) == (trajectory.fault, 0.0) or (
      trajectory.is_valid and end.fault.is_valid
    )
    good = [turn for turn in trajectory.turns if turn.fault.is_valid]
    assert len(good) == len(one.verdicts)
    steps = asyncio.run(_replayed(one, number))
    assert [(t.reward, t.observation, t.info) for t in good] == [
      (s.reward, s.observation.text, s.info) for s in steps
    ]
  failed = collections.Counter(f for one in played for f in one.failed)
  assert counts == {str(fault): n for fault, n in failed.items()}


def test_the_endpoint_failed_in_every_way(tables):
  """And was put up with where asking again helped."""
  played = [one for table, _ in tables.values() for one in table]
  met = {kind for one in played for kind in one.kinds}
  assert met >= {*GOOD, *BAD, *server.FAULTS}
  ended = {one.trajectory.fault for one in played}
  # A refusal ends an episode only where the same step meets another.
  failed = {fault for one in played for fault in one.failed}
  assert ended | failed == {types.Fault.OK, *FAULTS.values()}
  assert ended >= {*FAULTS.values()} - {types.Fault.USER_REFUSAL}
  valid = [one for one in played if one.trajectory.is_valid]
  assert any({*BAD, "empty", "broken"} & {*one.kinds} for one in valid)
  assert len(played) / 4 < len(valid) < len(played) * 3 / 4
  for name, (table, _) in tables.items():
    assert sum(len(one.kinds) for one in table) > NUM_EPISODES, name
    assert name == "tau" or sum(one.trajectory.reward for one in table), name
