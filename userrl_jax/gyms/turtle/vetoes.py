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

_FUNCTION_WORDS = frozenset(
  rules.tokens(
    "a an the of to in on at by for from with without into over under out off "
    "up down and or but if then because since as than that which who whose "
    "whom when where while so is are was were be been being am do does did "
    "done has have had having can could will would shall should must may might "
    "not no yes it its they them their theirs he him his she her hers we us "
    "our you your i me my mine this these those there here every each all some "
    "any most more less only also too very just what why how about before "
    "after again now one two other another same such own both let get got "
    # Words of the game itself: who only says that it is true tells no story.
    "say said tell told reply answer ask question true play start stop"
  )
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


def touches(tale: story.Story, text: str) -> bool:
  """Returns whether a text has a word of the story, or may have one.

  Where there are patterns for rules, they hold other words for the same; a text
  that shares none with them and none with the story is about something else.
  """
  if not tale.facts:
    return True
  known = [tale.bottom]
  for criterion in tale.criteria:
    known.append(criterion.statement)
    for pattern in (criterion.full, criterion.half):
      known += [" ".join(group) for group in pattern.groups] if pattern else ()
  told = set() if tale.exclusive else _stems(f"{tale.title} {tale.surface}")
  return bool(_stems(text) & _stems(" ".join(known)) - told - _FUNCTION_WORDS)


def with_negations(text: str) -> str:
  """Returns a text in which a `nobody` negates the word before it, too.

  Words of negation reach forward; in `she killed nobody` it must reach back.
  """
  return _NOBODY.sub(lambda m: f"not {m[1] or ''} {m[2]}", text)


def _stems(text: str) -> set[str]:
  return set(rules.tokens(text))
