"""What samplers are timed on, by name; knows no JAX.

Each is [E, K, 2] ids: E episodes of K turns, in which so many ids are read and
then sampled.
"""

import numpy as np

VOCABULARY, EPISODES, TURNS = 4096, 16, 8


def _ragged() -> np.ndarray:
  """Draws log-normal lengths, mean 64, at most 256 a piece."""
  rng = np.random.default_rng(0)
  sigma = 0.8
  mu = np.log(64) - sigma**2 / 2
  drawn = rng.lognormal(mu, sigma, (EPISODES, TURNS, 2))
  return np.clip(drawn, 1, 256).astype(int)


_TURNS = np.full((EPISODES, TURNS, 2), 64)
LENGTHS = {
  "generate": np.full((32, 1, 2), 128),
  "turns": _TURNS,
  "anew": _TURNS,  # the whole history is read again in every turn
  "ragged": _ragged(),
}
