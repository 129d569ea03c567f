"""A ragged batch of multi-turn trajectories, for timing updates; knows no JAX.

64 trajectories of log-normal lengths, of which the longest is about twice the
mean, in turns of which 40% of the ids are sampled. Those who time another
trainer draw the same.
"""

import dataclasses

import numpy as np

VOCABULARY, LONGEST, NUM_TRAJECTORIES, GROUP_SIZE = 4096, 512, 64, 8
_MEAN, _SIGMA, _SAMPLED_SHARE = 256, 0.45, 0.4


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """One trajectory of T ids."""

  ids: np.ndarray  # [T] int32
  turn_ids: np.ndarray  # [T] int32, -1 on ids that were read
  advantage: float


def draw(seed: int = 0) -> list[Trajectory]:
  """Draws the batch; advantages have mean 0 in each group."""
  rng = np.random.default_rng(seed)
  drawn = rng.lognormal(np.log(_MEAN) - _SIGMA**2 / 2, _SIGMA, NUM_TRAJECTORIES)
  lengths = np.clip(drawn, 48, LONGEST).astype(int)
  advantages = rng.normal(size=(NUM_TRAJECTORIES // GROUP_SIZE, GROUP_SIZE))
  advantages -= advantages.mean(-1, keepdims=True)
  return [
    Trajectory(
      rng.integers(2, VOCABULARY, length).astype(np.int32),
      _turns(rng, length),
      float(advantage),
    )
    for length, advantage in zip(lengths, advantages.flat, strict=True)
  ]


def _turns(rng: np.random.Generator, length: int) -> np.ndarray:
  """Splits ids into turns, each read first and then sampled."""
  num_turns = int(rng.integers(2, 9))
  ends = np.sort(rng.choice(np.arange(8, length), num_turns - 1, False))
  turn_ids = np.full(length, -1, np.int32)
  for k, own in enumerate(np.split(np.arange(length), ends)):
    num_read = max(1, round(len(own) * (1 - _SAMPLED_SHARE)))
    turn_ids[own[num_read:]] = k
  return turn_ids


def describe(trajectories: list[Trajectory]) -> dict[str, float]:
  """Returns the numbers that the batch is known by."""
  lengths = np.array([len(t.ids) for t in trajectories])
  sampled = sum(int((t.turn_ids >= 0).sum()) for t in trajectories)
  return {
    "trajectories": len(trajectories),
    "tokens": int(lengths.sum()),
    "longest": int(lengths.max()),
    "mean_of_longest": round(float(lengths.mean() / lengths.max()), 3),
    "sampled_share": round(sampled / int(lengths.sum()), 3),
  }
