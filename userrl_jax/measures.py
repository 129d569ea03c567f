"""Measures what an episode came to, and what the attempts at a task did.

In: a finished trajectory, or how many of a task's attempts were solved. Out:
one number each, by the definitions below. Averages over tasks and their
intervals are in `summary`. What a number is not defined for is None.

The worked numbers are one episode with rewards [0.25, 0, 0.5, 0] of a task
that can give 1.
"""

from collections.abc import Callable
import math

from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import outside

SUCCESS_SCORE = 1.0 - 1e-6  # an episode's score that counts as solved
# Test tasks of each gym in the paper (Table 1): the weights of its average.
PAPER_TEST_TASKS = {
  "travel": 471,
  "turtle": 48,
  "function": 78,
  "tau": 165,
  "persuade": 42,
  "intention": 40,
  "telepathy": 41,
  "search": 125,
}

_LIMITS = (
  types.StopReason.TURN_LIMIT,
  types.StopReason.TURN_BUDGET,
  types.StopReason.EPISODE_BUDGET,
)
_READ = ("action", "answer")  # choices whose content a user reads
_READ_IN = {"tau": ("action",)}  # where an answer goes to a machine


def is_success(trajectory: types.Trajectory) -> bool:
  """Tells whether an episode was solved.

  A gym that says so itself (`info["success"]` of the last turn) is believed;
  otherwise it is solved when it earned all that the task can give.
  """
  if trajectory.turns and "success" in trajectory.turns[-1].info:
    return bool(trajectory.turns[-1].info["success"])
  return trajectory.score >= SUCCESS_SCORE


def faults(trajectory: types.Trajectory) -> list[types.Fault]:
  """Returns every fault of an episode, its turns' and its own (law L2)."""
  found = [turn.fault for turn in trajectory.turns]
  # An episode may fail outside any turn, say while the gym is reset.
  if trajectory.fault not in found:
    found.append(trajectory.fault)
  return [fault for fault in found if fault != types.Fault.OK]


def normalised_score(trajectory: types.Trajectory) -> float:
  """Computes the reward as a share of what the task can give, in [0, 1].

  s = min(1, max(0, sum_i r_i / R)), R the task's `max_score`. Ours: the paper
  averages rewards of different scales, of which Intention's reach 4.4.
  Example: 0.75.
  """
  return min(1.0, max(0.0, trajectory.score))


def paper_reward(trajectory: types.Trajectory) -> float | None:
  """Computes an episode's reward as UserRL's analysis does, by gym.

  Travel: over the `answer` turns, the best reward of each first letter (an
  aspect), summed, divided by the number of aspects of the task; so rewards of
  searches and questions do not count. Every other gym: sum_i r_i. Source:
  `analyze.py` of UserRL's code, which made the paper's Table 3.
  Example: 0.75; in Travel, with answers H1, H2, F1 worth 0, 0.8, 1 of a trip
  of 3 aspects: (0.8 + 1) / 3 = 0.6. None where the aspects are not known.
  """
  if trajectory.task.gym != "travel":
    return trajectory.reward
  aspects = trajectory.task.secret.reveal().get("aspects")
  if not aspects:
    return None
  best: dict[str, float] = {}
  for turn in trajectory.turns:
    if turn.action and turn.action.choice == "answer" and turn.action.content:
      letter = turn.action.content.strip()[:1]
      best[letter] = max(best.get(letter, 0.0), turn.reward)
  return sum(best.values()) / len(aspects)


def effective_turns(trajectory: types.Trajectory) -> float:
  """Counts the turns until the last one with a reward that is not 0.

  max {i : r_i != 0}, i from 1, and 0 without any. Source: the paper, Table 4.
  Example: 3.
  """
  rewards = trajectory.rewards_K
  return float(max((i for i, r in enumerate(rewards, 1) if r != 0), default=0))


def time_weighted_score(trajectory: types.Trajectory) -> float:
  """Computes the score with each reward divided by how late it came.

  sum_i r_i / (R (i + 1)), i from 0, so that a reward in the first turn counts
  whole; R is the task's `max_score`. Source: the paper, Table 4, which leaves
  open where i starts and over which rewards; where none is negative, ours is
  never above the score.
  Example: 0.25 / 1 + 0.5 / 3 = 0.4167.
  """
  weighted = sum(r / (i + 1) for i, r in enumerate(trajectory.rewards_K))
  return float(weighted / trajectory.max_score)


def questions(trajectory: types.Trajectory) -> float | None:
  """Counts the turns in which a user was asked: calls with choice `action`.

  Malformed calls reach nobody. None in gyms where no user takes part, such as
  Function, whose `action` is a probe. Example: with choices action, search,
  answer, action it is 2.
  """
  if not _has_user(trajectory.task.gym):
    return None
  actions = [turn.action for turn in trajectory.turns if turn.action]
  return float(sum(action.choice == "action" for action in actions))


def words_read(trajectory: types.Trajectory) -> float | None:
  """Counts the words that a user had to read of the agent.

  Words between white space in the contents of `action` and `answer` calls; in
  Tau of `action` only, as its answers are calls of tools. None in gyms where
  no user takes part. Example: action "which hotel do you like" and answer "H2"
  make 6.
  """
  gym = trajectory.task.gym
  if not _has_user(gym):
    return None
  actions = [turn.action for turn in trajectory.turns if turn.action]
  read = [a for a in actions if a.choice in _READ_IN.get(gym, _READ)]
  return float(sum(len(action.content.split()) for action in read))


def is_completed(trajectory: types.Trajectory) -> bool:
  """Tells whether the gym ended the episode: solved, or out of tries."""
  return trajectory.stop_reason == types.StopReason.TERMINATED


def is_truncated(trajectory: types.Trajectory) -> bool:
  """Tells whether a limit cut the episode: of turns or of tokens.

  What is neither completed nor truncated made too many malformed calls.
  """
  return trajectory.stop_reason in _LIMITS


def format_validity(trajectory: types.Trajectory) -> float | None:
  """Computes the share of turns that were a usable call.

  Example: one malformed turn of four gives 0.75. None without turns.
  """
  if not trajectory.turns:
    return None
  usable = [turn.fault == types.Fault.OK for turn in trajectory.turns]
  return sum(usable) / len(usable)


# What `summary` averages for every gym, attempt by attempt.
MEASURES: dict[str, Callable[[types.Trajectory], float | None]] = {
  "score": lambda t: t.score,
  "normalised": normalised_score,
  "reward": paper_reward,
  "effective_turns": effective_turns,
  "time_weighted": time_weighted_score,
  "questions": questions,
  "words_read": words_read,
  "completed": is_completed,
  "truncated": is_truncated,
  "format_validity": format_validity,
}


def pass_at_k(num_attempts: int, num_solved: int, k: int) -> float | None:
  """Estimates the chance that at least one of k attempts solves a task.

  1 - C(n - c, k) / C(n, k), unbiased with n attempts of which c solved it.
  Source: Chen et al. 2021 (arXiv 2107.03374), equation 1. UserRL's code calls
  the mean of the best of k rewards so, which is another thing.
  Example: n = 4, c = 1, k = 2: 1 - 3 / 6 = 0.5. None when n < k.
  """
  if num_attempts < k:
    return None
  none_solved = math.comb(num_attempts - num_solved, k)
  return 1 - none_solved / math.comb(num_attempts, k)


def pass_hat_k(num_attempts: int, num_solved: int, k: int) -> float | None:
  """Estimates the chance that all of k attempts solve a task.

  C(c, k) / C(n, k), unbiased with n attempts of which c solved it. Source: Yao
  et al. 2024 (arXiv 2406.12045), "pass^k".
  Example: n = 4, c = 3, k = 2: 3 / 6 = 0.5. None when n < k.
  """
  if num_attempts < k:
    return None
  return math.comb(num_solved, k) / math.comb(num_attempts, k)


def ks(num_attempts: int) -> list[int]:
  """Returns the k of pass@k that are shown: powers of 2, and all attempts.

  Example: 6 attempts give 1, 2, 4, 6.
  """
  powers = [2**i for i in range(num_attempts.bit_length())]
  return sorted({*(k for k in powers if k <= num_attempts), num_attempts} - {0})


def _has_user(gym: str) -> bool:
  is_known = gym in gyms.GYMS or outside.is_name(gym)
  return not is_known or gyms.has_user(gym)
