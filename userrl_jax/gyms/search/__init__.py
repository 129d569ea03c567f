"""Everything about the Search gym: game, tasks, demonstrator, canned moves.

The names below are what `gyms.GYMS` expects of every gym's package.
"""

import functools

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.search import canned
from userrl_jax.gyms.search import generate
from userrl_jax.gyms.search import gym
from userrl_jax.gyms.search import oracle
from userrl_jax.gyms.search import prompted as prompted
from userrl_jax.gyms.search import released

Gym = gym.SearchGym
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
    released.read_pack,
    released.read_folder,
  )
