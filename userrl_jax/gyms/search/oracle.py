"""The demonstrator of the Search gym: how a good agent plays.

It has fixed habits: one search for each fact that the question needs, in the
order in which one leads to the next, then the answer, which by then stands in
what it has read or is the difference of two years. Only which searches these
are, and how the answer is spelt, it takes from the task.
"""

import random

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.search import canned


class Oracle:
  """Plays one task; needs two turns at level 1, and at most four above."""

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: the task, whose searches and answer it knows.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1].
      settings: of the gym; the last turn is the answer, as is what follows the
        last search; the last answer that it allows is never noise.
    """
    secret = task.secret.reveal()
    self._answer = secret["answer"]
    self._waiting = list(secret["queries"])
    self._rng = rng
    self._noise = noise
    self._max_turns = settings.max_turns if settings else 0
    self._answer_limit = settings.search.answer_limit if settings else 0
    self._search_limit = settings.search.search_limit if settings else 0
    self._made: list[str] = []  # choices so far

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    action = None
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
      is_last_answer = self._made.count("answer") + 1 == self._answer_limit
      if action.choice == "answer" and is_last_answer:
        action = None
    action = action or self._planned(len(observations))
    self._made.append(action.choice)
    return action

  def _planned(self, turn: int) -> types.Action:
    is_last_turn = turn == self._max_turns
    num_left = self._search_limit - self._made.count("search")
    has_searches = not self._search_limit or num_left > 0
    if self._waiting and has_searches and not is_last_turn:
      return types.Action("search", self._waiting.pop(0))
    return types.Action("answer", self._answer)
