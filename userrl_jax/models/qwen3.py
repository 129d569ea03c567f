"""Qwen3 in Flax: one params tree, one `forward` for sampling and training.

Params come in as an argument everywhere; nothing here keeps them (law L3):

  embed/embedding [V, D]
  layers/...      every leaf stacked over layers, leading axis L
  final_norm/scale [D]
  head/kernel     [D, V], only when the head is not tied to the embedding

The learner scans the stacked layers, so compile time does not grow with depth;
sampling unrolls them, because a scan that returns each layer's cache copies it,
and takes them unstacked and in the compute dtype (`sampling_layout`).
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from userrl_jax import sharding
from userrl_jax.models import attention
from userrl_jax.models import embedding
from userrl_jax.models import kv_rows
from userrl_jax.models import lora
from userrl_jax.models import products

Params = Any

# A logit of no probability; finite, since 0 * -inf is no number.
_NEVER = -1e30


@dataclasses.dataclass(frozen=True)
class Config:
  """Shape of a Qwen3 model, named as in its published `config.json`."""

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  intermediate_size: int
  tie_embeddings: bool
  rope_theta: float = 1e6
  rms_norm_eps: float = 1e-6
  dtype: str = "float32"  # compute dtype; params are float32
  remat: str = "none"  # none, or full: keep only each layer's input
  attention: str = "xla"  # of packed rows: attention.IMPLEMENTATIONS
  # Ids that the tokenizer has; those above, which only round the vocabulary
  # up, get no probability. 0 is all.
  num_ids: int = 0
  # Adapters (`lora`) of the layers' matrices; rank 0 trains all params.
  adapter_rank: int = 0
  adapter_scale: float = 1.0
  adapter_targets: tuple[str, ...] = ()


def _published(
  hidden_size: int,
  num_layers: int,
  num_heads: int,
  intermediate_size: int,
  tie_embeddings: bool,
) -> Config:
  return Config(
    vocab_size=151_936,
    hidden_size=hidden_size,
    num_layers=num_layers,
    num_heads=num_heads,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=intermediate_size,
    tie_embeddings=tie_embeddings,
  )


PRESETS: dict[str, Config] = {
  "qwen3_tiny": Config(
    vocab_size=768,
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=384,
    tie_embeddings=True,
    rope_theta=1e4,
  ),
  "qwen3_0_6b": _published(1024, 28, 16, 3072, True),
  "qwen3_1_7b": _published(2048, 28, 16, 6144, True),
  "qwen3_4b": _published(2560, 36, 32, 9728, True),
  "qwen3_8b": _published(4096, 36, 32, 12288, False),
  "qwen3_14b": _published(5120, 40, 40, 17408, False),
  "qwen3_32b": _published(5120, 64, 64, 25600, False),
}


def init(config: Config, key: jax.Array) -> Params:
  """Draws random float32 params; normal with variance 1/fan-in.

  Args:
    config: shape of the model.
    key: a PRNG key; consumed.

  Returns:
    The params tree of the module's docstring.
  """
  embed_key, layers_key, head_key = jax.random.split(key, 3)
  x_BTD = jnp.zeros((1, 1, config.hidden_size), config.dtype)
  rope = rotary(config, jnp.zeros((1, 1), jnp.int32))
  block = Block(config)

  def init_layer(layer_key):
    attend = lambda q, k, v: (q, None)
    return block.init(layer_key, x_BTD, rope, attend)["params"]

  V, D = config.vocab_size, config.hidden_size
  params = {
    "embed": {"embedding": 0.02 * jax.random.normal(embed_key, (V, D))},
    "layers": jax.vmap(init_layer)(
      jax.random.split(layers_key, config.num_layers)
    ),
    "final_norm": {"scale": jnp.ones((D,))},
  }
  if not config.tie_embeddings:
    params["head"] = {"kernel": 0.02 * jax.random.normal(head_key, (D, V))}
  return params


def init_trained(config: Config, key: jax.Array) -> Params:
  """Draws the params that are trained: adapters where there are some."""
  if not config.adapter_rank:
    return init(config, key)
  shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
  rank, targets = config.adapter_rank, config.adapter_targets
  return lora.init(shapes, rank, targets, key)


def init_cache(
  config: Config, num_rows: int, length: int, by_position: bool = False
) -> kv_rows.Cache:
  """Makes an empty cache of `num_rows` rows of `length` positions.

  Its bytes are `cache_bytes`; `by_position` is how its keys lie.
  """
  S, N, d, C = num_rows, config.num_kv_heads, config.head_dim, length
  keys = (S, N, C, d) if by_position else (S, N, d, C)
  empty = lambda *shape: tuple(
    jnp.zeros(shape, config.dtype) for _ in range(config.num_layers)
  )
  return kv_rows.Cache(empty(*keys), empty(S, N, C, d), by_position)


def cache_bytes(config: Config, num_rows: int, length: int) -> int:
  """Returns what a cache takes."""
  position = 2 * config.num_kv_heads * config.head_dim
  size = jnp.dtype(config.dtype).itemsize
  return config.num_layers * num_rows * length * position * size


def sampling_layout(
  params: Params, config: Config, head_apart: bool = False
) -> Params:
  """Lays params out for sampling: a tree a layer, in the compute dtype.

  Adapters are merged into what they adapt. With `head_apart` a tied model has
  its head a second time, as [D, V]: a CPU would transpose it for every token.

  A slice of the stacked layers would be copied by every device call. The copy
  lives as long as a collection does.
  """

  def cast(leaf):
    # Norms compute in float32, with scales as the learner has them. Nothing
    # of the layout shares memory with params: an update may donate those.
    dtype = leaf.dtype if leaf.ndim < 2 else config.dtype
    return jnp.array(leaf, dtype, copy=True)

  def layer(i):
    own = jax.tree.map(lambda leaf: leaf[i], params["layers"])
    return jax.tree.map(cast, lora.merge(own, config.adapter_scale))

  layers = [layer(i) for i in range(config.num_layers)]
  laid_out = jax.tree.map(cast, params | {"layers": ()})
  if head_apart and config.tie_embeddings:
    laid_out["head"] = {"kernel": laid_out["embed"]["embedding"].T}
  return laid_out | {"layers": tuple(layers)}


def forward(
  params: Params,
  config: Config,
  tokens_BT: jax.Array,
  positions_BT: jax.Array,
  segment_ids_BT: jax.Array | None = None,
  cache: kv_rows.Cache | None = None,
  length: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
  embedded_BTD: jax.Array | None = None,
) -> tuple[jax.Array, kv_rows.Cache | None]:
  """Computes the final hidden states, before the head.

  Exactly one of `segment_ids_BT` (packed rows, layers scanned) and `cache`
  (KV rows, layers unrolled) is given.

  Args:
    params: the tree of the module's docstring; with a cache, its
      `sampling_layout`.
    config: shape of the model.
    tokens_BT: [B, T] int32 token ids.
    positions_BT: [B, T] int32 positions within their sequence. With a cache, a
      position at or past its length marks padding: nothing is written for it.
    segment_ids_BT: [B, T] int32, 0 is padding.
    cache: rows of these B sequences, of which every position before a token's
      own has been written.
    length: positions of the cache's rows to attend to, all by default; none
      of the tokens may lie beyond.
    mesh: whose devices share packed rows; None is one device.
    embedded_BTD: the tokens' embeddings, if they have been looked up before.

  Returns:
    ([B, T, D] compute dtype, the cache with these tokens written or None).
  """
  assert (segment_ids_BT is None) != (cache is None)
  x_BTD = embedded_BTD
  if x_BTD is None:
    x_BTD = params["embed"]["embedding"][tokens_BT].astype(config.dtype)
  rope = rotary(config, positions_BT)
  block = Block(config)
  if cache is None:

    def attend(q, k, v):
      how = config.attention, config.remat == "full", mesh
      return attention.packed(q, k, v, segment_ids_BT, *how), None

    def layer(x, layer_params):
      own = {"params": sharding.gathered(layer_params, mesh)}
      x = block.apply(own, x, rope, attend)[0]
      return sharding.by_row(x, mesh), None

    if config.remat == "full":
      layer = jax.checkpoint(layer, prevent_cse=False)
    x_BTD = sharding.looked_up(x_BTD, mesh)
    x_BTD, _ = jax.lax.scan(layer, x_BTD, params["layers"])
  else:
    keys, values = [], []
    # Else XLA may fuse cosines into rotations, where those of a CPU's last lane
    # round otherwise, and results depend on lanes.
    rope = jax.lax.optimization_barrier(rope)
    for i, layer_params in enumerate(params["layers"]):
      own = cache.keys[i], cache.values[i], cache.by_position
      attend = functools.partial(_attend_cached, *own, positions_BT, length)
      x_BTD, (k, v) = block.apply({"params": layer_params}, x_BTD, rope, attend)
      keys.append(k)
      values.append(v)
    cache = kv_rows.Cache(tuple(keys), tuple(values), cache.by_position)
  norm = RMSNorm(config.rms_norm_eps)
  return norm.apply({"params": params["final_norm"]}, x_BTD), cache


def _attend_cached(keys, values, by_position, positions_BT, length, q, k, v):
  """Writes k and v at their positions, then attends; for `forward`."""
  rows_B = jnp.arange(q.shape[0])
  keys = kv_rows.write(keys, k, rows_B, positions_BT, by_position)
  values = kv_rows.write(values, v, rows_B, positions_BT, True)
  seen = keys[:, :, :length] if by_position else keys[..., :length]
  out = attention.cached(
    q, seen, values[:, :, :length], positions_BT, by_position
  )
  return out, (keys, values)


def embed(
  params: Params, config: Config, tokens_BT: jax.Array
) -> tuple[jax.Array, Params]:
  """Looks tokens up for `forward`; the head must be that of what comes back.

  Returns:
    ([B, T, D] compute dtype, params): see `embedding.lookup`.
  """
  x_BTD, matrix_VD = embedding.lookup(
    params["embed"]["embedding"], tokens_BT, config.dtype
  )
  return x_BTD, params | {"embed": {"embedding": matrix_VD}}


def head_matrix(params: Params, config: Config) -> jax.Array:
  """Returns what logits are made with: [V, D] when tied, else [D, V]."""
  if config.tie_embeddings:
    return params["embed"]["embedding"]
  return params["head"]["kernel"]


def logits(params: Params, config: Config, hidden: jax.Array) -> jax.Array:
  """Turns [..., D] hidden states to [..., V] float32 logits.

  Those of ids that the tokenizer lacks give them no probability.
  """
  if "head" in params:
    kernel_DV = params["head"]["kernel"].astype(config.dtype)
  else:
    kernel_DV = head_matrix(params, config).astype(config.dtype).T
  x = jnp.matmul(hidden, kernel_DV, preferred_element_type=jnp.float32)
  if 0 < config.num_ids < config.vocab_size:
    x = jnp.where(jnp.arange(config.vocab_size) < config.num_ids, x, _NEVER)
  return x


def rotary(
  config: Config, positions_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines and sines of RoPE, each [B, T, 1, d/2] float32."""
  half = config.head_dim // 2
  frequencies = config.rope_theta ** (-jnp.arange(half) / half)
  angles = positions_BT[..., None, None].astype(jnp.float32) * frequencies
  return jnp.cos(angles), jnp.sin(angles)


class RMSNorm(nn.Module):
  """Scales by the inverse root mean square over the last axis, in float32."""

  epsilon: float

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.epsilon)
    return (y * scale).astype(x.dtype)


class Dense(nn.Module):
  """Multiplies by a matrix, merged with its adapter where params hold one."""

  config: Config
  size: int

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", _KERNEL_INIT, (x.shape[-1], self.size))
    if not self.has_variable("params", lora.A):
      is_lean = self.config.remat == "full"
      multiply = products.project if is_lean else jnp.matmul
      return multiply(x, kernel.astype(x.dtype))
    a, b = (self.get_variable("params", name) for name in (lora.A, lora.B))
    return lora.project(x, kernel, a, b, self.config.adapter_scale)


class Attention(nn.Module):
  """Grouped-query attention with normalised queries and keys, and RoPE."""

  config: Config

  @nn.compact
  def __call__(self, x_BTD, rope, attend: Callable):
    c = self.config
    dense = functools.partial(Dense, c)
    split = lambda y: y.reshape(*y.shape[:-1], -1, c.head_dim)
    q = split(dense(c.num_heads * c.head_dim, name="q")(x_BTD))
    k = split(dense(c.num_kv_heads * c.head_dim, name="k")(x_BTD))
    v = split(dense(c.num_kv_heads * c.head_dim, name="v")(x_BTD))
    q = _rotate(RMSNorm(c.rms_norm_eps, name="q_norm")(q), rope)
    k = _rotate(RMSNorm(c.rms_norm_eps, name="k_norm")(k), rope)
    out, cache = attend(q, k, v)
    out = out.reshape(*out.shape[:2], -1)
    return dense(c.hidden_size, name="o")(out), cache


class Mlp(nn.Module):
  """The gated MLP: down(silu(gate x) * up x)."""

  config: Config

  @nn.compact
  def __call__(self, x_BTD):
    c = self.config
    dense = functools.partial(Dense, c)
    gate = nn.silu(dense(c.intermediate_size, name="gate")(x_BTD))
    up = dense(c.intermediate_size, name="up")(x_BTD)
    return dense(c.hidden_size, name="down")(gate * up)


class Block(nn.Module):
  """One layer: attention and MLP, each behind a norm, on a residual stream."""

  config: Config

  @nn.compact
  def __call__(self, x_BTD, rope, attend: Callable):
    eps = self.config.rms_norm_eps
    y = RMSNorm(eps, name="attention_norm")(x_BTD)
    y, cache = Attention(self.config, name="attention")(y, rope, attend)
    x_BTD = x_BTD + y
    y = RMSNorm(eps, name="mlp_norm")(x_BTD)
    return x_BTD + Mlp(self.config, name="mlp")(y), cache


_KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _rotate(x_BTHd: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates the pairs (i, i + d/2) of each head, in float32."""
  cos, sin = rope
  a, b = jnp.split(x_BTHd.astype(jnp.float32), 2, axis=-1)
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return out.astype(x_BTHd.dtype)
