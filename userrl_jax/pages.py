"""Fills the templates of HTML pages, which lie beside this file."""

from collections.abc import Sequence
import dataclasses
import pathlib
import re

import jinja2
import markupsafe

_NUMBER = r"[-+]?[\d.,]+%?"
_ENDS = f"{_NUMBER} to {_NUMBER}"
_NUMBER_CELL = re.compile(rf"{_NUMBER}( \({_ENDS}\))?|{_ENDS}")


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
  made = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  made.tests["number_cell"] = is_number_cell
  return made


def is_number_cell(text: str) -> bool:
  """Returns whether a cell is a number, an interval, or both."""
  return bool(_NUMBER_CELL.fullmatch(text))
