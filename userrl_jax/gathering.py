"""Brings the groups that hosts played to all of them.

In: the tasks of an iteration, and a way to play some of them. Out: the groups
of all tasks, in the order of the tasks, the same on every host. Each host plays
its own share, on its own devices; then each has what a single host would have,
so that credit, packing and metrics know no hosts. A sampled token is sent as
what it is in a transcript, some twenty bytes, compressed.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax

from userrl_jax import hosts
from userrl_jax import kept_episodes
from userrl_jax import types

Play = Callable[[Sequence[types.Task]], list[types.Group]]


class HostFailed(types.SetupError):
  """Raised where another host found that the run cannot go on."""

  def __init__(self, message: str, exit_code: int):
    super().__init__(message)
    self.exit_code = exit_code


def groups(
  tasks: Sequence[types.Task], group_size: int, play: Play
) -> list[types.Group]:
  """Plays this host's share of the tasks; returns the groups of all hosts.

  All hosts call it together, with equal tasks.

  Args:
    tasks: of all hosts.
    group_size: G.
    play: plays tasks.

  Raises:
    types.SetupError: on every host, when one of them raised it.
  """
  failure, played = None, []
  try:
    played = play(hosts.share(tasks))
  except types.SetupError as error:
    failure = error
  if jax.process_count() > 1:
    hosts.enter("exchange of episodes")
    played = _all(tasks, group_size, played, failure)
  if failure is not None:
    raise failure
  return played


def _all(
  tasks: Sequence[types.Task],
  group_size: int,
  played: Sequence[types.Group],
  failure: types.SetupError | None,
) -> list[types.Group]:
  own: dict[str, Any] = {
    "failure": failure and str(failure),
    "exit_code": failure and failure.exit_code,
    "trajectories": [
      kept_episodes.to_record(t) for group in played for t in group.trajectories
    ],
  }
  of_hosts = hosts.gather(own)
  for host, other in enumerate(of_hosts):
    if other["failure"] is not None and failure is None:
      raise HostFailed(
        f"host {host} of {len(of_hosts)} cannot go on: {other['failure']}",
        other["exit_code"],
      )
  known = {(task.gym, task.id): task for task in tasks}
  trajectories = [
    dataclasses.replace(kept_episodes.from_record(record, known), host=host)
    for host, other in enumerate(of_hosts)
    for record in other["trajectories"]
  ]
  assert len(trajectories) == len(tasks) * group_size
  return [
    types.Group(task, trajectories[i * group_size : (i + 1) * group_size])
    for i, task in enumerate(tasks)
  ]
