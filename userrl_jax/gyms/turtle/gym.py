"""The Turtle gym: find out what is behind a strange little scene.

The agent asks yes-or-no questions (`action`) and retells the whole story
(`answer`), as often as the limit allows. A user, rules or a model, judges both
with a typed verdict; what the agent reads is worded here, so no text of a model
reaches it. Privileged: the story behind the scene and the points that a
retelling must make; the agent learns only how many of them it has made.
"""

from collections.abc import Mapping
import dataclasses
import random
from typing import Any, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import rules
from userrl_jax.gyms.turtle import prompts
from userrl_jax.gyms.turtle import scripted
from userrl_jax.gyms.turtle import story

MAX_QUESTION_CHARS = 200
MAX_ANSWER_TOKENS = 90
_BEST = story.TOTAL * story.FULL  # scores are counted in fortieths

REPLIES = {
  story.Verdict.YES: "Yes.",
  story.Verdict.NO: "No.",
  story.Verdict.MAYBE: "Maybe.",
  story.Verdict.SEVERAL: "Maybe. One question at a time.",
  story.Verdict.UNCLEAR: "Maybe. Ask for a yes or a no.",
}
CORRECT = "Correct."
_LOST = "No answers left."


class User(Protocol):
  """Who knows the story: rules, or a model.

  Raises `types.FaultError` where it fails.
  """

  async def yes_no(self, tale: story.Story, question: str) -> str:
    """Returns a value of `story.Verdict`."""

  async def grade(self, tale: story.Story, text: str) -> tuple[int, ...]:
    """Returns the points of each criterion in order: 0, 1 (half) or 2."""


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """How well the story was told so far."""

  num_answers: int = 0
  best: int = 0  # the best retelling, in fortieths


class TurtleGym(base.Gym):
  """Plays one story."""

  name = "turtle"
  choices = ("action", "answer")
  talk = "action"
  max_content_chars = 900
  max_observation_chars = 900

  def __init__(self, settings: config.Gyms, user: User | None = None):
    """Makes a game without a task.

    Args:
      settings: of all gyms.
      user: who answers; None is the rules of `scripted`.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    super().__init__(settings)
    knobs = settings.turtle
    if knobs.answer_limit < 0:
      raise ValueError(
        "gyms.turtle.answer_limit must be at least 0 (0 is no limit), got "
        f"{knobs.answer_limit}"
      )
    if not 0 <= knobs.step_penalty <= 1:
      raise ValueError(
        f"gyms.turtle.step_penalty must be in [0, 1], got {knobs.step_penalty}"
      )
    self._user: User = user or scripted.ScriptedUser()

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game with its limits.

    Raises:
      ValueError: when there is no such profile.
    """
    return prompts.system_prompt(self.settings, profile)

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and the first message: the scene.

    Raises:
      ValueError: when rules shall answer about a story that has none.
    """
    self._story = story.of_task(task)
    if isinstance(self._user, scripted.ScriptedUser) and not self._user.knows(
      self._story
    ):
      raise ValueError(
        f"rules cannot answer about task {task.id!r}, which has no facts for "
        "them: set user.kind=endpoint, or gyms.tasks to generated or pack"
      )
    return State(task.id, seed), first_message(task.public)

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a question or a retelling."""
    content = action.content.strip()
    if action.choice == "action":
      return state, await self._ask(content)
    return await self._tell(state, content)

  @property
  def max_score(self) -> float:
    """The score of telling all in the first turn."""
    return 1.0 - self.settings.turtle.step_penalty

  def undisclosed(self) -> tuple[str, ...]:
    """Returns the story and its points, which are never shown."""
    if self.state is None:
      return ()
    criteria = self._story.criteria
    return (self._story.bottom, *(c.statement for c in criteria))

  def false_reply(
    self, action: types.Action, reply: base.Reply, rng: random.Random
  ) -> str:
    """Returns a No for a Yes and a Yes for a No; see `base.Gym`."""
    contrary = {"yes": story.Verdict.NO, "no": story.Verdict.YES}
    verdict = contrary.get(reply.outcome)
    return REPLIES[verdict] if verdict else ""

  async def _ask(self, text: str) -> base.Reply:
    if len(text) > MAX_QUESTION_CHARS:
      return base.malformed(
        f"a question has at most {MAX_QUESTION_CHARS} characters"
      )
    said = await self._user.yes_no(self._story, text)
    try:
      verdict = story.Verdict(said)
    except ValueError:
      raise types.FaultError(
        types.Fault.USER_UNPARSABLE,
        f"yes_no must return one of {[*story.Verdict]}, got {said!r:.60}",
      ) from None
    return base.Reply(REPLIES[verdict], verdict.name.lower())

  async def _tell(self, state: State, text: str) -> tuple[State, base.Reply]:
    if len(rules.tokens(text)) > MAX_ANSWER_TOKENS:
      return state, base.malformed(
        f"answer has at most {MAX_ANSWER_TOKENS} words"
      )
    points = await self._user.grade(self._story, text)
    self._check(points)
    score = sum(
      criterion.weight * value
      for criterion, value in zip(self._story.criteria, points, strict=True)
    )
    gain = max(0, score - state.best)
    penalty = self.settings.turtle.step_penalty * (state.num_turns + 1)
    reward = min(1.0, max(0.0, gain / _BEST - penalty))
    num_answers = state.num_answers + 1
    state = dataclasses.replace(
      state, num_answers=num_answers, best=state.best + gain
    )
    if score == _BEST:
      reply = base.Reply(
        CORRECT, "right", reward, terminated=True, success=True
      )
      return state, reply
    told = _counts(points)
    is_last = num_answers == self.settings.turtle.answer_limit
    told = f"{told} {_LOST}" if is_last else told
    outcome = "better" if gain else "no_better"
    return state, base.Reply(told, outcome, reward, terminated=is_last)

  def _check(self, points: Any) -> None:
    count = len(self._story.criteria)
    if (
      not isinstance(points, tuple)
      or len(points) != count
      or any(type(p) is not int or not 0 <= p <= story.FULL for p in points)
    ):
      raise types.FaultError(
        types.Fault.USER_UNPARSABLE,
        f"grade must return {count} whole numbers from 0 to {story.FULL}, got "
        f"{points!r:.60}",
      )


def first_message(public: Mapping[str, Any]) -> str:
  """Returns the scene as a task shows it."""
  return "\n".join(filter(None, (public["title"], public["surface"])))


def _counts(points: tuple[int, ...]) -> str:
  """Returns how many points a retelling made, not which."""
  num_full, num_half = points.count(story.FULL), points.count(1)
  text = f"{num_full} of {len(points)} points right"
  return f"{text}, {num_half} partly." if num_half else f"{text}."
