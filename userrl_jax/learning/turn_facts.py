"""Facts of turns that a learned credit may use, as numbers.

Comes in: trajectories as they were played, or the turns of transcripts. Goes
out: facts_PGKF for `shaping`, numpy, 0 where there is no turn. Facts are the
same few of every gym, and none of them is the reward, which credit has anyway.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from userrl_jax import gyms
from userrl_jax import types

# The F facts of a turn. Bits are privileged: what the gym counts, and 0 where
# it counts none.
NAMES = (
  "bits",  # that the reply told, see `gyms.information`
  "is_action",  # its move is an action, not an answer
  "is_search",
  "is_failed",  # malformed or truncated
  "is_repeated",  # the same move was made before in the episode
  "is_echoed",  # the same reply was read before in the episode
  "words",  # of the reply: log2(1 + n) / 8
)


class Turn(NamedTuple):
  """What is read of a turn, wherever it was written down."""

  choice: str  # "" where no usable call was found
  content: str
  observation: str
  is_failed: bool
  bits: float | None


def of_groups(
  groups: Sequence[types.Group], shape: tuple[int, int, int]
) -> np.ndarray:
  """Returns the facts of all valid members' turns.

  Args:
    groups: at most P of at most G members with at most K turns.
    shape: (P, G, K).

  Returns:
    [P, G, K, F] float32, in the order of `NAMES`.
  """
  facts_PGKF = np.zeros((*shape, len(NAMES)), np.float32)
  for p, group in enumerate(groups):
    for g, trajectory in enumerate(group.trajectories):
      if trajectory.is_valid and trajectory.turns:
        turns = _of_trajectory(trajectory)
        facts_PGKF[p, g, : len(turns)] = of_turns(turns)
  return facts_PGKF


def of_turns(turns: Iterable[Turn]) -> np.ndarray:
  """Returns the facts of an episode's turns, in order: [K, F] float32."""
  rows, moves, replies = [], set(), set()
  for turn in turns:
    move = turn.choice, " ".join(turn.content.casefold().split())
    rows.append(
      (
        turn.bits or 0.0,
        turn.choice == "action",
        turn.choice == "search",
        turn.is_failed,
        bool(turn.choice) and move in moves,
        turn.observation in replies,
        math.log2(1 + len(turn.observation.split())) / 8,
      )
    )
    moves.add(move)
    replies.add(turn.observation)
  return np.array(rows, np.float32).reshape(-1, len(NAMES))


def from_record(turn: Mapping[str, Any]) -> Turn:
  """Reads a turn of a transcript, as `metrics.trajectory_record` writes it."""
  action = turn.get("action") or {}
  return Turn(
    action.get("choice", ""),
    action.get("content", ""),
    turn.get("observation", ""),
    turn.get("fault", types.Fault.OK) != types.Fault.OK,
    (turn.get("privileged") or {}).get("information_bits"),
  )


def _of_trajectory(trajectory: types.Trajectory) -> list[Turn]:
  t = trajectory
  bits_K = gyms.information(t.task, t.turns)
  return [
    Turn(
      turn.action.choice if turn.action else "",
      turn.action.content if turn.action else "",
      turn.observation,
      turn.fault != types.Fault.OK,
      bits,
    )
    for turn, bits in zip(t.turns, bits_K, strict=True)
  ]
