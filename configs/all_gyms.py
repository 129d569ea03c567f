"""Trains five gyms and holds out three, users by rules, on a laptop.

The quickstart's model and stages on the gyms that the paper trains; after each
stage it also plays the three that the paper holds out (Intention, Telepathy,
Search), of which it has learned nothing, not even what their prompts mean.

Command:   python -m userrl_jax.train --config=configs/all_gyms.py
Hardware:  2 CPU cores, no accelerator, no key
Time:      31 minutes beside other work, 21 of them of processor time
Expect:    mean of the five gyms on 600 held-out tasks, seed 0: base 0.01, cold
           start 0.60 (0.57 to 0.62), GRPO 0.73 (0.70 to 0.76); the others 0.00
"""

import functools

from userrl_jax import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the three stages, sized for two cores and half an hour."""
  c = config_lib.Config(out_dir="runs/all_gyms")
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("travel", "turtle", "persuade", "function", "tau")
  c.gyms.num_train_tasks = 4000  # of each
  c.gyms.num_test_tasks = c.evaluation.num_tasks = 60  # of each, and split
  c.gyms.function.answer_limit = 3
  c.gyms.intention.patience = 2
  c.rollout.max_tokens_per_turn = 28
  # Demonstrations of trained gyms took up to 209; held-out words are spelt.
  c.rollout.max_tokens_per_episode = 256
  c.packing = config_lib.Packing(
    row_length=288, rows_per_micro_batch=2, logprob_chunk=96
  )
  c.engine = config_lib.Engine(
    num_rows=80, num_lanes=40, decode_tokens=16, extend_chunk=64
  )
  c.mesh.cpu_devices = 2  # of 80 rows each
  muon = functools.partial(
    config_lib.Optimizer, name="muon", warmup_steps=20, b2=0.95
  )
  c.base = config_lib.Base(
    num_steps=80, num_episodes=800, num_copies=800, episodes_per_step=20
  )
  c.base.optimizer = muon(learning_rate=3e-3)
  c.cold_start = config_lib.ColdStart(
    num_steps=1200, num_tries=1, noise=0.25, episodes_per_step=15
  )
  c.cold_start.optimizer = muon(learning_rate=2e-3, schedule="cosine")
  c.grpo.num_iterations = 60
  c.grpo.tasks_per_iteration = 20
  c.grpo.kl_coef = 0.03  # habits that nothing rewards stay as they were
  c.grpo.credit = config_lib.Credit(score="sum", normalize="none")
  c.grpo.optimizer = config_lib.Optimizer(
    learning_rate=6e-4, schedule="cosine", warmup_steps=3
  )
  c.evaluation.splits = ("fresh", "test")
  c.evaluation.forgetting_tasks = 20
  c.evaluation.held_out_gyms = ("intention", "telepathy", "search")
  c.checkpoint.every_steps = 20
  return c
