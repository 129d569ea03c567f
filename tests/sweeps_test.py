"""Tests of what runs a sweep has, and of what it refuses."""

import pathlib

import pytest

from userrl_jax import sweeps

FOLDER = pathlib.Path("runs/sweep")
RATE = "grpo.optimizer.learning_rate"
LOG = f"{RATE}=log(1e-5,1e-3)"


@pytest.fixture(scope="module")
def plan(root):
  recipe = f"--config={root / 'configs' / 'quickstart.py'}"

  def make(*argv, **kwargs):
    return sweeps.plan([recipe, *argv], FOLDER, **kwargs)

  return make


def test_a_grid_is_every_mix_in_folders_named_by_values(plan):
  runs = plan(grid=[f"{RATE}=1e-4,0.0003", "seed=0,1,2"])
  assert [run.name for run in runs] == [
    f"learning_rate={rate},seed={seed}"
    for rate in ("0.0001", "0.0003")
    for seed in (0, 1, 2)
  ]
  assert [run.cell for run in runs[::3]] == [
    "learning_rate=0.0001",
    "learning_rate=0.0003",
  ]
  last = runs[-1]
  assert last.config["grpo"]["optimizer"]["learning_rate"] == 3e-4
  assert last.config["seed"] == 2
  assert last.config["out_dir"] == str(FOLDER / last.name)
  assert last.argv[1:] == (
    f"--config.{RATE}=0.0003",
    "--config.seed=2",
    f"--config.out_dir={FOLDER / last.name}",
  )


def test_runs_keep_their_names_when_a_grid_grows(plan):
  names = {run.name for run in plan(grid=["seed=0,1"])}
  assert names < {run.name for run in plan(grid=["seed=2,1,0"])}


def test_values_with_commas_stand_in_brackets(plan):
  runs = plan(grid=['gyms.names=("function","travel"),(turtle)'])
  assert [tuple(run.config["gyms"]["names"]) for run in runs] == [
    ("function", "travel"),
    ("turtle",),
  ]
  assert [run.name for run in runs] == ["names=function+travel", "names=turtle"]


def test_fields_of_one_name_are_told_by_their_section(plan):
  other = "cold_start.optimizer.learning_rate"
  (run,) = plan(grid=[f"{RATE}=1e-4", f"{other}=1e-3"])
  assert run.name == f"{RATE}=0.0001,{other}=0.001"


def test_names_are_folders_whatever_the_values(plan):
  folders = "gyms.tasks=/some where/a,/some/where/a," + "x" * 300
  runs = plan("--config.evaluation.splits=test", grid=[folders])
  assert all(len(run.name) < 200 and "/" not in run.name for run in runs)
  assert len({run.name for run in runs}) == 3


def test_arms_are_arguments_of_the_recipe(root):
  recipe = f"--config={root / 'configs' / 'ablations' / 'credits.py'}"
  runs = sweeps.plan(
    [recipe], FOLDER, grid=["seed=0,1"], arms=("naive", "em_r2g")
  )
  assert [(run.name, run.arm, run.cell) for run in runs] == [
    (f"arm={arm},seed={seed}", arm, f"arm={arm}")
    for arm in ("naive", "em_r2g")
    for seed in (0, 1)
  ]
  last = runs[-1]
  assert last.argv[:2] == (f"{recipe}:em_r2g", "--config.seed=1")
  assert last.config["grpo"]["credit"]["credit"] == "em"
  assert "/seed=1/" in last.config["init_from"]
  with pytest.raises(ValueError, match="KeyError: 'none'"):
    sweeps.plan([recipe], FOLDER, arms=("none",))


def test_draws_are_in_bounds_differ_and_come_again(plan):
  runs = plan(drawn=[LOG, "grpo.group_size=log(2,8)"], num_draws=12)
  grpo = [run.config["grpo"] for run in runs]
  rates = [g["optimizer"]["learning_rate"] for g in grpo]
  assert len(set(rates)) > 8
  assert all(1e-5 <= rate <= 1e-3 for rate in rates)
  # Of the logarithm: about half are below the middle of the exponents.
  assert 2 <= sum(rate < 1e-4 for rate in rates) <= 10
  assert {g["group_size"] for g in grpo} <= set(range(2, 9))
  again = plan(drawn=[LOG, "grpo.group_size=log(2,8)"], num_draws=12)
  assert again == runs
  other = plan(drawn=[LOG, "grpo.group_size=log(2,8)"], draw_seed=1)
  assert {run.name for run in other}.isdisjoint(run.name for run in runs)


def test_more_draws_begin_with_the_same(plan):
  few, more = (plan(drawn=[LOG], num_draws=n) for n in (3, 5))
  assert more[:3] == few


def test_draws_meet_every_mix_of_the_grid(plan):
  drawn = ["grpo.credit.credit=choice(em,r2g,equalized)"]
  runs = plan(grid=["seed=0,1"], drawn=drawn, num_draws=3)
  assert len({run.name for run in runs}) == 6
  assert {run.cell for run in runs} == {
    "credit=em",
    "credit=r2g",
    "credit=equalized",
  }


@pytest.mark.parametrize(
  ("argv", "kwargs", "message"),
  [
    ([], {}, "a sweep must have a field with several values, got none"),
    ([], {"grid": ["seed"]}, "--grid must be field=value,value"),
    (
      [],
      {"grid": ["grpo.learning_rate=1,2"]},
      "no config field grpo.learning_rate; the nearest is grpo.optimizer",
    ),
    ([], {"grid": ["grpo=1"]}, "grpo is a section"),
    ([], {"grid": ["seed=0,one"]}, "with seed=one: seed must be int, got"),
    ([], {"grid": ["seed=0,"]}, "with seed=: seed must be int, got ''"),
    (
      [],
      {"grid": ["grpo.group_size=8,1"]},
      "with grpo.group_size=1: grpo.group_size must be at least 2",
    ),
    ([], {"grid": ["seed=0,00"]}, "runs must differ, got seed=0 twice"),
    ([], {"grid": ["seed=0", "seed=1"]}, "seed must be set in one place"),
    (["--config.seed=3"], {"grid": ["seed=0"]}, "seed must be set in one"),
    (["--config.out_dir=x"], {"grid": ["seed=0"]}, "out_dir must be left to"),
    ([], {"grid": ["out_dir=a,b"]}, "out_dir must be left to the sweep"),
    (["--config.sed=3"], {"grid": ["seed=0"]}, "no config field sed"),
    ([], {"drawn": [f"{RATE}=normal(0,1)"]}, "--random must be field=log"),
    ([], {"drawn": [f"{RATE}=log(0,1)"]}, "0 < low < high, got (0,1)"),
    ([], {"drawn": [f"{RATE}=uniform(2,1)"]}, "low < high, got (2,1)"),
    ([], {"drawn": [f"{RATE}=uniform(2)"]}, "low < high, got (2)"),
    ([], {"drawn": ["seed=uniform(0,1.5)"]}, "two of int"),
    ([], {"drawn": ["grpo.rate=log(1,2)"]}, "no config field grpo.rate"),
    ([], {"drawn": ["grpo.loss=log(1,2)"]}, "draw it by choice(...)"),
    (
      [],
      {"drawn": ["grpo.loss=choice(ppo,gspo)"], "num_draws": 3},
      "--num_draws must be at most 2",
    ),
    ([], {"drawn": [LOG], "num_draws": 0}, "--num_draws must be positive"),
  ],
)
def test_what_is_wrong_is_refused_before_anything_runs(
  plan, argv, kwargs, message
):
  with pytest.raises(ValueError) as info:
    plan(*argv, **kwargs)
  assert message in str(info.value)
