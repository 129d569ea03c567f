"""The demonstrator of the Intention gym: how a good agent plays.

It has fixed habits. It asks for one thing at a time: at level 1 for the first
that the last message marks as open; above for what such a request has to
settle, the most important first, but for what the request tells. It knows what
is public and the lexicon, never the secret; only of released tasks, which the
lexicon does not cover, it asks the questions that come with them.
"""

import random

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.intention import canned
from userrl_jax.gyms.intention import gym
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import scenario

_IDLE = tuple(gym.REPLIES.values())


class Oracle:
  """Plays one task; needs as many turns as details when there is no noise."""

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: the task, whose secret it reads only when the task is released.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1].
      settings: of the gym; the last useless question before the user leaves is
        never noise.
    """
    self._task = task
    self._rng = rng
    self._noise = noise
    self._patience = settings.intention.patience if settings else 0
    self._actions: dict[int, types.Action] = {}  # by place of its reply

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    action = None
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
      num_idle = sum(t.startswith(_IDLE) for t in observations[1:])
      if num_idle + 1 == self._patience:
        action = None
    action = action or types.Action("action", self._question(observations))
    self._actions[len(observations)] = action
    return action

  def _question(self, observations: list[str]) -> str:
    """Returns the first question not asked; the first again after the last."""
    questions = self._questions(observations)
    done = set()
    for place, action in self._actions.items():
      is_replied = place < len(observations)
      if action.content in questions:
        done.add(questions[action.content])
      elif is_replied and not observations[place].startswith((*_IDLE, "Form")):
        done.update(lexicon.asked(action.content))  # by chance, and answered
    left = [q for q, slot in questions.items() if slot not in done]
    return next(iter(left or questions))

  def _questions(self, observations: list[str]) -> dict[str, str]:
    """Returns the questions to ask, in order, each with its slot."""
    public = self._task.public
    if self._task.level == 1:
      shown = (scenario.blanks(text) for text in reversed(observations))
      slots_left = next(filter(None, shown))  # a format hint shows none
      return {scenario.plain_question(slot): slot for slot in slots_left}
    if public["category"] in lexicon.CATEGORIES and "told" in public:
      slots = lexicon.CATEGORIES[public["category"]].slots
      order = sorted(slots, key=slots.__getitem__, reverse=True)
      told = public["told"]
      return {lexicon.SLOTS[s].question: s for s in order if s not in told}
    found = sorted(scenario.details(self._task), key=lambda d: -d.importance)
    return {d.question: d.question for d in found}
