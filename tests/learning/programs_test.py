"""What compiled programs may take: memory of the head, size by depth."""

import pytest

from tests.benchmarks import head_programs

_GIB = 2**30


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
