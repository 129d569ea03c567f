"""Keeps an episode's id stream while it grows (law L1).

In: ids that the agent read and ids that it sampled, in order. Out: the arrays
of a trajectory. Nothing that was appended is ever changed.

  token_ids_T  prompt | sampled | bridge | sampled | bridge ...
  turn_ids_T    -1 -1 | 0  0  0 | -1  -1 | 1  1  1 | -1  -1
"""

from collections.abc import Sequence
import math

import numpy as np


class Ledger:
  """An append-only stream of read and sampled ids."""

  def __init__(self):
    self._token_ids: list[int] = []
    self._logprobs: list[float] = []
    self._turn_ids: list[int] = []
    self._last_turn = -1

  def __len__(self) -> int:
    return len(self._token_ids)

  @property
  def num_tokens(self) -> int:
    """Returns the number of ids so far, read and sampled."""
    return len(self)

  @property
  def token_ids(self) -> tuple[int, ...]:
    """Returns the ids so far."""
    return tuple(self._token_ids)

  def read(self, ids: Sequence[int]) -> None:
    """Appends ids that the agent did not sample."""
    self._append(ids, [0.0] * len(ids), -1)

  def sample(
    self, ids: Sequence[int], logprobs: Sequence[float], turn: int
  ) -> None:
    """Appends ids that the agent sampled; a turn may come in several pieces.

    Args:
      ids: as sampled, through the end of turn when there is one.
      logprobs: as sampled, in nats, one an id.
      turn: 0 for the first turn.

    Raises:
      ValueError: when there is not one finite log-prob an id, or when the turn
        is neither the one being sampled nor, after a read, the next one.
    """
    if len(ids) != len(logprobs):
      raise ValueError(
        "every sampled id must have a log-prob, got "
        f"{len(ids)} ids and {len(logprobs)} log-probs"
      )
    if not all(map(math.isfinite, logprobs)):
      raise ValueError(f"log-probs must be finite, got {list(logprobs)}")
    goes_on = bool(self._turn_ids) and self._turn_ids[-1] >= 0
    expected = self._last_turn if goes_on else self._last_turn + 1
    if turn != expected:
      raise ValueError(
        f"the turn sampled now must be {expected}, got {turn}; a turn is over "
        "when something was read, and the next one has the next number"
      )
    if len(ids):
      self._append(ids, logprobs, turn)
      self._last_turn = turn

  def token_ids_T(self) -> np.ndarray:
    """Returns [T] int32, everything that was read or sampled."""
    return np.array(self._token_ids, np.int32)

  def logprobs_T(self) -> np.ndarray:
    """Returns [T] float32, as sampled, in nats; 0 on ids that were read."""
    return np.array(self._logprobs, np.float32)

  def turn_ids_T(self) -> np.ndarray:
    """Returns [T] int32, k on ids sampled in turn k; -1 on read ids."""
    return np.array(self._turn_ids, np.int32)

  def _append(
    self, ids: Sequence[int], logprobs: Sequence[float], turn: int
  ) -> None:
    ids = [int(i) for i in ids]
    if any(i < 0 for i in ids):
      raise ValueError(f"ids must not be negative, got {ids}")
    self._token_ids += ids
    self._logprobs += map(float, logprobs)
    self._turn_ids += [turn] * len(ids)
