"""Finds the newest checkpoint that is whole, and sets damaged ones aside.

In: the steps of a stage's checkpoints and what reads one. Out: what the newest
whole one holds, said aloud where it is not the newest of all (law L10).
"""

from collections.abc import Callable, Iterable, Mapping
import pathlib
import shutil
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

Read = TypeVar("Read")


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
