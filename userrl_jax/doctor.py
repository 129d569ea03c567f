"""Checks a set-up before a run depends on it, and plays a little with it.

`python -m userrl_jax.doctor --config=...` takes the flags of the run, and
prints a line a check: ok, warn or fail, and what to do. Keys (never shown),
endpoints, folders, tokenizer, devices and disk; then one live episode a gym, in
which the gym's oracle plays with the configured user, and what a whole run asks
at most at that rate. `--plan=v5p-16` instead plans memory and speed on a slice
of TPUs, without one (`plan_tables`). Exit code 0 when nothing fails, 1 when
something does, 2 for a config that is none. Writes nothing into `out_dir`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
import random
import shutil
import time
from typing import Any

import jax

from userrl_jax import assembly
from userrl_jax import audit
from userrl_jax import config as config_lib
from userrl_jax import demonstrate
from userrl_jax import flags
from userrl_jax import forecast
from userrl_jax import gyms
from userrl_jax import metrics
from userrl_jax import plan_tables
from userrl_jax import process
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax import users
from userrl_jax.chat import tokenizers
from userrl_jax.clients import endpoint
from userrl_jax.gyms import judging
from userrl_jax.gyms.search import web
from userrl_jax.models import published
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode
from userrl_jax.serving import host
from userrl_jax.users import profiles

OK, WARN, FAIL = "ok", "warn", "fail"

_MIN_PARSED = 0.95  # of replies, below which a model is no good user
_BYTES_A_PARAM = 12  # of a checkpoint: the param and two moments, float32
_ITERATION = -20  # of the live episodes: apart from all that a run draws


@dataclasses.dataclass(frozen=True)
class Line:
  """What a check came to."""

  status: str  # ok, warn or fail
  subject: str
  message: str


@dataclasses.dataclass(frozen=True)
class _Plan:
  """Of the parts of a run what a forecast needs."""

  config: config_lib.Config
  tasks: Sequence[types.Task]


def main(config: config_lib.Config, command: flags.Command) -> None:
  """Prints every check as it is done, or the plan that was asked for.

  Raises:
    SystemExit: with code 1, when one fails or what is planned does not fit.
  """
  if command.own.get("plan"):
    # Programs are compiled for devices that are elsewhere: none is looked for.
    jax.config.update("jax_platforms", "cpu")
    with flags.user_errors():
      is_fine = plan_tables.show(config, *map(str, command.own.values()))
    if not is_fine:
      raise SystemExit(1)
    return
  statuses = []
  for line in examine(config):
    print(f"{line.status:<5}{line.subject}: {line.message}", flush=True)
    statuses.append(line.status)
  counts = ", ".join(f"{statuses.count(s)} {s}" for s in (OK, WARN, FAIL))
  print(f"{'=':<5}{counts}")
  if FAIL in statuses:
    raise SystemExit(1)


def examine(config: config_lib.Config) -> Iterator[Line]:
  """Yields the checks of a set-up, in order.

  Args:
    config: validated by `config_rules.validate`.
  """
  checks: tuple[tuple[str, Callable[[config_lib.Config], Iterator[Line]]], ...]
  checks = (
    ("folders", _folders),
    ("tokenizer", _tokenizer),
    ("devices", _devices),
    ("disk", _disk),
    ("search key", _search_key),
    ("users", _users),
  )
  for subject, check in checks:
    try:
      yield from check(config)
    except (ValueError, OSError) as error:  # what a user can do wrong
      yield Line(FAIL, subject, str(error))


def _folders(config: config_lib.Config) -> Iterator[Line]:
  out_dir = pathlib.Path(config.out_dir)
  if not os.access(_existing(out_dir), os.W_OK):
    message = f"{out_dir} must be writable; give another out_dir"
    yield Line(FAIL, "out_dir", message)
  elif assembly.has_begun(out_dir):
    message = f"{out_dir} holds a run, which the same command goes on with"
    yield Line(
      WARN, "out_dir", f"{message}; give another out_dir to begin anew"
    )
  else:
    yield Line(OK, "out_dir", f"{out_dir} can be written")
  given = {
    "init_from": config.init_from,
    "model.folder": config.model.folder,
    "tokenizer.folder": config.tokenizer.folder,
  }
  if config.gyms.tasks not in ("generated", "pack"):
    given["gyms.tasks"] = config.gyms.tasks
  for field, path in given.items():
    if path and pathlib.Path(path).exists():
      yield Line(OK, field, f"{path} is there")
    elif path:
      message = (
        f"must be a folder that is there, got {path}; check its spelling"
      )
      yield Line(FAIL, field, message)


def _tokenizer(config: config_lib.Config) -> Iterator[Line]:
  settings = config.tokenizer
  if not settings.folder:
    message = "the built-in one, from init_from or trained as the run begins"
    yield Line(OK, "tokenizer", message)
    return
  found = tokenizers.load(settings.folder, settings.kind)
  model = published.configured(config.model)
  message = f"{found.vocab_size} ids; the model has {model.vocab_size}"
  if found.vocab_size > model.vocab_size:
    message += ": too few; choose the tokenizer of the model"
    yield Line(FAIL, "tokenizer", message)
  else:
    yield Line(OK, "tokenizer", message)


def _devices(config: config_lib.Config) -> Iterator[Line]:
  process.split_cpu(config.mesh.cpu_devices)
  found = jax.devices()
  mesh = sharding.make_mesh(config.mesh)
  sharding.row_sharding(mesh, config.packing.rows_per_micro_batch)
  shape = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
  message = f"{len(found)} x {found[0].device_kind}; mesh: {shape}"
  is_slow = found[0].platform == "cpu" and _num_params(config) > 10**8
  if is_slow:
    message += "; a model of this size wants a GPU or TPU: install that jax"
  yield Line(WARN if is_slow else OK, "devices", message)


def _disk(config: config_lib.Config) -> Iterator[Line]:
  one = _num_params(config) * _BYTES_A_PARAM
  num_kept = len(config.stages) * (config.checkpoint.keep + 1)
  free = shutil.disk_usage(_existing(pathlib.Path(config.out_dir))).free
  message = (
    f"{free / 1e9:.1f} GB free; a checkpoint takes about {one / 1e9:.3g} GB, "
    f"a run keeps {num_kept} at most"
  )
  if free < one:
    yield Line(FAIL, "disk", f"{message}; give an out_dir with more room")
  elif free < one * num_kept:
    yield Line(WARN, "disk", f"{message}; lower checkpoint.keep, or make room")
  else:
    yield Line(OK, "disk", message)


def _search_key(config: config_lib.Config) -> Iterator[Line]:
  search = config.gyms.search
  if search.source != "web" or "search" not in _played(config):
    return
  if config.recording.mode == "replay":
    yield Line(OK, "search key", "none is needed: a recording answers")
    return
  web.Web(search)  # refuses what is wrong with it
  yield Line(OK, "search key", f"{search.api_key_env} is set")


def _users(config: config_lib.Config) -> Iterator[Line]:
  """Yields what the user, asked live, comes to in every gym and a whole run."""
  if config.recording.mode == "replay":
    message = f"answers come from {config.recording.file}; nobody is asked here"
    yield Line(WARN, "user", f"{message}, and nothing is measured")
    return
  agent = users.agent_settings(
    config.user, config.agent, config.evaluation, config.rollout
  )
  user = users.User(
    config.user,
    config.judge,
    config.budget,
    agent=agent,
    models=host.local_models(config.user, config.judge, config.local),
  )
  asked = _endpoints(config, agent)
  for role, settings in asked.items():
    variable = settings.api_key_env
    has_one = bool(variable and os.environ.get(variable, "").strip())
    said = f"{variable} is set" if has_one else "none, and none is needed there"
    yield Line(OK, f"{role} key", said)  # a missing one has raised by now
  start = time.monotonic()
  asyncio.run(user.check())
  user.take_counts()
  seconds = time.monotonic() - start
  for role, settings in asked.items():
    where = settings.base_url or endpoint.OPENAI_URL
    answered = f"answered in {seconds:.2f} s"
    if len(asked) > 1:
      answered = f"answered, all {len(asked)} in {seconds:.2f} s"
    yield Line(OK, role, f"{settings.model} at {where} {answered}")
  if asked and not config.user.max_outage_s:
    message = "user.max_outage_s is 0: while an endpoint is down, all episodes "
    message += "are invalid and the run soon stops; set 600 to wait for it"
    yield Line(WARN, "outages", message)
  if config.user.kind == "local":
    message = f"the model of {config.user.model} answers in this process"
    yield Line(OK, "user", message)
  elif config.user.kind == "scripted":
    yield Line(OK, "user", "rules, which need no key")
  totals: dict[str, float] = {}
  seconds = 0.0
  for name in _played(config):
    try:
      line, counts, took = _live(config, user, name)
    except types.SetupError:  # which ends any run, and so the rest of this
      raise
    except ValueError as error:
      yield Line(FAIL, f"gym {name}", str(error))
      continue
    yield line
    seconds += took
    for key, value in counts.items():
      totals[key] = totals.get(key, 0.0) + value
  plan: Any = _Plan(config, assembly.load_tasks(config, "train"))
  try:
    said, short = forecast.at_rate(plan, totals, seconds)
  except ValueError as error:
    yield Line(WARN, "a whole run", f"cannot be foretold: {error}")
    return
  yield Line(WARN if short else OK, "a whole run", "; ".join((*said, *short)))


def _endpoints(
  config: config_lib.Config, agent: config_lib.User | None
) -> dict[str, config_lib.User]:
  """Returns the settings of every endpoint that a run asks, by role."""
  found: dict[str, config_lib.User] = {}
  if config.user.kind == "endpoint":
    found["user"] = config.user
    if config.judge.model:
      found["judge"] = users.judge_settings(config.user, config.judge)
  if agent is not None:
    found["agent"] = agent
  return found


def _live(
  config: config_lib.Config, user: users.User, name: str
) -> tuple[Line, Mapping[str, float], float]:
  """Plays an episode of a gym.

  Returns:
    What it came to, what it took of the endpoints (see `User.take_counts`), and
    its time in seconds.

  Raises:
    types.SetupError: when no episode can go better.
    ValueError: when the gym has no tasks, or nobody can answer in them.
  """
  task, *_ = gyms.load_tasks(name, config.gyms, "train", config.seed)
  seed = collect.episode_seed(config.seed, _ITERATION, task, -1)
  script = demonstrate.oracle_script(
    task, random.Random(seed), 0.0, config.gyms
  )
  settings = episode.Settings(
    config.rollout, config.gyms.max_turns, config.chat.profile, False
  )
  judges: list[judging.Judge | None] = []

  async def play() -> types.Trajectory:
    async with user.opened() as judge:
      judges.append(judge)
      gym = gyms.make(name, config.gyms, judge)
      mix = profiles.mix(config.user.profiles)
      if mix is not None and gym.talk:
        gym.manner = mix.of(task, seed, 0)
      return await episode.play(
        task,
        gym,
        demonstrate.Speaker(script),
        settings,
        seed=seed,
        member=0,
        iteration=_ITERATION,
      )

  start = time.monotonic()
  trajectory = asyncio.run(play())
  took = time.monotonic() - start
  counts = user.take_counts()
  line = _of_episode(config, trajectory, judges[0], counts, took)
  return line, counts, took


def _of_episode(
  config: config_lib.Config,
  trajectory: types.Trajectory,
  judge: judging.Judge | None,
  counts: Mapping[str, float],
  took: float,
) -> Line:
  """Returns the line of a live episode."""
  t = trajectory
  row = audit.of_episode(config, t.task, metrics.trajectory_record(t))
  leaks = sum(f.kind in ("leak", "premature", "stopped") for f in row.findings)
  num_turns = len(t.turns)
  said = [f"score {t.score:.2f} in {num_turns} turns"]
  said.append(f"{took / max(num_turns, 1):.2f} s a turn")
  parsed = 1.0
  if judge is not None and judge.num_replies:
    parsed = judge.num_verdicts / judge.num_replies
    said.append(f"{forecast.total(counts, 'requests'):.0f} requests")
    said.append(
      f"{forecast.total(counts, 'tokens_in'):.0f} tokens in, "
      f"{forecast.total(counts, 'tokens_out'):.0f} out"
    )
    if forecast.has_prices(config.user, config.judge):
      said.append(f"${forecast.total(counts, 'usd'):.6f}")
    said.append(f"{parsed:.0%} of {judge.num_replies} replies parsed")
  said.append(f"{leaks} leaks")
  if t.profile:
    said.append(f"a {t.profile} user")
  status, advice = OK, ""
  if not t.is_valid:
    status, advice = FAIL, f"; ended by {t.fault}: {t.detail}{_remedy(t.fault)}"
  elif parsed < _MIN_PARSED:
    status = WARN
    advice = "; set user.structured, raise user.max_tokens, or ask a better one"
  elif leaks:
    status, advice = WARN, "; the model tells what it must hide: ask another"
  return Line(status, f"gym {t.task.gym}", ", ".join(said) + advice)


def _remedy(fault: types.Fault) -> str:
  """Returns what to do about a fault."""
  asks = {
    types.Fault.USER_TIMEOUT: "raise user.timeout_s, or ask less at once",
    types.Fault.USER_BUSY: "set user.requests_per_minute or max_concurrent",
    types.Fault.USER_ERROR: "look at the endpoint's own log",
    types.Fault.USER_UNPARSABLE: "set user.structured, or ask another model",
    types.Fault.USER_LEAK: "set user.on_leak to reask, or ask another model",
    types.Fault.USER_REFUSAL: "ask another model",
  }
  return f"; {asks[fault]}" if fault in asks else ""


def _played(config: config_lib.Config) -> tuple[str, ...]:
  return config.gyms.names + config.evaluation.held_out_gyms


def _num_params(config: config_lib.Config) -> int:
  shapes = published.shapes(published.configured(config.model))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _existing(path: pathlib.Path) -> pathlib.Path:
  """Returns the folder that is there and holds, or will hold, a path."""
  path = path.absolute()
  while not path.exists():
    path = path.parent
  return path


if __name__ == "__main__":
  flags.run(main, own={"plan": "", "plan_sampling": plan_tables.SAMPLING[0]})
