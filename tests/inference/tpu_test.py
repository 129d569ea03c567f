"""Sampling's programs, compiled for TPU slices without a TPU."""

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
  # A token's logits and the like, and no copy of any rows, with one key head a
  # device (v5e) or several (v5p).
  assert decode["temporaries_gib"] < 0.25 * decode["cache_gib"]
  # Scores of the 1,024 ids that a call reads, and their rows.
  assert extend["temporaries_gib"] < extend["cache_gib"]
