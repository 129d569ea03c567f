"""From a random model to an agent that plays Function, on a laptop.

Command:   bash launch/quickstart.sh
Hardware:  2 CPU cores, no accelerator, no key
Time:      (to be measured)
Expect:    (to be measured) runs/quickstart/report.html
"""

from userrl_jax import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the defaults: every stage, thin enough for two cores."""
  return config_lib.Config(out_dir="runs/quickstart")
