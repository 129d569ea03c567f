"""The demonstrator of the Telepathy gym: how a good agent plays.

It has fixed habits. It keeps the things that fit all it has read, asks the
question that splits them most evenly (the first such in the fixed order of the
world's attributes), and guesses when one is left or the turns run out. It reads
observations and the world's table, never the secret; only of released things,
which the table does not hold, it asks a few set questions and tells the name. A
reply that tells nothing, or that nothing left would fit, it passes over, since
a model that answers as the user may err.
"""

from collections.abc import Mapping
import random

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.telepathy import canned
from userrl_jax.gyms.telepathy import gym
from userrl_jax.gyms.telepathy import world

RELEASED_QUESTIONS = (
  "Is it alive?",
  "Is it made by people?",
  "Is it bigger than a person?",
)
_VERDICTS = {
  text: verdict
  for verdict, text in gym.REPLIES.items()
  if verdict != world.Verdict.SEVERAL
}


class Oracle:
  """Plays one task; needs at most 4 turns at level 1, and 8 above."""

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: the task, whose secret it reads only when the thing is released.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1].
      settings: of the gym; the last turn is a guess, and the last guess that
        it allows is never noise.
    """
    self._released = ""
    if "description" in task.public:
      self._released = task.secret.reveal()["name"]
    self._rng = rng
    self._noise = noise
    self._guess_limit = settings.telepathy.guess_limit if settings else 0
    self._max_turns = settings.max_turns if settings else 0
    self._actions: dict[int, types.Action] = {}  # by place of its reply

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    action = None
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
      num_guesses = sum(a.choice == "answer" for a in self._actions.values())
      is_last_guess = num_guesses + 1 == self._guess_limit
      if action.choice == "answer" and is_last_guess:
        action = None
    action = action or self._planned(observations)
    self._actions[len(observations)] = action
    return action

  def _planned(self, observations: list[str]) -> types.Action:
    is_last_turn = len(observations) == self._max_turns
    if self._released:
      asked = [action.content for action in self._actions.values()]
      waiting = [q for q in RELEASED_QUESTIONS if q not in asked]
      if waiting and not is_last_turn:
        return types.Action("action", waiting[0])
      return types.Action("answer", self._released)
    replies = {  # to each question or guess, the last one
      action: observations[place]
      for place, action in self._actions.items()
      if place < len(observations)
    }
    left = _left(_candidates(observations[0]), replies)
    attributes = tuple(world.attributes().values())
    if observations[0].startswith(gym.CANDIDATES):
      attributes = world.level_1()
    questions = {action.content for action in replies}
    attribute = world.best_question(
      left.values(), [a for a in attributes if a.question not in questions]
    )
    if attribute is None or is_last_turn:
      return types.Action("answer", next(iter(left)))
    return types.Action("action", attribute.question)


def _candidates(message: str) -> dict[str, world.Entity]:
  """Returns the things that fit a first message."""
  everything = world.entities()
  if message.startswith(gym.CANDIDATES):
    names = message.removeprefix(gym.CANDIDATES).split()
    return {name: everything[name] for name in names}
  categories = [c for c, text in world.openings().items() if text in message]
  left = {
    name: entity
    for name, entity in everything.items()
    if not categories or entity.category in categories
  }
  for attribute in world.attributes().values():
    for text, verdict in _VERDICTS.items():
      if f"{attribute.question} {text}" in message:
        left = _with_value(left, attribute, verdict)
  return left


def _left(
  candidates: dict[str, world.Entity], replies: Mapping[types.Action, str]
) -> dict[str, world.Entity]:
  """Returns the things that replies leave possible, one at least."""
  tried = {a.content for a in replies if a.choice == "answer"}
  left = {n: e for n, e in candidates.items() if n not in tried} or candidates
  for attribute in world.attributes().values():
    reply = replies.get(types.Action("action", attribute.question))
    verdict = _VERDICTS.get(reply or "")
    if verdict:
      left = _with_value(left, attribute, verdict) or left
  return left


def _with_value(
  left: Mapping[str, world.Entity],
  attribute: world.Attribute,
  verdict: world.Verdict,
) -> dict[str, world.Entity]:
  return {n: e for n, e in left.items() if e.values[attribute.key] == verdict}
