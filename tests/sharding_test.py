"""The mesh and the table; `learning/meshes_test.py` runs updates on them."""

import jax
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.models import qwen3


def test_one_axis_takes_the_rest():
  device = jax.devices()[:1]
  mesh = sharding.make_mesh(config.Mesh(), device)
  assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
  "sizes", [(2, 1, 1), (-1, -1, 1), (-1, 3, 1), (0, 1, 1), (-1, 0, 1)]
)
def test_impossible_meshes_are_refused(sizes):
  with pytest.raises(ValueError, match="must be the number of devices, 1"):
    sharding.make_mesh(config.Mesh(*sizes), jax.devices()[:1])


def test_every_matrix_of_the_model_is_in_the_table():
  for preset in ("qwen3_tiny", "qwen3_8b"):
    shapes = jax.eval_shape(
      lambda key, c=qwen3.PRESETS[preset]: qwen3.init(c, key),
      jax.eval_shape(lambda: jax.random.key(0)),
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
      names = tuple(k.key for k in path)
      if names[-1] != "scale":
        assert len(sharding.PARAM_AXES[names[-2:]]) == len(leaf.shape), names


def test_rows_must_divide_over_the_mesh():
  mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
  with pytest.raises(ValueError, match="multiple of .* = 4; got 6"):
    sharding.row_sharding(mesh, 6)
  assert sharding.row_sharding(mesh, 8).spec[1] == ("data", "fsdp")


def test_dimensions_that_do_not_divide_stay_whole():
  mesh = jax.sharding.AbstractMesh((1, 2, 4), sharding.AXES)
  leaf = jax.ShapeDtypeStruct((3, 8, 6), np.float32)
  tree = {"layers": {"q": {"kernel": leaf}, "q_norm": {"scale": leaf}}}
  got = sharding.param_shardings(tree, mesh)["layers"]
  assert tuple(got["q"]["kernel"].spec) == (None, "fsdp", None)
  assert tuple(got["q_norm"]["scale"].spec) == ()
