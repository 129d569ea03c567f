"""Kills a real run at every change its second checkpoint makes to files.

As `kill_test` does with a bare save: a library counts the calls that change
files below the checkpoints, and kills at the n-th. The same command, started
again, must end as a run that nothing interrupted.
"""

import collections
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests import killing
from tests import short_runs

NUM_STEPS = 3
# Imports once and forks for every start, before JAX starts threads. Reads lines
# "n log arguments"; answers each with how the child ended. Of a start with n
# that is not -1, changes count from the second checkpoint to the third.
_FORKING = textwrap.dedent("""
  import ctypes, os, sys
  from userrl_jax import checkpoint, flags, hosts, process, train

  process.use_compile_cache = lambda: None  # the environment names one
  plain_save = checkpoint.Store.save

  def run(n, log, *argv):
    shim = ctypes.CDLL(sys.argv[1])

    def save(self, step, *rest):
      if step == 2:
        shim.kill_at(str(self.folder).encode(), n, f"{log}.changes".encode())
      elif step == 3:
        self.wait()
        shim.kill_at(b"nowhere", 0, os.devnull.encode())
      plain_save(self, step, *rest)

    if n >= 0:
      checkpoint.Store.save = save
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    flags.run(hosts.joined(train.main), argv)

  assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"
  for line in sys.stdin:
    child = os.fork()
    if not child:
      code = 1
      try:
        n, *rest = line.split()
        run(int(n), *rest)
        code = 0
      finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""")


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  folder = tmp_path_factory.mktemp("run_killed")
  library = killing.built(folder)
  place = short_runs.Place(folder, root, NUM_STEPS)
  place.library = library
  return place


@pytest.fixture(scope="module")
def start(place):
  """Returns what starts a run: (name, log, n, flags) -> (exit code, output)."""
  with (
    (place.folder / "errors").open("w") as errors,
    subprocess.Popen(
      [sys.executable, "-c", _FORKING, place.library],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env=place.environment
      | killing.environment(place.library, place.folder / "compiled"),
      cwd=place.root,
    ) as forking,
  ):

    def run(name, log, n, *flags):
      argv = [f"{n}", f"{place.folder / log}", *place.flags(name), *flags]
      forking.stdin.write(" ".join(argv) + "\n")
      forking.stdin.flush()
      answer = forking.stdout.readline()
      assert answer, (place.folder / "errors").read_text()
      return int(answer), (place.folder / log).read_text()

    yield run
    forking.stdin.close()


@pytest.fixture(scope="module")
def whole(place, start):
  """The folder of a run that nothing interrupted, with all checkpoints."""
  keep = f"--config.checkpoint.keep={NUM_STEPS}"
  code, out = start("whole", "whole.log", -1, keep)
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
    code, out = start(run.name, "killed.log", n, keep)
    changes = (place.folder / "killed.log.changes").read_text().splitlines()
    os.remove(place.folder / "killed.log.changes")
    if code == 0:  # it had no n-th change
      break
    assert code == -signal.SIGKILL, out
    assert len(changes) >= n
    code, out = start(run.name, "again.log", -1, keep)
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
