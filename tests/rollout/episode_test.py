"""The episode: turns, limits, the fault ledger, retries, and groups."""

import asyncio
import dataclasses
import random

import pytest

from tests import virtual_time
from userrl_jax import config as config_lib
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import metrics
from userrl_jax import replay
from userrl_jax import types
from userrl_jax.agents import base as agents
from userrl_jax.agents import scripted
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.gyms import base
from userrl_jax.gyms.tau import pack
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode

LIMITS = config_lib.Rollout(
  max_tokens_per_turn=64,
  max_tokens_per_episode=4096,
  max_malformed=2,
  step_timeout_s=5.0,
  num_retries=1,
  max_invalid_share=0.5,
)
SETTINGS = episode.Settings(LIMITS, 6, "brief", show_reward=False)
GYMS = config_lib.Gyms(max_turns=6)


@pytest.fixture(scope="module")
def chat():
  tokenizer = tokenizers.train_sentencepiece(
    ["a b c"] * 3, 512, chat_lib.PHRASES
  )
  return chat_lib.Chat(tokenizer, "brief")


@pytest.fixture(scope="module")
def tasks():
  return gyms.load_tasks("function", GYMS, "train", 0)[:8]


def _play(chat, task, script, gym=None, settings=SETTINGS):
  agent = scripted.ScriptedAgent(
    script, chat, settings.limits.max_tokens_per_episode
  )
  return virtual_time.run(
    episode.play(
      task,
      gym or gyms.make("function", GYMS),
      agent,
      settings,
      seed=1,
      member=0,
      iteration=0,
    )
  )


def _moves(*moves):
  """A script that plays the given moves in order."""
  queue = list(moves)
  return lambda observations: types.Action(*queue.pop(0))


def _oracle(task):
  return gyms.oracle("function")(task, random.Random(0)).next_action


def test_an_oracle_episode_is_a_whole_ledger(chat, tasks):
  trajectory = _play(chat, tasks[0], _oracle(tasks[0]))
  assert trajectory.is_valid
  assert trajectory.stop_reason == types.StopReason.TERMINATED
  assert trajectory.reward == 1.0
  ids, turn_ids = trajectory.token_ids_T, trajectory.turn_ids_T
  assert turn_ids[0] == -1
  assert sorted(set(turn_ids.tolist())) == list(
    range(-1, len(trajectory.turns))
  )
  decode = chat.tokenizer.decode
  for k, turn in enumerate(trajectory.turns):
    assert decode(ids[turn_ids == k].tolist()) == turn.text
    assert turn.action.content in turn.text
  stream = decode(ids.tolist())
  at = 0
  for turn in trajectory.turns[:-1]:  # what ends the game is not read
    at = stream.index(turn.observation, stream.index(turn.text, at))
  assert trajectory.turns[-1].observation not in stream[at + 1 :]


def test_malformed_moves_get_a_hint_and_end_at_their_limit(chat, tasks):
  script = _moves(*[("action", "x")] * 6)
  trajectory = _play(chat, tasks[0], script)
  assert trajectory.stop_reason == types.StopReason.MALFORMED_LIMIT
  assert [t.fault for t in trajectory.turns] == ["agent_malformed"] * 3
  assert trajectory.is_valid and trajectory.reward == 0


def test_the_turn_limit_ends_the_episode(chat, tasks):
  script = _moves(*[("search", "test")] * 6)
  trajectory = _play(chat, tasks[0], script)
  assert trajectory.stop_reason == types.StopReason.TURN_LIMIT
  assert len(trajectory.turns) == 6


TAU_MOVES = (
  ("answer", "find_user mia@post.test"),
  ("action", "Shall I cancel order W1001, reason late?"),
  ("answer", "cancel_order W1001 late"),
)


def _play_tau(chat, moves, max_malformed=9, **settings):
  """Plays an order to be cancelled; a move of None is no call at all."""
  own = config_lib.Gyms(max_turns=len(moves), **settings)
  task = next(t for t in pack.read() if t.structure == "2|cancel:change|")
  queue = list(moves)
  agent = scripted.ScriptedAgent(
    lambda _: types.Action(*(queue.pop(0) or ("action", "mumble"))), chat, 4096
  )
  act = agent.act

  async def act_or_mumble():
    is_lost = queue[0] is None
    reply = await act()
    if not is_lost:
      return reply
    fault = types.Fault.AGENT_MALFORMED
    return agents.Reply(reply.text, None, fault, "Call the tool.")

  agent.act = act_or_mumble
  limits = dataclasses.replace(LIMITS, max_malformed=max_malformed)
  return virtual_time.run(
    episode.play(
      task,
      gyms.make("tau", own),
      agent,
      episode.Settings(limits, own.max_turns, "brief", show_reward=True),
      seed=1,
      member=0,
      iteration=0,
    )
  )


UNCLOSED = config_gyms.Tau(unclosed_reward=0.5)


@pytest.mark.parametrize("lost", [(), (0,), (0, 2), (3,), (2, 4)])
def test_turns_that_came_to_no_gym_run_out_as_others_do(chat, lost):
  moves = list(TAU_MOVES)
  for place in lost:
    moves.insert(place, None)
  paid = _play_tau(chat, moves, tau=UNCLOSED)
  assert paid.stop_reason == types.StopReason.TURN_LIMIT
  assert [t.reward for t in paid.turns] == [0.0] * (len(moves) - 1) + [0.5]
  last = paid.turns[-1]
  assert last.info["outcome"] == "unclosed"
  if last.action:
    assert last.observation.endswith("Reward: 0.5")
  record = metrics.trajectory_record(paid)
  settings = config_lib.Gyms(
    names=("tau",), max_turns=len(moves), tau=UNCLOSED, tasks="pack"
  )
  settings.levels = (2,)
  (again,) = replay.paid([record], settings, 1, "paper", show_reward=True)
  assert [t["reward"] for t in again["turns"]] == [t.reward for t in paid.turns]


def test_only_turns_that_run_out_are_paid_for_the_end(chat):
  too_many = _play_tau(chat, [*TAU_MOVES, None], max_malformed=0, tau=UNCLOSED)
  assert too_many.stop_reason == types.StopReason.MALFORMED_LIMIT
  undone = _play_tau(chat, [None, *TAU_MOVES[:2]], tau=UNCLOSED)
  assert undone.stop_reason == types.StopReason.TURN_LIMIT
  assert too_many.reward == undone.reward == 0
  by_default = _play_tau(chat, [None, *TAU_MOVES])
  assert by_default.reward == 0


def test_the_episode_budget_bounds_the_ledger(chat, tasks):
  system = gyms.make("function", GYMS).system_prompt("brief")
  first = "f is ready."
  num_prompt = len(chat.prompt_ids(system, first, types.CHOICES))
  with pytest.raises(ValueError, match="leave room after the prompt"):
    limits = dataclasses.replace(LIMITS, max_tokens_per_episode=num_prompt)
    _play(
      chat,
      tasks[0],
      _moves(),
      settings=dataclasses.replace(SETTINGS, limits=limits),
    )
  for budget in range(num_prompt + 1, num_prompt + 250, 7):
    limits = dataclasses.replace(LIMITS, max_tokens_per_episode=budget)
    settings = dataclasses.replace(SETTINGS, limits=limits)
    script = _moves(*[("search", "test")] * 6)
    trajectory = _play(chat, tasks[0], script, settings=settings)
    assert len(trajectory.token_ids_T) <= budget
    assert trajectory.is_valid


def test_the_reward_is_shown_only_when_asked(chat, tasks):
  script = lambda: _moves(("search", "test"), *[("search", "test")] * 5)
  hidden = _play(chat, tasks[0], script())
  settings = dataclasses.replace(SETTINGS, show_reward=True)
  shown = _play(chat, tasks[0], script(), settings=settings)
  assert "Reward" not in hidden.turns[0].observation
  assert shown.turns[0].observation.endswith("\nReward: 0")


class _Flaky(base.Gym):
  """A gym whose user fails in a given way on some of its steps."""

  name = "function"
  choices = types.CHOICES

  def __init__(self, failure, num_failures):
    super().__init__(GYMS)
    self.failure, self.num_failures, self.num_calls = failure, num_failures, 0

  def system_prompt(self, profile):
    return "rules"

  def start(self, task, seed):
    return base.State(task.id, seed), "go"

  async def play(self, state, action):
    self.num_calls += 1
    if self.num_calls <= self.num_failures:
      if isinstance(self.failure, Exception):
        raise self.failure
      await asyncio.sleep(self.failure)
    return state, base.Reply("won", "won", 1.0, terminated=True)

  def undisclosed(self):
    return ()


@pytest.mark.parametrize(
  ("failure", "fault", "is_retried"),
  [
    (types.FaultError(types.Fault.USER_ERROR, "down"), "user_error", True),
    (types.FaultError(types.Fault.USER_REFUSAL, "no"), "user_refusal", True),
    (
      types.FaultError(types.Fault.USER_ERROR, "asked thrice", is_final=True),
      "user_error",
      False,
    ),
    (60.0, "user_timeout", True),
    (KeyError("bug"), "gym_error", False),
  ],
)
def test_what_fails_is_retried_then_invalid(
  chat, tasks, failure, fault, is_retried
):
  limits = dataclasses.replace(LIMITS, step_timeout_s=0.05)
  settings = dataclasses.replace(SETTINGS, limits=limits)
  once = _Flaky(failure, 1)
  move = lambda: _moves(("action", "x"))
  trajectory = _play(chat, tasks[0], move(), once, settings)
  assert trajectory.is_valid == is_retried
  if is_retried:
    assert trajectory.reward == 1.0 and once.num_calls == 2
  always = _play(chat, tasks[0], move(), _Flaky(failure, 99), settings)
  assert not always.is_valid
  assert always.fault == fault and always.turns[-1].fault == fault
  assert always.stop_reason == types.StopReason.FAULT
  assert always.reward == 0 and always.detail


def test_a_group_is_in_order_and_members_draw_apart(chat, tasks):
  seeds = []

  def make_agent(task, member, seed):
    seeds.append(seed)
    rng = random.Random(seed)
    canned = gyms.canned("function")
    return scripted.ScriptedAgent(lambda _: canned(rng), chat, 4096)

  def run(iteration):
    return virtual_time.run(
      collect.collect(
        tasks,
        3,
        lambda name: gyms.make(name, GYMS),
        make_agent,
        SETTINGS,
        seed=0,
        iteration=iteration,
      )
    )

  groups, again, later = run(0), run(0), run(1)
  assert [g.task for g in groups] == list(tasks)
  assert [[t.member for t in g.trajectories] for g in groups] == [[0, 1, 2]] * 8
  ids = lambda groups: [
    tuple(t.token_ids_T.tolist()) for g in groups for t in g.trajectories
  ]
  assert ids(groups) == ids(again) != ids(later)
  assert len(set(ids(groups))) > 20
  assert len(set(seeds)) == 48  # 24 a draw, of which one was drawn twice


def test_too_many_invalid_episodes_stop_the_run(chat, tasks):
  error = types.FaultError(types.Fault.USER_ERROR, "the endpoint is down")
  run = lambda num_broken: virtual_time.run(
    collect.collect(
      tasks,
      1,
      lambda name: _Flaky(error, 99 if next(broken) < num_broken else 0),
      lambda *_: scripted.ScriptedAgent(_moves(("action", "x")), chat, 4096),
      SETTINGS,
      seed=0,
      iteration=0,
    )
  )
  broken = iter(range(8))
  assert sum(not g.trajectories[0].is_valid for g in run(4)) == 4
  broken = iter(range(8))
  with pytest.raises(
    collect.TooManyInvalid, match=r"got 5 of 8.*user_error.*endpoint"
  ):
    run(5)


def test_a_wrong_set_up_stops_the_run_at_once(chat, tasks):
  waiting = [_Flaky(3600.0, 99) for _ in tasks[1:]]
  wrong = _Flaky(types.SetupError("check the key"), 99)
  left = [wrong, *waiting]
  make_agent = lambda *_: scripted.ScriptedAgent(
    _moves(("action", "x")), chat, 4096
  )

  async def run():
    with pytest.raises(types.SetupError, match="check the key"):
      await collect.collect(
        tasks,
        1,
        lambda name: left.pop(0),
        make_agent,
        SETTINGS,
        seed=0,
        iteration=0,
      )
    return asyncio.all_tasks() - {asyncio.current_task()}

  assert virtual_time.run(run()) == set()
  assert wrong.num_calls == 1  # not tried again


def test_scripted_agents_are_agents(chat):
  agent: agents.Agent = scripted.ScriptedAgent(_moves(), chat, 100)
  assert agent.has_room()


class _Unwell:
  """A gym that fails or hangs where it is told to."""

  def __init__(self, where, how):
    self._gym = gyms.make("function", GYMS)
    self._where, self._how = where, how

  def __getattr__(self, name):
    return getattr(self._gym, name)

  async def _ail(self, where):
    if where == self._where:
      if self._how == "hang":
        await asyncio.sleep(3600)
      raise KeyError(self._how)

  async def reset(self, task, seed):
    await self._ail("reset")
    return await self._gym.reset(task, seed)

  async def step(self, action):
    await self._ail("step")
    return await self._gym.step(action)


@pytest.mark.parametrize(
  ("where", "how", "fault"),
  [
    ("reset", "bug", types.Fault.GYM_ERROR),
    ("reset", "hang", types.Fault.GYM_ERROR),
    ("step", "bug", types.Fault.GYM_ERROR),
    ("step", "hang", types.Fault.USER_TIMEOUT),
    ("agent", "bug", types.Fault.AGENT_ERROR),
    ("agent", "hang", types.Fault.AGENT_ERROR),
    ("close", "bug", types.Fault.AGENT_ERROR),
  ],
)
def test_a_bug_or_a_hang_ends_its_own_episode_only(
  chat, tasks, where, how, fault
):
  limits = dataclasses.replace(
    LIMITS, step_timeout_s=0.05, agent_timeout_s=0.2, num_retries=0
  )
  num_made = [0]

  def make_gym(name):
    num_made[0] += 1
    is_ill = num_made[0] == 2
    return _Unwell(where, how) if is_ill else gyms.make(name, GYMS)

  def make_agent(task, member, seed):
    def failing(observations):
      raise KeyError(how)

    async def hang():
      await asyncio.sleep(3600)

    def fail():
      raise KeyError(how)

    is_ill = where == "agent" and how == "bug" and member == 1
    script = failing if is_ill else _oracle(task)
    agent = scripted.ScriptedAgent(script, chat, limits.max_tokens_per_episode)
    if (where, how, member) == ("agent", "hang", 1):
      agent.act = hang
    if (where, member) == ("close", 1):
      agent.close = fail
    return agent

  groups = virtual_time.run(
    collect.collect(
      tasks[:1],
      3,
      make_gym,
      make_agent,
      dataclasses.replace(SETTINGS, limits=limits),
      seed=0,
      iteration=0,
    )
  )
  faults = [t.fault for t in groups[0].trajectories]
  assert faults == [types.Fault.OK, fault, types.Fault.OK]
  assert how in groups[0].trajectories[1].detail or how == "hang"
