"""Kills a save at every change it makes to files: what is left is whole.

A library that is loaded before the C library counts the calls that create,
write, sync, rename and remove below the folder of the checkpoints, whoever
makes them, and kills the process at the n-th. So n runs through all of them.
"""

import collections
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import killing
from userrl_jax import checkpoint

# A line of strace: when, which call, with what.
_TRACED = re.compile(r"([\d.]+) (\w+)\((.*)")
_WHERE = re.compile(
  r"""(?:(?:AT_FDCWD|\d+)<(?P<file>[^>]*)>,?\s*)?"""
  r"""(?:"(?P<path>[^"]*)")?"""
)
_CHANGES = {
  *("write", "pwrite", "writev", "pwritev", "pwritev2", "sendfile", "splice"),
  *("copy_file_range", "fallocate", "truncate", "ftruncate", "mkdir", "mknod"),
  *("remove", "rename", "link", "symlink", "fsync", "fdatasync"),
  *("sync_file_range", "chmod", "fchmod", "chown", "fchown", "utimens"),
  *("setxattr", "fsetxattr", "removexattr", "fremovexattr"),
}
_COUNTS = ["rename", "/2.orbax-checkpoint-tmp"]  # to its final name
# Imports once and forks for every kill, before JAX starts threads. Reads lines
# "folder n log"; answers each with how the child ended.
_FORKING = textwrap.dedent("""
  import ctypes, os, pathlib, sys
  import jax, jax.numpy as jnp
  from userrl_jax import checkpoint

  class Words:
    fingerprint = "f" * 64
    def save(self, folder):
      (pathlib.Path(folder) / "words.txt").write_text("a b c")

  def state(n):
    return {"params": {"w": jnp.full((3, 4), n), "v": jnp.ones(5) * n}}

  def save_twice(folder, n, log):
    with checkpoint.Store(folder, keep=1) as store:
      store.save(1, state(1), {"n": 1})
    shim = ctypes.CDLL(sys.argv[1])
    shim.kill_at(folder.encode(), int(n), log.encode())
    with checkpoint.Store(folder, keep=1) as store:
      store.describe(Words(), {"seed": 1})
      store.save(2, state(2), {"n": 2})

  assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"
  for line in sys.stdin:
    child = os.fork()
    if not child:
      code = 1
      try:
        save_twice(*line.split())
        code = 0
      finally:
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""")


@pytest.fixture(scope="module")
def save_killed_at(tmp_path_factory):
  """Returns what runs a save that is killed: n -> (exit code, folder, log)."""
  place = tmp_path_factory.mktemp("kills")
  library = killing.built(place)
  with (
    (place / "errors").open("w") as errors,
    subprocess.Popen(
      [sys.executable, "-c", _FORKING, library],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env=killing.environment(library, place / "compiled"),
      cwd=pathlib.Path(checkpoint.__file__).parents[1],
    ) as forking,
  ):

    def save(n):
      folder, log = place / f"{n}" / "grpo", place / f"{n}.log"
      forking.stdin.write(f"{folder} {n} {log}\n")
      forking.stdin.flush()
      answer = forking.stdout.readline()
      assert answer, (place / "errors").read_text()
      return int(answer), folder, log.read_text().splitlines()

    yield save
    forking.stdin.close()


def _check_whole(folder):
  """Returns the step that a killed folder goes on from, after going on."""
  said: list[str] = []
  wanted = {
    "params": {
      "w": jax.ShapeDtypeStruct((3, 4), jnp.int32),
      "v": jax.ShapeDtypeStruct((5,), jnp.float32),
    }
  }
  with checkpoint.Store(folder, keep=1, tell=said.append) as store:
    state, extras = store.restore(wanted)
    step = extras["n"]
    np.testing.assert_array_equal(state["params"]["w"], np.full((3, 4), step))
    np.testing.assert_array_equal(state["params"]["v"], np.full(5, step))
    assert store.latest_step() == step
    store.save(3, state, {"n": 3})
  assert said == []  # a killed save leaves nothing that looks finished
  return step


def test_the_changes_of_a_save_are_seen(save_killed_at):
  code, folder, log = save_killed_at(0)
  assert code == 0 and _check_whole(folder) == 2
  calls = {line.split()[1] for line in log}
  print(len(log), "changes:", sorted(calls))
  assert {"write", "mkdir", "rename", "open"} <= calls
  assert calls & {"unlink", "unlinkat"} and calls & {"fsync", "fdatasync"}
  where = {line.split(" ", 2)[2].strip("/").partition("/")[0] for line in log}
  assert {"tokenizer.tmp", "config.tmp", "1"} <= where


def _counts(n, log):
  """Returns the step that counts after a kill at the n-th change.

  Threads take turns that no two runs share, so each run's own log says
  whether the change that makes the second step count came before.
  """
  numbers = [
    int(line.split()[0]) for line in log if line.split()[1:] == _COUNTS
  ]
  return 2 if numbers and numbers[0] < n else 1


def _kind(call):
  """Returns what a call changes, whatever its form: with a folder, 64 bits."""
  call = re.sub(r"(at2?)?(64)?$", "", call)
  return "remove" if call in ("unlink", "rmdir") else call


def _path(kind, rest):
  """Returns what a traced call changes: its first path, or its last file."""
  if kind in ("mmap", "copy_file_range"):
    return (re.findall(r"\d<([^>]*)>", rest) or [""])[-1]
  where = _WHERE.match(rest)
  return os.path.join(where["file"] or "", where["path"] or "").rstrip("/")


def _traced(folder, log, traces):
  """Counts the (kind, path) that strace saw below a folder, once log is open.

  Each thread has a file of its own, so no call is torn in two.
  """
  calls = [
    _TRACED.fullmatch(line).groups()
    for path in traces
    for line in path.read_text().splitlines()
    if _TRACED.fullmatch(line)
  ]
  begins = min(float(at) for at, _, rest in calls if f'"{log}"' in rest)
  found = collections.Counter()
  for at, call, rest in calls:
    if float(at) <= begins:
      continue
    kind = _kind(call)
    is_change = kind in _CHANGES or (
      (kind == "open" and re.search("O_CREAT|O_TRUNC", rest))
      or (kind == "mmap" and "PROT_WRITE" in rest and "MAP_SHARED" in rest)
    )
    path = _path(kind, rest)
    if is_change and path.startswith(str(folder)):
      found[kind, path.removeprefix(str(folder))] += 1
  return found


@pytest.mark.exhaustive
def test_no_change_escapes_the_library(tmp_path):
  """What the kernel was asked for is what the library counts."""
  if not shutil.which("strace"):
    pytest.skip("needs strace, to see every call")
  library = killing.built(tmp_path)
  folder, log = tmp_path / "grpo", tmp_path / "log"
  done = subprocess.run(
    [
      *("strace", "-ff", "-y", "-ttt", "-s", "0", "-e", "trace=%file,%desc"),
      *("-o", tmp_path / "trace", sys.executable, "-c", _FORKING, library),
    ],
    input=f"{folder} 0 {log}\n",
    capture_output=True,
    text=True,
    env=killing.environment(library, tmp_path / "compiled"),
    cwd=pathlib.Path(checkpoint.__file__).parents[1],
  )
  assert done.returncode == 0 and done.stdout == "0\n", done.stderr
  counted = collections.Counter()
  for line in log.read_text().splitlines():
    _, call, path = line.split(" ", 2)
    counted[_kind(call), path] += 1
  traced = _traced(folder, log, tmp_path.glob("trace.*"))
  print(counted.total(), "changes, traced", traced.total())
  assert counted.total() > 80 and traced == counted


@pytest.mark.slow
@pytest.mark.parametrize(
  "stride", [8, pytest.param(1, marks=pytest.mark.exhaustive)]
)
def test_killed_at_any_change_a_save_leaves_a_whole_checkpoint(
  save_killed_at, stride
):
  found, n = [], 0
  while True:
    n += stride
    code, folder, log = save_killed_at(n)
    if code == 0:  # it had no n-th change
      break
    errors = folder.parent.parent / "errors"
    assert (code, len(log)) == (-signal.SIGKILL, n), errors.read_text()
    found.append(_check_whole(folder))
    assert found[-1] == _counts(n, log)
    shutil.rmtree(folder.parent)
  assert len(found) > 10 and set(found) == {1, 2}
