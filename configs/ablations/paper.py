"""The paper's questions at its size: Qwen3-4B on Travel and Turtle.

`paper_4b.py` with two gyms: trained with Qwen3-32B as user, evaluated with
GPT-4o. `equalized_r2g` and `equalized_sum` differ in the score of trajectories,
`no_cold_start` is the first without demonstrations.

Command:   bash launch/paper.sh 4b:equalized_sum MODEL TASKS TAU_BENCH \
             --config.user.base_url=http://HOST:8000/v1
           with folders as in paper_4b.py, and the other arms likewise
Hardware:  TPU v5p-16 (8 chips of 95 GB); not run here
Time:      not run here; about half of paper_4b.py
Expect:    not run here; the paper shows curves without numbers, in which r2g
           stays above sum and runs without a cold start end lower
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import experiments
from userrl_jax import flags

_ARMS = ("equalized_r2g", "equalized_sum", "no_cold_start")
_test = experiments.Test
EXPERIMENT = experiments.Experiment(
  "Score of trajectories and cold start, at the paper's size",
  arms=_ARMS,
  tests=(
    _test("score r2g above sum", "equalized_r2g", "equalized_sum"),
    _test("with cold start above without", "equalized_r2g", "no_cold_start"),
  ),
)


def get_config(arm: str = "equalized_r2g") -> config_lib.Config:
  """Returns the run of paper_4b on two gyms, as `arm` says."""
  if arm not in _ARMS:
    raise ValueError(f"the arm must be one of {', '.join(_ARMS)}, got {arm}")
  recipes = pathlib.Path(__file__).parent.parent
  c = flags.load_recipe(str(recipes / "paper_4b.py"))
  c.out_dir = f"runs/paper_4b_{arm}"
  c.gyms.names = ("travel", "turtle")
  c.evaluation.held_out_gyms = ()
  c.grpo.num_iterations = 150  # 15 epochs of 1348 tasks
  c.cold_start.source = c.cold_start.source.replace("4b", "4b_two_gyms")
  if arm == "equalized_sum":
    c.grpo.credit.score = "sum"
  if arm == "no_cold_start":
    c.stages = ("grpo",)
  return c
