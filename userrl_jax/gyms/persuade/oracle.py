"""The demonstrator of the Persuade gym: how a good agent plays.

It has fixed habits. It answers the worry that the user asked about last with
the argument that the lexicon has for it; where none is asked it makes the
claim's arguments in order of weight, each once. It reads observations and the
lexicon, never the secret; against claims that the lexicon does not hold, those
of UserRL, it has a few arguments that fit any claim.
"""

import random
import re

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.persuade import canned
from userrl_jax.gyms.persuade import debate

# For claims that it knows nothing about.
ANYTHING = (
  "The claim treats very different cases alike, because what helps in one "
  "place may harm in another, so a rule for all of them must fail somewhere.",
  "Those who bear the cost of this view seldom have a say in it, which means "
  "that it is unfair to them even where others gain.",
  "Places that went the other way fared well, for example where small trials "
  "came first and were kept because people liked the results.",
  "The evidence for this view is thin, since the things that it promises were "
  "seldom measured and could have other causes.",
  "There is a milder way to the same end, because advice and choice change "
  "habits that orders only push out of sight.",
  "Over the years the harm adds up, as a result of small effects that nobody "
  "counts when the view is taken for granted.",
  "People whom you respect hold the other view for good reasons, for instance "
  "experience with families who had to live by this one.",
  "If you had to defend it before somebody who suffers from it, you would look "
  "for exceptions, and research shows that exceptions soon become the rule.",
)
_LEVEL_1_WORRY = re.compile(r"Are (\w+) (\w+)\?")


class Oracle:
  """Plays one task; needs 3 turns at levels 1 and 2, at most 7 at level 3."""

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: the task; its secrets are not looked at.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1].
      settings: of the gym; not needed.
    """
    del settings
    claim = task.public["claim"]
    known = [c for c in debate.claims().values() if c.text == claim]
    self._points = known[0].points if known and task.level > 1 else ()
    self._rng = rng
    self._noise = noise
    self._said: list[str] = []

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
    else:
      action = types.Action("answer", self._planned(observations[-1]))
    self._said.append(action.content)
    return action

  def _planned(self, text: str) -> str:
    asked = _LEVEL_1_WORRY.search(text)
    if asked and not self._points:
      thing, adjective = asked.groups()
      if thing in debate.things() and adjective in debate.worries():
        return debate.level_1_argument(thing, adjective)
    waiting = [p for p in self._points if p.say not in self._said]
    for point in waiting:
      if text.endswith(point.worry):
        return point.say
    waiting.sort(key=lambda point: -point.strength)
    if waiting:
      return waiting[0].say
    return next((t for t in ANYTHING if t not in self._said), ANYTHING[0])
