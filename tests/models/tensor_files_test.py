"""Folders of safetensors whose parts are missing, misplaced or damaged."""

import json

import pytest

from tests.models import small
from userrl_jax.models import tensor_files

NORM = "model.norm.weight"


def _write_index(folder, file_of):
  path = folder / "model.safetensors.index.json"
  path.write_text(json.dumps({"metadata": {}, "weight_map": file_of}))


def _cut_off(folder, _):
  path = folder / "model-00002-of-00002.safetensors"
  path.write_bytes(path.read_bytes()[:-1])


def _misname(folder, file_of):
  _write_index(folder, file_of | {NORM: "model-00003-of-00002.safetensors"})


def _misplace(folder, file_of):
  other = next(f for f in set(file_of.values()) if f != file_of[NORM])
  _write_index(folder, file_of | {NORM: other})


def _lead_out(folder, file_of):
  _write_index(folder, file_of | {NORM: f"../{file_of[NORM]}"})


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (
      lambda folder, _: (folder / "model-00002-of-00002.safetensors").unlink(),
      "{0} must hold model-00002-of-00002.safetensors, which model.safetensors",
    ),
    (_misname, "{0} must hold model-00003-of-00002.safetensors, which model"),
    (_misplace, f"must hold {NORM}, as model.safetensors.index.json says"),
    (_lead_out, "must hold a weight_map from tensors to files beside it"),
    (lambda folder, _: _write_index(folder, None), "must hold a weight_map"),
    (
      lambda folder, _: (folder / "model.safetensors.index.json").unlink(),
      "{0} must hold model.safetensors or model.safetensors.index.json, got [",
    ),
    (
      _cut_off,
      "{0}/model-00002-of-00002.safetensors must be a whole safetensors file",
    ),
  ],
)
def test_damaged_folders_are_refused(
  make_tensors, write_shards, tmp_path, spoil, message
):
  spoil(tmp_path, write_shards(tmp_path, make_tensors(small.CONFIG), 2))
  with pytest.raises(ValueError) as refused:
    tensor_files.stored(tmp_path)
  assert message.format(tmp_path) in str(refused.value)
