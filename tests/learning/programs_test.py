"""What compiled programs may take: memory of the head, size by depth."""

import dataclasses
import statistics
import time

import jax
from jax.experimental.compilation_cache import compilation_cache
import pytest

from tests.benchmarks import head_programs
from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import batching
from userrl_jax.learning import learner
from userrl_jax.models import qwen3

_GIB = 2**30


def _lowered_update(model):
  """Lowers an update of two rows of 64 ids, of shapes alone."""
  mesh = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
  packing, grpo = config.Packing(64, 2, logprob_chunk=16), config.Grpo()
  update = learner.make_update(
    model, learner.Settings(grpo, packing, temperature=1.0), mesh
  )
  params = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  state = jax.eval_shape(
    lambda p: learner.init_state(p, grpo.optimizer, 10, mesh), params
  )
  batch, _ = batching.pack(
    [], packing, group_size=4, max_turns=3, num_tasks=2, capacity=2
  )
  return update.lower(state, batch)


@pytest.fixture
def no_compile_cache():
  """Switches the persistent cache off: what is in it compiles in no time."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()  # whether it is used is asked once
  yield
  jax.config.update("jax_enable_compilation_cache", before)
  compilation_cache.reset_cache()


@pytest.mark.exhaustive
def test_a_deep_update_compiles_nearly_as_fast_as_a_shallow_one(
  no_compile_cache, model_config, capsys
):
  """In processor time, which other processes do not change, median of 2."""
  seconds = {4: [], 36: []}
  for depth in (4, 36, 36, 4):
    model = dataclasses.replace(model_config, num_layers=depth)
    jax.clear_caches()
    lowered = _lowered_update(model)
    start = time.process_time()
    lowered.compile()
    seconds[depth].append(time.process_time() - start)
  few, many = (statistics.median(seconds[depth]) for depth in (4, 36))
  with capsys.disabled():
    print(f" 4 layers {few:.1f} s, 36 layers {many:.1f} s ")
  assert few > 0.5 and many <= 1.5 * few


@pytest.mark.slow
def test_the_head_needs_no_more_than_its_tiles(capsys):
  """At 8,192 tokens of width 1,024 by 151,936 ids, whose logits are 4.6 GiB.

  The gradient of the head's matrix, 0.58 GiB, is an output.
  """
  tied = head_programs.head_temporaries("sliced") / _GIB
  untied = head_programs.head_temporaries("sliced", is_tied=False) / _GIB
  dense = head_programs.head_temporaries("dense") / _GIB
  with capsys.disabled():
    print(f" head {tied:.3f}, untied {untied:.3f}, dense {dense:.2f} GiB ")
  assert tied <= 0.15 and untied <= 0.15 < 4.6 < dense


@pytest.mark.slow
def test_the_head_adds_nothing_to_what_a_layer_needs(capsys):
  whole = head_programs.layer_temporaries() / _GIB
  headless = head_programs.layer_temporaries(has_head=False) / _GIB
  with capsys.disabled():
    print(f" one layer with the head {whole:.3f}, without {headless:.3f} GiB ")
  assert whole <= 1.3 and whole <= headless + 0.05


@pytest.mark.slow
def test_the_program_does_not_grow_with_depth(capsys):
  few, many = (head_programs.num_instructions(n) for n in (4, 36))
  with capsys.disabled():
    print(f" 4 layers {few} instructions, 36 layers {many} ")
  assert 1000 < many <= 1.05 * few
