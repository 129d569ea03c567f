"""Files of claims: what is read, how it is split, how errors are told."""

import asyncio
import collections
import json
import os
import pathlib
import subprocess
import sys

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import contract
from userrl_jax.gyms.persuade import debate
from userrl_jax.gyms.persuade import gym as persuade_gym
from userrl_jax.gyms.persuade import oracle
from userrl_jax.gyms.persuade import released

RECORD = {
  "id": "ABC",
  "claim": "Ponds should be drained.",
  "argument": "Ponds breed gnats. " * 60,
}


class EasyUser:
  """Is moved two stances by every argument."""

  async def respond(self, case, talk, argument):
    return debate.Verdict(min(6, talk.stance + 2), f"Hm, {len(argument)}.")


def settings_of(folder):
  return config.Gyms(
    tasks=str(folder), levels=(3,), num_train_tasks=999, num_test_tasks=999
  )


def write(folder, *records):
  path = folder / released.FILE_NAME
  path.write_text(json.dumps(list(records)), encoding="utf-8")
  return str(folder)


def write_rows(folder, name, *records, column="reward_model"):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  rows = folder / released.ROWS_FOLDER
  rows.mkdir(exist_ok=True)
  table = pyarrow.table(
    {column: list(records), "ability": ["x"] * len(records)}
  )
  parquet.write_table(table, rows / name)
  return rows / name


def subject(settings, tasks):
  return contract.Subject(
    lambda: persuade_gym.PersuadeGym(settings, EasyUser()),
    tasks,
    oracle.Oracle,
    gyms.canned("persuade"),
    gyms.hacks("persuade"),
  )


def test_released_claims_load_split_and_play():
  pytest.importorskip("pyarrow")
  if "USERRL_SHARED" not in os.environ:
    pytest.skip("USERRL_SHARED names no folder with released files")
  folder = pathlib.Path(os.environ["USERRL_SHARED"], "upstream", "data")
  settings = settings_of(folder)
  tasks = {
    split: gyms.load_tasks("persuade", settings, split, 0)
    for split in ("train", "dev", "test")
  }
  sizes = {split: len(found) for split, found in tasks.items()}
  assert sum(sizes.values()) == 378
  assert sizes == {"train": 333, "dev": 16, "test": 29}
  keys = {s: {t.structure for t in found} for s, found in tasks.items()}
  assert {s: len(k) for s, k in keys.items()} == {
    "train": 52,
    "dev": 3,
    "test": 6,
  }
  assert len(set.union(*keys.values())) == 61  # of 378 rows
  everything = [task for found in tasks.values() for task in found]
  for task in everything:
    assert 25 <= len(task.public["claim"]) <= 94
    assert 1036 <= len(task.secret.reveal()["argument"]) <= 2411
  contract.check_oracle(subject(settings, everything))
  contract.check_types(subject(settings, everything))
  for check in (
    contract.check_secrets,
    contract.check_determinism,
    contract.check_clone,
    contract.check_malformed,
  ):
    check(subject(settings, everything[::40]))


def test_what_is_public_and_what_is_not(tmp_path):
  (task,) = released.read_folder(write(tmp_path, RECORD))
  assert dict(task.public) == {"claim": RECORD["claim"]}
  assert task.structure == "ponds should be drained" and task.level == 3
  gym = persuade_gym.PersuadeGym(config.Gyms(), EasyUser())
  first = asyncio.run(gym.reset(task, 0))
  assert first.text == "I say: Ponds should be drained. Change my mind."
  assert gym.undisclosed() == (RECORD["argument"].strip(),)


def test_rules_refuse_what_they_do_not_know(tmp_path):
  for task in released.read_folder(write(tmp_path, RECORD)):
    gym = gyms.make("persuade", settings_of(tmp_path))
    with pytest.raises(ValueError, match=r"user\.kind=endpoint"):
      asyncio.run(gym.reset(task, 0))


def test_equal_claims_are_of_one_split(tmp_path):
  records = [
    {**RECORD, "id": f"{i}", "claim": f"Pond {i % 50}, drained{'!' * (i % 2)}"}
    for i in range(150)
  ]
  tasks = released.read_folder(write(tmp_path, *records))
  splits = collections.defaultdict(set)
  for task in tasks:
    splits[task.structure].add(task.split)
  assert len(splits) == 50
  assert all(len(found) == 1 for found in splits.values())
  assert set.union(*splits.values()) == {"train", "dev", "test"}


def test_rows_of_a_test_file_are_of_test(tmp_path):
  train = [{**RECORD, "id": f"a{i}", "claim": f"Claim {i}."} for i in range(99)]
  test = [{**RECORD, "id": f"b{i}", "claim": f"Other {i}."} for i in range(9)]
  write_rows(tmp_path, "train.parquet", *train)
  alone = released.read_folder(str(tmp_path))
  assert {t.split for t in alone} == {"train", "dev", "test"}
  write_rows(tmp_path, "test.parquet", *test)
  both = released.read_folder(str(tmp_path))
  assert {t.id for t in both if t.split == "test"} == {t["id"] for t in test}
  assert {t.split for t in both} == {"train", "dev", "test"}
  # The raw file comes first.
  assert len(released.read_folder(write(tmp_path, RECORD))) == 1


def test_without_pyarrow_rows_are_refused(tmp_path):
  path = tmp_path / released.ROWS_FOLDER / "train.parquet"
  path.parent.mkdir()
  path.write_bytes(b"")
  code = f"""
import sys
sys.modules["pyarrow"] = None
from userrl_jax.gyms.persuade import released
released.read_folder({str(tmp_path)!r})
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert f"ValueError: {path}: reading parquet needs pyarrow" in done.stderr


def test_missing_folder_and_file(tmp_path):
  missing = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"no folder .*nowhere"):
    gyms.load_tasks("persuade", settings_of(missing), "train", 0)
  with pytest.raises(ValueError, match=r"all_statements_refined\.json"):
    gyms.load_tasks("persuade", settings_of(tmp_path), "train", 0)


BROKEN = [
  ({**RECORD, "id": "first"}, ["'id'", "unique"]),
  ({**RECORD, "id": 7}, ["'id'", "text", "7"]),
  ({**RECORD, "claim": " "}, ["'claim'", "text"]),
  ({**RECORD, "claim": "x" * 301}, ["'claim'", "300", "301"]),
  ({**RECORD, "argument": None}, ["'argument'", "text"]),
  ({**RECORD, "argument": "be drained"}, ["'claim'", "'argument'"]),
  ({"id": "x", "claim": "y"}, ["'argument'", "missing"]),
  (7, ["an object", "7"]),
]


@pytest.mark.parametrize("record, parts", BROKEN)
def test_broken_record(tmp_path, record, parts):
  folder = write(tmp_path, {**RECORD, "id": "first"}, record)
  with pytest.raises(ValueError) as caught:
    released.read_folder(folder)
  message = str(caught.value)
  assert f"{tmp_path / released.FILE_NAME}, record 2:" in message
  assert all(part in message for part in parts), message


def test_broken_row(tmp_path):
  record = {**RECORD, "claim": ""}
  path = write_rows(tmp_path, "train.parquet", RECORD, {**record, "id": "x"})
  with pytest.raises(ValueError, match=rf"{path}, row 2: field 'claim'"):
    released.read_folder(str(tmp_path))
  write_rows(tmp_path, "train.parquet", RECORD, column="other")
  with pytest.raises(ValueError, match="a column 'reward_model'; No match"):
    released.read_folder(str(tmp_path))
  path.write_bytes(b"no parquet")
  with pytest.raises(ValueError, match="must be rows of UserRL"):
    released.read_folder(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"7", b"\xff\xfe["])
def test_no_list_of_claims(tmp_path, content):
  path = tmp_path / released.FILE_NAME
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  assert str(caught.value).startswith(f"{path}: must be")


def test_changed_file_is_read_again(tmp_path):
  assert len(released.read_folder(write(tmp_path, RECORD))) == 1
  folder = write(tmp_path, RECORD, {**RECORD, "id": "2"})
  os.utime(tmp_path / released.FILE_NAME, ns=(1, 1))
  assert len(released.read_folder(folder)) == 2
