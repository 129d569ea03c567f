"""A lane reads and samples the same bits, whichever lane it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import conftest as small
from userrl_jax import config as config_lib
from userrl_jax import sharding
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3

NUM_ROWS, NUM_LANES, NUM_IDS = 6, 4, 16


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])


@pytest.fixture(scope="module")
def params(mesh):
  made = qwen3.init(small.MODEL, jax.random.key(0))
  return cache_lib.lay_out(made, small.MODEL, mesh)


def read_and_sample(params, mesh, lane, start):
  """Returns what row 0 holds, and what is sampled, when a lane works on it.

  Every other lane has a row of its own.
  """
  cache = cache_lib.init(
    config=small.MODEL, mesh=mesh, num_rows=NUM_ROWS, length=512
  )
  rows_B = np.array([1, 2, 3, 4], np.int32)
  tokens_BT = np.full((NUM_LANES, NUM_IDS), 9, np.int32)
  starts_B = np.full(NUM_LANES, 50, np.int32)
  rows_B[lane], starts_B[lane] = 0, start
  tokens_BT[lane] = np.random.default_rng(0).integers(8, 50, NUM_IDS)
  counts_B = np.full(NUM_LANES, NUM_IDS, np.int32)
  call = {"config": small.MODEL, "mesh": mesh, "length": 256}
  cache = cache_lib.extend(
    params, cache, rows_B, tokens_BT, starts_B, counts_B, **call
  )
  lanes = cache_lib.Lanes(
    rows_B,
    np.full(NUM_LANES, 11, np.int32),
    starts_B + NUM_IDS,
    np.full(NUM_LANES, 4, np.int32),
    np.stack([np.full(NUM_LANES, 3), rows_B], 1).astype(np.uint32),
    sampling.knobs([sampling.Sampling()] * NUM_LANES),
  )
  nobody = jnp.int32(-2)  # stops
  cache, decoded = cache_lib.decode(
    params, cache, lanes, nobody, jnp.float32(0), num_tokens=4, **call
  )
  held = [np.asarray(x)[0] for x in (*cache.keys, *cache.values)]
  return [*held, *(np.asarray(x)[lane] for x in decoded)]


@pytest.mark.parametrize("start", [0, 37, 120, 200, 235])
def test_a_lane_is_as_good_as_another(params, mesh, start):
  want = read_and_sample(params, mesh, 0, start)
  assert (want[-3] >= 0).all()
  for lane in range(1, NUM_LANES):
    for a, b in zip(read_and_sample(params, mesh, lane, start), want):
      np.testing.assert_array_equal(a, b)
