"""Tasks of Search: what they hold, how they are split, how many there are."""

import collections
import json

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms.search import generate
from userrl_jax.gyms.search import questions
from userrl_jax.gyms.search import released
from userrl_jax.gyms.search import world


def test_level_1_asks_for_someone_of_a_town():
  for split in generate.SPLITS:
    for task in generate.tasks(1, (1,), split, 200):
      secret = task.secret.reveal()
      role = task.public["question"].split()[3]
      town = world.by_name(world.TOWNS)[task.structure]
      assert town.facts[role] == secret["answer"]
      query = f"{role} of {task.structure}"
      assert secret["queries"] == (query,)
      assert task.public["question"] == f"Who is the {query}?"


def test_there_are_enough_tasks_of_level_1_for_a_run():
  train = generate.tasks(0, (1,), "train", 4000)
  assert len({task.public["question"] for task in train}) == 4000
  words = {w for t in train for w in t.public["question"].split()}
  assert len(words) < 70
  for split, count in (("fresh", 400), ("dev", 400), ("test", 900)):
    assert len(generate.tasks(0, (1,), split, count)) == count


def test_splits_share_no_structure_and_fresh_no_task():
  found = {
    (split, level): generate.tasks(
      seed, (level,), split, 40 if level > 1 else 400
    )
    for seed, split in enumerate(("train", "dev", "test"))
    for level in generate.LEVELS
  }
  homes = collections.defaultdict(set)
  for (split, _), tasks in found.items():
    for task in tasks:
      assert task.split == split
      homes[task.structure].add(split)
  assert all(len(splits) == 1 for splits in homes.values())
  assert {"train", "dev", "test"} == set().union(*homes.values())
  for level, count in ((1, 400), (2, 12), (3, 12)):
    train = generate.tasks(5, (level,), "train", 150 if level > 1 else 4000)
    fresh = generate.tasks(6, (level,), "fresh", count)
    texts = {task.public["question"] for task in train}
    assert not texts & {task.public["question"] for task in fresh}
    towns = {task.structure for task in fresh}
    assert len(towns & {task.structure for task in train}) >= len(towns) / 2


def test_generation_is_a_function_of_its_arguments():
  generate.tasks.cache_clear()
  first = generate.tasks(5, (1, 2, 3), "train", 60)
  generate.tasks.cache_clear()
  assert generate.tasks(5, (1, 2, 3), "train", 60) == first
  assert generate.tasks(5, (1, 2, 3), "train", 10) == first[:10]
  assert generate.tasks(6, (1, 2, 3), "train", 60) != first
  assert [t.level for t in first[:4]] == [1, 2, 3, 1]
  assert len({t.id for t in first}) == 60


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((0, (1,), "all", 5), "split"),
    ((0, (1, 4), "train", 5), "levels"),
    ((0, (2,), "dev", 9999), "level 2 has no more than .* dev tasks"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate.tasks(*arguments)


def test_the_pack_is_what_pack_writes():
  lines = released.PACK_PATH.read_text().splitlines()
  assert [json.loads(line) for line in lines] == generate.pack()


def test_the_pack_has_questions_of_every_kind():
  tasks = released.read_pack()
  counts = collections.Counter((t.level, t.split) for t in tasks)
  assert counts == {
    (level, split): count
    for level, splits in generate.PACK_COUNTS.items()
    for split, count in splits.items()
  }
  assert len(tasks) == 53 and len({t.public["question"] for t in tasks}) == 53
  shapes = {q.text: q.shape for q in questions.sound()}
  told = [shapes[t.public["question"]] for t in tasks if t.level == 3]
  assert sum(s.startswith(("gap", "older")) for s in told) >= 6
  answers = {q.text: q.answer for q in questions.sound()}
  for task in tasks:
    answer = task.secret.reveal()["answer"]
    assert answers[task.public["question"]] == answer
    assert world.region_splits()[task.structure] == task.split


def test_load_tasks_filters_and_counts():
  settings = config.Gyms(num_train_tasks=12, num_test_tasks=7, levels=(2, 3))
  for split, count in (("train", 12), ("fresh", 7), ("dev", 7), ("test", 7)):
    tasks = gyms.load_tasks("search", settings, split, 0)
    assert len(tasks) == count and {t.level for t in tasks} == {2, 3}
  pack = config.Gyms(tasks="pack", levels=(1,))
  assert len(gyms.load_tasks("search", pack, "train", 0)) == 10
  with pytest.raises(ValueError, match="no fresh tasks"):
    gyms.load_tasks("search", pack, "fresh", 0)
