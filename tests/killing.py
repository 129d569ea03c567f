"""Starts runs that a library kills at a change of files, see `kill_at.c`.

A process imports once and forks for every start, before JAX starts threads. A
test module has an `arm(shim, log, *words)` that puts the library's `kill_at`
where its changes are to be counted; starts name that module.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

_FORKING = textwrap.dedent("""
  import ctypes, importlib, json, os, sys
  from userrl_jax import flags, hosts, process, train

  process.use_compile_cache = lambda: None  # the environment names one
  arm = importlib.import_module(sys.argv[2]).arm

  def run(log, armed, argv):
    if armed:
      arm(ctypes.CDLL(sys.argv[1]), f"{log}.changes".encode(), *armed)
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
        run(*json.loads(line))
        code = 0
      finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""")


def built(folder: pathlib.Path) -> pathlib.Path:
  """Builds the library in a folder; skips the test where it cannot be."""
  compiler = shutil.which("cc") or shutil.which("gcc")
  if not compiler or not sys.platform.startswith("linux"):
    pytest.skip("needs Linux and a C compiler, for a library that kills")
  library = folder / "kill_at.so"
  source = pathlib.Path(__file__).with_name("kill_at.c")
  subprocess.run(
    [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"],
    check=True,
  )
  return library


def environment(
  library: pathlib.Path, compiled: pathlib.Path
) -> dict[str, str]:
  """Returns that of a process that loads the library, and forks later on."""
  return {
    **os.environ,
    "LD_PRELOAD": str(library),
    "JAX_PLATFORMS": "cpu",
    "OPENBLAS_NUM_THREADS": "1",  # no thread before the fork
    "JAX_ENABLE_COMPILATION_CACHE": "true",
    "JAX_COMPILATION_CACHE_DIR": str(compiled),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


@contextlib.contextmanager
def starting(place, library: pathlib.Path, module: str):
  """Yields what starts a run: (name, log, armed, *flags) -> (code, output).

  Args:
    place: a `short_runs.Place`.
    library: from `built`.
    module: has `arm`, which is given the words `armed`; none arm nothing.
  """
  errors = place.folder / "errors"
  with (
    errors.open("w") as said,
    subprocess.Popen(
      [sys.executable, "-c", _FORKING, library, module],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=said,
      text=True,
      env=place.environment | environment(library, place.folder / "compiled"),
      cwd=place.root,
    ) as forking,
  ):

    def start(name, log, armed, *flags):
      log = place.folder / log
      words = [str(log), list(armed), [*place.flags(name), *flags]]
      forking.stdin.write(json.dumps(words) + "\n")
      forking.stdin.flush()
      answer = forking.stdout.readline()
      assert answer, errors.read_text()
      return int(answer), log.read_text()

    yield start
    forking.stdin.close()
