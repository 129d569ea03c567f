"""As many KV rows as fit, the same on resume; what runs out is explained."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import pytest

from tests import plan_test
from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import fitting
from userrl_jax import flags
from userrl_jax import memory
from userrl_jax import plan
from userrl_jax import plan_tables

_GIB = 2**30


@pytest.fixture
def tells(monkeypatch):
  """Returns a function that has the device tell so many bytes."""

  def tell(limit: int) -> None:
    # Stands in for a device that tells what it has.
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": limit})
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: [device])

  return tell


def _open(tmp_path, **engine) -> config_lib.Config:
  c = plan_test.small(data=1)
  c.out_dir = str(tmp_path / "run")
  c.engine = dataclasses.replace(c.engine, num_rows=0, num_lanes=0, **engine)
  config_rules.validate(c)
  return c


def _need(c: config_lib.Config) -> memory.Need:
  return plan.setup(c, jax.devices()[:1], "cpu").need


def _with_rows(c: config_lib.Config, num_rows: int) -> config_lib.Config:
  engine = dataclasses.replace(c.engine, num_rows=num_rows, num_lanes=num_rows)
  return dataclasses.replace(c, engine=engine)


def _sized(c: config_lib.Config, limit: int | None = None) -> tuple[int, int]:
  sized = fitting.sized(c, jax.devices()[:1], "cpu", limit)
  return sized.engine.num_rows, sized.engine.num_lanes


@pytest.mark.parametrize("staleness", [0, 1])
def test_so_many_rows_fit_and_not_one_more(staleness):
  c = plan_test.small(data=1)
  c.rollout.max_staleness = staleness
  need = _need(_with_rows(c, 3))
  for limit in (need.update, need.collecting + need.kv_rows, 2**31):
    num_rows = memory.rows_that_fit(need, limit, 3)
    if not num_rows:
      continue
    full = _need(_with_rows(c, num_rows))
    more = _need(_with_rows(c, num_rows + 1))
    assert max(full.collecting, full.update * bool(staleness)) <= limit
    assert max(more.collecting, more.update * bool(staleness)) > limit
  assert memory.rows_that_fit(need, 0, 3) == 0


def test_rows_fill_what_a_device_tells_and_lanes_are_as_many(tmp_path, tells):
  c = _open(tmp_path)
  of_one = _need(_with_rows(c, 1))
  beside = of_one.collecting - of_one.kv_rows
  tells(int((beside + 21.5 * of_one.kv_rows) / 0.8))
  assert _sized(c) == (16, 16)  # 21 fit
  tells(int((beside + 5.5 * of_one.kv_rows) / 0.8))
  assert _sized(c) == (5, 5)
  reserved = fitting.sized(
    c, jax.devices()[:1], "cpu", reserved=2 * of_one.kv_rows
  )
  assert reserved.engine.num_rows == 3
  tells(beside)  # none fits: `check` refuses that, and says why
  assert _sized(c) == (1, 1)
  c.engine.num_lanes = 4
  with pytest.raises(ValueError, match="at most the 1 KV rows .* got 4"):
    _sized(c)


def test_rows_are_no_more_than_episodes_and_64_where_nothing_is_told(tmp_path):
  c = _open(tmp_path)  # 64 episodes an iteration
  assert _sized(c, 100 * _GIB) == (64, 64)
  c.grpo.tasks_per_iteration = 4
  assert _sized(c, 100 * _GIB) == (16, 16)
  c.rollout.max_staleness = 1
  assert _sized(c, 100 * _GIB) == (32, 32)
  c.grpo.tasks_per_iteration = 400
  assert _sized(c) == (fitting.DEFAULT_ROWS, fitting.DEFAULT_ROWS)  # a CPU
  c.engine.num_lanes = 8
  assert _sized(c) == (64, 8)


def test_what_is_given_stays():
  c = plan_test.small(data=1)
  assert fitting.sized(c) is c
  c.engine.num_lanes = 0
  assert _sized(c) == (4, 4)


def test_a_run_goes_on_with_the_rows_that_it_began_with(tmp_path, tells):
  c = _open(tmp_path)
  folder = tmp_path / "run"
  folder.mkdir()
  began = fitting.sized(c, jax.devices()[:1], "cpu", 100 * _GIB)
  text = json.dumps(dataclasses.asdict(began))
  (folder / "config.json").write_text(text)
  of_one = _need(_with_rows(c, 1))
  tells(int((of_one.collecting + 9 * of_one.kv_rows) / 0.8))  # less, by now
  assert fitting.sized(c, jax.devices()[:1], "cpu") == began
  c.out_dir = str(tmp_path / "other")
  assert _sized(c) == (8, 8)


@pytest.mark.parametrize(
  ("rows", "lanes", "said"),
  [
    (-1, 0, "engine.num_rows must be 0 or more, got -1"),
    (0, -1, "engine.num_lanes must be 0 or more, got -1"),
    (4, 5, "engine.num_lanes must be at most engine.num_rows (4), got 5"),
    (0, 5, None),
  ],
)
def test_rules(rows, lanes, said):
  c = config_lib.Config()
  c.engine.num_rows, c.engine.num_lanes = rows, lanes
  if said is None:
    config_rules.validate(c)
    return
  with pytest.raises(ValueError) as refused:
    config_rules.validate(c)
  assert str(refused.value) == said


def test_a_plan_fills_the_chips_of_a_slice(capsys, monkeypatch):
  monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
  c = flags.load_recipe(str(plan_test._CONFIGS / "paper_8b.py"))
  c.engine = dataclasses.replace(c.engine, num_rows=0, num_lanes=0)
  plan_tables.show(c, "v5p-16")
  said = capsys.readouterr().out
  assert "24 rows of 9472" in said and "ok   it fits" in said


def test_programs_that_run_out_of_memory_say_what_to_change(capsys):
  c = plan_test.small(data=1)
  c.model.remat = "none"
  with pytest.raises(SystemExit) as ended, fitting.explained(c):
    jnp.zeros(2**52, jnp.uint8).block_until_ready()  # XLA refuses it
  assert ended.value.code == 2
  said = capsys.readouterr().err
  assert said.startswith("error: a run must fit into the memory of its devices")
  assert "RESOURCE_EXHAUSTED" in said and "set model.remat=full" in said
  assert "set engine.num_rows and engine.num_lanes to 2 or less (now 4)" in said


def test_other_errors_of_programs_stay_as_they_are():
  error = jax.errors.JaxRuntimeError("INTERNAL: something else")
  with (
    pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
    fitting.explained(plan_test.small(data=1)),
  ):
    raise error
