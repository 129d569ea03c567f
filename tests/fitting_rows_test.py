"""What calls of the sampler make beside rows, and rows that leave room."""

import dataclasses
import math
import re
import types

import jax
import pytest

from tests import plan_test
from userrl_jax import config as config_lib
from userrl_jax import fitting
from userrl_jax import flags
from userrl_jax import lowering
from userrl_jax import memory
from userrl_jax import plan
from userrl_jax import plan_tables
from userrl_jax import slices

_GIB = 2**30
_LENGTH = 1024


def _small(num_rows: int, num_lanes: int, chunk: int, ids: int) -> plan.Setup:
  c = plan_test.small(data=1)
  c.packing.row_length = c.rollout.max_tokens_per_episode = _LENGTH
  c.engine = config_lib.Engine(num_rows, num_lanes, 4, chunk, ids)
  return plan.setup(c, jax.devices()[:1], "cpu")


def _made(lower, found: plan.Setup) -> int:
  c = found.config
  lowered = lower(found.model, c.engine, found.row_length, found.mesh)
  return lowered.compile().memory_analysis().temp_size_in_bytes


def _of_size(
  size: str, name: str, mesh: tuple[int, int], num_rows: int
) -> tuple[plan.Setup, int]:
  """Sets up a run of sizes.py on another mesh; returns it and the limit."""
  c = flags.load_recipe(f"{plan_test._CONFIGS / 'sizes.py'}:{size}")
  fsdp, tensor = mesh
  c.mesh = config_lib.Mesh(data=1, fsdp=fsdp, tensor=tensor)
  c.packing.rows_per_micro_batch = fsdp
  c.engine.num_rows = c.engine.num_lanes = num_rows
  of = slices.named(name)
  devices, limit = plan.stand_ins(of), of.chip.hbm_bytes
  c = fitting.sized(c, devices, "tpu", limit)
  return plan.setup(c, devices, "tpu"), limit


@pytest.mark.parametrize("num_rows", [2, 8])
@pytest.mark.parametrize("chunk, ids", [(32, 128), (128, 128)])
def test_extending_makes_no_less_than_its_bound(num_rows, chunk, ids):
  found = _small(num_rows, num_rows, chunk, ids)
  made = _made(lowering.extend, found)
  assert found.need.sampling <= made < 3 * found.need.sampling
  # A lane copies a row, however many there are.
  a_row = found.need.kv_rows / num_rows
  assert found.need.sampling > ids // chunk * a_row


def test_decoding_copies_rows_of_lanes_that_are_fewer():
  found = _small(16, 12, 16, 16)
  in_place = _small(16, 16, 16, 16)
  copies = found.need.kv_rows * 12 // 16
  assert found.need.sampling == copies
  assert copies <= _made(lowering.decode, found) < 3 * copies
  assert _made(lowering.decode, in_place) < copies
  assert in_place.need.sampling < copies


def test_heads_split_what_extending_makes():
  whole, _ = _of_size("0_6b", "v5e-4", (4, 1), 8)
  quarter, _ = _of_size("0_6b", "v5e-4", (1, 4), 8)
  assert whole.need.sampling == 4 * quarter.need.sampling
  # 8 lanes of 1.01 GiB, and scores of 16 heads of 1024 ids.
  scores = 4 * 16 * 1024 * 9472
  assert whole.need.sampling == whole.need.kv_rows + scores


@pytest.mark.parametrize(
  "size, name, mesh, num_rows, fit",
  [("0_6b", "v5e-4", (4, 1), 8, 4), ("1_7b", "v5e-8", (4, 2), 16, 14)],
)
def test_meshes_that_have_no_room_to_extend_are_refused(
  size, name, mesh, num_rows, fit
):
  """They passed while rows were counted alone, and did not fit compiled."""
  found, limit = _of_size(size, name, mesh, num_rows)
  with pytest.raises(ValueError, match="must fit into the 15.8 GiB") as refused:
    memory.check(found.need, limit, *plan.memory_sizes(found))
  refused.match(r"kv_rows \d+\.\d, sampling \d+\.\d\)")
  refused.match(
    f"set engine.num_rows and engine.num_lanes to {fit} or less "
    rf"\(now {num_rows}\), or lower engine.extend_tokens \(now 1024\), or "
    rf"raise mesh.tensor \(now {mesh[1]}\)"
  )
  found, limit = _of_size(size, name, mesh, fit)
  memory.check(found.need, limit, *plan.memory_sizes(found))
  found, limit = _of_size(size, name, mesh, 0)
  assert found.config.engine.num_rows < num_rows
  assert found.need.collecting < 0.8 * limit


def test_where_no_row_has_room_a_call_of_one_lane_may_leave_some():
  found, limit = _of_size("1_7b", "v5e-4", (4, 1), 8)
  with pytest.raises(ValueError, match="must fit into the") as refused:
    memory.check(found.need, limit, *plan.memory_sizes(found))
  words = re.search(
    r"lower engine.extend_tokens \(now 1024\) to 128, .* and set "
    r"engine.num_rows and engine.num_lanes to (\d+) or less \(now 8\)",
    str(refused.value),
  )
  assert words is not None
  c = found.config
  num_rows = int(words[1])
  c.engine = dataclasses.replace(
    c.engine, num_rows=num_rows, num_lanes=num_rows, extend_tokens=128
  )
  of = slices.named("v5e-4")
  found = plan.setup(c, plan.stand_ins(of), "tpu")
  memory.check(found.need, limit, *plan.memory_sizes(found))


@pytest.mark.parametrize("num_lanes", [0, 12])
def test_rows_leave_the_share_of_a_device_that_calls_need(num_lanes):
  c = plan_test.small(data=1)
  c.grpo.tasks_per_iteration = 1000
  c.engine = config_lib.Engine(0, num_lanes, 4, 16, 512)
  need = lambda num_rows: (
    plan.setup(
      dataclasses.replace(
        c,
        engine=dataclasses.replace(
          c.engine, num_rows=num_rows, num_lanes=num_lanes or num_rows
        ),
      ),
      jax.devices()[:1],
      "cpu",
    ).need
  )
  one = need(100)
  limit = math.ceil((one.collecting + 0.5 * one.kv_rows / 100) / 0.8)
  sized = fitting.sized(c, jax.devices()[:1], "cpu", limit)
  num_rows = sized.engine.num_rows
  assert num_rows == 96  # 100 fit
  assert need(num_rows).collecting <= 0.8 * limit
  assert need(num_rows + 8).collecting > 0.8 * limit


def test_what_is_in_use_is_no_room_for_rows(monkeypatch):
  c = plan_test.small(data=1)
  found = plan.setup(c, jax.devices()[:1], "cpu")
  total, others = found.need.collecting, 1000

  def tell(*in_use):
    # Stand in for devices that tell what they have, and what is taken.
    stats = [{"bytes_limit": total + others} | used for used in in_use]
    devices = [
      types.SimpleNamespace(memory_stats=lambda one=one: one) for one in stats
    ]
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: devices)

  tell({}, {"bytes_in_use": others})
  fitting.check(c)
  tell({}, {"bytes_in_use": others + 1})
  with pytest.raises(ValueError, match="must fit into the"):
    fitting.check(c)
  tell({"bytes_in_use": 2 * total + others})  # as if nothing were left
  with pytest.raises(ValueError, match="must fit into the 0.0 GiB"):
    fitting.check(c)


def test_a_compiled_call_takes_the_place_of_the_bound():
  found, limit = _of_size("0_6b", "v5e-4", (1, 4), 0)
  chip = slices.named("v5e-4").chip
  shapes = plan_tables.Plan(found, chip)
  [figure] = [
    one
    for one in plan_tables.memory_figures(shapes)
    if one.name == "sampler's temporaries"
  ]
  assert figure.value == found.need.sampling / _GIB
  assert figure.status == "estimated" and "a lower bound" in figure.note
  assert shapes.need.collecting <= 0.8 * limit
  costs = plan.Costs()
  program = plan.Program(0, 3 * _GIB, costs, costs, (0.0, 0.0))
  [figure] = [
    one
    for one in plan_tables.memory_figures(
      dataclasses.replace(shapes, extend=program)
    )
    if one.name == "sampler's temporaries"
  ]
  assert (figure.value, figure.status) == (3, "compiled")
