"""Everything about the Function gym: game, tasks, demonstrator, canned moves.

The names below are what `gyms.GYMS` expects of every gym's package.
"""

import functools

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.function import canned
from userrl_jax.gyms.function import gains
from userrl_jax.gyms.function import generate
from userrl_jax.gyms.function import gym
from userrl_jax.gyms.function import oracle
from userrl_jax.gyms.function import released

Gym = gym.FunctionGym
Oracle = oracle.Oracle
random_move = canned.random_move
hacks = canned.hacks
information = gains.information


def load_tasks(
  settings: config.Gyms, split: str, seed: int
) -> list[types.Task]:
  """Returns the tasks of a split, at most as many as the settings ask for.

  Raises:
    ValueError: when a file is missing or broken.
  """
  return sources.load(
    settings,
    split,
    functools.partial(generate.tasks, seed),
    released.read_pack,
    released.read_folder,
  )
