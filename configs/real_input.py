"""Two layers of a Qwen3-0.6B shape on UserRL's released Function tasks.

Random weights, the real vocabulary and chat format: it shows that the released
files train from end to end, not that so small a run makes a good agent.

Command:   python -m userrl_jax.train --config=configs/real_input.py \
             --config.tokenizer.folder=FOLDER_WITH_TOKENIZER_JSON \
             --config.gyms.tasks=FOLDER_WITH_FUNCTIONS_JSON
Hardware:  2 CPU cores, 16 GiB of memory
Time:      12 to 17 minutes, 10.4 GiB at most
Expect:    0.00 on unseen tasks: 80 episodes teach four tasks by heart; on those
           GRPO starts at 0.5, with gradients and groups that are not flat
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
  c.gyms.num_train_tasks = 4  # few, so that their answers are soon learned
  c.gyms.num_test_tasks = 4
  c.rollout.max_tokens_per_turn = 64
  c.rollout.max_tokens_per_episode = 640
  c.engine = config_lib.Engine(
    num_rows=16, num_lanes=16, decode_tokens=16, extend_chunk=128
  )
  c.packing.row_length = 640
  c.packing.rows_per_micro_batch = 1
  c.packing.logprob_chunk = 64
  c.cold_start.noise = 0.0
  c.cold_start.num_steps = 40
  c.cold_start.episodes_per_step = 2
  c.cold_start.optimizer = config_lib.Optimizer(
    learning_rate=1e-3, schedule="cosine", warmup_steps=5, b2=0.95
  )
  c.grpo.num_iterations = 3
  c.grpo.tasks_per_iteration = 2
  c.grpo.group_size = 8
  c.grpo.optimizer.learning_rate = 1e-4
  c.evaluation.num_tasks = c.evaluation.forgetting_tasks = 4
  c.checkpoint.every_steps = 100
  c.checkpoint.keep = 1
  return c
