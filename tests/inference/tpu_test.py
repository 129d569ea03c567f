"""Sampling compiles for TPUs, without one; skips where libtpu is not."""

import pytest

pytest.importorskip("libtpu", reason="libtpu compiles for TPUs; not installed")

from tests.benchmarks import tpu_sampling


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["v5e", "v5p"])
def test_extend_and_decode_compile_for_a_slice(chip):
  extend, decode = tpu_sampling.compile_both("qwen3_8b", chip, num_layers=1)
  for program in (extend, decode):
    # The cache is updated in place: what goes in comes out at the same place.
    assert program["aliased_gib"] == pytest.approx(
      program["cache_gib"], abs=0.01
    )
  # Where a device has one key head, decoding copies no row. (With several the
  # compiler turns rows once a call: BUILD_NOTES.md.)
  if chip == "v5e":
    assert decode["temporaries_gib"] < 0.5 * decode["cache_gib"]
