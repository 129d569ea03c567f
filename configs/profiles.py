"""Does training with users who are not ideal help with others that are not?

The quickstart's model on two gyms, its users drawn from a mix (demonstrations
included). Held out are users it never met: who err, take back what they said,
leave early, or press. The other arm differs in its users alone
(--config.user.profiles=plain --config.out_dir=runs/plain); then
python -m userrl_jax.paired runs/{plain,profiles}/evaluations/grpo.json

Command:   python -m userrl_jax.train --config=configs/profiles.py
Hardware:  2 CPU cores, no accelerator, no key
Time:      about 5 minutes an arm
Expect:    mix minus plain, games with users never met, paired: +0.046 (+0.007
           to +0.084) on seed 0, -0.002 (-0.049 to +0.047) on seed 1: no effect
"""

import functools

from userrl_jax import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the three stages, sized for two cores and five minutes."""
  c = config_lib.Config(out_dir="runs/profiles")
  c.model.num_layers = 2
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("telepathy", "travel")
  c.gyms.num_train_tasks, c.gyms.num_test_tasks = 4000, 100  # of each
  c.gyms.max_turns = 8  # an evasion costs a turn
  c.user.profiles = ("plain=2", "terse", "noisy", "evasive", "chatty")
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 352  # users who chat
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
  c.grpo = config_lib.Grpo(
    num_iterations=40, tasks_per_iteration=18, flat_groups="drop", kl_coef=0.03
  )
  c.grpo.credit = config_lib.Credit(score="sum", normalize="none")
  c.grpo.optimizer = config_lib.Optimizer(
    learning_rate=6e-4, schedule="cosine", warmup_steps=3
  )
  c.evaluation.num_tasks = 50  # of each gym, met by each of these users
  c.evaluation.forgetting_tasks = 20
  c.evaluation.profiles = ("wrong", "fickle", "impatient", "adversarial")
  c.checkpoint.every_steps = 20
  return c
