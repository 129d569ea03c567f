"""Finds passages of a corpus: BM25 over stems, in SQLite's full-text search.

In: passages, then queries. Out: the best hits, best first, each with a title
and a snippet. The index is built once a process, in memory. Any text is a
query: its words are looked up, whatever else it holds.
"""

from collections.abc import Sequence
import dataclasses
import functools
import re
import sqlite3

from userrl_jax.gyms import rules
from userrl_jax.gyms.search import world

TITLE_WEIGHT = 2.0  # of a word in the title; 1 in the text. k1 1.2, b 0.75
MAX_SNIPPET_CHARS = 160
MAX_QUERY_WORDS = 24  # different ones; the rest of a query is passed over

_CACHE_SIZE = 8192  # queries remembered
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_NO_WORD = re.compile(r"[^\w]+")


@dataclasses.dataclass(frozen=True)
class Hit:
  """One result of a search, as the agent may read it."""

  title: str
  snippet: str


class Index:
  """The pages of one corpus, ready to be searched; the same for all games."""

  def __init__(self, passages: Sequence[world.Passage], num_sentences: int = 2):
    """Builds the index.

    Args:
      passages: what can be found.
      num_sentences: of a snippet, at most.

    Raises:
      RuntimeError: when Python's SQLite has no full-text search.
    """
    self._num_sentences = num_sentences
    self._pages = tuple(
      (p.title, frozenset(_stems(p.title)), _split(p.text)) for p in passages
    )
    # Games of several threads share it; SQLite takes turns by itself.
    self._base = sqlite3.connect(":memory:", check_same_thread=False)
    try:
      self._base.execute("CREATE VIRTUAL TABLE pages USING fts5(title, body)")
    except sqlite3.OperationalError as error:
      raise RuntimeError(
        "the Search gym needs SQLite with FTS5, and this Python's has none "
        f"({error}); use a Python that was built with it"
      ) from error
    stems = [(_stems(p.title), _stems(p.text)) for p in passages]
    self._base.executemany(
      "INSERT INTO pages(rowid, title, body) VALUES (?, ?, ?)",
      [(i, " ".join(a), " ".join(b)) for i, (a, b) in enumerate(stems)],
    )
    counts: dict[str, int] = {}
    for title, body in stems:
      for stem in {*title, *body}:
        counts[stem] = counts.get(stem, 0) + 1
    # BM25 gives a word of every second page no weight; looking it up costs.
    self._rare = {s for s, n in counts.items() if 2 * n <= len(passages)}
    self.search = functools.lru_cache(_CACHE_SIZE)(self._search)

  def _search(self, query: str, k: int) -> tuple[Hit, ...]:
    """Returns the best k pages at most, ties in the order of the corpus."""
    stems = tuple(dict.fromkeys(_stems(query)))[:MAX_QUERY_WORDS]
    rare = [stem for stem in stems if stem in self._rare]
    if not rare:
      return ()
    rows = self._base.execute(
      "SELECT rowid FROM pages WHERE pages MATCH ? "
      "ORDER BY bm25(pages, ?, 1.0), rowid LIMIT ?",
      (" OR ".join(f'"{stem}"' for stem in rare), TITLE_WEIGHT, k),
    ).fetchall()
    return tuple(self._hit(row, frozenset(stems)) for (row,) in rows)

  def _hit(self, row: int, stems: frozenset[str]) -> Hit:
    """Returns a page with the sentence that holds most words, and the next.

    A word of the title counts nowhere: the whole page is about it.
    """
    title, of_title, sentences = self._pages[row]
    wanted = stems - of_title
    scores = [len(wanted & found) for _, found in sentences]
    best = scores.index(max(scores))
    chosen = range(best, best + 1)
    for start in (best, best - 1):  # the one after it, or else the one before
      if not 0 <= start <= len(sentences) - 2 or self._num_sentences < 2:
        continue
      both = " ".join(text for text, _ in sentences[start : start + 2])
      if len(both) <= MAX_SNIPPET_CHARS:
        chosen = range(start, start + 2)
        break
    return Hit(title, " ".join(sentences[i][0] for i in chosen))


@functools.cache
def of_corpus(corpus: str) -> Index:
  """Returns the index of a corpus of `world`, built at the first call."""
  is_towns = corpus == world.TOWNS  # whose lines are short and all alike
  return Index(world.passages(corpus), 1 if is_towns else 2)


def _split(text: str) -> tuple[tuple[str, frozenset[str]], ...]:
  """Returns the sentences of a text, each with its stems."""
  return tuple(
    (sentence, frozenset(_stems(sentence)))
    for sentence in _SENTENCE_END.split(text)
  )


def _stems(text: str) -> tuple[str, ...]:
  """Returns the stems of a text; each is one word to SQLite, too."""
  return rules.tokens(_NO_WORD.sub(" ", text.replace("_", " ")))
