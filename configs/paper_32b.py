"""The settings of `paper_4b.py` with the largest model: Qwen3-32B.

The paper stops at 8B; this shows the same run where one chip cannot hold what
the sampler needs, so that heads are split over `tensor` as well.

Command:   bash launch/tpu_pod.sh NAME ZONE PROJECT configs/paper_32b.py \
             --config.model.folder=MODEL --config.tokenizer.folder=MODEL \
             --config.gyms.tasks=TASKS --config.gyms.tau.checkout=TAU_BENCH \
             --config.cold_start.source=DIALOGUES \
             --config.user.base_url=http://HOST:8000/v1
           with the folder of Qwen3-32B as MODEL, and demonstrations as those
           of launch/paper.sh; the rest is as in paper_4b.py
Hardware:  TPU v5p-64 (32 chips of 95 GB); planned with
             python -m userrl_jax.doctor --config=configs/paper_32b.py \
               --config.tokenizer.folder=MODEL --plan=v5p-64
           and not run here
Time:      not run here
Expect:    nobody has published this run; above the 8B's 0.565 on average
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import flags


def get_config() -> config_lib.Config:
  """Returns the run of paper_4b with the largest model on 32 chips."""
  beside = pathlib.Path(__file__).with_name("paper_4b.py")
  c = flags.load_recipe(str(beside))
  c.out_dir = "runs/paper_32b"
  c.cold_start.source = c.cold_start.source.replace("4b", "32b")
  c.model.preset = "qwen3_32b"
  c.mesh = config_lib.Mesh(data=1, fsdp=-1, tensor=4)
  c.engine.num_rows = c.engine.num_lanes = 48
  return c
