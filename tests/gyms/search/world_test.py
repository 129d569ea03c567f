"""The worlds: what is written down follows from the facts, and stays apart."""

import collections
import json
import re

from userrl_jax.gyms.search import compose
from userrl_jax.gyms.search import index
from userrl_jax.gyms.search import questions
from userrl_jax.gyms.search import world


def test_the_corpus_is_what_compose_writes():
  lines = world.CORPUS_PATH.read_text().splitlines()
  assert [json.loads(line) for line in lines] == compose.records()


def test_passages_tell_their_facts_in_40_to_70_words():
  pages = world.passages(world.WORLD)
  assert len(pages) == 152 and len({p.id for p in pages}) == 152
  for page in pages:
    assert 40 <= len(page.text.split()) <= 70, page.id
    assert page.name in page.text or page.title in page.text
    assert all(value in page.text for value in page.facts.values()), page.id
    assert not re.search(r"[{}]|  ", page.text)


def test_regions_share_no_name_and_no_fact_leads_out():
  owners = collections.defaultdict(set)
  for page in world.passages(world.WORLD):
    for value in (page.name, *page.facts.values()):
      if value in world.by_name(world.WORLD):
        owners[value].add(page.region)
        assert world.by_name(world.WORLD)[value].region == page.region
  assert all(len(regions) == 1 for regions in owners.values())
  names = collections.defaultdict(set)  # not even parts of names
  for page in world.passages(world.WORLD):
    if page.kind not in ("river", "mountain", "lake", "bridge"):
      names[page.name.split()[-1]].add(page.region)
  shared = {name for name, regions in names.items() if len(regions) > 1}
  assert not shared
  splits = collections.Counter(world.region_splits().values())
  assert splits == {"train": 5, "test": 2, "dev": 1}


def test_a_fifth_of_the_people_share_a_surname_with_somebody():
  pages = world.passages(world.WORLD)
  namesakes = [p for p in pages if p.kind == "namesake"]
  others = {p.name.split()[-1] for p in pages if p.kind != "namesake"}
  assert len(namesakes) == 24
  assert all(p.name.split()[-1] in others for p in namesakes)
  asked = {name for q in questions.sound() for name in q.chain}
  assert not asked & {p.name for p in namesakes}


def test_towns_have_twelve_people_of_twelve_professions():
  words = world.lexicon()["towns"]
  pages = world.passages(world.TOWNS)
  assert len(pages) == len({p.name for p in pages}) == 609
  for page in pages:
    assert set(page.facts) == set(words["roles"])
    assert len(set(page.facts.values())) == 12
  counts = collections.Counter(v for p in pages for v in p.facts.values())
  assert len(counts) == 32  # nobody is likelier by far
  assert max(counts.values()) < 1.5 * min(counts.values())


def test_sound_questions_are_many_at_every_level_and_split():
  found = questions.sound()
  assert len({q.text for q in found}) == len(found) > 900
  counts = collections.Counter(
    (q.level, world.region_splits()[q.region]) for q in found
  )
  assert min(counts.values()) >= 40 and len(counts) == 9


def test_questions_are_sound():
  """What the module promises, checked in other words on every question."""
  search = index.of_corpus(world.WORLD).search
  pages = world.by_name(world.WORLD)
  for q in questions.sound():
    assert q.answer not in q.text
    read = "\n".join(
      f"{hit.title} {hit.snippet}" for x in q.queries for hit in search(x, 5)
    )
    if q.shape.startswith("gap"):
      town, other = (pages[name] for name in q.chain)
      year = int(other.facts[q.shape.rpartition(".")[2]])
      assert int(q.answer) == year - int(town.facts["founded"]) > 0
      assert str(year) in read and town.facts["founded"] in read
    else:
      assert q.answer in read
      assert q.answer in pages[q.chain[-1]].facts.values()
    if q.shape.startswith("older"):
      newer, older = (int(pages[name].facts["founded"]) for name in q.chain)
      assert older < newer
      assert q.answer not in pages[q.chain[0]].facts.values()
    elif not q.shape.startswith("gap"):
      assert len(q.chain) == len(q.queries) == q.level
      for name, after in zip(q.chain, q.chain[1:]):
        assert after in pages[name].facts.values()
      titles = {hit.title for hit in search(q.text, 5)}
      assert (pages[q.chain[-1]].title in titles) == (q.level == 1)
