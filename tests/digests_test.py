"""Digests: any single change shows, whatever the dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import digests


def naive(array: np.ndarray) -> int:
  size = min(array.dtype.itemsize, 4)
  words = np.frombuffer(array.tobytes(), f"<u{size}").tolist()
  return sum(mix(w ^ i * 0x9E3779B9 % 2**32) for i, w in enumerate(words)) % (
    2**32
  )


def mix(x: int) -> int:
  x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
  x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
  return x ^ (x >> 16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 2)])
def test_agrees_with_the_formula(dtype, shape):
  array = (jax.random.normal(jax.random.key(1), shape) * 50).astype(dtype)
  assert digests.of({"a": array}) == {"a": naive(np.asarray(array))}


def test_every_single_bit_counts():
  array = np.arange(10, 16, dtype=np.uint32).reshape(2, 3)
  before = digests.of({"a": jnp.array(array)})
  for place in range(6):
    for bit in range(32):
      changed = array.copy()
      changed.flat[place] ^= np.uint32(1 << bit)
      assert digests.of({"a": jnp.array(changed)}) != before


def test_a_change_of_every_number_shows():
  table = jax.random.normal(jax.random.key(0), (1024, 128))
  seen = {digests.of({"a": x})["a"] for x in (table, 2 * table, -table)}
  assert len(seen) == 3


def test_swapped_values_negative_zero_and_nan_show():
  def digest(values):
    return digests.of({"a": jnp.array(values, jnp.float32)})["a"]

  assert digest([1.0, 2.0]) != digest([2.0, 1.0])
  assert digest([0.0]) != digest([-0.0])
  assert digest([np.nan]) == digest([np.nan])


def test_keys_and_masks_have_digests():
  one = digests.of({"k": jax.random.key(1), "m": jnp.array([True, False])})
  two = digests.of({"k": jax.random.key(2), "m": jnp.array([False, True])})
  assert one["k"] != two["k"] and one["m"] != two["m"]
