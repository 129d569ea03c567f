"""The user of the Tau gym by rules: a small machine without any chance.

In: a scene, which is what the user wants and what has become of it, and a
message of the agent. Out: a `Said`. The user tells what it is asked for, says
yes to a plan that names the right change of the right order, and is content
when a claim that it is done is true, or a refusal says the right reason.
"""

from collections.abc import Mapping
import dataclasses
import functools
import re

from userrl_jax.gyms import rules
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import shop

MAX_SLOTS = 2  # told in one reply
MAX_ASKED = 3  # asked for at once; a message about more is too broad

# What the demonstrator reads.
YES = "Yes, please."
NO = "No, that is not what I asked."
FORGOTTEN = "I don't remember."
UNDONE = "It still shows as before."
UNTOLD = "That does not answer it."
WHY_NOT = "Why not?"
BROAD = "One thing at a time, please."
LOST = "Sorry, could you help with my request?"

_TELL = {
  "email": "My email is {}.",
  "name": "My name is {}.",
  "zip": "My zip code is {}.",
  "order": "It is order {}.",
  "item": "The {}.",
  "reason": "The reason: {}.",
  "option": "I want: {}.",
  "address": "To: {}.",
  "payment": "I paid with {}.",
}
_VERBS = ("cancel", "return", "exchange", "address")
_ORDER_ID = re.compile(r"\bw\d{1,6}\b")
_PAST = re.compile(
  r"\b(cancell?ed|returned|refunded|exchanged|swapped|updated|changed|sent)\b"
)
_ASKING = re.compile(r"\b(please|tell|give|need|provide|share)\b")
_WHYS = re.compile(r"\b(pending|shipped|delivered|cancell?ed|sold out)\b")
_NOT_BEFORE = re.compile(r"\b(not|no|never|n['’]t)(\s+\w+)?\s+$")


@dataclasses.dataclass(frozen=True)
class Scene:
  """What the user knows when a message comes."""

  found: scenario.Scenario
  intent: scenario.Intent  # what the user wants now
  is_reached: bool  # the store is as it should be by now
  is_informed: bool  # tools showed what had to be looked at
  is_told: bool  # all outputs were told
  history: tuple[str, ...]  # "user: ..." and "agent: ..." so far


@dataclasses.dataclass(frozen=True)
class Said:
  """What the user replies, and what it means."""

  text: str
  is_settled: bool = False  # content with how the present request has ended
  agrees: bool = False  # to the change that the message proposes


@dataclasses.dataclass(frozen=True)
class Message:
  """What rules see in a message of the agent."""

  slots: tuple[str, ...]  # asked for
  verbs: frozenset[str]
  orders: frozenset[str]
  whys: frozenset[str]
  proposes: bool
  claims: bool
  refuses: bool


class ScriptedUser:
  """Answers at once, and the same to the same words."""

  async def turn(self, scene: Scene, message: str) -> Said:
    """Returns what the user says to a message."""
    seen, intent = read(message), scene.intent
    if seen.proposes:
      if is_right_plan(intent, message):
        return Said(YES, agrees=True)
      return Said(NO)
    if len(seen.slots) > MAX_ASKED:
      return Said(BROAD)
    if seen.slots:
      return Said(_tell(scene, seen.slots[:MAX_SLOTS]))
    if seen.refuses:
      is_right = is_right_refusal(intent, message) and scene.is_informed
      return Said(WHY_NOT, is_settled=is_right and scene.is_reached)
    if intent.expect == "tell":
      if scene.is_told:
        return Said(UNTOLD, is_settled=scene.is_reached)
      return Said(UNTOLD if seen.claims else LOST)
    if seen.claims:
      is_done = intent.expect == "change" and scene.is_reached
      return Said(UNDONE, is_settled=is_done and scene.is_told)
    return Said(LOST)


def is_right_plan(intent: scenario.Intent, message: str) -> bool:
  """Returns whether a message proposes just what the user wants to change."""
  seen = read(message)
  if intent.expect != "change" or seen.verbs != {intent.verb}:
    return False
  return seen.orders == {intent.order_id.lower()}


def is_right_refusal(intent: scenario.Intent, message: str) -> bool:
  """Returns whether a message refuses for the one right reason."""
  seen = read(message)
  return (
    intent.expect == "no_change"
    and seen.refuses
    and not seen.proposes
    and seen.whys == {intent.why}
  )


@functools.lru_cache(8192)
def read(text: str) -> Message:
  """Returns what rules see in a message."""
  hits = _lexicon().hits(text)
  plain = text.lower()
  # To the rules, Done opens like Don't, and so like a question.
  is_open = plain.lstrip().startswith("done") and "?" not in plain
  is_question = rules.is_question(text) and not is_open
  named = {hit.concept for hit in hits if not hit.negated}
  whys = set()
  for match in _WHYS.finditer(plain):
    if not _NOT_BEFORE.search(plain[: match.start()]):
      whys.add(match[0].replace("canceled", "cancelled"))
  slots: tuple[str, ...] = ()
  if is_question or _ASKING.search(plain):
    slots = tuple(
      dict.fromkeys(hit.concept for hit in hits if hit.concept in _TELL)
    )
  refuses = "refuse" in named and not is_question
  is_denied = any(hit.negated for hit in hits) or " not " in f" {plain} "
  return Message(
    slots=slots,
    verbs=frozenset(named & set(_VERBS)),
    orders=frozenset(_ORDER_ID.findall(plain)),
    whys=frozenset(whys),
    proposes="confirm" in named and not refuses,
    claims=not is_question
    and not is_denied
    and ("done" in named or bool(_PAST.search(plain))),
    refuses=refuses,
  )


def _tell(scene: Scene, slots: tuple[str, ...]) -> str:
  facts: Mapping[str, str] = scenario.facts_of(scene.found, scene.intent)
  told = [_TELL[slot].format(facts[slot]) for slot in slots if facts.get(slot)]
  if len(told) < len(slots):
    told.append(FORGOTTEN)
  return " ".join(told)


@functools.cache
def _lexicon() -> rules.Lexicon:
  return rules.Lexicon(shop.file()["phrases"])
