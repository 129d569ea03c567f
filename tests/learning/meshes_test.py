"""One device, eight devices: same batch, same numbers."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import imitation
from userrl_jax.learning import learner

GRPO = config.Grpo(
  credit=config.Credit(score="mean", credit="r2g"),
  optimizer=config.Grpo().optimizer,
)
PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=8, logprob_chunk=16
)

pytestmark = pytest.mark.slow


def _three_updates(grpo, settings, devices, model_config, params, batches):
  mesh = sharding.make_mesh(settings, devices)
  update = learner.make_update(
    model_config, learner.Settings(grpo, PACKING, temperature=1.0), mesh
  )
  state = learner.init_state(params, grpo.optimizer, 10, mesh)
  # Params that are sharded, other than those that are trained.
  reference = jax.tree.map(lambda x: 1.1 * x, state.params)
  references = (reference,) if grpo.kl_coef else ()
  states, seen = [], []
  for batch in batches:
    state, metrics = update(state, batch, *references)
    states.append(jax.device_get(state))
    seen.append(jax.device_get(metrics))
  assert update._cache_size() == 1
  return state, states, seen


@pytest.mark.parametrize(
  "optimizer,changes",
  [
    ("adamw", {}),
    pytest.param("muon", {}, marks=pytest.mark.exhaustive),
    (
      "adamw",
      dict(loss="gspo", aggregation="sequence_mean", kl_coef=0.1, clip_low=0.1),
    ),
    pytest.param(
      "adamw",
      dict(credit=config.Credit(score="sum", credit="predicted")),
      marks=pytest.mark.exhaustive,
    ),
  ],
  ids=["adamw", "muon", "gspo", "predicted"],
)
def test_one_and_eight_devices_agree(
  eight_devices, make_groups, model_config, params, optimizer, changes
):
  if not eight_devices:
    return
  grpo = dataclasses.replace(
    GRPO,
    optimizer=dataclasses.replace(GRPO.optimizer, name=optimizer),
    **changes,
  )
  batches = [
    batching.pack(
      make_groups(seed, P=6, most=9),
      PACKING,
      group_size=4,
      max_turns=3,
      num_tasks=6,
      capacity=3,
      credit=grpo.credit,
    )[0]
    for seed in range(3)
  ]
  _, states, metrics = _three_updates(
    grpo, config.Mesh(), jax.devices()[:1], model_config, params, batches
  )
  state, other_states, other_metrics = _three_updates(
    grpo,
    config.Mesh(data=2, fsdp=2, tensor=2),
    jax.devices(),
    model_config,
    params,
    batches,
  )
  for got, want in zip(other_metrics, metrics, strict=True):
    assert want["train/grad_norm"] > 1e-3
    for name, value in want.items():
      np.testing.assert_allclose(
        got[name], value, rtol=1e-5, atol=1e-5, err_msg=name
      )
  # Params, and Adam's moments: after one update the first is the gradient.
  for got, want in zip(other_states, states, strict=True):
    jax.tree.map(
      lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=1e-5),
      got,
      want,
    )
  # The mesh really split what the table says, moments included.
  split = [
    array
    for path, array in jax.tree_util.tree_leaves_with_path(state)
    if jax.tree_util.keystr(path).endswith("['mlp']['up']['kernel']")
  ]
  assert len(split) == (3 if optimizer == "adamw" else 2)  # and its moments
  for array in split:
    assert array.sharding.shard_shape(array.shape) == (2, 16, 32)


# Without momentum the first moment of Adam is the gradient.
PLAIN = config.Optimizer(b1=0.0, max_grad_norm=1e3)


def _make_update(method, model_config, mesh):
  if method == "sft":
    settings = imitation.Settings(PLAIN, PACKING, num_steps=10)
    return imitation.make_update(model_config, settings, mesh)
  grpo = dataclasses.replace(GRPO, optimizer=PLAIN)
  settings = learner.Settings(grpo, PACKING, temperature=1.0)
  return learner.make_update(model_config, settings, mesh)


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_every_shape_of_mesh_gives_one_loss_and_gradient(
  eight_devices, make_groups, model_config, params, method
):
  if not eight_devices:
    return
  groups = make_groups(0, P=6, most=9)
  if method == "sft":
    shown = [t for group in groups for t in group.trajectories]
    batch, _ = batching.pack_demonstrations(shown, PACKING, capacity=3)
  else:
    shape = dict(group_size=4, max_turns=3, num_tasks=6, capacity=3)
    batch, _ = batching.pack(groups, PACKING, **shape)
  seen = []
  for sizes in ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 4)):
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = sharding.make_mesh(config.Mesh(*sizes), devices)
    update = _make_update(method, model_config, mesh)
    state = learner.init_state(params, PLAIN, 10, mesh)
    [placed] = learner.placed([batch], PACKING, mesh)
    state, metrics = update(state, placed)
    moments = jax.device_get(jax.tree.leaves(state.opt_state))
    seen.append((float(metrics["train/loss"]), moments))
  (loss, moments), *others = seen
  assert abs(loss) > 1e-3 and max(float(abs(m).max()) for m in moments) > 1e-2
  for other_loss, other_moments in others:
    np.testing.assert_allclose(other_loss, loss, rtol=0, atol=1e-5)
    for got, want in zip(other_moments, moments, strict=True):
      np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def _apart(groups, make_trajectory):
  """Makes trajectories of which no two fit into a row of 32."""
  rng = np.random.default_rng(5)
  return [
    types.Group(
      group.task,
      [
        make_trajectory(
          rng,
          [int(rng.integers(8, 11)), 5],
          t.rewards_K[:2] if len(t.turns) > 1 else [t.rewards_K[0], 0.25],
          read=5,
          member=t.member,
          task_id=group.task.id,
        )
        for t in group.trajectories
      ],
    )
    for group in groups
  ]


# (row length, rows of a micro-batch) -> micro-batches. Rows of 32 hold one of
# the 64 trajectories each, rows of 56 two; all split over eight devices.
_PARTS = {
  **{(32, 64): 1, (32, 32): 2, (32, 16): 4},
  **{(56, 32): 1, (56, 16): 2, (56, 8): 4},
}
_MESHES = ((8, 1, 1), (1, 8, 1), (2, 2, 2), (2, 1, 4))


def _updated(made, shape, sizes, model_config, params):
  """Updates three times; returns losses, moments after each, and params."""
  packing = config.Packing(*shape, logprob_chunk=16)
  devices = jax.devices()[: int(np.prod(sizes))]
  mesh = sharding.make_mesh(config.Mesh(*sizes), devices)
  settings = learner.Settings(GRPO, packing, temperature=1.0)
  update = learner.make_update(model_config, settings, mesh)
  state = learner.init_state(params, GRPO.optimizer, 10, mesh)
  losses, moments = [], []
  for groups in made:
    batch, stats = batching.pack(
      groups, packing, group_size=4, max_turns=3, num_tasks=16, capacity=4
    )
    assert stats.num_trajectories == 64
    assert stats.num_rows == (64 if packing.row_length == 32 else 32)
    assert stats.num_micro_batches == _PARTS[shape]
    [batch] = learner.placed([batch], packing, mesh)
    state, metrics = update(state, batch)
    losses.append(float(metrics["train/loss"]))
    # By which the gradients of all updates are told.
    moments.append(jax.device_get(state.opt_state))
  assert metrics["train/num_skipped"] == 0
  return losses, moments, jax.device_get(state.params)


@pytest.mark.parametrize(
  "runs",
  [
    pytest.param([((2, 2, 2), (56, 8))], id="one"),
    pytest.param(
      list(itertools.product(_MESHES, _PARTS)),
      id="all",
      marks=[pytest.mark.exhaustive, pytest.mark.timeout(1800)],
    ),
  ],
)
def test_accumulation_and_packing_give_the_same_updates(
  eight_devices, make_groups, make_trajectory, model_config, params, runs
):
  """Three updates of rows alone or packed, in 1, 2 and 4 parts, on meshes."""
  if not eight_devices:
    return
  made = [_apart(make_groups(seed, P=16), make_trajectory) for seed in range(3)]
  of_run = lambda sizes, shape: _updated(
    made, shape, sizes, model_config, params
  )
  want = of_run((1, 1, 1), (32, 64))
  assert max(map(abs, want[0])) > 1e-3
  for sizes, shape in runs:
    jax.tree.map(
      lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=1e-5),
      of_run(sizes, shape),
      want,
    )
