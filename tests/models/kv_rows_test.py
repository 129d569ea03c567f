"""Rows of keys and values, in both forms that keys take."""

import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.models import kv_rows

ROWS, HEADS, DEPTH, LENGTH = 5, 2, 4, 8


def entries(rng, num_rows: int, length: int) -> np.ndarray:
  """Returns [rows, length, N, d] numbers."""
  return rng.normal(size=(num_rows, length, HEADS, DEPTH)).astype(np.float32)


def cache_of(keys, values, by_position: bool) -> kv_rows.Cache:
  """Lays [rows, length, N, d] entries out."""
  order = (0, 2, 1, 3) if by_position else (0, 2, 3, 1)
  return kv_rows.Cache(
    (jnp.asarray(keys.transpose(order)),),
    (jnp.asarray(values.transpose(0, 2, 1, 3)),),
    by_position,
  )


def entries_of(cache: kv_rows.Cache) -> tuple[np.ndarray, np.ndarray]:
  """Undoes `cache_of`."""
  order = (0, 2, 1, 3) if cache.by_position else (0, 3, 1, 2)
  keys, values = np.asarray(cache.keys[0]), np.asarray(cache.values[0])
  return keys.transpose(order), values.transpose(0, 2, 1, 3)


@pytest.mark.parametrize("by_position", [False, True])
def test_entries_are_read_where_they_were_written(by_position):
  rng = np.random.default_rng(0)
  keys, values = (entries(rng, ROWS, LENGTH) for _ in range(2))
  cache = cache_of(keys, values, by_position)
  rows_B = jnp.array([3, 0, ROWS])
  positions_BT = jnp.array([[1, 2], [7, LENGTH], [0, 1]])
  new = entries(rng, 3, 2)
  full = kv_rows.write(cache.keys[0], new, rows_B, positions_BT, by_position)
  found = kv_rows.read(full, rows_B[:2], positions_BT[:2], by_position)
  np.testing.assert_array_equal(found[0], new[0])
  np.testing.assert_array_equal(found[1, 0], new[1, 0])
  keys[3, 1:3], keys[0, 7] = new[0], new[1, 0]  # the others were out of range
  changed = kv_rows.Cache((full,), cache.values, by_position)
  np.testing.assert_array_equal(entries_of(changed)[0], keys)


@pytest.mark.parametrize("by_position", [False, True])
def test_lanes_take_rows_and_put_back_what_they_wrote(by_position):
  rng = np.random.default_rng(1)
  keys, values = (entries(rng, ROWS, LENGTH) for _ in range(2))
  cache = cache_of(keys, values, by_position)
  rows_B = jnp.array([4, ROWS, 1])  # the second lane is idle
  lanes = cache.take(rows_B, 6)
  for taken, whole in zip(entries_of(lanes), (keys, values)):
    assert taken.shape == (3, 6, HEADS, DEPTH)
    np.testing.assert_array_equal(taken[[0, 2]], whole[[4, 1], :6])

  own_keys, own_values = (entries(rng, 3, 6) for _ in range(2))
  positions_BT = jnp.array([[2, 3], [0, 1], [5, 6]])  # 6 is no place of a lane
  cache = cache.put_back(
    cache_of(own_keys, own_values, by_position), rows_B, positions_BT
  )
  for found, before, own in zip(
    entries_of(cache), (keys, values), (own_keys, own_values)
  ):
    expected = before.copy()
    expected[4, 2:4], expected[1, 5] = own[0, 2:4], own[2, 5]
    np.testing.assert_array_equal(found, expected)
