"""What all tests share: a CPU, no compile cache, the folder of shared facts."""

import os
import pathlib

import pytest

# Set before any test imports JAX; subprocesses of tests inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A program that a former run compiled must not hide that this one cannot.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

_SHARED = "USERRL_SHARED"


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
