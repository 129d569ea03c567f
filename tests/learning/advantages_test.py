"""Advantages by token, on devices, in any packing: those of the host."""

import math

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np

from tests.learning import golden_cases
from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import advantages
from userrl_jax.learning import batching
from userrl_jax.learning import credit
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


def _by_token(batch, settings):
  """Returns {slot: [(target, advantage)]} of all rows, on the host."""
  advantages_PGK = advantages.of_turns(batch, settings, np)
  slots = batch.rows.slots
  found = {}
  for place in zip(*np.nonzero(slots >= 0), strict=True):
    a, b, m = place
    advantage_M = advantages.of_tokens(advantages_PGK, slots[a, b], np)
    token = int(batch.rows.targets[place]), float(advantage_M[m])
    found.setdefault(int(slots[place]), []).append(token)
  # What is never computed holds no token.
  assert not (slots[batch.num_micro_batches :] >= 0).any()
  return found


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
  seed=strategies.integers(0, 2**32 - 1),
  row_length=strategies.integers(40, 200),
  rows=strategies.integers(1, 9),
  score=strategies.sampled_from(list(credit.SCORES)),
  name=strategies.sampled_from([*credit.CREDITS]),
)
def test_packing_and_micro_batches_change_no_advantage(
  make_groups, seed, row_length, rows, score, name
):
  groups = make_groups(seed % 1000)
  settings = config.Credit(score, name)
  seen, num_parts = [], set()
  for packing in (config.Packing(512, 8), config.Packing(row_length, rows)):
    batch, stats = batching.pack(
      groups,
      packing,
      group_size=4,
      max_turns=3,
      num_tasks=3,
      capacity=batching.capacity(12, 40, packing),
      credit=settings,
    )
    num_parts.add(stats.num_micro_batches)
    seen.append(_by_token(batch, settings))
  hypothesis.event(f"micro-batches: {max(num_parts)}")
  assert seen[0] == seen[1]
  tokens = [len(x) for x in seen[0].values()]
  assert sum(tokens) == stats.num_sampled_tokens > 12
