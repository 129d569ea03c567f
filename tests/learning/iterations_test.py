"""What an iteration learns from, and that its steps are plain updates."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import types
from userrl_jax.learning import iterations
from userrl_jax.learning import learner
from userrl_jax.learning import rewards

PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=2, logprob_chunk=16
)
SHAPE = dict(max_turns=3, num_tasks=4, capacity=8)


def _with_rewards(group, rewards):
  """Gives each member one reward, in its last turn."""
  members = [
    dataclasses.replace(
      t,
      turns=tuple(
        dataclasses.replace(turn, reward=reward * (k == len(t.turns) - 1))
        for k, turn in enumerate(t.turns)
      ),
    )
    for t, reward in zip(group.trajectories, rewards, strict=True)
  ]
  return types.Group(group.task, members)


def _pack(groups, seed=(0, 0), packing=PACKING, **settings):
  settings = {"credit": config.Credit(score="sum")} | settings
  grpo = config.Grpo(group_size=4, **settings)
  return iterations.pack(groups, packing, grpo, seed=seed, **SHAPE)


@pytest.fixture(scope="module")
def six_groups(make_groups):
  """Of which the second and the last are flat."""
  groups = make_groups(0, P=6)
  uneven, flat = [0, 1, 0.5, 1], [0.7] * 4
  rewards = [uneven, flat, uneven, uneven, uneven, flat]
  return [_with_rewards(*pair) for pair in zip(groups, rewards, strict=True)]


def test_flat_groups_are_found_among_valid_members(six_groups):
  by_sum = config.Credit(score="sum")
  found = iterations.informative(six_groups, by_sum)
  assert found == [six_groups[i] for i in (0, 2, 3, 4)]
  (group,) = six_groups[:1]  # rewards 0, 1, 0.5 and 1
  lost = [
    dataclasses.replace(t, fault=types.Fault.USER_TIMEOUT) if i in (0, 2) else t
    for i, t in enumerate(group.trajectories)
  ]
  assert not iterations.informative([types.Group(group.task, lost)], by_sum)
  # What makes members differ is the score that credit uses.
  longer = config.Credit(score="sum", length_penalty=1.0)
  assert six_groups[1] in iterations.informative(six_groups, longer)
  assert iterations.informative([], by_sum) == []


def test_dropped_groups_are_not_computed_and_the_first_are_taken(six_groups):
  batches, stats = _pack(six_groups[:4], flat_groups="drop")
  alone, alone_stats = _pack([six_groups[i] for i in (0, 2, 3)])
  assert stats == dataclasses.replace(alone_stats, num_flat_groups=1)
  jax.tree.map(np.testing.assert_array_equal, batches, alone)
  # More than fit are played by a refill; as many as an iteration has are used.
  _, stats = _pack([*six_groups, six_groups[0]], flat_groups="refill")
  assert stats.num_trajectories == 16 and stats.num_flat_groups == 2
  with pytest.raises(ValueError, match="at most 4 tasks"):
    _pack(six_groups)
  batches, stats = _pack([six_groups[1]], flat_groups="drop")
  assert len(batches) == 1 and not batches[0].valid_PG.any()
  assert stats.num_sampled_tokens == 0


@pytest.mark.parametrize("num_valid", [0, 1])
@pytest.mark.parametrize("is_released", [False, True])
def test_groups_that_compare_nothing_are_never_learned_from(
  six_groups, num_valid, is_released
):
  """A lone valid member is in no loss, no denominator and no advantage."""
  spoiled = [
    t
    if i < num_valid
    else dataclasses.replace(t, fault=types.Fault.USER_TIMEOUT)
    for i, t in enumerate(six_groups[0].trajectories)
  ]
  lone = types.Group(six_groups[0].task, spoiled)
  by_sum = config.Credit(score="sum", released=is_released)
  batches, stats = _pack([lone, *six_groups[1:3]], credit=by_sum)
  alone, alone_stats = _pack(six_groups[1:3], credit=by_sum)
  assert stats == dataclasses.replace(alone_stats, num_flat_groups=1)
  jax.tree.map(np.testing.assert_array_equal, batches, alone)
  # In groups of one nobody else could be there.
  one = [types.Group(g.task, g.trajectories[:1]) for g in six_groups[:2]]
  grpo = config.Grpo(group_size=1, credit=by_sum)
  _, stats = iterations.pack(one, PACKING, grpo, seed=(0, 0), **SHAPE)
  assert stats.num_trajectories == 2 and stats.num_flat_groups == 0


def test_mini_batches_hold_every_group_once_in_an_order_of_their_own(
  six_groups,
):
  groups = six_groups[:4]
  packing = dataclasses.replace(PACKING, row_length=32)
  whole, whole_stats = _pack(groups, packing=packing)
  tokens = lambda batches: sorted(
    sorted(batch.rows.targets[batch.rows.slots >= 0].tolist())
    for batch in batches
  )
  seen = set()
  for seed in range(8):
    halves, stats = _pack(
      groups, (7, seed), packing=packing, num_mini_batches=2
    )
    again, _ = _pack(groups, (7, seed), packing=packing, num_mini_batches=2)
    jax.tree.map(np.testing.assert_array_equal, halves, again)
    assert [h.valid_PG.shape for h in halves] == [(2, 4)] * 2
    assert sorted([*itertools.chain(*tokens(halves))]) == tokens(whole)[0]
    seen.add(str(tokens(halves)))
    assert stats.num_sampled_tokens == whole_stats.num_sampled_tokens
    assert stats.num_trajectories == 16
    places = sum(2 * 32 * h.num_micro_batches for h in halves)
    np.testing.assert_allclose(stats.pad_share, 1 - stats.num_tokens / places)
  assert len(seen) > 1
  # Fewer groups than steps: fewer steps, none of them empty.
  batches, _ = _pack(groups[:1], num_mini_batches=4)
  assert len(batches) == 1


def test_steps_start_their_ratios_from_the_iterations_params(
  six_groups, model_config, params, mesh, chosen_logprobs
):
  grpo = config.Grpo(
    group_size=4,
    num_mini_batches=2,
    importance_cap=2.0,
    optimizer=config.Optimizer(learning_rate=1e-2),
  )
  settings = learner.Settings(grpo, PACKING, temperature=0.9)
  update = learner.make_update(model_config, settings, mesh)
  recompute = iterations.make_recompute(model_config, settings, mesh)
  batches, _ = _pack(six_groups[:4], num_mini_batches=2)
  start = lambda: learner.init_state(params, grpo.optimizer, 10, mesh)

  old = [np.asarray(recompute(params, batch)) for batch in batches]
  for batch, old_ABM in zip(batches, old, strict=True):
    assert not old_ABM[batch.rows.slots < 0].any()
  wanted = [
    chosen_logprobs(params, t, 0.9)[np.nonzero(t.turn_ids_T >= 0)[0] - 1]
    for group in six_groups[:4]
    for t in group.trajectories
  ]
  got = [x[b.rows.slots >= 0] for x, b in zip(old, batches, strict=True)]
  np.testing.assert_allclose(
    np.sort(np.concatenate(got)), np.sort(np.concatenate(wanted)), atol=1e-5
  )

  state, metrics = iterations.run(update, start(), batches, recompute=recompute)
  assert state.step == 2 and update._cache_size() == 1
  by_hand, seen = start(), []
  for batch, old_ABM in zip(batches, old, strict=True):
    rows = batch.rows._replace(old_logprobs=old_ABM)
    by_hand, one = update(by_hand, batch._replace(rows=rows))
    seen.append(one)
  jax.tree.map(np.testing.assert_array_equal, state.params, by_hand.params)
  # The first step is on-policy, whatever the sampler's numbers were.
  np.testing.assert_allclose(seen[0]["train/ratio"], 1, atol=1e-5)
  assert abs(seen[1]["train/ratio"] - 1) > 1e-3
  assert seen[0]["train/importance_capped"] > 0
  assert seen[0]["train/importance"] < 2
  counts = [one["train/num_tokens"] for one in seen]
  assert metrics["train/num_tokens"] == sum(counts)
  np.testing.assert_allclose(
    metrics["train/entropy"],
    np.average([one["train/entropy"] for one in seen], weights=counts),
    rtol=1e-5,
  )
  # Of the params that sampled, not of those that have moved since.
  gaps = [one["rollout/logprob_gap_max"] for one in seen]
  assert metrics["rollout/logprob_gap_max"] == gaps[0] != gaps[1]
  assert metrics["train/learning_rate"] == seen[1]["train/learning_rate"]
  assert metrics["rollout/num_valid"] == 16


def test_means_of_steps_are_weighed_by_what_they_are_over(six_groups):
  """Of three groups, one flat and one short of members, as in one step."""
  few, flat, _, other = six_groups[:4]
  spoiled = [
    dataclasses.replace(t, fault=types.Fault.USER_TIMEOUT) if i < 2 else t
    for i, t in enumerate(few.trajectories)
  ]
  groups = [types.Group(few.task, spoiled), flat, other]

  def update(state, batch):  # takes no step, and tells what the learner would
    scores_PG = np.asarray(batch.rewards_PGK.sum(-1))
    described = learner._group_metrics(jnp.array(scores_PG), batch.valid_PG)
    num_tokens = learner.count_tokens(batch)
    return state, described | {"train/num_tokens": num_tokens}

  (whole,), _ = _pack(groups)
  halves, _ = _pack(groups, num_mini_batches=2)
  assert len(halves) == 2
  _, one = iterations.run(update, None, [whole])
  _, two = iterations.run(update, None, halves)
  for name in ("advantage/mean_score", "advantage/flat_share"):
    np.testing.assert_allclose(one[name], two[name], rtol=1e-6)
  np.testing.assert_allclose(two["advantage/flat_share"], 1 / 3, rtol=1e-6)


def test_nothing_is_recomputed_where_nothing_needs_it(model_config, mesh):
  for changes in ({"num_mini_batches": 2}, {"importance_cap": 2.0}):
    settings = learner.Settings(config.Grpo(**changes), PACKING, 1.0)
    assert iterations.make_recompute(model_config, settings, mesh) is None


def test_trajectories_cut_by_a_budget_keep_their_score_alone(six_groups):
  group = six_groups[0]
  members = list(group.trajectories)
  for i, reason in ((1, "turn_budget"), (2, "episode_budget")):
    members[i] = dataclasses.replace(
      members[i], stop_reason=types.StopReason(reason)
    )
  cut = [types.Group(group.task, members)]
  trained, _ = _pack(cut)
  (masked,), stats = _pack(cut, overlong="mask")
  jax.tree.map(np.testing.assert_array_equal, trained[0][2:6], masked[2:6])
  assert masked.in_loss_PG[0].tolist() == [True, False, False, True]
  assert trained[0].in_loss_PG[0].all()
  assert (stats.num_trajectories, stats.num_left_out) == (2, 2)
  slots = masked.rows.slots[masked.rows.slots >= 0]
  assert set(slots // 3) == {0, 3}


def test_rewards_are_scaled_by_gym_and_by_the_most_there_is(six_groups):
  group = six_groups[0]
  members = [dataclasses.replace(t, max_score=4.0) for t in group.trajectories]
  groups = [types.Group(group.task, members)]
  raw = _pack(groups)[0][0].rewards_PGK
  assert raw.any()
  for factor, changes in (
    (0.5, dict(gym_scales=("toy=0.5", "other=9"))),
    (0.25, dict(reward_scale="share")),
    (0.5, dict(gym_scales=("toy=2",), reward_scale="share")),
  ):
    got = _pack(groups, credit=config.Credit(**changes))[0][0].rewards_PGK
    np.testing.assert_array_equal(got, raw * np.float32(factor))
  for wrong in ("toy", "toy=x", "toy=0", "toy=inf", "=2"):
    with pytest.raises(ValueError, match="gym_scales must be gyms"):
      _pack(groups, credit=config.Credit(gym_scales=(wrong,)))


@pytest.mark.parametrize(
  ("earned", "turn", "paid"),
  [
    ([0.1, 0, 0.3, 0.2], 3, [0, 0, 0.4, 0.2]),
    ([0.1, 0, 0.3, 0.2], 8, [0, 0, 0, 0.6]),  # it ends before that
    ([0.1, 0, 0.3, 0.2], 0, [0.1, 0, 0.3, 0.2]),
    ([0.1, 0, 0.3, 0.2], 1, [0.1, 0, 0.3, 0.2]),
    ([0.5], 8, [0.5]),
    ([], 8, []),
  ],
)
def test_rewards_held_back_are_paid_in_one_turn(earned, turn, paid):
  got = rewards.held(np.array(earned), turn)
  np.testing.assert_allclose(got, paid, atol=1e-12)


def test_what_is_held_back_reaches_the_batch(six_groups):
  task = six_groups[0].task
  first = six_groups[0].trajectories[0]
  turns = [types.Turn("x", None, "", r) for r in (0.25, 0.0, 0.5)]
  count = len(first.turns)
  assert count <= 3
  members = [dataclasses.replace(first, turns=tuple(turns[:count]))]
  groups = [types.Group(task, members)]
  for hold in (0, 2, 3):
    credit = config.Credit(hold_until=hold)
    got = _pack(groups, credit=credit)[0][0].rewards_PGK[0, 0, :count]
    want = rewards.held(members[0].rewards_K, hold)
    np.testing.assert_array_equal(got, want)
