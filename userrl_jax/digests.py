"""Tells whether arrays hold the same bits, wherever and however sharded.

In: arrays of a checkpoint's state. Out: one small number an array.
"""

from collections.abc import Mapping
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: spreads indices


def of(leaves: Mapping[str, jax.Array]) -> dict[str, int]:
  """Computes a digest of each array, a number in [0, 2**32).

  Equal bits give equal digests, whatever the sharding; any change of one
  32-bit word changes it. One device program for each set of shapes.
  """
  by_devices: dict[Any, dict[str, jax.Array]] = {}
  for path, leaf in leaves.items():
    devices = frozenset(d.id for d in leaf.sharding.device_set)
    by_devices.setdefault(devices, {})[path] = leaf
  result: dict[str, int] = {}
  for part in by_devices.values():
    result |= {p: int(d) for p, d in _digest_all(part).items()}
  return result


@jax.jit
def _digest_all(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {path: _digest(leaf) for path, leaf in leaves.items()}


def _digest(leaf: jax.Array) -> jax.Array:
  """Returns sum_i mix(bits_i ^ golden i) mod 2^32, over words in row order.

  The mix is one-to-one, so any change of one word shows; it scatters its
  input, so a change of all words, such as their doubling, does not cancel. The
  sum is exact in any order, so it does not depend on the sharding; and nothing
  is reshaped, so nothing is gathered. Source of the mix: MurmurHash3's fmix32.
  """
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  if leaf.dtype == jnp.bool_:
    leaf = leaf.astype(jnp.uint8)
  words = min(leaf.dtype.itemsize, 4)  # a 64-bit value is two words
  unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[words]
  bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
  iotas = [
    jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    * jnp.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
    for axis in range(bits.ndim)
  ]
  index = functools.reduce(jnp.add, iotas, jnp.uint32(0))
  return jnp.sum(_mix(bits ^ (index * _GOLDEN)), dtype=jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
