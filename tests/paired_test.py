"""Two evaluation files, tested against each other."""

import dataclasses
import json

import numpy as np
import pytest

from userrl_jax import paired
from userrl_jax import scorecard
from userrl_jax import statistics
from userrl_jax import types

PINS = {"tasks": {"tau": "1"}, "user": {}, "config": "c", "model": "a"}


def write(path, solved, pins=PINS, temperature=1.0):
  """Writes an evaluation of gym -> whether each task was solved."""
  empty = np.zeros(0, np.int32)
  summary = scorecard.evaluation_summary(
    [
      types.Trajectory(
        types.Task(gym, f"t{i:02}", "test", 1, "s", {}, types.Secret({})),
        *(0, 0, empty, empty, empty),
        turns=(types.Turn("x", None, "", float(is_solved)),),
        stop_reason=types.StopReason.TERMINATED,
      )
      for gym, own in solved.items()
      for i, is_solved in enumerate(own)
    ],
    path.stem,
    temperature,
    seed=0,
    pins=pins,
  )
  path.write_text(json.dumps(summary))
  return path


def test_kinds_of_users_are_told_apart():
  def evaluation(solved):
    empty = np.zeros(0, np.int32)
    played = [
      types.Trajectory(
        types.Task(gym, f"t{i}", "test", 1, "s", {}, types.Secret({})),
        *(member, 0, empty, empty, empty),
        turns=(types.Turn("x", None, "", float(solved[profile](i))),),
        stop_reason=types.StopReason.TERMINATED,
        profile=profile,
      )
      for gym in ("tau", "search")
      for member, profile in enumerate(solved)
      for i in range(8)
    ]
    summary = scorecard.evaluation_summary(played, "x", 1.0, seed=0)
    return scorecard.Evaluation.from_dict(summary)

  a = evaluation({"terse": lambda i: i == 0, "wrong": lambda i: i < 4})
  b = evaluation({"terse": lambda i: i < 7, "wrong": lambda i: i < 4})
  lines = paired.table(a, b).splitlines()
  found = {tuple(r.strip(" |").split(" | ")[:3]) for r in lines[2:] if r}
  # Over both kinds of users, and with each.
  for gym in ("tau", "search", "mean of gyms"):
    assert (gym, "score", "+0.375") in found
    assert (f"{gym}, terse users", "score", "+0.750") in found
    assert (f"{gym}, wrong users", "score", "+0.000") in found


def test_the_table_has_the_tests(tmp_path, capsys):
  a = {"tau": [0, 0, 0, 0, 0, 0, 0, 1], "search": [1, 0]}
  b = {"tau": [1, 1, 1, 1, 1, 1, 1, 0], "search": [1, 0]}
  paths = [
    write(tmp_path / "a.json", a),
    write(tmp_path / "b.json", b, PINS | {"model": "b"}),
  ]
  assert paired.main(list(map(str, paths))) == 0
  lines = capsys.readouterr().out.splitlines()
  rows = {tuple(r.strip(" |").split(" | ")[:2]): r for r in lines[2:]}
  tau = rows["tau", "score"].strip(" |").split(" | ")
  # 7 better and 1 worse: 18 / 256 by either test, as all differences are 1.
  assert tau[2] == "+0.750"
  assert tau[4:] == ["8", "7", "1", "0.0703", "0.0703"]
  assert rows["tau", "success"].endswith("| 0.0703 | 0.0703 |")
  search = rows["search", "score"].strip(" |").split(" | ")
  assert search[2:] == [
    "+0.000",
    "+0.000 to +0.000",
    "2",
    *"00",
    *["1.0000"] * 2,
  ]
  evaluations = [paired.read(path) for path in paths]
  macro = statistics.paired_macro_difference(
    [tuple(e.scores for e in evaluations)]
  )
  assert (
    f"{macro.mean:+.3f} | {macro.low:+.3f} to" in rows["mean of gyms", "score"]
  )
  assert not any(line.startswith("Note") for line in lines)


def test_what_makes_them_less_comparable_is_noted(tmp_path):
  a = paired.read(write(tmp_path / "a.json", {"tau": [0], "search": [1]}))
  other = write(
    tmp_path / "b.json", {"tau": [1]}, PINS | {"user": {"m": 1}}, 0.5
  )
  text = paired.table(a, paired.read(other))
  assert "only one of them played search" in text
  assert "they differ in user." in text
  assert "temperature 1 against 0.5" in text
  assert "no pins" in paired.table(a, dataclasses.replace(a, pins={}))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{}", "must hold an evaluation, got an evaluation must have the fields"),
    ("{", "must hold an evaluation"),
    (None, "No such file"),
  ],
)
def test_what_is_no_evaluation_is_told(tmp_path, text, message, capsys):
  path = tmp_path / "a.json"
  if text is not None:
    path.write_text(text)
  assert paired.main([str(path), str(path)]) == 2
  assert message in capsys.readouterr().err


def test_other_gyms_cannot_be_paired(tmp_path, capsys):
  a = write(tmp_path / "a.json", {"tau": [1]})
  b = write(tmp_path / "b.json", {"search": [1]})
  assert paired.main([str(a), str(b)]) == 2
  assert "need a gym that both played" in capsys.readouterr().err
