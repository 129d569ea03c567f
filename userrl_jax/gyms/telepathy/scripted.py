"""The Telepathy user played by rules: it looks the answer up in the world.

A question about one attribute, one category or one name gets its value; one
about several gets none, so that a list of words reveals nothing; and one about
something else gets a `Maybe`.
"""

from collections.abc import Mapping
import functools
from typing import Any

from userrl_jax.gyms import rules
from userrl_jax.gyms.telepathy import world

_FLIPPED = {
  world.Verdict.YES: world.Verdict.NO,
  world.Verdict.NO: world.Verdict.YES,
  world.Verdict.MAYBE: world.Verdict.MAYBE,
}


class ScriptedUser:
  """Knows the world, and nothing about things that are not in it."""

  def knows(self, secret: Mapping[str, Any]) -> bool:
    """Returns whether the secret is a thing of the world."""
    entity = world.entities().get(secret["name"])
    return entity is not None and entity.gloss == secret["gloss"]

  async def yes_no(
    self, secret: Mapping[str, Any], question: str
  ) -> world.Verdict:
    """Returns the verdict of the world on a question."""
    return verdict(secret["name"], question)

  async def is_right(self, secret: Mapping[str, Any], guess: str) -> bool:
    """Returns whether a guess is the name of the secret and nothing more."""
    return world.named(guess) == secret["name"]


@functools.lru_cache(8192)
def verdict(name: str, question: str) -> world.Verdict:
  """Returns what the world says to a question about the thing of a name."""
  hits = world.lexicon().hits(rules.without_polite_not(question))
  if not hits:
    return world.Verdict.MAYBE
  if len({(hit.concept, hit.negated) for hit in hits}) > 1:
    return world.Verdict.SEVERAL
  entity = world.entities()[name]
  kind, _, key = hits[0].concept.partition(":")
  if kind == "attribute":
    value = entity.values[key]
  elif key == (entity.category if kind == "category" else entity.name):
    value = world.Verdict.YES
  else:
    value = world.Verdict.NO
  return _FLIPPED[value] if hits[0].negated else value
