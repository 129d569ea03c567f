"""Fills the templates of HTML pages, which lie beside this file."""

import pathlib

import jinja2


def environment() -> jinja2.Environment:
  """Returns what renders a template: escaped, and strict about names."""
  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
