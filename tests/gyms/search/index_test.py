"""The index: BM25 as in the textbook, and any text is a query."""

import collections
import math
import random

import pytest

from userrl_jax.gyms.search import index
from userrl_jax.gyms.search import world


def bm25(passages, query, k):
  """Returns the best pages by the formula, computed the slow way."""
  fields = [(index._stems(p.title), index._stems(p.text)) for p in passages]
  lengths = [len(a) + len(b) for a, b in fields]
  mean = sum(lengths) / len(lengths)
  scores = collections.Counter()
  for stem in dict.fromkeys(index._stems(query)):
    num = sum(stem in a or stem in b for a, b in fields)
    if not num or 2 * num > len(fields):
      continue
    idf = math.log((len(fields) - num + 0.5) / (num + 0.5))
    for row, (title, body) in enumerate(fields):
      tf = 2.0 * title.count(stem) + body.count(stem)
      norm = tf + 1.2 * (1 - 0.75 + 0.75 * lengths[row] / mean)
      scores[row] += max(idf, 1e-6) * tf * 2.2 / norm
  found = [row for row in range(len(fields)) if scores[row] > 0]
  found.sort(key=lambda row: (-round(scores[row], 9), row))
  return [passages[row].title for row in found[:k]]


@pytest.mark.parametrize("corpus", [world.WORLD, world.TOWNS])
def test_ranks_as_the_formula_does(corpus):
  pages = world.passages(corpus)
  rng = random.Random(0)
  for _ in range(12):
    query = " ".join(
      rng.sample(rng.choice(pages).text.split(), 4)
      + rng.choice(pages).name.split()
    )
    hits = index.of_corpus(corpus).search(query, 5)
    assert [hit.title for hit in hits] == bm25(pages, query, 5), query


@pytest.mark.parametrize(
  "query",
  [
    "",
    "the",
    "zzz qqq",
    '"',
    '"unbalanced AND (',
    "title:Harrowick* NEAR(",
    "'; DROP TABLE pages; --",
    "\x00\ud800",
    "!!! ???",
    "_" * 50,
    "a_b_c",
    "word " * 5000,
  ],
)
def test_any_text_is_a_query(query):
  before = index.of_corpus(world.WORLD).search("Harrowick", 5)
  assert before[0].title == "Harrowick"
  index.of_corpus(world.WORLD).search(query, 5)
  fresh = index.Index(world.passages(world.WORLD)).search("Harrowick", 5)
  assert fresh == before


def test_query_words_are_stemmed_and_operators_are_words():
  search = index.of_corpus(world.WORLD).search
  assert search("HARROWICK", 5) == search("harrowick!", 5)
  assert search("herons crossing", 3) == search("heron crosses", 3)
  assert search("Harrowick NOT Harrowick", 5)[0].title == "Harrowick"
  assert search("zzz", 5) == ()


def test_a_snippet_is_the_sentence_that_is_asked_for_and_a_neighbour():
  search = index.of_corpus(world.WORLD).search
  for page in world.passages(world.WORLD):
    for value in page.facts.values():
      hits = search(f"{page.name} {value}", 5)
      assert value in {hit.title: hit.snippet for hit in hits}[page.title]
      for hit in hits:
        assert 0 < len(hit.snippet) <= index.MAX_SNIPPET_CHARS
        home = next(
          p for p in world.passages(world.WORLD) if p.title == hit.title
        )
        assert hit.snippet in home.text
  lines = index.of_corpus(world.TOWNS).search("smith of Amber Hill", 3)
  assert lines[0].title == "Amber Hill"
  assert lines[0].snippet.startswith("The smith is ")
  assert lines[0].snippet.count(".") == 1


def test_the_index_is_built_once():
  assert index.of_corpus(world.WORLD) is index.of_corpus(world.WORLD)
