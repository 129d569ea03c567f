"""Makes dialogues without a policy: canned ones, and ranked demonstrations.

Canned dialogues are random well-formed moves: they show the format and not the
game. Demonstrations are an oracle's, played several times a task with some
noise, ranked, of which the best are kept.
"""

import asyncio
from collections.abc import Callable, Sequence
import functools
import random

from userrl_jax import config as config_lib
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax import users
from userrl_jax.agents import scripted
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.gyms import base
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode

# (task, randomness of the episode) -> a new script
MakeScript = Callable[[types.Task, random.Random], scripted.Script]


def canned_script(task: types.Task, rng: random.Random) -> scripted.Script:
  """Returns a script of random canned moves of the task's gym."""
  move = gyms.canned(task.gym)
  return lambda observations: move(rng)


def oracle_script(
  task: types.Task,
  rng: random.Random,
  noise: float,
  settings: config_lib.Gyms,
) -> scripted.Script:
  """Returns the script of the gym's oracle with a share of canned moves."""
  oracle = gyms.oracle(task.gym)
  return oracle(task, rng, noise, settings).next_action


def canned(
  config: config_lib.Config,
  tasks: Sequence[types.Task],
  chat: chat_lib.Chat,
  settings: episode.Settings,
) -> list[types.Trajectory]:
  """Plays `base.num_episodes` dialogues of canned moves, task after task.

  Where they do not divide by the tasks, the first tasks are played once more.
  Invalid ones are left out.
  """
  num_episodes = config.base.num_episodes
  group_size = -(-num_episodes // len(tasks))
  groups = _play(
    config, tasks, group_size, chat, settings, canned_script, iteration=-1
  )
  num_full = num_episodes - (group_size - 1) * len(tasks)
  return [
    t
    for i, group in enumerate(groups)
    for t in group.trajectories[: group_size - (i >= num_full)]
    if t.is_valid
  ]


def ranked(
  config: config_lib.Config,
  tasks: Sequence[types.Task],
  chat: chat_lib.Chat,
  settings: episode.Settings,
) -> list[types.Trajectory]:
  """Plays every task `num_tries` times and keeps the `top_k` of each.

  Returns:
    Best first within a task: higher reward, then fewer turns. Attempts that
    earned nothing are no demonstrations and are left out.
  """
  script = functools.partial(
    oracle_script,
    noise=config.cold_start.noise,
    settings=config.gyms,
  )
  groups = _play(
    config,
    tasks,
    config.cold_start.num_tries,
    chat,
    settings,
    script,
    iteration=-2,
  )
  return [t for g in groups for t in rank(g, config.cold_start.top_k)]


def rank(group: types.Group, top_k: int) -> list[types.Trajectory]:
  """Returns the best `top_k` valid attempts that earned a reward."""
  good = [t for t in group.trajectories if t.is_valid and t.reward > 0]
  return sorted(good, key=lambda t: (-t.reward, len(t.turns)))[:top_k]


def corpus(config: config_lib.Config, tasks: Sequence[types.Task]) -> list[str]:
  """Returns texts of dialogues, to train the built-in tokenizer on.

  Contents of calls and observations, of canned and of oracle play on `tasks`.
  """
  oracle = functools.partial(
    oracle_script,
    noise=config.cold_start.noise,
    settings=config.gyms,
  )

  async def play_all() -> list[str]:
    texts = []
    async with users.opened(config.user) as judge:
      for task in tasks:
        for make in (canned_script, oracle):
          gym = gyms.make(task.gym, config.gyms, judge)
          rng = random.Random(f"corpus|{config.seed}|{task.id}")
          texts += await _texts(gym, task, make(task, rng))
    return texts

  return asyncio.run(play_all())


async def _texts(
  gym: base.Gym,
  task: types.Task,
  script: scripted.Script,
) -> list[str]:
  first = await gym.reset(task, seed=0)
  texts, observations = [], [first.text]
  while True:
    action = script(observations)
    texts.append(action.content)
    step = await gym.step(action)
    observations.append(step.observation.text)
    if step.terminated or step.truncated:
      return texts + observations


def _play(
  config: config_lib.Config,
  tasks: Sequence[types.Task],
  group_size: int,
  chat: chat_lib.Chat,
  settings: episode.Settings,
  make_script: MakeScript,
  iteration: int,
) -> list[types.Group]:
  def make_agent(task, member, seed):
    return scripted.ScriptedAgent(
      make_script(task, random.Random(seed)),
      chat,
      config.rollout.max_tokens_per_episode,
    )

  async def play() -> list[types.Group]:
    async with users.opened(config.user) as judge:
      return await collect.collect(
        tasks,
        group_size,
        lambda name: gyms.make(name, config.gyms, judge),
        make_agent,
        settings,
        seed=config.seed,
        iteration=iteration,
      )

  return asyncio.run(play())
