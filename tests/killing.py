"""The library that kills a process at a change of files, see `kill_at.c`."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest


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
