"""Which turn credit and which score? The paper's, and learned ones.

Every arm is GRPO from the cold start of its seed (`cold_start.py`), on the same
tasks in the same order; arms differ in `grpo.credit` alone.

Command:   bash launch/ablations.sh a
Hardware:  2 CPU cores; JOBS=2 runs side by side, one core each
Time:      2 minutes a run, two at once; 45 in all
Expect:    0.56 to 0.66 but naive, 0.30: of the planned differences only that
           from equalized can be told
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import experiments
from userrl_jax import flags

_ARMS = {  # credit of turns, score of trajectories, spread
  "equalized_r2g": ("equalized", "r2g", "scaled"),
  "equalized_sum": ("equalized", "sum", "scaled"),
  "em_r2g": ("em", "r2g", "scaled"),
  "r2g_r2g": ("r2g", "r2g", "scaled"),
  "naive": ("naive", "r2g", "scaled"),
  "predicted": ("predicted", "r2g", "scaled"),
  "information": ("information", "r2g", "scaled"),
  "signed": ("r2g", "r2g", "signed"),
}
_STARTS = "runs/ablations/cold_start/seed={seed}"
_test = experiments.Test
EXPERIMENT = experiments.Experiment(
  "Which credit of turns and which score of trajectories?",
  arms=tuple(_ARMS),
  beside=(experiments.Beside("cold start", _STARTS, "cold_start"),),
  tests=(
    _test("learned above R2G", "predicted", "r2g_r2g", is_primary=True),
    _test("score r2g above sum", "equalized_r2g", "equalized_sum"),
    _test("and in time", "equalized_r2g", "equalized_sum", "time_weighted"),
    _test("equalized above EM", "equalized_r2g", "em_r2g"),
    _test("equalized above R2G", "equalized_r2g", "r2g_r2g"),
    _test("equalized above naive", "equalized_r2g", "naive"),
    _test("learned above equalized", "predicted", "equalized_r2g"),
    _test("exact bits above R2G", "information", "r2g_r2g"),
    _test("signs kept above not", "signed", "r2g_r2g"),
  ),
  ranks_of="equalized_r2g",
)


def get_config(arm: str = "equalized_r2g") -> config_lib.Config:
  """Returns GRPO from a cold start under the credit that `arm` names."""
  c = flags.load_recipe(str(pathlib.Path(__file__).parent / "cold_start.py"))
  c.out_dir = f"runs/ablations/credits/arm={arm},seed=0"
  c.stages = ("grpo",)
  c.init_from = f"{_STARTS}/checkpoints/cold_start"
  c.grpo.credit.credit, c.grpo.credit.score, c.grpo.credit.spread = _ARMS[arm]
  return c
