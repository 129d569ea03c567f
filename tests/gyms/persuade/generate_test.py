"""Tasks of Persuade from a seed and from the pack, and how they are split."""

import collections
import json

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms.persuade import debate
from userrl_jax.gyms.persuade import generate
from userrl_jax.gyms.persuade import pack


def mark(task):
  return task.level, task.public["claim"], repr(task.secret.reveal()["points"])


def pairs(task):
  """Returns what is argued in a task of level 1: a thing with a worry."""
  thing, *worries = task.structure.split()
  return {(thing, worry) for worry in worries}


def test_level_1_tests_argue_what_training_never_does():
  seen = {}
  for split in generate.SPLITS:
    tasks = generate.tasks(4, (1,), split, 500)
    seen[split] = collections.Counter(p for t in tasks for p in pairs(t))
  assert not set(seen["test"]) & set(seen["train"])
  assert set(seen["fresh"]) == set(seen["train"]) >= set(seen["dev"])
  # Every word of a test is known from training, in about equal shares.
  for place in (0, 1):
    for counts in (seen["test"], seen["train"]):
      sizes = collections.Counter()
      for pair, count in counts.items():
        sizes[pair[place]] += count
      assert len(sizes) == 8 and max(sizes.values()) < 2 * min(sizes.values())


def test_level_1_says_little_and_asks_three_worries():
  words = set()
  for task in generate.tasks(5, (1,), "train", 600):
    thing = task.structure.split()[0]
    points = task.secret.reveal()["points"]
    assert len(points) == 3 and thing in task.public["claim"]
    for point in points:
      assert f"Are {thing} " in point.worry
      words |= {*point.worry.split(), *point.say.split()}
    words |= {*task.public["claim"].split()}
  assert len(words) < 60


@pytest.mark.parametrize("level", (2, 3))
def test_claims_are_split_and_users_open_to_some_points(level):
  claims = {c.text: c for c in debate.claims().values()}
  found = collections.defaultdict(set)
  for split in generate.SPLITS:
    home = "train" if split == "fresh" else split
    for task in generate.tasks(6, (level,), split, 200):
      claim = claims[task.public["claim"]]
      assert claim.split == home and task.structure == claim.id
      points = task.secret.reveal()["points"]
      assert len(points) in generate.NUM_POINTS
      assert set(points) <= set(claim.points)
      assert sum(point.strength for point in points) >= debate.LAST
      found[home].add(claim.id)
  assert {k: len(v) for k, v in found.items()} == {
    "train": 16,
    "dev": 3,
    "test": 6,
  }


@pytest.mark.parametrize("level", generate.LEVELS)
def test_no_task_comes_twice_and_fresh_ones_are_new(level):
  train, fresh = (
    generate.tasks(7, (level,), split, count)
    for split, count in (("train", 900), ("fresh", 150))
  )
  assert len(set(map(mark, train))) == 900
  assert not set(map(mark, train)) & set(map(mark, fresh))
  assert {t.structure for t in fresh} <= {t.structure for t in train}
  assert generate.tasks(7, (level,), "train", 50) == train[:50]
  assert generate.tasks(8, (level,), "train", 50) != train[:50]


def test_level_1_has_as_many_tasks_as_the_quickstart_asks_for():
  assert len(generate.tasks(0, (1,), "train", 4000)) == 4000
  with pytest.raises(ValueError, match="no more than about"):
    generate.tasks(0, (1,), "test", 5000)


def test_pack_is_what_the_generator_makes():
  lines = pack.PATH.read_text().splitlines()
  assert [json.loads(line) for line in lines] == generate.pack()
  tasks = pack.read()
  assert len({task.structure for task in tasks}) == len(tasks) == 39
  claims = collections.Counter(t.level for t in tasks)
  assert claims == {1: 14, 2: 13, 3: 12}
  settings = config.Gyms(tasks="pack", levels=(1, 2, 3))
  sizes = {
    split: len(gyms.load_tasks("persuade", settings, split, 0))
    for split in ("train", "dev", "test")
  }
  assert sizes == {"train": 24, "dev": 5, "test": 10}


@pytest.mark.parametrize(
  "line, change, part",
  [
    (3, {"split": "test"}, "'split' must be one of ('train', 'fresh')"),
    (3, {"level": 4}, "'level'"),
    (3, {"structure": "x"}, "'structure'"),
    (3, {"thing": "planes"}, "'thing'"),
    (3, {"claim": "Ban cars."}, "'claim'"),
    (3, {"points": ["safe", "safe", "fun"]}, "'points' must be different"),
    (3, {"points": ["safe", "fun"]}, "'points' must be 3 worries"),
    (3, {"points": "safe"}, "'points' must be a list"),
    (3, {"points": [1, 2, 3]}, "'points' must be different"),
    (3, {"id": "pack-L1-train-1"}, "that of line 1"),
    (20, {"claim": "kites"}, "'claim'"),
    (20, {"thing": "kites"}, "'thing'"),
    (20, {"points": [0, 1, 2, 3]}, "(5, 6) items, got 4"),
    (20, {"points": [0, 1, 2, 3, 7]}, "'points' must be different"),
    (20, {"points": [0, 1, 2, 3, True]}, "'points' must be different"),
    (20, {"split": "dev"}, "'split'"),
    (20, None, "JSON"),
  ],
)
def test_broken_pack_line(tmp_path, line, change, part):
  lines = pack.PATH.read_text().splitlines()
  record = json.loads(lines[line - 1])
  lines[line - 1] = (
    "{oops" if change is None else json.dumps({**record, **change})
  )
  path = tmp_path / "tasks.jsonl"
  path.write_text("\n".join(lines))
  with pytest.raises(ValueError) as caught:
    pack.read(path)
  assert f"{path}, line {line}:" in str(caught.value)
  assert part in str(caught.value)
