"""The command line of every entry point: a recipe file and single fields.

In: `--config=configs/quickstart.py --config.grpo.group_size=16`. Out: a
validated `Config`, and a `Command` that says how it came about. ml_collections
finds, types and sets the fields; this wrapper turns whatever a user can do
wrong into one message on stderr and exit code 2. Knows no JAX.

  if __name__ == "__main__":
    flags.run(main)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import difflib
import importlib.util
import os
import pathlib
import re
import sys
import traceback
import types
from typing import Any

from absl import flags as absl_flags
from ml_collections import config_flags

from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import config_rules

_EXIT_CODE = 2  # of every user error
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")


@dataclasses.dataclass(frozen=True)
class Command:
  """How a config came about."""

  argv: tuple[str, ...]  # as typed, without the program
  recipe: str  # path of the recipe, its argument included
  differences: dict[str, tuple[Any, Any]]  # {field: (in the recipe, now)}
  # Flags of the entry point itself, which are no fields of a config.
  own: Mapping[str, str | int] = dataclasses.field(default_factory=dict)


def run(
  main: Callable[[config_lib.Config, Command], None],
  argv: Sequence[str] | None = None,
  own: Mapping[str, str | int] | None = None,
  recipe: str = "",
) -> None:
  """Calls `main` with the config of the command line.

  Args:
    main: the entry point. Its preparation goes inside `user_errors()`.
    argv: the arguments without the program; those of the process by default.
    own: flags of this entry point alone, beside the config's, with their
      defaults; a default that is an int takes an int.
    recipe: the file where `--config` names none; "" has it name one.
  """
  with user_errors():
    argv = sys.argv[1:] if argv is None else argv
    config, command = parse(argv, own, recipe)
  main(config, command)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns a ValueError or OSError inside into one message and exit code 2.

  Or into the code that the error names: a spent budget is none of the config.

  For the preparation of an entry point only: what is raised once the work runs
  is a defect of ours and keeps its traceback. USERRL_TRACEBACK=1 keeps it here.
  """
  try:
    yield
  except (ValueError, OSError) as error:
    if os.environ.get("USERRL_TRACEBACK"):
      raise
    message = str(error).replace("\n", "\n  ")
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(getattr(error, "exit_code", _EXIT_CODE)) from None


def parse(
  argv: Sequence[str],
  own: Mapping[str, str | int] | None = None,
  recipe: str = "",
) -> tuple[config_lib.Config, Command]:
  """Reads the recipe, sets the fields that flags name, validates the result.

  Args:
    argv: the arguments without the program.
    own: see `run`.
    recipe: see `run`.

  Raises:
    ValueError: the first thing that is wrong, or all wrong fields.
    SystemExit: with code 0, after `--help`.
  """
  try:
    path, own, overrides = _split(argv, own or {}, recipe)
    start = load_recipe(path)
    config = _override(start, overrides)
    config.init_from = config.init_from.replace("{seed}", str(config.seed))
  except absl_flags.UnrecognizedFlagError as error:
    raise ValueError(_unknown_flag(error.flagname, own or {})) from error
  except absl_flags.IllegalFlagValueError as error:
    raise ValueError(_wrong_value(str(error))) from error
  except absl_flags.Error as error:
    raise ValueError(str(error)) from error
  config_rules.validate(config)
  differences = config_fields.differences(config, start)
  return config, Command(tuple(argv), path, differences, own)


def load_recipe(path: str) -> config_lib.Config:
  """Runs `get_config` of a Python file.

  Args:
    path: the file; `file.py:argument` calls `get_config("argument")`.

  Raises:
    ValueError: there is no such file, or it fails, or it gives no Config.
  """
  name, has_argument, argument = path.partition(":")
  module = load_module(name)
  get_config = getattr(module, "get_config", None)
  try:
    config = get_config and get_config(*([argument] if has_argument else []))
  except Exception as error:
    raise _broken(pathlib.Path(name), error) from error
  if get_config is None:
    raise ValueError(f"{name} must define get_config(), which it does not")
  if not isinstance(config, config_lib.Config):
    raise ValueError(
      f"{name}: get_config() must return a userrl_jax.config.Config, "
      f"got {type(config).__name__}"
    )
  problems = config_fields.type_problems(config)
  if problems:
    raise ValueError("\n".join(f"{name}: {problem}" for problem in problems))
  return config


def load_module(name: str) -> types.ModuleType:
  """Runs the Python file of a recipe, without its `get_config`.

  Raises:
    ValueError: there is no such file, or it fails.
  """
  file = pathlib.Path(name)
  if not file.is_file():
    beside = sorted(str(p) for p in file.parent.glob("*.py"))
    near = difflib.get_close_matches(name, beside, n=1, cutoff=0)
    hint = f"the nearest is {near[0]}" if near else "give another path"
    raise ValueError(
      f"--config must be a Python file with get_config(), got {name}, which "
      f"is no file; {hint}"
    )
  spec = importlib.util.spec_from_file_location("userrl_jax_recipe", file)
  if spec is None or spec.loader is None:
    raise ValueError(f"--config must be a Python file (.py), got {name}")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise _broken(file, error) from error
  return module


class _TupleParser(absl_flags.ArgumentParser):
  """Reads `a,b`, `('a', 'b')` or `['a', 'b']` as a tuple of one type."""

  def __init__(self, element: Callable[[str], Any]):
    self._element = element

  def parse(self, argument: Any) -> tuple[Any, ...]:
    if isinstance(argument, tuple):  # the recipe's value
      return argument
    parts = argument.strip().strip("()[]").split(",")
    values = (part.strip().strip("'\"") for part in parts)
    return tuple(self._element(value) for value in values if value)


# ml_collections reads `a,b` for a tuple as the single string "a,b".
config_flags.register_flag_parser_for_type(tuple[str, ...], _TupleParser(str))
config_flags.register_flag_parser_for_type(tuple[int, ...], _TupleParser(int))


def _split(
  argv: Sequence[str], own: Mapping[str, str | int], recipe: str
) -> tuple[str, dict[str, str | int], list[str]]:
  """Returns the recipe's path, the own flags and the arguments left."""
  flags = absl_flags.FlagValues()
  absl_flags.DEFINE_string("config", recipe, "the recipe", flag_values=flags)
  absl_flags.DEFINE_bool("help", False, "the fields", flag_values=flags)
  for name, default in own.items():
    is_int = isinstance(default, int)
    define: Any = (
      absl_flags.DEFINE_integer if is_int else absl_flags.DEFINE_string
    )
    define(name, default, "of the entry point", flag_values=flags)
  flags.set_gnu_getopt()
  _, *rest = flags(["", *argv], known_only=True)
  if flags.help:
    print(_help(own))
    raise SystemExit(0)
  if not flags.config:
    raise ValueError(
      "--config must name a recipe, got none; for one, "
      "--config=configs/quickstart.py"
    )
  return flags.config, {name: getattr(flags, name) for name in own}, rest


def _override(
  recipe: config_lib.Config, overrides: Sequence[str]
) -> config_lib.Config:
  """Returns a copy of the recipe with the fields that flags name set."""
  known = config_fields.field_types()
  for path in filter(None, map(_OVERRIDE.match, overrides)):
    if path[1] not in known:
      raise ValueError(config_fields.unknown_field(path[1]))
  argv = ["", *overrides]
  flags = absl_flags.FlagValues()
  config_flags.DEFINE_config_dataclass(
    "config", recipe, flag_values=flags, sys_argv=argv
  )
  flags.set_gnu_getopt()
  _, *rest = flags(argv)
  if rest:
    raise ValueError(
      f"there is no argument {rest[0]}; set a field as --config.field=value"
    )
  return flags.config


def _unknown_flag(name: str, own: Mapping[str, str | int]) -> str:
  known = [
    *own,
    "config",
    "help",
    *(f"config.{p}" for p in config_fields.field_types()),
  ]
  near = [k for k in known if k.endswith(f".{name}")]
  near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  hint = f"the nearest is --{near[0]}" if near else "see --help"
  return f"there is no flag --{name}; {hint}"


def _wrong_value(message: str) -> str:
  """Rewrites absl's `flag --config.field=value: why` to name the type."""
  flag, _, rest = message.removeprefix("flag --").partition("=")
  path = flag.removeprefix("config.")
  if path not in config_fields.field_types():
    return message
  wanted = config_fields.type_name(config_fields.field_types()[path])
  value, _, _ = rest.partition(": ")
  return f"{path} must be {wanted}, got {value!r}"


def _broken(file: pathlib.Path, error: Exception) -> ValueError:
  """Returns what to say of a recipe that fails, and where in it."""
  place = _place(file, error)
  return ValueError(f"{place}: {type(error).__name__}: {error}")


def _place(file: pathlib.Path, error: Exception) -> str:
  """Returns file:line of the last frame of an error that is in the file."""
  if isinstance(error, SyntaxError):
    return f"{error.filename}:{error.lineno}"
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if pathlib.Path(frame.filename) == file.absolute()
  ]
  return f"{file}:{lines[-1]}" if lines else str(file)


def _help(own: Mapping[str, str | int]) -> str:
  flags = "".join(f" [--{name}={value}]" for name, value in own.items())
  lines = [
    f"usage: --config=RECIPE.py{flags} [--config.field=value ...]",
    "Every field, its type and default (userrl_jax/config.py says more):",
  ]
  for knob in config_fields.knobs(config_lib.Config()):
    kind = config_fields.type_name(knob.annotation)
    lines.append(f"  --config.{knob.path}={knob.value}  ({kind})")
  return "\n".join(lines)
