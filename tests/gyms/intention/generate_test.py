"""Tasks of Intention from a seed and by hand: what they hold, their splits."""

import collections
import json
import re

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import base
from userrl_jax.gyms.intention import generate
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import released
from userrl_jax.gyms.intention import scenario

HOMES = ("train", "dev", "test")


def game(task):
  """Returns what is played, whatever the order, nouns and values."""
  words = frozenset(task.public["request"].split("."))
  told = frozenset(task.public["told"])
  return task.structure, told, words if task.level > 1 else None


def test_level_1_is_a_form_with_three_blanks():
  places = collections.Counter()
  for split in generate.SPLITS:
    for task in generate.tasks(1, (1,), split, 300):
      head, _, form = task.public["request"].partition(": ")
      assert head.removeprefix("Plan a ") in lexicon.LEVEL_1_NOUNS
      parts = re.findall(r"(\w+)(?:(\?)| (\w+))(?: |$)", form)
      parts = [(slot, mark or value) for slot, mark, value in parts]
      assert len({slot for slot, _ in parts}) == len(parts) == 7
      blanks = [slot for slot, value in parts if value == "?"]
      details = scenario.details(task)
      assert [d.slot for d in details] == blanks and len(blanks) == 3
      assert [s for s, _ in parts if s not in blanks] == [*task.public["told"]]
      for slot, value in parts:
        assert value == "?" or value in lexicon.SLOTS[slot].words
      for detail in details:
        assert detail.value in lexicon.SLOTS[detail.slot].words
        assert detail.reply == f"{detail.value}."
      places.update(i for i, (_, value) in enumerate(parts) if value == "?")
  assert min(places.values()) > 400  # of 514: the place tells nothing


@pytest.mark.parametrize("level, sizes", [(2, {3}), (3, {4, 5})])
def test_what_is_not_told_is_open(level, sizes):
  found = set()
  for split in generate.SPLITS:
    for task in generate.tasks(1, (level,), split, 200):
      category = lexicon.CATEGORIES[task.public["category"]]
      details = scenario.details(task)
      open_ = {d.slot: d.importance for d in details}
      assert {*open_, *task.public["told"]} == {*category.slots}
      assert not {*open_} & {*task.public["told"]}
      assert open_.items() <= category.slots.items()
      for detail in details:
        assert detail.value in category.values(detail.slot)
        assert detail.value not in task.public["request"]
        assert detail.value.lower() in detail.reply.lower()
      found.add(len(details))
  assert found == sizes


def test_structures_are_of_one_split():
  sizes = {}
  for level in generate.LEVELS:
    splits = {}
    for split in HOMES:
      for task in generate.tasks(0, (level,), split, 1500):
        assert splits.setdefault(task.structure, split) == split
        assert generate.split_of(task.structure) == split == task.split
        open_ = [d.slot for d in scenario.details(task)]
        kind = "form" if level == 1 else task.public["category"]
        assert task.structure == f"{kind}:{'+'.join(sorted(open_))}"
    sizes[level] = collections.Counter(splits.values())
  # Of 220 sets of three out of twelve; and of eight categories' subsets.
  assert sizes[1] == {"train": 155, "dev": 21, "test": 44}
  assert all(sizes[level]["test"] >= 20 for level in (2, 3))


def test_tests_ask_for_things_that_training_never_does():
  requests = collections.defaultdict(set)
  for split in generate.SPLITS:
    for task in generate.tasks(0, (2, 3), split, 600):
      first = re.split(r"[.?] ", task.public["request"])[0]
      requests[split].add((task.public["category"], first))
  assert requests["fresh"] <= requests["train"]
  assert len(requests["train"]) == 24 and len(requests["test"]) == 8
  for split, other in (("test", "train"), ("dev", "train"), ("test", "dev")):
    assert not requests[split] & requests[other]


def test_fresh_games_are_new_whatever_the_seed():
  train, fresh = (
    {
      game(task)
      for seed in range(3)
      for task in generate.tasks(seed, (1, 2, 3), split, 600)
    }
    for split in ("train", "fresh")
  )
  assert len(train) > 1000 and len(fresh) > 700 and not train & fresh
  known = {structure for structure, *_ in train}
  assert sum(structure in known for structure, *_ in fresh) > len(fresh) * 0.9


def test_level_1_words_tell_themselves_apart():
  """A value is found as a string: in no other value, word or prompt."""
  words = [w for slot in lexicon.SLOTS.values() for w in slot.words]
  gym = gyms.make("intention", config.Gyms())
  texts = [gym.system_prompt(profile) for profile in base.PROFILES]
  texts += [*lexicon.SLOTS, *(f"Plan a {n}:" for n in lexicon.LEVEL_1_NOUNS)]
  for word in words:
    assert sum(word in other for other in words) == 1
    assert not any(word in text for text in texts), word


def test_generation_is_a_function_of_its_arguments():
  generate.tasks.cache_clear()
  first = generate.tasks(5, (1, 2), "train", 40)
  generate.tasks.cache_clear()
  assert generate.tasks(5, (1, 2), "train", 40) == first
  assert generate.tasks(5, (1, 2), "train", 10) == first[:10]
  assert generate.tasks(6, (1, 2), "train", 40) != first
  assert [t.level for t in first[:4]] == [1, 2, 1, 2]
  marks = {(json.dumps(dict(t.public)), str(t.secret.reveal())) for t in first}
  assert len(marks) == 40


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((0, (1,), "all", 5), "split"),
    ((0, (), "train", 5), "levels"),
    ((0, (1, 4), "train", 5), "levels"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate.tasks(*arguments)


def test_there_are_as_many_tasks_as_a_run_may_ask_for():
  for split, count in (("train", 5_000), ("fresh", 1_000), ("test", 2_000)):
    assert len(generate.tasks(0, (1,), split, count)) == count


def test_level_1_of_the_pack_is_what_the_generator_makes():
  lines = released.PACK_PATH.read_text(encoding="utf-8").splitlines()
  records = [json.loads(line) for line in lines]
  assert [r for r in records if r["level"] == 1] == generate.pack()


def test_pack_has_42_tasks_each_of_its_own_structure():
  tasks = released.read_pack()
  assert len(tasks) == len({t.structure for t in tasks}) == 42
  assert len({t.public["request"] for t in tasks}) == 42
  counts = collections.Counter((t.level, t.split) for t in tasks)
  assert counts == {
    (level, split): count
    for level in generate.LEVELS
    for split, count in generate.PACK_COUNTS.items()
  }
  for task in tasks:
    for detail in scenario.details(task):
      assert detail.value.lower() in detail.reply.lower()


def test_load_tasks_counts_and_levels():
  settings = config.Gyms(num_train_tasks=12, num_test_tasks=7, levels=(2, 3))
  for split, count in (("train", 12), ("fresh", 7), ("dev", 7), ("test", 7)):
    tasks = gyms.load_tasks("intention", settings, split, 1)
    assert len(tasks) == count and {t.level for t in tasks} == {2, 3}
