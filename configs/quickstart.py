"""From a random model to an agent that plays three gyms, on a laptop.

A random Qwen3 of 0.5 million parameters learns the format of dialogues, then
three gyms from demonstrations with a random move in four, then by its own play.

Command:   bash launch/quickstart.sh
Hardware:  2 CPU cores, no accelerator, no key
Time:      7 minutes, compiling included (base 1, cold start 4, GRPO 2)
Expect:    mean score of 600 held-out tasks, seed 0: base 0.00, cold start 0.64
           (0.60 to 0.67), GRPO 0.83 (0.80 to 0.85)
"""

import functools

from userrl_jax import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the three stages, sized for two cores and ten minutes."""
  c = config_lib.Config(out_dir="runs/quickstart")
  c.model.num_layers = 2  # four learn less in the same time
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("function", "telepathy", "travel")
  c.gyms.num_train_tasks = 4000  # of each
  c.gyms.num_test_tasks = 100
  c.gyms.function.answer_limit = 3
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 224
  c.packing = config_lib.Packing(
    row_length=288, rows_per_micro_batch=2, logprob_chunk=96
  )
  c.engine = config_lib.Engine(num_rows=72, num_lanes=36, decode_tokens=16)
  c.engine.extend_chunk, c.engine.extend_tokens = 64, 256
  c.mesh.cpu_devices = 2  # of 72 rows each
  muon = functools.partial(
    config_lib.Optimizer, name="muon", warmup_steps=20, b2=0.95
  )
  c.base = config_lib.Base(
    num_steps=80, num_episodes=720, num_copies=720, episodes_per_step=18
  )
  c.base.optimizer = muon(learning_rate=3e-3)
  c.cold_start = config_lib.ColdStart(
    num_steps=1400, num_tries=1, noise=0.25, episodes_per_step=12
  )
  c.cold_start.optimizer = muon(learning_rate=2e-3, schedule="cosine")
  c.grpo.num_iterations = 70
  c.grpo.tasks_per_iteration = 18
  c.grpo.credit = config_lib.Credit(score="sum", normalize="none")
  c.grpo.flat_groups = "drop"  # half of them, later on
  c.grpo.kl_coef = 0.03  # holds habits of which no reward tells yet
  c.grpo.optimizer = config_lib.Optimizer(
    learning_rate=6e-4, schedule="cosine", warmup_steps=3
  )
  c.comparison.continued_steps = 1000
  c.comparison.rl_only_iterations = 180
  c.evaluation.splits = ("fresh", "test")
  c.evaluation.num_tasks = 100  # of each gym and split
  c.evaluation.forgetting_tasks = 20
  c.checkpoint.every_steps = 20
  return c
