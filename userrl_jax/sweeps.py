"""Says which runs a sweep has: every mix of some fields' values; knows no JAX.

In: the arguments of `train`, and texts such as `seed=0,1,2` (a grid) or
`grpo.optimizer.learning_rate=log(1e-5,1e-3)` (to draw from). Out: `Run`s, each
checked as `train` checks it. Equal input gives equal runs, and with one value
or one draw more, the runs that there were stay as they are.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import math
import pathlib
import random
import re
from typing import Any

from userrl_jax import config_fields
from userrl_jax import experiments
from userrl_jax import flags

SEED = "seed"  # runs that differ in this field alone make one cell
ARM = "arm"  # what the argument of a recipe is called in names

_SET = re.compile(r"--?(?:no)?config\.([^=]*)")
_DRAWN = re.compile(r"(log|uniform|choice)\((.*)\)", re.DOTALL)
_MAX_TRIES = 1000  # draws for each that is wanted, until it is a new one
_MAX_NAME = 120  # characters of a folder's name


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep."""

  name: str  # of its folder: the values of its fields
  cell: str  # the same without the seed; empty where the seed is all
  argv: tuple[str, ...]  # of train
  config: Mapping[str, Any]  # all fields, resolved, as nested dicts
  arm: str = ""  # the argument of its recipe


@dataclasses.dataclass(frozen=True)
class Axis:
  """One field and what it is set to."""

  path: str
  values: tuple[str, ...]  # as in flags


def plan(
  argv: Sequence[str],
  folder: pathlib.Path,
  *,
  grid: Sequence[str] = (),
  drawn: Sequence[str] = (),
  num_draws: int = 8,
  draw_seed: int = 0,
  arms: Sequence[str] = (),
) -> list[Run]:
  """Returns every mix of the grid's values, with each of the draws and arms.

  Args:
    argv: of all runs: the recipe and fields that are the same.
    folder: of the sweep; runs have folders in it.
    grid: `field=value,value,...`; a value with commas stands in brackets.
    drawn: `field=log(low,high)`, `uniform(low,high)` or `choice(value,...)`.
    num_draws: how many different draws.
    draw_seed: of the draws; a field's do not depend on the other fields.
    arms: names that the recipe takes as its argument; none calls it without.

  Raises:
    ValueError: before anything runs, for a field or value that is wrong in one
      of the runs, and where two runs are one.
  """
  axes = [_axis(text) for text in grid]
  sources = [_source(text) for text in drawn]
  paths = [axis.path for axis in axes] + [path for path, *_ in sources]
  if not paths and not arms:
    raise ValueError(
      "a sweep must have a field with several values, got none; give "
      "--grid=seed=0,1,2 or --random=field=log(1e-5,1e-3)"
    )
  _check_paths(paths, argv)
  runs: dict[str, Run] = {}
  draws = _draws(sources, num_draws, draw_seed) if sources else [()]
  mixes = list(itertools.product(*(axis.values for axis in axes)))
  for draw, arm, mix in itertools.product(draws, arms or ("",), mixes):
    run = _run(argv, folder, dict(zip(paths, (*mix, *draw), strict=True)), arm)
    if run.name in runs:
      raise ValueError(f"runs must differ, got {run.name} twice; name it once")
    runs[run.name] = run
  return list(runs.values())


def split_values(text: str) -> list[str]:
  """Splits at commas that stand in no brackets and no quotes."""
  parts, depth, quote = [""], 0, ""
  for letter in text:
    if quote or letter in "'\"":
      quote = "" if letter == quote else quote or letter
    depth += (letter in "([") - (letter in ")]") if not quote else 0
    if letter == "," and not depth and not quote:
      parts.append("")
    else:
      parts[-1] += letter
  return [part.strip() for part in parts]


def _axis(text: str) -> Axis:
  path, is_set, values = text.partition("=")
  if not is_set:
    raise ValueError(f"--grid must be field=value,value,..., got {text!r}")
  return Axis(path.strip(), tuple(split_values(values)))


def _source(text: str) -> tuple[str, str, list[str]]:
  """Returns the field, the kind of the draw and its arguments."""
  path, _, rest = text.partition("=")
  path, kind = path.strip(), _DRAWN.fullmatch(rest.strip())
  if not kind:
    raise ValueError(
      "--random must be field=log(low,high), field=uniform(low,high) or "
      f"field=choice(value,...), got {text!r}"
    )
  arguments = split_values(kind[2])
  if kind[1] != "choice":
    _check_bounds(path, kind[1], arguments)
  return path, kind[1], arguments


def _check_bounds(path: str, kind: str, arguments: Sequence[str]) -> None:
  annotation = config_fields.field_types().get(path)
  if annotation is None:
    raise ValueError(config_fields.unknown_field(path))
  if annotation not in (int, float):
    raise ValueError(
      f"--random={path}={kind}(...) must be of a number, which {path} is not "
      f"({config_fields.type_name(annotation)}); draw it by choice(...)"
    )
  try:
    low, high = (annotation(argument) for argument in arguments)
    holds = low < high and (kind == "uniform" or low > 0)
  except ValueError:
    holds = False
  if not holds:
    least = "0 < low < high" if kind == "log" else "low < high"
    raise ValueError(
      f"--random={path}={kind}(low,high) must have two of "
      f"{annotation.__name__}, {least}, got ({','.join(arguments)})"
    )


def _check_paths(paths: Sequence[str], argv: Sequence[str]) -> None:
  known = config_fields.field_types()
  own = {found[1] for found in map(_SET.match, argv) if found}
  for path in paths:
    if path not in known:
      raise ValueError(config_fields.unknown_field(path))
    if path in own or paths.count(path) > 1:
      raise ValueError(f"{path} must be set in one place, got several")
  if "out_dir" in (*paths, *own):
    raise ValueError(
      "out_dir must be left to the sweep, whose runs have folders of their "
      "own; name that of all by --out_dir"
    )


def _draws(
  sources: Sequence[tuple[str, str, list[str]]], num: int, seed: int
) -> list[tuple[str, ...]]:
  """Returns different draws; more of them begin with the same."""
  if num < 1:
    raise ValueError(f"--num_draws must be positive, got {num}")
  streams = [_stream(*source, seed=seed) for source in sources]
  found: dict[tuple[str, ...], None] = {}
  for _ in range(num * _MAX_TRIES):
    found[tuple(next(stream) for stream in streams)] = None
    if len(found) == num:
      return list(found)
  raise ValueError(
    f"--num_draws must be at most {len(found)}, as no more different draws "
    f"were found, got {num}"
  )


def _stream(
  path: str, kind: str, arguments: Sequence[str], seed: int
) -> Iterator[str]:
  rng = random.Random(f"{seed} {path}")
  if kind == "choice":
    while True:
      yield rng.choice(arguments)
  low, high = map(float, arguments)
  is_int = config_fields.field_types()[path] is int
  while True:
    if kind == "log":
      value = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
      value = rng.uniform(low, high)
    # Three digits say all that a draw is worth, and make a readable name.
    value = round(value) if is_int else float(f"{value:.3g}")
    yield str(min(max(value, low), high) if not is_int else int(value))


def _run(
  argv: Sequence[str],
  folder: pathlib.Path,
  values: Mapping[str, str],
  arm: str,
) -> Run:
  """Checks a run's flags as `train` does, and names it by what they say."""
  argv = experiments.with_arm(argv, arm) if arm else argv
  own = [f"--config.{path}={text}" for path, text in values.items()]
  try:
    config, _ = flags.parse([*argv, *own])
  except ValueError as error:
    mix = ", ".join(f"{path}={text}" for path, text in values.items())
    raise ValueError(f"with {mix}: {error}") from error
  resolved = {knob.path: knob.value for knob in config_fields.knobs(config)}
  chosen = {ARM: arm} if arm else {}
  chosen |= {path: resolved[path] for path in values}
  name = _name(chosen)
  config.out_dir = str(folder / name)
  return Run(
    name,
    _name({path: value for path, value in chosen.items() if path != SEED}),
    (*argv, *own, f"--config.out_dir={config.out_dir}"),
    config_fields.to_dict(config),
    arm,
  )


def _name(values: Mapping[str, Any]) -> str:
  """Returns a name for a folder that tells values, however they were typed."""
  ends = [path.rpartition(".")[2] for path in values]
  parts = []
  for (path, value), end in zip(values.items(), ends, strict=True):
    texts = map(str, value if isinstance(value, tuple) else [value])
    parts.append(f"{end if ends.count(end) == 1 else path}={'+'.join(texts)}")
  whole = ",".join(parts)
  name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", whole)
  if name == whole and len(name) <= _MAX_NAME:
    return name
  digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
  return f"{name[:_MAX_NAME]}-{digest}"
