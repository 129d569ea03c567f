"""Makes a run fit its devices, or refuses it with the line to change.

In: a validated config, and what devices tell of their memory. Out: the config
with as many KV rows as fit, where it leaves that open; or an error, before
anything is compiled where shapes alone show it, else when a program runs out.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
import pathlib
from typing import Any

import jax

from userrl_jax import config as config_lib
from userrl_jax import flags
from userrl_jax import memory
from userrl_jax import plan
from userrl_jax import process
from userrl_jax import sharding

# KV rows of a device, or of those that share heads, that tells no limit: a CPU.
DEFAULT_ROWS = 64
# What rows may fill, with all that lives beside them and what calls make by
# shapes. The rest is for what only a compiled program tells.
_SHARE = 0.8
_MULTIPLE = 8  # of rows, where there are so many


def sized(
  config: config_lib.Config,
  devices: Sequence[Any] | None = None,
  platform: str = "",
  limit: int | None = None,
  reserved: int = 0,
) -> config_lib.Config:
  """Says how many KV rows and lanes a run has, where 0 leaves that open.

  Rows: those that the run in `out_dir` began with, for draws are equal to the
  bit for a fixed number of lanes alone; else as many as fit, and no more than
  episodes of an iteration. Lanes: as many as rows.

  Args:
    config: validated by `config_rules.validate`.
    devices: of the run; by default those that are there.
    platform: of the devices.
    limit: bytes of a device; by default what the devices tell to be free.
    reserved: bytes of a device that others take: models that act as users.

  Raises:
    ValueError: when lanes were given, and fewer rows fit.
  """
  engine = config.engine
  if engine.num_rows and engine.num_lanes:
    return config
  num_rows = engine.num_rows or _rows_of(pathlib.Path(config.out_dir))
  if not num_rows:
    devices, platform = devices or jax.devices(), platform or _platform()
    limit = _free() if limit is None else limit
    num_rows = _most_rows(config, devices, platform, limit, reserved)
  num_lanes = engine.num_lanes or num_rows
  if num_lanes > num_rows:
    raise ValueError(
      f"engine.num_lanes must be at most the {num_rows} KV rows that a device "
      f"has room for, got {num_lanes}; lower it, or set it to 0"
    )
  engine = dataclasses.replace(engine, num_rows=num_rows, num_lanes=num_lanes)
  return dataclasses.replace(config, engine=engine)


def check(config: config_lib.Config, limit: int | None = None) -> None:
  """Refuses a run that its devices cannot hold, before anything is compiled.

  Args:
    config: validated by `config_rules.validate`.
    limit: bytes of a device; by default what the devices tell to be free,
      which CPUs do not.

  Raises:
    ValueError: says what is needed, and which line to change.
  """
  process.split_cpu(config.mesh.cpu_devices)
  limit = _free() if limit is None else limit
  if limit:
    found = plan.setup(sized(config, limit=limit), jax.devices(), _platform())
    memory.check(found.need, limit, *plan.memory_sizes(found))


@contextlib.contextmanager
def explained(config: config_lib.Config) -> Iterator[None]:
  """Ends a run whose programs run out of memory with the line to change.

  Shapes are a lower bound, so what passed `check` may still not fit: XLA says
  so when it compiles for a TPU, on a GPU when it allocates.

  Args:
    config: as `sized` has it.

  Raises:
    SystemExit: with exit code 2, after a message.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    said = str(error).splitlines()[0]
    found = plan.setup(config, jax.devices(), _platform())
    learning = memory.smaller_update(
      found.need, found.need.update - 1, found.model, config.packing, found.mesh
    )
    half = max(1, config.engine.num_rows // 2)
    with flags.user_errors():
      raise ValueError(
        f"a run must fit into the memory of its devices, got {said}\n"
        f"where it learned, {learning}\n"
        f"where it played, set engine.num_rows and engine.num_lanes to {half} "
        f"or less (now {config.engine.num_rows}), lower engine.extend_tokens "
        f"(now {config.engine.extend_tokens}), or raise mesh.tensor\n"
        "and give another --config.out_dir; doctor --plan tells beforehand"
      ) from error


def _most_rows(
  config: config_lib.Config,
  devices: Sequence[Any],
  platform: str,
  limit: int,
  reserved: int,
) -> int:
  """Returns how many rows fit, at least one, and no more than are of use."""
  num_lanes = config.engine.num_lanes or 1
  one = dataclasses.replace(config.engine, num_rows=1, num_lanes=num_lanes)
  config = dataclasses.replace(config, engine=one)
  found = plan.setup(config, devices, platform)
  num_rows = DEFAULT_ROWS
  if limit:
    room = round(_SHARE * limit) - reserved
    num_rows = max(1, memory.rows_that_fit(found.need, room, 1))
    if num_rows >= _MULTIPLE:
      num_rows -= num_rows % _MULTIPLE
  num_hosts = found.mesh.size // found.host_mesh.size
  num_tiles = sharding.num_row_parts(found.host_mesh) * num_hosts
  num_episodes = config.grpo.tasks_per_iteration * config.grpo.group_size
  alive = num_episodes * (1 + config.rollout.max_staleness)
  return min(num_rows, -(-alive // num_tiles))


def _rows_of(folder: pathlib.Path) -> int:
  """Returns the KV rows of the run in a folder; 0 where there is none."""
  path = folder / "config.json"
  try:
    return json.loads(path.read_text())["engine"]["num_rows"]
  except (OSError, ValueError, KeyError):  # of another version: told elsewhere
    return 0


def _free() -> int:
  """Returns the bytes free on the fullest device; 0 where one tells none.

  Nothing of a run is on its devices when this is asked: params come later, and
  models that act as users are `reserved` for. So what is in use stays so.
  """
  free = []
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if not stats.get("bytes_limit"):
      return 0
    free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
  return max(1, min(free))


def _platform() -> str:
  return jax.default_backend()
