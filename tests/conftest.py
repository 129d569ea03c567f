"""What tests share: a CPU, compiled programs, the folder of shared facts."""

import atexit
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

# Set before any test imports JAX; subprocesses of tests inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Workers and processes of tests share what they compile, in a folder of this
# test run alone: what a former one compiled must not hide that this one cannot.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _compiled = tempfile.mkdtemp(prefix="userrl_jax_compiled_")
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

_SHARED = "USERRL_SHARED"


def pytest_collection_modifyitems(config, items):
  """Leaves out what is exhaustive, unless asked for; slow files go first.

  A worker takes a file at a time, so one that starts late would run alone.
  """
  if "exhaustive" not in config.option.markexpr:
    left_out = [i for i in items if i.get_closest_marker("exhaustive")]
    items[:] = [i for i in items if not i.get_closest_marker("exhaustive")]
    config.hook.pytest_deselected(items=left_out)
  slow = {i.path for i in items if i.get_closest_marker("slow")}
  items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """Returns the folder of shared facts, which a checkout alone does not have.

  Skips when USERRL_SHARED is unset; fails when it is set to no folder.
  """
  folder = os.environ.get(_SHARED)
  if not folder:
    pytest.skip(f"{_SHARED} names no folder of shared facts")
  path = pathlib.Path(folder)
  if not path.is_dir():
    pytest.fail(f"{_SHARED} must be a folder, got {folder}")
  return path


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """Returns the root of the checkout."""
  return pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def run_apart(request):
  """Returns a function that runs this test in a process of its own.

  Its arguments are variables of that process's environment.
  """

  def run(**environment):
    done = subprocess.run(
      [
        *(sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"),
        *("-n0", "-o", "python_files=*_test.py"),
        *("-m", "exhaustive or not exhaustive"),
        *("--rootdir", request.config.rootpath),
        f"{request.node.path}::{request.node.name}",
      ],
      env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
      capture_output=True,
      text=True,
    )
    print(done.stdout)
    output = done.stdout + done.stderr
    assert done.returncode == 0 and "1 passed" in done.stdout, output

  return run


@pytest.fixture
def eight_devices(run_apart) -> bool:
  """Returns whether there are eight devices; else the test has run with them.

  Their number is fixed when JAX starts, so it runs anew in another process.
  """
  import jax  # not before the environment is set

  if jax.device_count() == 8:
    return True
  # Less optimised code compiles in half the time.
  run_apart(
    XLA_FLAGS="--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0"
  )
  return False
