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
_NUMBER_LIST = re.compile(rf"{_NUMBER}( {_NUMBER})+")


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
  made.tests["number_list"] = is_number_list
  return made


def is_number_cell(text: str) -> bool:
  """Returns whether a cell is a number, an interval, or both."""
  return bool(_NUMBER_CELL.fullmatch(text))


def is_number_list(text: str) -> bool:
  """Returns whether a cell has several numbers, such as one of each run."""
  return bool(_NUMBER_LIST.fullmatch(text))
