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
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import secrets
import signal
import sys
import threading
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
from userrl_jax import process

Item = TypeVar("Item")

EXIT_CODE = 75  # of a host that lost another: start the same command again
_BEAT_S = 1.0
# JAX ends a process without a word of ours; by then it should have ended.
_JAX_LATER_S = 15
_TOGETHER_S = 10.0  # within it, hosts that end for the same reason do so
_KEY = "userrl_jax/hosts/"


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


def first_before_others(make: Callable[[], Item]) -> Item:
  """Returns what `make` gives, which the first host calls before the others.

  For what is made once and kept in the run's folder, where others find it.
  """
  made = make() if is_first() else None
  gather(None)
  return made if made is not None else make()


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
    folder: of the run, which all must share.

  Raises:
    ValueError: on every host; names what differs, and which host.
  """
  if jax.process_count() == 1:
    return
  mark = folder / "hosts.mark"
  if is_first():
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(word := secrets.token_hex(8))
  word = gather(word if is_first() else "")[0]
  is_shared = mark.exists() and mark.read_text() == word
  all_facts = gather({**facts, "out_dir": str(is_shared)})
  mark.unlink(missing_ok=True)
  for host, own in enumerate(all_facts):
    other = [name for name in own if own[name] != all_facts[0][name]]
    if other:
      raise ValueError(
        f"all hosts must have the same {', '.join(other)}, got another on "
        f"{_name(host, len(all_facts))} than on host 0; start them with the "
        "same command, code and files, and an out_dir that they share"
      )


@dataclasses.dataclass
class Heard:
  """What is known of a host."""

  beat: int = 0  # counts up as long as the host lives
  phase: str = "start"
  phase_s: float = 0.0  # how long it has been in it
  ended: str | None = None  # why, once it has
  at: float = 0.0  # when its last beat was heard, by our clock


def verdict(
  known: Mapping[int, Heard],
  now: float,
  timeout_s: float,
  max_phase_s: float,
  is_cut_off: bool = False,
) -> str:
  """Returns why hosts cannot go on; "" as long as they can.

  Args:
    known: of each host, this one included.
    now: by the clock of `Heard.at`.
    timeout_s: a host that was not heard of for longer is lost.
    max_phase_s: a host that is longer in one phase hangs.
    is_cut_off: host 0, over which all hear of each other, does not answer.
  """
  living = {}
  for host, heard in sorted(known.items()):
    who, silent_s = _name(host, len(known)), now - heard.at
    is_gone = is_cut_off and host == 0
    if heard.ended is None:
      living[host] = heard
      if is_gone or silent_s > timeout_s:
        return (
          f"{who} was last heard of {silent_s:.0f} s ago in phase {heard.phase}"
        )
    elif heard.ended and (is_gone or silent_s > _TOGETHER_S):
      return f"{who} ended in phase {heard.phase}: {heard.ended}"
  if not living:
    return ""
  # Whoever waits for it came to its own phase later.
  host, slowest = max(living.items(), key=lambda pair: pair[1].phase_s)
  if slowest.phase_s <= max_phase_s:
    return ""
  return (
    f"{_name(host, len(known))} has been in phase {slowest.phase} for "
    f"{slowest.phase_s:.0f} s, more than hosts.max_phase_s"
  )


class _Watch:
  """Tells the other hosts that this one lives, and listens to them."""

  def __init__(self, settings: config_hosts.Hosts, client: Any):
    self.is_leaving = False
    self._settings = settings
    self._client = client
    self._index, self._num_hosts = jax.process_index(), jax.process_count()
    now = time.monotonic()
    self._entered = now
    self._own = Heard(at=now)
    self._known = {host: Heard(at=now) for host in range(self._num_hosts)}
    self._num_failures = 0  # of talking, the last ones
    self._talked_at = now
    self.aborting_at: float | None = None
    self._has_news = threading.Event()
    # Talking may take long where the coordinator is in trouble.
    for loop in (self._talk_on, self._judge_on):
      threading.Thread(target=loop, daemon=True).start()

  def enter(self, phase: str) -> None:
    """Begins a phase, and has the others know soon."""
    self._own.phase, self._entered = phase, time.monotonic()
    self._has_news.set()

  def end(self, why: str) -> None:
    """Tells the others that this host ends; "" is that it is done."""
    self._own.ended = why
    self._talk()

  def wait_for_others(self, timeout_s: float) -> None:
    """Waits until the other hosts end as well."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
      if all(h.ended is not None for h in self._known.values()):
        return
      time.sleep(_BEAT_S / 4)

  def _talk_on(self) -> None:
    while not self.is_leaving:
      self._talk()
      self._has_news.wait(_BEAT_S)
      self._has_news.clear()

  def _judge_on(self) -> None:
    while not self.is_leaving:
      self._judge()
      time.sleep(_BEAT_S)

  def _talk(self) -> None:
    """Sends a beat to the coordinator, and takes those of all hosts."""
    self._own.beat += 1
    self._own.phase_s = time.monotonic() - self._entered
    text = json.dumps(dataclasses.asdict(self._own))
    try:
      self._client.key_value_set(
        f"{_KEY}{self._index}", text, allow_overwrite=True
      )
      beats = self._client.key_value_dir_get(_KEY)
    except RuntimeError:
      self._num_failures += 1
      return
    self._num_failures = 0
    now = self._talked_at = time.monotonic()
    for key, text in beats:
      host, new = int(key.rpartition("/")[2]), Heard(**json.loads(text))
      old = self._known[host]
      new.at = now if new.beat > old.beat else old.at
      self._known[host] = new

  def _is_cut_off(self) -> bool:
    """Returns whether the coordinator does not answer any more."""
    if self.aborting_at is None or self._talked_at > self.aborting_at:
      return self._num_failures > 1
    return time.monotonic() > self.aborting_at + 2 * _BEAT_S

  def _judge(self) -> None:
    """Ends this process, with nobody to wait for, when hosts cannot go on."""
    why = verdict(
      self._known,
      time.monotonic(),
      self._settings.heartbeat_timeout_s,
      self._settings.max_phase_s,
      is_cut_off=self._is_cut_off(),
    )
    if not why or self.is_leaving:
      return
    print(
      f"error: {why}; {_name(self._index, self._num_hosts)} ends in phase "
      f"{self._own.phase}. Start all hosts again with the same command: the "
      "run goes on from its last checkpoint",
      file=sys.stderr,
    )
    _exit(EXIT_CODE)


_watch: _Watch | None = None


def _join(settings: config_hosts.Hosts, cpu_devices: int) -> None:
  """Starts JAX's runtime of several hosts, and the watch.

  Raises:
    ValueError: when the hosts do not find each other.
  """
  global _watch
  process.split_cpu(cpu_devices)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
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
  _watch = _Watch(settings, multihost.get_jax_distributed_client())
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
  time.sleep(6 * _BEAT_S)


def _end(error: BaseException, settings: config_hosts.Hosts) -> NoReturn:
  """Ends a host on which a run failed, and tells the others why."""
  assert _watch is not None
  if isinstance(error, SystemExit):
    code = error.code if isinstance(error.code, int) else 1
    why = f"exit code {code}"
  else:
    code, why = 1, f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, RuntimeError):  # as JAX raises when a host is gone
      time.sleep(settings.heartbeat_timeout_s + 2 * _BEAT_S)
    traceback.print_exception(error)
  _watch.end(why)
  _watch.wait_for_others(_TOGETHER_S / 2)
  _exit(code)


def _leave() -> None:
  """Ends the runtime of several hosts where all are done."""
  assert _watch is not None
  _watch.end("")
  _watch.wait_for_others(float("inf"))
  _watch.is_leaving = True
  jax.distributed.shutdown()


def _exit(code: int) -> NoReturn:
  """Ends the process at once: leaving in order would wait for lost hosts."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _name(host: int, num_hosts: int) -> str:
  return f"host {host} of {num_hosts}"
