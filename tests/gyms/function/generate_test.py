"""Generated tasks fit their level, are unique, and split by structure."""

import functools
import itertools
import json

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms.function import expression
from userrl_jax.gyms.function import generate
from userrl_jax.gyms.function import released


def rule_of(task):
  return expression.parse(task.secret.reveal()["rule"])


def result_of(task):
  return rule_of(task).evaluate(task.secret.reveal()["test_case"])


@pytest.mark.parametrize("level", generate.LEVELS)
@pytest.mark.parametrize("split", generate.SPLITS)
def test_tasks_fit_their_level(level, split):
  tasks = generate.tasks(11, (level,), split, 100)
  limit, operators = {1: (60, "+-*"), 2: (200, "+-*"), 3: (200, "+-*/**")}[
    level
  ]
  marks = set()
  for task in tasks:
    secret = task.secret.reveal()
    assert (task.gym, task.split, task.level) == ("function", split, level)
    assert abs(result_of(task)) <= limit and type(result_of(task)) is int
    assert len(set(secret["test_case"])) == 4
    assert all(1 <= x <= 9 for x in secret["test_case"])
    assert sorted(c for c in secret["rule"] if c.isalpha()) == list("abcd")
    assert rule_of(task).operators <= {*operators, *(["**"] * (level == 3))}
    assert ("(" not in secret["rule"]) or level > 1
    assert task.structure == expression.canonical_key(secret["rule"])
    home = "train" if split == "fresh" else split
    assert generate.split_of(task.structure) == home
    assert generate.is_level_1(task.structure) == (level == 1)
    marks.add((secret["rule"], secret["test_case"]))
  assert len(marks) == len({t.id for t in tasks}) == 100


def test_structures_do_not_cross_splits():
  structures = {
    split: {
      t.structure
      for seed in range(2)
      for t in generate.tasks(seed, (1, 2, 3), split, 120)
    }
    for split in ("train", "dev", "test")
  }
  for one, other in itertools.combinations(structures.values(), 2):
    assert one and other and not one & other


@functools.cache
def values_of(rule):
  """Returns what a function is on a grid: two alike on it are one."""
  values = []
  for point in itertools.product((1, 2, 5), repeat=4):
    try:
      values.append(expression.parse(rule).evaluate(point))
    except expression.UndefinedError:
      values.append(None)
  return tuple(values)


def game(task):
  """Returns what is played, however its rule is spelt."""
  secret = task.secret.reveal()
  return values_of(secret["rule"]), secret["test_case"]


def test_fresh_tasks_are_of_trains_structures_and_no_game_of_train():
  # Whatever the seed of either.
  train, fresh = (
    {
      level: {
        game(task)
        for seed in range(3)
        for task in generate.tasks(seed, (level,), split, count[level])
      }
      for level in generate.LEVELS
    }
    for split, count in (
      ("train", {1: 3000, 2: 300, 3: 300}),
      ("fresh", {1: 200, 2: 100, 3: 100}),
    )
  )
  for level in generate.LEVELS:
    assert fresh[level] and not fresh[level] & train[level]
  assert len(train[1]) > 2500
  for seed in range(3):
    tasks = generate.tasks(seed, (1,), "fresh", 200)
    assert len(set(map(game, tasks))) == 200
  structures = {t.structure for t in generate.tasks(0, (1,), "train", 400)}
  assert {
    t.structure for t in generate.tasks(0, (1,), "fresh", 200)
  } == structures


def test_level_1_has_its_nine_classes():
  seen = {
    split: {t.structure for t in generate.tasks(0, (1,), split, 200)}
    for split in ("train", "dev", "test")
  }
  assert {s: len(k) for s, k in seen.items()} == {
    "train": 5,
    "dev": 1,
    "test": 3,
  }
  signs = itertools.product("+-", repeat=4)
  sums = [
    "".join(f"{s}{v}" for s, v in zip(x, "abcd", strict=True)) for x in signs
  ]
  signs = itertools.product("+-", repeat=3)
  products = [f"{x}a*b{y}c{z}d" for x, y, z in signs]
  every = {
    expression.canonical_key(rule.removeprefix("+"))
    for rule in sums + products
    if "+" in rule
  }
  assert set().union(*seen.values()) == every and len(every) == 9
  test_rules = [
    t.secret.reveal()["rule"] for t in generate.tasks(0, (1,), "test", 50)
  ]
  assert {"*" in rule for rule in test_rules} == {True, False}


def test_level_1_results_of_test_are_among_those_of_train():
  """Every result of a test form but one is also one of a train form."""
  results = {split: set() for split in generate.SPLITS}
  for form, split in generate.LEVEL_1_FORMS.items():
    rule = expression.parse("".join(form).removeprefix("+"))
    values = map(
      rule.evaluate, itertools.permutations(generate.TEST_VALUES[1], 4)
    )
    results[split].update(v for v in values if abs(v) <= 60)
  assert len(results["test"]) > 20
  assert results["test"] - results["train"] == {22}


def test_generation_is_a_function_of_its_arguments():
  generate.tasks.cache_clear()
  first = generate.tasks(5, (1, 2), "train", 40)
  generate.tasks.cache_clear()
  assert generate.tasks(5, (1, 2), "train", 40) == first
  assert generate.tasks(5, (1, 2), "train", 10) == first[:10]
  assert generate.tasks(6, (1, 2), "train", 40) != first
  assert [t.level for t in first[:4]] == [1, 2, 1, 2]


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


def test_load_tasks_counts_and_levels():
  settings = config.Gyms(num_train_tasks=12, num_test_tasks=7, levels=(2, 3))
  for split, count in (("train", 12), ("dev", 7), ("test", 7)):
    tasks = gyms.load_tasks("function", settings, split, 1)
    assert len(tasks) == count and {t.level for t in tasks} == {2, 3}
  with pytest.raises(ValueError, match="no train tasks"):
    empty = config.Gyms(num_train_tasks=0)
    gyms.load_tasks("function", empty, "train", 1)


def test_pack_is_what_the_generator_makes():
  lines = released.PACK_PATH.read_text().splitlines()
  assert [json.loads(line) for line in lines] == generate.pack()


def test_pack_has_48_functions_split_by_structure():
  tasks = released.read_pack()
  assert len(tasks) == len({t.secret.reveal()["rule"] for t in tasks}) == 48
  for level in generate.LEVELS:
    counts = {
      split: sum(t.split == split and t.level == level for t in tasks)
      for split in generate.PACK_COUNTS
    }
    assert counts == generate.PACK_COUNTS
  splits = {}
  for task in tasks:
    assert splits.setdefault(task.structure, task.split) == task.split
  # Nearly all nine structures of level 1, and no structure twice above it.
  assert 8 + 16 + 16 <= len(splits) <= 9 + 16 + 16


def test_many_tasks_of_one_form_are_distinct():
  tasks = generate.tasks(0, (1,), "dev", 400)
  assert len(set(map(game, tasks))) == 400
  # Train has too few functions, so there a game may come in another spelling.
  tasks = generate.tasks(0, (1,), "train", 4000)
  assert len({tuple(t.secret.reveal().values()) for t in tasks}) == 4000
  assert len(set(map(game, tasks))) > 2000


def test_more_tasks_than_there_are(monkeypatch):
  monkeypatch.setattr(
    generate, "TEST_VALUES", dict.fromkeys((1, 2, 3), range(1, 5))
  )
  with pytest.raises(ValueError, match="no more than about .* dev tasks"):
    generate.tasks(99, (1,), "dev", 5000)
