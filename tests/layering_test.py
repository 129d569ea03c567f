"""Who may import whom (design §4), read off the imports themselves."""

import ast
import functools
import importlib.util
import pathlib
import subprocess
import sys

import pytest

_PACKAGE = "userrl_jax"
_SECTIONS = ("gyms", "hosts", "selection")  # of the config
_ROOT = pathlib.Path(__file__).resolve().parent.parent
_JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorstore"}
_NEEDS_EXTRA = {"userrl_jax.gyms.gymnasium_envs": "gymnasium"}
_ENTRY_POINTS = {
  "train",
  "evaluate",
  "demonstrate",
  "play",
  "serve",
  "report",
  "doctor",
  "export",
}


def _modules() -> dict[str, pathlib.Path]:
  """Returns {dotted name: file} of the package."""
  names = {}
  for path in sorted((_ROOT / _PACKAGE).rglob("*.py")):
    parts = path.relative_to(_ROOT).with_suffix("").parts
    names[".".join(p for p in parts if p != "__init__")] = path
  return names


_FILES = _modules()


def _imports(source: str, module: str, is_package: bool) -> set[str]:
  """Returns every module that a source imports, wherever in it.

  `from a import b` gives `a.b`, which may be a module or a name of `a`.
  """
  found = set()
  parents = module.split(".") if is_package else module.split(".")[:-1]
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = parents[: len(parents) - node.level + 1] if node.level else []
      name = ".".join([*base, *([node.module] if node.module else [])])
      found |= {f"{name}.{alias.name}" for alias in node.names}
  return found


@functools.cache
def _imported_by(module: str) -> set[str]:
  path = _FILES[module]
  return _imports(path.read_text(), module, path.name == "__init__.py")


def _ours(names: set[str]) -> set[str]:
  """Returns the modules of the package among imported names.

  Importing a.b.c runs a, a.b and a.b.c.
  """
  modules = set()
  for name in names:
    parts = name.split(".")
    prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
    modules |= prefixes & _FILES.keys()
  return modules


@functools.cache
def _reached_from(module: str) -> set[str]:
  """Returns all modules of the package that importing one runs."""
  reached: set[str] = set()
  waiting = _ours({module})
  while waiting:
    one = waiting.pop()
    reached.add(one)
    waiting |= _ours(_imported_by(one)) - reached
  return reached


def _in(module: str, *places: str) -> bool:
  return any(
    module == f"{_PACKAGE}.{place}" or module.startswith(f"{_PACKAGE}.{place}.")
    for place in places
  )


def _tops(names: set[str]) -> set[str]:
  return {name.partition(".")[0] for name in names}


_JAX_FREE = [
  module
  for module in _FILES
  if _in(
    module,
    "types",
    "config",
    "config_fields",
    "config_gyms",
    "config_hosts",
    "config_rules",
    "experiments",
    "flags",
    "terminal",
    "gyms",
    "users",
    "clients",
    "agents",
    "chat",
    "hosts_rules",
    "local_rules",
    "rollout.episode",
    "serving.connections",
    "serving.requests",
    "sweeps",
  )
  and module != f"{_PACKAGE}.agents.policy"
]


def test_imports_are_seen_in_every_form():
  source = (
    "import jax.numpy as jnp\n"
    "from userrl_jax import types\n"
    "from . import credit\n"
    "from ..gyms import base\n"
    "def late():\n  import flax\n"
  )
  assert _imports(source, "userrl_jax.learning.losses", False) == {
    "jax.numpy",
    "userrl_jax.types",
    "userrl_jax.learning.credit",
    "userrl_jax.gyms.base",
    "flax",
  }


def test_the_walk_finds_the_package():
  assert {"userrl_jax", "userrl_jax.types", "userrl_jax.gyms"} <= _FILES.keys()
  assert len(_JAX_FREE) > 5


@pytest.mark.parametrize(
  "module", ["types", "config", *(f"config_{part}" for part in _SECTIONS)]
)
def test_types_and_config_reach_nothing_else_of_ours(module):
  ours = _ours(_imported_by(f"{_PACKAGE}.{module}")) - {_PACKAGE}
  sections = {f"{_PACKAGE}.config_{part}" for part in _SECTIONS}
  assert ours == (sections if module == "config" else set())


@pytest.mark.parametrize(
  ("one", "other"), [("rollout", "learning"), ("learning", "rollout")]
)
def test_rollout_and_learning_do_not_reach_each_other(one, other):
  reached = {
    (module, target)
    for module in _FILES
    if _in(module, one)
    for target in _reached_from(module)
    if _in(target, other)
  }
  assert reached == set()


def test_flax_stays_inside_models():
  outside = {
    module
    for module in _FILES
    if not _in(module, "models") and "flax" in _tops(_imported_by(module))
  }
  assert outside == set()


@pytest.mark.parametrize("module", _JAX_FREE)
def test_the_jax_free_half_reaches_no_jax(module):
  reached = {
    (one, top)
    for one in _reached_from(module)
    for top in _tops(_imported_by(one)) & _JAX
  }
  assert reached == set()


def test_the_jax_free_half_loads_no_jax():
  """Imports it for real, with whatever its libraries import in turn."""
  there = [
    m for m in _JAX_FREE if importlib.util.find_spec(_NEEDS_EXTRA.get(m, "sys"))
  ]
  assert len(there) >= len(_JAX_FREE) - len(_NEEDS_EXTRA)
  script = "import sys\n" + "".join(f"import {m}\n" for m in there)
  script += "print(sorted({'jax', 'jaxlib', 'flax'} & sys.modules.keys()))"
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == "[]"


def test_only_entry_points_see_the_whole_config():
  """Others take their own part of it, or plain values.

  `assembly` is what the entry points have in common, `partner` that part of
  `play` that needs JAX, `play_recipe` its config, `plan` and `plan_tables` what
  `doctor --plan` shows, `fitting` what `train` checks.
  """
  allowed = {*_ENTRY_POINTS, "assembly", "flags", "partner"}
  allowed |= {"fitting", "plan", "plan_tables", "play_recipe"}
  allowed |= {"config", "config_fields", "config_rules"}
  whole = set()
  for module, path in _FILES.items():
    if _in(module, *allowed):
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if (
        isinstance(node, ast.Attribute)
        and node.attr == "Config"
        and isinstance(node.value, ast.Name)
        and node.value.id in _config_names(path)
      ):
        whole.add(f"{module}:{node.lineno}")
  assert whole == set()


def _config_names(path: pathlib.Path) -> set[str]:
  """Returns what a file calls the module userrl_jax.config."""
  return {
    alias.asname or alias.name
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ImportFrom) and node.module == _PACKAGE
    for alias in node.names
    if alias.name == "config"
  }


@pytest.mark.parametrize("module", sorted(_FILES))
def test_modules_are_imported_not_names(module):
  names = {
    name
    for name in _imported_by(module)
    if name.startswith(f"{_PACKAGE}.") and name not in _FILES
  }
  assert names == set()


def test_files_stay_readable():
  """The ceiling of design §5, with a little room."""
  too_long = {
    module: lines
    for module, path in _FILES.items()
    if (lines := len(path.read_text().splitlines())) > 420
  }
  assert too_long == {}
