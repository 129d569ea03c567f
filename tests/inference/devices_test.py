"""The same engine on one device, on eight, and two models side by side."""

import asyncio
import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.inference import conftest as small
from userrl_jax import config as config_lib
from userrl_jax import sharding

SCRIPT = small.Script(num_dialogues=24, num_turns=2, group_size=3)


@pytest.mark.slow
def test_devices_share_the_work_and_change_rounding_only(eight_devices, params):
  if not eight_devices:
    return
  alone, _ = small.run(params, SCRIPT)
  for sizes in ((8, 1, 1), (2, 2, 2), (1, 1, 2)):
    devices = jax.devices()[: np.prod(sizes)]
    mesh = sharding.make_mesh(config_lib.Mesh(*sizes), devices)
    look = functools.partial(_check_split, sizes=sizes)
    shared, _ = small.run(params, SCRIPT, mesh=mesh, look=look)
    small.assert_close(params, shared, alone)
    # Within a mesh, scheduling changes nothing.
    again, _ = small.run(
      params, dataclasses.replace(SCRIPT, order=1, delay_s=0.01), mesh=mesh
    )
    for a, b in zip(again, shared, strict=True):
      assert a.token_ids == b.token_ids
      if sizes[2] == 1:
        assert a.logprobs == b.logprobs
      np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_policy_and_user_live_on_halves_or_share(eight_devices, params):
  if not eight_devices:
    return
  alone, _ = small.run(params, SCRIPT)
  other = jax.tree.map(lambda x: 1.1 * x, params)
  alone_other, _ = small.run(other, SCRIPT)
  devices = jax.devices()
  for first, second in ((devices[:4], devices[4:]), (devices, devices)):
    policy, user = (
      small.make_engine(mesh=sharding.make_mesh(config_lib.Mesh(), half))
      for half in (first, second)
    )

    async def main(policy=policy, user=user):
      async with policy.serving(params), user.serving(other):
        played = await asyncio.gather(
          asyncio.gather(*(SCRIPT.converse(policy, i) for i in range(24))),
          asyncio.gather(*(SCRIPT.converse(user, i) for i in range(24))),
        )
        return *played, _devices(policy), _devices(user)

    got, got_other, *places = asyncio.run(main())
    small.assert_close(params, got, alone)
    small.assert_close(other, got_other, alone_other)
    assert places == [set(first), set(second)]


def _devices(engine):
  return set(engine._cache.keys[0].devices())


def _check_split(engine, sizes):
  """Rows are split over data and fsdp, heads over tensor."""
  keys = engine._cache.keys[0]
  num_tiles, tensor = sizes[0] * sizes[1], sizes[2]
  assert keys.shape == (6 * num_tiles, 2, 8, 768)
  assert keys.sharding.shard_shape(keys.shape) == (6, 2 // tensor, 8, 768)
  assert engine.cache_bytes == 4 * keys.nbytes  # 2 layers, keys and values
