"""What the stages of a run start from, and how long and on what they learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import run_folder
from userrl_jax import stages
from userrl_jax.learning import batching

ALL = config_rules._NAMES["Config.stages"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  config = config_lib.Config(out_dir=str(tmp_path_factory.mktemp("run")))
  config.stages = ALL
  config.gyms.num_train_tasks = 96
  config.model.num_layers = 1
  return assembly.build(config)


def _plan(parts, *names, **sections):
  config = dataclasses.replace(parts.config, stages=names or ALL, **sections)
  planned = stages.plan(dataclasses.replace(parts, config=config))
  return {stage.name: stage for stage in planned}


def test_a_stage_starts_from_the_nearest_before_it(parts):
  starts = lambda *names: [s.start for s in _plan(parts, *names).values()]
  arms = ["cold_start", "cold_start", "base", "base"]
  assert starts(*ALL) == ["", "base", "cold_start", *arms]
  assert starts("base", "grpo") == ["", "base"]
  for arm in ("rl_only_updates", "rl_only"):
    assert starts("cold_start", "grpo", arm) == ["", "cold_start", ""]


def test_comparisons_know_the_same_starts(parts):
  for names in (ALL, ("base", "grpo"), ("base", "cold_start", "grpo")):
    for name, stage in _plan(parts, *names).items():
      known = [s for s in run_folder.STARTS[name] if s in names]
      assert stage.start == (known[0] if known else "")


def test_arms_have_lengths_and_schedules_of_their_own(parts):
  plan = _plan(parts)
  lengths = [s.num_steps for s in plan.values()]
  assert lengths == [200, 200, 30, 30, 400, 30, 60]
  warmups = [s.optimizer.warmup_steps for s in plan.values()]
  assert warmups == [20, 20, 0, 3, 20, 0, 0]
  assert {s.dialogues for s in plan.values()} == {"base", "cold_start", ""}
  seeds = {name: stage.seed for name, stage in plan.items()}
  assert seeds["continued"] == seeds["continued_updates"] != seeds["cold_start"]


def test_the_rate_falls_over_the_arms_own_length(parts):
  optimizer = config_lib.Optimizer(
    learning_rate=1e-3, schedule="cosine", warmup_steps=2
  )
  config = dataclasses.replace(
    parts.config,
    grpo=config_lib.Grpo(20, 2, 2, optimizer=optimizer),
    comparison=config_lib.Comparison(rl_only_iterations=80),
    packing=config_lib.Packing(512, 1, 16),
  )
  parts = dataclasses.replace(parts, config=config)
  stage = stages.plan(parts)[-1]
  assert (stage.name, stage.num_steps) == ("rl_only", 80)
  state, update = stages.start(parts, dataclasses.replace(stage, start=""))
  nothing, _ = batching.pack(
    [],
    config.packing,
    group_size=2,
    max_turns=1,
    num_tasks=2,
    capacity=1,
  )
  rates = []
  for step in (0, 2, 41, 80):
    zero = jnp.zeros((), jnp.int32)
    state = state._replace(step=zero + step, num_skipped=zero)
    state, metrics = update(state, nothing)
    rates.append(float(metrics["train/learning_rate"]))
  assert rates == pytest.approx([1e-3 / 3, 1e-3, 0.55e-3, 1e-4])


def test_what_a_stage_needs_beside_its_update(parts):
  stage = dataclasses.replace(_plan(parts)["grpo"], start="")
  assert stages.beside(parts, stage) == {"frozen": None, "recompute": None}
  assert stages.capacity(parts, stage) == 16  # of 128 long ones
  grpo = config_lib.Grpo(kl_coef=0.1, num_mini_batches=4, importance_cap=2.0)
  config = dataclasses.replace(parts.config, grpo=grpo)
  parts = dataclasses.replace(parts, config=config)
  assert stages.capacity(parts, stage) == 4
  beside = stages.beside(parts, stage)
  assert beside["recompute"] is not None
  state, _ = stages.start(parts, stage)
  for one, first in zip(
    jax.tree.leaves(beside["frozen"]),
    jax.tree.leaves(state.params),
    strict=True,
  ):
    assert one.sharding == first.sharding
    np.testing.assert_array_equal(one, first)


def test_dialogues_are_made_once_for_all_arms(parts):
  plan = _plan(parts)
  folder = parts.folder / "dialogues"
  first = stages.stream(parts, plan["cold_start"]).get_state()
  assert [path.name for path in folder.iterdir()] == ["cold_start.npz"]
  written = (folder / "cold_start.npz").stat().st_mtime_ns
  assert stages.stream(parts, plan["cold_start"]).get_state() == first
  other = stages.stream(parts, plan["continued"]).get_state()
  assert other["items_sha256"] == first["items_sha256"]
  assert other["seed"] != first["seed"]
  assert (folder / "cold_start.npz").stat().st_mtime_ns == written


def test_too_few_dialogues_are_not_kept(parts, tmp_path):
  plan = _plan(parts)
  elsewhere = dataclasses.replace(parts, folder=tmp_path)
  demanding = dataclasses.replace(plan["cold_start"], per_step=97)
  with pytest.raises(ValueError, match="at least episodes_per_step=97"):
    stages.stream(elsewhere, demanding)
  assert not (tmp_path / "dialogues").exists()


def test_a_step_asks_for_no_more_than_there_is(parts):
  grpo = dataclasses.replace(parts.config.grpo, tasks_per_iteration=97)
  assert _plan(parts, "base", "cold_start", grpo=grpo)
  for name in ("grpo", "rl_only_updates", "rl_only"):
    with pytest.raises(ValueError, match="tasks_per_iteration must be at most"):
      _plan(parts, "base", "cold_start", name, grpo=grpo)
