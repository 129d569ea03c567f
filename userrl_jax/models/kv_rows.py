"""Rows of keys and values: what attention remembers of histories.

Values lie as [S, N, C, d]. Keys lie as [S, N, d, C] on CPUs, where both
products of attention then run over contiguous memory, and as [S, N, C, d]
elsewhere: a TPU's compiler would turn all rows to that form and back in every
call.

A place is named by its row, its head and its position. Were a place all heads
of a position, a TPU would bring these next to each other, by another copy of
all rows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("keys", "values"),
  meta_fields=("by_position",),
)
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of some rows, a pair of arrays a layer.

  Arrays are kept apart by layer so that each can be donated and updated in
  place. Entry c of a row holds position c.
  """

  # L times, of the compute dtype; [S, N, C, d] if by position.
  keys: tuple[jax.Array, ...]  # [S, N, d, C]
  values: tuple[jax.Array, ...]  # [S, N, C, d]
  by_position: bool  # how the keys lie

  def take(self, rows_B: jax.Array, length: int) -> "Cache":
    """Copies the first `length` positions of some rows; past the end, any."""

    # One after the other: to gather them, a TPU's compiler copies all rows.
    def row(of: jax.Array) -> Cache:
      def cut(full, axis):
        sizes = list(full.shape)
        sizes[0], sizes[axis] = 1, length
        return jax.lax.dynamic_slice(full, (of, 0, 0, 0), sizes)[0]

      return Cache(
        tuple(cut(k, 2 if self.by_position else 3) for k in self.keys),
        tuple(cut(v, 2) for v in self.values),
        self.by_position,
      )

    return jax.lax.map(row, rows_B)

  def put_back(
    self, lanes: "Cache", rows_B: jax.Array, positions_BT: jax.Array
  ) -> "Cache":
    """Writes positions of rows that were taken; what is out of range drops.

    Args:
      lanes: B rows, as `take` made them and then written to.
      rows_B: [B] int32 where they came from; S and more is nowhere.
      positions_BT: [B, T] int32; at or past the lanes' length is nowhere.
    """
    length, total = lanes.values[0].shape[2], self.values[0].shape[2]
    # The lanes' length is a real place of a longer row.
    target_BT = jnp.where(positions_BT < length, positions_BT, total)
    lanes_B = jnp.arange(rows_B.shape[0])

    def put(full, part, by_position):
      new = read(part, lanes_B, positions_BT, by_position)
      return write(full, new, rows_B, target_BT, by_position)

    both = zip(self.keys, lanes.keys)
    return Cache(
      tuple(put(full, part, self.by_position) for full, part in both),
      tuple(put(f, p, True) for f, p in zip(self.values, lanes.values)),
      self.by_position,
    )


def read(
  full: jax.Array, rows_B: jax.Array, positions_BT: jax.Array, by_position: bool
) -> jax.Array:
  """Returns the [B, T, N, d] entries of a layer; out of range, any."""
  place = _places(full, rows_B, positions_BT, by_position)
  return full.at[place].get(mode="clip")


def write(
  full: jax.Array,
  new_BTNd: jax.Array,
  rows_B: jax.Array,
  positions_BT: jax.Array,
  by_position: bool,
) -> jax.Array:
  """Writes entries of a layer; what is out of range drops."""
  place = _places(full, rows_B, positions_BT, by_position)
  return full.at[place].set(new_BTNd, mode="drop")


def _places(full, rows_B, positions_BT, by_position):
  heads_N = jnp.arange(full.shape[1])
  row_and_head = rows_B[:, None, None], heads_N
  positions_BT1 = positions_BT[:, :, None]
  if by_position:
    return (*row_and_head, positions_BT1)
  return (*row_and_head, slice(None), positions_BT1)
