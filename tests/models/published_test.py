"""What a config.json says: both spellings, and what is refused."""

import dataclasses
import json

import pytest

from tests.models import small
from userrl_jax.models import published
from userrl_jax.models import qwen3


@pytest.mark.parametrize(
  ("preset", "theta"), [("qwen3_0_6b", 1e6), ("qwen3_4b", 5e6)]
)
def test_a_config_is_read_in_both_spellings(
  write_folder, tmp_path, preset, theta
):
  config = dataclasses.replace(qwen3.PRESETS[preset], rope_theta=theta)
  new = {"rope_parameters": {"rope_theta": theta, "rope_type": "default"}}
  for i, changes in enumerate(
    (
      {},
      {"rope_scaling": {"type": "default"}},
      {"rope_theta": "left out", "rope_scaling": "left out"} | new,
      {"rope_theta": theta, "layer_types": ["full_attention"] * 2} | new,
    )
  ):
    folder = write_folder(tmp_path / str(i), config, None, **changes)
    assert published.read_config(folder) == config


def test_every_preset_comes_back_from_its_config_json(tmp_path):
  for config in qwen3.PRESETS.values():
    values = published.config_values(config, "bfloat16")
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert published.read_config(tmp_path) == config


def test_a_missing_head_dim_is_the_familys(write_folder, tmp_path):
  folder = write_folder(tmp_path, small.CONFIG, None, head_dim="left out")
  assert published.read_config(folder).head_dim == 128


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model_type": "qwen2"}, "must be of model_type qwen3, got 'qwen2'"),
    ({"model_type": "left out"}, "must be of model_type qwen3, got None"),
    ({"use_sliding_window": True}, "use_sliding_window must be false, got T"),
    ({"attention_bias": True}, "attention_bias must be false, got True"),
    ({"hidden_act": "gelu"}, "hidden_act must be \"silu\", got 'gelu'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1, got"),
    ({"quantization_config": {"bits": 4}}, "quantization_config must be null"),
    ({"layer_types": ["sliding_attention"]}, "must all be full_attention, got"),
    (
      {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
      "rope_scaling must be null or of rope_type default, got {'rope_type'",
    ),
    (
      {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6}},
      "rope_parameters must be null or of rope_type default",
    ),
    (
      {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
      "rope_parameters must be null or of rope_type default",
    ),
    ({"rope_scaling": {"type": "dynamic"}}, "rope_scaling must be null or"),
    ({"rope_theta": "left out"}, "rope_theta must be given, one value, got N"),
    (
      {"rope_parameters": {"rope_theta": 1e4}},
      "rope_theta must be given, one value, got [1000000, 10000.0]",
    ),
    ({"rope_theta": "1e6"}, "rope_theta must be a positive number, got '1e6'"),
    ({"rms_norm_eps": "left out"}, "rms_norm_eps must be a positive number"),
    ({"head_dim": None}, "head_dim must be a positive whole number, got None"),
    ({"head_dim": 5}, "head_dim even, got 8, 4 and 5"),
    ({"num_key_value_heads": 3}, "a multiple of num_key_value_heads and"),
    ({"hidden_size": "left out"}, "hidden_size must be a positive whole n"),
    ({"vocab_size": True}, "vocab_size must be a positive whole number, got T"),
    ({"tie_word_embeddings": "left out"}, "must be true or false, got None"),
  ],
)
def test_a_config_of_another_model_is_refused(
  write_folder, tmp_path, changes, message
):
  write_folder(tmp_path, small.CONFIG, None, **changes)
  with pytest.raises(ValueError) as refused:
    published.read_config(tmp_path)
  assert str(refused.value).startswith(str(tmp_path / "config.json"))
  assert message in str(refused.value)


def test_a_config_that_is_no_config_is_refused(tmp_path):
  for text, message in (
    (None, "config.json must be a file of published weights, got No such"),
    ("{", "config.json must be JSON, got"),
    ("[]", "config.json must be a JSON object, got []"),
  ):
    if text is not None:
      (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError) as refused:
      published.read_config(tmp_path)
    assert message in str(refused.value)
