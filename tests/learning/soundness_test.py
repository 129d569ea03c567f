"""What is kept of an update that is not finite, and where it first was not."""

import json
import re

import jax
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import leaves
from userrl_jax import skipped
from userrl_jax.learning import batching
from userrl_jax.learning import learner
from userrl_jax.learning import soundness

PACKING = config.Packing(
  row_length=64, rows_per_micro_batch=2, logprob_chunk=16
)
GRPO = config.Grpo(credit=config.Credit(score="sum", normalize="none"))
SETTINGS = learner.Settings(GRPO, PACKING, temperature=1.0)


@pytest.fixture(scope="module")
def arguments(model_config, mesh):
  """Returns an update's parts: compiled once for all tests."""
  update = learner.make_update(model_config, SETTINGS, mesh)
  gradient = learner.make_gradient(model_config, SETTINGS, mesh)
  examine = soundness.make_examine(gradient, model_config, PACKING, mesh)
  return update, examine, mesh


@pytest.fixture
def told(arguments, tmp_path, capsys):
  """Returns a function that takes an update, and what was told of it."""
  update = skipped.Update(*arguments, tmp_path, "grpo")

  def take(params, batch, step=0):
    state = learner.init_state(params, GRPO.optimizer, 10, arguments[-1])
    state = state._replace(step=state.step + step)
    before = jax.device_get(state.params)
    state, metrics = update(state, batch)
    if metrics["train/skipped"]:
      jax.tree.map(np.testing.assert_array_equal, state.params, before)
    return metrics, capsys.readouterr().out

  return take


@pytest.fixture
def batch(make_groups):
  """Returns a batch of two micro-batches, of six that there is room for."""
  shape = dict(group_size=4, max_turns=3, num_tasks=3, capacity=6)
  return batching.pack(make_groups(3), PACKING, **shape)[0]


def _with(tree, path, index, value):
  """Returns the tree with a value, or all of it, replaced at a path."""
  of = dict(leaves.by_path(tree))
  of[path] = np.array(of[path])
  of[path][index] = value
  return jax.tree.unflatten(jax.tree.structure(tree), list(of.values()))


ILL = {
  "a weight": (
    lambda p, b: (_with(p, "layers/mlp/up/kernel", (1, 3, 5), np.nan), b),
    r"params/layers/mlp/up/kernel at \(1, 3, 5\)",
  ),
  "a reward": (
    lambda p, b: (p, _with(b, "rewards_PGK", (1, 2, 0), np.nan)),
    r"batch/rewards_PGK at \(1, 2, 0\)",
  ),
  "an infinite reward": (
    lambda p, b: (p, _with(b, "rewards_PGK", (1, 2, 0), np.inf)),
    r"batch/rewards_PGK at \(1, 2, 0\)",
  ),
  "a sampled log-prob": (
    lambda p, b: (p, _with(b, "rows/logprobs", (0, 1, 3), np.nan)),
    r"batch/rows/logprobs at \(0, 1, 3\)",
  ),
  "the second layer": (
    lambda p, b: (_with(p, "layers/mlp/up/kernel", 1, 3e38), b),
    r"the state after layer 2 of 2, micro-batch 0, row 0, position 0",
  ),
  "the first layer": (
    lambda p, b: (_with(p, "layers/attention/v/kernel", 0, 3e38), b),
    r"the state after layer 1 of 2, micro-batch 0, row 0, position 0",
  ),
  "the head": (
    lambda p, b: (_with(p, "head/kernel", (slice(None), 7), 3e38), b),
    r"the log-prob of micro-batch 0, row 0, token \d+",
  ),
  "the loss": (
    lambda p, b: (p, _with(b, "rewards_PGK", (0, slice(0, 2), 0), 3e38)),
    r"the loss, of finite log-probs; and .*advantage/size",
  ),
}


@pytest.mark.parametrize("name", ILL)
def test_the_first_value_that_is_not_finite_is_named(
  name, params, batch, told, tmp_path
):
  change, first = ILL[name]
  metrics, text = told(*change(jax.device_get(params), batch), step=4)
  assert metrics["train/skipped"] == 1
  folder = tmp_path / "skipped" / "grpo-5"
  assert text.startswith("grpo: update 5 was skipped") and str(folder) in text
  report = json.loads((folder / "report.json").read_text())
  assert re.fullmatch(first, report["first"]), report
  assert report["first"] in text


@pytest.mark.exhaustive
def test_a_batch_that_was_kept_is_skipped_again(
  params, batch, told, arguments, tmp_path
):
  broken = _with(batch, "rewards_PGK", (0, 0, 0), np.nan)
  told(params, broken)
  kept = skipped.read_batch(tmp_path / "skipped" / "grpo-1")
  used = batch.num_micro_batches
  assert kept.num_micro_batches == used < len(batch.rows.slots)
  short = batch.rows._make(x[:used] for x in broken.rows)
  jax.tree.map(np.testing.assert_array_equal, kept, broken._replace(rows=short))
  findings = arguments[1](params, kept)
  report = json.loads(
    (tmp_path / "skipped" / "grpo-1" / "report.json").read_text()
  )
  assert findings.first == report["first"]
  # Of a sound batch the same report tells the gradient, layer by layer.
  sound = arguments[1](params, batch)
  assert sound.first == "" and not sound.not_finite
  assert report["grad_norms"].keys() == sound.grad_norms.keys()
  assert len(sound.grad_norms["layers/mlp/up/kernel"]) == 2
  state = learner.init_state(params, GRPO.optimizer, 10, arguments[-1])
  _, metrics = arguments[0](state, batch)
  of_weights = [x for xs in sound.grad_norms.values() for x in xs]
  np.testing.assert_allclose(
    np.linalg.norm(of_weights), metrics["train/grad_norm"], rtol=1e-5
  )


def test_nothing_is_kept_of_what_is_sound_or_empty(
  params, batch, told, tmp_path
):
  metrics, text = told(params, batch)
  assert metrics["train/skipped"] == 0 and not text
  slots = np.full_like(batch.rows.slots, -1)
  empty = batch._replace(rows=batch.rows._replace(slots=slots))
  metrics, text = told(params, empty)
  assert metrics["train/skipped"] == 1 and not text
  assert not (tmp_path / "skipped").exists()


def test_only_the_first_few_are_kept(params, batch, told, tmp_path):
  broken = _with(batch, "rewards_PGK", (0, 0, 0), np.nan)
  for step in range(skipped.MOST + 2):
    _, text = told(params, broken, step)
    assert ("holds 5 such batches already" in text) == (step >= skipped.MOST)
  _, text = told(params, broken, step=0)  # done again, after a resume
  assert "grpo-1" in text
  names = {path.name for path in (tmp_path / "skipped").iterdir()}
  assert names == {f"grpo-{n}" for n in range(1, skipped.MOST + 1)}
