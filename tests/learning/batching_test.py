"""Packing: nothing lost, nothing mixed up, every misfit named."""

import dataclasses

import hypothesis
from hypothesis import strategies
import jax
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import types
from userrl_jax.learning import batching

PACKING = config.Packing(row_length=48, rows_per_micro_batch=2)
SHAPE = dict(group_size=4, max_turns=3, num_tasks=3, capacity=6)


def _placed_tokens(batch):
  """Lists each placed token: (slot, target, logprob, context read back)."""
  rows = batch.rows
  found = []
  for a, b, m in zip(*np.nonzero(rows.slots >= 0), strict=True):
    assert a < batch.num_micro_batches
    at = rows.sampled_positions[a, b, m]
    segment = rows.segment_ids[a, b, at]
    assert segment > 0
    start = at - rows.positions[a, b, at]
    assert (rows.segment_ids[a, b, start : at + 1] == segment).all()
    assert start == 0 or rows.segment_ids[a, b, start - 1] == segment - 1
    context = rows.token_ids[a, b, start : at + 1]
    found.append(
      (
        int(rows.slots[a, b, m]),
        int(rows.targets[a, b, m]),
        float(rows.logprobs[a, b, m]),
        tuple(context.tolist()),
      )
    )
  return sorted(found)


def _tokens_of(groups, G, K):
  """Lists what `_placed_tokens` must find, from the trajectories."""
  wanted = []
  for p, group in enumerate(groups):
    for g, t in enumerate(group.trajectories):
      for i, turn in enumerate(t.turn_ids_T):
        if turn >= 0 and t.is_valid:
          wanted.append(
            (
              (p * G + g) * K + int(turn),
              int(t.token_ids_T[i]),
              float(t.logprobs_T[i]),
              tuple(t.token_ids_T[:i].tolist()),
            )
          )
  return sorted(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_every_sampled_token_is_found_with_its_context(make_groups, seed):
  groups = make_groups(seed)
  batch, stats = batching.pack(groups, PACKING, **SHAPE)
  placed = _placed_tokens(batch)
  assert placed == _tokens_of(groups, G=4, K=3)
  assert stats.num_sampled_tokens == len(placed) == batch.num_tokens_PGK.sum()
  assert stats.num_tokens == (batch.rows.segment_ids > 0).sum()
  # Listed at the front of M, so that chunks of padding are whole.
  mask = batch.rows.slots >= 0
  assert (mask[..., :-1] >= mask[..., 1:]).all()
  for p, group in enumerate(groups):
    for g, t in enumerate(group.trajectories):
      K = len(t.turns)
      np.testing.assert_array_equal(batch.rewards_PGK[p, g, :K], t.rewards_K)
      np.testing.assert_array_equal(
        batch.num_tokens_PGK[p, g, :K], t.num_sampled_K
      )
      assert batch.turn_mask_PGK[p, g].tolist() == [k < K for k in range(3)]


def test_invalid_members_and_missing_groups_are_left_out(make_groups):
  groups = make_groups(0, P=2)
  members = list(groups[1].trajectories)
  members[2] = dataclasses.replace(members[2], fault=types.Fault.USER_TIMEOUT)
  groups[1] = types.Group(groups[1].task, members[:3])
  batch, stats = batching.pack(groups, PACKING, **SHAPE)
  assert batch.valid_PG.tolist() == [
    [True] * 4,
    [True, True, False, False],
    [False] * 4,
  ]
  assert not batch.rewards_PGK[1, 2:].any()
  assert _placed_tokens(batch) == _tokens_of(groups, G=4, K=3)
  assert (stats.num_trajectories, stats.num_left_out) == (6, 1)


def test_ids_after_the_last_sampled_one_take_no_room(make_trajectory):
  rng = np.random.default_rng(0)
  t = make_trajectory(rng, [3, 2], [0, 1], read=5)
  end = int(np.nonzero(t.turn_ids_T >= 0)[0][-1]) + 1
  assert end < len(t.token_ids_T)
  batch, stats = batching.pack([types.Group(t.task, [t])], PACKING, **SHAPE)
  assert stats.num_tokens == end
  np.testing.assert_array_equal(
    batch.rows.token_ids[0, 0, :end], t.token_ids_T[:end]
  )
  assert stats.pad_share == 1 - end / (2 * 48)


def test_shapes_do_not_depend_on_content(make_groups):
  shapes = {
    tuple(x.shape for x in jax.tree.leaves(batch))
    for batch, _ in (
      batching.pack(make_groups(seed, P=P), PACKING, **SHAPE)
      for seed, P in ((0, 1), (1, 2), (2, 3))
    )
  }
  assert len(shapes) == 1
  empty, stats = batching.pack([], PACKING, **SHAPE)
  assert empty.num_micro_batches == 0 and stats.pad_share == 1


@hypothesis.settings(
  max_examples=100,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  lengths=strategies.lists(strategies.integers(3, 20), min_size=1, max_size=40),
  rows=strategies.integers(1, 4),
)
def test_capacity_always_suffices(make_trajectory, lengths, rows):
  rng = np.random.default_rng(0)
  packing = config.Packing(row_length=20, rows_per_micro_batch=rows)
  made = [make_trajectory(rng, [n - 2], [1], read=2) for n in lengths]
  room = batching.capacity(len(lengths), max(lengths), packing)
  batch, stats = batching.pack_demonstrations(made, packing, capacity=room)
  assert batch.rows.token_ids.shape[0] == room
  assert stats.num_tokens == sum(lengths)
  assert stats.num_rows <= -(-len(lengths) // (20 // max(lengths)))


@pytest.mark.parametrize("num_episodes,rows", [(64, 1), (256, 1), (256, 4)])
def test_ragged_lengths_pack_densely(make_trajectory, num_episodes, rows):
  """Lengths as of rollouts over many turns, in rows of the longest there is."""
  rng = np.random.default_rng(0)
  packing = config.Packing(row_length=8192, rows_per_micro_batch=rows)
  room = batching.capacity(num_episodes, 8192, packing)
  real = []
  for _ in range(5):
    drawn = rng.lognormal(np.log(1500), 0.8, num_episodes)
    lengths = np.clip(drawn, 200, 8192).astype(int)
    made = [make_trajectory(rng, [n - 4], [1], read=4) for n in lengths]
    _, stats = batching.pack_demonstrations(made, packing, capacity=room)
    assert stats.num_tokens == lengths.sum()
    real.append(1 - stats.pad_share)
  print(f" real positions {min(real):.3f} to {max(real):.3f} ")
  assert min(real) >= 0.92


def test_demonstrations_mark_the_agents_turns_or_every_id(make_trajectory):
  rng = np.random.default_rng(0)
  t = make_trajectory(rng, [3, 2], [0, 1], read=5)
  lost = dataclasses.replace(t, fault=types.Fault.GYM_ERROR)
  batch, stats = batching.pack_demonstrations([t, lost], PACKING, capacity=2)
  assert stats.num_left_out == 1
  marked = batch.rows.targets[batch.rows.slots == 0]
  np.testing.assert_array_equal(marked, t.token_ids_T[t.turn_ids_T >= 0])
  batch, stats = batching.pack_demonstrations(
    [t], PACKING, capacity=2, all_ids=True
  )
  marked = batch.rows.targets[batch.rows.slots == 0]
  np.testing.assert_array_equal(marked, t.token_ids_T[1:])
  assert stats.num_sampled_tokens == len(t.token_ids_T) - 1


def test_misfits_are_named(make_groups, make_trajectory):
  rng = np.random.default_rng(0)
  groups = make_groups(0)
  pack = lambda groups, **kw: batching.pack(groups, PACKING, **(SHAPE | kw))
  with pytest.raises(ValueError, match="at most 2 tasks.*got 3"):
    pack(groups, num_tasks=2)
  with pytest.raises(ValueError, match="at most 3 members.*toy/0.*got 4"):
    pack(groups, group_size=3)
  with pytest.raises(ValueError, match="at most 1 turns of trajectory toy/"):
    pack(groups, max_turns=1)
  with pytest.raises(ValueError, match="capacity"):
    pack(groups, capacity=1)
  long = make_trajectory(rng, [60], [1], task_id="L", member=2)
  with pytest.raises(ValueError, match="toy/L member 2 .*row_length = 48.*64"):
    pack([types.Group(long.task, [long])])
  bare = make_trajectory(rng, [3], [1], read=0)
  with pytest.raises(ValueError, match="must start with an id that was read"):
    pack([types.Group(bare.task, [bare])])
  with pytest.raises(ValueError, match="row_length must be at least"):
    batching.capacity(4, 49, PACKING)
