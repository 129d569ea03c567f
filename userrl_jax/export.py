"""Writes a run's checkpoint as a Hugging Face folder.

`python -m userrl_jax.export --run=runs/x --to=FOLDER` takes the last checkpoint
of the run's last stage (of its arms none; `--stage` names another) and writes
what `transformers` and `model.folder` load: `config.json`, the weights in
safetensors and, where the run's tokenizer is a published one, its files.
"""

import argparse
from collections.abc import Sequence
import json
import logging
import pathlib
import sys
from typing import Any

from userrl_jax import bases
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import run_folder
from userrl_jax import sharding
from userrl_jax.chat import tokenizers
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import weights

# Fields of a config.json that a model keeps when it is trained further.
_KEPT = (
  "max_position_embeddings",
  "bos_token_id",
  "eos_token_id",
  "pad_token_id",
)


def main(argv: Sequence[str] | None = None) -> int:
  """Exports the checkpoint that the arguments name; says what it wrote."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.export",
    description="Writes a run's checkpoint as a Hugging Face folder.",
  )
  parser.add_argument("--run", required=True, help="the run's out_dir")
  parser.add_argument("--stage", help="such as grpo; the last by default")
  parser.add_argument("--to", required=True, help="a new or empty folder")
  parser.add_argument(
    "--dtype", choices=list(weights.DTYPES), default="bfloat16"
  )
  arguments = parser.parse_args(argv)
  try:
    print(export(arguments.run, arguments.stage, arguments.to, arguments.dtype))
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def export(
  run_dir: published.Folder,
  stage: str | None,
  target: published.Folder,
  dtype: str = "bfloat16",
) -> str:
  """Writes the last checkpoint of a stage as a Hugging Face folder.

  Params are spread over all devices; the host holds a tensor at a time.
  Adapters are merged into what they adapt.

  Args:
    run_dir: the `out_dir` of a run.
    stage: of the run; None is its last that is no arm.
    target: a folder, new or empty.
    dtype: of the weights, one of `weights.DTYPES`.

  Returns:
    A line that says what was written.

  Raises:
    ValueError: when the run has no such checkpoint, or the target is not empty.
  """
  # Orbax warns that a checkpoint opened for reading is opened for reading.
  logging.getLogger("absl").setLevel(logging.ERROR)
  weights.check_target(target)
  run_dir = pathlib.Path(run_dir)
  config = _run_config(run_dir)
  stage = _stage(run_dir, config, stage)
  folder = run_dir / "checkpoints" / stage
  model = published.configured(config.model)
  tokenizer = None
  if config.tokenizer.kind == "huggingface":
    tokenizer = tokenizers.load(folder / "tokenizer", "huggingface")
  params, step = _load_params(folder, model)
  weights.save(
    target,
    params,
    model,
    dtype=dtype,
    fields=_fields(config, tokenizer),
    beside=tokenizer.save if tokenizer else None,
  )
  beside = "its tokenizer" if tokenizer else "no tokenizer: the run's is ours"
  return f"{target}: {folder} after step {step} as {dtype}, with {beside}"


def _run_config(run_dir: pathlib.Path) -> config_lib.Config:
  path = run_dir / "config.json"
  try:
    return config_fields.from_dict(json.loads(path.read_text(encoding="utf-8")))
  except FileNotFoundError as error:
    raise ValueError(
      f"--run must be the folder of a run, got {run_dir}, which holds no "
      "config.json; give the out_dir of a run"
    ) from error
  except ValueError as error:
    raise ValueError(f"{path} must be a run's config, got: {error}") from error


def _stage(
  run_dir: pathlib.Path, config: config_lib.Config, stage: str | None
) -> str:
  """Returns the stage to export, one that has begun."""
  begun = [s for s in config.stages if (run_dir / "checkpoints" / s).is_dir()]
  last = [s for s in config.stages if not s.startswith(run_folder.ARMS)][-1]
  if (stage or last) not in begun:
    raise ValueError(
      f"--stage must be one that {run_dir} has checkpoints of, got "
      f"{stage or last}; there is {', '.join(begun) or 'none'}"
    )
  return stage or last


def _load_params(
  folder: pathlib.Path, model: qwen3.Config
) -> tuple[qwen3.Params, int | None]:
  """Reads the last checkpoint, each device of this machine a part of it."""
  mesh = sharding.make_mesh(config_lib.Mesh(data=1, fsdp=-1))
  steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
  step = max(steps, default=None)
  return bases.load_params(folder, model, mesh, step), step


def _fields(
  config: config_lib.Config, tokenizer: tokenizers.Tokenizer | None
) -> dict[str, Any]:
  """Returns what else a config.json says, for those who sample."""
  if config.model.folder:
    path = pathlib.Path(config.model.folder) / "config.json"
    values = published.read_json(path)
    return {name: values[name] for name in _KEPT if name in values}
  if tokenizer is None:
    return {}
  return {
    "eos_token_id": tokenizer.im_end_id,
    "pad_token_id": tokenizer.pad_id,
  }


if __name__ == "__main__":
  sys.exit(main())
