"""What a retelling can be worth at most, whoever judges it.

Rules know some texts that explain nothing, however many of the right words they
hold: lists of words, of alternatives, of explanations that exclude each other,
denials, and the surface over again. Where a model is the judge, its verdict
must not go beyond this.
"""

import re

from userrl_jax.gyms import rules
from userrl_jax.gyms.turtle import story
from userrl_jax.gyms.turtle import world

MAX_CONCEPTS = 20  # of the whole gym's, in one retelling
MAX_ALTERNATIVES = 2  # words such as `or` and `maybe`
DECOYS_TO_HALVE = 2  # explanations that cannot all be true
DECOYS_TO_REFUSE = 4

_WINDOW = 20  # tokens
_ALTERNATIVE = re.compile(
  r"\b(?:or|either|maybe|perhaps|possibly|alternatively|otherwise)\b"
  r"|[a-z] ?/ ?[a-z]",
  re.IGNORECASE,
)
_DENIAL = re.compile(
  r"\b(?:not|never|n['\u2019]?t|hardly) (?:\w+ )?(?:true|correct|right"
  r"|the case|so) that\b"
  r"|\b(?:untrue|incorrect|false|wrong|lie|nonsense) that\b"
  r"|(?:^|[.!?]|\bi have|\bi['\u2019]ve)\s*no (?:idea|clue)\b"
  r"|\bi (?:\w+ )?(?:don['\u2019]?t|do not|cannot) (?:know|say|tell)\b",
  re.IGNORECASE,
)
_NOBODY = re.compile(
  r"(?:\b(\w+) )?\b(nobody|nothing|no[ -]one|none)\b", re.IGNORECASE
)


def most_points(tale: story.Story, text: str) -> int:
  """Returns the most points that a retelling may get for any criterion."""
  scene = f"{tale.title} {tale.surface}"
  # Where the scene itself lists what can be, its words may well be the answer.
  if not tale.exclusive and set(rules.tokens(text)) <= set(rules.tokens(scene)):
    return 0
  if len(_ALTERNATIVE.findall(text)) > MAX_ALTERNATIVES:
    return 0
  if _DENIAL.search(text):
    return 0
  if len(world.lexicon().concepts(text)) > MAX_CONCEPTS:
    return 0
  text = with_negations(text)
  for patterns in tale.exclusive:
    if sum(True in p.found(text, _WINDOW) for p in patterns) > 1:
      return 0
  num_decoys = sum(True in p.found(text, _WINDOW) for p in tale.decoys)
  if num_decoys >= DECOYS_TO_REFUSE:
    return 0
  return story.FULL // 2 if num_decoys >= DECOYS_TO_HALVE else story.FULL


def with_negations(text: str) -> str:
  """Returns a text in which a `nobody` negates the word before it, too.

  Words of negation reach forward; in `she killed nobody` it must reach back.
  """
  return _NOBODY.sub(lambda m: f"not {m[1] or ''} {m[2]}", text)
