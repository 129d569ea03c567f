"""The state machine that every gym is, written once; knows no JAX.

A task comes in with `reset`, actions with `step`; observations, rewards and
the end of the game go out. Counting turns, the turn limit, refusing what is no
action of this gym, and the order of calls live here. A gym adds its prompt,
its first message and one transition, `play`, that maps (state, action) to
(state, reply) and touches nothing else. States are frozen and JSON-ready, so a
step that fails leaves the gym as it was: it can be retried, and cloned.
"""

import abc
from collections.abc import Iterable, Mapping
import copy
import dataclasses
import difflib
import hashlib
import random
from typing import Any, ClassVar, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import judging
from userrl_jax.gyms import sources

PROFILES = ("full", "brief")
MALFORMED = "malformed"  # info["outcome"] of every turn met with a format hint
# info["outcome"] of turns in which a user with a manner told nothing true.
UNTOLD = EVADED, GONE, MISLED = ("evaded", "gone", "misled")


@dataclasses.dataclass(frozen=True)
class State:
  """What changes while a game is played; gyms extend it with JSON values."""

  task_id: str
  seed: int
  num_turns: int = 0
  is_over: bool = False


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a transition says to one action; `Gym.step` makes a step of it."""

  text: str
  outcome: str  # one word for metrics and reports, privileged
  reward: float = 0.0
  terminated: bool = False
  success: bool = False  # this action won the game
  # What the user made of the action, in whatever words; privileged.
  verdict: str = ""


def malformed(hint: str) -> Reply:
  """Returns the reply to an action that the gym cannot read: a format hint."""
  return Reply(f"Format: {hint}", MALFORMED)


class Oracle(Protocol):
  """A demonstrator of one episode: `Oracle(task, rng, noise, settings)`."""

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""


class Manner(Protocol):
  """How a user behaves; `users.profiles` has some.

  Attributes:
    name: of the profile.
  """

  name: str

  async def play(self, gym: "Gym", action: types.Action) -> tuple[Any, Reply]:
    """Returns what `gym.play` does of the gym's state, as this user has it."""


class Gym(abc.ABC):
  """A single-use game: one `reset`, then `step` until a step ends it.

  Attributes:
    name: key of the gym in `gyms.GYMS`.
    choices: the choices of `types.CHOICES` that this gym takes.
    max_content_chars: longer contents get a format hint, never a cut.
    max_observation_chars: no observation is longer.
    has_user: whether someone answers who could be a model instead of rules.
    max_asked: verdicts that a turn asks for at most, where models answer.
    max_asked_apart: the same where another model judges than plays the user.
    talk: the choice that speaks to a user who may have a manner; "" is none.
    manner: of the user; None: as the gym has it.
    leak_reasks: how often words of a model that tell what is undisclosed are
      asked for again before they are a fault; None: nobody looks.
    state: None before `reset`, then a frozen `State`.
    task: None before `reset`.
  """

  name: ClassVar[str]
  choices: ClassVar[tuple[str, ...]]
  max_content_chars: ClassVar[int] = 2000
  max_observation_chars: ClassVar[int] = 200
  has_user: ClassVar[bool] = True
  max_asked: ClassVar[int] = 1
  max_asked_apart: ClassVar[int] = 1
  talk: ClassVar[str] = ""
  reward_profiles: ClassVar[tuple[str, ...]] = (
    "default",
    "paper",
    "released_train",
    "released_eval",
  )

  def __init__(self, settings: config.Gyms):
    """Makes a game without a task.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    if settings.max_turns < 1:
      raise ValueError(
        f"gyms.max_turns must be at least 1, got {settings.max_turns}"
      )
    if not settings.levels or not set(settings.levels) <= set(sources.LEVELS):
      raise ValueError(
        f"gyms.levels must be some of {sources.LEVELS}, got {settings.levels}"
      )
    if settings.reward_profile not in self.reward_profiles:
      raise ValueError(
        unknown(
          f"reward profile of gym {self.name!r}",
          settings.reward_profile,
          self.reward_profiles,
        )
      )
    self.settings = settings
    self.manner: Manner | None = None
    self.leak_reasks: int | None = None
    self.task: types.Task | None = None
    self.state: Any = None
    self._is_stepping = False
    self._num_leaks = 0  # of the turn under way

  @abc.abstractmethod
  def system_prompt(self, profile: str) -> str:
    """Returns the rules as told to the agent, `full` or `brief`."""

  @abc.abstractmethod
  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and the first user message."""

  @abc.abstractmethod
  async def play(self, state: Any, action: types.Action) -> tuple[Any, Reply]:
    """Returns the state and the reply after a well-formed choice.

    Leaves counters and the end of the game to `step`. Raises only
    `types.FaultError`, and only when something other than the agent failed.
    """

  @abc.abstractmethod
  def undisclosed(self) -> tuple[str, ...]:
    """Returns the strings that no observation may have shown by now."""

  def false_reply(
    self, action: types.Action, reply: Reply, rng: random.Random
  ) -> str:
    """Returns the contrary of what a user says, "" where there is none.

    It is said in place of the reply by a user who errs. It decides nothing,
    and shows nothing that is undisclosed before the action.

    Args:
      action: that was played, of choice `talk`.
      reply: the true one; the game is not over.
      rng: of what is drawn.
    """
    return ""

  @property
  def max_score(self) -> float:
    """The most that the rewards of the current task can add up to."""
    return 1.0

  async def reset(self, task: types.Task, seed: int) -> types.Observation:
    """Opens the game.

    Args:
      task: a task of this gym.
      seed: with the task's id, the only source of the episode's randomness.

    Returns:
      The first user message.

    Raises:
      RuntimeError: when the gym already has a task.
      ValueError: when the task belongs to another gym.
    """
    if self.state is not None:
      raise RuntimeError("a gym plays one task: make a new gym to reset")
    if task.gym != self.name:
      raise ValueError(
        f"gym {self.name!r} needs one of its own tasks, got {task.id!r} of gym "
        f"{task.gym!r}"
      )
    self.task = task
    self.state, text = self.start(task, seed)
    return types.Observation(text)

  async def step(self, action: types.Action) -> types.Step:
    """Plays one turn.

    Every call costs a turn, also a malformed one, which gets a format hint, no
    reward, and changes nothing else. When `play` raises, no turn is spent.

    Returns:
      A step whose `info["outcome"]` names what happened, and whose
      `info["success"]` tells whether it won the game; the turn limit ends the
      game as truncated unless this turn terminated it. `info["leaks"]` counts
      replies that told too much and were asked for again, where there were any,
      and `info["verdict"]` is that of the reply, where it has one.

    Raises:
      RuntimeError: before `reset`, after the end, or during another step.
      types.FaultError: when something other than the agent failed.
    """
    if self.state is None:
      raise RuntimeError("reset the gym with a task before stepping")
    if self.state.is_over:
      raise RuntimeError("the game is over: make a new gym to play again")
    if self._is_stepping:
      raise RuntimeError("await the step under way before the next")
    self._is_stepping, self._num_leaks = True, 0
    try:
      hint = self._hint(action)
      if hint:
        state, reply = self.state, malformed(hint)
      else:
        state, reply = await self._answer_to(action)
    finally:
      self._is_stepping = False
    num_turns = state.num_turns + 1
    truncated = not reply.terminated and num_turns >= self.settings.max_turns
    self.state = dataclasses.replace(
      state, num_turns=num_turns, is_over=reply.terminated or truncated
    )
    step = types.Step(
      types.Observation(reply.text),
      float(reply.reward),
      reply.terminated,
      truncated,
      {"outcome": reply.outcome, "success": reply.success}
      | ({"verdict": reply.verdict} if reply.verdict else {})
      | ({"leaks": self._num_leaks} if self._num_leaks else {}),
    )
    return self.out_of_turns(step) if truncated else step

  def out_of_turns(self, step: types.Step) -> types.Step:
    """Returns the last turn of a game that turns ran out of, paid for the end.

    Turns that never came to the gym count for who plays, not here: then it is
    them who ask for this. The default leaves the step as it is.

    Args:
      step: of the turn; without info when it never came to the gym.
    """
    return step

  def clone(self) -> "Gym":
    """Returns an independent gym that continues just like this one."""
    if self._is_stepping:
      raise RuntimeError("await the step under way before cloning")
    return copy.copy(self)  # tasks and states are immutable, so sharing is safe

  def hidden(self, state: Any) -> tuple[str, ...]:
    """Returns what is undisclosed in a state of the game."""
    now, self.state = self.state, state
    try:
      return self.undisclosed()
    finally:
      self.state = now

  async def _answer_to(self, action: types.Action) -> tuple[Any, Reply]:
    """Returns the state and the reply after a well-formed action.

    Raises:
      types.FaultError: USER_LEAK when a model tells what it must not.
    """
    for tries_left in reversed(range(1 + (self.leak_reasks or 0))):
      try:
        with judging.wording() as words:
          if self.manner is not None and action.choice == self.talk:
            state, reply = await self.manner.play(self, action)
          else:
            state, reply = await self.play(self.state, action)
        if words.is_used and self.leak_reasks is not None:
          self._check_leak(state, reply, action)
        return state, reply
      except types.FaultError as error:
        if error.fault != types.Fault.USER_LEAK or not tries_left:
          raise
        self._num_leaks += 1
    raise AssertionError("unreachable")

  def _check_leak(self, state: Any, reply: Reply, action: types.Action) -> None:
    # What the agent itself has just said is no news to it.
    if any(
      text and text in reply.text and text not in action.content
      for text in self.hidden(state)
    ):
      raise leak()

  def _hint(self, action: types.Action) -> str:
    """Returns what is wrong with an action in any gym, or an empty string."""
    choice: Any = action.choice  # an outside agent may hand in anything
    content: Any = action.content
    if not isinstance(choice, str) or choice not in self.choices:
      return f"choice must be {either(self.choices)}"
    if not isinstance(content, str):
      return "content must be text"
    if not content.strip():
      return "content must not be empty"
    if len(content) > self.max_content_chars:
      return f"content has at most {self.max_content_chars} characters"
    return ""


def leak() -> types.FaultError:
  """Returns the fault of a reply that tells what it must not; repeats none."""
  return types.FaultError(
    types.Fault.USER_LEAK,
    "a reply must not tell what is undisclosed",
    is_final=True,
  )


def episode_rng(task_id: str, seed: int) -> random.Random:
  """Returns the generator of one episode, the same in every process."""
  digest = hashlib.blake2b(f"{task_id}|{seed}".encode()).digest()
  return random.Random(digest)


def either(words: Iterable[str]) -> str:
  """Returns words as a phrase: 'a', 'a or b', 'a, b or c'."""
  *head, last = words
  return f"{', '.join(head)} or {last}" if head else last


def unknown(noun: str, name: str, known: Iterable[str]) -> str:
  """Returns the message for an unknown name; it names the nearest known."""
  known = sorted(known)
  near = difflib.get_close_matches(str(name), known, 1, 0.0) or known[:1]
  return (
    f"unknown {noun}: {name!r}; did you mean {near[0]!r}? "
    f"It must be {either(known)}"
  )


def check_profile(prompts: Mapping[str, str], profile: str) -> str:
  """Returns the prompt of a profile.

  Raises:
    ValueError: when there is no such profile.
  """
  if profile not in prompts:
    raise ValueError(unknown("prompt profile", profile, prompts))
  return prompts[profile]
