"""Describes what runs: command, versions, devices and the state of the code."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from userrl_jax import assembly
from userrl_jax import flags

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def describe(parts: assembly.Parts, command: flags.Command) -> dict[str, Any]:
  """Returns what is needed to run the same again, JSON-ready.

  Args:
    parts: of the run.
    command: that started it.
  """
  return {
    "command": " ".join(["python", "-m", _module(), *command.argv]),
    "recipe": command.recipe,
    "differences": {k: list(v) for k, v in command.differences.items()},
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    "devices": [device.device_kind for device in jax.devices()],
    "num_cpus": os.cpu_count(),
    "num_rows": parts.config.engine.num_rows,
    "num_lanes": parts.config.engine.num_lanes,
    "tokenizer": parts.tokenizer.fingerprint,
    "git": _git(),
  }


def _module() -> str:
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  return spec.name if spec else "userrl_jax.train"


def _git() -> dict[str, Any] | None:
  """Returns the commit of the code and whether files differ from it."""
  folder = pathlib.Path(__file__).parent

  def run(*words: str) -> str:
    return subprocess.run(
      ["git", "-C", str(folder), *words],
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()

  try:
    return {
      "commit": run("rev-parse", "HEAD"),
      "changed": bool(run("status", "--porcelain", "--untracked-files=no")),
    }
  except (OSError, subprocess.SubprocessError):
    return None
