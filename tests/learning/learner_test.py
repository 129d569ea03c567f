"""The update against a naive loop, and what must not change it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import diagnostics
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import credit
from userrl_jax.learning import learner
from userrl_jax.learning import rewards

P, G, K = 3, 4, 3
GRPO = config.Grpo(
  credit=config.Credit(score="r2g", credit="em"),
  optimizer=config.Optimizer(learning_rate=1e-2, max_grad_norm=100.0),
)
PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=2, logprob_chunk=16
)
SETTINGS = learner.Settings(GRPO, PACKING, temperature=0.9)


def _pack(groups, packing=PACKING, capacity=6):
  return batching.pack(
    groups,
    packing,
    group_size=G,
    max_turns=K,
    num_tasks=P,
    capacity=capacity,
  )[0]


def _start(params, mesh, optimizer=GRPO.optimizer):
  return learner.init_state(params, optimizer, 10, mesh)


def _gradient(state):
  """Reads the first update's gradient back from AdamW's first moment."""
  return jax.tree.map(lambda m: m / (1 - 0.9), state.opt_state[1].mu)


def _assert_close(got, want, atol):
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=atol), got, want
  )


@pytest.fixture(scope="module")
def update(model_config, mesh):
  return learner.make_update(model_config, SETTINGS, mesh)


def _naive_loss(params, groups, chosen_logprobs):
  """Adds the clipped loss up one token at a time; no packing, no arrays.

  Returns:
    The loss, and its gradient with respect to params.
  """
  shape = (P, G, K)
  rewards, tokens = np.zeros(shape), np.zeros(shape)
  mask = np.zeros(shape, bool)
  for p, group in enumerate(groups):
    for g, t in enumerate(group.trajectories):
      rewards[p, g, : len(t.turns)] = t.rewards_K
      tokens[p, g, : len(t.turns)] = t.num_sampled_K
      mask[p, g, : len(t.turns)] = True
  advantages = credit.group_advantages(
    rewards, mask, tokens, mask.any(-1), GRPO.credit
  )
  count = tokens.sum()
  total, gradient = 0.0, jax.tree.map(jnp.zeros_like, params)
  for p, group in enumerate(groups):
    for g, t in enumerate(group.trajectories):
      logprobs, pull_back = jax.vjp(
        lambda params, t=t: chosen_logprobs(params, t, SETTINGS.temperature),
        params,
      )
      slope = np.zeros(len(logprobs), np.float32)
      for i, k in enumerate(t.turn_ids_T):
        if k < 0:
          continue
        A = advantages[p, g, k]
        ratio = np.exp(float(logprobs[i - 1]) - float(t.logprobs_T[i]))
        clipped = min(max(ratio, 0.8), 1.2)
        loss = max(-A * ratio, -A * clipped)
        if A < 0 and loss > -A * 3.0:
          loss = -A * 3.0
        elif loss == -A * ratio:
          slope[i - 1] = -A * ratio / count
        total += loss / count
      gradient = jax.tree.map(
        jnp.add, gradient, pull_back(jnp.asarray(slope))[0]
      )
  return total, gradient


def test_update_equals_a_naive_loop(
  make_groups, params, mesh, update, chosen_logprobs
):
  groups = make_groups(0)
  state, metrics = update(_start(params, mesh), _pack(groups))
  assert 0.05 < metrics["train/clip_fraction"] < 0.95
  assert metrics["train/dual_clip_fraction"] > 0
  assert metrics["train/grad_norm"] > 0.01
  loss, gradient = _naive_loss(params, groups, chosen_logprobs)
  np.testing.assert_allclose(metrics["train/loss"], loss, atol=1e-6)
  _assert_close(_gradient(state), gradient, atol=1e-6)


def test_packing_and_micro_batches_change_nothing(
  make_groups, model_config, params, mesh, update
):
  groups = make_groups(1)
  state, metrics = update(_start(params, mesh), _pack(groups))
  assert _pack(groups).num_micro_batches == 2
  packing = config.Packing(
    row_length=32, rows_per_micro_batch=1, logprob_chunk=9
  )
  batch = _pack(groups, packing, capacity=12)
  assert batch.num_micro_batches >= 6
  other = learner.make_update(
    model_config, dataclasses.replace(SETTINGS, packing=packing), mesh
  )
  other_state, other_metrics = other(_start(params, mesh), batch)
  _assert_close(_gradient(other_state), _gradient(state), atol=1e-6)
  _assert_close(other_metrics, metrics, atol=1e-5)


def test_every_term_equals_a_naive_loop(
  make_groups, model_config, params, mesh, logprobs_alone
):
  grpo = dataclasses.replace(
    GRPO,
    loss="cispo",
    aggregation="sequence_mean",
    kl_coef=0.5,
    kl_estimator="k2",
    entropy_coef=0.1,
    importance_cap=1.5,
    overlong="mask",
  )
  update = learner.make_update(
    model_config, dataclasses.replace(SETTINGS, grpo=grpo), mesh
  )
  reference = jax.tree.map(lambda x: 1.1 * x, params)
  groups = make_groups(10)
  cut = groups[1].trajectories[2]
  groups[1].trajectories[2] = dataclasses.replace(
    cut, stop_reason=types.StopReason.TURN_BUDGET
  )
  shape = dict(group_size=G, max_turns=K, num_tasks=P)
  batch, _ = batching.pack(
    groups, PACKING, **shape, capacity=6, overlong=grpo.overlong
  )
  state, metrics = update(_start(params, mesh), batch, reference)

  advantages = credit.group_advantages(
    *rewards.to_arrays(groups, grpo.credit, **shape), grpo.credit
  )

  def loss_of(params):
    total = 0.0
    for p, group in enumerate(groups):
      for g, t in enumerate(group.trajectories):
        if (p, g) == (1, 2):
          continue  # its score counts, its tokens do not
        (sampled,) = np.nonzero(t.turn_ids_T >= 0)
        look = lambda params, t=t: logprobs_alone(params, t, 0.9)
        all_ids, of_reference = look(params), look(reference)
        places = sampled - 1, t.token_ids_T[sampled]
        own = all_ids[places]
        fixed = jax.lax.stop_gradient(own)
        weight = jnp.minimum(jnp.exp(fixed - t.logprobs_T[sampled]), 1.5)
        A = advantages[p, g][t.turn_ids_T[sampled]]
        entropy = -(jnp.exp(all_ids) * all_ids).sum(-1)[places[0]]
        kl = (own - of_reference[places]) ** 2 / 2
        tokens = -weight * A * own + 0.5 * kl - 0.1 * entropy
        total += tokens.mean() / (P * G - 1)
    return total

  loss, gradient = jax.value_and_grad(loss_of)(params)
  np.testing.assert_allclose(metrics["train/loss"], loss, atol=1e-6)
  _assert_close(_gradient(state), gradient, atol=2e-6)
  assert metrics["train/reference_kl"] > 1e-3
  assert 0 < metrics["train/importance_capped"] < 1
  np.testing.assert_allclose(metrics["train/ratio"], 1, atol=1e-6)


def test_ratios_of_trajectories_do_not_depend_on_packing(
  make_groups, model_config, params, mesh
):
  grpo = dataclasses.replace(
    GRPO,
    loss="gspo",
    aggregation="constant_length",
    loss_length=20,
    clip_high=0.05,
  )
  seen = []
  for packing in (
    PACKING,
    config.Packing(row_length=32, rows_per_micro_batch=1, logprob_chunk=9),
  ):
    settings = learner.Settings(grpo, packing, SETTINGS.temperature)
    update = learner.make_update(model_config, settings, mesh)
    batch = _pack(make_groups(11), packing, capacity=12)
    state, metrics = update(_start(params, mesh), batch)
    seen.append((_gradient(state), metrics))
  _assert_close(*seen, atol=1e-5)
  clipped = metrics["train/clip_fraction"] + metrics["train/dual_clip_fraction"]
  assert 0 < clipped < 1 and metrics["train/grad_norm"] > 0.01


def test_an_invalid_member_changes_nothing(
  make_groups, make_trajectory, params, mesh, update
):
  groups = make_groups(2)
  short = [types.Group(g.task, g.trajectories[:3]) for g in groups]
  rng = np.random.default_rng(0)
  poison = make_trajectory(rng, [6, 6], [50.0, 50.0], fault="user_timeout")
  with_invalid = [
    types.Group(g.task, [*g.trajectories[:3], poison]) for g in groups
  ]
  state, metrics = update(_start(params, mesh), _pack(short))
  other_state, other_metrics = update(_start(params, mesh), _pack(with_invalid))
  _assert_close(other_state.params, state.params, atol=0)
  _assert_close(other_metrics, metrics, atol=0)
  assert metrics["rollout/num_valid"] == 9


def test_one_program_whatever_the_content(make_groups, params, mesh, update):
  state = _start(params, mesh)
  used = set()
  for seed, tasks, most in ((3, 1, 3), (4, 3, 6), (5, 3, 9)):
    batch = _pack(make_groups(seed, P=tasks, most=most))
    used.add(int(batch.num_micro_batches))
    state, _ = update(state, batch)
  assert len(used) > 1
  assert update._cache_size() == 1
  assert state.step == 3 and state.num_skipped == 0


def test_the_compiled_program_calls_no_host(
  make_groups, params, mesh, update, host_calls
):
  lowered = update.lower(_start(params, mesh), _pack(make_groups(0)))
  assert not host_calls(lowered.compile())


def test_flat_groups_have_no_gradient(make_groups, params, mesh, update):
  groups = [
    types.Group(
      g.task,
      [
        dataclasses.replace(
          t, turns=tuple(dataclasses.replace(x, reward=0.0) for x in t.turns)
        )
        for t in g.trajectories
      ],
    )
    for g in make_groups(6)
  ]
  state, metrics = update(_start(params, mesh), _pack(groups))
  assert metrics["train/grad_norm"] == 0
  assert metrics["advantage/flat_share"] == 1
  assert metrics["train/skipped"] == 0
  _assert_close(state.params, params, atol=0)


def test_unsound_updates_are_skipped_and_counted(
  make_groups, params, mesh, update
):
  batch = _pack(make_groups(7))
  broken = batch.rewards_PGK.copy()
  broken[0, 0, 0] = np.nan
  state, metrics = update(
    _start(params, mesh), batch._replace(rewards_PGK=broken)
  )
  assert not np.isfinite(metrics["train/loss"])
  assert metrics["train/skipped"] == 1
  _assert_close(state.params, params, atol=0)

  state, metrics = update(state, _pack([]))
  assert metrics["train/num_skipped"] == 2 and metrics["train/num_tokens"] == 0
  assert all(np.isfinite(x) for x in metrics.values())
  _assert_close(state.params, params, atol=0)

  state, metrics = update(state, batch)
  assert (metrics["train/skipped"], metrics["train/num_skipped"]) == (0, 2)
  assert (state.step, state.num_skipped) == (3, 2)
  moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params, params)
  assert max(jax.tree.leaves(moved)) > 0


def test_gap_is_small_on_policy_and_shows_a_wrong_temperature(
  make_groups, params, mesh, update, chosen_logprobs
):
  def resampled(t, temperature):
    logprobs = np.zeros(len(t.token_ids_T), np.float32)
    logprobs[1:] = chosen_logprobs(params, t, temperature)
    logprobs[t.turn_ids_T < 0] = 0
    return dataclasses.replace(t, logprobs_T=logprobs)

  gaps, told = {}, {}
  for temperature in (0.9, 1.0):
    groups = [
      types.Group(g.task, [resampled(t, temperature) for t in g.trajectories])
      for g in make_groups(8)
    ]
    _, metrics = update(_start(params, mesh), _pack(groups))
    gaps[temperature] = metrics["rollout/logprob_gap_max"]
    watch = diagnostics.Watch(max_gap=diagnostics.MAX_EXACT_GAP)
    _, told[temperature] = watch.step(metrics | {"episode/num": 12})
    if temperature == 0.9:
      np.testing.assert_allclose(metrics["train/ratio"], 1, atol=1e-5)
      assert metrics["rollout/logprob_gap"] <= gaps[0.9] < 1e-5
  assert gaps[1.0] > 1e-3
  # A run tells of it after its first step.
  assert not told[0.9] and [f.name for f in told[1.0]] == ["logprob_gap"]
  assert "temperature" in told[1.0][0].message


def test_a_rewarded_token_becomes_likelier(
  make_groups, params, mesh, update, chosen_logprobs
):
  groups = make_groups(9)
  groups = [
    types.Group(
      g.task,
      [
        dataclasses.replace(
          t,
          turns=(types.Turn("", None, "", float(i == 0)),) * len(t.turns),
        )
        for i, t in enumerate(g.trajectories)
      ],
    )
    for g in groups
  ]
  state = _start(params, mesh)
  for _ in range(3):
    state, _ = update(state, _pack(groups))
  for group in groups:
    t = group.trajectories[0]
    change = chosen_logprobs(state.params, t, 0.9) - chosen_logprobs(
      params, t, 0.9
    )
    assert change[t.turn_ids_T[1:] >= 0].mean() > 0.1


def test_updates_leave_the_callers_params_alive(
  make_groups, params, mesh, update
):
  base = _start(params, mesh).params  # already where the state will be
  state = _start(base, mesh)
  update(state, _pack(make_groups(0)))
  assert jax.tree.leaves(state.params)[0].is_deleted()
  _assert_close(base, params, atol=0)


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(dual_clip=1.0), "dual_clip above 1"),
    (dict(clip_low=1.5), "clip_low must be within"),
    (dict(loss="grpo"), "grpo.loss must be one of ppo"),
    (dict(aggregation="mean"), "grpo.aggregation must be one of token_mean"),
    (dict(kl_estimator="k4"), "grpo.kl_estimator must be one of k1"),
    (dict(credit=config.Credit(score="Sum")), "credit.score must be one of"),
    (dict(optimizer=config.Optimizer(schedule="linear")), "must be constant"),
    (dict(optimizer=config.Optimizer(max_grad_norm=0)), "max_grad_norm must"),
  ],
)
def test_bad_settings_are_refused(model_config, mesh, change, message):
  grpo = dataclasses.replace(GRPO, **change)
  settings = dataclasses.replace(SETTINGS, grpo=grpo)
  with pytest.raises(ValueError, match=message):
    learner.make_update(model_config, settings, mesh)


def test_greedy_samples_and_empty_chunks_are_refused(model_config, mesh):
  with pytest.raises(ValueError, match="temperature must be above 0"):
    learner.make_update(
      model_config, dataclasses.replace(SETTINGS, temperature=0.0), mesh
    )
  packing = dataclasses.replace(PACKING, logprob_chunk=0)
  with pytest.raises(ValueError, match="logprob_chunk must be above 0"):
    learner.make_update(
      model_config, dataclasses.replace(SETTINGS, packing=packing), mesh
    )
