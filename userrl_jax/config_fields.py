"""What can be asked of a config's fields: names, types, values, differences.

In: a `config.Config`, or values that came through JSON. Out: its single fields,
wherever they are nested, by dotted name; knows no field by name.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import difflib
import typing
from typing import Any

from userrl_jax import config as config_lib


def to_dict(config: config_lib.Config) -> dict[str, Any]:
  """Returns the config as nested dicts of plain values, ready for JSON."""
  return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> config_lib.Config:
  """Builds the config that `to_dict` made, also after a trip through JSON.

  Raises:
    ValueError: a field is unknown, missing or of a wrong type.
  """
  config = _from_dict(config_lib.Config, values, "")
  problems = type_problems(config)
  if problems:
    raise ValueError("\n".join(problems))
  return config


def differences(
  config: config_lib.Config, recipe: config_lib.Config
) -> dict[str, tuple[Any, Any]]:
  """Returns {dotted field: (in the recipe, now)} of what differs."""
  before = {knob.path: knob.value for knob in knobs(recipe)}
  return {
    knob.path: (before[knob.path], knob.value)
    for knob in knobs(config)
    if knob.value != before[knob.path]
  }


def field_types() -> dict[str, Any]:
  """Returns {dotted field: its annotation} of every single knob."""
  return {knob.path: knob.annotation for knob in knobs(config_lib.Config())}


def type_name(annotation: Any) -> str:
  """Returns an annotation as users write it: int, or tuple[str, ...]."""
  whole = typing.get_origin(annotation) is not None
  return str(annotation) if whole else annotation.__name__


def unknown_field(path: str) -> str:
  """Returns the message for a field that does not exist, naming the nearest.

  A field of the same name in another section is nearer than a similar name.
  """
  known = list(field_types())
  inside = [k for k in known if k.startswith(f"{path}.")]
  if inside:
    return f"{path} is a section; set one of its fields: {', '.join(inside)}"
  name = path.rpartition(".")[2]
  namesakes = [k for k in known if k.rpartition(".")[2] == name]
  near = difflib.get_close_matches(
    path, namesakes or known, n=1, cutoff=0 if namesakes else 0.5
  )
  hint = f"the nearest is {near[0]}" if near else "see userrl_jax/config.py"
  return f"there is no config field {path}; {hint}"


def type_problems(config: config_lib.Config) -> list[str]:
  """Returns one line a field of a wrong type, or that a recipe misspelt."""
  return list(_type_problems(config, ""))


@dataclasses.dataclass(frozen=True)
class Knob:
  """One single field, wherever it is nested."""

  path: str  # dotted, from Config
  key: str  # Class.field
  annotation: Any
  value: Any


def knobs(section: Any, prefix: str = "") -> Iterator[Knob]:
  """Yields every single field of a config, or of a section of it."""
  for field in dataclasses.fields(section):
    value = getattr(section, field.name)
    if dataclasses.is_dataclass(field.type):
      yield from knobs(value, f"{prefix}{field.name}.")
    else:
      key = f"{type(section).__name__}.{field.name}"
      yield Knob(prefix + field.name, key, field.type, value)


def _type_problems(section: Any, prefix: str) -> Iterator[str]:
  fields = {field.name: field.type for field in dataclasses.fields(section)}
  for name in sorted(vars(section).keys() - fields.keys()):  # set by a recipe
    yield unknown_field(prefix + name)
  for name, annotation in fields.items():
    value = getattr(section, name)
    if not _accepts(annotation, value):
      yield (
        f"{prefix}{name} must be {type_name(annotation)}, "
        f"got {value!r} ({type(value).__name__})"
      )
    elif dataclasses.is_dataclass(annotation):
      yield from _type_problems(value, f"{prefix}{name}.")


def _accepts(annotation: Any, value: Any) -> bool:
  if typing.get_origin(annotation) is tuple:
    element = typing.get_args(annotation)[0]
    return isinstance(value, tuple) and all(_accepts(element, v) for v in value)
  if annotation in (int, float) and isinstance(value, bool):
    return False
  return isinstance(value, (int, float) if annotation is float else annotation)


def _from_dict(kind: type, values: Any, prefix: str) -> Any:
  if not isinstance(values, Mapping):
    raise ValueError(f"{prefix[:-1]} must be a section, got {values!r}")
  fields = {field.name: field.type for field in dataclasses.fields(kind)}
  for name in sorted(values.keys() - fields.keys()):
    raise ValueError(unknown_field(prefix + name))
  built = {}
  for name, annotation in fields.items():
    if name not in values:
      raise ValueError(
        f"{prefix}{name} must be given, got no value; another version of "
        "userrl_jax wrote this config: add the field"
      )
    value = values[name]
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
      value = _from_dict(annotation, value, f"{prefix}{name}.")
    elif isinstance(value, list):
      value = tuple(value)
    built[name] = value
  return kind(**built)
