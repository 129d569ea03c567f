"""Tasks of Turtle from a seed: what they hold, and how they are split."""

import collections

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms.turtle import generate
from userrl_jax.gyms.turtle import story
from userrl_jax.gyms.turtle import world


def game(task):
  """Returns what is played, in whatever order the options are listed."""
  return frozenset(task.public["surface"].split()), story.of_task(task).bottom


def test_level_1_lists_three_options_and_the_truth_is_anywhere():
  places = collections.Counter()
  for split in generate.SPLITS:
    for task in generate.tasks(1, (1,), split, 200):
      _, who, why = task.public["surface"].split("? ")
      bottom = story.of_task(task).bottom
      for listed, slot in ((who, "who"), (why, "why")):
        options = listed.partition(".")[0].split()
        assert len(set(options)) == 3 and set(options) <= set(
          world.options(slot)
        )
        (truth,) = (
          o
          for o in options
          if f"the {o}," in bottom or (bottom.endswith(f"is {o}."))
        )
        places[slot, options.index(truth)] += 1
  assert len(places) == 6 and min(places.values()) > 200


def test_splits_are_made_by_pairs_of_who_and_why():
  homes = collections.Counter()
  for who in world.options("who"):
    for why in world.options("why"):
      homes[generate.split_of(who, why)] += 1
  assert homes == {"train": 27, "dev": 3, "test": 6}
  for slot, others in (("who", "why"), ("why", "who")):
    for option in world.options(slot):
      pairs = [
        (option, o) if slot == "who" else (o, option)
        for o in world.options(others)
      ]
      found = [generate.split_of(*pair) for pair in pairs]
      assert found.count("test") == 1 and found.count("train") >= 4
  keys = {
    split: {t.structure for t in generate.tasks(0, (1, 2, 3), split, 200)}
    for split in ("train", "dev", "test")
  }
  assert not keys["train"] & keys["test"] and not keys["dev"] & keys["test"]
  assert not keys["train"] & keys["dev"]
  assert {name: len(found) for name, found in keys.items()} == homes


def test_fresh_games_are_new_whatever_the_seed():
  train, fresh = (
    {
      game(task)
      for seed in range(2)
      for task in generate.tasks(seed, (1, 2, 3), split, 450)
    }
    for split in ("train", "fresh")
  )
  assert len(train) > 600 and len(fresh) > 400 and not train & fresh


def test_generation_is_a_function_of_its_arguments():
  generate.tasks.cache_clear()
  first = generate.tasks(5, (1, 2), "train", 20)
  generate.tasks.cache_clear()
  assert generate.tasks(5, (1, 2), "train", 20) == first
  assert generate.tasks(5, (1, 2), "train", 10) == first[:10]
  assert generate.tasks(6, (1, 2), "train", 20) != first
  assert [t.level for t in first[:4]] == [1, 2, 1, 2]
  assert len({t.public["surface"] for t in first}) == 20


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((0, (1,), "all", 5), "split"),
    ((0, (), "train", 5), "levels"),
    ((0, (1, 4), "train", 5), "levels"),
    ((0, (3,), "dev", 9999), "level 3 has no more than about .* dev tasks"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate.tasks(*arguments)


def test_structure_does_not_tell_the_story():
  (task,) = generate.tasks(0, (1,), "train", 1)
  options = (*world.options("who"), *world.options("why"))
  assert not [o for o in options if o in task.structure]


def test_load_tasks_counts_and_levels():
  settings = config.Gyms(num_train_tasks=12, num_test_tasks=7, levels=(2, 3))
  for split, count in (("train", 12), ("fresh", 7), ("dev", 7), ("test", 7)):
    tasks = gyms.load_tasks("turtle", settings, split, 1)
    assert len(tasks) == count and {t.level for t in tasks} == {2, 3}
