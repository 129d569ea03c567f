"""The Persuade user played by rules: moved by points, one worry at a time.

An argument counts when it says one of the points that this user is open to and
has not heard. At level 1 only the worry just asked about counts, at level 2 it
counts more than others, and at level 3 the user names only the first.
"""

import functools

from userrl_jax.gyms import rules
from userrl_jax.gyms.persuade import debate
from userrl_jax.gyms.persuade import manners

WINDOW = 20  # words within which a point must be said
MAX_GAIN = 2  # stances that one argument moves
MAX_HEARD = 2  # points of one argument that count
MAX_POINTS = 3  # of one argument; with more it is a list
MAX_ABOUT = 4  # aspects of the whole gym that one argument may touch

# What `gyms.persuade.max_gain` may be. A lower limit would cut what this user
# has already put into words, and leave fewer points than stances to win.
LIMITS = f"0, or at least {MAX_GAIN},"

UNMOVED = "That does not move me."
ONE_THING = manners.REPLIES[manners.Flaw.LIST]
LEVEL_1 = ("No.", "No.", "Hm.", "Hm.", "Maybe.", "Maybe.", "You are right.")
LEVEL_1_UNMOVED = "No."


class ScriptedUser:
  """Answers at once, and the same to the same words."""

  async def respond(
    self, case: debate.Case, talk: debate.Talk, argument: str
  ) -> debate.Verdict:
    """Returns where an argument moves the user, and what they say."""
    open_points = [i for i in range(len(case.points)) if i not in talk.used]
    asked = case.asked(talk.used)
    if _is_list(case, argument):
      return _unmoved(case, talk, ONE_THING)
    open_points.sort(key=lambda i: i != asked)  # the worry comes first
    heard = [
      i for i in open_points if _says(case, i, argument, is_asked=i == asked)
    ][:MAX_HEARD]
    if not heard:
      said = LEVEL_1_UNMOVED if case.level == 1 else UNMOVED
      return _unmoved(case, talk, said)
    gain = len(heard)
    if manners.is_supported(argument):
      gain = sum(case.points[i].strength + (i == asked) for i in heard)
    stance = min(debate.LAST, talk.stance + min(gain, MAX_GAIN))
    used = (*talk.used, *heard)
    worry = case.worry(used) if stance < debate.LAST else ""
    feeling = debate.words("stances")[stance]
    reply = f"{case.points[heard[0]].thanks} {feeling}"
    if case.level == 1:
      reply = LEVEL_1[stance]
    return debate.Verdict(stance, reply, tuple(heard), worry)


def can_be_won(limit: int) -> bool:
  """Returns whether this user's points suffice when a turn wins so much.

  Args:
    limit: stances that a turn can win; 0 is no limit.
  """
  return limit == 0 or limit >= MAX_GAIN


def _unmoved(
  case: debate.Case, talk: debate.Talk, reply: str
) -> debate.Verdict:
  return debate.Verdict(talk.stance, reply, (), case.worry(talk.used))


def _says(case: debate.Case, index: int, argument: str, is_asked: bool) -> bool:
  """Returns whether an argument says a point.

  The question told what an asked one is about, so that need not be said again.
  """
  point = case.points[index]
  if is_asked:
    return _contains(argument, point.groups, WINDOW)
  if case.level == 1:
    return False
  return _contains(argument, (point.about, *point.groups), WINDOW)


def _contains(
  argument: str, groups: tuple[tuple[str, ...], ...], window: int
) -> bool:
  """Returns what `rules.contains_pattern` does, most often at once."""
  stems = set(rules.tokens(argument))
  if any(stems.isdisjoint(firsts) for firsts in _firsts(groups)):
    return False
  return rules.contains_pattern(argument, groups, window)


@functools.lru_cache(4096)
def _firsts(groups: tuple[tuple[str, ...], ...]) -> tuple[frozenset[str], ...]:
  """Returns the first words of each group's phrases."""
  return tuple(frozenset(rules.tokens(p)[0] for p in g) for g in groups)


def _is_list(case: debate.Case, argument: str) -> bool:
  """Returns whether an argument names so much that it argues nothing."""
  stems = set(rules.tokens(argument))
  if case.level == 1:
    words = _level_1_words()
    kinds = [kind for kind, _ in {words[s] for s in stems if s in words}]
    return max(map(kinds.count, kinds), default=0) > 1
  num_points = sum(
    _contains(argument, point.groups, manners.MAX_WORDS)
    for point in case.points
  )
  about = {_aspects()[stem] for stem in stems if stem in _aspects()}
  return num_points > MAX_POINTS or len(about) > MAX_ABOUT


@functools.cache
def _level_1_words() -> dict[str, tuple[str, str]]:
  """Returns what the words of level 1 name; a reason names its worry."""
  found = {
    stem: ("thing", thing)
    for thing in debate.things()
    for stem in rules.tokens(thing)
  }
  for worry in debate.worries().values():
    for phrase in (*worry.phrases, *worry.reasons):
      for stem in rules.tokens(phrase):
        concept = ("worry", worry.adjective)
        assert found.setdefault(stem, concept) == concept, phrase
  return found


@functools.cache
def _aspects() -> dict[str, str]:
  """Returns the aspect that each word of the whole gym's aspects names."""
  return {
    stem: name
    for name, item in debate.words("aspects").items()
    for phrase in item["phrases"]
    for stem in rules.tokens(phrase)
  }
