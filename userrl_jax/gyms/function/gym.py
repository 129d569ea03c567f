"""The Function gym: find out what a hidden f(a, b, c, d) gives on a test case.

The agent probes f at points of its choice (`action`), looks up the test case
(`search`) and states the value there (`answer`). No user takes part: replies
are arithmetic, exact and instant. Privileged: the rule, the test case until it
is looked up, and the value there.
"""

from collections.abc import Iterable
import dataclasses
import fractions
import re

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.function import expression

MAX_PROBE = 20  # largest |x| of a probed point
MAX_SHOWN = 10**12  # larger values are not written out
TOLERANCE = fractions.Fraction(1, 10**6)  # of max(1, |value|), for answers
REWARD_CORRECT = 1.0  # in every reward profile; all else is worth 0

FIRST_MESSAGE = "f is ready."

# What the rules up to a level can hold, as the prompts say it.
OPERATORS = {1: "+ - *", 2: "+ - * ( )", 3: "+ - * / ( ) and squares"}
RELEASED_OPERATORS = {
  1: "+ - * ( )",
  2: "+ - * ( )",
  3: "+ - * / ** ( ), where an exponent may be a letter",
}

_BRIEF = """\
Find f of the test case. f uses a b c d once each, with {operators}. search \
"test" shows the test case. action "2 0 1 3" shows f there. answer "7" states \
f. {limits}"""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and play a \
game of deduction with it.

The environment hides a function f(a, b, c, d) and a test case, which is four \
whole numbers. Your goal is to state the value of f on the test case. The rule \
of f uses each of a, b, c and d exactly once and is built from nothing but \
{operators}. Its value on the test case is a whole number.

Every turn, call the tool once with a `choice` and its `content`:
- `action`: four whole numbers from -{max_probe} to {max_probe} for a, b, c \
and d, such as `2 0 1 3`. The environment replies with f at that point, to \
four decimals where it is not whole. The test case itself cannot be probed, \
nor the same numbers in another order that leaves f as it is.
- `search`: the word `test`. The environment replies with the test case.
- `answer`: one number, such as `7`, `-2.5` or `3/4`: the value of f on the \
test case. The right one wins the game. You may answer at any time, also \
before you have seen the test case.

{limits} A call in another format is not played but takes a turn. Reason \
between <think> and </think> first, then call the tool. Points next to the \
test case tell the most: change one number at a time and watch how f moves.

Example: {{"choice": "action", "content": "2 0 1 3"}}"""

_SEPARATOR = re.compile(r" *, *| +")
_INTEGER = re.compile(r"-?[0-9]{1,4}")
_ANSWER = re.compile(
  r"[+-]?(?:"
  r"[0-9]{1,15}(?:\.[0-9]{1,12})?|\.[0-9]{1,12}|[0-9]{1,15}/[0-9]{1,15})"
)
_PROBE_HINT = "four whole numbers from -20 to 20, like 2 0 1 3"
_SEARCH_HINT = "search takes the word test"
_ANSWER_HINT = "answer is one number, like 7, -2.5 or 3/4"


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """What the agent has found out and used up."""

  knows_test_case: bool = False
  num_wrong_answers: int = 0


class FunctionGym(base.Gym):
  """Plays one hidden function."""

  name = "function"
  choices = types.CHOICES
  max_content_chars = 80
  has_user = False

  def __init__(self, settings: config.Gyms):
    """Makes a game without a task.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    super().__init__(settings)
    if settings.function.answer_limit < 0:
      raise ValueError(
        "gyms.function.answer_limit must be at least 0 (0 is no limit), got "
        f"{settings.function.answer_limit}"
      )
    self._value: expression.Number = 0

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game for the levels and limits in play.

    Raises:
      ValueError: when there is no such profile.
    """
    prompt = base.check_profile({"full": _FULL, "brief": _BRIEF}, profile)
    return prompt.format(
      operators=_operators(self.settings),
      limits=_limits(self.settings),
      max_probe=MAX_PROBE,
    )

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and the first message, the same for all."""
    secret = task.secret.reveal()
    self._rule = expression.parse(secret["rule"])
    self._test_case = tuple(secret["test_case"])
    self._value = self._rule.evaluate(self._test_case)
    return State(task.id, seed), FIRST_MESSAGE

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a probe, a search or an answer."""
    content = action.content.strip(" ")
    if action.choice == "action":
      return self._probe(state, content)
    if action.choice == "search":
      return self._search(state, content)
    return self._answer(state, content)

  def undisclosed(self) -> tuple[str, ...]:
    """Returns the rule, and the test case until it was looked up or hit."""
    if self.state is None:
      return ()
    rule = self._rule.text
    rules = (rule, rule.replace(" ", ""))
    if self.state.knows_test_case:
      return rules
    # Probes are echoed with commas, so only a search can write it like this.
    return (*rules, _numbers(self._test_case, " "))

  def _probe(self, state: State, content: str) -> tuple[State, base.Reply]:
    numbers = _SEPARATOR.split(content)
    if len(numbers) != 4 or not all(map(_INTEGER.fullmatch, numbers)):
      return state, base.malformed(_PROBE_HINT)
    point = tuple(map(int, numbers))
    if any(abs(x) > MAX_PROBE for x in point):
      return state, base.malformed(_PROBE_HINT)
    if point == self._test_case:
      state = dataclasses.replace(state, knows_test_case=True)
      return state, base.Reply("Refused: that is the test case.", "refused")
    # Sorting first keeps the costly search for symmetries off the usual path.
    if sorted(point) == sorted(
      self._test_case
    ) and point in expression.same_by_symmetry(
      self._rule.text, self._test_case
    ):
      return state, base.Reply("Refused: f is the same on the test.", "refused")
    shown = f"f({_numbers(point)})"
    try:
      value = self._rule.evaluate(point)
    except expression.UndefinedError as error:
      return state, base.Reply(f"{shown}: {error}", "undefined")
    if abs(value) > MAX_SHOWN:
      return state, base.Reply(f"{shown}: too large", "undefined")
    return state, base.Reply(f"{shown} = {show(value)}", "probe")

  def _search(self, state: State, content: str) -> tuple[State, base.Reply]:
    if content.lower() != "test":
      return state, base.malformed(_SEARCH_HINT)
    state = dataclasses.replace(state, knows_test_case=True)
    text = f"Test case: {_numbers(self._test_case, ' ')}"
    return state, base.Reply(text, "search")

  def _answer(self, state: State, content: str) -> tuple[State, base.Reply]:
    if not _ANSWER.fullmatch(content) or re.search(r"/0+$", content):
      return state, base.malformed(_ANSWER_HINT)
    if is_right(content, self._value):
      reply = base.Reply(
        "Correct.", "correct", REWARD_CORRECT, terminated=True, success=True
      )
      return state, reply
    num_wrong = state.num_wrong_answers + 1
    state = dataclasses.replace(state, num_wrong_answers=num_wrong)
    is_last = num_wrong == self.settings.function.answer_limit
    text = "Wrong. No answers left." if is_last else "Wrong."
    return state, base.Reply(text, "wrong", terminated=is_last)


def is_right(answer: str, value: expression.Number) -> bool:
  """Returns whether an answer, one number, is near enough to a value."""
  error = abs(fractions.Fraction(answer) - value)
  return error <= TOLERANCE * max(1, abs(value))


def show(value: expression.Number) -> str:
  """Returns a number as the agent reads it.

  Whole numbers have no point; all others have one and at most four decimals,
  so that `7.0` is a value near 7 that is not 7.
  """
  if value.denominator == 1:
    return str(value.numerator)
  # Rounded on whole numbers: a float would lose digits of large values.
  units, digits = divmod(round(abs(value) * 10**4), 10**4)
  decimals = f"{digits:04d}".rstrip("0") or "0"
  sign = "-" if value < 0 and (units or digits) else ""
  return f"{sign}{units}.{decimals}"


def _numbers(point: Iterable[int], separator: str = ", ") -> str:
  return separator.join(map(str, point))


def _operators(settings: config.Gyms) -> str:
  """Returns what rules can hold, exactly, for the tasks in play."""
  is_ours = settings.tasks in ("generated", "pack")
  operators = OPERATORS if is_ours else RELEASED_OPERATORS
  return operators[max(settings.levels)]  # a level has all of those below


def _limits(settings: config.Gyms) -> str:
  turns = f"You have {settings.max_turns} turns."
  if not settings.function.answer_limit:
    return turns
  return f"{turns} {settings.function.answer_limit} wrong answers lose."
