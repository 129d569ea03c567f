"""What reports of experiments tell beside scores: doubts, and commands."""

import json

import numpy as np
import pytest

from tests import experiment_report_test as known
from userrl_jax import pages
from userrl_jax import sweep_report


@pytest.fixture(scope="module")
def members(tmp_path_factory):
  return known.make_members(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(members, tmp_path_factory):
  folder = tmp_path_factory.mktemp("report")
  page, _ = sweep_report.write(folder, members, known.EXPERIMENT)
  return json.loads(page.with_suffix(".json").read_text())


def _rows(report, title):
  head, *rows = report["sections"][title]
  return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_forgetting_is_told_of_what_the_agent_reads_too(report):
  for row in _rows(report, "Treatments").values():
    assert (row["perplexity"], row["perplexity, all"]) == ("1.700", "22.000")


def test_t_intervals_stand_beside_and_change_no_verdict(report):
  tests = {test["question"]: test for test in report["tests"]}
  rows = _rows(report, "Planned tests")
  for question in ("sooner", "first"):
    test = tests[question]
    mean, error = np.mean(test["of_seeds"]), np.std(test["of_seeds"], ddof=1)
    t = {"sooner": 4.604, "first": 2.776}[question]  # 4 degrees, 99% and 95%
    want = mean + np.array([-1, 1]) * t * error / 5**0.5
    assert test["t_interval"] == pytest.approx(want.tolist(), abs=1e-5)
    told = rows[question + " (primary)" * (question == "first")]
    low, high = test["t_interval"]
    assert told["t interval"] == f"{low:+.3f} to {high:+.3f}"


def test_what_holds_in_fewer_than_three_runs_is_a_hint(members, tmp_path):
  of_seeds = lambda num: [m for m in members if int(m.name[-1]) < num]
  for num, words in (
    (1, "holds (one run: a hint)"),
    (2, "holds (two runs: a hint)"),
    (3, "holds"),
  ):
    page, _ = sweep_report.write(tmp_path, of_seeds(num), known.EXPERIMENT)
    values = json.loads(page.with_suffix(".json").read_text())
    rows = _rows(values, "Planned tests")
    assert rows["first (primary)"]["verdict"] == words
    assert rows["second"]["verdict"] == f"the contrary {words}"
    assert rows["plain"]["verdict"] == "cannot be told"
    has_spread = values["tests"][0]["t_interval"] is not None
    assert has_spread == (num > 1)


def test_commands_and_commits_are_told(report):
  rows = _rows(report, "Commands")
  assert list(rows) == list(known.ARMS)
  for arm, row in rows.items():
    assert row["command"].endswith(f"train --config=x.py:{arm} --seed=0")
  assert rows["good"]["commit"] == "0123456"
  assert rows["poor"]["commit"] == "0123456, fedcba9 with changes"


def test_numbers_do_not_break_and_words_do():
  for text in ("0.5", "+0.577 (+0.517 to +0.641)", "-0.04 to 1", "95.0%", "12"):
    assert pages.is_number_cell(text)
  for text in ("", "holds", "0.024 0.018 0.038", "0.3 for", "3 of 5"):
    assert not pages.is_number_cell(text)
  assert pages.is_number_list("0.024 -0.018 0.038")
  assert not any(map(pages.is_number_list, ("0.024", "0.1 to 0.2", "holds")))
