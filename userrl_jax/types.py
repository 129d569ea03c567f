"""The nouns of the system, spoken by every stage; knows no JAX.

Shape letters, used as suffixes of array names everywhere:
  B rows of a packed batch      T tokens of a row        M sampled tokens of one
  P tasks of an iteration       G members of a group     K turns of a trajectory
  S KV rows of the cache        C cache length           L layers
  D model width                 H query heads            N key/value heads
  V vocabulary

A task is played in episodes; a finished episode is a trajectory; the G
trajectories of one task are a group. Logprobs are in nats.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import enum
from typing import Any

import numpy as np

CHOICES = ("action", "answer", "search")


class Fault(enum.StrEnum):
  """How a turn ended. Only the first three are the agent's own doing."""

  OK = "ok"
  AGENT_MALFORMED = "agent_malformed"
  TRUNCATED = "truncated"
  USER_TIMEOUT = "user_timeout"
  USER_ERROR = "user_error"
  USER_UNPARSABLE = "user_unparsable"
  USER_REFUSAL = "user_refusal"
  USER_LEAK = "user_leak"  # a model told what the agent must not know
  USER_BUSY = "user_busy"  # an endpoint that lets in no more for now (429)
  AGENT_ERROR = "agent_error"
  GYM_ERROR = "gym_error"
  ENGINE_ERROR = "engine_error"
  CANCELLED = "cancelled"

  @property
  def is_valid(self) -> bool:
    """True when a turn that ended so may reach a reward (law L2)."""
    return self in (Fault.OK, Fault.AGENT_MALFORMED, Fault.TRUNCATED)


class FaultError(Exception):
  """Raised by a gym, a user or an agent to end an episode as invalid.

  Attributes:
    is_final: True when it was tried again already, as often as it may be.
  """

  def __init__(self, fault: Fault, detail: str, is_final: bool = False):
    super().__init__(f"{fault}: {detail}")
    self.fault = fault
    self.detail = detail
    self.is_final = is_final


class SetupError(ValueError):
  """Raised when a run cannot go on until the user changes something.

  Such as a wrong key: every episode would fail alike, so it stops the run
  where a `FaultError` ends one episode.
  """

  exit_code = 2  # of the process


class BudgetSpent(SetupError):
  """Raised in place of a call that the budget no longer covers."""

  exit_code = 3


class StopReason(enum.StrEnum):
  """Why an episode ended."""

  TERMINATED = "terminated"  # the gym ended it: solved, or out of tries
  TURN_LIMIT = "turn_limit"  # the gym or the rollout ran out of turns
  TURN_BUDGET = "turn_budget"  # one turn sampled its whole token budget
  EPISODE_BUDGET = "episode_budget"  # no room for another turn's tokens
  MALFORMED_LIMIT = "malformed_limit"  # too many malformed calls
  FAULT = "fault"  # invalid: something other than the agent failed


class Secret:
  """Wraps privileged values so that no print, log or JSON dump shows them."""

  def __init__(self, values: Mapping[str, Any]):
    self._values = dict(values)

  def reveal(self) -> Mapping[str, Any]:
    """Returns the privileged values; for gyms and oracles only."""
    return self._values

  def __repr__(self) -> str:
    return "<secret>"

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Secret) and other._values == self._values

  def __hash__(self) -> int:
    return hash(repr(sorted(self._values)))


@dataclasses.dataclass(frozen=True)
class Task:
  """One problem of a gym."""

  gym: str
  id: str  # unique within the gym
  split: str  # train, fresh, dev or test
  level: int  # 1 (easiest) to 3
  structure: str  # key of the latent structure that splits are made by
  public: Mapping[str, Any]  # what the agent may be shown
  secret: Secret  # what only the gym and an oracle may read


@dataclasses.dataclass(frozen=True)
class Action:
  """What the agent does in a turn: the two arguments of its tool call."""

  choice: str  # one of CHOICES
  content: str


@dataclasses.dataclass(frozen=True)
class Observation:
  """What the agent reads, and nothing else."""

  text: str


@dataclasses.dataclass(frozen=True)
class Step:
  """What a gym answers to an action."""

  observation: Observation
  reward: float
  terminated: bool  # the game is over
  truncated: bool  # the gym's own limit of turns is reached
  # Privileged: for records, never for the agent.
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Turn:
  """One turn as people read it; the ids live in the trajectory's arrays."""

  text: str  # the agent's text, decoded for reading
  action: Action | None  # None when no usable call was found
  observation: str  # what the agent read in return
  reward: float
  fault: Fault = Fault.OK
  detail: str = ""  # why, when the fault is not OK
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """A finished episode: one append-only id stream and its turns (law L1)."""

  task: Task
  member: int  # place in the group, 0..G-1
  iteration: int  # at which its group was opened
  token_ids_T: np.ndarray  # [T] int32, everything the model read or sampled
  logprobs_T: np.ndarray  # [T] float32, as sampled; 0 on ids that were read
  turn_ids_T: np.ndarray  # [T] int32, k on ids sampled in turn k; -1 on read
  turns: tuple[Turn, ...]
  stop_reason: StopReason
  fault: Fault = Fault.OK  # the episode's: OK unless it is invalid
  detail: str = ""
  prompt: str = ""  # system text and first message, for reading only
  max_score: float = 1.0  # the most that the task's rewards can add up to
  profile: str = ""  # of the user, see `users.profiles`; "" is none
  host: int = 0  # that played it, where several do
  # Of each turn, where it was measured: mean |sampled - recomputed|, nats.
  logprob_gaps: tuple[float, ...] = ()

  @property
  def is_valid(self) -> bool:
    return self.fault.is_valid

  @property
  def rewards_K(self) -> np.ndarray:
    """Returns [K] float64, the reward of each turn."""
    return np.array([t.reward for t in self.turns], np.float64)

  @property
  def num_sampled_K(self) -> np.ndarray:
    """Returns [K] int64, the number of sampled tokens of each turn."""
    sampled = self.turn_ids_T[self.turn_ids_T >= 0]
    return np.bincount(sampled, minlength=len(self.turns))

  @property
  def reward(self) -> float:
    """Returns the sum of the turn rewards."""
    return float(sum(t.reward for t in self.turns))

  @property
  def score(self) -> float:
    """Returns the reward as a share of what the task can give."""
    return self.reward / self.max_score


@dataclasses.dataclass(frozen=True)
class Group:
  """The trajectories of one task, whose scores are compared."""

  task: Task
  trajectories: Sequence[Trajectory]

  @property
  def has_too_few(self) -> bool:
    """Returns whether it is of several, but fewer than two are valid."""
    return (
      sum(t.is_valid for t in self.trajectories) < 2 <= len(self.trajectories)
    )
