"""Does training with users who are not ideal help with others that are not?

The quickstart's model on two gyms. Users are drawn from a mix while it learns
(demonstrations included); held out are kinds of users that it never met: who
err, take back what they said, leave early, or press. The other arm differs in
its users alone.

Command:   python -m userrl_jax.train --config=configs/profiles.py
           The other arm: --config.user.profiles=plain --config.out_dir=...
           Then python -m userrl_jax.paired A/evaluations/grpo.json B/...
Hardware:  2 CPU cores, no accelerator, no key
"""

import functools

from userrl_jax import config as config_lib

MIX = ("plain=2", "terse", "noisy", "evasive", "chatty")
HELD_OUT = ("wrong", "fickle", "impatient", "adversarial")


def get_config() -> config_lib.Config:
  """Returns the three stages, sized for two cores and five minutes."""
  c = config_lib.Config(out_dir="runs/profiles")
  c.model.num_layers = 2
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("telepathy", "travel")
  c.gyms.num_train_tasks = 4000  # of each
  c.gyms.num_test_tasks = 100
  c.gyms.max_turns = 8  # an evasion costs a turn
  c.user.profiles = MIX
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 352  # chatty users
  c.packing = config_lib.Packing(
    row_length=352, rows_per_micro_batch=2, logprob_chunk=96
  )
  c.engine = config_lib.Engine(num_rows=72, num_lanes=36, decode_tokens=16)
  c.engine.extend_chunk, c.engine.extend_tokens = 64, 256
  c.mesh.cpu_devices = 2
  muon = functools.partial(
    config_lib.Optimizer, name="muon", warmup_steps=20, b2=0.95
  )
  c.base = config_lib.Base(
    num_steps=60, num_episodes=720, num_copies=720, episodes_per_step=18
  )
  c.base.optimizer = muon(learning_rate=3e-3)
  c.cold_start = config_lib.ColdStart(
    num_steps=700, num_tries=1, noise=0.1, episodes_per_step=12
  )
  c.cold_start.optimizer = muon(learning_rate=2e-3, schedule="cosine")
  c.grpo.num_iterations = 40
  c.grpo.tasks_per_iteration = 18
  c.grpo.credit = config_lib.Credit(score="sum", normalize="none")
  c.grpo.flat_groups = "drop"
  c.grpo.kl_coef = 0.03
  c.grpo.optimizer = config_lib.Optimizer(
    learning_rate=6e-4, schedule="cosine", warmup_steps=3
  )
  c.evaluation.num_tasks = 50  # of each gym, each met by all of these users
  c.evaluation.profiles = HELD_OUT
  c.checkpoint.every_steps = 20
  return c
