"""From a random model to an agent that plays Function, on a laptop.

A random Qwen3 of 0.85 million parameters learns the format of dialogues, then
the game from an oracle's demonstrations, then gets better by its own play.

Command:   bash launch/quickstart.sh
Hardware:  2 CPU cores, no accelerator, no key
Time:      7.5 minutes, compiling included (base 1, cold start 3.5, GRPO 2.5)
Expect:    score on 128 held-out tasks of unseen forms, two attempts each
           base 0.03, cold start 0.30 (0.24 to 0.36), GRPO 0.37 (0.31 to 0.43);
           GRPO above the cold start by 0.07, paired 95% 0.00 to 0.14; another
           JAX draws otherwise: 0.04, 0.27 and 0.29 under JAX 0.12
"""

from userrl_jax import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the three stages, sized for two cores and ten minutes."""
  c = config_lib.Config(out_dir="runs/quickstart")
  c.gyms.num_train_tasks = 6000
  c.gyms.max_turns = 6
  c.gyms.function.answer_limit = 3
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 288
  c.packing.row_length = 288
  c.packing.logprob_chunk = 288
  c.engine.decode_tokens = 8

  c.base.num_episodes = 1280
  c.base.num_steps = 80
  c.base.episodes_per_step = 16
  c.base.optimizer.b2 = 0.95

  c.cold_start.num_tries = 1
  c.cold_start.top_k = 1
  c.cold_start.noise = 0.1
  c.cold_start.num_steps = 360
  c.cold_start.episodes_per_step = 16
  c.cold_start.optimizer.learning_rate = 2e-3
  c.cold_start.optimizer.b2 = 0.95

  c.grpo.num_iterations = 20
  c.grpo.tasks_per_iteration = 16
  c.grpo.group_size = 8
  c.grpo.optimizer.learning_rate = 2e-4
  c.evaluation.num_attempts = 2
  c.checkpoint.every_steps = 20
  return c
