"""Everything about the Travel gym: game, user, tasks, demonstrator, moves.

The names below are what `gyms.GYMS` expects of every gym's package.
"""

import functools
from typing import NoReturn

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.travel import canned
from userrl_jax.gyms.travel import generate
from userrl_jax.gyms.travel import gym
from userrl_jax.gyms.travel import oracle
from userrl_jax.gyms.travel import pack
from userrl_jax.gyms.travel import prompted as prompted

Gym = gym.TravelGym
Oracle = oracle.Oracle
random_move = canned.random_move
hacks = canned.hacks


def load_tasks(
  settings: config.Gyms, split: str, seed: int
) -> list[types.Task]:
  """Returns the tasks of a split, at most as many as the settings ask for.

  Raises:
    ValueError: when the settings name a folder: whether a text asks for a
      wish of UserRL's own trips takes a model to judge.
  """
  return sources.load(
    settings,
    split,
    functools.partial(generate.tasks, seed),
    pack.read,
    _read_folder,
  )


def _read_folder(folder: str) -> NoReturn:
  raise ValueError(
    "gyms.tasks of gym 'travel' must be 'generated' or 'pack', got "
    f"{folder!r}; the trips that UserRL released have no wishes that rules "
    "could check"
  )
