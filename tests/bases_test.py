"""Whole params of adapters: the same bits on every mesh."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import bases
from userrl_jax import config as config_lib
from userrl_jax import digests
from userrl_jax import leaves
from userrl_jax import sharding
from userrl_jax.models import lora
from userrl_jax.models import qwen3

_LORA = config_lib.Lora(rank=16, targets=("q", "v", "down"))


def _merged(sizes):
  """Returns whole params, made on a mesh of these sizes."""
  model = dataclasses.replace(qwen3.PRESETS["qwen3_tiny"], **lora.fields(_LORA))
  plain = dataclasses.replace(model, adapter_rank=0)
  draw = np.random.default_rng(0).standard_normal
  own = jax.tree.map(
    lambda x: jnp.asarray(0.1 * draw(x.shape), jnp.float32),
    jax.eval_shape(lambda: qwen3.init_trained(model, jax.random.key(1))),
  )
  base = qwen3.init(plain, jax.random.key(0))
  want = lora.merge(lora.complete(own, base), model.adapter_scale)
  devices = jax.devices()[: math.prod(sizes)]
  mesh = sharding.make_mesh(config_lib.Mesh(*sizes), devices)
  put = lambda tree: jax.device_put(tree, sharding.param_shardings(tree, mesh))
  want = jax.device_get(want)
  return bases.merged(put(own), put(base), model, mesh), want


def test_whole_params_are_base_and_adapters():
  got, want = _merged((1, 1, 1))
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=1e-6), got, want
  )


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 4)])
def test_a_mesh_changes_no_bit_of_them(eight_devices, sizes):
  """Else what goes on with another mesh would be taken for another model."""
  if not eight_devices:
    return
  of = lambda params: digests.of(leaves.arrays_by_path(params))
  assert of(_merged(sizes)[0]) == of(_merged((1, 1, 1))[0])
