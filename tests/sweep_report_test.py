"""Reports of sweeps, from runs whose numbers are known."""

import json

import numpy as np
import pytest

from tests import compare_test
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import scorecard
from userrl_jax import sweep_report

GAINS = {"rate=1": 0.2, "rate=2": 0.5, "rate=3": 0.4}
BY_SEED = (0.0, 0.1, 0.2)  # what a seed adds in every setting


def _member(folder, cell, seed, gyms=("function", "travel"), held_out=()):
  """Writes a run with one score on each of ten tasks, plus what they add."""
  name = f"{cell},seed={seed}"
  config = config_lib.Config(seed=seed, stages=("base", "grpo", "continued"))
  (folder / name / "evaluations").mkdir(parents=True)
  values = json.dumps(config_fields.to_dict(config))
  (folder / name / "config.json").write_text(values)
  ease = np.random.default_rng(seed).uniform(0, 0.2, 10)
  ease -= ease.mean()
  for stage, more in (("base", -0.1), ("grpo", 0.0), ("continued", 0.3)):
    summary = scorecard.evaluation_summary(
      [
        compare_test.trajectory(
          gym, "test", i, GAINS[cell] + BY_SEED[seed] + more + ease[i]
        )
        for gym in gyms
        for i in range(10)
      ],
      stage,
      1.0,
      seed,
      held_out_gyms=held_out,
    )
    path = folder / name / "evaluations" / f"{stage}.json"
    path.write_text(json.dumps(summary))
  return sweep_report.Member(name, cell, folder / name)


@pytest.fixture
def members(tmp_path):
  return [_member(tmp_path, cell, seed) for cell in GAINS for seed in (0, 1, 2)]


def test_settings_are_means_over_seeds_best_first(members):
  cells = sweep_report.summarize(members).cells
  assert [cell.name for cell in cells] == ["rate=2", "rate=3", "rate=1"]
  for cell in cells:
    mean = GAINS[cell.name] + 0.1
    assert cell.score.mean == pytest.approx(mean)
    assert cell.gyms == pytest.approx({"function": mean, "travel": mean})
    assert (cell.num_finished, cell.num_runs, cell.invalid) == (3, 3, 0)
    # Seeds are 0.1 apart: an interval of tasks alone would be far narrower.
    assert 0.15 < cell.score.high - cell.score.low < 0.35
    assert cell.score.num_tasks == 3 * 2 * 10


def test_the_best_is_compared_seed_by_seed_on_the_same_tasks(members):
  best, *others = sweep_report.summarize(members).cells
  assert best.best_above is None
  for cell in others:
    above = cell.best_above
    expected = 0.5 - GAINS[cell.name]
    # What seeds and tasks add is the same on both sides.
    assert (above.mean, above.low, above.high) == pytest.approx((expected,) * 3)


def test_scores_are_of_the_last_stage_that_is_no_arm(members):
  summary = sweep_report.summarize(members)
  assert summary.stages == ["grpo"]
  assert "| score of grpo |" in sweep_report.table(summary)


def test_what_is_not_finished_is_told_and_in_no_number(tmp_path, members):
  failed = sweep_report.Member(
    "rate=1,seed=3", "rate=1", tmp_path / "none", "failed with code 2"
  )
  begun = sweep_report.Member(
    "rate=4", "rate=4", tmp_path / "none", "has not begun"
  )
  (members[0].folder / "evaluations" / "grpo.json").unlink()
  summary = sweep_report.summarize([*members, failed, begun])
  cells = {cell.name: cell for cell in summary.cells}
  assert (cells["rate=1"].num_finished, cells["rate=1"].num_runs) == (2, 4)
  assert cells["rate=1"].score.mean == pytest.approx(0.2 + 0.15)
  assert summary.cells[-1].name == "rate=4" and cells["rate=4"].score is None
  assert set(summary.notes) >= {
    "rate=1,seed=0: no score of grpo",
    "rate=1,seed=3: failed with code 2",
    "rate=4: has not begun",
  }


def test_other_gyms_are_not_compared(tmp_path):
  summary = sweep_report.summarize(
    [
      _member(tmp_path, "rate=1", 0),
      _member(tmp_path, "rate=2", 0, gyms=("turtle",)),
      _member(tmp_path, "rate=3", 0, held_out=("travel",)),
    ]
  )
  assert [cell.best_above for cell in summary.cells] == [None] * 3
  assert [cell.held_out for cell in summary.cells] == [None, 0.4, None]
  head, _, *rows = sweep_report.table(summary).split("\n\n")[0].splitlines()
  names = [name.strip() for name in head.split("|")]
  at = names.index("held-out gyms")
  assert names[at - 3 : at] == ["turtle", "function", "travel"]
  found = {}
  for row in rows:
    name, *values = [cell.strip() for cell in row.split("|")][1:]
    found[name] = values[at - 5 : at - 1]
  assert found == {
    "rate=2": ["0.500", "", "", ""],
    "rate=3": ["", "0.400", "", "0.400"],
    "rate=1": ["", "0.200", "0.200", ""],
  }


def test_the_page_stands_alone_and_escapes_names(tmp_path, members):
  hostile = sweep_report.Member(
    "<script>x", "<script>x", tmp_path / "a?b", "failed with code 1"
  )
  (members[0].folder / "report.html").write_text("page")
  path, table = sweep_report.write(tmp_path, [*members, hostile])
  page = path.read_text()
  assert "<script>x" not in page and "&lt;script&gt;x" in page
  assert f'href="{members[0].name.replace(",", "%2C").replace("=", "%3D")}' in (
    page
  )
  assert f"{members[1].name}</a>" not in page  # it has no page of its own
  assert "http" not in page.replace("http-equiv", "")
  assert (tmp_path / "report.md").read_text() == f"{table}\n"
  values = json.loads((tmp_path / "report.json").read_text())
  assert values["cells"][0]["score"]["mean"] == pytest.approx(0.6)
