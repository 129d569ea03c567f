"""Questions about the Search gym's world, with the searches that answer them.

In: the facts of the corpus. Out: questions of one fact (level 1), of two facts
in a row (level 2), and of three in a row, a comparison or a difference of years
(level 3). Only sound ones: the text does not hold its answer, the searches show
every fact that is needed, a page asked for directly is found by the question
itself, and one further on is not.
"""

from collections.abc import Iterator
import dataclasses
import functools
import itertools

from userrl_jax.gyms.search import index
from userrl_jax.gyms.search import world

NUM_RESULTS = 5  # pages among which a search must show what it is for
MAX_HOPS = 3

# Shapes begin with these words where years are compared.
_OLDER, _GAP = "older", "gap"
_YEARS = ("founded", "opened", "printed", "invented")


@dataclasses.dataclass(frozen=True)
class Question:
  """A question and how to find its answer."""

  text: str
  level: int
  region: str
  shape: str  # the relations that it follows; questions of one shape are alike
  answer: str
  queries: tuple[str, ...]  # searches, one for each fact that is needed
  chain: tuple[str, ...]  # names of the pages that these facts stand on


@dataclasses.dataclass(frozen=True)
class _Path:
  """A question under way: what it has reached, and how it says so."""

  noun: str
  level: int
  shape: str
  queries: tuple[str, ...]
  chain: tuple[str, ...]  # the last is what is reached


@functools.cache
def sound() -> tuple[Question, ...]:
  """Returns all questions that hold what the module promises, in order."""
  starts = [p for p in world.passages(world.WORLD) if p.kind != "namesake"]
  single = [_Path(p.mention, 1, "", (), (p.name,)) for p in starts]
  compared = [
    question
    for path in _older()
    for question in _asked(path)
    if not _is_shared(path.chain, question.answer)
  ]
  found = [
    *itertools.chain.from_iterable(map(_asked, single)),
    *compared,
    *_gaps(),
  ]
  return tuple(question for question in found if _is_sound(question))


def town_question(role: str, town: str) -> str:
  """Returns a question of level 1 as it is generated."""
  return f"Who is the {town_query(role, town)}?"


def town_query(role: str, town: str) -> str:
  """Returns the search that answers it, a part of the question."""
  return f"{role} of {town}"


def _asked(path: _Path) -> Iterator[Question]:
  """Yields what can be asked of a path's end, and of what it leads on to."""
  words = world.lexicon()["relations"]
  page = world.by_name(world.WORLD)[path.chain[-1]]
  for relation, value in page.facts.items():
    forms = words[relation]
    shape = f"{path.shape} {page.kind}.{relation}".strip()
    queries = (*path.queries, forms["query"].format(x=page.name))
    yield Question(
      forms["ask"].format(x=path.noun),
      path.level,
      page.region,
      shape,
      value,
      queries,
      path.chain,
    )
    if value in world.by_name(world.WORLD) and path.level < MAX_HOPS:
      noun = forms["noun"].format(x=path.noun)
      yield from _asked(
        _Path(noun, path.level + 1, shape, queries, (*path.chain, value))
      )


def _older() -> Iterator[_Path]:
  """Yields the older one of each two towns of a region."""
  words = world.lexicon()
  for one, other in _towns_of_regions():
    older, newer = sorted((one, other), key=_founded)
    queries = tuple(
      words["relations"][_YEARS[0]]["query"].format(x=town.name)
      for town in (newer, older)
    )
    noun = words["older"]["noun"].format(a=one.name, b=other.name)
    chain = (newer.name, older.name)
    yield _Path(noun, MAX_HOPS, _OLDER, queries, chain)


def _is_shared(names: tuple[str, ...], value: str) -> bool:
  """Returns whether all pages have a value, so that nothing is compared."""
  pages = [world.by_name(world.WORLD)[name] for name in names]
  return all(value in page.facts.values() for page in pages)


def _gaps() -> Iterator[Question]:
  """Yields questions for the years between two events."""
  words = world.lexicon()
  for towns in _towns_of_regions():
    region = towns[0].region
    for town, page in itertools.product(towns, world.passages(world.WORLD)):
      for relation in page.facts.keys() & words["gaps"].keys():
        if page.region == region:
          yield Question(
            words["gaps"][relation].format(a=town.name, b=page.mention),
            MAX_HOPS,
            region,
            f"{_GAP} {page.kind}.{relation}",
            str(int(page.facts[relation]) - _founded(town)),
            (
              words["relations"][_YEARS[0]]["query"].format(x=town.name),
              words["relations"][relation]["query"].format(x=page.name),
            ),
            (town.name, page.name),
          )


def _towns_of_regions() -> Iterator[tuple[world.Passage, world.Passage]]:
  for region in world.region_splits():
    one, other = (
      page
      for page in world.passages(world.WORLD)
      if page.region == region and page.kind == "town"
    )
    yield one, other


def _founded(town: world.Passage) -> int:
  return int(town.facts[_YEARS[0]])


def _is_sound(question: Question) -> bool:
  """Returns whether a question holds what the module promises."""
  names = (question.answer, *world.aliases(question.answer))
  if any(name.lower() in question.text.lower() for name in names):
    return False
  pages = world.by_name(world.WORLD)
  search = index.of_corpus(world.WORLD).search
  shown = [
    {hit.title: hit.snippet for hit in search(query, NUM_RESULTS)}
    for query in question.queries
  ]
  is_about_years = question.shape.startswith((_OLDER, _GAP))
  if is_about_years:
    values = [_year(pages[name]) for name in question.chain]
  else:
    values = [*question.chain[1:], question.answer]
  for hits, name, value in zip(shown, question.chain, values):
    if value not in hits.get(pages[name].title, ""):
      return False
  if question.shape.startswith(_OLDER):
    last = pages[question.chain[-1]].title
    return question.answer in shown[-1].get(last, "")
  titles = [hit.title for hit in search(question.text, NUM_RESULTS)]
  is_found = pages[question.chain[-1]].title in titles
  return is_about_years or is_found == (question.level == 1)


def _year(page: world.Passage) -> str:
  """Returns the year of a page that is compared."""
  years = (page.facts.get(relation) for relation in _YEARS)
  return next(year for year in years if year)
