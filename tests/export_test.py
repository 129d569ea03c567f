"""From a run to a published folder, and from there into a run."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf_tokenizers

from userrl_jax import assembly
from userrl_jax import bases
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import config_rules
from userrl_jax import export
from userrl_jax import metrics
from userrl_jax import sharding
from userrl_jax.chat import messages
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import weights

MODEL = dataclasses.replace(qwen3.PRESETS["qwen3_tiny"], num_layers=2)


@pytest.fixture
def config(tmp_path):
  c = config_lib.Config(out_dir=str(tmp_path / "run"))
  c.model.num_layers = 2
  c.stages = config_rules._NAMES["Config.stages"]
  return c


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
  """A tokenizer as published ones are: bytes, without a merge."""
  folder = tmp_path_factory.mktemp("tokenizer")
  alphabet = sorted(hf_tokenizers.pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {c: i for i, c in enumerate(alphabet)}
  made = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE(vocabulary, []))
  made.pre_tokenizer = hf_tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  made.decoder = hf_tokenizers.decoders.ByteLevel()
  made.add_special_tokens([s.value for s in tokenizers.Special])
  made.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text('{"model_max_length": 99}')
  return folder


def _params(seed):
  """Params that tell stages and steps apart, and round in bfloat16."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype),
    published.shapes(MODEL),
  )


def _write_run(config, **steps_of):
  """Writes what a run keeps: its config, and checkpoints of its stages."""
  values = config_fields.to_dict(config)
  metrics.write_json(_run(config) / "config.json", values)
  tokenizer = None
  if config.tokenizer.kind == "huggingface":
    tokenizer = tokenizers.load(config.tokenizer.folder, "huggingface")
  for stage, steps in steps_of.items():
    with checkpoint.Store(_run(config) / "checkpoints" / stage) as store:
      store.describe(tokenizer, values)
      for step in steps:
        state = {"params": _params(step), "step": np.int32(step)}
        store.save(step, state, {})


def _run(config):
  return pathlib.Path(config.out_dir)


def _load(folder):
  model = published.read_config(folder)
  assert model == MODEL
  mesh = sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])
  shapes = published.shapes(model)
  return weights.load(folder, model, sharding.param_shardings(shapes, mesh))


def _check_equal(params, step, dtype):
  jax.tree.map(
    lambda got, want: np.testing.assert_array_equal(
      got, want.astype(jax.numpy.dtype(dtype)).astype(np.float32)
    ),
    params,
    _params(step),
  )


@pytest.mark.parametrize(
  ("flags", "stage", "step", "dtype"),
  [
    ([], "grpo", 12, "bfloat16"),
    (["--dtype=float32"], "grpo", 12, "float32"),
    (["--stage=cold_start"], "cold_start", 3, "bfloat16"),
    (["--stage", "rl_only"], "rl_only", 20, "bfloat16"),
  ],
)
def test_the_last_checkpoint_is_written(
  config, tmp_path, capsys, flags, stage, step, dtype
):
  _write_run(config, cold_start=[2, 3], grpo=[9, 12], rl_only=[20])
  to = tmp_path / "published"
  assert export.main([f"--run={_run(config)}", f"--to={to}", *flags]) == 0
  _check_equal(_load(to), step, dtype)
  names = {path.name for path in to.iterdir()}
  assert names == {"config.json", "model.safetensors"}
  folder = _run(config) / "checkpoints" / stage
  assert capsys.readouterr().out == (
    f"{to}: {folder} after step {step} as {dtype}, with no tokenizer: the "
    "run's is ours\n"
  )


@pytest.mark.parametrize(
  ("spoil", "flags", "message"),
  [
    (None, ["--run={tmp}/nowhere"], "must be the folder of a run, got {tmp}"),
    (
      lambda run: (run / "config.json").write_text("{}"),
      [],
      "config.json must be a run's config, got: out_dir must be given",
    ),
    (None, ["--stage=base"], "checkpoints of, got base; there is cold_start"),
    (None, ["--stage=sleep"], "got sleep; there is cold_start, grpo"),
    (
      lambda run: (run / "checkpoints" / "grpo" / "7").rename(run / "7"),
      [],
      "/checkpoints/grpo must hold a finished checkpoint",
    ),
    (
      lambda run: (run / "checkpoints").rename(run / "elsewhere"),
      [],
      "checkpoints of, got grpo; there is none",
    ),
    (None, ["--to={tmp}/run"], "a new or empty folder, got {tmp}/run"),
  ],
)
def test_mistakes_are_one_message(
  config, tmp_path, capsys, spoil, flags, message
):
  _write_run(config, cold_start=[3], grpo=[7])
  if spoil:
    spoil(_run(config))
  argv = [f"--run={_run(config)}", f"--to={tmp_path / 'to'}"]
  argv += [flag.format(tmp=tmp_path) for flag in flags]
  assert export.main(argv) == 2
  printed = capsys.readouterr()
  assert printed.out == "" and not (tmp_path / "to").exists()
  (line,) = printed.err.splitlines()
  assert line.startswith("error: ")
  assert message.format(tmp=tmp_path) in line


def test_the_command_itself(root, config, tmp_path):
  _write_run(config, grpo=[5])

  def run(to):
    return subprocess.run(
      [
        *(sys.executable, "-m", "userrl_jax.export"),
        *("--run", str(_run(config)), "--to", str(tmp_path / to)),
      ],
      cwd=root,
      capture_output=True,
      text=True,
    )

  assert run("run").returncode == 2
  done = run("published")
  assert done.returncode == 0 and done.stderr == "", done.stderr
  _check_equal(_load(tmp_path / "published"), 5, "bfloat16")


def test_a_published_tokenizer_goes_along_and_a_run_starts_from_both(
  config, tmp_path, tokenizer_folder, capsys
):
  config.tokenizer.kind = "huggingface"
  config.tokenizer.folder = str(tokenizer_folder)
  _write_run(config, grpo=[4])
  to = tmp_path / "published"
  assert export.main([f"--run={_run(config)}", f"--to={to}"]) == 0
  assert capsys.readouterr().out.endswith("with its tokenizer\n")
  for name in ("tokenizer.json", "tokenizer_config.json"):
    assert (to / name).read_bytes() == (tokenizer_folder / name).read_bytes()
  specials = tokenizers.load(to, "huggingface").special_ids
  values = json.loads((to / "config.json").read_text())
  assert values["eos_token_id"] == specials["<|im_end|>"]
  assert values["pad_token_id"] == specials["<|endoftext|>"]

  # Its config.json says more than a preset does; training changes none of it.
  values |= {"rope_theta": 5e6, "max_position_embeddings": 262_144}
  (to / "config.json").write_text(json.dumps(values))
  c = config_lib.Config(out_dir=str(tmp_path / "next"), stages=("grpo",))
  c.model = config_lib.Model(preset="", folder=str(to), dtype="bfloat16")
  c.tokenizer = config_lib.Tokenizer(kind="huggingface", folder=str(to))
  c.gyms.num_train_tasks = 16
  c.rollout.max_tokens_per_episode = c.packing.row_length = 2048
  config_rules.validate(c)
  parts = assembly.build(c)
  assert parts.model == dataclasses.replace(
    MODEL,
    rope_theta=5e6,
    dtype="bfloat16",
    num_ids=parts.tokenizer.vocab_size,
  )
  _check_equal(assembly.first_params(parts), 4, "bfloat16")
  _write_run(c, grpo=[6])
  again = tmp_path / "again"
  assert export.main([f"--run={c.out_dir}", f"--to={again}"]) == 0
  assert json.loads((again / "config.json").read_text()) == values
  # A stage before, or init_from, comes before the folder's params.
  folder = _run(c) / "checkpoints" / "grpo"
  _check_equal(assembly.first_params(parts, folder), 6, "float32")


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
  """The folder of a short run of the quickstart, through GRPO."""
  folder = tmp_path_factory.mktemp("trained") / "run"
  fields = {
    "out_dir": folder,
    "stages": "base,grpo",
    "gyms.num_train_tasks": 8,
    "base.num_steps": 12,
    "base.num_episodes": 24,
    "base.num_copies": 24,
    "grpo.num_iterations": 2,
    "grpo.optimizer.warmup_steps": 0,
    "grpo.tasks_per_iteration": 3,
    "grpo.group_size": 4,
    "engine.num_rows": 12,
    "engine.num_lanes": 12,
    "grpo.credit.turn_penalty": 0.1,  # so that beginners differ in score
    "evaluation.num_tasks": 1,
    "mesh.cpu_devices": 1,
  }
  done = subprocess.run(
    [
      *(sys.executable, "-m", "userrl_jax.train"),
      "--config=configs/quickstart.py",
      *(f"--config.{name}={value}" for name, value in fields.items()),
    ],
    cwd=root,
    # Less optimised code compiles in half the time.
    env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return folder


@pytest.mark.exhaustive
def test_a_trained_checkpoint_gives_equal_logits_in_transformers(
  root, trained, tmp_path
):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  to = tmp_path / "published"
  subprocess.run(
    [
      *(sys.executable, "-m", "userrl_jax.export", f"--run={trained}"),
      *(f"--to={to}", "--dtype=float32"),
    ],
    cwd=root,
    check=True,
  )
  stages = trained / "checkpoints"
  kept = tokenizers.load(stages / "grpo" / "tokenizer", "sentencepiece")
  model = dataclasses.replace(MODEL, num_ids=kept.vocab_size)
  mesh = sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])
  params, before = (
    bases.load_params(stages / stage, model, mesh) for stage in ("grpo", "base")
  )
  played = (trained / "transcripts" / "grpo.jsonl").read_text().splitlines()
  tokens_T = np.array(_ids(max(map(json.loads, played), key=_num_turns), kept))
  assert tokens_T.size > 100

  @jax.jit
  def ours(params):
    tokens_BT = jnp.asarray(tokens_T)[None]
    places_BT = jnp.arange(tokens_T.size)[None]
    segments_BT = jnp.ones_like(tokens_BT)
    hidden, _ = qwen3.forward(params, model, tokens_BT, places_BT, segments_BT)
    return qwen3.logits(params, model, hidden)[0, :, : kept.vocab_size]

  loaded = transformers.AutoModelForCausalLM.from_pretrained(
    to, dtype=torch.float32
  )
  with torch.no_grad():
    theirs = loaded.eval()(torch.tensor(tokens_T)[None]).logits[0].numpy()
  theirs = theirs[:, : kept.vocab_size]
  gap = np.abs(ours(params) - theirs).max()
  print("largest gap of logits", gap)
  assert gap <= 1e-4
  # Not those of the stage before, which GRPO has changed.
  assert np.abs(ours(before) - theirs).max() > 1e-2


def _num_turns(transcript):
  return len(transcript["turns"])


def _ids(transcript, tokenizer):
  """Returns the ids of a transcript, spelt as its agent would read them."""
  said = [messages.Message("user", transcript["prompt"])]
  for turn in transcript["turns"]:
    said.append(messages.Message("assistant", turn["text"]))
    said.append(messages.Message("tool", turn["observation"]))
  return chat_lib.Chat(tokenizer, "brief").dialogue_ids(said)
