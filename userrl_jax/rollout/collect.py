"""Collects groups: opens G episodes a task and plays them all at once."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
import hashlib
from typing import Any, Protocol

from userrl_jax import types
from userrl_jax.agents import base as agents
from userrl_jax.gyms import base as gyms
from userrl_jax.rollout import episode

# (task, member, seed of the episode) -> a new agent
MakeAgent = Callable[[types.Task, int, int], agents.Agent]
MakeGym = Callable[[str], gyms.Gym]  # name of the gym -> a new gym


class Kept(Protocol):
  """Finished episodes of a collection that an earlier process began."""

  def find(self, task: types.Task, member: int) -> types.Trajectory | None:
    """Returns a finished episode, None when it is still to be played."""

  def add(self, trajectory: types.Trajectory) -> None:
    """Takes in an episode that has just finished."""


class Users(Protocol):
  """Which users episodes have; see `users.profiles`."""

  def of(self, task: types.Task, seed: int, member: int) -> gyms.Manner | None:
    """Returns the manner of an episode's user, by the seed of its gym."""


class TooManyInvalid(ValueError):
  """More episodes than allowed came to nothing; what is left teaches little.

  Attributes:
    trajectories: the invalid ones.
  """

  def __init__(self, message: str, trajectories: Sequence[types.Trajectory]):
    super().__init__(message)
    self.trajectories = trajectories


def episode_seed(
  seed: int, iteration: int, task: types.Task, member: int
) -> int:
  """Returns the 63-bit seed of an episode (law L5).

  A function of the run's seed, the iteration at which the group was opened,
  the task and the member; so a result never depends on scheduling, members
  differ, and a task met again draws anew.
  """
  name = f"{seed}|{iteration}|{task.gym}|{task.id}|{member}"
  digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
  return int.from_bytes(digest) >> 1


async def collect(
  tasks: Sequence[types.Task],
  group_size: int,
  make_gym: MakeGym,
  make_agent: MakeAgent,
  settings: episode.Settings,
  *,
  seed: int,
  iteration: int,
  kept: Kept | None = None,
  users: Users | None = None,
) -> list[types.Group]:
  """Plays every task `group_size` times.

  Args:
    tasks: P tasks.
    group_size: G, members of a group.
    make_gym: makes a gym by name.
    make_agent: makes an agent for a member of a task's group.
    settings: of all episodes.
    seed: the run's.
    iteration: at which these groups are opened.
    kept: episodes that are not played again, and who is told of new ones.
    users: which user an episode has; None: all as their gyms have them.

  Returns:
    P groups of G trajectories, in the order of the tasks.

  Raises:
    TooManyInvalid: when the share of invalid episodes passes
      `rollout.max_invalid_share`; names the most frequent fault.
    types.SetupError: as soon as an episode finds that no other can go better;
      the others are cancelled.
  """
  # Every member of a group meets the same gym: the gym's seed has no member.
  episodes = []
  for task in tasks:
    gym_seed = episode_seed(seed, iteration, task, -1)
    for member in range(group_size):
      agent_seed = episode_seed(seed, iteration, task, member)
      known = kept.find(task, member) if kept is not None else None
      if known is not None:
        episodes.append(_finished(known))
        continue
      gym = make_gym(task.gym)
      if users is not None and gym.talk:
        gym.manner = users.of(task, gym_seed, member)
      live = episode.play(
        task,
        gym,
        make_agent(task, member, agent_seed),
        settings,
        seed=gym_seed,
        member=member,
        iteration=iteration,
      )
      episodes.append(live if kept is None else _played(live, kept))
  trajectories = await _all(episodes)
  check_valid(trajectories, settings.limits.max_invalid_share)
  return [
    types.Group(task, trajectories[i * group_size : (i + 1) * group_size])
    for i, task in enumerate(tasks)
  ]


def check_valid(
  trajectories: Sequence[types.Trajectory], max_share: float
) -> None:
  """Refuses episodes of which too many came to nothing.

  Raises:
    TooManyInvalid: names the most frequent fault.
  """
  invalid = [t for t in trajectories if not t.is_valid]
  if len(invalid) <= max_share * len(trajectories):
    return
  faults = [t.fault for t in invalid]
  fault = max(set(faults), key=faults.count)
  example = next(t for t in invalid if t.fault == fault)
  raise TooManyInvalid(
    f"at most {max_share:.0%} of episodes may be invalid "
    f"(rollout.max_invalid_share), got {len(invalid)} of {len(trajectories)}; "
    f"the most frequent fault is {fault}: {example.detail}; mend "
    "what fails and start the same command again, or raise the limit",
    invalid,
  )


async def _finished(trajectory: types.Trajectory) -> types.Trajectory:
  return trajectory


async def _played(
  live: Coroutine[Any, Any, types.Trajectory], kept: Kept
) -> types.Trajectory:
  trajectory = await live
  kept.add(trajectory)
  return trajectory


async def _all(
  episodes: Sequence[Coroutine[Any, Any, types.Trajectory]],
) -> list[types.Trajectory]:
  """Awaits all; none is left running when one of them raises."""
  running = [asyncio.ensure_future(one) for one in episodes]
  try:
    return await asyncio.gather(*running)
  except BaseException:
    for one in running:
      one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    raise
