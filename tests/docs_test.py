"""Pages that say what there is name all of it, and lead there."""

import re

import pytest

from tests import commands_test

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
