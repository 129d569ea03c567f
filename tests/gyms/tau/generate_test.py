"""Tau's tasks from a seed and of the pack: what they hold, how they split."""

import collections
import json

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import sources
from userrl_jax.gyms.tau import generate
from userrl_jax.gyms.tau import pack
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import shop


def record_of(task):
  return json.loads(task.secret.reveal()["record"])


def game(task):
  """Returns what matters for play: the requests, and what stands in the way."""
  record = record_of(task)
  intents = [
    (i["request"], i["expect"], i.get("why"), json.dumps(i["arguments"]))
    for i in record["intents"]
  ]
  return record["level"], tuple(intents), tuple(record["unknown"])


def test_level_1_has_few_words_and_all_of_them_in_training():
  words = collections.defaultdict(set)
  for split in gyms.SPLITS:
    for task in generate.tasks(1, (1,), split, 300):
      opening = task.public["opening"]
      words[split] |= set(opening.replace(".", " ").replace(",", " ").split())
  assert len(words["train"]) <= 50
  assert all(found <= words["train"] for found in words.values())


def test_splits_share_no_structure_but_train_and_fresh():
  homes = {}
  for split in ("train", "dev", "test"):
    for task in generate.tasks(0, (1, 2, 3), split, 300):
      assert task.split == split
      assert homes.setdefault(task.structure, split) == split
  for task in generate.tasks(0, (1, 2, 3), "fresh", 150):
    assert homes.get(task.structure, "train") == "train"
  counts = collections.Counter(generate._splits().values())
  assert counts == {"train": 68, "test": 18, "dev": 9}, counts


def test_every_value_and_order_of_level_1_is_in_training():
  keys = [k for k, s in generate._splits().items() if s == "train"]
  parts = [k.split("|") for k in keys if k.startswith("1|")]
  assert {order for _, _, order in parts} == set(generate.ORDERS)
  assert len({value for _, value, _ in parts}) == 9


def test_fresh_games_are_new_whatever_the_seed():
  train, fresh = (
    {
      game(task)
      for seed in range(2)
      for task in generate.tasks(seed, (1, 2, 3), split, 240)
    }
    for split in ("train", "fresh")
  )
  assert len(train) > 250 and len(fresh) > 150 and not train & fresh


def test_level_1_mixes_what_can_be_done_with_what_cannot():
  tasks = generate.tasks(2, (1,), "train", 500)
  ends = collections.Counter(
    record_of(t)["intents"][0]["expect"] for t in tasks
  )
  assert 250 <= ends["change"] <= 350 and ends["no_change"] >= 150
  assert set(ends) == {"change", "no_change"}


def test_as_many_tasks_as_wanted():
  for level, split in ((1, "train"), (2, "test"), (3, "dev")):
    tasks = generate.tasks(4, (level,), split, 300)
    assert len({t.id for t in tasks}) == 300
    # whatever their ids, no two are the same
    texts = {json.dumps({**record_of(t), "id": ""}) for t in tasks}
    assert len(texts) == 300


def test_generation_is_a_function_of_its_arguments():
  generate.tasks.cache_clear()
  first = generate.tasks(5, (1, 2, 3), "train", 30)
  generate.tasks.cache_clear()
  assert generate.tasks(5, (1, 2, 3), "train", 30) == first
  assert generate.tasks(5, (1, 2, 3), "train", 10) == first[:10]
  assert generate.tasks(6, (1, 2, 3), "train", 30) != first
  assert [t.level for t in first[:4]] == [1, 2, 3, 1]


@pytest.mark.parametrize(
  "arguments, message",
  [((0, (1,), "all", 5), "split"), ((0, (), "train", 5), "levels")],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate.tasks(*arguments)


def test_pack_is_mixed_as_it_should_be():
  tasks = pack.read()
  assert len(tasks) >= 40 and len({t.id for t in tasks}) == len(tasks)
  kinds = collections.Counter(t.structure.split("|")[1] for t in tasks)
  above = [t for t in tasks if t.level > 1]
  assert sum("change+" in k for k in kinds.elements()) >= 4
  assert sum(t.structure.endswith("-order") for t in above) >= 8
  singles = [t for t in tasks if t.level == 2 and t.structure.endswith("|")]
  assert len(singles) >= 6 and sum(t.level == 1 for t in tasks) >= 10
  assert sum("tell:" in k for k in kinds) >= 2
  assert sum("transfer" in k for k in kinds) >= 2
  refusals = [k for k in kinds if k.split(":")[-1] in scenario.WHYS]
  assert len(refusals) >= 4
  splits = collections.Counter((t.level, t.split) for t in tasks)
  assert set(splits) == {
    (level, split)
    for level in sources.LEVELS
    for split in ("train", "dev", "test")
  }
  openings = [t.public["opening"] for t in tasks]
  assert len(set(openings)) == len(openings)
  for task in above:  # no identifiers to begin with
    assert not set("0123456789#@") & set(task.public["opening"])


RECORD = record_of(pack.read()[20])  # of level 2
NO_CHANGE = next(
  record_of(t) for t in pack.read() if t.structure == "3|cancel:shipped|"
)
TELL = next(record_of(t) for t in pack.read() if t.structure == "3|tell:total|")


def changed(record, **changes):
  """Returns a record with other fields, or other fields of its intent."""
  record = json.loads(json.dumps(record))
  for name, value in changes.items():
    if name in record:
      record[name] = value
    else:
      record["intents"][0][name] = value
  return record


@pytest.mark.parametrize(
  "record, message",
  [
    ([], "must be an object"),
    ({}, "'id' is missing"),
    (changed(RECORD, level=4), "'level' must be one of"),
    (changed(RECORD, split="train "), "'split' must be"),
    (changed(RECORD, structure="2|x|"), "'structure' must be"),
    (changed(RECORD, user="u99"), "'user' must be an id"),
    (changed(RECORD, user="u12"), "must be possible: Error: this user has no"),
    (changed(RECORD, unknown=["age"]), "no task has the structure"),
    (changed(RECORD, unknown=["email", "zip"]), "no task has the structure"),
    (changed(RECORD, verb="drop"), "no task has the structure"),
    (changed(RECORD, intents=[]), "no task has the structure"),
    (
      changed(RECORD, arguments={"order_id": "W1003"}),
      "must be possible: Error: ",
    ),
    (
      changed(NO_CHANGE, arguments={"order_id": "W1001", "reason": "late"}),
      "must refuse since 'shipped', got '{",
    ),
    (changed(NO_CHANGE, look="W1004"), "'look' must be the order"),
    (changed(TELL, outputs=["98"]), "'outputs' must be found in"),
    (changed(TELL, outputs=[]), "'outputs' must be found in"),
    (
      {k: v for k, v in RECORD.items() if k != "rows"},
      "field 'rows' is missing",
    ),
  ],
)
def test_a_broken_record_names_file_and_line(tmp_path, record, message):
  path = tmp_path / "tasks.jsonl"
  good = json.dumps(RECORD | {"id": "good"})
  path.write_text(f"{good}\n\n{json.dumps(record)}\n")
  with pytest.raises(ValueError, match=message) as caught:
    pack.read(path)
  assert str(caught.value).count(f"{path}, line 3") == 1


def test_a_pack_is_json_lines_with_ids_of_their_own(tmp_path):
  path = tmp_path / "tasks.jsonl"
  line = json.dumps(RECORD)
  for text, message in ((f"{line}\n{line}", "unique"), ("{", "line 1: must")):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      pack.read(path)
  with pytest.raises(ValueError, match="must be a file"):
    pack.read(tmp_path / "none")


def test_load_tasks_counts_and_levels():
  settings = config.Gyms(num_train_tasks=12, num_test_tasks=7, levels=(2, 3))
  for split, count in (("train", 12), ("fresh", 7), ("dev", 7), ("test", 7)):
    tasks = gyms.load_tasks("tau", settings, split, 1)
    assert len(tasks) == count and {t.level for t in tasks} == {2, 3}


def test_goals_differ_from_the_shop_exactly_where_something_changes():
  for task in [*pack.read(), *generate.tasks(8, (1, 2, 3), "train", 90)]:
    goal = "{}"
    for intent in scenario.of_task(task).intents:
      assert (intent.goal != goal) == (intent.expect == "change")
      goal = intent.goal
  assert shop.rows("orders")["W1001"]["status"] == "pending"
