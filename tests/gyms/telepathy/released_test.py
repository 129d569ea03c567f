"""Files of tasks: what is read, how it is split, how errors are told."""

import asyncio
import json
import os
import pathlib

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import contract
from userrl_jax.gyms.telepathy import gym as telepathy_gym
from userrl_jax.gyms.telepathy import oracle
from userrl_jax.gyms.telepathy import released

RECORD = {
  "id": "entity_1",
  "title": "Windmill",
  "description": "Which building do I think of? Ask me!",
  "goal": "Guess it.",
  "target_entity": "Windmill - grinds grain with sails",
  "category": "building",
}


class TitleUser:
  """Says Maybe to all questions; takes the very title as right."""

  async def yes_no(self, secret, question):
    return "Maybe"

  async def is_right(self, secret, guess):
    return guess == secret["name"]


def settings_of(folder):
  return config.Gyms(
    tasks=folder, levels=(2,), num_train_tasks=999, num_test_tasks=999
  )


def write(folder, *records):
  path = folder / released.FILE_NAME
  path.write_text(json.dumps(list(records)), encoding="utf-8")
  return str(folder)


@pytest.fixture(name="upstream")
def upstream_folder():
  if "USERRL_SHARED" not in os.environ:
    pytest.skip("USERRL_SHARED names no folder with released files")
  return str(pathlib.Path(os.environ["USERRL_SHARED"], "upstream", "gyms"))


def test_released_things_load_and_split(upstream):
  tasks = {
    split: gyms.load_tasks("telepathy", settings_of(upstream), split, 0)
    for split in ("train", "dev", "test")
  }
  sizes = {split: len(found) for split, found in tasks.items()}
  assert sum(sizes.values()) == 401
  assert 36 <= sizes["test"] <= 40 and 16 <= sizes["dev"] <= 20, sizes
  families = {s: {t.structure for t in found} for s, found in tasks.items()}
  assert not families["train"] & families["test"]
  assert not families["dev"] & (families["train"] | families["test"])
  assert sum(map(len, families.values())) <= 25  # of 188 categories


def test_released_things_keep_the_contract(upstream):
  settings = settings_of(upstream)
  train, test = (
    gyms.load_tasks("telepathy", settings, split, 0)
    for split in ("train", "test")
  )

  def subject(tasks):
    return contract.Subject(
      lambda: telepathy_gym.TelepathyGym(settings, TitleUser()),
      tasks,
      oracle.Oracle,
      gyms.canned("telepathy"),
      gyms.hacks("telepathy"),
    )

  contract.check_oracle(subject(test + train))
  contract.check_types(subject(test + train))
  for check in contract.CHECKS:
    if check is not contract.check_canned_band:  # a promise of our level 1
      check(subject([*test[::8], *train[::80]]))


@pytest.mark.parametrize(
  "category, family",
  [
    ("animals", "animals"),
    ("sea creature", "animals"),
    ("mythical_creature", "fiction"),
    ("video_game_character", "fiction"),
    ("historical_person", "people"),
    ("religious_figures", "people"),
    ("natural_phenomenon", "weather"),
    ("celestial_phenomenon", "space"),
    ("natural_water", "places"),
    ("cities", "places"),
    ("Ancient-Structure", "monuments"),
    ("sci-fi_device", "fiction"),
    ("Cheese Knives", "cheese knives"),
  ],
)
def test_family(category, family):
  assert released.family(category) == family


def test_rules_refuse_what_they_do_not_know(tmp_path):
  folder = write(tmp_path, RECORD, {**RECORD, "id": "2", "title": "oak"})
  for task in released.read_folder(folder):
    gym = gyms.make("telepathy", settings_of(folder))
    with pytest.raises(ValueError, match="user.kind=endpoint"):
      asyncio.run(gym.reset(task, 0))


def test_what_is_public_and_what_is_not(tmp_path):
  (task,) = released.read_folder(write(tmp_path, RECORD))
  assert dict(task.public) == {"description": RECORD["description"]}
  assert task.structure == "monuments"
  gym = telepathy_gym.TelepathyGym(config.Gyms(), TitleUser())
  first = asyncio.run(gym.reset(task, 0))
  assert first.text == RECORD["description"]
  assert gym.undisclosed() == ("grinds grain with sails", "Windmill")


def test_missing_folder_and_file(tmp_path):
  missing = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"no folder .*nowhere"):
    gyms.load_tasks("telepathy", config.Gyms(tasks=missing), "train", 0)
  with pytest.raises(ValueError, match=r"all_entities_refined\.json"):
    gyms.load_tasks("telepathy", config.Gyms(tasks=str(tmp_path)), "train", 0)


@pytest.mark.parametrize(
  "record, parts",
  [
    ({**RECORD, "id": "entity_0"}, ["'id'", "unique", "record 1"]),
    ({**RECORD, "id": 7}, ["'id'", "text", "7"]),
    ({**RECORD, "title": ""}, ["'title'", "text"]),
    ({**RECORD, "title": "x" * 61}, ["'title'", "60", "61"]),
    ({**RECORD, "description": "x" * 201}, ["'description'", "200", "201"]),
    ({**RECORD, "description": "a windmill"}, ["'description'", "'title'"]),
    ({**RECORD, "category": None}, ["'category'", "text"]),
    ({**RECORD, "category": "?"}, ["'category'", "a word"]),
    ({**RECORD, "target_entity": []}, ["'target_entity'", "text"]),
    ({"id": "x"}, ["'title'", "missing"]),
    (7, ["an object", "7"]),
  ],
)
def test_broken_released_record(tmp_path, record, parts):
  folder = write(tmp_path, {**RECORD, "id": "entity_0"}, record)
  with pytest.raises(ValueError) as caught:
    released.read_folder(folder)
  message = str(caught.value)
  assert f"{tmp_path / released.FILE_NAME}, record 2:" in message
  assert all(part in message for part in parts), message


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"7", b"\xff\xfe["])
def test_no_list_of_things(tmp_path, content):
  path = tmp_path / released.FILE_NAME
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  assert str(caught.value).startswith(f"{path}: must be")


def test_changed_file_is_read_again(tmp_path):
  assert len(released.read_folder(write(tmp_path, RECORD))) == 1
  folder = write(tmp_path, RECORD, {**RECORD, "id": "entity_2"})
  os.utime(tmp_path / released.FILE_NAME, ns=(1, 1))
  assert len(released.read_folder(folder)) == 2


@pytest.mark.parametrize(
  "change, part",
  [
    ({"split": "eval"}, "'split'"),
    ({"split": "test"}, "'split' must be one of ('train', 'fresh')"),
    ({"level": 4}, "'level'"),
    ({"level": True}, "'level'"),
    ({"structure": "x"}, "'structure'"),
    ({"name": "kite"}, "'name'"),
    ({"name": "whale"}, "'candidates' must hold"),
    ({"candidates": ["dog", "kite"]}, "'candidates' must be a list"),
    ({"hints": "big"}, "'hints' must be a list"),
    ({"id": ["x"]}, "'id'"),
    ({"id": "pack-L1-train-1"}, "that of line 1"),
    (None, "JSON"),
  ],
)
def test_broken_pack_line(tmp_path, change, part):
  lines = released.PACK_PATH.read_text().splitlines()
  record = json.loads(lines[3])
  lines[3] = "{oops" if change is None else json.dumps({**record, **change})
  path = tmp_path / "tasks.jsonl"
  path.write_text("\n".join(lines))
  with pytest.raises(ValueError) as caught:
    released.read_pack(path)
  assert f"{path}, line 4:" in str(caught.value)
  assert part in str(caught.value)
