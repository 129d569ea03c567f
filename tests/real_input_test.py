"""UserRL's released tasks with the published Qwen3 tokenizer.

The true size (vocabulary 151,936, width 1024) takes minutes and gigabytes, so
here its parts are held to what the recipe promises, and a narrow model of the
same vocabulary goes through the stages. For the true size, run the recipe.
"""

import dataclasses
import json

import numpy as np
import pytest

from userrl_jax import assembly
from userrl_jax import demonstrate
from userrl_jax import flags
from userrl_jax import recorder
from userrl_jax import report
from userrl_jax import stages
from userrl_jax import train
from userrl_jax import types
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.gyms import function
from userrl_jax.inference import engine as engine_lib
from userrl_jax.learning import batching


@pytest.fixture(scope="module")
def config(root, shared, tmp_path_factory):
  c = flags.load_recipe(str(root / "configs" / "real_input.py"))
  c.out_dir = str(tmp_path_factory.mktemp("real_input"))
  c.tokenizer.folder = str(shared / "qwen3_tokenizer")
  c.gyms.tasks = str(shared / "upstream" / "gyms")
  return c


@pytest.fixture(scope="module")
def parts(config):
  return assembly.build(config)


@pytest.fixture(scope="module")
def all_tasks(config):
  """Every released task of the train split, not only the recipe's few."""
  settings = dataclasses.replace(config.gyms, num_train_tasks=1000)
  return function.load_tasks(settings, "train", 0)


@pytest.fixture(scope="module")
def demonstrations(config, parts, all_tasks):
  return demonstrate.ranked(config, all_tasks, parts.chat, parts.episodes)


def test_the_recipe_is_of_the_published_vocabulary(parts):
  assert parts.model.vocab_size == 151_936
  assert parts.model.hidden_size == 1024 and parts.model.num_layers == 2
  assert parts.tokenizer.vocab_size == 151_669
  assert {task.level for task in parts.tasks} <= {1, 2, 3}


@pytest.mark.parametrize(("profile", "most"), [("brief", 200), ("full", 900)])
def test_prompts_are_short(parts, config, profile, most):
  chat = chat_lib.Chat(parts.tokenizer, profile)
  system = function.Gym(config.gyms).system_prompt(profile)
  ids = chat.prompt_ids(system, "f is ready.", types.CHOICES)
  print(f"the {profile} prompt has {len(ids)} ids")
  assert most / 2 < len(ids) <= most
  assert parts.tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


def test_the_oracle_shows_nearly_every_released_task(
  all_tasks, demonstrations, config
):
  assert len(all_tasks) == 460
  shown = {t.task.id for t in demonstrations}
  assert len(shown) >= 0.99 * len(all_tasks)
  assert all(t.reward == 1.0 for t in demonstrations)
  lengths = [len(t.token_ids_T) for t in demonstrations]
  print(f"demonstrations have up to {max(lengths)} ids")
  assert max(lengths) <= config.rollout.max_tokens_per_episode


def test_demonstrations_are_in_the_published_format(parts, demonstrations):
  starts = parts.tokenizer.special_ids[tokenizers.Special.TOOL_CALL]
  for t in demonstrations[:50]:
    for k, turn in enumerate(t.turns):
      ids = t.token_ids_T[t.turn_ids_T == k]
      assert ids[0] == starts and ids[-1] == parts.tokenizer.im_end_id
      call = turn.text.removeprefix("<tool_call>").partition("</tool_call>")[0]
      assert json.loads(call) == {
        "name": "interact_with_env",
        "arguments": {
          "choice": turn.action.choice,
          "content": turn.action.content,
        },
      }
      assert len(ids) <= parts.config.rollout.max_tokens_per_turn


def test_demonstrations_pack_into_the_recipes_rows(config, demonstrations):
  step = demonstrations[: config.cold_start.episodes_per_step]
  capacity = batching.capacity(
    len(step), config.rollout.max_tokens_per_episode, config.packing
  )
  batch, stats = batching.pack_demonstrations(
    step, config.packing, capacity=capacity
  )
  assert stats.num_left_out == 0
  assert stats.num_sampled_tokens == sum(t.num_sampled_K.sum() for t in step)
  learned = batch.rows.targets[batch.rows.slots >= 0]
  spoken = np.concatenate([t.token_ids_T[t.turn_ids_T >= 0] for t in step])
  np.testing.assert_array_equal(np.sort(learned), np.sort(spoken))


@pytest.mark.exhaustive
def test_a_narrow_model_of_that_vocabulary_trains(parts, config):
  model = dataclasses.replace(
    parts.model,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=32,
  )
  small = dataclasses.replace(
    config,
    cold_start=dataclasses.replace(config.cold_start, num_steps=8),
    grpo=dataclasses.replace(
      config.grpo, num_iterations=2, tasks_per_iteration=2, group_size=2
    ),
    engine=dataclasses.replace(config.engine, num_rows=4, num_lanes=4),
  )
  small.cold_start.optimizer = dataclasses.replace(
    config.cold_start.optimizer, learning_rate=1e-2, warmup_steps=0
  )
  engine = engine_lib.Engine(
    model,
    small.engine,
    small.rollout.max_tokens_per_episode,
    parts.tokenizer.im_end_id,
    parts.mesh,
  )
  parts = dataclasses.replace(parts, config=small, model=model, engine=engine)
  run = recorder.Recorder(parts, flags.Command((), "real_input.py", {}))
  cold_start, grpo = stages.plan(parts)
  train.imitate(parts, run, cold_start)
  train.reinforce(parts, run, grpo)
  run.finish(report.write(parts.folder))

  text = (parts.folder / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  learned = [x["train/loss"] for x in lines if x["stage"] == "cold_start"]
  assert learned[-1] < learned[0] - 0.5
  played = [x for x in lines if x["stage"] == "grpo"]
  assert [x["rollout/num_valid"] for x in played] == [4, 4]
  assert all(0 < x["rollout/logprob_gap_max"] <= 1e-4 for x in played)
  assert {x["train/programs"] for x in lines} == {1}
