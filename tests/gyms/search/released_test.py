"""Files of tasks: what is read, how errors are told, who can play them."""

import asyncio
import json
import os

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import contract
from userrl_jax.gyms.search import gym as search_gym
from userrl_jax.gyms.search import index
from userrl_jax.gyms.search import oracle
from userrl_jax.gyms.search import released

RECORD = {"id": "q-1", "question": "Who wrote it?", "answer": "Ann Example "}


class Letters:
  """Takes an answer that is spelt as the true one."""

  async def equivalent(self, question, secret, answer):
    return answer == secret["answer"]


class Pages:
  """Finds the same page for everything."""

  async def search(self, query, k):
    return (index.Hit("A page", "It says nothing of use."),)


def settings_of(folder):
  return config.Gyms(tasks=str(folder), levels=(2,), num_test_tasks=999)


def write(folder, *records):
  path = folder / released.FILE_NAME
  path.write_text(json.dumps(list(records)), encoding="utf-8")
  return str(folder)


def test_released_questions_load_and_keep_the_contract(shared):
  settings = settings_of(shared / "upstream" / "gyms")
  tasks = gyms.load_tasks("search", settings, "test", 0)
  assert len(tasks) == 125 and {t.split for t in tasks} == {"test"}
  assert len({t.structure for t in tasks}) == 125
  with pytest.raises(ValueError, match="no train tasks"):
    gyms.load_tasks("search", settings, "train", 0)

  def subject(some):
    return contract.Subject(
      lambda: search_gym.SearchGym(settings, Letters(), Pages()),
      some,
      oracle.Oracle,
      gyms.canned("search"),
      gyms.hacks("search"),
    )

  contract.check_oracle(subject(tasks))
  contract.check_types(subject(tasks))
  for check in contract.CHECKS:
    if check is not contract.check_canned_band:  # a promise of our level 1
      check(subject(tasks[::12]))


def test_rules_and_our_pages_refuse_what_they_do_not_know(tmp_path):
  (task,) = released.read_folder(write(tmp_path, RECORD))
  gym = gyms.make("search", settings_of(tmp_path))
  with pytest.raises(ValueError, match=r"user\.kind=endpoint"):
    asyncio.run(gym.reset(task, 0))
  gym = search_gym.SearchGym(settings_of(tmp_path), Letters())
  with pytest.raises(ValueError, match=r"gyms\.search\.source=web"):
    asyncio.run(gym.reset(task, 0))


def test_what_is_public_and_what_is_not(tmp_path):
  (task,) = released.read_folder(write(tmp_path, RECORD))
  assert dict(task.public) == {"question": "Who wrote it?"}
  gym = search_gym.SearchGym(settings_of(tmp_path), Letters(), Pages())
  assert asyncio.run(gym.reset(task, 0)).text == "Who wrote it?"
  assert gym.undisclosed() == ("Ann Example",)


def test_missing_folder_and_file(tmp_path):
  with pytest.raises(ValueError, match=r"no folder .*nowhere"):
    gyms.load_tasks("search", settings_of(tmp_path / "nowhere"), "test", 0)
  with pytest.raises(ValueError, match=r"questions\.json"):
    gyms.load_tasks("search", settings_of(tmp_path), "test", 0)


@pytest.mark.parametrize(
  "record, parts",
  [
    ({**RECORD, "id": "q-0"}, ["'id'", "unique", "record 1"]),
    ({**RECORD, "id": 7}, ["'id'", "text", "7"]),
    ({**RECORD, "question": ""}, ["'question'", "1 to 200", "got 0"]),
    ({**RECORD, "question": "x" * 201}, ["'question'", "got 201"]),
    ({**RECORD, "answer": "x" * 101}, ["'answer'", "1 to 100", "got 101"]),
    ({**RECORD, "answer": None}, ["'answer'", "text"]),
    ({"id": "x"}, ["'question'", "missing"]),
    (7, ["an object", "7"]),
  ],
)
def test_broken_released_record(tmp_path, record, parts):
  folder = write(tmp_path, {**RECORD, "id": "q-0"}, record)
  with pytest.raises(ValueError) as caught:
    released.read_folder(folder)
  message = str(caught.value)
  assert f"{tmp_path / released.FILE_NAME}, record 2:" in message
  assert all(part in message for part in parts), message


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"7", b"\xff\xfe["])
def test_no_list_of_questions(tmp_path, content):
  path = tmp_path / released.FILE_NAME
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  assert str(caught.value).startswith(f"{path}: must be")


def test_changed_file_is_read_again(tmp_path):
  assert len(released.read_folder(write(tmp_path, RECORD))) == 1
  folder = write(tmp_path, RECORD, {**RECORD, "id": "q-2"})
  os.utime(tmp_path / released.FILE_NAME, ns=(1, 1))
  assert len(released.read_folder(folder)) == 2


@pytest.mark.parametrize(
  "change, part",
  [
    ({"split": "test"}, "'split' must be 'train'"),
    ({"level": 4}, "'level'"),
    ({"level": True}, "'level'"),
    ({"structure": "nowhere"}, "'structure'"),
    ({"question": " "}, "'question'"),
    ({"question": "Is it a PERCH?", "answer": "perch"}, "must not tell"),
    ({"question": "Soller?", "answer": "River Soller"}, "must not tell"),
    ({"answer": 7}, "'answer'"),
    ({"queries": []}, "'queries' must be a list of 1 to 5"),
    ({"queries": ["a", 7]}, "'queries' must be a list of 1 to 5"),
    ({"chain": ["Zarnow"]}, "'chain' must name pages"),
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
