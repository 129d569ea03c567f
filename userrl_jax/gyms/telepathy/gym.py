"""The Telepathy gym: find out which thing the user thinks of.

The agent asks yes-or-no questions (`action`) and guesses (`answer`). A user,
rules or a model, judges both with a typed verdict; what the agent reads is
worded here, so no text of a model reaches it. Privileged: the name, until it
was found out, and the gloss; at level 1 the names are on the table, so only the
gloss is.
"""

from collections.abc import Mapping
import dataclasses
import random
import re
from typing import Any, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import rules
from userrl_jax.gyms.telepathy import scripted
from userrl_jax.gyms.telepathy import world

MAX_GUESS_CHARS = 60
REWARD_RIGHT = 1.0  # in every reward profile; all else is worth 0
CANDIDATES = "One of:"  # opens the first message of level 1
ANYTHING = "A thing."  # opens that of level 3

REPLIES = {
  world.Verdict.YES: "Yes.",
  world.Verdict.NO: "No.",
  world.Verdict.MAYBE: "Maybe.",
  world.Verdict.SEVERAL: "Maybe. One question at a time.",
}

_BRIEF = """\
Find the hidden thing. action "Is it big?" asks a yes-or-no question. answer \
"kite" guesses the thing. {limits}"""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and play a \
guessing game with it.

A user keeps one thing in mind. Your goal is to find out which, and to name \
it. The first message tells you what is known to begin with: what the thing is \
one of, or of which kind it is. It may add a question with its reply.

Every turn, call the tool once with a `choice` and its `content`:
- `action`: one question about the thing, such as `Is it big?`, that can be \
replied to by yes or no. The user replies `Yes.`, `No.` or, when it depends \
or the question cannot be understood, `Maybe.` A question about several \
matters at once gets no useful reply.
- `answer`: your guess, the name of one thing and nothing else, such as \
`kite`. The right one wins the game, and a wrong one tells you no more than \
that. You may guess at any time.{naming}

{limits} A call in another format is not played but takes a turn. Reason \
between <think> and </think> first, then call the tool. Good questions leave \
about half of the things that are still possible, whatever the reply.

Example: {{"choice": "action", "content": "Is it big?"}}
Example: {{"choice": "answer", "content": "kite"}}"""

_NAMING = " A question that names a thing is a guess, too: it never wins."
RIGHT = "Correct."  # the reply to the right guess
LOST = "No guesses left."  # ends the reply to the last wrong one
_NO_NAME = re.compile(r"[{}\[\]<>\x00-\x1f\x7f]")
_GUESS_HINT = "answer is one name, like kite"


class User(Protocol):
  """Who keeps the secret: `name`, `aliases`, and `gloss`, which says what."""

  async def yes_no(self, secret: Mapping[str, Any], question: str) -> str:
    """Returns a value of `world.Verdict`: Yes, No, Maybe or Several."""

  async def is_right(self, secret: Mapping[str, Any], guess: str) -> bool:
    """Returns whether a guess names the secret, and it alone."""


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """What the agent has found out and used up."""

  num_wrong_guesses: int = 0
  knows_name: bool = False  # guessed, or asked about and told so


class TelepathyGym(base.Gym):
  """Plays one hidden thing."""

  name = "telepathy"
  choices = ("action", "answer")
  talk = "action"
  max_content_chars = 200

  def __init__(self, settings: config.Gyms, user: User | None = None):
    """Makes a game without a task.

    Args:
      settings: of all gyms.
      user: who answers; None is the rules of `scripted`.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    super().__init__(settings)
    if settings.telepathy.guess_limit < 0:
      raise ValueError(
        "gyms.telepathy.guess_limit must be at least 0 (0 is no limit), got "
        f"{settings.telepathy.guess_limit}"
      )
    self._user: User = user or scripted.ScriptedUser()

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game with its limits.

    Raises:
      ValueError: when there is no such profile.
    """
    prompt = base.check_profile({"full": _FULL, "brief": _BRIEF}, profile)
    naming = _NAMING if self.settings.telepathy.guess_limit else ""
    return prompt.format(limits=_limits(self.settings), naming=naming)

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and the first message: what is known.

    Raises:
      ValueError: when rules shall answer about a thing that they do not know.
    """
    self._secret = task.secret.reveal()
    if isinstance(self._user, scripted.ScriptedUser) and not self._user.knows(
      self._secret
    ):
      raise ValueError(
        f"rules cannot answer about task {task.id!r}, which is not of the "
        "gym's own world: set user.kind=endpoint, or gyms.tasks to generated "
        "or pack"
      )
    return State(task.id, seed), first_message(task.public)

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a question or a guess."""
    content = action.content.strip()
    if action.choice == "action":
      return await self._ask(state, content)
    return await self._guess(state, content)

  def undisclosed(self) -> tuple[str, ...]:
    """Returns what tells the thing, and its names unless they are known."""
    if self.state is None:
      return ()
    gloss = self._secret["gloss"]
    meaning = gloss.partition(" - ")[2] or gloss
    assert self.task is not None
    if self.state.knows_name or "candidates" in self.task.public:
      return (meaning,)
    return (meaning, self._secret["name"], *self._secret["aliases"])

  def false_reply(
    self, action: types.Action, reply: base.Reply, rng: random.Random
  ) -> str:
    """Returns a No for a Yes and a Yes for a No; see `base.Gym`."""
    # Naming the thing is a guess in other words, and its verdict stands.
    if world.mentioned(action.content) or self._names_it(action.content):
      return ""
    contrary = {"yes": world.Verdict.NO, "no": world.Verdict.YES}
    verdict = contrary.get(reply.outcome)
    return REPLIES[verdict] if verdict else ""

  async def _ask(self, state: State, text: str) -> tuple[State, base.Reply]:
    said = await self._user.yes_no(self._secret, text)
    try:
      verdict = world.Verdict(said)
    except ValueError:
      raise types.FaultError(
        types.Fault.USER_UNPARSABLE,
        f"yes_no must return one of {[*world.Verdict]}, got {said!r:.60}",
      ) from None
    if verdict == world.Verdict.YES and self._names_it(text):
      state = dataclasses.replace(state, knows_name=True)
    is_told = verdict in (world.Verdict.YES, world.Verdict.NO)
    if is_told and self._is_wrong_guess(text):
      state, reply = self._wrong(state, REPLIES[verdict])
    else:
      reply = base.Reply(REPLIES[verdict], verdict.name.lower())
    return state, dataclasses.replace(reply, verdict=verdict.value)

  async def _guess(self, state: State, text: str) -> tuple[State, base.Reply]:
    if len(text) > MAX_GUESS_CHARS or _NO_NAME.search(text):
      return state, base.malformed(_GUESS_HINT)
    is_right = await self._user.is_right(self._secret, text)
    if not isinstance(is_right, bool):
      raise types.FaultError(
        types.Fault.USER_UNPARSABLE,
        f"is_right must return True or False, got {is_right!r:.60}",
      )
    if is_right:
      state = dataclasses.replace(state, knows_name=True)
      reply = base.Reply(
        RIGHT, "right", REWARD_RIGHT, terminated=True, success=True
      )
      return state, reply
    return self._wrong(state, "Wrong.")

  def _wrong(self, state: State, text: str) -> tuple[State, base.Reply]:
    """Returns the state and the reply after one more wrong guess."""
    num_wrong = state.num_wrong_guesses + 1
    state = dataclasses.replace(state, num_wrong_guesses=num_wrong)
    is_last = num_wrong == self.settings.telepathy.guess_limit
    text = f"{text} {LOST}" if is_last else text
    return state, base.Reply(text, "wrong", terminated=is_last)

  def _is_wrong_guess(self, question: str) -> bool:
    """Returns whether a question is a guess in other words, and wrong.

    Where guesses are limited, asking for names one by one would be a way round
    the limit. Only the names of the gym's own world are known.
    """
    if not self.settings.telepathy.guess_limit:
      return False
    names = world.mentioned(question)
    is_of_world = self._secret["name"] in world.entities()
    return bool(names) and is_of_world and names != (self._secret["name"],)

  def _names_it(self, question: str) -> bool:
    names = (self._secret["name"], *self._secret["aliases"])
    return rules.contains_pattern(question, (names,), len(question))


def first_message(public: Mapping[str, Any]) -> str:
  """Returns what a task tells to begin with."""
  if "description" in public:
    return public["description"]
  if "candidates" in public:
    return f"{CANDIDATES} {' '.join(public['candidates'])}"
  category = public.get("category")
  opening = world.openings()[category] if category else ANYTHING
  return " ".join((opening, *public["hints"]))


def _limits(settings: config.Gyms) -> str:
  turns = f"You have {settings.max_turns} turns."
  limit = settings.telepathy.guess_limit
  if not limit:
    return turns
  noun = "wrong guess loses" if limit == 1 else "wrong guesses lose"
  return f"{turns} {limit} {noun}."
