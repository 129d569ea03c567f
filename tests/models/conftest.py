"""Published folders for the tests: names and spelling written by hand here.

What the package knows of them is what these tests are about.
"""

import json

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from userrl_jax import config as config_lib
from userrl_jax import sharding
from userrl_jax.models import published


@pytest.fixture(scope="session")
def make_tensors():
  """Returns a function that draws a model's tensors, as they are published."""

  def make(config, seed=0):
    c = config
    # Its stream is frozen by numpy, so golden values stay.
    draw = np.random.RandomState(seed).standard_normal
    matrix = lambda *shape: (draw(shape) / shape[1] ** 0.5).astype(np.float32)
    norm = lambda size: (1 + 0.2 * draw(size)).astype(np.float32)
    D, F = c.hidden_size, c.intermediate_size
    heads, kv_heads = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    tensors = {"model.embed_tokens.weight": matrix(c.vocab_size, D)}
    for i in range(c.num_layers):
      layer = {
        "input_layernorm": norm(D),
        "self_attn.q_proj": matrix(heads, D),
        "self_attn.k_proj": matrix(kv_heads, D),
        "self_attn.v_proj": matrix(kv_heads, D),
        "self_attn.o_proj": matrix(D, heads),
        "self_attn.q_norm": norm(c.head_dim),
        "self_attn.k_norm": norm(c.head_dim),
        "post_attention_layernorm": norm(D),
        "mlp.gate_proj": matrix(F, D),
        "mlp.up_proj": matrix(F, D),
        "mlp.down_proj": matrix(D, F),
      }
      for name, tensor in layer.items():
        tensors[f"model.layers.{i}.{name}.weight"] = tensor
    tensors["model.norm.weight"] = norm(D)
    if not c.tie_embeddings:
      tensors["lm_head.weight"] = matrix(c.vocab_size, D)
    return tensors

  return make


@pytest.fixture(scope="session")
def write_folder():
  """Returns a function that writes a folder as the published ones are."""

  def write(folder, config, tensors, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    values = {
      "architectures": ["Qwen3ForCausalLM"],
      "attention_bias": False,
      "attention_dropout": 0.0,
      "bos_token_id": 151643,
      "eos_token_id": 151645,
      "head_dim": config.head_dim,
      "hidden_act": "silu",
      "hidden_size": config.hidden_size,
      "initializer_range": 0.02,
      "intermediate_size": config.intermediate_size,
      "max_position_embeddings": 40960,
      "max_window_layers": 36,
      "model_type": "qwen3",
      "num_attention_heads": config.num_heads,
      "num_hidden_layers": config.num_layers,
      "num_key_value_heads": config.num_kv_heads,
      "rms_norm_eps": config.rms_norm_eps,
      "rope_scaling": None,
      "rope_theta": int(config.rope_theta),
      "sliding_window": None,
      "tie_word_embeddings": config.tie_embeddings,
      "torch_dtype": "bfloat16",
      "transformers_version": "4.51.0",
      "use_cache": True,
      "use_sliding_window": False,
      "vocab_size": config.vocab_size,
    }
    values |= changes
    kept = {k: v for k, v in values.items() if v != "left out"}
    (folder / "config.json").write_text(json.dumps(kept, indent=2))
    if tensors is not None:
      safetensors_numpy.save_file(
        tensors, folder / "model.safetensors", {"format": "pt"}
      )
    return folder

  return write


@pytest.fixture(scope="session")
def write_shards():
  """Returns a function that deals tensors to files; it returns the index."""

  def write(folder, tensors, num_shards):
    file_of = {}
    for i in range(num_shards):
      file = f"model-{i + 1:05}-of-{num_shards:05}.safetensors"
      part = dict(list(tensors.items())[i::num_shards])
      safetensors_numpy.save_file(part, folder / file)
      file_of |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": file_of}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return file_of

  return write


@pytest.fixture(scope="session")
def shardings():
  """Returns a function that shards a model's params over a mesh."""

  def make(config, settings=None, devices=None):
    mesh = sharding.make_mesh(
      settings or config_lib.Mesh(), devices or jax.devices()[:1]
    )
    return sharding.param_shardings(published.shapes(config), mesh)

  return make
