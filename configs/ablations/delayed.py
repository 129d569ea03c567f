"""What if rewards come late? Held back until turn 8, under each score.

Every arm is GRPO from the cold start of its seed (`cold_start.py`). What turns
before the eighth earn is paid in it, or in an episode's last. Under equalized
credit the scores `mean` and `sum` cannot tell when a reward came, but by
rounding; `r2g` can.

Command:   bash launch/ablations.sh d
Hardware:  2 CPU cores; JOBS=2 runs side by side, one core each
Time:      2 minutes a run, two at once; 12 in all
Expect:    sum 0.64, r2g 0.60, mean 0.56, r2g at once 0.55, R2G credit 0.52, of
           two seeds: no planned difference can be told
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import experiments
from userrl_jax import flags

_ARMS = {  # credit of turns, score of trajectories, turn that pays
  "mean_held": ("equalized", "mean", 8),
  "sum_held": ("equalized", "sum", 8),
  "r2g_held": ("equalized", "r2g", 8),
  "r2g_at_once": ("equalized", "r2g", 0),
  "r2g_credit_held": ("r2g", "r2g", 8),
}
_STARTS = "runs/ablations/cold_start/seed={seed}"
_test = experiments.Test
EXPERIMENT = experiments.Experiment(
  "What do late rewards cost, by score?",
  arms=tuple(_ARMS),
  beside=(experiments.Beside("cold start", _STARTS, "cold_start"),),
  tests=(
    _test("r2g: at once above held", "r2g_at_once", "r2g_held"),
    _test("held: sum above r2g", "sum_held", "r2g_held"),
    _test("held: mean above r2g", "mean_held", "r2g_held"),
    _test("held: equalized above R2G credit", "r2g_held", "r2g_credit_held"),
  ),
)


def get_config(arm: str = "r2g_held") -> config_lib.Config:
  """Returns GRPO from a cold start with the rewards that `arm` names."""
  c = flags.load_recipe(str(pathlib.Path(__file__).parent / "cold_start.py"))
  c.out_dir = f"runs/ablations/delayed/arm={arm},seed=0"
  c.stages = ("grpo",)
  c.init_from = f"{_STARTS}/checkpoints/cold_start"
  credit = c.grpo.credit
  credit.credit, credit.score, credit.hold_until = _ARMS[arm]
  return c
