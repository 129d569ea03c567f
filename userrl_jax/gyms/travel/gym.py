"""The state machine of the Travel gym: plan a trip for a user of few words.

The agent looks up what there is (`search`), asks the user about wishes
(`action`) and chooses one option for every aspect of the trip (`answer`).
Rewards, counters and the end of the game live here; a user's backend only
judges and words texts. Privileged: the wishes until the user tells them.
"""

from collections.abc import Sequence
import dataclasses
import random
import re
from typing import Any, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import prompts
from userrl_jax.gyms.travel import scenario
from userrl_jax.gyms.travel import scripted

OUTAGE = "The database is down. Search again."
NO_MATCH = "No match."
REPEATED = "You have that list."
NO_OPTION = "Refused: no such option."
CHOSEN = "Refused: you chose already."
BEST = "The best choice."
CORRECT = "It fits but costs more than the best."
WRONG = "It does not fit."

_ANSWER = re.compile(scenario.ID_PATTERN)
_ANSWER_HINT = "answer is one option id, like H2"


class User(Protocol):
  """Who reads the agent's texts: rules, or a model.

  Raises `types.FaultError` where it fails.
  """

  async def match_query(
    self, secret: scenario.Scenario, text: str
  ) -> tuple[bool, str]:
    """Returns whether a search is right, and for which aspect, or ''."""

  async def classify(
    self,
    secret: scenario.Scenario,
    remaining: tuple[scenario.Preference, ...],
    text: str,
  ) -> scenario.Verdict:
    """Returns how the user takes a message; `remaining` are to be told."""

  async def reply(
    self,
    secret: scenario.Scenario,
    kind: scenario.Kind,
    preference: scenario.Preference | None,
    text: str,
  ) -> str:
    """Returns what the user says to a message.

    A preference is the one thing to disclose: asked for when the kind is WISH,
    else volunteered.
    """


@dataclasses.dataclass(frozen=True)
class Rewards:
  """What a turn is worth."""

  search: float  # the first right search of an aspect
  preference: float  # a wish asked for
  best: float
  correct: float  # fits, but is not the cheapest


# Rewards of each search, wish and choice, as UserRL has them.
PROFILES = {
  "paper": Rewards(0.2, 0.2, 1.0, 0.8),
  "released_train": Rewards(0.0, 0.8, 1.0, 0.8),
  "released_eval": Rewards(0.2, 0.6, 1.0, 0.8),
}
# Shares of ours: of all searches, all wishes and all best choices; with few
# points for questions, asking does not pay for choosing badly. A choice that
# merely fits is worth little: at level 1 half of the options fit.
DEFAULT = Rewards(0.1, 0.3, 0.6, 0.6 * 0.25)


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """What is known and chosen; sets are the bits of numbers."""

  num_searches: int = 0
  num_idle: int = 0  # messages in a row that disclosed nothing
  listed: int = 0  # aspects whose options were shown
  told: int = 0  # preferences that the user disclosed
  chosen: int = 0  # aspects
  best: int = 0  # aspects of which the best option was chosen


class TravelGym(base.Gym):
  """Plans one trip."""

  name = "travel"
  choices = types.CHOICES
  max_asked = max_asked_apart = 2  # what a message asks for, and the reply
  talk = "action"
  max_content_chars = 200
  max_observation_chars = 700
  reward_profiles = ("default", *PROFILES)

  def __init__(self, settings: config.Gyms, user: User | None = None):
    """Makes a game without a task, with a user by rules if none is given.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    super().__init__(settings)
    for name in ("outage_every", "reveal_after"):
      value = getattr(settings.travel, name)
      if value < 0:
        raise ValueError(
          f"gyms.travel.{name} must be at least 0 (0 is never), got {value}"
        )
    self._outage_every = settings.travel.outage_every
    self._reveal_after = settings.travel.reveal_after
    self._user: User = user or scripted.ScriptedUser()

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game for the levels and limits in play.

    Raises:
      ValueError: when there is no such profile.
    """
    return prompts.system_prompt(self.settings, profile)

  @property
  def max_score(self) -> float:
    """The rewards of all searches, wishes and best choices of the task."""
    num_aspects = len(self._trip.aspects)
    return (
      num_aspects * (self._rewards.search + self._rewards.best)
      + len(self._trip.preferences) * self._rewards.preference
    )

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and what the user asks for.

    Raises:
      ValueError: when rules shall play the user of a released trip.
    """
    self._trip = scenario.of_task(task)
    if self._trip.is_released:
      if isinstance(self._user, scripted.ScriptedUser):
        raise ValueError(
          f"rules cannot play the user of task {task.id!r}, whose wishes are "
          "told in any words: set user.kind=endpoint, or gyms.tasks to "
          "generated or pack"
        )
      longest = max(len(aspect.listing) for aspect in self._trip.aspects)
      self.max_observation_chars = max(  # type: ignore[misc]
        type(self).max_observation_chars, longest, len(self._trip.opening)
      )
    self._rewards = rewards(self.settings.reward_profile, self._trip)
    self._options = {
      option.id: (index, option)
      for index, aspect in enumerate(self._trip.aspects)
      for option in aspect.options
    }
    return State(task.id, seed), self._trip.opening

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a search, message or choice."""
    content = action.content.strip()
    if action.choice == "search":
      return await self._search(state, content)
    if action.choice == "action":
      return await self._talk(state, content)
    return self._choose(state, content)

  def undisclosed(self) -> tuple[str, ...]:
    """Returns the wishes that the user has not told, plain and as hints."""
    if self.state is None:
      return ()
    hidden = (
      p
      for i, p in enumerate(self._trip.preferences)
      if not self.state.told >> i & 1
    )
    return tuple(text for p in hidden for text in (p.hint, p.text))

  def false_reply(
    self, action: types.Action, reply: base.Reply, rng: random.Random
  ) -> str:
    """Returns a No for a wish, and a wish for a No; see `base.Gym`."""
    if reply.outcome == "wish":
      return scripted.NO
    if reply.text != scripted.NO or self.task is None:
      return ""
    topics = [lexicon.TOPICS[t] for t in lexicon.topics(action.content)]
    hints = [
      hint
      for topic in topics
      for wish in topic.wishes
      for hint in ((wish.plain_hint,) if self.task.level == 1 else wish.hints)
      if not any(hint in text or text in hint for text in self.undisclosed())
    ]
    return f"{scripted.YES}{rng.choice(hints)}" if hints else ""

  async def _search(self, state: State, text: str) -> tuple[State, base.Reply]:
    number = state.num_searches + 1
    state = dataclasses.replace(state, num_searches=number)
    if self._outage_every and number % self._outage_every == 0:
      return state, base.Reply(OUTAGE, "outage")
    found, name = await self._user.match_query(self._trip, text)
    if type(found) is not bool:
      raise _unparsable("a search is right or not, True or False")
    if not found:
      return state, base.Reply(NO_MATCH, "no_match")
    index = _place(name, [aspect.name for aspect in self._trip.aspects])
    if state.listed >> index & 1:
      return state, base.Reply(REPEATED, "repeated")
    state = dataclasses.replace(state, listed=state.listed | 1 << index)
    listing = self._trip.aspects[index].listing
    return state, base.Reply(listing, "search", self._rewards.search)

  async def _talk(self, state: State, text: str) -> tuple[State, base.Reply]:
    remaining = self._remaining(state)
    verdict = await self._user.classify(
      self._trip, tuple(remaining.values()), text
    )
    kind = _checked(verdict)
    index: int | None = None
    outcome, reward = kind.name.lower(), 0.0
    if kind == scenario.Kind.WISH:
      ids = [p.id for p in remaining.values()]
      index = list(remaining)[_place(verdict.preference_id, ids)]
      reward = self._rewards.preference
    elif remaining and 0 < self._reveal_after <= state.num_idle:
      order = list(range(len(self._trip.preferences)))
      base.episode_rng(state.task_id, state.seed).shuffle(order)
      index = next(i for i in order if i in remaining)
      outcome = "volunteered"
    preference = None if index is None else remaining[index]
    said = await self._user.reply(self._trip, kind, preference, text)
    limit = type(self).max_observation_chars  # not that of a released list
    if not isinstance(said, str) or not said.strip() or len(said) > limit:
      raise _unparsable(f"a reply must be text of 1 to {limit} characters")
    if index is None:
      state = dataclasses.replace(state, num_idle=state.num_idle + 1)
    else:
      state = dataclasses.replace(
        state, num_idle=0, told=state.told | 1 << index
      )
    return state, base.Reply(said, outcome, reward)

  def _choose(self, state: State, text: str) -> tuple[State, base.Reply]:
    # Everything is checked before anything changes: one id or nothing.
    if not _ANSWER.fullmatch(text):
      return state, base.malformed(_ANSWER_HINT)
    if text not in self._options:
      return state, base.Reply(NO_OPTION, "refused")
    index, option = self._options[text]
    if state.chosen >> index & 1:
      return state, base.Reply(CHOSEN, "refused")
    aspect = self._trip.aspects[index]
    if option == aspect.best:
      said, outcome, reward = BEST, "best", self._rewards.best
      state = dataclasses.replace(state, best=state.best | 1 << index)
    elif option in aspect.correct:
      said, outcome, reward = CORRECT, "correct", self._rewards.correct
    else:
      said, outcome, reward = WRONG, "wrong", 0.0
    state = dataclasses.replace(state, chosen=state.chosen | 1 << index)
    every = (1 << len(self._trip.aspects)) - 1
    is_over = state.chosen == every
    return state, base.Reply(
      said, outcome, reward, is_over, is_over and state.best == every
    )

  def _remaining(self, state: State) -> dict[int, scenario.Preference]:
    """Returns the wishes still to be told, by their place in the trip.

    A choice settles its aspect: wishes not told by then are forfeited.
    """
    open_aspects = {
      aspect.name
      for i, aspect in enumerate(self._trip.aspects)
      if not state.chosen >> i & 1
    }
    return {
      i: p
      for i, p in enumerate(self._trip.preferences)
      if not state.told >> i & 1 and p.aspect in open_aspects
    }


def rewards(profile: str, trip: scenario.Scenario) -> Rewards:
  """Returns what the turns of a trip are worth.

  In profile `default` everything together is worth 1, whatever the trip.
  """
  if profile != "default":
    return PROFILES[profile]
  num_aspects, num_wishes = len(trip.aspects), len(trip.preferences)
  return Rewards(
    DEFAULT.search / num_aspects,
    DEFAULT.preference / num_wishes,
    DEFAULT.best / num_aspects,
    DEFAULT.correct / num_aspects,
  )


def _checked(verdict: Any) -> scenario.Kind:
  """Returns the kind of a verdict.

  Raises:
    types.FaultError: when it is no verdict.
  """
  if not isinstance(verdict, scenario.Verdict):
    raise _unparsable("a verdict must be a scenario.Verdict")
  if type(verdict.kind) not in (int, scenario.Kind) or verdict.kind not in set(
    scenario.Kind
  ):
    raise _unparsable("a verdict's kind must be 1, 2, 3 or 4")
  if verdict.kind != scenario.Kind.WISH and verdict.preference_id:
    raise _unparsable("only a verdict of kind 2 names a preference")
  return scenario.Kind(verdict.kind)


def _place(name: str, known: Sequence[str]) -> int:
  """Returns the place of a name that a backend chose.

  Raises:
    types.FaultError: when it was not to be chosen.
  """
  if name not in known:
    # What a backend says may hold a secret, so it is not repeated.
    raise _unparsable(f"a backend must name one of {len(known)} known things")
  return known.index(name)


def _unparsable(detail: str) -> types.FaultError:
  return types.FaultError(types.Fault.USER_UNPARSABLE, detail)
