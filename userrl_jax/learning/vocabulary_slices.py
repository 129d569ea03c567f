"""Log-probs of sampled tokens over slices of the vocabulary.

Comes in: hidden states at sampled positions and the head's matrix. Goes out:
what the model says about each token, as from `losses`, and gradients of both.
Logits exist for one tile at a time, some positions by some ids:

               slice 0   slice 1   ...
  positions 0    tile      tile         forward: running maximum and sums
  positions 1    tile      tile         backward: tiles again, from log Z
  padding          -         -          never computed

Autodiff would keep, or make again, all ids of a chunk of positions at once;
with a gradient of its own nothing is larger than a tile but what goes in and
out (law L6). The online sum is that of FlashAttention (arXiv 2205.14135), the
idea for a loss that of Cut Cross-Entropy (arXiv 2411.09009).
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from userrl_jax import sharding
from userrl_jax.learning import losses

# Ids of a slice, of each part of a vocabulary that is split over devices. Of
# vocabularies up to that the dense form is as small, and faster.
SLICE = 2048

_NEVER = -1e30  # a logit of no probability


@dataclasses.dataclass(frozen=True)
class Head:
  """What is fixed about the matrix that turns hidden states to logits.

  Attributes:
    is_tied: whether the matrix is [V, D], the embedding; else [D, V].
    num_ids: ids with a probability; 0 is all.
    dtype: compute dtype of the products; sums are float32.
    is_frozen: whether the matrix gets no gradient, which then costs nothing.
    mesh: over whose `tensor` axis V may be split; None is one device.
  """

  is_tied: bool
  num_ids: int = 0
  dtype: str = "float32"
  is_frozen: bool = False
  mesh: jax.sharding.Mesh | None = None


def sampled_token_stats(
  hidden_BTD: jax.Array,
  matrix: jax.Array,
  head: Head,
  positions_BM: jax.Array,
  targets_BM: jax.Array,
  mask_BM: jax.Array,
  *,
  chunk: int,
  slice_size: int,
  temperature: float = 1.0,
  entropy_gradient: bool = False,
) -> losses.TokenStats:
  """Computes the log-probs of sampled tokens, a tile of logits at a time.

  Args:
    hidden_BTD: [B, T, D] final hidden states.
    matrix: [V, D] or [D, V] float, of the head.
    head: which of them, and how to compute with it.
    positions_BM: [B, M] int32, index into T of the state that predicts a token.
    targets_BM: [B, M] int32, the token.
    mask_BM: [B, M] bool, False on padding; a chunk of padding costs nothing.
    chunk: positions a row whose logits exist together.
    slice_size: ids whose logits exist together, of each part of V.
    temperature: above 0; the logits are divided by it, as when sampling.
    entropy_gradient: whether the entropy carries a gradient.

  Returns:
    The log-prob, entropy and top-1 hit of each sampled token.
  """
  assert temperature > 0 and chunk > 0 and slice_size > 0
  B, M = targets_BM.shape
  chunk = min(chunk, M)
  num_chunks = -(-M // chunk)

  def split(x_BM):
    widths = [(0, 0), (0, num_chunks * chunk - M)] + [(0, 0)] * (x_BM.ndim - 2)
    x = jnp.pad(x_BM, widths).reshape(B, num_chunks, chunk, *x_BM.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  V = matrix.shape[0 if head.is_tied else 1]
  num_parts = 1 if head.mesh is None else sharding.vocab_parts(head.mesh, V)
  part_size = V // num_parts
  tiles = _Tiles(
    head,
    1 if head.mesh is None else sharding.row_parts(head.mesh, B),
    num_parts,
    part_size,
    min(slice_size, part_size),
    temperature,
    entropy_gradient,
  )
  hidden_BMD = jnp.take_along_axis(hidden_BTD, positions_BM[..., None], axis=1)
  hidden_BMD = hidden_BMD.astype(head.dtype)
  stats = _stats(
    tiles,
    split(hidden_BMD),
    tiles.parted(matrix),
    split(targets_BM),
    split(mask_BM),
  )
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(B, num_chunks * chunk)[:, :M]
  return jax.tree.map(join, stats)


@dataclasses.dataclass(frozen=True)
class _Tiles:
  """How logits are cut; below, S parts of s ids each, C chunks of c places.

  Where devices split the vocabulary, the matrix is [S, V/S, D] or [D, S, V/S]:
  every device slices the part that it has, all of them at the same places.
  Otherwise it stays as it is, since XLA would copy a reshaped one.

  Where devices split the rows, in R parts, the gradient of a slice is summed
  over each part's own rows first, chunk by chunk, and over the parts once.
  """

  head: Head
  num_row_parts: int
  num_parts: int
  part_size: int
  slice_size: int
  temperature: float
  entropy_gradient: bool

  @property
  def axes(self) -> str:
    return "svd" if self.head.is_tied else "dsv"

  @property
  def _axis(self) -> int:
    """The axis of V, or of V/S."""
    axes = self.axes if self.num_parts > 1 else self.axes.replace("s", "")
    return axes.index("v")

  @property
  def num_slices(self) -> int:
    return -(-self.part_size // self.slice_size)

  def parted(self, matrix: jax.Array) -> jax.Array:
    """Splits V into its parts, where there are several."""
    if self.num_parts == 1:
      return matrix
    axis = self.axes.index("s")
    sizes = self.num_parts, self.part_size
    return matrix.reshape(
      *matrix.shape[:axis], *sizes, *matrix.shape[axis + 1 :]
    )

  def start(self, i: jax.Array) -> jax.Array:
    """Returns where a slice begins; the last overlaps the one before."""
    return jnp.minimum(i * self.slice_size, self.part_size - self.slice_size)

  def ids(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the [S, s] ids of a slice, and which of them count in it."""
    local_s = self.start(i) + jnp.arange(self.slice_size)
    ids_Ss = jnp.arange(self.num_parts)[:, None] * self.part_size + local_s
    counts_Ss = jnp.broadcast_to(local_s >= i * self.slice_size, ids_Ss.shape)
    if self.head.num_ids:
      counts_Ss &= ids_Ss < self.head.num_ids
    return ids_Ss, counts_Ss

  def weights(self, matrix: jax.Array, i: jax.Array) -> jax.Array:
    """Returns a slice of the matrix in the compute dtype, D whole."""
    x = self.cut(matrix, i).astype(self.head.dtype)
    x = x if self.num_parts > 1 else jnp.expand_dims(x, self.axes.index("s"))
    # First as the matrix lies: else all of it would be gathered, to be cut.
    return self.placed(self.placed(x, self.axes.replace("d", "D")))

  def cut(self, matrix: jax.Array, i: jax.Array) -> jax.Array:
    """Returns a slice of the matrix, in its own form."""
    return jax.lax.dynamic_slice_in_dim(
      matrix, self.start(i), self.slice_size, self._axis
    )

  def added(self, matrix: jax.Array, i: jax.Array, x: jax.Array) -> jax.Array:
    """Adds to a slice of the matrix what has the form of `weights`."""
    old = self.cut(matrix, i)
    new = old + x.reshape(old.shape).astype(matrix.dtype)
    return jax.lax.dynamic_update_slice_in_dim(
      matrix, new, self.start(i), self._axis
    )

  def placed(self, x: jax.Array, axes: str = "") -> jax.Array:
    """Places what has the form of `weights`, or other axes.

    R and S are over the devices that split them; "D" over its own, "d" whole.
    """
    mesh = self.head.mesh
    if mesh is None or mesh.size == 1:
      return x
    where = {
      "r": sharding.MESH_AXES["row"] if self.num_row_parts > 1 else None,
      "s": sharding.MESH_AXES["vocab"] if self.num_parts > 1 else None,
      "D": sharding.MESH_AXES["width"],
    }
    spec = [where.get(axis) for axis in axes or self.axes]
    return jax.lax.with_sharding_constraint(
      x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    )

  def by_row_parts(self, x: jax.Array, axes: str) -> jax.Array:
    """Splits B of an array, whose axes these are, into R parts in front."""
    x = x.reshape(self.num_row_parts, -1, *x.shape[1:])
    return self.placed(x, f"r{axes}")

  def logits(
    self, hidden_BcD: jax.Array, weights: jax.Array, counts_Ss: jax.Array
  ) -> jax.Array:
    """Returns a tile of logits, [B, c, S, s] float32, over temperature."""
    x = _product(f"bcd,{self.axes}->bcsv", hidden_BcD, weights)
    return jnp.where(counts_Ss, x / self.temperature, _NEVER)


class _Sums(NamedTuple):
  """Over the ids so far; each [C, B, c] float32, z a logit."""

  top: jax.Array  # max z
  mass: jax.Array  # sum of exp(z - top)
  moment: jax.Array  # sum of exp(z - top) (z - top)
  target: jax.Array  # z of the sampled id


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stats(tiles: _Tiles, hidden_CBcD, matrix, targets_CBc, mask_CBc):
  """Returns `losses.TokenStats` of [C, B, c] arrays."""
  return _forward(tiles, hidden_CBcD, matrix, targets_CBc, mask_CBc)[0]


def _forward(tiles, hidden_CBcD, matrix, targets_CBc, mask_CBc):
  for_used = _loop_over_used(mask_CBc)

  def one_slice(i, sums):
    ids_Ss, counts_Ss = tiles.ids(i)
    weights = tiles.weights(matrix, i)

    def one_chunk(c, sums):
      z = tiles.logits(hidden_CBcD[c], weights, counts_Ss)
      old = jax.tree.map(lambda x: x[c], sums)
      is_target = ids_Ss == targets_CBc[c][..., None, None]
      top = jnp.maximum(old.top, z.max((-2, -1)))
      shifted = z - top[..., None, None]
      mass = jnp.exp(shifted)
      kept = jnp.exp(old.top - top)
      new = _Sums(
        top,
        kept * old.mass + mass.sum((-2, -1)),
        kept * (old.moment + (old.top - top) * old.mass)
        + (mass * shifted).sum((-2, -1)),
        old.target + jnp.where(is_target & counts_Ss, z, 0.0).sum((-2, -1)),
      )
      return jax.tree.map(lambda x, y: x.at[c].set(y), sums, new)

    return for_used(one_chunk, sums)

  zeros = jnp.zeros(mask_CBc.shape, _float_of(hidden_CBcD))
  sums = jax.lax.fori_loop(
    0,
    tiles.num_slices,
    one_slice,
    _Sums(zeros + _NEVER, zeros, zeros, zeros),
  )
  mass = jnp.where(mask_CBc, sums.mass, 1.0)
  log_z = jnp.where(mask_CBc, sums.top + jnp.log(mass), 0.0)
  entropy = jnp.where(mask_CBc, jnp.log(mass) - sums.moment / mass, 0.0)
  stats = losses.TokenStats(
    jnp.where(mask_CBc, sums.target - log_z, 0.0),
    entropy,
    jnp.where(mask_CBc & (sums.target >= sums.top), 1.0, 0.0),
  )
  kept = hidden_CBcD, matrix, targets_CBc, mask_CBc, log_z, entropy
  return stats, kept


def _backward(tiles, kept, slopes):
  """Makes every tile again; with p = exp(z - log Z) and H the entropy.

  d logprob / d z = 1[target] - p, d H / d z = -p (log p + H).
  """
  hidden_CBcD, matrix, targets_CBc, mask_CBc, log_z, entropy = kept
  for_used = _loop_over_used(mask_CBc)
  scale = jnp.where(mask_CBc, 1 / tiles.temperature, 0.0)
  of_logprob = slopes.logprobs * scale
  of_entropy = slopes.entropy * scale
  axes, dtype = tiles.axes, tiles.head.dtype
  wide_float = _float_of(hidden_CBcD)
  wide = lambda x: x[..., None, None]

  def one_slice(i, carry):
    d_hidden, d_matrix = carry
    ids_Ss, counts_Ss = tiles.ids(i)
    weights = tiles.weights(matrix, i)

    def one_chunk(c, carry):
      d_hidden, d_weights = carry
      z = tiles.logits(hidden_CBcD[c], weights, counts_Ss)
      log_p = z - wide(log_z[c])
      p = jnp.exp(log_p)
      is_target = ids_Ss == wide(targets_CBc[c])
      slope = wide(of_logprob[c]) * (jnp.where(is_target, 1.0, 0.0) - p)
      if tiles.entropy_gradient:
        slope -= wide(of_entropy[c]) * p * (log_p + wide(entropy[c]))
      slope = jnp.where(counts_Ss, slope, 0.0).astype(dtype)
      if not tiles.head.is_frozen:
        d_weights += _product(
          f"rbcsv,rbcd->r{axes}",
          tiles.by_row_parts(slope, "bcsv"),
          tiles.by_row_parts(hidden_CBcD[c], "bcd"),
        )
      more = _product(f"bcsv,{axes}->bcd", slope, weights)
      return d_hidden.at[c].add(more), d_weights

    shape = tiles.num_row_parts, *weights.shape
    zeros = tiles.placed(jnp.zeros(shape, wide_float), f"r{axes}")
    d_hidden, d_weights = for_used(one_chunk, (d_hidden, zeros))
    if not tiles.head.is_frozen:
      d_weights = tiles.placed(d_weights.sum(0), axes.replace("d", "D"))
      d_matrix = tiles.added(d_matrix, i, d_weights)
    return d_hidden, d_matrix

  d_hidden, d_matrix = jax.lax.fori_loop(
    0,
    tiles.num_slices,
    one_slice,
    (
      jnp.zeros(hidden_CBcD.shape, wide_float),
      jnp.zeros(() if tiles.head.is_frozen else matrix.shape, matrix.dtype),
    ),
  )
  d_hidden = d_hidden.astype(dtype)
  return d_hidden, None if tiles.head.is_frozen else d_matrix, None, None


_stats.defvjp(_forward, _backward)


def _loop_over_used(mask_CBc: jax.Array) -> Callable[[Any, Any], Any]:
  """Returns a loop over the chunks that are not padding alone."""
  used_C = mask_CBc.any((1, 2))
  order_C = jnp.argsort(~used_C, stable=True)

  def loop(body, carry):
    step = lambda j, carry: body(order_C[j], carry)
    return jax.lax.fori_loop(0, used_C.sum(), step, carry)

  return loop


def _product(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Multiplies in the compute dtype, adds up in float32 (or wider)."""
  return jnp.einsum(spec, x, y, preferred_element_type=_float_of(x))


def _float_of(x: jax.Array) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)
