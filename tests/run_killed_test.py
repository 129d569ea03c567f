"""Kills a real run at every change its second checkpoint makes to files.

As `kill_test` does with a bare save: a library counts the calls that change
files below the checkpoints, and kills at the n-th. The same command, started
again, must end as a run that nothing interrupted.
"""

import collections
import os
import shutil
import signal
import time

import pytest

from tests import killing
from tests import short_runs
from userrl_jax import checkpoint

NUM_STEPS = 3


def arm(shim, log, n):
  """Counts changes from the second checkpoint to the third."""
  plain_save = checkpoint.Store.save

  def save(self, step, *rest):
    if step == 2:
      shim.kill_at(str(self.folder).encode(), n, log)
    elif step == 3:
      self.wait()
      shim.kill_at(b"nowhere", 0, os.devnull.encode())
    plain_save(self, step, *rest)

  checkpoint.Store.save = save


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  folder = tmp_path_factory.mktemp("run_killed")
  library = killing.built(folder)
  place = short_runs.Place(folder, root, NUM_STEPS)
  place.library = library
  return place


@pytest.fixture(scope="module")
def start(place):
  with killing.starting(place, place.library, __name__) as started:
    yield started


@pytest.fixture(scope="module")
def whole(place, start):
  """The folder of a run that nothing interrupted, with all checkpoints."""
  keep = f"--config.checkpoint.keep={NUM_STEPS}"
  code, out = start("whole", "whole.log", (), keep)
  assert code == 0, out
  return place.folder / "whole"


def _begun(whole, name):
  """Copies a run as it was after its first step."""
  run = whole.with_name(name)
  shutil.copytree(whole, run)
  shutil.rmtree(run / "evaluations")
  for step in range(2, NUM_STEPS + 1):
    shutil.rmtree(run / "checkpoints" / "grpo" / str(step))
  return run


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("stride", [8, 1])
def test_killed_at_any_change_of_a_save_a_run_ends_the_same(
  place, start, whole, stride
):
  keep = "--config.checkpoint.keep=1"  # so that a save removes one, too
  gone_on, n, started = collections.Counter(), 0, time.monotonic()
  while True:
    n += stride
    run = _begun(whole, f"killed_{stride}_{n}")
    code, out = start(run.name, "killed.log", (n,), keep)
    changes = (place.folder / "killed.log.changes").read_text().splitlines()
    os.remove(place.folder / "killed.log.changes")
    if code == 0:  # it had no n-th change
      break
    assert code == -signal.SIGKILL, out
    assert len(changes) >= n
    code, out = start(run.name, "again.log", (), keep)
    assert code == 0, f"after {changes[n - 1]}: {out}"
    [line] = [x for x in out.splitlines() if "goes on after step" in x]
    gone_on[line] += 1
    print(f"{changes[n - 1]}: {line}", flush=True)
    short_runs.check_equal(run, whole, NUM_STEPS)
    shutil.rmtree(run)
  num_kills, s = gone_on.total(), time.monotonic() - started
  print(f"{num_kills} kills of {len(changes)} changes in {s:.0f} s", gone_on)
  assert len(changes) < n
  assert num_kills >= 80 // stride
  # Before the rename that makes it count, and after.
  assert {f"grpo: goes on after step {i} of 3" for i in (1, 2)} == set(gone_on)
