"""Published folders: what they say, how they load and save, what is refused."""

import collections
import dataclasses
import json
import math
import os
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors import numpy as safetensors_numpy

from tests.models import small
from userrl_jax import config as config_lib
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import tensor_files
from userrl_jax.models import weights

TIED = dataclasses.replace(small.CONFIG, tie_embeddings=True)


def _expected(tensors, config):
  """Returns our params by path, as numpy, spelt out."""
  stack = lambda name: np.stack(
    [
      tensors[f"model.layers.{i}.{name}.weight"].T
      for i in range(config.num_layers)
    ]
  )
  params = {
    "embed/embedding": tensors["model.embed_tokens.weight"],
    "final_norm/scale": tensors["model.norm.weight"],
    "layers/attention_norm/scale": stack("input_layernorm"),
    "layers/mlp_norm/scale": stack("post_attention_layernorm"),
    **{
      f"layers/attention/{x}/kernel": stack(f"self_attn.{x}_proj")
      for x in "qkvo"
    },
    **{
      f"layers/attention/{x}_norm/scale": stack(f"self_attn.{x}_norm")
      for x in "qk"
    },
    **{
      f"layers/mlp/{x}/kernel": stack(f"mlp.{x}_proj")
      for x in ("gate", "up", "down")
    },
  }
  if not config.tie_embeddings:
    params["head/kernel"] = tensors["lm_head.weight"].T
  return params


def _by_path(params):
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {published.leaf_name(path): leaf for path, leaf in leaves}


def _check_equal(params, expected):
  found = _by_path(params)
  assert found.keys() == expected.keys()
  for path, leaf in found.items():
    assert leaf.dtype == np.float32
    np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.mark.parametrize("config", [small.CONFIG, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_files_of_every_kind_load(
  make_tensors,
  write_folder,
  write_shards,
  shardings,
  tmp_path,
  config,
  dtype,
  num_shards,
):
  tensors = {k: v.astype(dtype) for k, v in make_tensors(config).items()}
  if num_shards == 1:
    write_folder(tmp_path, config, tensors)
  else:
    write_folder(tmp_path, config, None)
    write_shards(tmp_path, tensors, num_shards)
  params = weights.load(tmp_path, config, shardings(config))
  _check_equal(params, _expected(tensors, config))
  _, unused = jax.tree.flatten(params)
  assert unused == jax.tree.structure(published.shapes(config))


def test_a_head_beside_tied_embeddings_must_be_the_embedding(
  make_tensors, write_folder, shardings, tmp_path, monkeypatch
):
  monkeypatch.setattr(weights, "_COMPARED_ELEMENTS", 100)  # rows at a time: 6
  tensors = make_tensors(TIED)
  expected = _expected(tensors, TIED)
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
  write_folder(tmp_path, TIED, tensors)
  params = weights.load(tmp_path, TIED, shardings(TIED))
  _check_equal(params, expected)
  for row in (0, 20, 47):
    changed = tensors["model.embed_tokens.weight"].copy()
    changed[row, 3] += 1
    write_folder(tmp_path, TIED, tensors | {"lm_head.weight": changed})
    with pytest.raises(ValueError, match="lm_head.weight must equal model.em"):
      weights.load(tmp_path, TIED, shardings(TIED))


def _without(tensors, name):
  return {k: v for k, v in tensors.items() if k != name}


NORM = "model.norm.weight"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: _without(t, Q_PROJ), f"must hold {Q_PROJ}, got no such tensor"),
    (
      lambda t: _without(t, "lm_head.weight"),
      "must hold lm_head.weight, got no such tensor; tie_word_embeddings is f",
    ),
    (lambda t: {}, "must hold model.embed_tokens.weight, model.layers.0.input"),
    (
      lambda t: t | {Q_PROJ.replace("weight", "bias"): t[NORM]},
      "and no others, got also model.layers.1.self_attn.q_proj.bias",
    ),
    (
      lambda t: t | {Q_PROJ.replace("1", "3"): t[Q_PROJ]},
      "and no others, got also model.layers.3.self_attn.q_proj.weight",
    ),
    (
      lambda t: t | {Q_PROJ: np.ascontiguousarray(t[Q_PROJ].T)},
      f"{Q_PROJ} must have shape (32, 16) by its config.json, got (16, 32)",
    ),
    (
      lambda t: t | {NORM: t[NORM][:-1].copy()},
      f"{NORM} must have shape (16,) by its config.json, got (15,)",
    ),
    (
      lambda t: t | {NORM: t[NORM].astype(np.int8)},
      f"{NORM} must be F32, BF16, F16, got I8",
    ),
  ],
)
def test_tensors_of_another_model_are_refused(
  make_tensors, write_folder, shardings, tmp_path, change, message
):
  write_folder(tmp_path, small.CONFIG, change(make_tensors(small.CONFIG)))
  with pytest.raises(ValueError) as refused:
    weights.load(tmp_path, small.CONFIG, shardings(small.CONFIG))
  assert str(refused.value).startswith(str(tmp_path))
  assert message in str(refused.value)


def test_a_folder_that_is_not_there_is_refused(shardings, tmp_path):
  with pytest.raises(ValueError, match="must be in a folder, got .*nowhere"):
    weights.load(tmp_path / "nowhere", small.CONFIG, shardings(small.CONFIG))


@pytest.mark.parametrize("config", [small.CONFIG, TIED], ids=["untied", "tied"])
def test_what_is_saved_loads_again(
  make_tensors, write_folder, shardings, tmp_path, config
):
  tensors = make_tensors(config)
  write_folder(tmp_path / "from", config, tensors)
  params = weights.load(tmp_path / "from", config, shardings(config))
  for dtype, max_bytes, num_files in (
    ("float32", 10**9, 1),
    ("bfloat16", 10**9, 1),
    ("bfloat16", 4000, None),
    ("bfloat16", 1, len(tensors)),
  ):
    folder = tmp_path / f"{dtype} {max_bytes}"
    weights.save(
      folder,
      params,
      config,
      dtype=dtype,
      max_shard_bytes=max_bytes,
      fields={"eos_token_id": 7},
      beside=lambda path: (path / "tokenizer.json").write_text("here"),
    )
    assert not folder.with_name(folder.name + ".partial").exists()
    assert (folder / "tokenizer.json").read_text() == "here"
    values = json.loads((folder / "config.json").read_text())
    assert values["eos_token_id"] == 7 and values["torch_dtype"] == dtype
    assert published.read_config(folder) == config
    files = sorted(folder.glob("*.safetensors"))
    stored = {}
    for file in files:
      part = safetensors_numpy.load_file(file)
      stored |= part
      with safetensors.safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "pt"}
      assert len(part) == 1 or sum(x.nbytes for x in part.values()) <= max_bytes
    rounded = {k: v.astype(jax.numpy.dtype(dtype)) for k, v in tensors.items()}
    assert list(stored) and stored.keys() == tensors.keys()
    for name, tensor in rounded.items():
      assert stored[name].dtype == tensor.dtype
      np.testing.assert_array_equal(stored[name], tensor, err_msg=name)
    again = weights.load(folder, config, shardings(config))
    _check_equal(again, _expected(rounded, config))
    assert len(files) == num_files or (num_files is None and len(files) > 3)
    index = folder / "model.safetensors.index.json"
    assert index.exists() == (len(files) > 1)
    if index.exists():
      size = json.loads(index.read_text())["metadata"]["total_size"]
      assert size == sum(x.nbytes for x in stored.values())


def _zeros(config):
  return jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), published.shapes(config)
  )


def test_a_folder_in_use_is_not_overwritten(tmp_path):
  params = _zeros(TIED)
  (tmp_path / "used").mkdir()
  (tmp_path / "used" / "notes.txt").write_text("mine")
  (tmp_path / "file").write_text("mine")
  for name in ("used", "file"):
    with pytest.raises(
      ValueError, match=f"a new or empty folder, got .*{name}"
    ):
      weights.save(tmp_path / name, params, TIED)
  assert sorted(p.name for p in tmp_path.rglob("*")) == [
    "file",
    "notes.txt",
    "used",
  ]
  (tmp_path / "empty").mkdir()
  weights.save(tmp_path / "empty", params, TIED)
  assert (tmp_path / "empty" / "model.safetensors").exists()


def test_a_save_that_fails_leaves_nothing(tmp_path):
  params = _zeros(TIED)

  def fail(folder):
    assert (folder / "model.safetensors").exists()
    raise OSError("no space left")

  (tmp_path / "to.partial").mkdir()  # of a save that was killed
  (tmp_path / "to.partial" / "old.safetensors").write_text("")
  with pytest.raises(OSError, match="no space left"):
    weights.save(tmp_path / "to", params, TIED, beside=fail)
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(ValueError, match="bfloat16 or float32.* got 'float16'"):
    weights.save(tmp_path / "to", params, TIED, dtype="float16")
  weights.save(tmp_path / "to", params, TIED)
  names = {path.name for path in (tmp_path / "to").iterdir()}
  assert names == {"config.json", "model.safetensors"}


def test_eight_devices_hold_what_one_does(
  eight_devices, make_tensors, write_folder, shardings, tmp_path, monkeypatch
):
  if not eight_devices:
    return
  tensors = make_tensors(small.CONFIG)
  write_folder(tmp_path / "from", small.CONFIG, tensors)
  read, parts = tensor_files.read, collections.defaultdict(list)

  def noted(tensor, index):
    part = read(tensor, index)
    parts[tensor.name].append(part.shape)
    return part

  monkeypatch.setattr(tensor_files, "read", noted)
  for sizes, of_q, of_down in (
    ((2, 2, 2), [(16, 8)] * 4, [(8, 12)] * 4),
    ((1, 1, 8), [(4, 16)] * 8, [(16, 3)] * 8),
  ):
    parts.clear()
    wanted = shardings(small.CONFIG, config_lib.Mesh(*sizes), jax.devices())
    params = weights.load(tmp_path / "from", small.CONFIG, wanted)
    _check_equal(params, _expected(tensors, small.CONFIG))
    jax.tree.map(
      lambda leaf, where: (
        pytest.fail(f"{leaf.sharding} is not {where}")
        if not leaf.sharding.is_equivalent_to(where, leaf.ndim)
        else None
      ),
      params,
      wanted,
    )
    # What a device keeps is read for it, once, and nothing else.
    assert parts[Q_PROJ] == of_q and parts[NORM] == [(16,)]
    assert parts["model.layers.2.mlp.down_proj.weight"] == of_down
    up = params["layers"]["mlp"]["up"]["kernel"]
    shape = (3, 16 // sizes[1], 24 // sizes[2])
    assert {part.data.shape for part in up.addressable_shards} == {shape}
    folder = tmp_path / "x".join(map(str, sizes))
    weights.save(folder, params, small.CONFIG, dtype="float32")
    saved = safetensors_numpy.load_file(folder / "model.safetensors")
    assert saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
      np.testing.assert_array_equal(saved[name], tensor, err_msg=name)


def _reset_peak():
  """Returns the resident bytes, and makes them the peak."""
  pathlib.Path("/proc/self/clear_refs").write_text("5")
  return _memory("VmRSS")


def _memory(field):
  """Returns bytes of this process; VmHWM is the most that were resident."""
  status = pathlib.Path("/proc/self/status").read_text()
  (line,) = [x for x in status.splitlines() if x.startswith(f"{field}:")]
  return int(line.split()[1]) * 1024


@pytest.mark.skipif(
  not pathlib.Path("/proc/self/clear_refs").exists(), reason="asks Linux"
)
def test_the_host_holds_few_tensors_at_a_time(
  run_apart, write_folder, write_shards, shardings, tmp_path
):
  config = qwen3.Config(
    vocab_size=2048,
    hidden_size=1024,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=128,
    intermediate_size=3072,
    tie_embeddings=True,
  )
  tensors = list(published.tensors(config))
  num_bytes = 4 * sum(math.prod(tensor.shape) for tensor in tensors)
  largest = 4 * max(math.prod(tensor.shape) for tensor in tensors)
  assert num_bytes > 400e6 > 25 * largest
  if not os.environ.get("USERRL_FOLDER"):
    ones = {t.name: np.ones(t.shape, np.float32) for t in tensors}
    write_folder(tmp_path, config, None)
    write_shards(tmp_path, ones, 3)
    # Free memory that is kept would hide what is taken next: keep no arrays.
    environment = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    run_apart(USERRL_FOLDER=str(tmp_path), **environment)
    return
  where, mapped = shardings(config), _memory("RssFile")
  for turn in ("compiling", "measured"):  # what compiling takes is no tensor's
    before = _reset_peak()
    params = weights.load(os.environ["USERRL_FOLDER"], config, where)
    # The params of a CPU are on the host, too.
    assert _memory("VmRSS") - before > 0.95 * num_bytes
    loading = (_memory("VmHWM") - before - num_bytes) / largest
    before = _reset_peak()
    weights.save(tmp_path / turn, params, config)
    saving = (_memory("VmHWM") - before) / largest
    del params
  left_mapped = (_memory("RssFile") - mapped) / largest
  print(f"in largest tensors: {loading:.1f}, {saving:.1f}, {left_mapped:.1f}")
  assert max(loading, saving, left_mapped) < 6  # a leaf has 8, a file 11
