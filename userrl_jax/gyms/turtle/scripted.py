"""The Turtle user played by rules: it compares words with a story's patterns.

A question gets the verdict of the fact that it is most exactly about; a
retelling gets points for the criteria whose words it holds, un-negated and
close together, less what `vetoes` takes away. Both read the same text the same
way in every process.
"""

import re

from userrl_jax.gyms import rules
from userrl_jax.gyms.turtle import story
from userrl_jax.gyms.turtle import vetoes
from userrl_jax.gyms.turtle import world

QUESTION_WINDOW = 12  # tokens in which the words of a pattern must stand
ANSWER_WINDOW = 20
MAX_CONCEPTS = 6  # of a question; one with more is a list of words

_WH_QUESTION = re.compile(
  r"\W*(what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE
)


class ScriptedUser:
  """Knows the patterns of a story, and nothing about stories without."""

  def knows(self, tale: story.Story) -> bool:
    """Returns whether rules can answer about a story."""
    return bool(tale.facts)

  async def yes_no(self, tale: story.Story, question: str) -> story.Verdict:
    """Returns the verdict of the facts on a question."""
    if not rules.is_question(question) or _WH_QUESTION.match(question):
      return story.Verdict.UNCLEAR
    if len(world.lexicon().concepts(question)) > MAX_CONCEPTS:
      return story.Verdict.SEVERAL
    text = vetoes.with_negations(rules.without_polite_not(question))
    for patterns in tale.exclusive:
      num_named = sum(bool(p.found(text, QUESTION_WINDOW)) for p in patterns)
      if num_named > 1:
        return story.Verdict.SEVERAL
    return _verdict(tale, text)

  async def grade(self, tale: story.Story, text: str) -> tuple[int, ...]:
    """Returns the points of each criterion, 0 to `story.FULL`."""
    most = vetoes.most_points(tale, text)
    if not most:
      return (0,) * len(tale.criteria)
    text = vetoes.with_negations(text)
    return tuple(min(most, _points(c, text)) for c in tale.criteria)


def _verdict(tale: story.Story, text: str) -> story.Verdict:
  """Returns what the most specific patterns found agree on, or Maybe."""
  size = 0
  said: set[bool] = set()
  for fact in tale.facts:
    for patterns, holds in ((fact.true, True), (fact.false, False)):
      for pattern in patterns:
        if len(pattern.groups) < size:
          continue
        found = pattern.found(text, QUESTION_WINDOW)
        if found and len(pattern.groups) > size:
          size, said = len(pattern.groups), set()
        said |= {holds == is_affirmed for is_affirmed in found}
  if len(said) != 1:
    return story.Verdict.MAYBE
  return story.Verdict.YES if said.pop() else story.Verdict.NO


def _points(criterion: story.Criterion, text: str) -> int:
  """Returns the points of a text that says something and never denies it."""
  if criterion.full and criterion.full.found(text, ANSWER_WINDOW) == {True}:
    return story.FULL
  if criterion.half and criterion.half.found(text, ANSWER_WINDOW) == {True}:
    return story.FULL // 2
  return 0
