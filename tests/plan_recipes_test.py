"""Recipes for TPUs fit the slices that they are for, compiled for them."""

import pathlib

import pytest

from userrl_jax import flags
from userrl_jax import plan_tables

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.exhaustive
@pytest.mark.parametrize(
  "recipe, name",
  [
    ("sizes.py:0_6b", "v5e-4"),
    ("sizes.py:1_7b", "v5e-8"),
    ("sizes.py:14b", "v5p-32"),
    ("paper_4b.py", "v5p-16"),
    ("paper_4b.py:v5e", "v5e-16"),
    ("paper_8b.py", "v5p-16"),
    ("paper_32b.py", "v5p-64"),
  ],
)
def test_recipes_fit_by_their_compiled_programs(recipe, name, capsys):
  """Update and sampler, on the slice that the recipe's page names."""
  pytest.importorskip("libtpu", reason="libtpu compiles for TPUs")
  page = recipe.partition(".")[0]
  assert name in (CONFIGS / "expected" / f"{page}.md").read_text()
  c = flags.load_recipe(f"{CONFIGS / recipe}")
  fits = plan_tables.show(c, name)
  out = capsys.readouterr().out
  assert fits and "ok   it fits" in out, out
