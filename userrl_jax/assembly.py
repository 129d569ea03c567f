"""Builds the parts of a run from its config, for the entry points.

In: a validated config. Out: `Parts`: tokenizer, chat, tasks, model, mesh and
engine, all checked against each other before anything compiles.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib

import jax
import numpy as np

from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import demonstrate
from userrl_jax import gyms
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.agents import policy
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.inference import engine as engine_lib
from userrl_jax.models import qwen3
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode

# Tasks whose dialogues the built-in tokenizer is trained on.
_NUM_CORPUS_TASKS = 200


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a run is made of; params are not among it (law L3)."""

  config: config_lib.Config
  folder: pathlib.Path
  tasks: Sequence[types.Task]  # of the train split, all gyms
  tokenizer: tokenizers.Tokenizer
  chat: chat_lib.Chat
  model: qwen3.Config
  mesh: jax.sharding.Mesh
  engine: engine_lib.Engine
  episodes: episode.Settings


def build(config: config_lib.Config) -> Parts:
  """Loads and checks everything that can be wrong before compiling.

  Args:
    config: validated by `config_rules.validate`.

  Returns:
    The parts.

  Raises:
    ValueError: when folders, tasks, tokenizer, model or mesh do not fit.
  """
  use_compile_cache()
  folder = pathlib.Path(config.out_dir)
  tasks = load_tasks(config, "train")
  tokenizer = _tokenizer(config, folder, tasks)
  model = _model(config)
  if tokenizer.vocab_size > model.vocab_size:
    raise ValueError(
      f"the model's vocabulary must hold the tokenizer's: {config.model.preset} "
      f"has {model.vocab_size} ids, the tokenizer {tokenizer.vocab_size}; "
      "choose another model.preset or tokenizer.vocab_size"
    )
  engine = engine_lib.Engine(
    model,
    config.engine,
    config.rollout.max_tokens_per_episode,
    tokenizer.im_end_id,
  )
  return Parts(
    config=config,
    folder=folder,
    tasks=tasks,
    tokenizer=tokenizer,
    chat=chat_lib.Chat(tokenizer, config.chat.profile),
    model=model,
    mesh=sharding.make_mesh(config.mesh),
    engine=engine,
    episodes=episode.Settings(
      limits=config.rollout,
      max_turns=config.gyms.max_turns,
      profile=config.chat.profile,
      show_reward=config.chat.show_reward,
    ),
  )


def load_tasks(config: config_lib.Config, split: str) -> list[types.Task]:
  """Returns the tasks of a split, gym after gym."""
  return [
    task
    for name in config.gyms.names
    for task in gyms.load_tasks(name, config.gyms, split, config.seed)
  ]


def first_params(parts: Parts) -> qwen3.Params:
  """Returns the params that a run starts from: random, or `init_from`'s.

  Raises:
    ValueError: when `init_from` holds no checkpoint of this model.
  """
  init = jax.jit(functools.partial(qwen3.init, parts.model))
  key = jax.random.key(parts.config.seed)
  if not parts.config.init_from:
    shapes = jax.eval_shape(init, key)
    shardings = sharding.param_shardings(shapes, parts.mesh)
    return jax.jit(init, out_shardings=shardings)(key)
  return checkpoint.load_params(
    parts.config.init_from, jax.eval_shape(init, key)
  )


def collect_groups(
  parts: Parts,
  params: qwen3.Params,
  tasks: Sequence[types.Task],
  group_size: int,
  temperature: float,
  iteration: int,
) -> list[types.Group]:
  """Lets the policy play every task `group_size` times."""

  def make_agent(task, member, seed):
    key = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return policy.PolicyAgent(
      parts.engine, parts.chat, parts.config.rollout, key
    )

  async def play() -> list[types.Group]:
    async with parts.engine.serving(params, temperature):
      return await collect.collect(
        tasks,
        group_size,
        lambda name: gyms.make(name, parts.config.gyms),
        make_agent,
        parts.episodes,
        seed=parts.config.seed,
        iteration=iteration,
      )

  return asyncio.run(play())


def use_compile_cache() -> None:
  """Keeps compiled programs between runs, unless the user chose a place."""
  if not jax.config.jax_compilation_cache_dir:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(home) / "userrl_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _tokenizer(
  config: config_lib.Config,
  folder: pathlib.Path,
  tasks: Sequence[types.Task],
) -> tokenizers.Tokenizer:
  """Loads the tokenizer, or trains the built-in one on first use."""
  settings = config.tokenizer
  if settings.kind == "huggingface" or settings.folder:
    return tokenizers.load(settings.folder, settings.kind)
  saved = folder / "tokenizer"
  if saved.is_dir():
    return tokenizers.load(saved, settings.kind)
  texts = demonstrate.corpus(config, tasks[:_NUM_CORPUS_TASKS])
  tokenizer = tokenizers.train_sentencepiece(
    texts, settings.vocab_size, chat_lib.PHRASES
  )
  temporary = folder / "tokenizer.partial"
  temporary.mkdir(parents=True, exist_ok=True)
  tokenizer.save(temporary)
  temporary.rename(saved)
  return tokenizer


def _model(config: config_lib.Config) -> qwen3.Config:
  settings = config.model
  if settings.preset not in qwen3.PRESETS:
    raise ValueError(
      f"model.preset must be one of {', '.join(qwen3.PRESETS)}, got "
      f"{settings.preset!r}"
    )
  preset = qwen3.PRESETS[settings.preset]
  return dataclasses.replace(
    preset,
    num_layers=settings.num_layers or preset.num_layers,
    dtype=settings.dtype,
    remat=settings.remat,
  )
