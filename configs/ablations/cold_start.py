"""Is a cold start needed? Base, RL alone, imitation alone, and both.

Every seed trains the quickstart's random model, shorter: format (base), then
imitation (cold_start), then three ways on, of as many updates each: RL from the
base, more imitation, RL. The other experiments start from its cold starts.
Beside it the script runs RL alone three times as long, in a sweep of its own.

Command:   bash launch/ablations.sh b
Hardware:  2 CPU cores; JOBS=2 runs side by side, one core each
Time:      8.5 minutes a run, two at once; 25 in all; RL alone for longer 25
Expect:    base 0.01, RL alone 0.03 (longer 0.04), cold start 0.55, more
           imitation 0.55, GRPO 0.60 (0.54 to 0.67); seeds differ by more than
           GRPO adds
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import experiments
from userrl_jax import flags

_test = experiments.Test
EXPERIMENT = experiments.Experiment(
  "Does GRPO need a cold start, and add to it?",
  stages=("base", "rl_only_updates", "cold_start", "continued_updates", "grpo"),
  beside=(
    experiments.Beside(
      "RL alone for longer", "runs/ablations/rl_only/seed={seed}", "rl_only"
    ),
  ),
  tests=(
    _test("SFT+RL above RL alone", "grpo", "rl_only_updates", is_primary=True),
    _test("SFT+RL above more SFT", "grpo", "continued_updates"),
    _test("SFT+RL above its cold start", "grpo", "cold_start"),
    _test("more SFT above cold start", "continued_updates", "cold_start"),
    _test("RL alone above the base", "rl_only_updates", "base"),
  ),
)


def get_config() -> config_lib.Config:
  """Returns three stages and two arms on the quickstart's gyms."""
  beside = pathlib.Path(__file__).parent.parent / "quickstart.py"
  c = flags.load_recipe(str(beside))
  c.out_dir = "runs/ablations/cold_start/seed=0"
  c.stages += ("continued_updates", "rl_only_updates")
  c.gyms.num_train_tasks = 3000  # of each
  c.gyms.max_turns = 8
  c.rollout.max_tokens_per_episode = 288
  c.packing.rows_per_micro_batch = 1
  c.engine.num_rows, c.engine.num_lanes = 96, 48
  c.mesh.cpu_devices = 1  # two runs side by side are faster than one on two
  c.cold_start.num_steps = 800
  c.grpo.num_iterations = 40
  c.grpo.tasks_per_iteration = 12
  c.grpo.credit = config_lib.Credit()  # equalized, r2g, divided by deviations
  c.grpo.flat_groups = "keep"
  c.gyms.num_test_tasks = c.evaluation.num_tasks = 60  # a gym and split
  c.checkpoint.every_steps = 40
  return c
