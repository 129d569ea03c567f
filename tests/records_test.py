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


_ABLATIONS = pathlib.Path(__file__).parent / "records" / "ablations"


def _notes_of(root, letter):
  """Returns what the notes say of one experiment: to the table of the next."""
  notes = (root / "BUILD_NOTES.md").read_text()
  _, found, rest = notes.partition(f"\n| {letter}: ")
  assert found
  ends = [
    *(rest.find(f"\n| {other}: ") for other in "bacde" if other != letter),
    rest.find("*The paper's findings in small.*"),
  ]
  return rest[: min(end for end in ends if end >= 0)]


@pytest.mark.parametrize(
  ("name", "letter", "num_seeds"),
  [
    ("cold_start", "b", 5),
    ("credits", "a", 5),
    ("users", "c", 5),
    ("delayed", "d", 2),
    ("efficiency", "e", 2),
  ],
)
def test_pages_say_of_experiments_what_was_found(root, name, letter, num_seeds):
  report = json.loads((_ABLATIONS / f"{name}.json").read_text())
  experiment = experiments.load(str(root / f"configs/ablations/{name}.py"))
  tests = {test.question: test for test in experiment.tests}
  assert [test["question"] for test in report["tests"]] == list(tests)
  seeds = list(range(num_seeds))
  assert all(test["seeds"] == seeds for test in report["tests"])
  notes = _notes_of(root, letter)
  page = (root / "configs/expected/ablations.md").read_text()
  head, *rows = report["sections"]["Treatments"]
  for row in rows:
    of = dict(zip(head, row, strict=True))
    assert of["runs"] == f"{num_seeds}"
    assert f"{of['score']} ({of['95% interval']})" in notes
    assert f" {of['score']}" in page
    if letter == "b":
      assert f"| {of['perplexity']}, {of['perplexity, all']}, " in notes
  lines = [line.strip("| ").split(" | ") for line in notes.splitlines()]
  for test, line in zip(report["tests"], _planned(lines), strict=True):
    ends = [
      f"{a:+.3f} to {b:+.3f}" for a, b in (test["wide"], test["t_interval"])
    ]
    hint = (
      " (two runs: a hint)" * ("holds" in test["verdict"]) * (num_seeds == 2)
    )
    assert line[0].removesuffix(" (primary)") == test["question"]
    assert line[0].endswith(" (primary)") == test["is_primary"]
    assert line[2:] == [
      f"{test['difference']['mean']:+.3f}",
      f"{test['level']:.1%}: {ends[0]}",
      ends[1],
      test["verdict"] + hint,
    ]


def _planned(lines):
  """Returns the rows of the table of planned tests, verdicts without marks."""
  start = next(n for n, line in enumerate(lines) if line[0] == "planned") + 2
  for line in lines[start:]:
    if len(line) < 2:
      return
    yield [*line[:-1], line[-1].replace("*", "")]


def test_notes_say_what_rl_alone_gave_for_longer(root):
  record = json.loads((_ABLATIONS / "rl_only.json").read_text())
  notes, score = _notes_of(root, "b"), record["score"]
  ends = f"{score['low']:.3f} to {score['high']:.3f}"
  assert f"| {score['mean']:.3f} ({ends}) |" in notes
  for name in ("SFT+RL above it", "above 40 iterations"):
    of = record[name]
    assert f"{of['mean']:+.3f} ({of['low']:+.3f} to {of['high']:+.3f})" in notes
  runs = list(record["seeds"].values())
  mean = lambda values: sum(values) / len(runs)
  minutes = mean(run["minutes"] for run in runs)
  assert f"({minutes:.1f} minutes a run" in notes
  assert f"{mean(run['tokens'] for run in runs):,.0f} sampled tokens" in notes
  for part in ("first 20", "last 20"):
    of_part = mean(run["training"][part] for run in runs)
    assert re.search(rf"{part}( iterations)? {of_part:.3f}", notes)
  # The report of b shows the same runs beside its own.
  report = json.loads((_ABLATIONS / "cold_start.json").read_text())
  head, *rows = report["sections"]["Treatments"]
  beside = dict(zip(head, rows[0], strict=True))
  assert beside["treatment"] == "RL alone for longer"
  assert (beside["score"], beside["95% interval"]) == (
    f"{score['mean']:.3f}",
    ends,
  )
  of_runs = [f"{run['score']:.3f}" for run in runs]
  assert beside["of runs"].split() == of_runs


def test_notes_say_how_credit_follows_what_questions_told(root):
  report = json.loads((_ABLATIONS / "credits.json").read_text())
  _, *rows = report["sections"]["Credit of turns and what they told"]
  notes, names = _notes_of(root, "a"), {"predicted": "learned", "r2g": "R2G"}
  for gym, credit, *columns in rows:
    if credit not in names:
      continue
    told = []
    for mean, of_runs in (columns[:2], columns[2:]):
      values = sorted(of_runs.split(), key=float)
      told.append(f"{mean} ({values[0]} to {values[-1]})")
    row = " | ".join([f"{gym.title()}, {names[credit]}", *told])
    assert f"| {row} |" in notes
