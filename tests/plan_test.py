"""Plans: equal to what programs and arrays take; launches that cannot fit."""

import dataclasses
import math
import pathlib
import types

import jax
import numpy as np
import pytest

from userrl_jax import config as config_lib
from userrl_jax import fitting
from userrl_jax import flags
from userrl_jax import hosts
from userrl_jax import memory
from userrl_jax import plan
from userrl_jax import plan_tables
from userrl_jax import program_work
from userrl_jax import sharding
from userrl_jax import slices
from userrl_jax import train
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import engine as engine_lib
from userrl_jax.learning import learner
from userrl_jax.models import qwen3

_CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
_GIB = 2**30
_FEW_COPIES = {"engine__num_lanes": 50, "engine__extend_tokens": 128}


def small(**mesh) -> config_lib.Config:
  """A run of two layers in which every array is an argument of the update."""
  c = config_lib.Config()
  c.model.num_layers = 2
  c.packing = config_lib.Packing(64, 8, 32)
  c.rollout.max_tokens_per_episode = 64
  c.engine = config_lib.Engine(num_rows=4, num_lanes=4, decode_tokens=4)
  c.grpo.tasks_per_iteration, c.grpo.group_size = 16, 4  # 4 micro-batches
  c.grpo.num_mini_batches, c.grpo.importance_cap = 2, 2.0
  c.grpo.kl_coef = 0.1
  c.mesh = config_lib.Mesh(**mesh)
  return c


def of_paper(size: str, name: str, **changes) -> tuple[plan.Setup, int]:
  """Sets up a run of the paper without a device; returns it and the limit."""
  c = flags.load_recipe(str(_CONFIGS / f"paper_{size}.py"))
  for field, value in changes.items():
    *sections, last = field.split("__")
    part = c
    for section in sections:
      part = getattr(part, section)
    setattr(part, last, value)
  of = slices.named(name)
  return plan.setup(c, plan.stand_ins(of), "tpu"), of.chip.hbm_bytes


def on_first_device(tree) -> int:
  first = jax.devices()[0]
  return sum(
    shard.data.nbytes
    for array in jax.tree.leaves(tree)
    for shard in array.addressable_shards
    if shard.device == first
  )


@pytest.mark.exhaustive
def test_shapes_equal_arrays_and_compiled_programs(eight_devices):
  if not eight_devices:
    return
  found = plan.setup(small(data=2, fsdp=2, tensor=2), jax.devices(), "cpu")
  need, model, mesh = found.need, found.model, found.mesh
  params = qwen3.init(model, jax.random.key(0))
  grpo = found.config.grpo
  state = learner.init_state(params, grpo.optimizer, grpo.num_iterations, mesh)
  frozen = jax.device_put(params, sharding.param_shardings(params, mesh))
  empty = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), found.arguments.batch
  )
  [batch] = learner.placed([empty], found.config.packing, mesh)
  assert need.params == on_first_device(state.params)
  assert need.optimizer == on_first_device(state.opt_state)
  assert need.frozen == on_first_device(frozen) == need.params
  assert need.batch == on_first_device(batch)

  update = learner.make_update(model, found.settings, mesh)
  sizes = update.lower(state, batch, frozen).compile().memory_analysis()
  program = plan.update(found)
  assert program.arguments == sizes.argument_size_in_bytes
  # What is left are the counts of steps, of the state.
  assert program.arguments - need.state - need.batch == 8
  # Every compilation places its buffers anew, to within some bytes.
  made = sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes
  made += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  assert program.made == pytest.approx(made, rel=1e-4)
  with_programs = plan.with_programs(found, program, [])
  assert with_programs.update == need.state + need.batch + program.made

  # Every device multiplies its share: 6 operations a param and id, twice where
  # layers are made again, and once more for the reference.
  kernels = sum(
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key == "kernel"
  )
  per_id = 2 * (3 + 1) * kernels / 8
  assert program.again.flops > per_id * 8 * 64
  kinds = {one.kind for one in program.collectives}
  assert {"all-gather", "all-reduce"} <= kinds
  assert program.again.sent_bytes > 0


@pytest.mark.exhaustive
def test_rows_and_copy_of_the_sampler_equal_the_engines(eight_devices):
  if not eight_devices:
    return
  found = plan.setup(small(data=2, fsdp=2, tensor=2), jax.devices(), "cpu")
  settings, mesh = found.config.engine, found.host_mesh
  engine = engine_lib.Engine(found.model, settings, 64, 0, mesh)
  assert found.need.kv_rows * mesh.size == engine.cache_bytes
  cache = cache_lib.init(
    config=found.model,
    mesh=mesh,
    num_rows=settings.num_rows,
    length=found.row_length,
  )
  assert found.need.kv_rows == on_first_device(cache)
  params = qwen3.init(found.model, jax.random.key(0))
  layout = cache_lib.lay_out(params, found.model, mesh)
  assert found.need.rollout_params == on_first_device(layout)
  program = plan.decode(found)
  rest = program.arguments - found.need.sampler
  assert 0 < rest < 4096  # what a call says of its lanes


@pytest.mark.exhaustive
def test_depth_follows_from_two_smaller_ones():
  c = small(data=1)
  c.model.num_layers = 7
  found = plan.setup(c, jax.devices()[:1], "cpu")
  for compile_it in (plan.extend, plan.decode):
    whole, followed = compile_it(found), compile_it(found, plan.DEPTHS)
    assert not whole.depths and followed.depths == plan.DEPTHS
    assert followed.arguments == whole.arguments
    assert followed.once.flops == whole.once.flops > 0
    assert followed.again.flops == whole.again.flops
    assert followed.once.hbm_bytes == pytest.approx(
      whole.once.hbm_bytes, rel=0.02
    )
    assert followed.made == pytest.approx(whole.made, rel=0.1)


@pytest.mark.parametrize(
  ("name", "host"),
  [("v5e-16", "v5e:2x2"), ("v5p-64", "v5p:2x2x1"), ("v5p-8", "v5p:2x2x1")],
)
def test_a_host_has_four_chips_of_its_slice(name, host):
  of = slices.named(name)
  alone = slices.of_one_host(of)
  assert (alone.topology, alone.num_chips) == (host, 4)
  assert alone.chip == of.chip


@pytest.mark.parametrize(
  "name, topology, num_chips",
  [
    ("v5e-16", "v5e:4x4", 16),
    ("v5litepod-16", "v5e:4x4", 16),
    ("v5e-4", "v5e:2x2", 4),
    ("v5p-8", "v5p:2x2x1", 4),
    ("v5p-16", "v5p:2x2x2", 8),
    ("v5p-64", "v5p:2x4x4", 32),
  ],
)
def test_slices_have_the_names_that_they_are_ordered_by(
  name, topology, num_chips
):
  found = slices.named(name)
  assert (found.topology, found.num_chips) == (topology, num_chips)


@pytest.mark.parametrize("name", ["v5p-12", "h100", "v5p"])
def test_other_names_are_refused(name):
  with pytest.raises(ValueError, match=r"v5p-16 \(8 chips\), v5p-32"):
    slices.named(name)


@pytest.mark.parametrize(
  "size, name", [("4b", "v5p-16"), ("8b", "v5p-16"), ("32b", "v5p-64")]
)
def test_recipes_of_the_paper_fit_by_their_shapes(size, name):
  found, limit = of_paper(size, name)
  assert memory.remedy(found.need, limit, *plan.memory_sizes(found)) == ""
  assert found.model.attention == "splash"
  assert max(found.need.update, found.need.collecting) < 0.8 * limit


@pytest.mark.parametrize(
  "size, name, num_rows",
  [("0_6b", "v5e-4", 32), ("1_7b", "v5e-8", 24), ("14b", "v5p-32", 56)],
)
def test_other_sizes_fit_with_as_many_rows(size, name, num_rows):
  c = flags.load_recipe(f"{_CONFIGS / 'sizes.py'}:{size}")
  of = slices.named(name)
  limit, devices = of.chip.hbm_bytes, plan.stand_ins(of)
  c = fitting.sized(c, devices, "tpu", limit)
  assert (c.engine.num_rows, c.engine.num_lanes) == (num_rows, num_rows)
  found = plan.setup(c, devices, "tpu")
  assert memory.remedy(found.need, limit, *plan.memory_sizes(found)) == ""
  assert found.model.attention == "splash"
  assert max(found.need.update, found.need.collecting) < 0.8 * limit


def test_a_size_that_is_none_is_refused():
  with pytest.raises(ValueError, match="one of 0_6b, 1_7b, 14b, got '3b'"):
    flags.load_recipe(f"{_CONFIGS / 'sizes.py'}:3b")


@pytest.mark.parametrize(
  "size, name, changes, advice, cure",
  [
    (
      "8b",
      "v5p-16",
      dict(engine__num_rows=200, engine__num_lanes=200),
      "set engine.num_rows and engine.num_lanes to 44 or less (now 200)",
      dict(engine__num_rows=44, engine__num_lanes=44),
    ),
    (
      "8b",
      "v5e-16",
      dict(packing__rows_per_micro_batch=16, engine__num_lanes=4),
      "raise mesh.tensor (now 1), over which alone",
      dict(mesh__tensor=4, engine__num_rows=4, packing__rows_per_micro_batch=4),
    ),
    (
      "32b",
      "v5e-16",
      {"model__preset": "qwen3_14b", "grpo__kl_coef": 0.1},
      "set grpo.kl_coef=0",
      None,
    ),
    ("32b", "v5e-16", {}, "raise mesh.fsdp (now 4) with more chips", None),
    (
      "8b",
      "v5p-16",
      {"packing__rows_per_micro_batch": 1024},
      "set packing.rows_per_micro_batch=8 (now 1024)",
      {"packing__rows_per_micro_batch": 8},
    ),
    (
      "8b",
      "v5p-16",
      {"packing__rows_per_micro_batch": 1024, "model__remat": "none"},
      "set model.remat=full",
      None,
    ),
    (
      "8b",
      "v5p-16",
      dict(_FEW_COPIES, engine__num_rows=50, rollout__max_staleness=1),
      "set rollout.max_staleness=0",
      {"rollout__max_staleness": 0},
    ),
  ],
)
def test_what_does_not_fit_is_refused_with_the_line_to_change(
  size, name, changes, advice, cure
):
  found, limit = of_paper(size, name, **changes)
  with pytest.raises(ValueError, match="must fit into the") as refused:
    memory.check(found.need, limit, *plan.memory_sizes(found))
  pattern = advice.replace("(", r"\(").replace(")", r"\)")
  refused.match(pattern)
  if cure is not None:
    found, limit = of_paper(size, name, **(changes | cure))
    memory.check(found.need, limit, *plan.memory_sizes(found))


def test_a_launch_is_refused_before_anything_is_written(
  tmp_path, monkeypatch, capsys
):
  recipe = tmp_path / "recipe.py"
  recipe.write_text(
    "from userrl_jax import config\n"
    "def get_config():\n"
    f"  return config.Config(out_dir={str(tmp_path / 'run')!r})\n"
  )
  found = plan.setup(config_lib.Config(), jax.devices(), "cpu")
  fitting.check(found.config, found.need.collecting)
  fitting.check(found.config)  # a CPU tells no limit
  # Stands in for a device that tells what it has, a byte too little.
  device = types.SimpleNamespace(
    memory_stats=lambda: {"bytes_limit": found.need.collecting - 1}
  )
  monkeypatch.setattr(jax, "local_devices", lambda *_, **__: [device])
  with pytest.raises(SystemExit) as stopped:
    flags.run(hosts.joined(train.main), [f"--config={recipe}"])
  assert stopped.value.code == 2
  said = capsys.readouterr().err
  assert "a run must fit into the" in said and "set engine.num_rows" in said
  assert not (tmp_path / "run").exists()


def test_every_figure_says_how_it_came_about():
  found, _ = of_paper("8b", "v5p-16")
  chip = slices.named("v5p-16").chip
  costs = plan.Costs(4.59e12, 0.0, 2.765e9, 6e8)
  program = plan.Program(found.need.state, 5 * _GIB, costs, costs, (1.0, 2.0))
  followed = dataclasses.replace(program, depths=(2, 4))
  shapes = plan_tables.Plan(found, chip)
  figures = list(plan_tables.memory_figures(shapes))
  assert {figure.status for figure in figures} == {"estimated"}
  assert not list(plan_tables.time_figures(shapes))
  whole = dataclasses.replace(
    shapes, update=program, extend=followed, decode=followed
  )
  by_name = {
    figure.name: figure
    for figure in [
      *plan_tables.memory_figures(whole),
      *plan_tables.time_figures(whole),
    ]
  }
  assert by_name["params"].status == "compiled"
  assert by_name["params"].value == found.need.params / _GIB
  assert by_name["gradients"].status == "estimated"
  assert by_name["activations"].status == "estimated"  # the rest of a total
  assert "less the gradients" in by_name["activations"].note
  assert by_name["micro-batch, at best"].value == pytest.approx(10.0)  # ms
  assert "bound by products" in by_name["micro-batch, at best"].note
  assert by_name["micro-batch, memory"].status == "compiled"
  for name in ("KV rows", "decode, memory"):
    assert by_name[name].status == "estimated"
    assert "compiled at depth 2 and 4" in by_name[name].note
  total = by_name["update, all together"].value * _GIB
  assert math.isclose(total, found.need.state + found.need.batch + 5 * _GIB)


def test_exchanges_are_listed_by_kind_with_their_sums():
  """Those of every program; the update's add up to what its costs say."""
  found, _ = of_paper("8b", "v5p-16")
  gathers = program_work.Collective("all-gather", "bf16[8,4]", 4, 4_000_000, 36)
  others = (
    dataclasses.replace(gathers, shape="bf16[2,4]", num_bytes=8_000_000),
    program_work.Collective("all-reduce", "f32[9]", 2, 1_000_000, 3),
    program_work.Collective("collective-permute", "f32[9]", 4, 2_000_000, 1),
  )
  every = (gathers, *others)
  costs = plan.Costs(0.0, 0.0, 0.0, sum(one.bytes_sent for one in every))
  program = plan.Program(0, 0, costs, costs, (0.0, 0.0), every)
  shallow = dataclasses.replace(program, collectives=[gathers], depths=(2, 4))
  lines = list(
    plan_tables.lines(
      plan_tables.Plan(
        found, slices.named("v5p-16").chip, program, decode=shallow
      )
    )
  )
  at = lines.index(
    "exchanged by an update of one micro-batch, bytes a device (compiled)"
  )
  rows = [line.replace(",", "").split() for line in lines[at + 1 : at + 8]]
  listed = {row[0]: (int(row[1]), float(row[3]), float(row[6])) for row in rows}
  assert listed == {
    "all-gather": (72, 432.0, 324.0),  # 36 of 4 and of 8 MB, 3/4 sent
    "all-reduce": (3, 3.0, 3.0),
    "reduce-scatter": (0, 0.0, 0.0),
    "all-to-all": (0, 0.0, 0.0),
    "collective-permute": (1, 2.0, 2.0),
    "ragged-all-to-all": (0, 0.0, 0.0),
    "all": (76, 437.0, costs.sent_bytes / 1e6),
  }
  at = lines.index(
    "exchanged by a call of decode at depth 4, bytes a device (compiled)"
  )
  assert lines[at + 1].split()[:2] == ["all-gather", "36"]
  assert not any("call of extend" in line for line in lines)


def test_without_libtpu_a_plan_is_an_error_and_estimates(monkeypatch, capsys):
  monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
  c = small(data=2, fsdp=2)
  assert not plan_tables.show(c, "v5p-8")
  said = capsys.readouterr()
  assert "pip install libtpu" in said.err
  assert "ok   it fits" in said.out and "compiled" not in said.out


@pytest.mark.slow
def test_an_update_compiles_for_tpus_with_splash(capsys):
  pytest.importorskip("libtpu", reason="libtpu compiles for TPUs")
  c = small(fsdp=2, tensor=2, data=1)
  c.model = config_lib.Model(
    "qwen3_0_6b", num_layers=2, dtype="bfloat16", remat="full"
  )
  c.packing = config_lib.Packing(256, 2, 128)
  of = slices.named("v5p-8")
  found = plan.setup(c, plan.topology(of), "tpu")
  assert found.model.attention == "splash"
  so_far, refusal = plan_tables.compiled(
    plan_tables.Plan(found, of.chip), "none"
  )
  assert not refusal and so_far.update.again.kernel_flops > 0
  assert so_far.update.counted[0] > 0
  given = found.need.state + found.need.batch
  assert so_far.update.arguments == pytest.approx(given, rel=0.01)
  largest = max(
    one.num_bytes
    for one in so_far.update.collectives
    if one.kind == "all-gather"
  )
  print("\n".join(plan_tables.lines(so_far)))
  printed = capsys.readouterr().out
  assert "ok   it fits" in printed and "all-gather" in printed
  # No more than one matrix at a time, or a slice of the vocabulary's.
  assert largest <= 4 * max(1024 * 3072, 2048 * 1024 * 2)
