"""The stories that come with the gym: what they hold, how errors are told."""

import collections
import json

import pytest

from userrl_jax.gyms import rules
from userrl_jax.gyms import sources
from userrl_jax.gyms.turtle import pack
from userrl_jax.gyms.turtle import story
from userrl_jax.gyms.turtle import vetoes
from userrl_jax.gyms.turtle import world

TASKS = pack.read()


def test_the_pack_has_its_shape():
  assert len(TASKS) == len({task.id for task in TASKS}) == 27
  counts = collections.Counter((task.split, task.level) for task in TASKS)
  sizes = {"train": 6, "dev": 1, "test": 2}
  assert counts == {
    (split, level): size for split, size in sizes.items() for level in (1, 2, 3)
  }
  families = collections.Counter(task.structure for task in TASKS)
  assert set(families.values()) == {3} and len(families) == 9
  for task in TASKS:
    tale = story.of_task(task)
    assert 2 <= len(tale.criteria) <= 4 and len(tale.facts) >= 8
    assert len(tale.decoys) >= 5 and len(task.public["surface"]) <= 200
    assert len(tale.questions) <= 5  # winnable in 6 turns


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_no_criterion_is_told_by_the_scene(task):
  """Not even where the vetoes on whole answers are left out."""
  tale = story.of_task(task)
  scene = vetoes.with_negations(f"{tale.title}. {tale.surface}")
  for criterion in tale.criteria:
    for pattern in filter(None, (criterion.full, criterion.half)):
      assert not pattern.found(scene, len(scene)), criterion


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_full_patterns_need_words_that_the_scene_lacks(task):
  tale = story.of_task(task)
  known = set(rules.tokens(f"{tale.title} {tale.surface}"))
  for criterion in tale.criteria:
    assert any(
      not any(set(rules.tokens(p)) <= known for p in group)
      for group in criterion.full.groups
    ), criterion


def test_lexicon_finds_all_that_it_names():
  lexicon = world.lexicon()  # raises where a phrase is of two concepts
  named = (*world.decoys(), *world.twists())
  named += tuple(o for s in ("who", "why", "where") for o in world.options(s))
  for concept in named:
    assert concept in world.words()
    for phrase in world.words()[concept]:
      assert lexicon.concepts(phrase) == (concept,), phrase


@pytest.mark.parametrize(
  "change, part",
  [
    ({"split": "eval"}, "'split'"),
    ({"split": "test"}, "'split' must be 'train'"),
    ({"level": 4}, "'level'"),
    ({"title": " "}, "'title' must be text"),
    ({"bottom": None}, "'bottom' must be text"),
    ({"facts": []}, "'facts' must be a list"),
    ({"facts": [{"true": []}]}, "'false' is missing"),
    ({"facts": [{"true": ["a |"], "false": []}]}, "pattern must be words"),
    ({"criteria": [{"weight20": 20, "full": "x"}]}, "'statement' is missing"),
    (
      {"criteria": [{"weight20": 19, "statement": "x", "full": "x"}]},
      "up to 20, got [19]",
    ),
    (
      {"criteria": [{"weight20": 20.0, "statement": "x", "full": "x"}]},
      "whole twentieths",
    ),
    ({"id": "pack-L1-train-roll"}, "that of line 1"),
    (None, "JSON"),
  ],
)
def test_a_broken_line_is_named(tmp_path, change, part):
  lines = pack.PATH.read_text(encoding="utf-8").splitlines()[:3]
  record = json.loads(lines[2])
  lines[2] = "{oops" if change is None else json.dumps({**record, **change})
  path = tmp_path / "tasks.jsonl"
  path.write_text("\n".join(lines), encoding="utf-8")
  with pytest.raises(ValueError) as caught:
    pack.read(path)
  assert f"{path}, line 3" in str(caught.value) and part in str(caught.value)


def test_splits_are_known():
  assert {task.split for task in TASKS} < set(sources.SPLITS)
