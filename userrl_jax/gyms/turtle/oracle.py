"""The demonstrator of the Turtle gym: how a good agent plays.

It has fixed habits. In a generated story it asks for one slot after the other,
option by option in the order told, leaves out the last one, and retells what is
left; it reads observations, never the secret. A story of the pack it plays as
its author wrote down, and a released one it tells by its statements after a few
set questions: what stands behind such stories no rule could find out. A reply
that nothing left would fit it passes over, since a model that answers as the
user may err.
"""

from collections.abc import Sequence
import random
import re

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.turtle import canned
from userrl_jax.gyms.turtle import generate
from userrl_jax.gyms.turtle import gym
from userrl_jax.gyms.turtle import story
from userrl_jax.gyms.turtle import world

RELEASED_QUESTIONS = (
  "Is somebody dead?",
  "Is it about a family?",
  "Was it an accident?",
)


class Oracle:
  """Plays one task; needs at most 5 turns at level 1, 10 at 2 and 16 at 3."""

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: the task; its secret is read unless the story is a generated one.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1].
      settings: of the gym; the last turn is an answer, and the last answer
        that it allows is never noise.
    """
    tale = story.of_task(task)
    self._questions: Sequence[str] = tale.questions
    self._retelling = tale.retelling
    if not tale.facts:
      self._questions = RELEASED_QUESTIONS
      self._retelling = released_retelling(tale)
    self._level = task.level
    self._rng = rng
    self._noise = noise
    self._answer_limit = settings.turtle.answer_limit if settings else 0
    self._max_turns = settings.max_turns if settings else 0
    self._actions: dict[int, types.Action] = {}  # by place of its reply

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    action = None
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
      num_answers = sum(a.choice == "answer" for a in self._actions.values())
      if action.choice == "answer" and num_answers + 1 == self._answer_limit:
        action = None
    action = action or self._planned(observations)
    self._actions[len(observations)] = action
    return action

  def _planned(self, observations: list[str]) -> types.Action:
    is_last_turn = len(observations) == self._max_turns
    if self._retelling:
      asked = [action.content for action in self._actions.values()]
      waiting = [q for q in self._questions if q not in asked]
      if waiting and not is_last_turn:
        return types.Action("action", waiting[0])
      return types.Action("answer", self._retelling)
    replies = {
      action.content: observations[place]
      for place, action in self._actions.items()
      if place < len(observations)
    }
    truth: dict[str, str] = {}
    for slot in generate.SLOTS[self._level]:
      shown = re.search(rf"{slot.capitalize()}\? ([^.]*)\.", observations[0])
      options = shown[1].split() if shown else world.options(slot)
      truth[slot], asks = _settled(slot, options, truth.get("who", ""), replies)
      if asks and not is_last_turn:
        return types.Action("action", asks)
    return types.Action("answer", generate.retelling(truth))


def released_retelling(tale: story.Story) -> str:
  """Returns the statements of a story, as many as an answer may hold."""
  told: list[str] = []
  for criterion in sorted(tale.criteria, key=lambda c: -c.weight):
    text = " ".join((*told, criterion.statement))
    if len(text.split()) <= gym.MAX_ANSWER_TOKENS:
      told.append(criterion.statement)
  return " ".join(told)


def _settled(
  slot: str, options: Sequence[str], who: str, replies: dict[str, str]
) -> tuple[str, str]:
  """Returns the option that is likeliest, and the question to ask, if any."""
  asked = [generate.question(slot, option, who) for option in options]
  for option, text in zip(options, asked):
    if replies.get(text) == gym.REPLIES[story.Verdict.YES]:
      return option, ""
  left = [(o, text) for o, text in zip(options, asked) if text not in replies]
  if not left:
    return options[-1], ""
  return left[0][0], left[0][1] if len(left) > 1 else ""
