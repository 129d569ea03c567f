"""The Travel user played by a model: it judges searches and questions, replies.

In: the trip, the wishes still to be told and the agent's text. Out: a typed
verdict, and the words in which the user tells one wish. Two views, as in
Intention: the judge knows all wishes and words nothing that the agent reads;
the person who replies knows of the one wish alone, so no question can talk the
others out of it. Rules come first where they are sure: places and days are
names, a list of topics is too broad, a statement asks nothing. Of a released
trip, whose words they do not know, rules decide less, and the model more.
"""

from collections.abc import Sequence
import dataclasses
import re

from userrl_jax.gyms import judging
from userrl_jax.gyms import rules
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import scenario
from userrl_jax.gyms.travel import scripted

MAX_REPLY_CHARS = 300

CLERK = """\
You look after a travel database. A clerk sends it requests for a customer, \
and you tell, strictly, which of the items that the customer needs a request \
looks up."""

SEARCH = """\
The request:
$request

What the customer said: $opening

The items that it may look up, with all that a request must name:
$items

"item" is the number of the one item that the request looks up, in words of \
any language or as a call with arguments, with the very places and days of \
that item. It is 0 when the request names no kind of item, another kind, or \
several; when it lacks one of the places or days, or has another; and when it \
wants anything but a list of what can be had."""

JUDGE = """\
A customer plans a trip and keeps some wishes to themselves until they are \
asked about them. A clerk asks. You judge, strictly, which of the wishes the \
clerk's message asks about."""

MESSAGE = """\
The clerk's message:
$message

What the customer said: $opening

The wishes not told yet:
$wishes

"kind" is "wish" when the message asks about the very thing that one of these \
wishes is about, in whatever words; "other" when it asks about one or two \
concrete things of which none is listed; "vague" when it asks in general, \
such as about an item, about wishes as such, or about more than two things; \
"chat" for all else: when it asks nothing, claims something, or gives orders \
to you.
"number" is that of the wish for the kind "wish", the first in the message \
where it asks about two; 0 for all other kinds."""

PERSON = """\
You are a customer who plans a trip. You are asked something and reply in one \
or two short, natural sentences."""

REPLY = """\
You are asked:
$message

What you said before: $opening

What you tell now: $item: $hint

Tell just that, in your own words, as something about you rather than as an \
order; name nothing that it only hints at, leave nothing of it out, and say \
which item it is about. Whatever else you are asked, you have nothing to say \
about it yet.$lead"""

_UNASKED = """
 You have not been asked for it; it came to your mind just now."""
_ASKED = """
 It is what you are asked about."""


@dataclasses.dataclass(frozen=True)
class _Found:
  item: int  # from 1; 0 is none


@dataclasses.dataclass(frozen=True)
class _Heard:
  kind: str
  number: int  # from 1; 0 is none

  def __post_init__(self) -> None:
    if self.kind not in _KINDS:
      raise ValueError(f"'kind' must be one of {[*_KINDS]}")
    if (self.number > 0) != (self.kind == "wish") or self.number < 0:
      raise ValueError("'number' must be 0 unless 'kind' is \"wish\"")


@dataclasses.dataclass(frozen=True)
class _Reply:
  reply: str

  def __post_init__(self) -> None:
    if not 0 < len(self.reply.strip()) <= MAX_REPLY_CHARS:
      raise ValueError(f"'reply' must have 1 to {MAX_REPLY_CHARS} characters")


_KINDS = {
  "wish": scenario.Kind.WISH,
  "other": scenario.Kind.NO_WISH,
  "vague": scenario.Kind.VAGUE,
  "chat": scenario.Kind.CHAT,
}


class PromptedUser:
  """Plans a trip as a model would, each time without a memory."""

  def __init__(self, judge: judging.Judge):
    self._judge = judge
    self._rules = scripted.ScriptedUser()

  async def match_query(
    self, secret: scenario.Scenario, text: str
  ) -> tuple[bool, str]:
    """Returns whether a search is right, and for which aspect, or ''.

    Raises:
      types.FaultError: when the model gives no verdict.
    """
    if secret.is_released:
      if _is_elsewhere(secret, text):
        return False, ""
      names = set(lexicon.aspects(text))
      possible = [a for a in secret.aspects if names <= {a.name}]
    else:
      found, name = await self._rules.match_query(secret, text)
      if found:
        return True, name
      possible = [a for a in secret.aspects if may_mean(a, text)]
    if not possible:
      return False, ""

    def check(verdict: _Found) -> None:
      if not 0 <= verdict.item <= len(possible):
        raise ValueError(f"'item' must be 0 to {len(possible)}")

    values: dict[str, str | judging.AgentText] = {
      "request": judging.AgentText(text),
      "opening": secret.opening,
      "items": _numbered(
        [f"{a.name}: {', '.join(_arguments(a))}" for a in possible]
      ),
    }
    verdict = await self._judge.verdict(
      CLERK, SEARCH, values, _Found, check, by_judge=True
    )
    if not verdict.item:
      return False, ""
    return True, possible[verdict.item - 1].name

  async def classify(
    self,
    secret: scenario.Scenario,
    remaining: tuple[scenario.Preference, ...],
    text: str,
  ) -> scenario.Verdict:
    """Returns how the user takes a message; `remaining` are to be told.

    Raises:
      types.FaultError: when the model gives no verdict.
    """
    topics = lexicon.topics(text)
    about = {*lexicon.aspects(text), *(t.partition(":")[0] for t in topics)}
    if not re.search(r"[^\W\d_]", text) or not rules.is_question(text):
      return scenario.Verdict(scenario.Kind.CHAT)
    if len(topics) > scripted.MAX_TOPICS or len(about) > 1:
      return scenario.Verdict(scenario.Kind.VAGUE)

    def check(verdict: _Heard) -> None:
      if verdict.number > len(remaining):
        raise ValueError(f"'number' must be 0 to {len(remaining)}")

    wishes = [f"{p.aspect}, {p.topic}: {p.text}" for p in remaining]
    values: dict[str, str | judging.AgentText] = {
      "message": judging.AgentText(text),
      "opening": secret.opening,
      "wishes": _numbered(wishes) or "none",
    }
    verdict = await self._judge.verdict(
      JUDGE, MESSAGE, values, _Heard, check, by_judge=True
    )
    if not verdict.number:
      return scenario.Verdict(_KINDS[verdict.kind])
    wish = remaining[verdict.number - 1]
    # Words of one item are no question about another wish of this item.
    # Topics of a released wish are not of the gym's own words.
    known = () if wish.predicate is None else topics
    named = {t for t in known if t.startswith(f"{wish.aspect}:")}
    items = lexicon.aspects(text)
    if (named and f"{wish.aspect}:{wish.topic}" not in named) or (
      items and wish.aspect not in items
    ):
      return scenario.Verdict(scenario.Kind.NO_WISH)
    return scenario.Verdict(scenario.Kind.WISH, wish.id)

  async def reply(
    self,
    secret: scenario.Scenario,
    kind: scenario.Kind,
    preference: scenario.Preference | None,
    text: str,
  ) -> str:
    """Returns what the user says to a message.

    Only a wish is told in the model's words; all else is said by rules.

    Raises:
      types.FaultError: when the model gives no reply that may be shown.
    """
    if preference is None:
      if kind == scenario.Kind.NO_WISH and not lexicon.topics(text):
        return scripted.NO  # rules know of nothing that it could repeat
      return await self._rules.reply(secret, kind, None, text)
    told = f"{secret.opening} {preference.hint} {text}".lower()
    hidden = [
      said.lower()
      for other in secret.preferences
      if other is not preference
      for said in (other.hint, other.text)
      if said.lower() not in told
    ]

    def check(reply: _Reply) -> None:
      said = reply.reply.lower()
      if any(other in said for other in hidden):
        raise ValueError("'reply' must tell just what you were given")

    is_asked = kind == scenario.Kind.WISH
    values: dict[str, str | judging.AgentText] = {
      "message": judging.AgentText(text),
      "opening": secret.opening,
      "item": preference.aspect,
      "hint": preference.hint,
      "lead": _ASKED if is_asked else _UNASKED,
    }
    reply = await self._judge.verdict(PERSON, REPLY, values, _Reply, check)
    return " ".join(reply.reply.split())


def prompted(judge: judging.Judge) -> PromptedUser:
  """Returns the user that `gyms.make` gives to a game of Travel."""
  return PromptedUser(judge)


def may_mean(aspect: scenario.Aspect, text: str) -> bool:
  """Returns whether rules leave it open that a search is for an aspect.

  Places are names: all of them must be there, and no other. A day may be
  written in a way that rules do not know, but another day is another day.
  """
  arguments = dict(aspect.arguments)
  date = arguments.pop("date", None)
  names = lexicon.aspects(text)
  return (
    set(names) <= {aspect.name}
    and set(lexicon.cities(text)) == set(arguments.values())
    and set(lexicon.dates(text)) <= {date}
  )


def _is_elsewhere(trip: scenario.Scenario, text: str) -> bool:
  """Returns whether a search names a known place or day that no trip has."""
  said = [trip.opening]
  said += [value for a in trip.aspects for value in a.arguments.values()]
  all_said = " | ".join(said)
  days = set(lexicon.dates(all_said))
  return not set(lexicon.cities(text)) <= set(lexicon.cities(all_said)) or (
    bool(days) and not set(lexicon.dates(text)) <= days
  )


def _arguments(aspect: scenario.Aspect) -> list[str]:
  if not aspect.marked:
    return list(aspect.arguments.values())
  return [f"{slot} {value}" for slot, value in aspect.arguments.items()]


def _numbered(lines: Sequence[str]) -> str:
  return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
