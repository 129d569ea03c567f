"""Reads the agent's words by rules: the matcher that scripted users share.

A text comes in; stems, hits of a lexicon's concepts and yes-or-no verdicts
about the text go out. Pure functions of their arguments: the same in every
process, and cached, since gyms see the same short texts again and again.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import re
import unicodedata

REACH = 3  # tokens before a hit in which a word of negation counts

_CACHE_SIZE = 8192  # texts remembered by each function
_APOSTROPHES = re.compile("['`\u00b4\u2018\u2019\u02bc\u2032]")
_TOKEN = re.compile(r"[#@]?\w+(?:[#@.\-]\w+)*")
_NEGATED_OPENING = re.compile(
  r"^\s*(is|are|do|does|did|was|were|has|have|ca|could|would|wo)n['\u2019]?t\b",
  re.IGNORECASE,
)
_MIN_STEM = 3
_NOT_UNDOUBLED = "aeioulszf"  # see, roll, miss, buzz and stuff end so

# fmt: off
_AUXILIARIES = (
  "is", "are", "am", "was", "were", "be", "do", "does", "did", "has", "have",
  "had", "can", "could", "will", "would", "shall", "should", "may", "might",
  "must",
)
_WH_WORDS = (
  "what", "which", "who", "whom", "whose", "when", "where", "why", "how",
)
_NEGATIONS = (
  "not", "no", "never", "none", "neither", "nor", "without", "cannot", "cant",
  "wont",
)
# fmt: on

_Spans = tuple[tuple[int, ...], ...]  # positions of the tokens of each match


@dataclasses.dataclass(frozen=True)
class Hit:
  """One mention of a concept."""

  concept: str
  start: int  # positions of tokens, stop exclusive
  stop: int
  negated: bool


class Lexicon:
  """Finds concepts in texts by their phrases."""

  def __init__(self, phrases: Mapping[str, Sequence[str]]):
    """Compiles the phrases of each concept.

    Raises:
      ValueError: when a phrase has no word, or stands for two concepts.
    """
    owners: dict[tuple[str, ...], str] = {}
    for concept, texts in phrases.items():
      for text in texts:
        stems = tokens(text)
        if not stems:
          raise ValueError(
            f"a phrase must have a word, got {text!r} of concept {concept!r}"
          )
        if owners.setdefault(stems, concept) != concept:
          raise ValueError(
            f"a phrase must stand for one concept, got {text!r} ({stems}) of "
            f"{owners[stems]!r} and of {concept!r}; drop it from one"
          )
    self._by_first: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for stems, concept in owners.items():
      self._by_first.setdefault(stems[0], []).append((stems, concept))
    self.hits = functools.lru_cache(_CACHE_SIZE)(self._hits)
    self.concepts = functools.lru_cache(_CACHE_SIZE)(self._concepts)

  def _hits(self, text: str) -> tuple[Hit, ...]:
    """Returns the mentions in a text, in order of appearance.

    A phrase may hold one foreign token inside. Longer phrases come first and
    use up their tokens: `live in water` is no mention of `live`. A mention is
    negated by an odd number of words of negation, among its own gap and the
    REACH tokens before it, that no phrase used up.
    """
    stems = tokens(text)
    found = []
    for start, stem in enumerate(stems):
      for phrase, concept in self._by_first.get(stem, ()):
        for positions in _matches(stems, start, phrase):
          num_gaps = positions[-1] - start + 1 - len(positions)
          found.append((-len(positions), num_gaps, positions, concept))
    found.sort()
    used: set[int] = set()
    chosen = []
    for _, _, positions, concept in found:
      if used.isdisjoint(positions):
        used.update(positions)
        chosen.append((positions, concept))
    cues = {p: cue for p, cue in _cues(stems).items() if p not in used}
    hits = (
      Hit(concept, p[0], p[-1] + 1, len(_near(cues, p)) % 2 == 1)
      for p, concept in chosen
    )
    return tuple(sorted(hits, key=lambda hit: hit.start))

  def _concepts(self, text: str) -> tuple[str, ...]:
    """Returns the distinct concepts of a text in order of appearance."""
    return tuple(dict.fromkeys(hit.concept for hit in self.hits(text)))


@functools.lru_cache(_CACHE_SIZE)
def tokens(text: str) -> tuple[str, ...]:
  """Returns the stems of a text's words; `#w1`, `a@b.c` and `x-y` are one."""
  text = unicodedata.normalize("NFKC", text).lower()
  return tuple(map(_stem, _TOKEN.findall(_APOSTROPHES.sub(" ", text))))


@functools.lru_cache(_CACHE_SIZE)
def without_polite_not(text: str) -> str:
  """Returns `Is it alive?` for `Isn't it alive?`: both expect one answer."""
  return _NEGATED_OPENING.sub(r"\1", text)


@functools.lru_cache(_CACHE_SIZE)
def is_question(text: str) -> bool:
  """Returns whether a text has a question mark or opens like a question."""
  if "?" in unicodedata.normalize("NFKC", text):
    return True
  return bool(set(tokens(text)[:1]) & _OPENERS)


def contains_pattern(
  text: str, groups: Sequence[Sequence[str]], window: int
) -> bool:
  """Returns whether a text says something, in whatever words.

  Args:
    text: what may say it.
    groups: of each group, one phrase must be there.
    window: how many tokens the phrases may span together.

  Returns:
    Whether some window holds all groups and, over the words of negation before
    any of its mentions together, no odd number. Two groups that share one `not`
    are thus negated once.
  """
  return True in polarities(text, groups, window)


def polarities(
  text: str, groups: Sequence[Sequence[str]], window: int
) -> frozenset[bool]:
  """Returns how a text holds a pattern: as said (True), as denied (False).

  Arguments as for `contains_pattern`; windows may differ, so it can be both.
  """
  return _polarities(text, tuple(map(tuple, groups)), window)


@functools.lru_cache(_CACHE_SIZE)
def _polarities(
  text: str, groups: tuple[tuple[str, ...], ...], window: int
) -> frozenset[bool]:
  stems = tokens(text)
  spans = [_spans(stems, group) for group in groups]
  if not spans or not all(spans):
    return frozenset()
  cues = _cues(stems)
  found: set[bool] = set()
  for start in sorted({positions[0] for group in spans for positions in group}):
    inside = [
      [p for p in group if start <= p[0] and p[-1] < start + window]
      for group in spans
    ]
    if all(inside):
      chosen = [group[0] for group in inside]
      used = set().union(*chosen)
      free = {p: cue for p, cue in cues.items() if p not in used}
      near = set().union(*(_near(free, positions) for positions in chosen))
      found.add(len(near) % 2 == 0)
  return frozenset(found)


def _spans(stems: tuple[str, ...], phrases: tuple[str, ...]) -> _Spans:
  """Returns all matches of any of the phrases, in order of appearance."""
  compiled = [tokens(phrase) for phrase in phrases]
  return tuple(
    positions
    for start in range(len(stems))
    for phrase in compiled
    for positions in _matches(stems, start, phrase)
  )


def _matches(
  stems: tuple[str, ...], start: int, phrase: tuple[str, ...]
) -> Iterator[tuple[int, ...]]:
  """Yields the positions of a phrase from a start, with one gap or none."""
  size = len(phrase)
  if stems[start : start + size] == phrase:
    yield tuple(range(start, start + size))
  for cut in range(1, size):
    if (
      stems[start : start + cut] == phrase[:cut]
      and stems[start + cut + 1 : start + size + 1] == phrase[cut:]
    ):
      yield (
        *range(start, start + cut),
        *range(start + cut + 1, start + size + 1),
      )


def _cues(stems: tuple[str, ...]) -> dict[int, int]:
  """Returns the positions of words of negation, and which negation each is.

  Of `don't` that is its t. A `nor` goes on with the negation before it, so what
  is in reach of both is negated once.
  """
  cues: dict[int, int] = {}
  negation = -1
  for position, stem in enumerate(stems):
    if stem in _CUES or (
      stem == "t" and position > 0 and stems[position - 1].endswith("n")
    ):
      if stem != "nor" or negation < 0:
        negation = position
      cues[position] = negation
  return cues


def _near(cues: Mapping[int, int], positions: tuple[int, ...]) -> set[int]:
  """Returns the negations in reach of a match."""
  first = positions[0] - REACH
  return {
    cue
    for position, cue in cues.items()
    if first <= position < positions[-1] and position not in positions
  }


def _stem(token: str) -> str:
  """Returns the stem of a token; that of `note` is no word of negation."""
  stem = _shortened(token)
  return "note" if stem == "not" and token != "not" else stem


def _shortened(token: str) -> str:
  """Returns a token without its ending; at least three letters stay."""
  if len(token) <= _MIN_STEM:
    return token
  for ending, new in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", "")):
    stem = token.removesuffix(ending) + new
    if token.endswith(ending) and len(stem) >= _MIN_STEM:
      if ending in ("ing", "ed"):
        if token.endswith("eed"):
          continue
        stem = _undoubled(stem)
      return _without_e(stem)
  if token.endswith("s") and not token.endswith("ss"):
    token = token[:-1]
  return _without_e(token)


def _undoubled(stem: str) -> str:
  """Returns `swim` for the `swimm` of swimming."""
  if len(stem) > _MIN_STEM and stem[-1] == stem[-2] not in _NOT_UNDOUBLED:
    return stem[:-1]
  return stem


def _without_e(stem: str) -> str:
  if len(stem) <= _MIN_STEM or not stem.endswith("e"):
    return stem
  return f"{stem[:-2]}y" if stem.endswith("ie") else stem[:-1]


_OPENERS = frozenset(
  _stem(word)
  for base in _AUXILIARIES
  for word in (base, f"{base}n", f"{base}nt")
) | frozenset(_stem(word) for word in (*_WH_WORDS, "can", "won", "cant"))
_CUES = frozenset(
  _stem(word) for word in (*_NEGATIONS, *(f"{a}nt" for a in _AUXILIARIES))
)
