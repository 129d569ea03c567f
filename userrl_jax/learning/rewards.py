"""Rewards: ragged groups become arrays [P, G, K], in units that compare.

Comes in: groups as they were played. Goes out: the arrays that `credit` takes,
numpy, with every reward multiplied by the scale of its gym and task, and paid
late where that is asked for.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from userrl_jax import config
from userrl_jax import types


class Arrays(NamedTuple):
  """What credit knows of groups.

  Attributes:
    rewards_PGK: [P, G, K] float64, scaled; 0 where there is no turn.
    turn_mask_PGK: [P, G, K] bool, True where the turn exists.
    num_tokens_PGK: [P, G, K] int32, sampled tokens of the turn.
    valid_PG: [P, G] bool, True where a trajectory exists and is valid.
  """

  rewards_PGK: np.ndarray
  turn_mask_PGK: np.ndarray
  num_tokens_PGK: np.ndarray
  valid_PG: np.ndarray


def to_arrays(
  groups: Sequence[types.Group],
  settings: config.Credit,
  *,
  num_tasks: int,
  group_size: int,
  max_turns: int,
) -> Arrays:
  """Lays out what groups earned; invalid members stay empty.

  Args:
    groups: at most `num_tasks`, of at most `group_size` members each.
    settings: by which rewards are scaled.
    num_tasks: P.
    group_size: G.
    max_turns: K, the most turns a trajectory may have.

  Returns:
    The arrays.

  Raises:
    ValueError: when something does not fit its shape; names what.
  """
  P, G, K = num_tasks, group_size, max_turns
  check_fits("tasks", len(groups), P, "grpo.tasks_per_iteration")
  arrays = Arrays(
    np.zeros((P, G, K)),
    np.zeros((P, G, K), bool),
    np.zeros((P, G, K), np.int32),
    np.zeros((P, G), bool),
  )
  factors = gym_factors(settings.gym_scales)
  for p, group in enumerate(groups):
    check_fits(
      f"members of the group of {group.task.gym}/{group.task.id}",
      len(group.trajectories),
      G,
      "grpo.group_size",
    )
    for g, trajectory in enumerate(group.trajectories):
      num_turns = len(trajectory.turns)
      check_fits(f"turns of {name(trajectory)}", num_turns, K, "gyms.max_turns")
      if not trajectory.is_valid:
        continue
      scale = factors.get(trajectory.task.gym, 1.0)
      if settings.reward_scale == "share":
        scale /= trajectory.max_score
      arrays.valid_PG[p, g] = True
      arrays.rewards_PGK[p, g, :num_turns] = held(
        trajectory.rewards_K * scale, settings.hold_until
      )
      arrays.turn_mask_PGK[p, g, :num_turns] = True
      arrays.num_tokens_PGK[p, g, :num_turns] = trajectory.num_sampled_K
  return arrays


def held(rewards_K: np.ndarray, hold_until: int) -> np.ndarray:
  """Holds rewards back until a turn, which pays what came before and its own.

  An episode that ends sooner is paid in its last turn, so the sum is the same.
  Example: 0.1, 0, 0.3, 0.2 held until turn 3 is 0, 0, 0.4, 0.2; until turn 8 it
  is 0, 0, 0, 0.6.

  Args:
    rewards_K: [K] of one trajectory.
    hold_until: number of the turn, from 1; 0 and 1 hold nothing.

  Returns:
    [K] float64.
  """
  paid_K = np.array(rewards_K, np.float64)
  turn = min(hold_until, paid_K.size) - 1
  if turn > 0:
    paid_K[turn] = paid_K[: turn + 1].sum()
    paid_K[:turn] = 0
  return paid_K


def gym_factors(scales: Sequence[str]) -> dict[str, float]:
  """Reads `("travel=0.5", ...)` as {gym: factor}.

  Raises:
    ValueError: for what is not a gym, =, and a factor above 0; or one twice.
  """
  factors: dict[str, float] = {}
  for text in scales:
    gym, _, number = text.partition("=")
    try:
      factor = float(number)
    except ValueError:
      factor = 0.0
    if not gym or gym in factors or not 0 < factor < math.inf:
      raise ValueError(
        "grpo.credit.gym_scales must be gyms with a factor above 0, none "
        f"twice, such as travel=0.5; got {text!r}"
      )
    factors[gym] = factor
  return factors


def name(trajectory: types.Trajectory) -> str:
  """Returns how messages call a trajectory."""
  task = trajectory.task
  return f"trajectory {task.gym}/{task.id} member {trajectory.member}"


def check_fits(what: str, count: int, maximum: int, knob: str) -> None:
  """Refuses more than the shape of a batch holds.

  Raises:
    ValueError: names what, how many, and the field that decides.
  """
  if count > maximum:
    raise ValueError(
      f"there must be at most {maximum} {what} ({knob}); got {count}"
    )
