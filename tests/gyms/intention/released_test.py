"""Files of tasks: what is read, how it is split, how errors are told."""

import asyncio
import collections
import json
import os

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import contract
from userrl_jax.gyms.intention import gym as gym_lib
from userrl_jax.gyms.intention import lexicon
from userrl_jax.gyms.intention import oracle
from userrl_jax.gyms.intention import prompted
from userrl_jax.gyms.intention import released
from userrl_jax.gyms.intention import scenario

DETAIL = {
  "description": "Height of the kite",
  "importance": "3",
  "inquiry": "How tall may it be?",
  "options": ["one meter", "two meters"],
}
RECORD = {
  "id": "a-1",
  "category": "Hobbies & Crafts",
  "task": "Teach me to make a kite.",
  "missing_details": [DETAIL, {**DETAIL, "importance": "1", "inquiry": "Why?"}],
}


class InquiryUser:
  """Takes the very sample question as one that asks for a detail."""

  async def cover(self, talk, remaining, question):
    places = [i for i, d in enumerate(remaining) if d.question == question]
    kind = "focused" if places else "off_topic"
    return scenario.Verdict(kind, tuple(places))

  async def reply(self, talk, covered, question):
    return f"Well, {covered[0].value[:100]}."


def settings_of(folder):
  return config.Gyms(
    tasks=str(folder),
    levels=(2,),
    num_train_tasks=9999,
    num_test_tasks=9999,
    max_turns=16,
  )


def write(folder, *records):
  path = folder / released.FILE_NAME
  path.write_text(json.dumps(list(records)), encoding="utf-8")
  return str(folder)


@pytest.fixture(name="upstream")
def upstream_folder(shared):
  return shared / "upstream" / "gyms"


def test_released_requests_load_and_split(upstream):
  tasks = {
    split: gyms.load_tasks("intention", settings_of(upstream), split, 0)
    for split in ("train", "dev", "test")
  }
  sizes = {split: len(found) for split, found in tasks.items()}
  assert sum(sizes.values()) == 1012
  assert 85 <= sizes["test"] <= 101 and 35 <= sizes["dev"] <= 51, sizes
  families = {s: {t.structure for t in found} for s, found in tasks.items()}
  assert not families["train"] & families["test"]
  assert not families["dev"] & (families["train"] | families["test"])
  assert sum(map(len, families.values())) <= 40  # of 203 categories
  details = [
    detail
    for found in tasks.values()
    for task in found
    for detail in scenario.details(task)
  ]
  # None of UserRL's own questions is too broad for our rules.
  named = max(len(lexicon.asked(detail.question)) for detail in details)
  assert named == prompted.MAX_NAMED_SLOTS
  importances = collections.Counter(d.importance for d in details)
  assert importances == {1: 558, 2: 2449, 3: 608}


def test_released_requests_keep_the_contract(upstream):
  settings = settings_of(upstream)
  train, test = (
    gyms.load_tasks("intention", settings, split, 0)
    for split in ("train", "test")
  )

  def subject(tasks):
    return contract.Subject(
      lambda: gym_lib.IntentionGym(settings, InquiryUser()),
      tasks,
      oracle.Oracle,
      gyms.canned("intention"),
      gyms.hacks("intention"),
    )

  contract.check_oracle(subject(test + train))
  contract.check_types(subject(test + train))
  for check in contract.CHECKS:
    # The band is a promise of our level 1, and hacks one of our users.
    if check not in (contract.check_canned_band, contract.check_hacks):
      check(subject([*test[::12], *train[::150]]))


@pytest.mark.parametrize(
  "category, family",
  [
    ("Travel Planning & Advice", "travel"),
    ("Health & Wellness", "health"),
    ("Health and Wellness", "health"),
    ("Lifestyle and Personal Development", "development lifestyle personal"),
    ("Lifestyle & Personal Development", "development lifestyle personal"),
    ("Music Education and Industry", "music"),
    ("Kites", "kites"),
  ],
)
def test_family(category, family):
  assert released.family(category) == family


def test_rules_refuse_what_they_have_no_words_for(tmp_path):
  (task,) = released.read_folder(write(tmp_path, RECORD))
  gym = gyms.make("intention", settings_of(tmp_path))
  with pytest.raises(ValueError, match="user.kind=endpoint"):
    asyncio.run(gym.reset(task, 0))


def test_what_is_public_and_what_is_not(tmp_path):
  (task,) = released.read_folder(write(tmp_path, RECORD))
  assert dict(task.public) == {
    "category": RECORD["category"],
    "request": RECORD["task"],
  }
  assert task.structure == "house" and task.level == 2
  gym = gym_lib.IntentionGym(config.Gyms(), InquiryUser())
  first = asyncio.run(gym.reset(task, 0))
  assert first.text == f"Category: Hobbies & Crafts. Task: {RECORD['task']}"
  first, second = scenario.details(task)
  assert {first.value, second.value} <= {*DETAIL["options"]}
  assert (first.importance, second.importance) == (3, 1)
  assert gym.undisclosed() == (
    *(DETAIL["inquiry"], first.value, "Why?", second.value),
  )


def test_values_are_chosen_by_the_task(tmp_path):
  many = [{**RECORD, "id": f"a-{n}"} for n in range(100)]
  tasks = released.read_folder(write(tmp_path, *many))
  counts = collections.Counter(
    tuple(d.value for d in scenario.details(task)) for task in tasks
  )
  assert len(counts) == 4 and min(counts.values()) >= 12
  released._read_released.cache_clear()
  assert released.read_folder(str(tmp_path)) == tasks


def test_missing_folder_and_file(tmp_path):
  missing = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"no folder .*nowhere"):
    gyms.load_tasks("intention", config.Gyms(tasks=missing), "train", 0)
  with pytest.raises(ValueError, match=r"all_intentions_train\.json"):
    gyms.load_tasks("intention", config.Gyms(tasks=str(tmp_path)), "train", 0)


def with_detail(**changes):
  details = [
    DETAIL,
    {k: v for k, v in {**DETAIL, **changes}.items() if v != ""},
  ]
  return {**RECORD, "id": "b", "missing_details": details}


@pytest.mark.parametrize(
  "record, parts",
  [
    (RECORD, ["'id'", "unique", "record 1"]),
    ({**RECORD, "id": 7}, ["'id'", "text", "7"]),
    ({**RECORD, "id": "b", "task": " "}, ["'task'", "text"]),
    ({**RECORD, "id": "b", "task": "x" * 400}, ["'task'", "400 characters"]),
    ({**RECORD, "id": "b", "category": None}, ["'category'", "text"]),
    ({**RECORD, "id": "b", "category": "?"}, ["'category'", "a word"]),
    ({**RECORD, "id": "b", "missing_details": []}, ["'missing_details'"]),
    ({**RECORD, "id": "b", "missing_details": {}}, ["'missing_details'"]),
    ({**RECORD, "id": "b", "missing_details": [7]}, ["detail 1", "object"]),
    (with_detail(description=""), ["detail 2", "'description'", "missing"]),
    (with_detail(inquiry=3), ["detail 2", "'inquiry'", "text"]),
    (with_detail(inquiry="x" * 241), ["detail 2", "'inquiry'", "240", "241"]),
    (with_detail(importance="4"), ["detail 2", "'importance'", "'4'"]),
    (with_detail(importance=3), ["detail 2", "'importance'", "3"]),
    (with_detail(importance=""), ["detail 2", "'importance'", "missing"]),
    (with_detail(options=[]), ["detail 2", "'options'", "list of texts"]),
    (with_detail(options=["a", 1]), ["detail 2", "'options'"]),
    (with_detail(options="abc"), ["detail 2", "'options'", "list of texts"]),
    ({"id": "x"}, ["'category'", "missing"]),
    (7, ["an object", "7"]),
  ],
)
def test_broken_released_record(tmp_path, record, parts):
  folder = write(tmp_path, RECORD, record)
  with pytest.raises(ValueError) as caught:
    released.read_folder(folder)
  message = str(caught.value)
  assert f"{tmp_path / released.FILE_NAME}, record 2" in message
  assert all(part in message for part in parts), message


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"7", b"\xff\xfe["])
def test_no_list_of_requests(tmp_path, content):
  path = tmp_path / released.FILE_NAME
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  assert str(caught.value).startswith(f"{path}: must be")


def test_changed_file_is_read_again(tmp_path):
  assert len(released.read_folder(write(tmp_path, RECORD))) == 1
  folder = write(tmp_path, RECORD, {**RECORD, "id": "c"})
  os.utime(tmp_path / released.FILE_NAME, ns=(1, 1))
  assert len(released.read_folder(folder)) == 2


PLACE = {"slot": "place", "importance": 3, "value": "at sea", "reply": "Sea."}


@pytest.mark.parametrize(
  "number, change, part",
  [
    (0, {"split": "eval"}, "'split'"),
    (0, {"split": "test"}, "'split' must be one of ('train', 'fresh')"),
    (0, {"level": 4}, "'level'"),
    (0, {"level": True}, "'level'"),
    (0, {"structure": "x"}, "'structure'"),
    (0, {"category": "party"}, "'category' must be 'form'"),
    (20, {"category": "form"}, "'category' must be one of"),
    (20, {"category": "zoo"}, "'category'"),
    (20, {"told": ["size"]}, "'told' must hold"),
    (20, {"told": "size"}, "'told' must be a list"),
    (0, {"told": ["zoo"]}, "'told' must hold"),
    (0, {"details": []}, "'details'"),
    (0, {"details": [{**PLACE, "slot": "zoo"}]}, "detail 1: field 'slot'"),
    (0, {"details": [{**PLACE, "importance": 1}]}, "'importance' must be 3"),
    (0, {"details": [{**PLACE, "value": ""}]}, "'value' must be text"),
    (0, {"details": [{**PLACE, "reply": None}]}, "'reply' must be text"),
    (0, {"details": [{**PLACE, "value": "Plan"}]}, "'value' is hidden"),
    (0, {"details": [PLACE, {**PLACE, "reply": "at sea."}]}, "'value' is"),
    (0, {"details": [PLACE, PLACE]}, "'told' must hold"),
    (20, {"told": [1, None]}, "'told' must hold"),
    (0, {"request": " "}, "'request'"),
    (0, {"id": ["x"]}, "'id'"),
    (0, {"id": "pack-L1-train-2"}, "that of line"),
    (0, None, "JSON"),
  ],
)
def test_broken_pack_line(tmp_path, number, change, part):
  lines = released.PACK_PATH.read_text(encoding="utf-8").splitlines()
  record = json.loads(lines[number])
  broken = "{oops" if change is None else json.dumps({**record, **change})
  path = tmp_path / "tasks.jsonl"
  path.write_text("\n".join([lines[1], broken]), encoding="utf-8")
  with pytest.raises(ValueError) as caught:
    released.read_pack(path)
  assert f"{path}, line 2" in str(caught.value)
  assert part in str(caught.value)
