"""Fills the templates of HTML pages, which lie beside this file."""

from collections.abc import Sequence
import dataclasses
import pathlib

import jinja2
import markupsafe


@dataclasses.dataclass(frozen=True)
class Section:
  """A table of a page, in text, with a chart where there is one."""

  title: str
  text: str
  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  chart: markupsafe.Markup | None = None
  is_numbered: bool = False  # its rows, which a chart names so


def environment() -> jinja2.Environment:
  """Returns what renders a template: escaped, and strict about names."""
  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
