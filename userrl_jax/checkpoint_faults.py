"""What is done about checkpoints that cannot be written or read (law L10).

In: errors of the libraries below, or the steps of a stage's checkpoints and
what reads one. Out: errors that say which and why; and what the newest whole
checkpoint holds, said aloud where it is not the newest of all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import pathlib
import shutil
import time
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

from userrl_jax import host_watch
from userrl_jax import hosts

Read = TypeVar("Read")

_BETWEEN_S = 5.0
_NUM_LOOKS = int(hosts.SHOWN_WITHIN_S / _BETWEEN_S) + 1


class WriteError(OSError):
  """A checkpoint could not be written."""


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
  """Turns whatever is raised inside into a WriteError that names the folder."""
  try:
    yield
  except Exception as error:
    raise WriteError(
      f"a checkpoint must be written to {folder}, got {_why(error)}; make room "
      "or mend the disk, and start again: the run goes on from the one before"
    ) from error


def unreadable(where: pathlib.Path, error: Exception) -> ValueError:
  """Returns the error of a checkpoint that cannot be read, or is damaged."""
  return ValueError(
    f"checkpoint {where} must be readable, got {_why(error)}; restore a copy, "
    "or delete that folder to use the one before it"
  )


@contextlib.contextmanager
def on_all_hosts() -> Iterator[None]:
  """Raises on every host where a ValueError is raised inside on one.

  Else hosts would go on from different checkpoints, or wait for each other.
  What runs inside waits for no other host, or fails on all of them.
  """
  own = None
  try:
    yield
  except ValueError as error:
    own = error
  said = hosts.gather(str(own) if own else "")
  if own is not None:
    raise own
  for host, why in enumerate(said):
    if why:
      raise ValueError(f"{host_watch.name(host, len(said))}: {why}")


def seen_by_all(orbax: ocp.CheckpointManager) -> list[int]:
  """Returns the steps of a folder's checkpoints, which all hosts see.

  Else hosts would go on from different checkpoints. All call it together.

  Raises:
    ValueError: on every host, when they still see others after two minutes.
  """
  for look in range(_NUM_LOOKS):
    if look:
      time.sleep(_BETWEEN_S)
      orbax.reload()
    of_hosts = hosts.gather(sorted(orbax.all_steps()))
    others = [i for i, own in enumerate(of_hosts) if own != of_hosts[0]]
    if not others:
      return of_hosts[0]
  raise ValueError(
    f"all hosts must see the same checkpoints in {orbax.directory}, got "
    f"{of_hosts[0]} on host 0 and {of_hosts[others[0]]} on "
    f"{host_watch.name(others[0], len(of_hosts))}; give a folder that they "
    "share, and start all again"
  )


def newest_whole(
  steps: Iterable[int], read: Callable[[int], Read]
) -> tuple[Read, int, dict[int, ValueError]]:
  """Reads the newest checkpoint that can be read.

  Args:
    steps: of the checkpoints, at least one.
    read: reads one of them; raises ValueError where it cannot.

  Returns:
    What was read, its step, and what is wrong with each newer one. Shapes other
    than the wanted ones are damage too: all checkpoints of a stage have equal
    ones, so if an older one has what is wanted, a newer one is not as saved.

  Raises:
    ValueError: when none can be read.
  """
  failures: dict[int, ValueError] = {}
  for step in sorted(steps, reverse=True):
    try:
      return read(step), step, failures
    except ValueError as error:
      failures[step] = error
  newest, *older = failures
  others = ", ".join(map(str, older))
  more = f" (none before it can be used: {others})" if older else ""
  raise ValueError(f"{failures[newest]}{more}") from failures[newest]


def set_aside(
  folder: pathlib.Path,
  failures: Mapping[int, ValueError],
  used: int,
  tell: Callable[[str], None],
) -> None:
  """Renames checkpoints that cannot be read, so that new ones find room.

  They are not deleted: what could not be read may be the network's fault.

  Args:
    folder: of the checkpoints.
    failures: what is wrong with each.
    used: the step that is used instead.
    tell: shows a warning for each.
  """
  for step, error in failures.items():
    tell(
      f"WARNING: {error}. It is set aside as {step}.damaged; the run goes on "
      f"from checkpoint {used} and does the steps since then again"
    )
    if jax.process_index() == 0:
      aside = folder / f"{step}.damaged"
      shutil.rmtree(aside, ignore_errors=True)
      (folder / str(step)).rename(aside)
  ocp.multihost.sync_global_processes("damaged checkpoints are set aside")


def _why(error: Exception) -> str:
  text = " ".join(str(error).split())[:300]
  return f"{type(error).__name__}: {text}"
