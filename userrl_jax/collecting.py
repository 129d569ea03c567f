"""Lets agents play tasks together, for entry points.

In: the parts of a run, params and tasks. Out: groups, all hosts' together, of
which enough episodes are valid.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import random

import numpy as np

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import demonstrate
from userrl_jax import flags
from userrl_jax import gathering
from userrl_jax import gyms
from userrl_jax import hosts
from userrl_jax import metrics
from userrl_jax import types
from userrl_jax.agents import endpoint
from userrl_jax.agents import policy
from userrl_jax.agents import scripted
from userrl_jax.gyms import judging
from userrl_jax.inference import sampling as sampling_lib
from userrl_jax.learning import iterations
from userrl_jax.models import qwen3
from userrl_jax.rollout import collect
from userrl_jax.users import profiles


def play(
  parts: assembly.Parts,
  params: qwen3.Params,
  tasks: Sequence[types.Task],
  group_size: int,
  sampling: sampling_lib.Sampling,
  iteration: int,
  kept: collect.Kept | None = None,
  users: collect.Users | None = None,
  before: Sequence[types.Group] = (),
) -> list[types.Group]:
  """Lets the policy play every task `group_size` times, all hosts together.

  Episodes that are kept already are not played again. Users are drawn from
  `user.profiles` unless given. What the iteration played before counts among
  its episodes, and is not returned.

  Raises:
    SystemExit: with a message and code 2, when the user's set-up cannot work
      or more than `rollout.max_invalid_share` of the episodes are invalid; with
      code 3, when the budget is spent.
  """

  async def serve_and_play(own: Sequence[types.Task]) -> list[types.Group]:
    async with parts.user.opened() as judge, parts.engine.serving(params):
      return await play_serving(
        parts, own, group_size, sampling, iteration, judge, kept, users
      )

  play_own = lambda own: asyncio.run(serve_and_play(own))
  return gathered(parts, tasks, group_size, play_own, before)


def play_scripted(
  parts: assembly.Parts,
  make_script: demonstrate.MakeScript,
  tasks: Sequence[types.Task],
  group_size: int,
  iteration: int,
  kept: collect.Kept | None = None,
  users: collect.Users | None = None,
) -> list[types.Group]:
  """Lets scripts play as `play` lets the policy; needs no params.

  Raises:
    SystemExit: as `play` does.
  """

  def make_agent(task, member, seed):
    return scripted.ScriptedAgent(
      make_script(task, random.Random(seed)),
      parts.chat,
      parts.config.rollout.max_tokens_per_episode,
    )

  return _play_apart(
    parts, make_agent, tasks, group_size, iteration, kept, users
  )


def play_endpoint(
  parts: assembly.Parts,
  tasks: Sequence[types.Task],
  group_size: int,
  iteration: int,
  kept: collect.Kept | None = None,
  users: collect.Users | None = None,
) -> list[types.Group]:
  """Lets the model of section agent play as `play` lets the policy.

  Raises:
    SystemExit: as `play` does.
  """

  def make_agent(task, member, seed):
    return endpoint.EndpointAgent(
      parts.user.agent,
      parts.chat,
      parts.config.rollout,
      parts.config.agent.tools,
    )

  return _play_apart(
    parts, make_agent, tasks, group_size, iteration, kept, users
  )


def _play_apart(
  parts: assembly.Parts,
  make_agent: collect.MakeAgent,
  tasks: Sequence[types.Task],
  group_size: int,
  iteration: int,
  kept: collect.Kept | None,
  users: collect.Users | None,
) -> list[types.Group]:
  """Plays with agents that need no engine."""

  async def open_and_play() -> list[types.Group]:
    async with parts.user.opened() as judge:
      return await _collect(
        parts, tasks, group_size, make_agent, iteration, judge, kept, users
      )

  with _one_message(parts):
    return _checked(parts, asyncio.run(open_and_play()))


def refill(
  tasks: Iterator[Sequence[types.Task]],
  play_tasks: Callable[
    [Sequence[types.Task], Sequence[types.Group]], list[types.Group]
  ],
  grpo: config_lib.Grpo,
) -> list[types.Group]:
  """Plays an iteration's tasks, and others in place of those with flat groups.

  With `grpo.flat_groups` refill only, and at most `grpo.refill_rounds` times.

  Args:
    tasks: one draw of an iteration each; a round takes one, and of it as many
      tasks as are missing.
    play_tasks: plays some tasks, given the groups of the rounds before, with
      which it checks them.
    grpo: which groups are flat.

  Returns:
    All groups that were played, flat ones too, in the order played.
  """
  drawn = next(tasks)
  wanted, played = len(drawn), {(task.gym, task.id) for task in drawn}
  groups = play_tasks(drawn, ())
  rounds = grpo.refill_rounds if grpo.flat_groups == "refill" else 0
  for _ in range(rounds):
    missing = wanted - len(iterations.informative(groups, grpo.credit))
    if missing <= 0:
      break
    # A task met again in the same iteration would give the same episodes.
    new = [t for t in next(tasks) if (t.gym, t.id) not in played][:missing]
    if not new:
      break
    played |= {(task.gym, task.id) for task in new}
    groups += play_tasks(new, groups)
  return groups


def gathered(
  parts: assembly.Parts,
  tasks: Sequence[types.Task],
  group_size: int,
  play_own: gathering.Play,
  before: Sequence[types.Group] = (),
) -> list[types.Group]:
  """Has every host play its share; returns the groups of all."""
  hosts.enter("rollout")
  with _one_message(parts):
    groups = gathering.groups(tasks, group_size, play_own)
    return _checked(parts, groups, before)


def _checked(
  parts: assembly.Parts,
  groups: list[types.Group],
  before: Sequence[types.Group] = (),
) -> list[types.Group]:
  """Returns groups of which, with those before, enough episodes are valid."""
  collect.check_valid(
    [t for group in (*before, *groups) for t in group.trajectories],
    parts.config.rollout.max_invalid_share,
  )
  return groups


async def play_serving(
  parts: assembly.Parts,
  tasks: Sequence[types.Task],
  group_size: int,
  sampling: sampling_lib.Sampling,
  iteration: int,
  judge: judging.Judge | None,
  kept: collect.Kept | None = None,
  users: collect.Users | None = None,
) -> list[types.Group]:
  """Plays with an engine that is serving."""

  def make_agent(task, member, seed):
    key = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return policy.PolicyAgent(
      parts.engine,
      parts.chat,
      parts.config.rollout,
      key,
      sampling,
      wave=iteration,
    )

  return await _collect(
    parts, tasks, group_size, make_agent, iteration, judge, kept, users
  )


async def _collect(
  parts: assembly.Parts,
  tasks: Sequence[types.Task],
  group_size: int,
  make_agent: collect.MakeAgent,
  iteration: int,
  judge: judging.Judge | None,
  kept: collect.Kept | None,
  users: collect.Users | None,
) -> list[types.Group]:
  # How many may be invalid is a matter of all hosts' episodes, see `_checked`.
  limits = dataclasses.replace(parts.episodes.limits, max_invalid_share=1.0)
  return await collect.collect(
    tasks,
    group_size,
    lambda name: gyms.make(name, parts.config.gyms, judge),
    make_agent,
    dataclasses.replace(parts.episodes, limits=limits),
    seed=parts.config.seed,
    iteration=iteration,
    kept=kept,
    users=users or profiles.mix(parts.config.user.profiles),
  )


@contextlib.contextmanager
def _one_message(parts: assembly.Parts) -> Iterator[None]:
  """Turns what only the user can mend into a message and exit code 2.

  Of episodes that failed, transcripts are kept.
  """
  try:
    yield
  except collect.TooManyInvalid as error:
    path = parts.folder / "transcripts" / "too_many_invalid.jsonl"
    if hosts.is_first():
      metrics.write_transcripts(path, error.trajectories)
    with flags.user_errors():
      raise ValueError(f"{error}; the failed episodes are in {path}") from error
  except types.SetupError:
    with flags.user_errors():
      raise
