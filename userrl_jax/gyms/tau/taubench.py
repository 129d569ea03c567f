"""The world of a tau-bench checkout: its records, its policy and its tools.

A folder that the user names comes in; a `worlds.World` and the scenarios of
released tasks come out. The checkout's tools are imported and run as they are,
nothing else of it is: not its games, users or reward. They work on dictionaries
of records; here those copy a record when it is first touched, so that thousands
of episodes share one database that none of them changes. Only its calculator is
ours, since it hands the agent's text to `eval`.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, MutableMapping
import copy
import functools
import importlib.util
import json
import math
import operator
import pathlib
import sys
import types as python_types
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.tau import calls
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import store
from userrl_jax.gyms.tau import worlds

TRANSFER = "transfer_to_human_agents"
CALCULATOR = "calculate"
MAX_CHARS = 20_000  # of an observation: tau-bench has long policies
MAX_SUM_CHARS = 200

_KINDS: dict[str, Any] = {
  "string": str,
  "array": list,
  "object": dict,
  "boolean": bool,
  "integer": int,
  "number": (int, float),
}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}


class _Table(MutableMapping):
  """Records by id; one is copied when it is first asked for by its id."""

  def __init__(self, base: Mapping[str, Any], changed: Mapping[str, Any]):
    self._base = base
    self.copies = {key: copy.deepcopy(row) for key, row in changed.items()}

  def __getitem__(self, key: str) -> Any:
    if key not in self.copies:
      self.copies[key] = copy.deepcopy(self._base[key])
    return self.copies[key]

  def __setitem__(self, key: str, value: Any) -> None:
    self.copies[key] = value

  def __delitem__(self, key: str) -> None:
    raise TypeError("records are never deleted")

  def __contains__(self, key: object) -> bool:
    return key in self.copies or key in self._base

  def __iter__(self) -> Iterator[str]:
    return iter({**self._base, **self.copies})

  def __len__(self) -> int:
    return len({**self._base, **self.copies})

  # Tools go through whole tables only to find something, and then ask for it
  # by its id; copying every record on the way would take seconds.
  def items(self) -> Any:
    return {**self._base, **self.copies}.items()

  def values(self) -> Any:
    return {**self._base, **self.copies}.values()


class World:
  """A domain of tau-bench: retail or airline."""

  def __init__(self, folder: pathlib.Path):
    """Reads the records and imports the tools of a domain's folder.

    Raises:
      ValueError: when a file is missing or no tools are found.
    """
    self.policy = sources.text(folder / "wiki.md").strip()
    self._tables = {
      path.stem: json.loads(sources.text(path))
      for path in sorted((folder / "data").glob("*.json"))
    }
    if not self._tables:
      raise ValueError(f"{folder / 'data'} must hold tables of records as JSON")
    self._tools = {
      tool.get_info()["function"]["name"]: tool for tool in _imported(folder)
    }
    self._schemas = {
      name: tool.get_info()["function"] for name, tool in self._tools.items()
    }
    self.tools = tuple(_described(schema) for schema in self._schemas.values())

  def run(
    self, rows: Mapping[str, Any], situation: worlds.Situation, call: calls.Call
  ) -> worlds.Outcome:
    """Runs a call of one of `tools`; see `worlds.World`."""
    try:
      _check(call.arguments, self._schemas[call.name]["parameters"])
      if call.name == CALCULATOR:
        text = calculate(call.arguments["expression"])
        return worlds.Outcome(text, situation)
      earlier = json.loads(situation.changes)
      data = {
        name: _Table(table, earlier.get(name, {}))
        for name, table in self._tables.items()
      }
      arguments = copy.deepcopy(dict(call.arguments))
      text = str(self._tools[call.name].invoke(data=data, **arguments))
      changes = self._changes(data)
    except ValueError as error:
      return worlds.refused(situation, str(error)[:200])
    except Exception as error:  # the agent's arguments made the tool fail
      return worlds.refused(situation, type(error).__name__)
    after = worlds.Situation(changes, situation.user_id)
    return worlds.Outcome(text, after, is_transfer=call.name == TRANSFER)

  def _changes(self, data: Mapping[str, _Table]) -> str:
    changes: dict[str, dict[str, Any]] = {}
    for name, table in data.items():
      base = self._tables[name]
      for key, row in table.copies.items():
        if row != base.get(key):
          changes.setdefault(name, {})[key] = row
    return store.write_down(changes)


def open(task: types.Task, checkout: str) -> tuple[World, scenario.Scenario]:
  """Returns the world of a released task, and what the task is about.

  Raises:
    ValueError: when there is no checkout, or it lacks something.
  """
  secret = task.secret.reveal()
  if not checkout:
    raise ValueError(
      f"task {task.id!r} is played on tau-bench's own records, which UserRL "
      "did not release: set gyms.tau.checkout to a folder of tau-bench"
    )
  world = load(checkout, secret["domain"])
  actions = json.dumps(secret["actions"])
  goal, is_transfer = _goal(checkout, secret["domain"], actions)
  outputs = tuple(secret["outputs"])
  does = goal != store.UNCHANGED or outputs
  expect = "transfer" if is_transfer else "change" if does else "no_change"
  intent = scenario.Intent(
    verb="",
    expect=expect,
    request=task.public["opening"],
    arguments={},
    why="",
    outputs=outputs,
    look="",
    goal=goal,
  )
  return world, scenario.Scenario(
    id=task.id,
    source=secret["domain"],
    user_id=secret["user_id"],
    is_signed_in=False,
    facts={},
    intents=(intent,),
    rows={},
    instruction=secret["instruction"],
  )


@functools.lru_cache(maxsize=4)
def load(checkout: str, domain: str) -> World:
  """Returns a domain of a checkout.

  Raises:
    ValueError: when the folder is no checkout of tau-bench.
  """
  root = pathlib.Path(checkout).expanduser()
  for folder in (root / "tau_bench" / "envs" / domain, root / "envs" / domain):
    if folder.is_dir():
      return World(folder)
  raise ValueError(
    f"gyms.tau.checkout must hold tau_bench/envs/{domain}, got {checkout!r}"
  )


def calculate(expression: str) -> str:
  """Returns the value of a sum with + - * / and brackets, to two places.

  Raises:
    ValueError: when it is something else.
  """
  if len(expression) > MAX_SUM_CHARS:
    raise ValueError(f"a sum has at most {MAX_SUM_CHARS} characters")
  try:
    value = float(_value(ast.parse(expression.strip(), mode="eval").body))
  except (ArithmeticError, MemoryError, RecursionError, SyntaxError):
    raise ValueError("no such sum") from None
  if not math.isfinite(value):
    raise ValueError("no such sum")
  return str(round(value, 2))


@functools.lru_cache(maxsize=1024)
def _goal(checkout: str, domain: str, actions: str) -> tuple[str, bool]:
  """Returns the records after the right calls, and if one is a transfer."""
  world = load(checkout, domain)
  situation = worlds.Situation(store.UNCHANGED)
  has_transfer = False
  for action in json.loads(actions):
    call = calls.Call(action["name"], action["kwargs"])
    if call.name not in {tool.name for tool in world.tools}:
      raise ValueError(f"the checkout has no tool {call.name!r}")
    situation = world.run({}, situation, call).situation
    has_transfer = has_transfer or call.name == TRANSFER
  return situation.changes, has_transfer


def _value(node: ast.AST) -> float:
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    return float(node.value)  # type: ignore[arg-type]
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    return -_value(node.operand)
  if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
    left, right = _value(node.left), _value(node.right)
    return _OPERATORS[type(node.op)](left, right)
  raise ValueError("a sum has numbers, + - * / and brackets")


def _imported(folder: pathlib.Path) -> list[Any]:
  """Returns the tools that a domain's package lists.

  Importing tau_bench itself would start its games and ask for their libraries,
  so its tools meet empty packages, and a base class without anything.
  """
  domain = folder.name
  name = f"tau_bench.envs.{domain}.tools"
  path = folder / "tools" / "__init__.py"
  spec = importlib.util.spec_from_file_location(
    name, path, submodule_search_locations=[str(path.parent)]
  )
  if not path.is_file() or spec is None or spec.loader is None:
    raise ValueError(f"{path} must list the tools of domain {domain!r}")
  module = importlib.util.module_from_spec(spec)
  stubs = {
    stub: python_types.ModuleType(stub)
    for stub in ("tau_bench", "tau_bench.envs", "tau_bench.envs.tool")
  }
  stubs[f"tau_bench.envs.{domain}"] = python_types.ModuleType(domain)
  stubs["tau_bench.envs.tool"].Tool = type("Tool", (), {})  # type: ignore[attr-defined]
  before = {key: sys.modules[key] for key in list(sys.modules) if _is_of(key)}
  try:
    for key in before:
      del sys.modules[key]
    sys.modules.update({**stubs, name: module})
    spec.loader.exec_module(module)
    return list(module.ALL_TOOLS)
  except (ImportError, AttributeError, SyntaxError) as error:
    raise ValueError(f"{path}: the tools must import; {error}") from error
  finally:
    for key in [key for key in sys.modules if _is_of(key)]:
      del sys.modules[key]
    sys.modules.update(before)


def _is_of(module: str) -> bool:
  return module == "tau_bench" or module.startswith("tau_bench.")


def _described(schema: Mapping[str, Any]) -> calls.Tool:
  properties = schema["parameters"]["properties"]
  required = schema["parameters"].get("required", [])
  parameters = tuple(
    calls.Parameter(
      name, "|".join(p.get("enum", [p.get("type", "any")])), name in required
    )
    for name, p in properties.items()
  )
  return calls.Tool(schema["name"], parameters, schema["description"])


def _check(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
  """Checks the names and types of arguments.

  Raises:
    ValueError: names what is wrong.
  """
  properties = schema["properties"]
  for name in arguments:
    if name not in properties:
      raise ValueError(f"there is no argument {name:.40}")
  for name in schema.get("required", []):
    if name not in arguments:
      raise ValueError(f"argument {name} is missing")
  for name, value in arguments.items():
    kind = properties[name].get("type")
    if kind in _KINDS and not isinstance(value, _KINDS[kind]):
      raise ValueError(f"argument {name} must be of type {kind}")
