"""UserRL's best run: Qwen3-8B, otherwise the settings of `paper_4b.py`.

Command:   bash launch/paper.sh 8b MODEL TASKS TAU_BENCH \
             --config.user.base_url=http://HOST:8000/v1
           with the folder of Qwen3-8B as MODEL; the rest is as in paper_4b.py
Hardware:  TPU v5p-16 (8 chips of 95 GB); not run here
Time:      not run here; the paper took 1.5 days on 8 H200, about 4 million
           requests to the user
Expect:    the paper's, from one run, not run here: Travel 0.573, Turtle 0.185,
           Function 0.423, Tau 0.182, Persuade 0.532; held out Intention 1.818
           (a sum), Telepathy 0.561, Search 0.888; 0.565 on average by its
           weights. The paper has no figure of the untrained model
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import flags


def get_config() -> config_lib.Config:
  """Returns the run of paper_4b with the larger model and fewer rows."""
  beside = pathlib.Path(__file__).with_name("paper_4b.py")
  c = flags.load_recipe(str(beside))
  c.out_dir = "runs/paper_8b"
  c.cold_start.source = c.cold_start.source.replace("4b", "8b")
  c.model.preset = "qwen3_8b"
  c.engine.num_rows = c.engine.num_lanes = 16
  return c
