"""Pins what an evaluation measured: digests of model, user, tasks and config.

In: the parts of a run, params and tasks. Out: a small dict that is kept with
the numbers, so that equal pins mean equal conditions. Secrets and keys are not
in it, only digests of all together. JAX is loaded where there are params.
"""

from collections.abc import Iterable, Mapping, Sequence
import copy
import dataclasses
import functools
import hashlib
import json
import pathlib
import typing
from typing import Any

import userrl_jax
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import types
from userrl_jax.gyms import outside

if typing.TYPE_CHECKING:
  from userrl_jax import assembly
  from userrl_jax.models import qwen3

_PACKAGE = pathlib.Path(__file__).parent
_SOURCES = (".py", ".json", ".jsonl")  # of a gym's room


def of(
  parts: "assembly.Parts",
  params: "qwen3.Params | None",
  tasks: Sequence[types.Task],
) -> dict[str, Any]:
  """Computes the pins of an evaluation.

  Args:
    parts: of the run.
    params: of the policy; None for an agent that follows a script.
    tasks: that are played, in order.

  Returns:
    agent: the name of who plays, `evaluation.agent`
    model: digest of every param, of nothing for a script, or of an endpoint's
      model, address and way to call
    tokenizer: its fingerprint
    user: kind, model, and a digest of its settings and of the sources of the
      gyms that are played, which word what rules and models answer
    tasks: gym -> digest of its tasks, secrets included
    config: digest of the sections that play depends on, paths left out
    version: of the package
  """
  by_path: Mapping[str, str] = {}
  if params:
    from userrl_jax import digests
    from userrl_jax import leaves

    by_path = digests.of(leaves.arrays_by_path(params))
  fingerprint = parts.tokenizer.fingerprint
  return of_play(parts.config, tasks, sorted(by_path.items()), fingerprint)


def of_play(
  c: Any,
  tasks: Sequence[types.Task],
  model: Sequence[tuple[str, str]] = (),
  tokenizer: str = "",
) -> dict[str, Any]:
  """Computes what `of` does, also where no parts of a run are.

  Args:
    c: config of the run.
    tasks: that are played, in order.
    model: path and digest of every param; none for a script or a person.
    tokenizer: fingerprint of the policy's; "" where none plays.
  """
  by_gym: dict[str, list[types.Task]] = {}
  for task in tasks:
    by_gym.setdefault(task.gym, []).append(task)
  evaluation = dataclasses.asdict(c.evaluation)
  if not c.evaluation.held_out_gyms:  # as when there were none
    del evaluation["held_out_gyms"]
  if not c.evaluation.profiles:
    del evaluation["profiles"]
  user = dataclasses.asdict(c.user)
  for name in ("profiles", "on_leak"):
    if user[name] == getattr(config_lib.User(), name):
      del user[name]
  sections = (
    dataclasses.replace(c.model, folder=""),
    dataclasses.replace(c.tokenizer, folder=""),
    *(c.chat, c.gyms),
  )
  return {
    "agent": c.evaluation.agent,
    "model": _digest([*model, *_endpoint(c)]),
    "tokenizer": tokenizer,
    "user": {
      "kind": c.user.kind,
      "model": c.user.model,
      "digest": _digest([user, *_sources(by_gym)]),
    },
    "tasks": {gym: _digest(map(_task, own)) for gym, own in by_gym.items()},
    "config": _digest(
      [
        c.seed,
        *map(dataclasses.asdict, sections),
        user,
        *map(dataclasses.asdict, (c.rollout, c.engine, c.mesh)),
        *([dataclasses.asdict(c.local)] if c.user.kind == "local" else ()),
        evaluation,
      ]
    ),
    "version": userrl_jax.__version__,
  }


def under_way(
  pinned: Mapping[str, Any],
  c: Any,
  tasks: Sequence[types.Task],
  free: tuple[str, ...],
) -> dict[str, Any]:
  """Returns what must stay the same for an evaluation that is not complete.

  Args:
    pinned: as `of` gives it.
    c: config of the run.
    tasks: that are played, in order.
    free: beginnings of fields that may change while a run goes on.
  """
  plain = copy.deepcopy(c)
  for knob in config_fields.knobs(type(c)()):
    if knob.path.startswith(free):
      *sections, name = knob.path.split(".")
      setattr(functools.reduce(getattr, sections, plain), name, knob.value)
  now = of_play(plain, tasks)
  return {**pinned, "user": now["user"], "config": now["config"]}


def differences(
  pinned: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]
) -> list[str]:
  """Returns which of the named pins are not what they were."""
  return [name for name in names if pinned.get(name) != now.get(name)]


def _task(task: types.Task) -> list[Any]:
  values = dataclasses.asdict(dataclasses.replace(task, secret=None))
  return [values, task.secret.reveal()]


def _endpoint(c: Any) -> list[Any]:
  """Returns what tells the endpoint that plays from others, if one does."""
  if c.evaluation.agent != "endpoint":
    return []
  return [c.agent.model, c.agent.base_url or c.user.base_url, c.agent.tools]


def _sources(gyms: Iterable[str]) -> list[str]:
  """Returns digests of the files in the rooms of gyms, and what they share."""
  files = [_PACKAGE / "gyms" / "judging.py"]
  for gym in sorted(gyms):
    if outside.is_name(gym):
      files += outside.sources(gym, _SOURCES)
      continue
    folder = _PACKAGE / "gyms" / gym
    files += sorted(p for p in folder.rglob("*") if p.suffix in _SOURCES)
  return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def _digest(values: Iterable[Any]) -> str:
  text = json.dumps(list(values), sort_keys=True, default=_plain)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
  """Returns what JSON lacks as something that it has."""
  if isinstance(value, Mapping):
    return dict(value)
  if isinstance(value, (set, frozenset)):
    return sorted(map(repr, value))
  return repr(value)
