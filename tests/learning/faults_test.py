"""Faulted episodes of a batch: its gradient is that of the others alone."""

import dataclasses

import jax
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import learner

P, G, K = 4, 4, 3
PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=2, logprob_chunk=16
)
INVALID = [str(fault) for fault in types.Fault if not fault.is_valid]
# Members that a fault ended, by group: none, one, all but one, all of them.
FAULTED = [(), (2,), (0, 1, 3), (0, 1, 2, 3)]


def _gradient(update, params, mesh, settings, groups):
  """Returns the gradient of the first update, from AdamW's first moment."""
  batch, _ = batching.pack(
    groups,
    PACKING,
    group_size=G,
    max_turns=K,
    num_tasks=P,
    capacity=8,
    credit=settings.credit,
  )
  state = learner.init_state(params, settings.optimizer, 10, mesh)
  state, metrics = update(state, batch)
  moments = state.opt_state[1].mu
  return jax.tree.map(lambda m: np.asarray(m) / (1 - 0.9), moments), metrics


def _with_faults(groups, faults):
  """Marks members as faulted; what they earned before it is in their turns."""
  fault = iter(faults)
  return [
    types.Group(
      group.task,
      [
        dataclasses.replace(t, fault=types.Fault(next(fault)))
        if g in members
        else t
        for g, t in enumerate(group.trajectories)
      ],
    )
    for group, members in zip(groups, FAULTED, strict=True)
  ]


def _largest_gap(one, other):
  gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, other)
  return max(jax.tree.leaves(gaps))


@pytest.mark.parametrize(
  ("aggregation", "score", "normalize", "name"),
  [
    ("token_mean", "r2g", "std", "em"),
    ("sequence_mean", "sum", "none", "equalized"),
    ("constant_length", "sum", "leave_one_out", "r2g"),
  ],
)
def test_the_gradient_is_that_of_the_batch_without_them(
  make_groups, model_config, params, mesh, aggregation, score, normalize, name
):
  grpo = config.Grpo(
    aggregation=aggregation,
    loss_length=20,
    credit=config.Credit(score=score, normalize=normalize, credit=name),
    optimizer=config.Optimizer(learning_rate=1e-2, max_grad_norm=100.0),
  )
  settings = learner.Settings(grpo, PACKING, temperature=0.9)
  update = learner.make_update(model_config, settings, mesh)
  groups = make_groups(12, P=P, G=G, K=K)
  num = sum(map(len, FAULTED))
  assert 2 * num >= len(INVALID)  # two batches have each kind
  for shift in (0, num):
    kinds = [INVALID[(shift + i) % len(INVALID)] for i in range(num)]
    faulted = _with_faults(groups, kinds)
    without = [
      types.Group(g.task, [t for t in g.trajectories if t.is_valid])
      for g in faulted
    ]
    got, metrics = _gradient(update, params, mesh, grpo, faulted)
    want, _ = _gradient(update, params, mesh, grpo, without)
    assert _largest_gap(got, want) <= 1e-6
    assert metrics["rollout/num_valid"] == P * G - num
    assert metrics["train/num_tokens"] == sum(
      t.num_sampled_K.sum() for g in without for t in g.trajectories
    )
  # Had they been scored, it would be another one altogether.
  as_scored, _ = _gradient(update, params, mesh, grpo, groups)
  assert _largest_gap(as_scored, want) > 1e-3
