"""Kills a save at every change it makes to files: what is left is whole.

A library that is loaded before the C library counts the calls that create,
write, sync, rename and remove below the folder of the checkpoints, whoever
makes them, and kills the process at the n-th. So n runs through all of them.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import checkpoint

_COUNTS = ["rename", "/2.orbax-checkpoint-tmp"]  # to its final name
_SHIM = pathlib.Path(__file__).with_name("kill_at.c")
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
  compiler = shutil.which("cc") or shutil.which("gcc")
  if not compiler or not sys.platform.startswith("linux"):
    pytest.skip("needs Linux and a C compiler, for a library that kills")
  place = tmp_path_factory.mktemp("kills")
  shim = place / "kill_at.so"
  subprocess.run(
    [compiler, "-shared", "-fPIC", "-O1", "-o", shim, _SHIM, "-ldl"],
    check=True,
  )
  with (
    (place / "errors").open("w") as errors,
    subprocess.Popen(
      [sys.executable, "-c", _FORKING, shim],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env={
        **os.environ,
        "LD_PRELOAD": str(shim),
        "JAX_PLATFORMS": "cpu",
        "OPENBLAS_NUM_THREADS": "1",  # no thread before the fork
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      },
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


def _may_count(n, log):
  """Returns the steps that may count after a kill at the n-th change.

  Threads take turns that no two runs share, so each run's own log says
  whether the change that makes the second step count came before.
  """
  numbers = [
    int(line.split()[0]) for line in log if line.split()[1:] == _COUNTS
  ]
  if not numbers or numbers[0] == n:  # killed before it makes it
    return {1}
  if abs(numbers[0] - n) == 1:  # by another thread, at the same time
    return {1, 2}
  return {1} if numbers[0] > n else {2}


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
    assert code == -signal.SIGKILL and len(log) >= n
    found.append(_check_whole(folder))
    assert found[-1] in _may_count(n, log)
    shutil.rmtree(folder.parent)
  assert len(found) > 10 and set(found) == {1, 2}
