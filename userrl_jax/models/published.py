"""What a published Qwen3 model says of itself: `config.json` and tensor names.

In: the `config.json` of a Hugging Face folder. Out: our `qwen3.Config`, and the
way back; and for a config, every published tensor with its place in our params.
A published matrix is [out, in] and one of a layer; ours are [in, out] and
stacked over layers.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax

from userrl_jax import config as config_lib
from userrl_jax.models import qwen3

# Our leaf -> published tensor; {} is the layer.
NAMES = {
  "embed/embedding": "model.embed_tokens.weight",
  "layers/attention_norm/scale": "model.layers.{}.input_layernorm.weight",
  "layers/attention/q/kernel": "model.layers.{}.self_attn.q_proj.weight",
  "layers/attention/k/kernel": "model.layers.{}.self_attn.k_proj.weight",
  "layers/attention/v/kernel": "model.layers.{}.self_attn.v_proj.weight",
  "layers/attention/o/kernel": "model.layers.{}.self_attn.o_proj.weight",
  "layers/attention/q_norm/scale": "model.layers.{}.self_attn.q_norm.weight",
  "layers/attention/k_norm/scale": "model.layers.{}.self_attn.k_norm.weight",
  "layers/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
  "layers/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
  "layers/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
  "layers/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
  "final_norm/scale": "model.norm.weight",
  "head/kernel": "lm_head.weight",
}
# Field of qwen3.Config -> field of config.json.
SIZES = {
  "vocab_size": "vocab_size",
  "hidden_size": "hidden_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "num_kv_heads": "num_key_value_heads",
  "head_dim": "head_dim",
  "intermediate_size": "intermediate_size",
}
# What the model does not compute: fields of config.json and what they may be.
_ONLY: dict[str, tuple[Any, ...]] = {
  "hidden_act": ("silu", None),
  "attention_bias": (False, None),
  "use_sliding_window": (False, None),
  "partial_rotary_factor": (1, None),
  "quantization_config": (None,),
}
_HEAD_DIM = 128  # of a config.json without one, whatever its other sizes
# Positions that the first models of the family were published for.
_MAX_POSITIONS = 40_960

Folder = str | os.PathLike[str]


class Tensor(NamedTuple):
  """A published tensor, and where it is in our params."""

  name: str
  leaf: str  # keys joined by slashes
  layer: int | None  # None: the leaf is not stacked
  shape: tuple[int, ...]  # as published

  @property
  def is_turned(self) -> bool:
    """True when the published tensor is the transpose of ours."""
    return self.leaf.endswith("/kernel")


def read_config(folder: Folder) -> qwen3.Config:
  """Reads the shape of a published model from its `config.json`.

  Both spellings of RoPE are read: `rope_theta` beside `rope_scaling`, and
  `rope_parameters`, which holds both.

  Raises:
    ValueError: when there is no such file, it is of another family, a field is
      missing or wrong, or it asks for what the model does not compute.
  """
  path = pathlib.Path(folder) / "config.json"
  values = read_json(path)
  family = values.get("model_type")
  if family != "qwen3":
    raise ValueError(
      f"{path} must be of model_type qwen3, got {family!r}; other families "
      "have another architecture"
    )
  for name, allowed in _ONLY.items():
    if values.get(name) not in allowed:
      raise ValueError(
        f"{path}: {name} must be {json.dumps(allowed[0])}, got "
        f"{values[name]!r}; such a model is not supported"
      )
  layer_types = values.get("layer_types") or ["full_attention"]
  if set(layer_types) != {"full_attention"}:
    raise ValueError(
      f"{path}: layer_types must all be full_attention, got "
      f"{sorted(set(layer_types))}; such a model is not supported"
    )
  values = {"head_dim": _HEAD_DIM, **values}
  sizes: dict[str, Any] = {
    ours: _size(path, values, name) for ours, name in SIZES.items()
  }
  if sizes["num_heads"] % sizes["num_kv_heads"] or sizes["head_dim"] % 2:
    raise ValueError(
      f"{path}: num_attention_heads must be a multiple of num_key_value_heads "
      f"and head_dim even, got {sizes['num_heads']}, {sizes['num_kv_heads']} "
      f"and {sizes['head_dim']}; copy the file again"
    )
  tie_embeddings = values.get("tie_word_embeddings")
  if not isinstance(tie_embeddings, bool):
    raise _wrong(path, "tie_word_embeddings", "true or false", tie_embeddings)
  return qwen3.Config(
    **sizes,
    tie_embeddings=tie_embeddings,
    rope_theta=_rope_theta(path, values),
    rms_norm_eps=_positive(path, "rms_norm_eps", values.get("rms_norm_eps")),
  )


def configured(settings: config_lib.Model) -> qwen3.Config:
  """Returns the shape that a run's config asks for.

  It is the folder's where there is one, which a preset then has to agree with.

  Raises:
    ValueError: when there is no such preset, the folder is of no Qwen3 model,
      or they differ in size.
  """
  folder, name = settings.folder, settings.preset
  if name not in qwen3.PRESETS and (name or not folder):
    raise ValueError(
      f"model.preset must be one of {', '.join(qwen3.PRESETS)}, got {name!r}"
    )
  shape = read_config(folder) if folder else qwen3.PRESETS[name]
  preset = qwen3.PRESETS.get(name, shape)
  for size in (*SIZES, "tie_embeddings"):
    got, has = getattr(preset, size), getattr(shape, size)
    if got != has:
      raise ValueError(
        f"model.preset must agree with model.folder, {folder}: {size} is {has} "
        f"there and {got} in {name}; set model.preset to '', or to what the "
        "folder holds"
      )
  return dataclasses.replace(
    shape,
    num_layers=settings.num_layers or shape.num_layers,
    dtype=settings.dtype,
    remat=settings.remat,
  )


def config_values(config: qwen3.Config, dtype: str) -> dict[str, Any]:
  """Returns the fields of `config.json`, spelt as in the published ones."""
  return {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    **{name: getattr(config, ours) for ours, name in SIZES.items()},
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": config.tie_embeddings,
    "rms_norm_eps": config.rms_norm_eps,
    "rope_theta": config.rope_theta,
    "rope_scaling": None,
    "max_position_embeddings": _MAX_POSITIONS,
    "max_window_layers": config.num_layers,
    "use_sliding_window": False,
    "sliding_window": None,
    "torch_dtype": dtype,
  }


def shapes(config: qwen3.Config) -> Any:
  """Returns the params' tree of float32 ShapeDtypeStructs."""
  return jax.eval_shape(lambda: qwen3.init(config, jax.random.key(0)))


def leaf_name(path: Sequence[Any]) -> str:
  """Returns a leaf's keys joined by slashes, as in `NAMES`."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def tensors(config: qwen3.Config) -> Iterator[Tensor]:
  """Yields every tensor of a model, in the order of publishing."""
  wanted = {
    leaf_name(path): want.shape
    for path, want in jax.tree_util.tree_leaves_with_path(shapes(config))
  }
  assert wanted.keys() <= NAMES.keys()
  stacked = [leaf for leaf in NAMES if leaf.startswith("layers/")]

  def tensor(leaf, layer=None):
    shape = wanted[leaf] if layer is None else wanted[leaf][1:]
    one = Tensor(NAMES[leaf].format(layer), leaf, layer, shape)
    return one._replace(shape=shape[::-1]) if one.is_turned else one

  yield tensor("embed/embedding")
  for layer in range(config.num_layers):
    yield from (tensor(leaf, layer) for leaf in stacked)
  yield tensor("final_norm/scale")
  if not config.tie_embeddings:
    yield tensor("head/kernel")


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file of a published folder.

  Raises:
    ValueError: when it is not there, or holds no JSON object.
  """
  try:
    values = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ValueError(
      f"{path} must be a file of published weights, got {error.strerror}; give "
      "the folder that holds config.json and the weights"
    ) from error
  except ValueError as error:
    raise ValueError(
      f"{path} must be JSON, got: {error}; copy the file again"
    ) from error
  if not isinstance(values, dict):
    raise ValueError(
      f"{path} must be a JSON object, got {values!r:.80}; copy the file again"
    )
  return values


def _rope_theta(path: pathlib.Path, values: Mapping[str, Any]) -> float:
  """Returns the base of RoPE, from wherever it stands."""
  thetas = {str(values.get("rope_theta")): values.get("rope_theta")}
  for name in ("rope_parameters", "rope_scaling"):
    given = values.get(name)
    if given is None:
      continue
    if not isinstance(given, dict) or not _is_plain_rope(given):
      raise ValueError(
        f"{path}: {name} must be null or of rope_type default, got {given!r}; "
        "such a model is not supported"
      )
    theta = given.get("rope_theta")
    thetas[str(theta)] = theta
  given = [theta for theta in thetas.values() if theta is not None]
  if len(given) != 1:
    raise _wrong(path, "rope_theta", "given, one value", given or None)
  return _positive(path, "rope_theta", given[0])


def _is_plain_rope(given: Mapping[str, Any]) -> bool:
  known = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
  return (
    given.keys() <= known
    and given.get("rope_type", given.get("type", "default")) == "default"
    and given.get("partial_rotary_factor", 1) == 1
  )


def _size(path: pathlib.Path, values: Mapping[str, Any], name: str) -> int:
  size = values.get(name)
  if not isinstance(size, int) or isinstance(size, bool) or size < 1:
    raise _wrong(path, name, "a positive whole number", size)
  return size


def _positive(path: pathlib.Path, name: str, value: Any) -> float:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number or not 0 < value < math.inf:
    raise _wrong(path, name, "a positive number", value)
  return float(value)


def _wrong(path: pathlib.Path, name: str, what: str, got: Any) -> ValueError:
  return ValueError(
    f"{path}: {name} must be {what}, got {got!r}; copy the file again"
  )
