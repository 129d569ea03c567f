"""What a compiled program's text says of it, held against hand-made numbers."""

import jax
import jax.numpy as jnp
import pytest

from userrl_jax import program_work

# As written for TPUs: a product of batches is a convolution whose window is the
# batch, a loop's end is a constant in its condition, and a sum over devices of
# which each keeps a slice is one fusion.
_TPU = """
HloModule jit_f, is_scheduled=true

%fused (p.0: bf16[4,8,16], p.1: bf16[4,16,32]) -> bf16[4,8,32] {
  %p.0 = bf16[4,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[4,16,32]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %conv = bf16[4,8,32]{2,1,0} convolution(%p.0, %p.1), \
window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf
}

%all-reduce-scatter (p.2: f32[8,64]) -> f32[2,64] {
  %p.2 = f32[8,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %sum = f32[8,64]{1,0} all-reduce(%p.2), replica_groups=[2,4]<=[8], \
to_apply=%add
  ROOT %own = f32[2,64]{1,0} dynamic-slice(%sum, %zero, %zero), \
dynamic_slice_sizes={2,64}
}, execution_thread="other"

%layer (state: (s32[], bf16[4,8,16], bf16[4,16,32])) -> (s32[], bf16[4,8,16]) {
  %state = (s32[], bf16[4,8,16]{2,1,0}, bf16[4,16,32]{2,1,0}) parameter(0)
  %one = s32[] constant(1)
  %i = s32[] get-tuple-element(%state), index=0
  %next = s32[] add(%i, %one)
  %x = bf16[4,8,16]{2,1,0} get-tuple-element(%state), index=1
  %w = bf16[4,16,32]{2,1,0:S(1)} get-tuple-element(%state), index=2
  %y = bf16[4,8,32]{2,1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  %start = (bf16[4,8,32]{2,1,0}, bf16[4,32,32]{2,1,0}) all-gather-start(%y), \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}
  %whole = bf16[4,32,32]{2,1,0} all-gather-done(%start)
  ROOT %out = (s32[], bf16[4,8,16]{2,1,0}, bf16[4,16,32]{2,1,0}) \
tuple(%next, %x, %w)
}

%ends (state: (s32[], bf16[4,8,16], bf16[4,16,32])) -> pred[] {
  %state.1 = (s32[], bf16[4,8,16]{2,1,0}, bf16[4,16,32]{2,1,0}) parameter(0)
  %limit = s32[] constant(36)
  %at = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%at, %limit), direction=LT
}

ENTRY %main (a: bf16[4,8,16], b: bf16[4,16,32], c: f32[8,64]) -> f32[2,64] {
  %a = bf16[4,8,16]{2,1,0} parameter(0)
  %b = bf16[4,16,32]{2,1,0} parameter(1)
  %c = f32[8,64]{1,0} parameter(2)
  %zero.1 = s32[] constant(0)
  %begin = (s32[], bf16[4,8,16]{2,1,0}, bf16[4,16,32]{2,1,0}) \
tuple(%zero.1, %a, %b)
  %loop = (s32[], bf16[4,8,16]{2,1,0}, bf16[4,16,32]{2,1,0}) while(%begin), \
condition=%ends, body=%layer
  %kernel = f32[8,64]{1,0} custom-call(%c), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
}}, metadata={op_name="jit(f)/splash_fwd/pallas_call"}
  ROOT %own.1 = f32[2,64]{1,0} fusion(%kernel), kind=kCustom, \
calls=%all-reduce-scatter
}
""".replace("\\\n", "")


def test_a_program_for_tpus_is_read_as_it_runs():
  work = program_work.Program(_TPU).work()
  assert work.flops == 36 * 2 * 4 * 8 * 16 * 32  # not 4 times as many
  assert work.kernels == {"splash_fwd": 1} and not work.num_unknown_loops
  # A layer: x, y twice, what is gathered, the counter; w is in VMEM.
  of_layer = 2 * (4 * 8 * 16 + 2 * 4 * 8 * 32 + 4 * 32 * 32) + 3 * 4
  assert work.hbm_bytes == 36 * of_layer + 4 * (3 * 8 * 64 + 2 * 64)
  gather, scatter = work.collectives
  assert gather == program_work.Collective(
    "all-gather", "bf16[4,32,32]", 4, 2 * 4 * 32 * 32, 36
  )
  assert gather.bytes_sent == 36 * 2 * 4 * 32 * 32 * 3 / 4
  assert scatter == program_work.Collective(
    "reduce-scatter", "f32[2,64]", 4, 4 * 8 * 64, 1
  )
  assert scatter.bytes_sent == 4 * 8 * 64 * 3 / 4


def test_loops_count_as_often_as_they_run():
  """Over layers, whose number is known, in a loop that the data end."""

  def f(x, w, n):
    layers = lambda _, x: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]
    return jax.lax.fori_loop(0, n, layers, x)

  shape = jax.ShapeDtypeStruct
  arguments = (
    shape((32, 64), jnp.float32),
    shape((5, 64, 64), jnp.float32),
    shape((), jnp.int32),
  )
  compiled = jax.jit(f).lower(*arguments).compile()
  program = program_work.Program(compiled.as_text())
  once = 5 * 2 * 32 * 64 * 64
  assert program.work().flops == once
  assert program.work((7,)).flops == 7 * once
  assert program.work().num_unknown_loops == 1
  # XLA's own count takes the layers for one.
  assert compiled.cost_analysis()["flops"] < 1.5 * once / 5
  # A layer reads its own matrix, and none of the others.
  layer = 4 * (64 * 64 + 32 * 64)
  assert 5 * layer < program.work().hbm_bytes < 5 * 4 * layer


@pytest.mark.parametrize(
  "groups, size",
  [
    ("{{0,2},{1,3}}", 2),
    ("[2,4]<=[4,2]T(1,0)", 4),
    ("mesh['data'=1,'fsdp'=8,'tensor'=4] {'fsdp'}", 8),
    ("mesh['data'=1,'fsdp'=8,'tensor'=4] {'fsdp','tensor'}", 32),
  ],
)
def test_groups_are_read_in_every_form(groups, size):
  text = (
    "ENTRY %main (a: f32[8]) -> f32[8] {\n"
    "  %a = f32[8]{0} parameter(0)\n"
    "  ROOT %sum = f32[8]{0} all-reduce(%a), channel_id=1, "
    f"replica_groups={groups}, to_apply=%add\n"
    "}\n"
  )
  [one] = program_work.Program(text).work().collectives
  assert one.group_size == size and one.num_bytes == 32
  assert one.bytes_sent == 2 * 32 * (size - 1) / size


def test_what_is_exchanged_is_added_up_by_kind(eight_devices):
  """Of every kind once in a program for eight devices, sums in a loop."""
  if not eight_devices:
    return
  mesh = jax.sharding.Mesh(jax.devices(), "i")

  def f(x):  # [8, 16] float32 a device
    whole = jax.lax.all_gather(x, "i")
    part = jax.lax.psum_scatter(x, "i", tiled=True)
    across = jax.lax.all_to_all(x, "i", 0, 1)
    turned = jax.lax.ppermute(x, "i", [(k, (k + 1) % 8) for k in range(8)])
    add = lambda _, x: jnp.sin(jax.lax.psum(x, "i"))
    total = jax.lax.fori_loop(0, 5, add, x)
    return whole.sum(0) + part + across.reshape(8, 16) + turned + total

  spec = jax.sharding.PartitionSpec("i")
  run = jax.shard_map(
    f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  shape = jax.ShapeDtypeStruct((64, 16), jnp.float32)
  compiled = jax.jit(run).lower(shape).compile()
  work = program_work.Program(compiled.as_text()).work()
  found = {
    one.kind: (one.times, one.num_bytes, one.bytes_sent)
    for one in program_work.by_kind(work.collectives)
  }
  own = 4 * 8 * 16
  assert found == {
    "all-gather": (1, 8 * own, 7 * own),
    "all-reduce": (5, 5 * own, 5 * 2 * own * 7 / 8),
    "reduce-scatter": (1, own, own * 7 / 8),
    "all-to-all": (1, own, own * 7 / 8),
    "collective-permute": (1, own, own),
    "ragged-all-to-all": (0, 0, 0),
  }
