"""Plays gyms under test: what a test needs of a gym, and players to play it.

In: a gym with its tasks and players, some of which may be missing. Out: records
of whole episodes.
"""

import asyncio
from collections.abc import Callable, Sequence
import dataclasses
import random
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import base

Player = Callable[[list[str]], types.Action]  # observations so far -> action


@dataclasses.dataclass(frozen=True)
class Subject:
  """A gym under test; what an outside gym does not have is None.

  Raises:
    ValueError: when there is neither an oracle nor a random move to play with.
  """

  make: Callable[[], base.Gym]
  tasks: Sequence[types.Task]
  # (task, rng) -> player with next_action
  oracle: Callable[..., Any] | None
  random_move: Callable[[random.Random], types.Action] | None
  hacks: Callable[[types.Task], Sequence[types.Action]] | None

  def __post_init__(self) -> None:
    if self.oracle is None and self.random_move is None:
      raise ValueError(
        "a gym must have Oracle or random_move to be checked: without, nobody "
        "plays it"
      )


@dataclasses.dataclass
class Record:
  """One episode as it was played."""

  texts: list[str]  # first message, then every observation
  actions: list[types.Action]
  steps: list[types.Step]

  @property
  def score(self) -> float:
    return sum(step.reward for step in self.steps)


def play(
  gym: base.Gym, task: types.Task, player: Player, seed: int = 0
) -> Record:
  """Plays one episode to its end."""
  return asyncio.run(play_async(gym, task, player, seed))


async def play_async(
  gym: base.Gym, task: types.Task, player: Player, seed: int = 0
) -> Record:
  """Plays one episode to its end on the running event loop."""
  record = Record([(await gym.reset(task, seed)).text], [], [])
  while not gym.state.is_over:
    record.actions.append(player(record.texts))
    record.steps.append(await gym.step(record.actions[-1]))
    record.texts.append(record.steps[-1].observation.text)
  return record


def turns(record: Record) -> tuple[types.Turn, ...]:
  """Returns an episode's turns as a trajectory holds them."""
  return tuple(
    types.Turn(
      action.content,
      action,
      step.observation.text,
      step.reward,
      types.Fault.AGENT_MALFORMED
      if step.info["outcome"] == base.MALFORMED
      else types.Fault.OK,
      info=step.info,
    )
    for action, step in zip(record.actions, record.steps, strict=True)
  )


def noisy(subject: Subject, task: types.Task) -> Player:
  """Returns a player of turns by the oracle and at random, always the same.

  Where one of them is missing, of turns by the other.
  """
  rng = base.episode_rng(task.id, 1)
  random_move = subject.random_move
  if subject.oracle is None:
    return thoughtless(subject, task, 1)
  oracle = subject.oracle(task, rng)

  def player(observations: list[str]) -> types.Action:
    if random_move is not None and rng.random() < 0.4:
      return random_move(rng)
    return oracle.next_action(observations)

  return player


def thoughtless(subject: Subject, task: types.Task, seed: int) -> Player:
  """Returns a player of random moves; where there are none, the oracle."""
  rng = base.episode_rng(task.id, seed)
  random_move = subject.random_move
  if random_move is None:
    assert subject.oracle is not None
    return subject.oracle(task, rng).next_action
  return lambda observations: random_move(rng)


def scripted(moves: Sequence[types.Action]) -> Player:
  """Returns a player of these moves, the last one over and over."""
  return lambda observations: moves[min(len(observations), len(moves)) - 1]
