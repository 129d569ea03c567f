"""The recipe of `play` where no `--config` names another.

A person sits down at one game, at level 1; where they answer, its oracle asks.
"""

from userrl_jax import config


def get_config() -> config.Config:
  """Returns Turtle with users by rules; `--gym` names another one."""
  c = config.Config(out_dir="runs/play")
  c.gyms.names = ("turtle",)
  c.gyms.max_turns = 12
  c.evaluation.agent = "oracle"
  return c
