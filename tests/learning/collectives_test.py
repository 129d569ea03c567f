"""What devices exchange in an update, read off the compiled program.

On no mesh does a device gather the logits of others' tokens or ids, or more of
the params than FSDP asks for: one layer's matrices, one slice of the head's.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import batching
from userrl_jax.learning import imitation
from userrl_jax.learning import learner
from userrl_jax.learning import vocabulary_slices
from userrl_jax.models import qwen3

# Such that logits are not mistaken for states, nor a slice for a matrix.
L, D, F, V, B, T = 3, 48, 88, 416, 8, 32
HEADS, SLICE = 64, 20  # H d; ids of a slice, of each part of the vocabulary
MODEL = qwen3.Config(
  vocab_size=V,
  hidden_size=D,
  num_layers=L,
  num_heads=8,
  num_kv_heads=4,
  head_dim=HEADS // 8,
  intermediate_size=F,
  tie_embeddings=True,
)
PACKING = config.Packing(T, B, logprob_chunk=16)
MESHES = ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 4))
_OPTIMIZER = config.Optimizer()


def _compiled(
  method: str, head: str, sizes: tuple[int, ...]
) -> jax.stages.Compiled:
  """Compiles an update for a mesh."""
  model = dataclasses.replace(MODEL, tie_embeddings=head != "untied")
  devices = jax.devices()[: math.prod(sizes)]
  mesh = sharding.make_mesh(config.Mesh(*sizes), devices)
  if method == "sft":
    settings = imitation.Settings(_OPTIMIZER, PACKING, num_steps=10)
    update = imitation.make_update(model, settings, mesh)
  else:
    settings = learner.Settings(config.Grpo(), PACKING, temperature=1.0)
    update = learner.make_update(model, settings, mesh)
  params = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  state = jax.eval_shape(
    lambda p: learner.init_state(p, _OPTIMIZER, 10, mesh), params
  )
  shape = jax.ShapeDtypeStruct
  ids = shape((2, B, T), jnp.int32)
  floats = shape((2, B, T), jnp.float32)
  names = dict.fromkeys(batching.Rows._fields, ids)
  rows = batching.Rows(**names | dict(logprobs=floats, old_logprobs=floats))
  turns = lambda dtype: shape((2, 4, 3), dtype)
  batch = batching.Batch(
    rows,
    shape((), jnp.int32),
    turns(jnp.float32),
    turns(bool),
    turns(jnp.int32),
    shape((2, 4), bool),
    shape((2, 4), bool),
  )
  return update.lower(state, batch).compile()


def collectives(program: str) -> list[tuple[str, tuple[int, ...]]]:
  """Returns what a program exchanges: the operation, and a result's shape."""
  found = []
  pattern = r"= (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter"
  pattern += r"|collective-permute)(?:-start)?\("
  for line in program.splitlines():
    match = re.search(pattern, line)
    if match:
      for sizes in re.findall(r"(?:f32|bf16|f16)\[([\d,]*)\]", match[1]):
        shape = tuple(int(n) for n in sizes.split(",") if n)
        found.append((match[2], shape))
  return found


def _params_in_use(sizes: tuple[int, ...], head: str) -> set[tuple[int, ...]]:
  """Returns the shapes that a device computes with: of a layer, or a slice."""
  parts = sizes[2]
  ids = V // parts if head == "dense" else SLICE
  heads, kv_heads, hidden = (n // parts for n in (HEADS, HEADS // 2, F))
  shapes = {(D, n) for n in (heads, kv_heads, hidden, ids)}
  return shapes | {shape[::-1] for shape in shapes}


@pytest.mark.slow
@pytest.mark.parametrize(
  "method,head,meshes",
  [
    ("grpo", "tied", [(1, 8, 1), (2, 2, 2)]),
    pytest.param("grpo", "tied", MESHES, marks=pytest.mark.exhaustive),
    pytest.param("sft", "untied", MESHES, marks=pytest.mark.exhaustive),
    pytest.param("sft", "dense", MESHES, marks=pytest.mark.exhaustive),
  ],
)
def test_neither_logits_nor_more_params_than_a_layer_are_gathered(
  eight_devices, monkeypatch, host_calls, method, head, meshes
):
  if not eight_devices:
    return
  size = V if head == "dense" else SLICE
  monkeypatch.setattr(vocabulary_slices, "SLICE", size)
  for sizes in meshes:
    compiled = _compiled(method, head, sizes)
    assert not host_calls(compiled), sizes
    found = collectives(compiled.as_text())
    assert found, sizes
    allowed = _params_in_use(sizes, head)
    matrices = set()
    for operation, shape in found:
      shape = tuple(n for n in shape if n > 1)
      if operation == "all-gather":
        assert shape in allowed, (sizes, shape)
        matrices.add(shape)
      # Logits: ids of a slice, or of the whole, by anything but the width.
      num_ids = V // sizes[2] if head == "dense" else SLICE
      is_of_params = {D, D // 2, D // 8} & set(shape)
      assert num_ids not in shape or is_of_params, (sizes, operation, shape)
    # FSDP gathers each kind of matrix, the others nothing.
    assert bool(matrices) == (sizes[1] > 1), sizes


@pytest.mark.slow
def test_the_program_of_eight_devices_calls_no_host(eight_devices, host_calls):
  if not eight_devices:
    return
  compiled = _compiled("grpo", "tied", (2, 2, 2))
  assert collectives(compiled.as_text()) and not host_calls(compiled)
