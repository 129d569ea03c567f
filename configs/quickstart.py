"""From a random model to an agent that plays three gyms, on a laptop.

DRAFT
"""

from userrl_jax import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the three stages, sized for two cores and ten minutes."""
  c = config_lib.Config(out_dir="runs/quickstart")
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("function", "telepathy", "travel")
  c.gyms.num_train_tasks = 3000
  c.gyms.num_test_tasks = 100
  c.gyms.max_turns = 6
  c.gyms.function.answer_limit = 3
  c.gyms.telepathy.guess_limit = 1
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 224
  c.packing.row_length = 288
  c.packing.logprob_chunk = 288
  c.engine.decode_tokens = 8

  c.base.num_episodes = 1440
  c.base.num_steps = 60
  c.base.episodes_per_step = 24
  c.base.optimizer.b2 = 0.95

  c.cold_start.num_tries = 1
  c.cold_start.top_k = 1
  c.cold_start.noise = 0.1
  c.cold_start.num_steps = 320
  c.cold_start.episodes_per_step = 24
  c.cold_start.optimizer.learning_rate = 2e-3
  c.cold_start.optimizer.b2 = 0.95

  c.grpo.num_iterations = 30
  c.grpo.tasks_per_iteration = 18
  c.grpo.group_size = 8
  c.grpo.optimizer.learning_rate = 2e-4
  c.evaluation.splits = ("fresh", "test")
  c.evaluation.num_tasks = 100
  c.checkpoint.every_steps = 20
  return c
