"""What users can get wrong: one clear message, exit code 2, no compiling."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from userrl_jax import assembly
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import evaluate
from userrl_jax import flags as flags_lib
from userrl_jax import gyms
from userrl_jax import metrics
from userrl_jax import train
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import weights

# What is not refused goes on to train for minutes.
pytestmark = pytest.mark.timeout(60)

FUNCTIONS = [
  {
    "id": f"f{i}",
    "rule": rule,
    "test_case": [1, 2, 3, 5],
    "expected_result": value,
  }
  for i, (rule, value) in enumerate(
    [("a + b + c + d", 11), ("a * b + c - d", 0), ("(a + b) * c - d", 4)]
  )
]


@pytest.fixture
def recipe(tmp_path):
  """A recipe of the defaults; those of configs/ are tuned now and then."""
  path = tmp_path / "recipe.py"
  path.write_text(
    "from userrl_jax import config\nget_config = lambda: config.Config()\n"
  )
  return path


@pytest.fixture
def refused(recipe, tmp_path, capsys, caplog):
  """Runs a command that must be refused; returns its one message."""

  def run(*flags, main=train.main):
    argv = [
      f"--config={recipe}",
      f"--config.out_dir={_out(tmp_path)}",
    ]
    # What JAX compiles, it then says; tracing, which finds shapes, is no such.
    with jax.log_compiles(True), pytest.raises(SystemExit) as stopped:
      flags_lib.run(main, [*argv, *flags])
    assert stopped.value.code == 2
    assert "Compiling" not in caplog.text
    _check_nothing_ran(tmp_path)
    return _only_message(capsys.readouterr().err)

  return run


def test_what_compiles_is_said(caplog):
  """Else no compiling could be seen where none may be."""
  with jax.log_compiles(True):
    jax.jit(lambda x: x * 3 + 1)(jax.numpy.arange(7))
  assert "Compiling" in caplog.text


def _out(folder):
  return folder / "run"


def _check_nothing_ran(folder):
  assert not (_out(folder) / "checkpoints").exists()
  assert not (_out(folder) / "metrics.jsonl").exists()


def _only_message(errors):
  (message,) = errors.splitlines()
  assert message.startswith("error: ")
  return message.removeprefix("error: ")


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("seeds=1", "there is no config field seeds"),
    ("init_from={other}", "checkpoint {other}/1 must fit the configured model"),
  ],
)
def test_the_command_itself_says_it_and_exits_with_2(
  root, recipe, tmp_path, flag, message
):
  other = tmp_path / "other"
  _save(other, num_layers=2)
  result = subprocess.run(
    [
      *(sys.executable, "-m", "userrl_jax.train"),
      f"--config={recipe}",
      f"--config.out_dir={_out(tmp_path)}",
      f"--config.{flag.format(other=other)}",
    ],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert result.returncode == 2, result.stderr
  assert _only_message(result.stderr).startswith(message.format(other=other))
  _check_nothing_ran(tmp_path)


def test_a_field_that_does_not_exist(refused):
  message = refused("--config.grpo.group_sizes=8")
  assert "no config field grpo.group_sizes" in message
  assert "nearest is grpo.group_size" in message


def test_a_value_of_a_wrong_type(refused):
  message = refused("--config.grpo.group_size=many")
  assert message == "grpo.group_size must be int, got 'many'"


def test_a_task_folder_that_is_not_there(refused, tmp_path):
  message = refused(f"--config.gyms.tasks={tmp_path / 'nowhere'}")
  assert "gyms.tasks" in message and str(tmp_path / "nowhere") in message


def test_a_task_file_with_a_broken_line(refused, tmp_path):
  path = tmp_path / "functions.json"
  lines = [json.dumps(f) for f in FUNCTIONS]
  path.write_text("[\n" + ",\n".join(lines) + "\n]")
  # A whole file is no mistake, so what is refused below is the broken line.
  settings = config_lib.Gyms(tasks=str(tmp_path), levels=(1, 2, 3))
  assert gyms.load_tasks("function", settings, "train", 0)
  path.write_text("[\n" + ",\n".join([*lines[:2], '{"id": "f2"']) + "\n]")
  message = refused(f"--config.gyms.tasks={tmp_path}")
  assert f"{path}, line " in message
  lines[1] = lines[1].replace("a * b", "a ^ b")
  path.write_text("[\n" + ",\n".join(lines) + "\n]")
  message = refused(f"--config.gyms.tasks={tmp_path}")
  assert f"{path}, line 3: field 'rule'" in message


def test_fewer_tasks_than_an_iteration_takes(refused):
  flags = [
    "--config.gyms.tasks=pack",
    "--config.cold_start.episodes_per_step=1",
  ]
  message = refused(*flags)
  assert "grpo.tasks_per_iteration must be at most" in message


def test_fewer_demonstrations_than_a_step_takes(refused):
  few = "--config.gyms.num_train_tasks=20"
  message = refused(few, "--config.cold_start.episodes_per_step=21")
  assert "cold_start.episodes_per_step must be at most 20" in message
  flags = ["--config.base.num_episodes=8", "--config.base.episodes_per_step=9"]
  message = refused(*flags)
  assert "base.episodes_per_step must be at most 8" in message


def test_a_vocabulary_larger_than_the_models(refused, tmp_path):
  message = refused(
    "--config.tokenizer.vocab_size=900",
    "--config.gyms.names=function,telepathy,travel",
  )
  assert "qwen3_tiny has 768 ids, the tokenizer " in message
  # The refused tokenizer must not be in the way of a better one.
  assert not (tmp_path / "run" / "tokenizer").exists()


def test_a_published_tokenizer_with_a_tiny_model(refused, shared):
  message = refused(
    "--config.tokenizer.kind=huggingface",
    f"--config.tokenizer.folder={shared / 'qwen3_tokenizer'}",
  )
  assert "qwen3_tiny has 768 ids, the tokenizer 151669" in message


def test_a_tokenizer_folder_that_is_not_there(refused, tmp_path):
  for kind in ("huggingface", "sentencepiece"):
    message = refused(
      f"--config.tokenizer.kind={kind}",
      f"--config.tokenizer.folder={tmp_path / 'nowhere'}",
    )
    assert (
      f"tokenizer folder must exist, got '{tmp_path / 'nowhere'}'" in message
    )


def test_a_vocabulary_too_small_for_the_format(refused):
  message = refused("--config.tokenizer.vocab_size=300")
  assert "raise tokenizer.vocab_size" in message


def test_a_prompt_that_leaves_no_room(refused):
  message = refused(
    "--config.rollout.max_tokens_per_turn=10",
    "--config.rollout.max_tokens_per_episode=12",
  )
  assert "rollout.max_tokens_per_episode must leave room" in message
  assert "got 12 for a prompt of" in message


def test_a_mesh_of_more_devices_than_there_are(refused):
  assert "mesh.data x mesh.fsdp" in refused("--config.mesh.tensor=64")


def test_a_folder_of_a_run_of_another_config(refused, tmp_path):
  other = config_lib.Config(seed=7)
  metrics.write_json(
    tmp_path / "run" / "config.json", config_fields.to_dict(other)
  )
  (tmp_path / "run" / "evaluations").mkdir()
  message = refused()
  assert f"{tmp_path / 'run'} holds a run of another config" in message
  assert "seed: 7 -> 0" in message


def test_a_start_that_is_not_there(refused, tmp_path):
  message = refused(f"--config.init_from={tmp_path / 'nowhere'}")
  assert (
    f"init_from must be a folder with checkpoints, got {tmp_path}" in message
  )
  message = refused(f"--config.init_from={tmp_path}")
  assert "must hold a finished checkpoint" in message
  assert "init_from" in refused(main=evaluate.main)


def _save(folder: pathlib.Path, num_layers: int) -> None:
  """Writes a checkpoint of the tiny model with so many layers."""
  model = dataclasses.replace(
    qwen3.PRESETS["qwen3_tiny"], num_layers=num_layers
  )
  shapes = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  with checkpoint.Store(folder) as store:
    store.save(1, {"params": params}, {})


def _publish(folder: pathlib.Path) -> qwen3.Config:
  """Writes a narrow model as published, with room for Qwen3's tokenizer."""
  model = dataclasses.replace(
    qwen3.PRESETS["qwen3_4b"], hidden_size=8, intermediate_size=8, num_layers=1
  )
  shapes = published.shapes(model)
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  weights.save(folder, params, model)
  return model


def test_published_weights_of_another_model(refused, tmp_path, shared):
  folder, tokenizer = tmp_path / "published", shared / "qwen3_tokenizer"
  model = _publish(folder)
  flags = [
    f"--config.model.folder={folder}",
    "--config.model.preset=",
    "--config.tokenizer.kind=huggingface",
    f"--config.tokenizer.folder={tokenizer}",
  ]
  # Nothing is wrong with it, so what is refused below is what was spoilt.
  settings = config_lib.Model(folder=str(folder), preset="")
  assert published.configured(settings) == model
  assert "model.num_layers must be 0" in refused(
    *flags, "--config.model.num_layers=1"
  )
  message = refused(*flags, "--config.model.preset=qwen3_4b")
  assert message.startswith("model.preset must agree with model.folder")
  assert "hidden_size is 8 there and 2560 in qwen3_4b" in message
  assert "one of qwen3_tiny, " in refused(*flags, "--config.model.preset=x")
  message = refused(*flags, "--config.model.folder=nowhere", main=evaluate.main)
  assert "nowhere/config.json must be a file of published weights" in message
  assert "folder must be given with model.folder" in refused(*flags[:2])
  other = (tokenizer / "tokenizer.json").read_text() + "\n"
  (folder / "tokenizer.json").write_text(other)
  message = refused(*flags)
  assert f"must hold the tokenizer of model.folder, {folder}, got" in message
  (folder / "tokenizer.json").unlink()
  path = folder / "config.json"
  values = json.loads(path.read_text())
  path.write_text(json.dumps(values | {"tie_word_embeddings": False}))
  flags.append("--config.gyms.num_train_tasks=64")
  flags.append("--config.base.num_episodes=64")
  for main in (train.main, evaluate.main):
    message = refused(*flags, main=main)
    assert f"{folder} must hold lm_head.weight, got no such tensor" in message
  path.write_text(json.dumps(values | {"model_type": "llama"}))
  message = refused(*flags)
  assert f"{path} must be of model_type qwen3, got 'llama'" in message


def test_a_start_of_another_shape(refused, tmp_path):
  _save(tmp_path / "other", num_layers=2)
  message = refused(f"--config.init_from={tmp_path / 'other'}")
  assert f"checkpoint {tmp_path / 'other' / '1'} must fit" in message
  assert "saved with shape (2, " in message and "wanted (4, " in message


def test_a_start_of_another_tokenizer(refused, tmp_path, shared):
  _save(tmp_path / "other", num_layers=4)
  folder = shared / "qwen3_tokenizer"
  kept = tmp_path / "other" / "tokenizer"
  kept.mkdir()
  text = (folder / "tokenizer.json").read_text()
  (kept / "tokenizer.json").write_text(text + "\n")
  message = refused(
    f"--config.init_from={tmp_path / 'other'}",
    "--config.tokenizer.kind=huggingface",
    f"--config.tokenizer.folder={folder}",
  )
  assert f"the tokenizer of init_from, {kept}, got another one" in message


def test_a_start_that_knows_other_prompts(refused, tmp_path):
  _save(tmp_path / "other", num_layers=4)
  there = config_lib.Config(out_dir=str(tmp_path / "elsewhere"))
  assembly.build(there).tokenizer.save(tmp_path / "other" / "tokenizer")
  start = f"--config.init_from={tmp_path / 'other'}"
  for main in (train.main, evaluate.main):
    message = refused(start, "--config.gyms.max_turns=7", main=main)
    assert "the system prompt of gym 'function' must be the one" in message
  metrics.write_json(
    tmp_path / "other" / "config.json", config_fields.to_dict(there)
  )
  message = refused(start, "--config.gyms.function.answer_limit=2")
  assert "(gyms.function.answer_limit: 0 there, 2 now)" in message
  message = refused(start, "--config.gyms.names=function,travel")
  assert "gym 'travel'" in message and "gyms.names" in message
  message = refused(start, "--config.evaluation.held_out_gyms=travel")
  assert "gym 'travel'" in message
  assert "(evaluation.held_out_gyms: () there, ('travel',) now)" in message
  # With the same prompts it would be taken.
  assembly.build(config_lib.Config(init_from=str(tmp_path / "other")))
