"""The settings of `paper_4b.py` with other sizes of Qwen3: 0.6B, 1.7B, 14B.

The paper has 4B and 8B; these say on how few chips the same run goes with a
smaller model, and how many a larger one takes. KV rows are as many as fit.

Command:   bash launch/tpu_pod.sh NAME ZONE PROJECT configs/sizes.py:0_6b \
             --config.model.folder=MODEL --config.tokenizer.folder=MODEL \
             --config.gyms.tasks=TASKS --config.gyms.tau.checkout=TAU_BENCH \
             --config.cold_start.source=DIALOGUES \
             --config.user.base_url=http://HOST:8000/v1
           with the folder of Qwen3-0.6B as MODEL, and demonstrations as those
           of launch/paper.sh; :1_7b and :14b likewise
Hardware:  0_6b TPU v5e-4 (4 chips of 16 GB), 1_7b v5e-8 (8), 14b v5p-32 (16
           chips of 95 GB); planned with
             python -m userrl_jax.doctor --config=configs/sizes.py:0_6b \
               --config.tokenizer.folder=MODEL --plan=v5e-4
           and not run here
Time:      not run here
Expect:    nobody has published these runs; the paper's 4B has 0.527 on average
"""

import pathlib

from userrl_jax import config as config_lib
from userrl_jax import flags

# Sizes of `fsdp` and `tensor`: the chips of the slice. Over `tensor` alone the
# sampler's copy is split, and the copies of long rows that extending makes.
MESHES = {"0_6b": (1, 4), "1_7b": (2, 4), "14b": (8, 2)}


def get_config(size: str = "0_6b") -> config_lib.Config:
  """Returns the run of paper_4b with a model of another size.

  Raises:
    ValueError: when there is no such size.
  """
  if size not in MESHES:
    raise ValueError(
      f"the size must be one of {', '.join(MESHES)}, got "
      f"{size!r}; paper_4b.py, paper_8b.py and paper_32b.py have the others"
    )
  beside = pathlib.Path(__file__).with_name("paper_4b.py")
  c = flags.load_recipe(str(beside))
  c.out_dir = f"runs/size_{size}"
  c.cold_start.source = c.cold_start.source.replace("4b", size)
  c.model.preset = f"qwen3_{size}"
  fsdp, tensor = MESHES[size]
  c.mesh = config_lib.Mesh(data=1, fsdp=fsdp, tensor=tensor)
  c.packing.rows_per_micro_batch = fsdp
  c.engine.num_rows = c.engine.num_lanes = 0
  return c
