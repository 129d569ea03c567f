"""Evaluates in a process of its own, for tests that kill it."""

import os
import pathlib
import subprocess
import sys

from userrl_jax import assembly
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax.learning import learner

NAME = "checkpoints@3"  # of what `keep` keeps, in its evaluations


def keep(folder: pathlib.Path, parts: assembly.Parts, params) -> pathlib.Path:
  """Writes a checkpoint of params below a folder; returns where."""
  kept = folder / "checkpoints"
  store = checkpoint.Store(kept, 1)
  store.describe(parts.tokenizer, config_fields.to_dict(parts.config))
  optimizer = config_lib.Optimizer()
  store.save(3, learner.init_state(params, optimizer, 1, parts.mesh), {})
  store.close()
  return kept


def start(root, recipe, out_dir, kept) -> subprocess.Popen:
  """Starts to evaluate a checkpoint; what it compiles is kept beside it."""
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "userrl_jax.evaluate"),
      *(f"--config={recipe}", f"--config.out_dir={out_dir}"),
      f"--config.init_from={kept}",
    ],
    cwd=root,
    env={
      **os.environ,
      "JAX_ENABLE_COMPILATION_CACHE": "true",
      "JAX_COMPILATION_CACHE_DIR": str(kept.parent / "compiled"),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
