"""Several hosts as one run: how they meet, and who tells that one is lost.

In: the section `hosts` of the config, the same on every host but for
`process_id`. Out: JAX's multi-controller runtime, started; small exchanges
between the hosts; and a watch that ends every host when one is lost or hangs,
and says which and in what phase. Alone, a process is host 0 of 1, an exchange
gives back what was put in, and nobody watches.

  host 0   rollout 0 | exchange | update ...   all run the same program, and
  host 1   rollout 0 ... | exchange | update   meet wherever one needs another
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import ctypes
import functools
import itertools
import json
import pathlib
import secrets
import signal
import time
import traceback
from typing import Any, NoReturn, TypeVar
import zlib

import jax
from jax.experimental import multihost_utils
import numpy as np
from orbax.checkpoint import multihost

from userrl_jax import config_hosts
from userrl_jax import flags
from userrl_jax import host_watch
from userrl_jax import process

Item = TypeVar("Item")

# A disk that hosts share may show one of them late what another wrote.
SHOWN_WITHIN_S = 120

# JAX ends a process without a word of ours; by then it should have ended.
_JAX_LATER_S = 15


def joined(main: Callable[..., None]) -> Callable[..., None]:
  """Makes an entry point join the other hosts first, and end with them.

  Args:
    main: takes a config and a command.

  Returns:
    The same, which meets the other hosts of `config.hosts`, if there are any.
    When it fails on one host, the others end too.
  """

  @functools.wraps(main)
  def meet_and_run(config, command):
    if not config.hosts.coordinator:
      return main(config, command)
    with flags.user_errors():
      _join(config.hosts, config.mesh.cpu_devices)
    try:
      main(config, command)
    except BaseException as error:
      _end(error, config.hosts)
    _leave()

  return meet_and_run


def enter(phase: str) -> None:
  """Says what this host does from now on, for when it is heard of no more."""
  if _watch is not None:
    _watch.enter(phase)


def is_first() -> bool:
  """Returns whether this is the host that writes the files of the run."""
  return jax.process_index() == 0


def share(items: Sequence[Item]) -> Sequence[Item]:
  """Returns the items of this host: every item is of exactly one host."""
  i, n = jax.process_index(), jax.process_count()
  return items[len(items) * i // n : len(items) * (i + 1) // n]


def gather(value: Any) -> list[Any]:
  """Returns what every host gave, in their order; all must call it together.

  Args:
    value: JSON-able.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(zlib.compress(json.dumps(value).encode(), 1), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(data.size))
  # A power of two: few sizes, few programs (law L4).
  padded = np.zeros(2 ** int(sizes.max() - 1).bit_length(), np.uint8)
  padded[: data.size] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(zlib.decompress(row[:size].tobytes()))
    for row, size in zip(rows, sizes, strict=True)
  ]


def first_before_others(
  make: Callable[[], Item], path: pathlib.Path | None = None
) -> Item:
  """Returns what `make` gives, which the first host calls before the others.

  For what is made once and kept in the run's folder, where others find it.

  Args:
    make: does so.
    path: of what it leaves there; others wait until they see it, as a disk
      that hosts share may show it late.

  Raises:
    ValueError: when they do not see it for two minutes.
  """
  made = make() if is_first() else None
  gather(None)
  if made is not None:
    return made
  if path is not None and not _is_shown(path):
    raise ValueError(
      f"all hosts must see {path}, which host 0 made, got no such file on "
      f"host {jax.process_index()}; give an out_dir that they share"
    )
  return make()


def check_joined(settings: config_hosts.Hosts) -> None:
  """Refuses settings of several hosts where the entry point knows of none.

  Raises:
    ValueError: says which entry points do.
  """
  if settings.coordinator and _watch is None:
    raise ValueError(
      "hosts.coordinator must be empty but for train and evaluate, got "
      f"{settings.coordinator!r}; leave it out, this runs on one host"
    )


def connect(mesh: jax.sharding.Mesh) -> None:
  """Has the devices of all hosts meet, over each choice of axes of the mesh.

  For a first meeting gloo, the CPU's way between hosts, waits half a minute,
  which it takes to compile an update; for later ones it has time.
  """
  if jax.process_count() == 1:
    return
  gather(None)
  axes = mesh.axis_names
  choices = [
    choice
    for size in range(1, len(axes) + 1)
    for choice in itertools.combinations(axes, size)
  ]
  whole = jax.sharding.PartitionSpec()
  meet = jax.shard_map(
    lambda x: [jax.lax.psum(x, choice) for choice in choices],
    mesh=mesh,
    in_specs=whole,
    out_specs=whole,
    check_vma=False,
  )
  jax.block_until_ready(jax.jit(meet)(np.ones((), np.float32)))


def check_same(facts: Mapping[str, str], folder: pathlib.Path) -> None:
  """Refuses hosts that would not run the same run.

  Args:
    facts: what must be equal on all, by name.
    folder: of the run, which all must share: within two minutes each must see
      there what host 0 wrote.

  Raises:
    ValueError: on every host; names what differs, and which host.
  """
  if jax.process_count() == 1:
    return
  mark_name = ""
  if is_first():
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("hosts.*.mark"):
      old.unlink(missing_ok=True)
    # Never looked for before: what a disk remembers of a name may be old.
    mark_name = f"hosts.{secrets.token_hex(8)}.mark"
    (folder / mark_name).touch()
  mark = folder / gather(mark_name)[0]
  all_facts = gather({**facts, "out_dir": str(_is_shown(mark))})
  if is_first():
    mark.unlink(missing_ok=True)
  for host, own in enumerate(all_facts):
    other = [name for name in own if own[name] != all_facts[0][name]]
    if other:
      raise ValueError(
        f"all hosts must have the same {', '.join(other)}, got another on "
        f"{host_watch.name(host, len(all_facts))} than on host 0; start them "
        "with the same command, code and files, and an out_dir that they share"
      )


def _is_shown(path: pathlib.Path) -> bool:
  """Returns whether this host sees what the first one made, soon enough."""
  until = time.monotonic() + SHOWN_WITHIN_S
  while not path.exists():
    if time.monotonic() > until:
      return False
    time.sleep(1)
  return True


_watch: host_watch.Watch | None = None


def _join(settings: config_hosts.Hosts, cpu_devices: int) -> None:
  """Starts JAX's runtime of several hosts, and the watch.

  Raises:
    ValueError: when the hosts do not find each other.
  """
  global _watch
  process.split_cpu(cpu_devices)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # It would keep signals from `stopping`, by which the hosts leave together.
  jax.config.update("jax_enable_preemption_service", False)
  who: dict[str, Any] = {}
  if settings.coordinator != "auto":
    who = {
      "coordinator_address": settings.coordinator,
      "num_processes": settings.num_processes,
      "process_id": settings.process_id,
    }
  try:
    jax.distributed.initialize(
      **who,
      heartbeat_timeout_seconds=settings.heartbeat_timeout_s + _JAX_LATER_S,
    )
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f"hosts.coordinator={settings.coordinator} must be where all hosts meet, "
      f"got {error}"
    ) from error
  _watch = host_watch.Watch(settings, multihost.get_jax_distributed_client())
  with contextlib.suppress(OSError, AttributeError):  # another C library
    ctypes.CDLL("libc.so.6").signal(signal.SIGABRT, _hold)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _hold(signum: int) -> None:
  """Holds a thread that aborts, while the watch finds out who was lost.

  JAX aborts at once where it cannot reach the coordinator. A handler of
  Python's own would run in another thread, too late.
  """
  if _watch is not None:
    _watch.aborting_at = time.monotonic()
  time.sleep(6 * host_watch.BEAT_S)


def _end(error: BaseException, settings: config_hosts.Hosts) -> NoReturn:
  """Ends a host on which a run failed, and tells the others why."""
  assert _watch is not None
  if isinstance(error, SystemExit):
    code = error.code if isinstance(error.code, int) else 1
    why = f"exit code {code}"
  else:
    code, why = 1, f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, RuntimeError):  # as JAX raises when a host is gone
      time.sleep(settings.heartbeat_timeout_s + 2 * host_watch.BEAT_S)
    traceback.print_exception(error)
  _watch.end(why, code)
  _watch.wait_for_others(host_watch.TOGETHER_S / 2)
  _watch.go_after_others(host_watch.TOGETHER_S / 2)
  host_watch.leave(code)


def _leave() -> None:
  """Ends the runtime of several hosts where all are done."""
  assert _watch is not None
  _watch.end("")
  _watch.wait_for_others(float("inf"))
  _watch.is_leaving = True
  jax.distributed.shutdown()
