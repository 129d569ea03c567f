"""What does haste cost? Turns and score, as turns cost more.

Every arm is GRPO from the cold start of its seed (`cold_start.py`) for the sum
of rewards less a penalty for every turn. Together they are a curve of score
against turns, and its Pareto front.

Command:   bash launch/ablations.sh e
Hardware:  2 CPU cores; JOBS=2 runs side by side, one core each
Time:      2 minutes a run, two at once; 11 in all
Expect:    score and turns from 0.66 and 4.9 (free) to 0.50 and 4.2 (0.3 a
           turn), of two seeds: a hint
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import experiments
from userrl_jax import flags

_ARMS = {  # off the score, a turn
  "free": 0.0,
  "penalty_0.02": 0.02,
  "penalty_0.05": 0.05,
  "penalty_0.1": 0.1,
  "penalty_0.3": 0.3,
}
_STARTS = "runs/ablations/cold_start/seed={seed}"
_test = experiments.Test
EXPERIMENT = experiments.Experiment(
  "How much score do fewer turns cost?",
  arms=tuple(_ARMS),
  beside=(experiments.Beside("cold start", _STARTS, "cold_start"),),
  tests=(
    _test("turns: free above 0.1", "free", "penalty_0.1", "turns"),
    _test("score: free above 0.1", "free", "penalty_0.1"),
    _test("turns: 0.1 above 0.3", "penalty_0.1", "penalty_0.3", "turns"),
    _test("score: 0.1 above 0.3", "penalty_0.1", "penalty_0.3"),
  ),
  has_trade_off=True,
)


def get_config(arm: str = "free") -> config_lib.Config:
  """Returns GRPO from a cold start in which turns cost what `arm` says."""
  c = flags.load_recipe(str(pathlib.Path(__file__).parent / "cold_start.py"))
  c.out_dir = f"runs/ablations/efficiency/arm={arm},seed=0"
  c.stages = ("grpo",)
  c.init_from = f"{_STARTS}/checkpoints/cold_start"
  c.grpo.credit = config_lib.Credit(score="sum", turn_penalty=_ARMS[arm])
  return c
