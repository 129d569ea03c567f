"""Advantages by token, on devices, in any packing: those of the host."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from tests.learning import golden_cases
from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import advantages
from userrl_jax.learning import batching
from userrl_jax.learning import learner


def test_golden_cases_as_tokens_of_an_updates_batch(shared, eight_devices):
  """By the update's own functions: groups on every device, rows split."""
  if not eight_devices:
    return
  (rewards, mask, num_tokens, valid), _ = golden_cases.arrays(
    golden_cases.load(shared)
  )
  packing = config.Packing(64, 8)
  slots = np.random.default_rng(0).integers(-1, rewards.size, (1, 8, 64))
  rows = batching.Rows(**dict.fromkeys(batching.Rows._fields, slots))
  batch = batching.Batch(
    rows, np.int32(1), rewards, mask, num_tokens, valid, valid
  )
  methods = [
    config.Credit(score=score, credit=name, gamma=0.8, released=released)
    for score in golden_cases.SCORE_NAMES.values()
    for name in golden_cases.CREDIT_NAMES.values()
    for released in (True, False)
  ]
  assert config.Credit() in methods

  def of_tokens(batch, xp=jnp):
    return [
      advantages.of_tokens(
        advantages.of_turns(batch, one, xp), batch.rows.slots[0], xp
      )
      for one in methods
    ]

  want = of_tokens(batch, np)
  assert all(np.abs(one).max() > 1 for one in want)
  for sizes in ((1, 1, 1), (2, 2, 2)):
    num_devices = math.prod(sizes)
    mesh = sharding.make_mesh(config.Mesh(*sizes), jax.devices()[:num_devices])
    where = learner.batch_shardings(packing, mesh)
    [placed] = learner.placed([batch], packing, mesh)
    compute = jax.jit(of_tokens, in_shardings=(where,))
    for got, exact in zip(compute(placed), want, strict=True):
      assert len(got.sharding.device_set) == num_devices
      assert exact.dtype == np.float64
      np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5)
