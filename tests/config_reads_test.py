"""A field that no code reads fails here (law L9).

Reads are found in the syntax trees. What an expression is, one of the classes
of `config.py` or something else, follows from annotations: of parameters, of
dataclass fields, and of the config's own sections. So `evaluation.temperature`
does not pass for a read of `rollout.temperature`.
"""

import ast
from collections.abc import Iterator
import dataclasses
import itertools

from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import config_gyms
from userrl_jax import config_hosts
from userrl_jax import config_selection

_CLASSES = {
  name: kind
  for module in (config_lib, config_gyms, config_hosts, config_selection)
  for name, kind in vars(module).items()
  if dataclasses.is_dataclass(kind) and name != "Knob"
}
_FIELDS = {
  name: {field.name: field.type for field in dataclasses.fields(kind)}
  for name, kind in _CLASSES.items()
}
_ABOUT_CONFIG = {
  *("config.py", "config_gyms.py", "config_hosts.py", "config_rules.py"),
  *("config_selection.py", "endpoint_rules.py", "flags.py", "hosts_rules.py"),
  *("local_rules.py", "method_rules.py", "selection_rules.py"),
}

# {name of an attribute: classes of the config that it holds}
Attributes = dict[str, set[str]]


def reads(sources: list[str]) -> set[str]:
  """Returns `Class.field` of every field that the sources read."""
  trees = [ast.parse(source) for source in sources]
  attributes: Attributes = {}
  for fields in _FIELDS.values():
    for name, kind in fields.items():
      if dataclasses.is_dataclass(kind):
        attributes.setdefault(name, set()).add(kind.__name__)
  for node in itertools.chain(*map(ast.walk, trees)):
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      attributes.setdefault(node.target.id, set()).update(_named(node))
  found = set()
  for tree in trees:  # twice: `self.x = parameter` may follow its first read
    set(_reads(tree, {}, attributes))
  for tree in trees:
    found |= set(_reads(tree, {}, attributes))
  return found


def _named(node: ast.AnnAssign | ast.arg) -> set[str]:
  """Returns the config class that an annotation names, as in `config.Grpo`."""
  kind = node.annotation
  if not isinstance(kind, ast.Attribute) or not isinstance(
    kind.value, ast.Name
  ):
    return set()
  return {kind.attr} & _CLASSES.keys() if "config" in kind.value.id else set()


def _reads(
  node: ast.AST, names: Attributes, attributes: Attributes
) -> Iterator[str]:
  """Yields the reads below a node; `names` are the names in scope."""
  if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
    names = dict(names)
    for arg in [*node.args.args, *node.args.kwonlyargs]:
      names[arg.arg] = _named(arg)
  if isinstance(node, ast.Assign):
    for target, value in _pairs(node):
      kinds = _kinds(value, names, attributes)
      if isinstance(target, ast.Name):
        names[target.id] = kinds
      elif isinstance(target, ast.Attribute) and kinds:
        attributes.setdefault(target.attr, set()).update(kinds)
  if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
    for kind in _kinds(node.value, names, attributes):
      if node.attr in _FIELDS[kind]:
        yield f"{kind}.{node.attr}"
  for child in ast.iter_child_nodes(node):
    yield from _reads(child, names, attributes)


def _pairs(node: ast.Assign) -> list[tuple[ast.expr, ast.expr]]:
  target = node.targets[0]
  if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
    return list(zip(target.elts, node.value.elts))
  return [(target, node.value)]


def _kinds(
  node: ast.expr, names: Attributes, attributes: Attributes
) -> set[str]:
  """Returns the config classes that an expression may be of."""
  if isinstance(node, ast.Name):
    return names.get(node.id, set())
  if isinstance(node, ast.IfExp):
    body, orelse = node.body, node.orelse
    return _kinds(body, names, attributes) | _kinds(orelse, names, attributes)
  if isinstance(node, ast.Attribute):
    owners = _kinds(node.value, names, attributes)
    if not owners:
      return attributes.get(node.attr, set())
    kinds = {_FIELDS[owner].get(node.attr) for owner in owners}
    return {k.__name__ for k in kinds if dataclasses.is_dataclass(k)}
  return set()


def test_a_namesake_of_another_section_is_no_read():
  source = """
def play(rollout: config.Rollout, task, config):
  config.seed, task.split
  rollout.temperature = 1.0
  return rollout.max_malformed
"""
  assert reads([source]) == {"Rollout.max_malformed"}


def test_reads_are_followed_through_sections_locals_and_attributes():
  source = """
class Player:
  limits: config_lib.Rollout
  def __init__(self, settings: config_lib.Gyms):
    self._settings = settings
  def play(self, parts):
    grpo, name = parts.config.grpo, "x"
    stage = parts.config.base if name else parts.config.cold_start
    return (grpo.credit.gamma, stage.num_steps, self.limits.num_retries,
            self._settings.levels, lambda: grpo.clip_low)
"""
  assert reads([source]) >= {
    "Credit.gamma",
    "Base.num_steps",
    "ColdStart.num_steps",
    "Rollout.num_retries",
    "Gyms.levels",
    "Grpo.clip_low",
  }


def test_every_field_is_read_by_some_code(root):
  package = root / "userrl_jax"
  found = reads(
    [
      path.read_text()
      for path in sorted(package.rglob("*.py"))
      if str(path.relative_to(package)) not in _ABOUT_CONFIG
    ]
  )
  unread = [
    knob.path
    for knob in config_fields.knobs(config_lib.Config())
    if knob.key not in found
  ]
  assert not unread, f"no code reads {', '.join(unread)}"
