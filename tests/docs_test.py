"""Pages that say what there is name all of it, and lead there."""

import ast
import json
import pathlib
import re

import pytest

from tests import commands_test
from tests import config_test

_EXPECTED = pathlib.Path("configs", "expected")

_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def _words(path) -> str:
  return _FENCED.sub("", path.read_text())


def _headings(text: str) -> list[str]:
  return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def _anchor(heading: str) -> str:
  """Returns the anchor that GitHub gives a heading."""
  return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_table_of_contents_is_the_headings(root):
  text = _words(root / "README.md")
  opening, rest = text.split("\n## ", 1)
  listed = [link for link in _LINK.findall(opening) if link[1].startswith("#")]
  sections = re.findall(r"^## (.+)$", f"## {rest}", re.MULTILINE)
  assert listed == [(name, f"#{_anchor(name)}") for name in sections]
  assert len(sections) > 8


@pytest.mark.parametrize("page", commands_test.PAGES)
def test_links_lead_somewhere(root, page):
  path = root / page
  for _, to in _LINK.findall(_words(path)):
    if to.startswith("http"):
      continue
    file, _, anchor = to.partition("#")
    target = path.parent / file if file else path
    assert target.exists(), (page, to)
    if anchor:
      assert anchor in map(_anchor, _headings(_words(target))), (page, to)


def _page_of(recipe: str) -> str:
  """Experiments share one."""
  return recipe.partition("/")[0]


def _commands_on(text: str) -> list[str]:
  blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
  lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
  return [" ".join(line.split()) for line in lines]


def test_every_recipe_has_its_page_and_every_page_its_recipe(root):
  pages = {path.stem for path in (root / _EXPECTED).glob("*")}
  assert pages == set(map(_page_of, config_test.RECIPES))
  readme = (root / "README.md").read_text()
  for name in pages:
    assert f"({_EXPECTED / name}.md)" in readme, name


@pytest.mark.parametrize("recipe", config_test.RECIPES)
def test_a_page_says_what_its_recipe_says(root, recipe):
  source = (root / "configs" / f"{recipe}.py").read_text()
  says = dict(
    re.findall(
      r"^(\w+): (.*?)(?=^\w+: |\Z)",
      ast.get_docstring(ast.parse(source)),
      re.DOTALL | re.MULTILINE,
    )
  )
  text = (root / _EXPECTED / f"{_page_of(recipe)}.md").read_text()
  assert _headings(_FENCED.sub("", text)) == [
    *(_page_of(recipe), "Expected", "If it differs"),
  ]
  command = " ".join(says["Command"].splitlines()[0].split())
  assert command in _commands_on(text)
  assert "**Hardware**:" in text and "**Time**" in text
  assert re.search(r"\*\*Measured\*\* 20\d\d-|not run|not measured", text)
  # As exact as the recipe, or more so.
  there = [float(number) for number in re.findall(r"\d+\.\d+", text)]
  for number in re.findall(r"\d+\.\d+", says["Expect"]):
    half = 0.51 * 10.0 ** -len(number.partition(".")[2])
    assert any(abs(float(number) - x) < half for x in there), number


def test_the_page_of_the_quickstart_has_the_numbers_of_its_record(root):
  records = root / "tests" / "records" / "quickstart_seeds.json"
  seeds = json.loads(records.read_text())["seeds"]
  text = (root / _EXPECTED / "quickstart.md").read_text()
  for name in ("base", "cold_start", "grpo"):
    scores = [seeds[seed]["scores"][name] for seed in ("0", "1", "2")]
    cells = [f"{one['macro']['score']:.3f}" for one in scores]
    macro = scores[0]["macro"]
    cells[0] += f" ({macro['low']:.3f} to {macro['high']:.3f})"
    gyms = ("function", "telepathy", "travel")
    cells.append(", ".join(f"{scores[0][gym]:.3f}" for gym in gyms))
    label = {"cold_start": "cold start", "grpo": "GRPO"}.get(name, name)
    assert f"| {label} | {' | '.join(cells)} |" in text
