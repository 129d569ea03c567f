"""The user of the Travel gym by rules: judges searches and messages, replies.

Texts of the agent come in, typed verdicts and short replies go out. Topics are
looked for in the words of the whole gym, not of one task, so that naming many
of them is seen as such.
"""

from userrl_jax.gyms import rules
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import scenario

MAX_TOPICS = 2  # of a question; one about more is too broad

# What replies are made of; the demonstrator reads them.
YES = "Yes, "
UNASKED = "Also, "
NO = "No."
KNOWN = "That is settled."  # told, or its aspect is chosen
VAGUE = "Be specific."
CHAT = "Okay."


class ScriptedUser:
  """Answers at once, and the same to the same words."""

  async def match_query(
    self, secret: scenario.Scenario, text: str
  ) -> tuple[bool, str]:
    """Returns whether a search is right, and for which aspect.

    It is when it names one aspect of the trip, all its arguments, and no other
    city or day; in free words or as JSON.
    """
    names = lexicon.aspects(text)
    for aspect in secret.aspects:
      if names == (aspect.name,):
        arguments = dict(aspect.arguments)
        dates = {arguments.pop("date")} if "date" in arguments else set()
        found = set(lexicon.dates(text)) == dates and (
          set(lexicon.cities(text)) == set(arguments.values())
        )
        return found, aspect.name if found else ""
    return False, ""

  async def classify(
    self,
    secret: scenario.Scenario,
    remaining: tuple[scenario.Preference, ...],
    text: str,
  ) -> scenario.Verdict:
    """Returns how the user takes a message."""
    names = lexicon.aspects(text)
    topics = lexicon.topics(text)
    if not topics:
      is_vague = bool(names) or lexicon.is_vague(text)
      return scenario.Verdict(
        scenario.Kind.VAGUE if is_vague else scenario.Kind.CHAT
      )
    if not rules.is_question(text):
      return scenario.Verdict(scenario.Kind.CHAT)
    about = {*names, *(topic.partition(":")[0] for topic in topics)}
    is_denied = lexicon.denied(text)  # a yes would be read the other way round
    if len(topics) > MAX_TOPICS or len(about) > 1 or is_denied:
      return scenario.Verdict(scenario.Kind.VAGUE)
    ids = {f"{p.aspect}:{p.topic}": p.id for p in remaining}
    for topic in topics:
      if topic in ids:
        return scenario.Verdict(scenario.Kind.WISH, ids[topic])
    return scenario.Verdict(scenario.Kind.NO_WISH)

  async def reply(
    self,
    secret: scenario.Scenario,
    kind: scenario.Kind,
    preference: scenario.Preference | None,
    text: str,
  ) -> str:
    """Returns what the user says."""
    if preference is not None:
      lead = YES if kind == scenario.Kind.WISH else UNASKED
      return lead + preference.hint
    if kind == scenario.Kind.NO_WISH:
      wishes = {f"{p.aspect}:{p.topic}" for p in secret.preferences}
      return KNOWN if wishes.issuperset(lexicon.topics(text)) else NO
    return VAGUE if kind == scenario.Kind.VAGUE else CHAT
