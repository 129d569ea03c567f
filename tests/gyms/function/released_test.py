"""Files of tasks: what is read, how it is split, how errors are told."""

import json
import os
import pathlib

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import contract
from userrl_jax.gyms.function import expression
from userrl_jax.gyms.function import released

RECORD = {
  "id": "func-1",
  "rule": "c * (a * b) * d",
  "test_case": [3, 5, 5, 3],
  "expected_result": 225.0,
}


def write(folder, *records):
  lines = ",\n".join(
    r if isinstance(r, str) else json.dumps(r) for r in records
  )
  (folder / released.FILE_NAME).write_text(f"[\n{lines}\n]\n")
  return str(folder)


@pytest.fixture(name="upstream")
def upstream_folder():
  if "USERRL_SHARED" not in os.environ:
    pytest.skip("USERRL_SHARED names no folder with released files")
  return str(pathlib.Path(os.environ["USERRL_SHARED"], "upstream", "gyms"))


def test_released_functions_load_and_split(upstream):
  settings = config.Gyms(
    tasks=upstream, levels=(1, 2, 3), num_train_tasks=999, num_test_tasks=999
  )
  train, test = (
    gyms.load_tasks("function", settings, split, 0)
    for split in ("train", "test")
  )
  assert (len(train), len(test)) == (460, 78)
  assert len({t.id for t in train + test}) == 538
  assert not {t.structure for t in train} & {t.structure for t in test}
  for tasks in (train, test):
    assert {t.level for t in tasks} == {1, 2, 3}
  # As in the reference's own count: 152 functions up to renaming.
  assert len({t.structure for t in train + test}) == 152
  exponents = [
    t
    for t in train + test
    if expression.parse(t.secret.reveal()["rule"]).has_variable_exponent
  ]
  assert len(exponents) == 52 and {t.level for t in exponents} == {3}


def test_released_functions_keep_the_contract(upstream):
  settings = config.Gyms(tasks=upstream, levels=(1, 2, 3), num_test_tasks=78)
  test = gyms.load_tasks("function", settings, "test", 0)
  train = gyms.load_tasks("function", settings, "train", 0)
  subject = contract.subject("function", settings, test + train)
  contract.check_oracle(subject)
  contract.check_types(subject)
  few = contract.subject("function", settings, test[::6])
  for check in contract.CHECKS:
    if check is not contract.check_canned_band:  # a promise of our level 1
      check(few)


def test_counts_and_levels_limit_what_is_read(upstream):
  settings = config.Gyms(tasks=upstream, levels=(1,), num_train_tasks=9)
  tasks = gyms.load_tasks("function", settings, "train", 0)
  assert len(tasks) == 9 and {t.level for t in tasks} == {1}
  with pytest.raises(ValueError, match="no dev tasks"):
    gyms.load_tasks("function", settings, "dev", 0)


def test_prompt_tells_of_variable_exponents(upstream):
  settings = config.Gyms(tasks=upstream, levels=(1, 2, 3))
  gym = gyms.make("function", settings)
  for profile in ("brief", "full"):
    assert "an exponent may be a letter" in gym.system_prompt(profile)
  for level in (1, 2):
    settings = config.Gyms(tasks=upstream, levels=(level,))
    for task in gyms.load_tasks("function", settings, "train", 0):
      rule = expression.parse(task.secret.reveal()["rule"])
      assert rule.operators <= {"+", "-", "*"}
    assert "**" not in gyms.make("function", settings).system_prompt("brief")


def test_missing_folder_and_file(tmp_path):
  missing = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"no folder .*nowhere"):
    gyms.load_tasks("function", config.Gyms(tasks=missing), "train", 0)
  with pytest.raises(ValueError, match=r"functions\.json"):
    gyms.load_tasks("function", config.Gyms(tasks=str(tmp_path)), "train", 0)


@pytest.mark.parametrize(
  "record, line, parts",
  [
    ({**RECORD, "id": 7}, 3, ["'id'", "a string", "7"]),
    ({**RECORD, "id": "func-0"}, 3, ["'id'", "unique", "line 2"]),
    ({**RECORD, "rule": "a + e"}, 3, ["'rule'", "'e'"]),
    ({**RECORD, "rule": "a + __import__('os')"}, 3, ["'rule'", "may hold"]),
    ({**RECORD, "rule": "a / (b - c) + d"}, 3, ["'rule'", "division by zero"]),
    ({**RECORD, "rule": None}, 3, ["'rule'", "arithmetic"]),
    ({**RECORD, "test_case": [1, 2, 3]}, 3, ["'test_case'", "four whole"]),
    ({**RECORD, "test_case": [1, 2, 3, 4.0]}, 3, ["'test_case'", "four whole"]),
    (
      {**RECORD, "test_case": [1, 2, 3, True]},
      3,
      ["'test_case'", "four whole"],
    ),
    ({**RECORD, "test_case": "1 2 3 4"}, 3, ["'test_case'", "four whole"]),
    (
      {**RECORD, "expected_result": 224},
      3,
      ["'expected_result'", "225", "224"],
    ),
    (
      {**RECORD, "expected_result": "225"},
      3,
      ["'expected_result'", "a number"],
    ),
    (
      {**RECORD, "expected_result": float("nan")},
      3,
      ["'expected_result'", "nan"],
    ),
    ({"id": "x"}, 3, ["'rule'", "missing"]),
    ("7", 3, ["an object"]),
    ('{"id": "x",\n "rule" "a"}', 4, ["JSON", "':'"]),
    (json.dumps(RECORD) + " {", 3, ["',' or ']'"]),
    ("{", 4, ["JSON"]),
    ("", 4, ["JSON"]),
  ],
)
def test_broken_released_record(tmp_path, record, line, parts):
  folder = write(tmp_path, {**RECORD, "id": "func-0"}, record)
  with pytest.raises(ValueError) as caught:
    released.read_folder(folder)
  message = str(caught.value)
  assert f"{tmp_path / 'functions.json'}, line {line}:" in message
  assert all(part in message for part in parts), message


def test_line_of_an_indented_record(tmp_path):
  records = [{**RECORD, "id": f"f{i}"} for i in range(5)]
  records[3]["rule"] = "a +"
  path = tmp_path / released.FILE_NAME
  path.write_text(json.dumps(records, indent=2))
  lines = path.read_text().splitlines()
  assert '"f3"' in lines[lines.index("  {", 2 + 3 * 11 - 1) + 1]
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  number = int(str(caught.value).split("line ")[1].split(":")[0])
  assert '"f3"' in lines[number]  # the line after its opening brace


@pytest.mark.parametrize("text", ["", "{}", "[", "[1", "null", "[{]"])
def test_no_list_of_functions(tmp_path, text):
  (tmp_path / released.FILE_NAME).write_text(text)
  with pytest.raises(ValueError, match=r"functions\.json, line 1"):
    released.read_folder(str(tmp_path))


def test_file_that_is_no_text(tmp_path):
  (tmp_path / released.FILE_NAME).write_bytes(b"\xff\xfe[")
  with pytest.raises(ValueError, match="UTF-8"):
    released.read_folder(str(tmp_path))


def test_changed_file_is_read_again(tmp_path):
  folder = write(tmp_path, RECORD)
  assert len(released.read_folder(folder)) == 1
  write(tmp_path, RECORD, {**RECORD, "id": "func-2"})
  os.utime(tmp_path / released.FILE_NAME, ns=(1, 1))
  assert len(released.read_folder(folder)) == 2


@pytest.mark.parametrize(
  "change, part",
  [
    ({"split": "eval"}, "'split'"),
    ({"level": 4}, "'level'"),
    ({"level": True}, "'level'"),
    ({"structure": "0" * 12}, "'structure'"),
    ({"rule": "a +"}, "'rule'"),
    ({"id": "pack-L1-train-1"}, "also on line 1"),
    ({"split": "test"}, "'train' as for the other tasks"),
    (None, "JSON"),
  ],
)
def test_broken_pack_line(tmp_path, change, part):
  lines = released.PACK_PATH.read_text().splitlines()
  # The third task has a structure that an earlier line has too, for 'split'.
  structures = [json.loads(line)["structure"] for line in lines]
  index = next(
    i for i, key in enumerate(structures) if i and key in structures[:i]
  )
  record = json.loads(lines[index])
  lines[index] = "{oops" if change is None else json.dumps({**record, **change})
  path = tmp_path / "tasks.jsonl"
  path.write_text("\n".join(lines))
  with pytest.raises(ValueError) as caught:
    released.read_pack(path)
  assert f"{path}, line {index + 1}:" in str(caught.value)
  assert part in str(caught.value)
