"""Everything about the Travel gym: game, user, tasks, demonstrator, moves.

The names below are what `gyms.GYMS` expects of every gym's package.
"""

import functools

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.travel import canned
from userrl_jax.gyms.travel import generate
from userrl_jax.gyms.travel import gym
from userrl_jax.gyms.travel import oracle
from userrl_jax.gyms.travel import pack
from userrl_jax.gyms.travel import prompted as prompted
from userrl_jax.gyms.travel import released

Gym = gym.TravelGym
Oracle = oracle.Oracle
random_move = canned.random_move
hacks = canned.hacks


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
    pack.read,
    released.read_folder,
  )
