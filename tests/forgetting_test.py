"""Perplexity of the fixed set, against a plain forward pass."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import evaluate
from userrl_jax import forgetting
from userrl_jax import run_folder
from userrl_jax.models import qwen3


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  c = config_lib.Config(out_dir=str(tmp_path_factory.mktemp("run")))
  c.model.num_layers = 1
  c.gyms.names = ("telepathy",)
  c.gyms.num_train_tasks = 16
  c.gyms.num_test_tasks = 4
  c.rollout.max_tokens_per_episode = 256
  c.packing = config_lib.Packing(row_length=256, rows_per_micro_batch=2)
  c.evaluation.num_tasks = 2
  c.evaluation.agent = "canned"
  c.evaluation.forgetting_tasks = 3
  return assembly.build(c)


@pytest.fixture(scope="module")
def params(parts):
  return assembly.first_params(parts)


def naive(parts, params, trajectories, all_ids):
  """Returns the perplexity, one dialogue after the other."""
  surprise, count = 0.0, 0
  for t in trajectories:
    ids = jnp.array(t.token_ids_T)[None]
    positions = jnp.arange(ids.size)[None]
    hidden, _ = qwen3.forward(
      params, parts.model, ids, positions, jnp.ones_like(ids)
    )
    logits = qwen3.logits(params, parts.model, hidden)[0].astype(jnp.float32)
    logprobs = np.array(jax.nn.log_softmax(logits))
    for place in range(1, ids.size):
      if all_ids or t.turn_ids_T[place] >= 0:
        surprise -= logprobs[place - 1, t.token_ids_T[place]]
        count += 1
  return np.exp(surprise / count), count


def test_perplexity_agrees_with_a_plain_forward_pass(parts, params):
  got = forgetting.check(parts, params)
  tasks = forgetting.gyms.load_tasks("telepathy", parts.config.gyms, "dev", 0)
  fixed = forgetting._play(parts, tasks[:3])
  assert got["num_dialogues"] == len(fixed) == 3
  turns, num_tokens = naive(parts, params, fixed, all_ids=False)
  every, _ = naive(parts, params, fixed, all_ids=True)
  assert got["num_tokens"] == num_tokens
  assert got["perplexity_turns"] == pytest.approx(turns, rel=1e-4)
  assert got["perplexity_all"] == pytest.approx(every, rel=1e-4)
  # The set is kept: it is the same for the params of a later stage.
  assert forgetting.check(parts, params) == got
  other = jax.tree.map(lambda x: x * 1.5, params)
  assert forgetting.check(parts, other)["perplexity_turns"] != turns


def test_the_set_is_the_same_whoever_the_users_are(parts):
  tasks = forgetting.gyms.load_tasks("telepathy", parts.config.gyms, "dev", 0)
  plain = forgetting._play(parts, tasks)
  config = copy.deepcopy(parts.config)
  config.user.profiles = ("fickle",)
  other = forgetting._play(dataclasses.replace(parts, config=config), tasks)
  for one, same in zip(plain, other, strict=True):
    np.testing.assert_array_equal(one.token_ids_T, same.token_ids_T)


def test_it_stands_in_the_evaluation(parts, params, tmp_path):
  own = dataclasses.replace(parts, folder=tmp_path)
  tasks = assembly.held_out_tasks(parts.config)
  summary = evaluate.evaluate(own, params, tasks, "grpo")
  want = forgetting.check(own, params)
  assert summary["forgetting"] == want
  text = (tmp_path / "evaluations" / "grpo.json").read_text()
  assert json.loads(text)["forgetting"] == want
  scripted = evaluate.evaluate(own, None, tasks, "canned")
  assert scripted["forgetting"] == {}  # who has no params forgets nothing


def test_what_a_run_starts_from_is_noted_once(parts, params, tmp_path):
  own = dataclasses.replace(parts, folder=tmp_path)
  forgetting.note_start(own, params)
  assert not (tmp_path / run_folder.FORGETTING_START).exists()  # random params
  config = copy.deepcopy(parts.config)
  config.init_from = "somewhere"
  own = dataclasses.replace(own, config=config)
  forgetting.note_start(own, params)
  want = forgetting.check(own, params)
  forgetting.note_start(own, jax.tree.map(lambda x: 2 * x, params))  # resumed
  assert (
    json.loads((tmp_path / run_folder.FORGETTING_START).read_text()) == want
  )


def test_the_set_is_no_larger_than_its_split():
  c = config_lib.Config()
  c.evaluation.forgetting_tasks = c.gyms.num_test_tasks + 1
  with pytest.raises(
    ValueError, match="evaluation.forgetting_tasks must be at"
  ):
    config_rules.validate(c)
