"""What recipes and pages promise is what runs gave.

`records/quickstart_seeds.json` has the scores, curves and comparison of the
quickstart's runs of seeds 0, 1 and 2; its commands and commit are in it.
`records/ablations/` has the reports of experiments.
"""

import ast
import json
import pathlib
import re

import pytest

from userrl_jax import experiments
from userrl_jax import flags

_SEEDS = ("0", "1", "2")


@pytest.fixture(scope="module")
def record():
  path = pathlib.Path(__file__).parent / "records" / "quickstart_seeds.json"
  return json.loads(path.read_text())


def _arm(record, name):
  return next(arm for arm in record["compare"]["arms"] if arm["name"] == name)


def test_grpo_is_above_its_start_and_more_imitation_on_every_seed(record):
  above_start = _arm(record, "cold_start")["above"]
  assert above_start["mean"] >= 0.1 and above_start["low"] > 0
  continued = _arm(record, "continued")
  assert continued["above"]["low"] > 0 and not continued["has_less_time"]
  for seed in _SEEDS:
    scores = record["seeds"][seed]["scores"]
    grpo = scores["grpo"]["macro"]["score"]
    assert grpo > scores["cold_start"]["macro"]["score"] + 0.1
    assert grpo > scores["continued"]["macro"]["score"]


def test_the_runs_are_of_the_recipe_that_is_here(record, root):
  c = flags.load_recipe(str(root / "configs" / "quickstart.py"))
  assert _arm(record, "grpo")["updates"] == c.grpo.num_iterations
  assert _arm(record, "cold_start")["updates"] == c.cold_start.num_steps
  assert _arm(record, "continued")["updates"] == c.comparison.continued_steps
  num_tasks = 2 * len(c.gyms.names) * c.evaluation.num_tasks
  assert _arm(record, "base")["above"]["num_tasks"] == len(_SEEDS) * num_tasks


def test_recipe_and_readme_say_what_seed_0_gave(record, root):
  text = (root / "configs" / "quickstart.py").read_text()
  said = ast.get_docstring(ast.parse(text)).partition("Expect:")[2]
  scores = record["seeds"]["0"]["scores"]
  expected = [scores["base"]["macro"]["score"]]
  for stage in ("cold_start", "grpo"):
    macro = scores[stage]["macro"]
    expected += [macro["score"], macro["low"], macro["high"]]
  numbers = re.findall(r"\d\.\d+", said)
  assert numbers == [f"{value:.2f}" for value in expected]
  shown = f"from 0.00 to {expected[1]:.2f} to {expected[4]:.2f}"
  readme = " ".join((root / "README.md").read_text().split())
  assert shown in readme


@pytest.mark.parametrize(
  ("name", "num_seeds"),
  [
    ("cold_start", 5),
    ("credits", 5),
    ("users", 5),
    ("delayed", 2),
    ("efficiency", 2),
  ],
)
def test_pages_say_of_experiments_what_was_found(root, name, num_seeds):
  path = pathlib.Path(__file__).parent / "records" / "ablations"
  report = json.loads((path / f"{name}.json").read_text())
  experiment = experiments.load(str(root / f"configs/ablations/{name}.py"))
  tests = {test.question: test for test in experiment.tests}
  assert [test["question"] for test in report["tests"]] == list(tests)
  seeds = list(range(num_seeds))
  assert all(test["seeds"] == seeds for test in report["tests"])
  notes = (root / "BUILD_NOTES.md").read_text()
  page = (root / "configs/expected/ablations.md").read_text()
  head, *rows = report["sections"]["Treatments"]
  for row in rows:
    of = dict(zip(head, row, strict=True))
    assert of["runs"] == f"{num_seeds}"
    assert f"{of['score']} ({of['95% interval']})" in notes
    assert f" {of['score']}" in page
  for test in report["tests"]:
    assert f"{test['difference']['mean']:+.3f}" in notes
