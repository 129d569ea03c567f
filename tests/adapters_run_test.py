"""A tiny run with adapters: stages, resume, base, export, refusals."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import bases
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import export
from userrl_jax import leaves
from userrl_jax import sharding
from userrl_jax.models import lora
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import weights
from userrl_jax.serving import folders

RECIPE = """
from userrl_jax import config


def get_config():
  c = config.Config(out_dir="given by the test")
  c.model.num_layers = 1
  c.stages = ("base", "cold_start", "grpo")
  c.lora = config.Lora(rank=2, alpha=4.0, targets=("q", "v", "down"))
  c.gyms.num_train_tasks = 8
  c.gyms.num_test_tasks = 8
  c.gyms.max_turns = 4
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 256
  c.engine = config.Engine(num_rows=8, num_lanes=8, decode_tokens=8)
  c.packing = config.Packing(row_length=256, logprob_chunk=64)
  c.base.num_steps = 6
  c.base.num_episodes = 24
  c.cold_start.num_tries = 4
  c.cold_start.num_steps = 6
  c.base.episodes_per_step = c.cold_start.episodes_per_step = 4
  c.base.optimizer = config.Optimizer(learning_rate=1e-2)
  c.cold_start.optimizer = config.Optimizer(learning_rate=1e-2)
  c.grpo.num_iterations = 2
  c.grpo.tasks_per_iteration = 2
  c.grpo.group_size = 4
  c.grpo.kl_coef = 0.1
  c.evaluation.num_tasks = 2
  c.checkpoint.every_steps = 1
  return c
"""
MODEL = dataclasses.replace(qwen3.PRESETS["qwen3_tiny"], num_layers=1)
ADAPTED = dataclasses.replace(
  MODEL,
  **lora.fields(config_lib.Lora(2, 4.0, ("q", "v", "down"))),
)


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])


@pytest.fixture(scope="module")
def train(tmp_path_factory, root):
  """Returns a function that starts the run, or goes on with it, to its end."""
  folder = tmp_path_factory.mktemp("adapters")
  (folder / "recipe.py").write_text(RECIPE)

  def run():
    done = subprocess.run(
      [
        *(sys.executable, "-m", "userrl_jax.train"),
        f"--config={folder / 'recipe.py'}",
        f"--config.out_dir={folder / 'run'}",
      ],
      cwd=root,
      env=os.environ
      | {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      },
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"

  return run


def _whole(run, stage, mesh):
  params = bases.load_params(run / "checkpoints" / stage, MODEL, mesh)
  return leaves.by_path(jax.device_get(params))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_with_adapters_from_start_to_export(train, tmp_path, mesh):
  run = train()
  lines = [
    json.loads(line)
    for line in (run / "metrics.jsonl").read_text().splitlines()
  ]
  of = lambda stage: [line for line in lines if line["stage"] == stage]
  assert [len(of(s)) for s in ("base", "cold_start", "grpo")] == [6, 6, 2]
  # What was sampled with merged weights is what the learner sees.
  for line in of("grpo"):
    assert line["rollout/logprob_gap_max"] < 1e-4
  assert of("grpo")[0]["train/reference_kl"] == pytest.approx(0, abs=1e-6)
  assert of("grpo")[1]["train/reference_kl"] > 0
  # Each stage's base is what the one before ended with; only the matrices
  # that have adapters move.
  before = _whole(run, "base", mesh)
  for stage in ("cold_start", "grpo"):
    kept = checkpoint.load_params(
      run / "checkpoints" / stage / "base", published.shapes(MODEL)
    )
    jax.tree.map(np.testing.assert_array_equal, leaves.by_path(kept), before)
    after = _whole(run, stage, mesh)
    moved = {
      path for path in after if not np.array_equal(after[path], before[path])
    }
    assert moved == {
      f"layers/{name}/kernel"
      for name in ("attention/q", "attention/v", "mlp/down")
    }
    before = after

  # Who serves the run serves the merged params.
  served = folders.read(str(run), "--model").load(mesh)
  jax.tree.map(
    np.testing.assert_array_equal,
    leaves.by_path(jax.device_get(served)),
    before,
  )

  # And so does who exports it.
  to = tmp_path / "published"
  assert export.main([f"--run={run}", f"--to={to}", "--dtype=float32"]) == 0
  model = published.read_config(to)
  assert not model.adapter_rank
  where = sharding.param_shardings(published.shapes(model), mesh)
  jax.tree.map(
    np.testing.assert_array_equal,
    leaves.by_path(jax.device_get(weights.load(to, model, where))),
    before,
  )

  # Gone on with after its last step but one, it ends with the same bits.
  folder = run / "checkpoints" / "grpo"
  shutil.rmtree(folder / "2")
  shutil.rmtree(run / "checkpoints" / "cold_start")  # not needed any more
  again = train()
  jax.tree.map(
    np.testing.assert_array_equal, _whole(again, "grpo", mesh), before
  )


def _stage(tmp_path, mesh):
  """Writes what a stage keeps: a base, and adapters that have moved."""
  base = qwen3.init(MODEL, jax.random.key(0))
  rng = np.random.default_rng(0)
  adapters = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32),
    qwen3.init_trained(ADAPTED, jax.random.key(1)),
  )
  folder = tmp_path / "grpo"
  assert bases.kept(folder, lambda: base, ADAPTED, mesh) is base
  with checkpoint.Store(folder) as store:
    store.save(3, {"params": adapters, "step": jnp.zeros(())}, {})
  return folder, base, adapters


def test_an_export_holds_merged_weights(tmp_path, mesh):
  folder, base, adapters = _stage(tmp_path, mesh)
  params, step = export._load_params(folder, MODEL)
  assert step == 3
  weights.save(tmp_path / "out", params, MODEL, dtype="float32")
  model = published.read_config(tmp_path / "out")
  where = sharding.param_shardings(published.shapes(model), mesh)
  loaded = weights.load(tmp_path / "out", model, where)

  @jax.jit
  def logits(params):
    tokens = jnp.arange(8)[None]
    hidden, _ = qwen3.forward(
      params, ADAPTED, tokens, tokens, jnp.ones_like(tokens)
    )
    return qwen3.logits(params, ADAPTED, hidden)

  want = logits(lora.complete(adapters, base))
  assert np.abs(want - logits(base)).max() > 0.1
  np.testing.assert_allclose(logits(loaded), want, atol=1e-5)


def test_a_stage_goes_on_with_its_own_base_or_not_at_all(tmp_path, mesh):
  folder, base, _ = _stage(tmp_path, mesh)
  other = lambda: jax.tree.map(lambda x: x + 1, base)
  again = bases.kept(folder, other, ADAPTED, mesh)
  jax.tree.map(np.testing.assert_array_equal, again, base)
  with pytest.raises(ValueError, match="lora must be what the checkpoints"):
    heavier = dataclasses.replace(ADAPTED, adapter_scale=3.0)
    bases.kept(folder, other, heavier, mesh)
  (folder / "base" / "lora.json").write_text("{}")
  with pytest.raises(ValueError, match="must say which adapters"):
    bases.load_params(folder, MODEL, mesh)
  shutil.rmtree(folder / "base")
  with pytest.raises(ValueError, match="must say which adapters"):
    bases.kept(folder, other, ADAPTED, mesh)
  # A base without a checkpoint is of a run that had not begun.
  shutil.rmtree(folder / "3")
  fresh = bases.kept(folder, other, ADAPTED, mesh)
  assert bases.kept(folder, lambda: base, ADAPTED, mesh) is base
  jax.tree.map(np.testing.assert_array_equal, fresh, other())
