"""The user of the Intention gym by rules: finds what a question asks for.

A question comes in; a typed verdict goes out, and what the user says of the
details it covers. One about two slots covers both or nothing: else, asking for
any two at a time would find everything without a look at the request.
"""

from userrl_jax.gyms import rules
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import scenario

_Kind = scenario.Kind


class ScriptedUser:
  """Answers at once, and the same to the same words."""

  def knows(self, detail: scenario.Detail) -> bool:
    """Returns whether there are words for a detail."""
    return detail.slot in lexicon.SLOTS

  async def cover(
    self,
    talk: scenario.Talk,
    remaining: tuple[scenario.Detail, ...],
    question: str,
  ) -> scenario.Verdict:
    """Returns which of the remaining details a message asks for."""
    if not rules.is_question(question):
      return scenario.Verdict(_Kind.OFF_TOPIC)
    asked = lexicon.asked(question)
    if not asked:
      is_general = lexicon.is_general(question)
      return scenario.Verdict(_Kind.VAGUE if is_general else _Kind.OFF_TOPIC)
    if len(asked) > scenario.MAX_TOPICS:
      return scenario.Verdict(_Kind.BROAD)
    if any(asked.values()):  # denied: nobody could tell what is asked
      return scenario.Verdict(_Kind.VAGUE)
    places = {item.slot: place for place, item in enumerate(remaining)}
    covered = tuple(sorted(places[slot] for slot in asked if slot in places))
    if len(covered) == len(asked):
      return scenario.Verdict(scenario.COVERING[len(covered) > 1], covered)
    if covered:
      return scenario.Verdict(_Kind.BROAD)
    is_known = set(asked) <= set(talk.known)
    return scenario.Verdict(
      _Kind.COVERED_BEFORE if is_known else _Kind.NO_PREFERENCE
    )

  async def reply(
    self,
    talk: scenario.Talk,
    covered: tuple[scenario.Detail, ...],
    question: str,
  ) -> str:
    """Returns what the user says of the details."""
    return " ".join(detail.reply for detail in covered)
