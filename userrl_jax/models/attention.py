"""The one seam through which attention is computed.

Two forms: over packed rows (training) and over KV rows (sampling). Both take
grouped queries, mask, and do the softmax in float32. Packed rows have a kernel
for each kind of device, chosen by name:

  xla     plain array code, for CPUs; runs everywhere
  cudnn   cuDNN's fused attention, on GPUs of bfloat16
  splash  the Pallas kernel of JAX for TPUs; skips what no query sees
          (splash_interpreted runs it anywhere, slowly, to compare with);
          on several devices each runs it for its own rows and heads

KV rows go through XLA everywhere: a decoded token reads its row once, which is
bound by memory and nothing that a kernel could save.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask,
)
import jax.numpy as jnp

from userrl_jax import sharding

# Positions of a KV row whose products are summed together.
CACHE_BLOCK = 256

# Added to scores that must not be seen; finite, so that a padding row whose
# keys are all hidden gives numbers instead of NaN.
_HIDDEN = -1e30

# Tokens that a block of the TPU kernel may have, the best first.
_SPLASH_BLOCKS = (512, 256, 128)

# Queries computed together in a packed row: keys that come later than all of
# them are not even looked at, which saves almost half of a causal product.
_QUERY_BLOCK = 64


def choose(
  name: str,
  *,
  platform: str,
  dtype: str,
  head_dim: int,
  row_length: int,
) -> str:
  """Returns the implementation for packed rows that a run asks for.

  Args:
    name: one of `IMPLEMENTATIONS`, or auto: the platform's kernel where it can
      compute the model, and else plain array code.
    platform: of JAX: cpu, gpu or tpu.
    dtype: that the model computes in.
    head_dim: of the model.
    row_length: tokens of a packed row.

  Raises:
    ValueError: when the named one cannot compute this model here.
  """
  kernel = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
  wanted = kernel if name == "auto" else name
  needs: dict[str, dict[str, bool]] = {
    "cudnn": {
      f"a GPU (this is a {platform})": platform == "gpu",
      f"model.dtype=bfloat16 (it is {dtype})": dtype == "bfloat16",
      f"heads of a multiple of 8 up to 128 (they are {head_dim})": (
        head_dim % 8 == 0 and head_dim <= 128
      ),
    },
    "splash": {
      f"a TPU (this is a {platform})": platform == "tpu",
      f"heads of a multiple of 128 (they are {head_dim})": head_dim % 128 == 0,
      f"rows of a multiple of {_SPLASH_BLOCKS[-1]} tokens "
      f"(packing.row_length is {row_length})": (
        row_length % _SPLASH_BLOCKS[-1] == 0
      ),
    },
  }
  missing = [need for need, met in needs.get(wanted, {}).items() if not met]
  if missing and name != "auto":
    raise ValueError(
      f"model.attention={name} needs {' and '.join(missing)}; set it to auto, "
      "which takes plain array code (xla) there"
    )
  return "xla" if missing else wanted


def packed(
  q_BTHd: jax.Array,
  k_BTNd: jax.Array,
  v_BTNd: jax.Array,
  segment_ids_BT: jax.Array,
  implementation: str = "xla",
  is_lean: bool = False,
  mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
  """Attends causally within each segment of a packed row.

  Args:
    q_BTHd: [B, T, H, d] queries; H is a multiple of N.
    k_BTNd: [B, T, N, d] keys.
    v_BTNd: [B, T, N, d] values.
    segment_ids_BT: [B, T] int32; tokens see only tokens of their own segment
      that do not come later. 0 is padding.
    implementation: one of `IMPLEMENTATIONS`.
    is_lean: whether the gradient of plain array code is to take little memory;
      it is the same but for rounding.
    mesh: over whose devices rows and heads are split; None is one device.

  Returns:
    [B, T, H, d] in the dtype of `v_BTNd`.
  """
  is_lean = is_lean and implementation == "xla"
  attend = _packed_lean if is_lean else _PACKED[implementation]
  if mesh is not None and implementation.startswith("splash"):
    # XLA cannot split a Pallas kernel: it would gather all rows on each device.
    attend = sharding.by_rows_and_heads(attend, mesh, k_BTNd.shape[2])
  return attend(q_BTHd, k_BTNd, v_BTNd, segment_ids_BT)


def _packed_xla(q_BTHd, k_BTNd, v_BTNd, segment_ids_BT):
  """Attends by blocks of queries; for `packed`."""
  return _packed_xla_forward(q_BTHd, k_BTNd, v_BTNd, segment_ids_BT)[0]


def _packed_xla_forward(q_BTHd, k_BTNd, v_BTNd, segment_ids_BT):
  blocks, weights = [], []
  for start, stop in _query_blocks(q_BTHd.shape[1]):
    out_BtHd, weights_BNGtS = _packed_block(
      q_BTHd[:, start:stop],
      k_BTNd[:, :stop],
      v_BTNd[:, :stop],
      segment_ids_BT[:, start:stop],
      segment_ids_BT[:, :stop],
    )
    blocks.append(out_BtHd)
    weights.append(weights_BNGtS)
  kept = q_BTHd, k_BTNd, v_BTNd, tuple(weights)
  return jnp.concatenate(blocks, axis=1), kept


def _packed_xla_backward(kept, slope_BTHd):
  q_BTHd, k_BTNd, v_BTNd, weights = kept
  T = k_BTNd.shape[1]
  # Waits for the slope by adding nothing of it: else XLA would lay blocks out
  # for here when the forward pass does, and keep them all until now.
  slope_BTNGd = slope_BTHd.reshape(*k_BTNd.shape[:3], -1, k_BTNd.shape[3])
  nothing_B1Nd = 0 * slope_BTNGd[:, :1, :, 0].astype(k_BTNd.dtype)
  k_BTNd, v_BTNd = k_BTNd + nothing_B1Nd, v_BTNd + nothing_B1Nd
  q_BTNGd = q_BTHd.reshape(slope_BTNGd.shape) + nothing_B1Nd[..., None, :]
  q_BTHd = q_BTNGd.reshape(q_BTHd.shape)
  blocks = []
  for i, (start, stop) in reversed(list(enumerate(_query_blocks(T)))):
    dq_BtHd, dk_BSNd, dv_BSNd = _packed_block_backward(
      q_BTHd[:, start:stop],
      k_BTNd[:, :stop],
      v_BTNd[:, :stop],
      weights[i],
      slope_BTHd[:, start:stop],
    )
    blocks.append(dq_BtHd)
    if stop == T:
      dk_BTNd, dv_BTNd = dk_BSNd, dv_BSNd
    else:
      dk_BTNd = dk_BTNd.at[:, :stop].add(dk_BSNd)
      dv_BTNd = dv_BTNd.at[:, :stop].add(dv_BSNd)
  dq_BTHd = jnp.concatenate(blocks[::-1], axis=1)
  same = lambda x, like: x.astype(like.dtype)
  return (
    same(dq_BTHd, q_BTHd),
    same(dk_BTNd, k_BTNd),
    same(dv_BTNd, v_BTNd),
    None,
  )


# Autodiff gives every block's keys a gradient as long as the row, most of it
# zeros, and holds all of them at once.
_packed_lean = jax.custom_vjp(_packed_xla)
_packed_lean.defvjp(_packed_xla_forward, _packed_xla_backward)


def _query_blocks(T: int) -> list[tuple[int, int]]:
  """Returns where the blocks of a row's queries start and stop."""
  return [
    (start, min(start + _QUERY_BLOCK, T)) for start in range(0, T, _QUERY_BLOCK)
  ]


def _packed_cudnn(q_BTHd, k_BTNd, v_BTNd, segment_ids_BT):
  """Attends through cuDNN, which takes the segments as a mask; for `packed`."""
  segments_B1T = segment_ids_BT[:, None]
  same_B1TT = segments_B1T[..., :, None] == segments_B1T[..., None, :]
  return jax.nn.dot_product_attention(
    q_BTHd,
    k_BTNd,
    v_BTNd,
    mask=same_B1TT,
    is_causal=True,
    implementation="cudnn",
  )


def _packed_splash(q_BTHd, k_BTNd, v_BTNd, segment_ids_BT, interpret=False):
  """Attends through JAX's Pallas kernel; for `packed`."""
  B, T, H, d = q_BTHd.shape
  N = k_BTNd.shape[2]
  block = next((b for b in _SPLASH_BLOCKS if T % b == 0), None)
  if block is None:
    raise ValueError(
      f"rows for splash attention must be a multiple of {_SPLASH_BLOCKS[-1]} "
      f"tokens, got {T}; change packing.row_length, or set model.attention=xla"
    )
  kernel = splash_attention_kernel.make_splash_mqa_single_device(
    splash_attention_mask.MultiHeadMask(
      [splash_attention_mask.CausalMask((T, T))] * (H // N)
    ),
    block_sizes=splash_attention_kernel.BlockSizes(
      block_q=block,
      block_kv=block,
      block_kv_compute=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_kv_dkv_compute=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    interpret=interpret,
  )
  segments = splash_attention_kernel.SegmentIds(segment_ids_BT, segment_ids_BT)
  of_heads = jax.vmap(kernel, (0, 0, 0, None))
  q_BNGTd = (q_BTHd * d**-0.5).reshape(B, T, N, H // N, d)
  out_BNGTd = jax.vmap(of_heads)(
    q_BNGTd.transpose(0, 2, 3, 1, 4),
    k_BTNd.swapaxes(1, 2),
    v_BTNd.swapaxes(1, 2),
    segments,
  )
  return out_BNGTd.transpose(0, 3, 1, 2, 4).reshape(B, T, H, d)


def _packed_block(q_BtHd, k_BSNd, v_BSNd, q_segments_Bt, k_segments_BS):
  """Attends from the last t of S places to all S; gives the weights as well."""
  B, t, H, d = q_BtHd.shape
  S, N = k_BSNd.shape[1:3]
  q_BtNGd = q_BtHd.reshape(B, t, N, H // N, d) * d**-0.5
  scores_BNGtS = jnp.einsum(
    "btngd,bsnd->bngts", q_BtNGd, k_BSNd, preferred_element_type=jnp.float32
  )
  same_BtS = q_segments_Bt[:, :, None] == k_segments_BS[:, None, :]
  seen_BtS = same_BtS & jnp.tril(jnp.ones((t, S), bool), S - t)
  scores_BNGtS = jnp.where(seen_BtS[:, None, None], scores_BNGtS, _HIDDEN)
  weights_BNGtS = jax.nn.softmax(scores_BNGtS)
  out_BtNGd = jnp.einsum(
    "bngts,bsnd->btngd", weights_BNGtS.astype(v_BSNd.dtype), v_BSNd
  )
  return out_BtNGd.reshape(B, t, H, d), weights_BNGtS


def _packed_block_backward(q_BtHd, k_BSNd, v_BSNd, weights_BNGtS, slope_BtHd):
  """Returns the slopes of a block's queries, keys and values, in float32.

  Of a weight p and its slope p', the slope of the score is p (p' - sum p p').
  """
  B, t, H, d = q_BtHd.shape
  N, dtype = k_BSNd.shape[2], q_BtHd.dtype
  wide = jnp.promote_types(dtype, jnp.float32)
  product = functools.partial(jnp.einsum, preferred_element_type=wide)
  q_BtNGd = q_BtHd.reshape(B, t, N, H // N, d) * d**-0.5
  slope_BtNGd = slope_BtHd.reshape(q_BtNGd.shape)
  dv_BSNd = product(
    "bngts,btngd->bsnd", weights_BNGtS.astype(dtype), slope_BtNGd
  )
  of_weights = product("btngd,bsnd->bngts", slope_BtNGd, v_BSNd)
  inner = (of_weights * weights_BNGtS).sum(-1, keepdims=True)
  of_scores = (weights_BNGtS * (of_weights - inner)).astype(dtype)
  dq_BtNGd = product("bngts,bsnd->btngd", of_scores, k_BSNd) * d**-0.5
  dk_BSNd = product("bngts,btngd->bsnd", of_scores, q_BtNGd)
  return dq_BtNGd.reshape(B, t, H, d), dk_BSNd, dv_BSNd


def cached(
  q_BTHd: jax.Array,
  keys_BNdC: jax.Array,
  values_BNCd: jax.Array,
  positions_BT: jax.Array,
  keys_by_position: bool = False,
) -> jax.Array:
  """Attends to everything at or before each query's position of its KV row.

  Keys lie with the cache axis last (on CPUs: `kv_rows`) and values with it
  second to last: both products then run over contiguous memory (7 times faster
  on a CPU than `[B, C, N, d]`).

  Sums over C are sums over blocks of `CACHE_BLOCK` positions, added in order;
  a block that no query sees adds an exact 0. So the result for a row is the
  same to the bit however much longer the rows beside it made the call. (Of
  grouped queries, as in every Qwen3: one query a key head would be a product
  with a vector, which XLA sums otherwise for each length.)

  Args:
    q_BTHd: [B, T, H, d] queries; H is a multiple of N.
    keys_BNdC: [B, N, d, C] keys, entry c holds position c of the row; C is at
      most one block, or a multiple of it.
    values_BNCd: [B, N, C, d] values.
    positions_BT: [B, T] int32, position of each query in its row.
    keys_by_position: the keys are [B, N, C, d].

  Returns:
    [B, T, H, d] in the dtype of `values_BNCd`.
  """
  B, T, H, d = q_BTHd.shape
  N, C = values_BNCd.shape[1:3]
  G = H // N
  c = min(C, CACHE_BLOCK)
  assert C % c == 0
  q_BNGTd = q_BTHd.reshape(B, T, N, G, d).transpose(0, 2, 3, 1, 4) * d**-0.5
  scores_BNGTC = jnp.einsum(
    "bngtd,bncd->bngtc" if keys_by_position else "bngtd,bndc->bngtc",
    q_BNGTd,
    keys_BNdC,
    preferred_element_type=jnp.float32,
  )
  seen_BTC = jnp.arange(C)[None, None] <= positions_BT[:, :, None]
  scores_BNGTC = jnp.where(seen_BTC[:, None, None], scores_BNGTC, _HIDDEN)
  weights_BNGTC = jnp.exp(scores_BNGTC - scores_BNGTC.max(-1, keepdims=True))
  weights_BNMkc = weights_BNGTC.reshape(B, N, G * T, C // c, c)
  total_BNM = _sum_in_order(weights_BNMkc.sum(-1), axis=3)
  out_BNkMd = jnp.matmul(
    weights_BNMkc.swapaxes(2, 3).astype(values_BNCd.dtype),
    values_BNCd.reshape(B, N, C // c, c, d),
    preferred_element_type=jnp.float32,
  )
  out_BNMd = _sum_in_order(out_BNkMd, axis=2) / total_BNM[..., None]
  out_BNGTd = out_BNMd.reshape(B, N, G, T, d)
  out_BTHd = out_BNGTd.transpose(0, 3, 1, 2, 4).reshape(B, T, H, d)
  return out_BTHd.astype(values_BNCd.dtype)


def _sum_in_order(x: jax.Array, axis: int) -> jax.Array:
  """Sums over an axis from first to last, never as a tree."""
  parts = jnp.moveaxis(x, axis, 0)
  return functools.reduce(jnp.add, [parts[i] for i in range(x.shape[axis])])


_PACKED = {
  "xla": _packed_xla,
  "cudnn": _packed_cudnn,
  "splash": _packed_splash,
  "splash_interpreted": functools.partial(_packed_splash, interpret=True),
}
IMPLEMENTATIONS = tuple(_PACKED)
