"""The Persuade gym: change the mind of somebody who holds a claim.

The agent argues (`answer`) and the user, rules or a model, replies with words
and a stance between strong agreement with the claim and strong disagreement.
The words are what the agent reads. Privileged: the stance, and what would move
the user. In reward profile `default`, a turn is worth how far the stance goes
beyond the furthest so far, so that winning the same ground twice pays once. In
the others it is worth how far the stance goes beyond that of the turn before,
as in UserRL's code, which pays alike in training and evaluation; what the paper
pays is not told otherwise. There an episode that loses ground and wins it back
can earn more than 1, the most that one without a step back does. UserRL has no
limit to what a turn wins: `gyms.persuade.max_gain=0`.
"""

import dataclasses
from typing import Any, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.persuade import debate
from userrl_jax.gyms.persuade import manners
from userrl_jax.gyms.persuade import scripted

MAX_REPLY_CHARS = 600
CLOSING = "Change my mind."  # ends the first message where nobody asks

_BRIEF_1 = """\
Change the user's mind. Reply to the worry: answer "kites are safe because of \
rules". You have {max_turns} turns."""

_BRIEF = """\
The user holds a claim. Change their mind: answer "School is expensive because \
of the books that families must buy." Give one new argument a turn, in a whole \
sentence with a reason or an example, about what the user asks. You have \
{max_turns} turns."""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and debate \
with it.

A user holds a claim, and you do not. Your goal is to change the user's mind \
as far as it goes: from full support of the claim to full rejection. The first \
message tells the claim, and maybe why the user holds it or what worries them.

Every turn, call the tool once with the `choice` `answer`; its `content` is \
one argument against the claim, in whole sentences, of {min_words} to \
{max_words} words. The user replies, and the words of the reply tell how far \
you have come. An argument counts when it is new, fits what the user asks \
about, and is supported by a reason, an example or evidence. A list of \
keywords, a repetition and a request to change sides count nothing; insults, \
and agreeing with the claim, cost you ground.

You have {max_turns} turns. A call in another format is not played but takes a \
turn. Reason between <think> and </think> first, then call the tool. Look for \
what the user's view rests on, and answer that.

Example: {{"choice": "answer", "content": "{example}"}}"""

_EXAMPLES = {
  1: "kites are safe because of rules",
  2: "Parks are good for health, because people who walk there sleep better.",
}
_LENGTH_HINT = f"answer is one argument of at most {manners.MAX_WORDS} words"


class User(Protocol):
  """Who holds the claim: rules, or a model."""

  async def respond(
    self, case: debate.Case, talk: debate.Talk, argument: str
  ) -> debate.Verdict:
    """Returns where an argument moves the user, and what they say.

    Raises:
      types.FaultError: when the user fails.
    """


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """How far the user has been moved; the lists are replaced, never changed."""

  stance: int = 0
  best: int = 0  # the furthest stance so far
  worry: str = ""  # that the user asked about last
  used: list[int] = dataclasses.field(default_factory=list)
  exchanges: list[debate.Exchange] = dataclasses.field(default_factory=list)


class PersuadeGym(base.Gym):
  """Plays one debate."""

  name = "persuade"
  choices = ("answer",)
  max_asked_apart = 2  # where the user stands, and the reply
  talk = "answer"
  max_content_chars = 700
  max_observation_chars = 700

  def __init__(self, settings: config.Gyms, user: User | None = None):
    """Makes a game without a task.

    Args:
      settings: of all gyms.
      user: who answers; None is the rules of `scripted`.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    super().__init__(settings)
    if settings.persuade.max_gain < 0:
      raise ValueError(
        "gyms.persuade.max_gain must be at least 0 (0 is no limit), got "
        f"{settings.persuade.max_gain}"
      )
    if user is None and not scripted.can_be_won(settings.persuade.max_gain):
      raise ValueError(
        f"gyms.persuade.max_gain must be {scripted.LIMITS} where rules play "
        f"the user, got {settings.persuade.max_gain}"
      )
    self._max_gain = settings.persuade.max_gain or debate.LAST
    self._user: User = user or scripted.ScriptedUser()

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game for the levels and limits in play.

    Raises:
      ValueError: when there is no such profile.
    """
    level = min(2, max(self.settings.levels))
    brief = _BRIEF_1 if level == 1 else _BRIEF
    prompt = base.check_profile({"full": _FULL, "brief": brief}, profile)
    return prompt.format(
      max_turns=self.settings.max_turns,
      min_words=manners.MIN_WORDS[level],
      max_words=manners.MAX_WORDS,
      example=_EXAMPLES[level],
    )

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and the claim, with what the user adds to it.

    Raises:
      ValueError: when rules shall play a user of whom they know no points.
    """
    self._case = debate.of_task(task)
    if isinstance(self._user, scripted.ScriptedUser) and not self._case.points:
      raise ValueError(
        f"rules cannot play the user of task {task.id!r}, whose claim is not "
        "of the gym's own: set user.kind=endpoint, or gyms.tasks to generated "
        "or pack"
      )
    worry = self._case.worry(())
    if self._case.level == 1 and worry:
      text = f"{self._case.claim} {worry}"
    else:
      shown = (self._case.argument,) if self._shows_argument else ()
      ending = worry or CLOSING
      text = " ".join((f"I say: {self._case.claim}", *shown, ending))
    return State(task.id, seed, worry=worry), text

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after an argument."""
    argument = action.content.strip()
    if manners.num_words(argument) > manners.MAX_WORDS:
      return state, base.malformed(_LENGTH_HINT)
    flaw = manners.flaw(argument, self._case, state.worry, state.exchanges)
    if flaw is not None:
      verdict = debate.Verdict(
        max(debate.FIRST, state.stance + flaw.gain),
        manners.REPLIES[flaw],
        worry=state.worry,
      )
    else:
      talk = debate.Talk(
        debate.Stance(state.stance), tuple(state.used), tuple(state.exchanges)
      )
      verdict = await self._user.respond(self._case, talk, argument)
      self._check(verdict, state, argument)
    return self._move(state, argument, verdict, flaw)

  def undisclosed(self) -> tuple[str, ...]:
    """Returns what would move the user, and their argument unless shown."""
    if self.state is None:
      return ()
    says = [
      point.say
      for i, point in enumerate(self._case.points)
      if i not in self.state.used
    ]
    if not self._shows_argument and self._case.argument:
      says.append(self._case.argument)
    return tuple(says)

  @property
  def _shows_argument(self) -> bool:
    """Whether the first message has the user's argument.

    UserRL's own are as long as a page, and there the agent never reads them.
    """
    return self.settings.persuade.show_argument and bool(self._case.points)

  def _move(
    self,
    state: State,
    argument: str,
    verdict: debate.Verdict,
    flaw: manners.Flaw | None,
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a verdict that was checked."""
    stance = min(verdict.stance, state.stance + self._max_gain)
    best = max(state.best, stance)
    gain = stance - state.stance
    exchanges = state.exchanges
    if flaw is None:  # what is flawed is no part of the debate
      exchange = debate.Exchange(state.worry, argument, verdict.reply, gain)
      exchanges = [*exchanges, exchange]
    is_default = self.settings.reward_profile == "default"
    reward = (best - state.best if is_default else max(0, gain)) / debate.LAST
    state = dataclasses.replace(
      state,
      stance=int(stance),
      best=int(best),
      worry=verdict.worry,
      used=[*state.used, *verdict.points],
      exchanges=exchanges,
    )
    is_won = stance == debate.LAST
    outcome = "convinced" if is_won else "moved" if gain > 0 else "unmoved"
    return state, base.Reply(
      f"{verdict.reply} {verdict.worry}".strip(),
      flaw.value if flaw else outcome,
      reward,
      terminated=is_won,
      success=is_won,
    )

  def _check(self, verdict: Any, state: State, argument: str) -> None:
    """Checks what a backend says; its words may hold a secret: none repeated.

    Raises:
      types.FaultError: when it is no verdict, or tells what is undisclosed.
    """
    if not isinstance(verdict, debate.Verdict):
      raise _unparsable("a verdict must be a debate.Verdict")
    if type(verdict.stance) not in (int, debate.Stance) or not (
      debate.FIRST <= verdict.stance <= debate.LAST
    ):
      raise _unparsable("a stance must be 0 to 6")
    if not all(isinstance(t, str) for t in (verdict.reply, verdict.worry)):
      raise _unparsable("a reply and a worry must be text")
    size = len(verdict.reply) + len(verdict.worry)
    if not verdict.reply.strip() or size > MAX_REPLY_CHARS:
      raise _unparsable(
        f"a reply must be text of 1 to {MAX_REPLY_CHARS} characters"
      )
    is_new = {*range(len(self._case.points))} - {*state.used}
    if len({*verdict.points}) < len(verdict.points) or not is_new.issuperset(
      verdict.points
    ):
      raise _unparsable("points must be of the case, and not used before")
    said = f"{verdict.reply} {verdict.worry}"
    # What the agent has said itself may be repeated to it.
    heard = "\n".join((argument, *(e.argument for e in state.exchanges)))
    secrets = (text for text in self.undisclosed() if text not in heard)
    if any(secret and secret in said for secret in secrets):
      raise base.leak()


def _unparsable(detail: str) -> types.FaultError:
  return types.FaultError(types.Fault.USER_UNPARSABLE, detail)
