"""The Intention gym: find out what a vague request leaves open.

The agent asks (`action`); whatever a question covers is told by the user and
pays by its importance. A user, rules or a model, judges a question with a typed
verdict and words what it discloses; what else the agent reads is worded here.
Privileged: the details that no question has covered.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import random
from typing import Any, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.intention import prompts
from userrl_jax.gyms.intention import scenario
from userrl_jax.gyms.intention import scripted

# In tenths, as UserRL pays: the most important detail that a question covers,
# less the penalty for each more that it covers.
POINTS = {3: 10, 2: 7, 1: 4}
PENALTY = 2

NUM_RECENT = 3  # exchanges that a backend is reminded of
REPLIES = {
  scenario.Kind.COVERED_BEFORE: "I told you.",
  scenario.Kind.NO_PREFERENCE: "No matter.",
  scenario.Kind.BROAD: "One thing at a time.",
  scenario.Kind.VAGUE: "Be specific.",
  scenario.Kind.OFF_TOPIC: "Ask about my request.",
}
LEFT = "I give up."

_KINDS = {kind.value: kind for kind in scenario.Kind}


class User(Protocol):
  """Who made the request: rules, or a model.

  Raises `types.FaultError` where it fails.
  """

  async def cover(
    self,
    talk: scenario.Talk,
    remaining: tuple[scenario.Detail, ...],
    question: str,
  ) -> scenario.Verdict:
    """Returns which of the remaining details a message asks for."""

  async def reply(
    self,
    talk: scenario.Talk,
    covered: tuple[scenario.Detail, ...],
    question: str,
  ) -> str:
    """Returns what the user says when asked for details, at least one.

    Knows of no other detail, so it can tell no other.
    """


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """What was covered and said."""

  covered: int = 0  # bits of places in the task's details
  num_idle: int = 0  # questions that covered nothing
  # [question, reply] of the last exchanges; never changed in place.
  recent: list[list[str]] = dataclasses.field(default_factory=list)


class IntentionGym(base.Gym):
  """Plays one request."""

  name = "intention"
  choices = ("action",)
  max_asked = max_asked_apart = 2  # what a message asks for, and the reply
  talk = "action"
  max_content_chars = 240
  max_observation_chars = 400

  def __init__(self, settings: config.Gyms, user: User | None = None):
    """Makes a game without a task, with a user by rules if none is given.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    super().__init__(settings)
    if settings.intention.patience < 0:
      raise ValueError(
        "gyms.intention.patience must be at least 0 (0 is no limit), got "
        f"{settings.intention.patience}"
      )
    self._patience = settings.intention.patience
    self._user: User = user or scripted.ScriptedUser()

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game for the levels and limits in play.

    Raises:
      ValueError: when there is no such profile.
    """
    return prompts.system_prompt(self.settings, profile)

  @property
  def max_score(self) -> float:
    """The rewards of all details, each asked for alone."""
    return sum(POINTS[d.importance] for d in self._details) / self._unit

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and the request.

    Raises:
      ValueError: when rules shall answer for what they have no words for.
    """
    self._details = scenario.details(task)
    if isinstance(self._user, scripted.ScriptedUser) and not all(
      self._user.knows(d) for d in self._details
    ):
      raise ValueError(
        f"rules cannot answer in task {task.id!r}, whose details are not of "
        "the gym's own slots: set user.kind=endpoint, or gyms.tasks to "
        "generated or pack"
      )
    total = sum(POINTS[d.importance] for d in self._details)
    is_default = self.settings.reward_profile == "default"
    self._unit = total if is_default else 10
    self._opening = scenario.first_message(task)
    return State(task.id, seed), self._opening

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a message."""
    question = action.content.strip()
    open_ = [i for i in range(len(self._details)) if not state.covered >> i & 1]
    talk = self._talk(state)
    verdict = await self._user.cover(
      talk, tuple(self._details[i] for i in open_), question
    )
    kind, places = _checked(verdict, len(open_))
    if not places:
      return self._idle(state, question, kind)
    chosen = [open_[place] for place in places]
    covered = tuple(self._details[i] for i in chosen)
    said = await self._user.reply(talk, covered, question)
    bits = sum(1 << index for index in chosen)
    recent = _with(state.recent, question, said)
    state = dataclasses.replace(
      state, covered=state.covered | bits, recent=recent
    )
    self._check_reply(state, said)
    is_over = len(chosen) == len(open_)
    return state, base.Reply(
      self._with_form(state, said),
      kind.value,
      points([d.importance for d in covered]) / self._unit,
      terminated=is_over,
      success=is_over,
    )

  def undisclosed(self) -> tuple[str, ...]:
    """Returns what tells the details that no question has covered."""
    return () if self.state is None else self._hidden(self.state)

  def false_reply(
    self, action: types.Action, reply: base.Reply, rng: random.Random
  ) -> str:
    """Returns that what was asked for does not matter; see `base.Gym`."""
    if reply.outcome not in {str(kind) for kind in scenario.COVERING}:
      return ""
    said = REPLIES[scenario.Kind.NO_PREFERENCE]
    return self._with_form(self.state, said)

  def _idle(
    self, state: State, question: str, kind: scenario.Kind
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a message that covers nothing."""
    num_idle = state.num_idle + 1
    is_last = num_idle == self._patience
    said = REPLIES[kind]
    recent = _with(state.recent, question, said)
    state = dataclasses.replace(state, num_idle=num_idle, recent=recent)
    said = f"{said} {LEFT}" if is_last else self._with_form(state, said)
    return state, base.Reply(said, kind.value, terminated=is_last)

  def _with_form(self, state: State, said: str) -> str:
    """Returns a reply and, at level 1, what is still open of the form.

    The form was shown, so this tells nothing new; but a small model finds its
    next move in the last message.
    """
    assert self.task is not None
    if self.task.level > 1:
      return said
    left = (scenario.blank(d.slot) for d in self._split(state)[1])
    return " ".join((said, *left))

  def _talk(self, state: State) -> scenario.Talk:
    assert self.task is not None
    public: Mapping[str, Any] = self.task.public
    covered = self._split(state)[0]
    return scenario.Talk(
      public["category"],
      public["request"],
      (*public.get("told", ()), *(d.slot or d.about for d in covered)),
      tuple((question, said) for question, said in state.recent),
    )

  def _check_reply(self, state: State, said: Any) -> None:
    """Refuses a reply that is none, or that tells more than was asked for.

    Raises:
      types.FaultError: which repeats nothing of it.
    """
    limit = self.max_observation_chars
    if not isinstance(said, str) or not 0 < len(said.strip()) <= limit:
      raise _unparsable(f"a reply must be text of 1 to {limit} characters")
    if any(text in said for text in self._hidden(state)):
      raise base.leak()

  def _hidden(self, state: State) -> tuple[str, ...]:
    covered, remaining = self._split(state)
    public = (self._opening, *REPLIES.values())
    return scenario.hidden(remaining, covered, public)

  def _split(
    self, state: State
  ) -> tuple[list[scenario.Detail], list[scenario.Detail]]:
    """Returns the details that are covered, and those that are not."""
    parts: tuple[list, list] = [], []
    for index, item in enumerate(self._details):
      parts[not state.covered >> index & 1].append(item)
    return parts


def points(importances: Sequence[int]) -> int:
  """Returns the tenths that a question pays for the details it covers."""
  best = max(POINTS[importance] for importance in importances)
  return max(0, best - PENALTY * (len(importances) - 1))


def _checked(
  verdict: Any, num_remaining: int
) -> tuple[scenario.Kind, tuple[int, ...]]:
  """Returns the kind of a verdict and the places it covers, none twice.

  Raises:
    types.FaultError: when it is no verdict about so many details.
  """
  if not isinstance(verdict, scenario.Verdict):
    raise _unparsable("a verdict must be a scenario.Verdict")
  kind = _KINDS.get(str(verdict.kind))
  if kind is None:
    raise _unparsable(f"a verdict's kind must be one of {[*_KINDS]}")
  places = tuple(dict.fromkeys(verdict.covered))
  if any(type(p) is not int or not 0 <= p < num_remaining for p in places):
    raise _unparsable(
      f"what is covered must be places below {num_remaining} of details"
    )
  if (kind in scenario.COVERING) != bool(places):
    raise _unparsable(f"a verdict covers details if its kind says so: {kind}")
  if places:
    kind = scenario.COVERING[len(places) > 1]
  return kind, places


def _with(recent: list[list[str]], question: str, said: str) -> list[list[str]]:
  """Returns the last exchanges after one more."""
  return [*recent, [question, said]][-NUM_RECENT:]


def _unparsable(detail: str) -> types.FaultError:
  return types.FaultError(types.Fault.USER_UNPARSABLE, detail)
