"""Tasks of Telepathy from a seed: what they hold, and how they are split."""

import collections
import json

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms.telepathy import generate
from userrl_jax.gyms.telepathy import released
from userrl_jax.gyms.telepathy import world


def mark(task):
  public = json.dumps(dict(task.public))
  return (task.level, public, task.secret.reveal()["name"])


def game(task):
  """Returns what is played, in whatever order things are told."""
  public = task.public
  told = frozenset(public.get("candidates", ()) or public["hints"])
  return task.level, public.get("category"), told, task.secret.reveal()["name"]


def test_level_1_lists_the_first_things_of_six_categories():
  targets = collections.Counter()
  for split in generate.SPLITS:
    for task in generate.tasks(1, (1,), split, 300):
      found = [world.entities()[c] for c in task.public["candidates"]]
      assert len({e.category for e in found}) == len(found) == 6
      assert all(e == world.members(e.category)[0] for e in found)
      name = task.secret.reveal()["name"]
      targets[task.public["candidates"].index(name)] += 1
  assert min(targets.values()) > 130  # the place of the target tells nothing


def test_level_1_splits_leave_all_categories_out_alike():
  splits = collections.Counter(generate.LEFT_OUT.values())
  assert splits == {"test": 7, "dev": 3}  # and 18 of train
  sizes = {}
  for split in generate.SPLITS:
    tasks = generate.tasks(2, (1,), split, 900)
    sizes[split] = len({task.structure for task in tasks})
    assert {task.split for task in tasks} == {split}
  assert sizes == {"train": 18, "fresh": 18, "dev": 3, "test": 7}
  test = collections.Counter(
    category
    for pair, split in generate.LEFT_OUT.items()
    for category in pair
    if split == "test"
  )
  assert set(test) == set(world.openings()) and max(test.values()) <= 3


def test_things_are_split_category_by_category():
  homes = {name: generate.split_of(2, name) for name in world.entities()}
  for category in world.openings():
    members = world.members(category)
    splits = [homes[entity.name] for entity in members]
    assert sorted(splits) == ["dev", "test"] + ["train"] * 4
    assert all(homes[e.name] == "train" for e in members if e.is_core)
  for level in (2, 3):
    for split in ("train", "fresh", "dev", "test"):
      home = "train" if split == "fresh" else split
      for task in generate.tasks(3, (level,), split, 150):
        assert homes[task.secret.reveal()["name"]] == home


def test_structures_are_of_one_split_and_tell_no_name():
  splits = {}
  for split in ("train", "dev", "test"):
    for task in generate.tasks(0, (1, 2, 3), split, 300):
      key = task.level > 1, task.structure
      assert splits.setdefault(key, split) == split
      assert task.secret.reveal()["name"] not in task.structure or (
        task.level == 1
      )
  keys = {generate.structure(2, name, ()) for name in world.entities()}
  assert len(keys) == 48


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
  counts = collections.Counter(level for level, *_ in train | fresh)
  assert 100 < counts[1] <= 18 * generate.NUM_CANDIDATES
  names = collections.Counter(name for level, *_, name in fresh if level == 1)
  assert sum(names.values()) == 18 and set(names.values()) == {2, 3}


def test_hints_are_true_and_at_most_two():
  counts = collections.Counter()
  for task in generate.tasks(4, (2, 3), "train", 300):
    entity = world.entities()[task.secret.reveal()["name"]]
    told = {
      f"{a.question} {entity.values[a.key]}."
      for a in world.attributes().values()
      if entity.values[a.key] != world.Verdict.MAYBE
    }
    hints = task.public["hints"]
    assert set(hints) <= told and len(set(hints)) == len(hints)
    counts[len(hints)] += 1
    kind = {2: entity.category, 3: None}[task.level]
    assert task.public.get("category") == kind
  assert set(counts) == {0, 1, 2}


def test_generation_is_a_function_of_its_arguments():
  generate.tasks.cache_clear()
  first = generate.tasks(5, (1, 2), "train", 40)
  generate.tasks.cache_clear()
  assert generate.tasks(5, (1, 2), "train", 40) == first
  assert generate.tasks(5, (1, 2), "train", 10) == first[:10]
  assert generate.tasks(6, (1, 2), "train", 40) != first
  assert [t.level for t in first[:4]] == [1, 2, 1, 2]
  assert len({mark(t) for t in first}) == 40


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((0, (1,), "all", 5), "split"),
    ((0, (), "train", 5), "levels"),
    ((0, (1, 4), "train", 5), "levels"),
    ((0, (2,), "dev", 9999), "level 2 has no more than about .* dev tasks"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate.tasks(*arguments)


def test_load_tasks_counts_and_levels():
  settings = config.Gyms(num_train_tasks=12, num_test_tasks=7, levels=(2, 3))
  for split, count in (("train", 12), ("fresh", 7), ("dev", 7), ("test", 7)):
    tasks = gyms.load_tasks("telepathy", settings, split, 1)
    assert len(tasks) == count and {t.level for t in tasks} == {2, 3}


def test_pack_is_what_the_generator_makes():
  lines = released.PACK_PATH.read_text().splitlines()
  assert [json.loads(line) for line in lines] == generate.pack()


def test_pack_has_42_tasks_each_of_its_own_structure():
  tasks = released.read_pack()
  assert len(tasks) == len({t.structure for t in tasks}) == 42
  counts = collections.Counter((t.level, t.split) for t in tasks)
  assert counts == {
    (level, split): count
    for level in generate.LEVELS
    for split, count in generate.PACK_COUNTS.items()
  }
