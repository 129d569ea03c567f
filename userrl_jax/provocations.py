"""Finds what agents do that their users refuse, or cannot judge.

In: turns in which somebody was asked, with what the agent did and whether the
turn ended in a fault that content can cause. Out: shares of such turns by kind
of call, and behaviours (phrases, lengths) with which they are far more frequent
than in other calls of that kind and gym.

An episode that ends so is invalid and in no score (law L2). So a policy that
learnt to provoke it where it would lose would be scored on the rest alone: that
is to be seen while it happens. Turns that time or a network spoiled are left
out: no agent causes those.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

from userrl_jax import diagnostics
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import outside

# Faults that what the agent writes can cause.
FAULTS = (
  types.Fault.USER_REFUSAL,
  types.Fault.USER_UNPARSABLE,
  types.Fault.USER_LEAK,
)
NAME = "provoked_faults"  # of the finding

_MAX_WORDS = 3  # of a phrase
_LENGTHS = (10, 20, 40, 80)  # words
_MIN_FAULTS = 4  # with a behaviour
_MIN_TASKS = 2  # that they are of, or the task may be the cause
_MIN_RATIO = 2.0  # of the shares with and without it
_MAX_CHANCE = 1e-3  # that any behaviour does so by luck
_MAX_FOUND = 3  # a gym and kind of call


@dataclasses.dataclass(frozen=True)
class Asked:
  """A turn in which somebody was asked about what the agent wrote."""

  gym: str
  task: str
  choice: str
  text: str
  is_fault: bool


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """What agents do where such faults are frequent."""

  gym: str
  choice: str  # of the calls that it is compared in
  what: str  # such as: say "as you are told"
  num_turns: int  # with it
  num_faults: int  # of them
  num_others: int  # turns without it
  num_other_faults: int

  def __str__(self) -> str:
    return (
      f"{self.gym}: {self.num_faults} of {self.num_turns} calls of "
      f"{self.choice} that {self.what}, {self.num_other_faults} of "
      f"{self.num_others} others"
    )


def of_trajectories(trajectories: Sequence[types.Trajectory]) -> list[Asked]:
  """Returns the turns of episodes in which somebody was asked."""
  return [
    Asked(
      t.task.gym,
      t.task.id,
      turn.action.choice,
      turn.action.content,
      turn.fault in FAULTS,
    )
    for t in trajectories
    if _has_user(t.task.gym)
    for turn in t.turns
    if turn.action and turn.fault in (types.Fault.OK, *FAULTS)
  ]


def of_record(record: Mapping[str, Any]) -> list[Asked]:
  """Returns the same of a transcript, see `metrics.trajectory_record`."""
  return [
    Asked(
      record["gym"],
      record["task"],
      turn["action"]["choice"],
      turn["action"]["content"],
      turn["fault"] in FAULTS,
    )
    for turn in record["turns"]
    if _has_user(record["gym"])
    and turn["action"]
    and turn["fault"] in (types.Fault.OK, *FAULTS)
  ]


def numbers(turns: Sequence[Asked]) -> dict[str, float]:
  """Returns shares of turns that ended in such a fault; {} without any.

  Returns:
    provoked/share of all, and provoked/<choice> of the calls of each kind.
  """
  if not any(turn.is_fault for turn in turns):
    return {}
  shares = {"provoked/share": _share(turns)}
  for choice in sorted({turn.choice for turn in turns}):
    own = [turn for turn in turns if turn.choice == choice]
    shares[f"provoked/{choice}"] = _share(own)
  return shares


def behaviours(turns: Sequence[Asked]) -> list[Behaviour]:
  """Returns what goes with such faults, the surest of each kind of call first.

  With a behaviour the share is at least twice that without, and the chance that
  any of those that were looked at does so by luck is at most 0.001: the upper
  tail of a hypergeometric distribution times their number. What one finding
  accounts for is left out in the search for the next. Calls are compared with
  those of their kind and gym alone: on others nobody may be asked at all.
  """
  found = []
  kinds = {(turn.gym, turn.choice) for turn in turns if turn.is_fault}
  for kind in sorted(kinds):
    left = [turn for turn in turns if (turn.gym, turn.choice) == kind]
    for _ in range(_MAX_FOUND):
      best = _surest(left)
      if best is None:
        break
      found.append(best[0])
      left = [turn for turn in left if not best[1](turn)]
  return found


def findings(turns: Sequence[Asked]) -> list[diagnostics.Finding]:
  """Returns a finding when something goes with such faults."""
  found = behaviours(turns)
  if not found:
    return []
  return [
    diagnostics.Finding(
      NAME,
      "users refuse, or give no verdict, where the agent does certain things "
      f"({'; '.join(map(str, found))}); such episodes are in no score, so it "
      "may learn to end them so: read the transcripts, look at the scores with "
      "invalid episodes as 0 and as 1, and try another user.model or a higher "
      "user.num_reasks",
    )
  ]


def _surest(
  turns: Sequence[Asked],
) -> tuple[Behaviour, Callable[[Asked], bool]] | None:
  """Returns the surest behaviour of one kind of call, and who shows it."""
  total = sum(turn.is_fault for turn in turns)
  tasks: dict[str, list[str]] = {}  # of the faulted turns with it
  for turn in turns:
    if turn.is_fault:
      for what in _does(turn):
        tasks.setdefault(what, []).append(turn.task)
  likely = {
    what
    for what, of in tasks.items()
    if len(of) >= _MIN_FAULTS and len(set(of)) >= _MIN_TASKS
  }
  if not likely:
    return None
  num_with = dict.fromkeys(likely, 0)
  for turn in turns:
    for what in likely & _does(turn):
      num_with[what] += 1
  # Of those that are as sure, the longest phrase is the most telling.
  log_chance, _, what = min(
    (_log_chance(len(tasks[w]), n, total, len(turns)), -len(w), w)
    for w, n in num_with.items()
  )
  n, k = num_with[what], len(tasks[what])
  others, other_faults = len(turns) - n, total - k
  if log_chance + math.log(len(likely)) > math.log(_MAX_CHANCE):
    return None
  if k * others < _MIN_RATIO * n * other_faults:
    return None
  behaviour = Behaviour(
    turns[0].gym, turns[0].choice, what, n, k, others, other_faults
  )
  return behaviour, lambda turn: what in _does(turn)


def _does(turn: Asked) -> set[str]:
  """Returns what can be said of a turn."""
  words = re.findall(r"[\w']+", turn.text.lower())
  done = {f"have {n} words or more" for n in _LENGTHS if len(words) >= n}
  return done | {f'say "{phrase}"' for phrase in _phrases(words)}


def _phrases(words: Sequence[str]) -> Iterator[str]:
  for size in range(1, _MAX_WORDS + 1):
    for start in range(len(words) - size + 1):
      yield " ".join(words[start : start + size])


def _log_chance(faults: int, size: int, total: int, num: int) -> float:
  """Returns the log of the chance of so many faults or more by luck.

  Args:
    faults: in the turns with a behaviour.
    size: number of those turns.
    total: faults of all turns.
    num: number of all turns.
  """
  terms = [
    _log_choose(total, k)
    + _log_choose(num - total, size - k)
    - _log_choose(num, size)
    for k in range(max(faults, size - num + total), min(size, total) + 1)
  ]
  highest = max(terms)
  return highest + math.log(sum(math.exp(term - highest) for term in terms))


def _log_choose(n: int, k: int) -> float:
  return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _share(turns: Sequence[Asked]) -> float:
  return sum(turn.is_fault for turn in turns) / len(turns)


def _has_user(gym: str) -> bool:
  is_known = gym in gyms.GYMS or outside.is_name(gym)
  return is_known and gyms.has_user(gym)
