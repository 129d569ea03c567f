"""Two layers of a Qwen3-0.6B shape on UserRL's released Function tasks.

Random weights, the real vocabulary and chat format: it shows that the released
files train, not that the agent learns.

Command:   bash launch/quickstart.sh --config=configs/real_input.py \
             --config.tokenizer.folder=FOLDER_WITH_TOKENIZER_JSON \
             --config.gyms.tasks=FOLDER_WITH_FUNCTIONS_JSON
Hardware:  2 CPU cores, 16 GiB of memory
Time:      (to be measured)
Expect:    (to be measured)
"""

from userrl_jax import config as config_lib


def get_config() -> config_lib.Config:
  """Returns a short cold start, then three iterations of GRPO."""
  c = config_lib.Config(
    out_dir="runs/real_input", stages=("cold_start", "grpo")
  )
  c.model.preset = "qwen3_0_6b"
  c.model.num_layers = 2
  c.tokenizer.kind = "huggingface"
  c.gyms.levels = (1, 2, 3)
  c.gyms.tasks = ""  # given on the command line
  c.gyms.num_train_tasks = 64
  c.gyms.num_test_tasks = 8
  c.rollout.max_tokens_per_turn = 64
  c.rollout.max_tokens_per_episode = 1024
  c.engine.num_rows = c.engine.num_lanes = 16
  c.packing.row_length = 1024
  c.packing.rows_per_micro_batch = 2
  c.cold_start.num_steps = 30
  c.cold_start.episodes_per_step = 8
  c.cold_start.optimizer.warmup_steps = 3
  c.grpo.num_iterations = 3
  c.grpo.tasks_per_iteration = 4
  c.grpo.group_size = 4
  c.grpo.optimizer.learning_rate = 1e-4
  c.evaluation.num_tasks = 8
  c.checkpoint.every_steps = 30
  c.checkpoint.keep = 1
  return c
