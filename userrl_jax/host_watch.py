"""Watches the hosts of a run: who is heard of, and who is lost or hangs.

In: what each host does, told to the others over JAX's key-value store, a beat a
second. Out: the end of this process, with a message that names the host and its
phase, as soon as the hosts cannot go on together.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

import jax

from userrl_jax import config_hosts

EXIT_CODE = 75  # of a host that lost another: start the same command again
BEAT_S = 1.0
TOGETHER_S = 10.0  # within it, hosts that end for the same reason do so
# Hosts that enter one phase within it do so together: none waits for another.
SAME_S = 5.0
_KEY = "userrl_jax/hosts/"


@dataclasses.dataclass
class Heard:
  """What is known of a host."""

  beat: int = 0  # counts up as long as the host lives
  phase: str = "start"
  phase_s: float = 0.0  # how long it has been in it
  num_phases: int = 0  # that it entered; all hosts enter the same, in order
  ended: str | None = None  # why, once it has
  code: int = EXIT_CODE  # that it ends with, once it has ended
  is_gone: bool = False  # it needs to hear of nobody any more
  at: float = 0.0  # when its last beat was heard, by our clock


def verdict(
  known: Mapping[int, Heard],
  now: float,
  timeout_s: float,
  max_phase_s: float,
  is_cut_off: bool = False,
  own: int = -1,
) -> tuple[str, int]:
  """Returns why hosts cannot go on, and the exit code of those that are left.

  "" and 0 as long as they can. The code is that of a host that ended: what
  failed there fails again. Where one is lost or hangs, a restart may help.

  Args:
    known: of each host, this one included.
    now: by the clock of `Heard.at`.
    timeout_s: a host that was not heard of for longer is lost.
    max_phase_s: a host that is longer in one phase hangs.
    is_cut_off: host 0, over which all hear of each other, does not answer.
    own: this host. Host 0 is answered by itself, unless another was lost.
  """
  gone = 0 if is_cut_off else -1
  if is_cut_off and own == 0:
    others = [h for h in known if h and known[h].ended != ""]
    gone = min(others, key=lambda host: known[host].at, default=-1)
  living = {}
  for host, heard in sorted(known.items()):
    who, silent_s = name(host, len(known)), now - heard.at
    is_gone = host == gone
    if heard.ended is None:
      living[host] = heard
      if is_gone or silent_s > timeout_s:
        why = f"last heard of {silent_s:.0f} s ago in phase {heard.phase}"
        return f"{who} was {why}", EXIT_CODE
    elif heard.ended and (is_gone or silent_s > TOGETHER_S):
      return f"{who} ended in phase {heard.phase}: {heard.ended}", heard.code
  why = _hang(living, len(known), max_phase_s)
  return why, EXIT_CODE if why else 0


def _hang(living: Mapping[int, Heard], num: int, max_phase_s: float) -> str:
  """Returns which host hangs, or that none can be told; "" where none does."""
  if not living:
    return ""
  if max(heard.phase_s for heard in living.values()) <= max_phase_s:
    return ""
  # Whoever waits for it came further, or else to the same phase later.
  host, slowest = min(
    living.items(), key=lambda pair: (pair[1].num_phases, -pair[1].phase_s)
  )
  is_longest = slowest.phase_s > max_phase_s
  limit = "more than " if is_longest else "and another waits for more than "
  since = f"phase {slowest.phase} for {slowest.phase_s:.0f} s, {limit}"
  others = [heard for other, heard in living.items() if other != host]
  if others and all(
    (heard.phase, heard.num_phases) == (slowest.phase, slowest.num_phases)
    and slowest.phase_s - heard.phase_s <= SAME_S
    for heard in others
  ):
    return (
      f"all {len(living)} hosts have been in {since}hosts.max_phase_s, and "
      "came there together, so none can be told to hold the others up"
    )
  return f"{name(host, num)} has been in {since}hosts.max_phase_s"


class Watch:
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
    self._own.num_phases += 1
    self._has_news.set()

  def end(self, why: str, code: int = 0) -> None:
    """Tells the others that this host ends; "" is that it is done.

    Args:
      why: what happened.
      code: that this host, and so the others, will end with.
    """
    self._own.ended, self._own.code = why, code
    self._talk()

  def wait_for_others(self, timeout_s: float) -> None:
    """Waits until the other hosts end as well."""
    self._wait(lambda heard: heard.ended is not None, timeout_s)

  def go_after_others(self, timeout_s: float) -> None:
    """Says that this host goes; host 0 waits until the others have said so.

    All hear of each other over host 0: without it a host that has not heard
    yet that the others end, too, would take host 0 for lost.
    """
    self._own.is_gone = True
    self._talk()
    if self._index == 0:
      self._wait(lambda heard: heard.is_gone, timeout_s)

  def _wait(self, is_so: Callable[[Heard], bool], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and not all(
      is_so(heard) for heard in self._known.values()
    ):
      time.sleep(BEAT_S / 4)

  def _talk_on(self) -> None:
    while not self.is_leaving:
      self._talk()
      self._has_news.wait(BEAT_S)
      self._has_news.clear()

  def _judge_on(self) -> None:
    while not self.is_leaving:
      self._judge()
      time.sleep(BEAT_S)

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
    return time.monotonic() > self.aborting_at + 2 * BEAT_S

  def _judge(self) -> None:
    """Ends this process, with nobody to wait for, when hosts cannot go on."""
    why, code = verdict(
      self._known,
      time.monotonic(),
      self._settings.heartbeat_timeout_s,
      self._settings.max_phase_s,
      is_cut_off=self._is_cut_off(),
      own=self._index,
    )
    if not why or self.is_leaving:
      return
    again = "Start" if code == EXIT_CODE else "When that is mended, start"
    print(
      f"error: {why}; {name(self._index, self._num_hosts)} ends in phase "
      f"{self._own.phase}. {again} all hosts again with the same command: the "
      "run goes on from its last checkpoint",
      file=sys.stderr,
    )
    leave(code)


def leave(code: int) -> NoReturn:
  """Ends the process at once: leaving in order would wait for lost hosts."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def name(host: int, num_hosts: int) -> str:
  """Returns what messages call a host."""
  return f"host {host} of {num_hosts}"
