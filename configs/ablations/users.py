"""Does training with one user serve another? Users trained with and met.

Every arm is GRPO from the cold start of its seed (`cold_start.py`) in the gyms
that have a user; arms differ in `user.profiles`. Each is then evaluated with
six kinds of users: a matrix. `everybody` trains with all nine kinds, so all six
are among them; for users never met see `configs/profiles.py`.

Command:   bash launch/ablations.sh c
Hardware:  2 CPU cores; JOBS=2 runs side by side, one core each
Time:      2 minutes a run, two at once; 17 in all
Expect:    of all six users plain 0.45, weak 0.46, everybody 0.48; of plain
           users alone 0.79, 0.66, 0.67
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import experiments
from userrl_jax import flags

_ARMS = {
  "plain": ("plain",),  # by the rules, always
  "weak": ("wrong", "noisy"),  # errs and misspells, as a small model does
  "everybody": ("everybody",),
}
# impatient is the strict user, plain the lenient one.
_MET = ("plain", "impatient", "chatty", "noisy", "terse", "adversarial")
_STARTS = "runs/ablations/users_start/seed={seed}"  # by launch/ablations.sh
_test = experiments.Test
EXPERIMENT = experiments.Experiment(
  "Does an agent that was trained with one user serve another?",
  arms=tuple(_ARMS),
  beside=(experiments.Beside("cold start", _STARTS, "cold_start@800"),),
  tests=(
    _test(
      "a weak user teaches to serve a plain one, but for 0.05",
      *("weak", "plain"),
      users="plain",
      margin=0.05,
      is_primary=True,
    ),
    _test("a weak user teaches, of all users", "weak", "plain"),
    _test("many users teach more, of all", "everybody", "plain"),
    _test("for a plain user", "everybody", "plain", users="plain"),
  ),
)


def get_config(arm: str = "plain") -> config_lib.Config:
  """Returns GRPO from a cold start with the users that `arm` names."""
  c = flags.load_recipe(str(pathlib.Path(__file__).parent / "cold_start.py"))
  c.out_dir = f"runs/ablations/users/arm={arm},seed=0"
  c.stages = ("grpo",)
  c.init_from = "runs/ablations/cold_start/seed={seed}/checkpoints/cold_start"
  c.gyms.names = ("telepathy", "travel")
  c.user.profiles = _ARMS[arm]
  c.evaluation.profiles = _MET
  c.evaluation.num_tasks = 30  # of each gym, split and user
  return c
