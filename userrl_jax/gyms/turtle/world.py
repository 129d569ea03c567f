"""The words of the Turtle gym: what stories are about, and what they are not.

`lexicon.json` comes in. Out: concepts with their phrases, shared by all
stories; the usual decoys, wild explanations that nearly no story has; and the
options of who, why and where that generated stories are made of.
"""

from collections.abc import Mapping
import functools
import json
import pathlib

from userrl_jax.gyms import rules

PATH = pathlib.Path(__file__).with_name("lexicon.json")


@functools.cache
def _read() -> dict:
  return json.loads(PATH.read_text(encoding="utf-8"))


@functools.cache
def words() -> Mapping[str, tuple[str, ...]]:
  """Returns the phrases of each concept; no phrase is of two."""
  return {name: tuple(found) for name, found in _read()["words"].items()}


@functools.cache
def decoys() -> tuple[str, ...]:
  """Returns the concepts of the usual decoys."""
  return tuple(_read()["decoys"])


@functools.cache
def twists() -> tuple[str, ...]:
  """Returns the concepts that some story of the pack, or none, turns on."""
  return tuple(_read()["twists"])


@functools.cache
def options(slot: str) -> tuple[str, ...]:
  """Returns the concepts that a slot can hold: `who`, `why` or `where`."""
  return tuple(_read()["slots"][slot])


@functools.cache
def names() -> tuple[str, ...]:
  """Returns the people who keep things, in generated stories."""
  return tuple(_read()["names"])


@functools.cache
def things() -> tuple[str, ...]:
  """Returns the things that they keep."""
  return tuple(_read()["things"])


@functools.cache
def lexicon() -> rules.Lexicon:
  """Returns the finder of concepts in a text."""
  return rules.Lexicon(words())
