"""A vague request: what is open, how a backend judges, what stays hidden.

A task comes in; its typed details, its first message and the texts that must
not be seen yet go out. Also the words that the game and its backends share: a
`Talk` is what both sides know by now, a `Detail` is privileged until covered.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import enum
import re
from typing import Any

from userrl_jax import types
from userrl_jax.gyms.intention import lexicon

IMPORTANCES = (1, 2, 3)
MAX_TOPICS = 2  # of a question; one about more is too broad to be answered

_BLANK = re.compile(r"(\w+)\?")


class Kind(enum.StrEnum):
  """How the user takes a message."""

  FOCUSED = "focused"  # asks for one open detail
  COMPOUND = "compound"  # asks for several open details at once
  COVERED_BEFORE = "covered_before"  # asks for what the user has told
  NO_PREFERENCE = "no_preference"  # asks for what is of no matter here
  BROAD = "broad"  # asks for too much at once
  VAGUE = "vague"  # asks for details as such
  OFF_TOPIC = "off_topic"  # is no question, or about something else


COVERING = (Kind.FOCUSED, Kind.COMPOUND)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a user's backend makes of a message."""

  kind: str  # one of Kind
  covered: tuple[int, ...] = ()  # places in `remaining`, with COVERING only


@dataclasses.dataclass(frozen=True)
class Detail:
  """One thing that the request leaves open."""

  slot: str  # a name of lexicon.SLOTS; empty for a released task
  importance: int  # of IMPORTANCES
  about: str  # what it is
  value: str  # what the user wants
  reply: str  # how the user says so by rules; empty for a released task
  question: str  # a question that asks for it


@dataclasses.dataclass(frozen=True)
class Talk:
  """What both sides know."""

  category: str
  request: str
  known: tuple[str, ...]  # what requests and replies have told: slots, or about
  recent: tuple[tuple[str, str], ...]  # the last questions, with their replies


def details(task: types.Task) -> tuple[Detail, ...]:
  """Returns the open details of a task; privileged."""
  return tuple(Detail(**d) for d in task.secret.reveal()["details"])


def detail(
  slot: str, importance: int, value: str, reply: str, level: int
) -> dict[str, Any]:
  """Returns a detail of the gym's own tasks, as it is kept in a secret."""
  entry = lexicon.SLOTS[slot]
  question = plain_question(slot) if level == 1 else entry.question
  return dataclasses.asdict(
    Detail(slot, importance, entry.about, value, reply, question)
  )


def plain_question(slot: str) -> str:
  """Returns the question of level 1 for a slot."""
  return f"What {slot}?"


def blank(slot: str) -> str:
  """Returns how a form of level 1 shows that a slot is open."""
  return f"{slot}?"


def blanks(text: str) -> list[str]:
  """Returns the slots that a text of level 1 shows as open, in order."""
  return _BLANK.findall(text)


def first_message(task: types.Task) -> str:
  """Returns what the user asks for; above level 1 its category as well."""
  public = task.public
  if task.level == 1:
    return public["request"]
  return request_text(public["category"], public["request"])


def request_text(category: str, request: str) -> str:
  """Returns a request with its category."""
  return f"Category: {category}. Task: {request}"


def structure(level: int, category: str, slots: Iterable[str]) -> str:
  """Returns the key that splits are made by: what is left open, and of what."""
  return f"{'form' if level == 1 else category}:{'+'.join(sorted(slots))}"


def hidden(
  remaining: Sequence[Detail], known: Sequence[Detail], public: Iterable[str]
) -> tuple[str, ...]:
  """Returns the texts that nobody may have read by now.

  Args:
    remaining: details not covered.
    known: details covered.
    public: texts that everybody may read; what stands there is not hidden.
  """
  shown = [*public, *(text for d in known for text in (d.reply, d.value))]
  texts = []
  for item in remaining:
    if item.slot:
      texts += [item.reply, item.value]
    else:  # a released value of one word, such as a Yes, tells nothing
      texts += [item.question] + [item.value] * (" " in item.value)
  return tuple(t for t in texts if not any(t in s for s in shown))
