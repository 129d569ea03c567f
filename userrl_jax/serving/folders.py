"""Finds a model in a folder: a run, its checkpoints, or published weights.

In: a path. Out: a `Source` with the model's shape, tokenizer and chat, all
checked, and a way to load the params. Which kind a folder is of, its
`config.json` tells.
"""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

import jax

from userrl_jax import bases
from userrl_jax import checkpoint
from userrl_jax import config_fields
from userrl_jax import run_folder
from userrl_jax import sharding
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import weights

DTYPES = ("auto", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Source:
  """A model that lies in a folder."""

  name: str
  model: qwen3.Config
  chat: chat_lib.Chat  # with the model's tokenizer
  load: Callable[[jax.sharding.Mesh], qwen3.Params]  # float32, on the mesh


def read(
  path: str, field: str, dtype: str = "auto", thinking: bool | None = None
) -> Source:
  """Reads what a folder says of its model; loads no params.

  Args:
    path: the `out_dir` of a run, whose last stage that is no arm is taken; or
      a run's `checkpoints/<stage>`; or published weights with their tokenizer.
    field: how messages name the path.
    dtype: to compute in, one of `DTYPES`; auto is the run's own, and for
      published weights bfloat16 but on a CPU.
    thinking: whether turns may begin with a think block; None is as the run
      has it, and yes for published weights.

  Raises:
    ValueError: when there is no such folder, or no whole model in it.
  """
  folder = pathlib.Path(path)
  if not path or not folder.is_dir():
    raise ValueError(
      f"{field} must be the folder of a run, of checkpoints or of published "
      f"weights, got {path!r}, which is no folder"
    )
  values = published.read_json(folder / "config.json")
  if "model_type" in values:
    source = _published(folder, dtype, thinking)
  else:
    source = _trained(folder, values, field, dtype, thinking)
  size, num_ids = source.model.vocab_size, source.chat.tokenizer.vocab_size
  if num_ids > size:
    raise ValueError(
      f"{field}: the model in {path} must hold its tokenizer's ids, got {size} "
      f"for {num_ids}; copy the tokenizer that it was made with"
    )
  model = dataclasses.replace(source.model, num_ids=num_ids, attention="xla")
  return dataclasses.replace(source, model=model)


def _published(
  folder: pathlib.Path, dtype: str, thinking: bool | None
) -> Source:
  if dtype == "auto":
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  model = dataclasses.replace(published.read_config(folder), dtype=dtype)
  is_small = (folder / tokenizers.SentencePieceTokenizer.FILE).is_file()
  has_both = (folder / tokenizers.HuggingFaceTokenizer.FILE).is_file()
  kind = "sentencepiece" if is_small and not has_both else "huggingface"
  return Source(
    folder.resolve().name,
    model,
    chat_lib.Chat(tokenizers.load(folder, kind), "full", thinking is not False),
    lambda mesh: weights.load(
      folder, model, sharding.param_shardings(published.shapes(model), mesh)
    ),
  )


def _trained(
  folder: pathlib.Path,
  values: dict[str, Any],
  field: str,
  dtype: str,
  thinking: bool | None,
) -> Source:
  """Returns the model of a run, or of one stage of it."""
  try:
    config = config_fields.from_dict(values)
  except ValueError as error:
    raise ValueError(
      f"{folder / 'config.json'} must be a run's config or that of a Qwen3 "
      f"model, got: {error}"
    ) from error
  name = folder.resolve().name
  if (folder / "checkpoints").is_dir():
    begun = [s for s in config.stages if (folder / "checkpoints" / s).is_dir()]
    ours = [s for s in begun if not s.startswith(run_folder.ARMS)]
    if not ours:
      raise ValueError(
        f"{field} must be a run with checkpoints of a stage, got {folder} with "
        f"{', '.join(begun) or 'none'}; name its checkpoints/<stage>"
      )
    folder = folder / "checkpoints" / ours[-1]
    name = f"{name}-{ours[-1]}"
  step = checkpoint.last_step(folder)
  shape = published.configured(config.model)
  chat = config.chat
  return Source(
    f"{name}-{step}",
    shape if dtype == "auto" else dataclasses.replace(shape, dtype=dtype),
    chat_lib.Chat(
      tokenizers.load(folder / "tokenizer", config.tokenizer.kind),
      chat.profile,
      chat.thinking if thinking is None else thinking,
    ),
    lambda mesh: bases.load_params(folder, shape, mesh, step),
  )
