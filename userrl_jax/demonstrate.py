"""Makes dialogues to imitate: canned ones, and ranked demonstrations.

`python -m userrl_jax.demonstrate --config=... --config.evaluation.agent=oracle`
(or policy, of `init_from`, or endpoint, of section `agent`) plays the training
tasks `cold_start.num_tries` times each and keeps the best; see
`demonstrations`. What other stages need of it follows.

Canned dialogues are random well-formed moves: they show the format and not the
game. Copies are random ids that repeat themselves. Demonstrations are an
oracle's, played several times a task with some noise, ranked, of which the best
are kept.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
import dataclasses
import functools
import random

import numpy as np

from userrl_jax import config as config_lib
from userrl_jax import flags
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax import users
from userrl_jax.agents import base as agents
from userrl_jax.agents import scripted
from userrl_jax.chat import ledger
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.gyms import base
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode
from userrl_jax.users import profiles

# (task, randomness of the episode) -> a new script
MakeScript = Callable[[types.Task, random.Random], scripted.Script]

# Tasks that a model answers in for the sake of the tokenizer alone.
_NUM_ANSWERED = 12
NUM_FOR_TOKENIZER = 2 * _NUM_ANSWERED  # episodes of them, of canned and oracle
_NUM_COPIED_IDS = 100  # different ids in copies, the most frequent ones
_PERIODS = range(3, 13)  # ids until a copy repeats itself
_COPY_LENGTH = 120  # about that of a dialogue


def main(config: config_lib.Config, command: flags.Command) -> None:
  """Makes the configured demonstrations and writes them down."""
  from userrl_jax import assembly  # both build on this module
  from userrl_jax import demonstrations

  with flags.user_errors():
    parts = assembly.build(config)
    demonstrations.check(parts)
  demonstrations.make(parts, command)


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
  user: users.User | None = None,
) -> list[types.Trajectory]:
  """Plays `base.num_episodes` dialogues of canned moves, task after task.

  Where they do not divide by the tasks, the first tasks are played once more.
  `base.num_copies` copies follow, and at last what is invalid.
  """
  size, num_more = divmod(config.base.num_episodes, len(tasks))
  play = functools.partial(
    _play,
    config,
    chat=chat,
    settings=settings,
    make_script=canned_script,
    iteration=-1,
    user=user,
  )
  groups = play(tasks[:num_more], size + 1)
  if size:
    groups += play(tasks[num_more:], size)
  made = [t for group in groups for t in group.trajectories if t.is_valid]
  special = set(chat.tokenizer.special_ids.values())
  copied = copies(
    made,
    config.base.num_copies,
    lambda i: i not in special,
    min(_COPY_LENGTH, config.rollout.max_tokens_per_episode),
    config.seed,
  )
  return made + copied + _invalid(groups)


def copies(
  dialogues: Sequence[types.Trajectory],
  count: int,
  is_text: Callable[[int], bool],
  length: int,
  seed: int,
) -> list[types.Trajectory]:
  """Makes sequences that repeat a few ids over and over.

  Continuing them takes what every pretrained model has and a random one lacks:
  finding in the context what came after the same ids before (an induction
  head, Olsson et al. 2022, arXiv 2209.11895). They say nothing of any game.

  Args:
    dialogues: whose most frequent ids are repeated, and to whose tasks the
      copies are booked, in turn.
    count: how many.
    is_text: tells ids of text from those of markers.
    length: ids of each.
    seed: same seed, same copies.
  """
  counts: collections.Counter[int] = collections.Counter()
  for t in dialogues:
    counts.update(filter(is_text, t.token_ids_T.tolist()))
  frequent = [i for i, _ in counts.most_common(_NUM_COPIED_IDS)]
  rng = random.Random(f"copies|{seed}")
  made = []
  for number in range(count):
    period = rng.choices(frequent, k=rng.choice(_PERIODS))
    ids = np.resize(np.array(period, np.int32), length)
    made.append(
      dataclasses.replace(
        dialogues[number % len(dialogues)],
        token_ids_T=ids,
        logprobs_T=np.zeros(ids.shape, np.float32),
        turn_ids_T=np.full(ids.shape, -1, np.int32),
        turns=(),
      )
    )
  return made


def ranked(
  config: config_lib.Config,
  tasks: Sequence[types.Task],
  chat: chat_lib.Chat,
  settings: episode.Settings,
  user: users.User | None = None,
) -> list[types.Trajectory]:
  """Plays every task `num_tries` times and keeps the `top_k` of each.

  Returns:
    Best first within a task: higher reward, then fewer turns. Attempts that
    earned nothing are no demonstrations and are left out. At last what is
    invalid, so that its faults are not lost.
  """
  script = functools.partial(
    oracle_script,
    noise=config.cold_start.noise,
    settings=config.gyms,
  )
  groups = _play(
    config,
    tasks[: config.cold_start.num_tasks or None],
    config.cold_start.num_tries,
    chat,
    settings,
    script,
    iteration=-2,
    user=user,
  )
  c = config.cold_start
  best = [t for g in groups for t in rank(g, c.top_k, c.min_score)]
  return best + _invalid(groups)


def rank(
  group: types.Group, top_k: int, min_score: float = 0.0
) -> list[types.Trajectory]:
  """Returns the best `top_k` valid attempts that earned a reward.

  Args:
    group: attempts at a task.
    top_k: at most so many.
    min_score: those with less are left out, too.
  """
  good = [
    t
    for t in group.trajectories
    if t.is_valid and t.reward > 0 and t.score >= min_score
  ]
  return sorted(good, key=lambda t: (-t.reward, len(t.turns)))[:top_k]


def _invalid(groups: Sequence[types.Group]) -> list[types.Trajectory]:
  return [t for g in groups for t in g.trajectories if not t.is_valid]


def corpus(
  config: config_lib.Config,
  tasks: Sequence[types.Task],
  user: users.User | None = None,
) -> list[str]:
  """Returns texts of dialogues, to train the built-in tokenizer on.

  Contents of calls and observations, of canned and of oracle play on `tasks`.
  Where a model answers, it is asked in a few of them only; the others give what
  needs no answer. An episode that fails gives what was said before.

  Raises:
    types.SetupError: when the user's set-up cannot work.
  """
  oracle = functools.partial(
    oracle_script,
    noise=config.cold_start.noise,
    settings=config.gyms,
  )

  async def play_all() -> list[list[str]]:
    async with (user or users.User(config.user)).opened() as judge:
      dialogues = []
      for i, task in enumerate(tasks):
        for make in _speaking(task.gym, oracle):
          gym = gyms.make(task.gym, config.gyms, judge)
          rng = random.Random(f"corpus|{config.seed}|{task.id}")
          speaker = Speaker(make(task, rng))
          if judge is None or i < _NUM_ANSWERED:
            dialogues.append(_texts(gym, task, speaker, config))
          else:
            dialogues.append(_opening(gym, task, speaker))
      return await asyncio.gather(*dialogues)

  return [text for texts in asyncio.run(play_all()) for text in texts]


def _speaking(gym: str, oracle: MakeScript) -> list[MakeScript]:
  """Returns who can speak in a gym for the sake of the tokenizer.

  Raises:
    ValueError: when nobody can.
  """
  players = {"random_move": canned_script, "Oracle": oracle}
  speaking = [make for part, make in players.items() if gyms.has(gym, part)]
  if not speaking:
    raise ValueError(
      f"gym {gym!r} must have random_move or Oracle for the built-in "
      "tokenizer, which is trained on their dialogues; give the class one, or "
      "set tokenizer.folder"
    )
  return speaking


async def _texts(
  gym: base.Gym,
  task: types.Task,
  speaker: "Speaker",
  config: config_lib.Config,
) -> list[str]:
  """Returns all that is said in an episode, until it fails if it does."""
  max_turns = config.gyms.max_turns
  settings = episode.Settings(
    dataclasses.replace(config.rollout, max_malformed=max_turns),
    max_turns,
    config.chat.profile,
    show_reward=False,
  )
  played = await episode.play(
    task, gym, speaker, settings, seed=0, member=0, iteration=0
  )
  texts = [x for turn in played.turns for x in (turn.text, turn.observation)]
  return [*speaker.observations[:1], *filter(None, texts)]


async def _opening(
  gym: base.Gym, task: types.Task, speaker: "Speaker"
) -> list[str]:
  """Returns what is said before anybody has to answer."""
  first = await gym.reset(task, seed=0)
  speaker.observe(first.text)
  return [first.text, (await speaker.act()).text]


class Speaker:
  """Follows a script as `scripted.ScriptedAgent` does, but writes no ids."""

  def __init__(self, script: scripted.Script):
    self.ledger = ledger.Ledger()  # stays empty: there is no tokenizer yet
    self.observations: list[str] = []
    self._script = script

  async def begin(
    self, system: str, first: str, choices: tuple[str, ...]
  ) -> None:
    self.observations.append(first)

  def has_room(self) -> bool:
    return True

  async def act(self) -> agents.Reply:
    action = self._script(self.observations)
    return agents.Reply(action.content, action)

  def observe(self, text: str) -> None:
    self.observations.append(text)

  def close(self) -> None:
    pass


def _play(
  config: config_lib.Config,
  tasks: Sequence[types.Task],
  group_size: int,
  chat: chat_lib.Chat,
  settings: episode.Settings,
  make_script: MakeScript,
  iteration: int,
  user: users.User | None,
) -> list[types.Group]:
  def make_agent(task, member, seed):
    return scripted.ScriptedAgent(
      make_script(task, random.Random(seed)),
      chat,
      config.rollout.max_tokens_per_episode,
    )

  async def play() -> list[types.Group]:
    async with (user or users.User(config.user)).opened() as judge:
      return await collect.collect(
        tasks,
        group_size,
        lambda name: gyms.make(name, config.gyms, judge),
        make_agent,
        settings,
        seed=config.seed,
        iteration=iteration,
        users=profiles.mix(config.user.profiles),
      )

  return asyncio.run(play())


if __name__ == "__main__":
  flags.run(main)
