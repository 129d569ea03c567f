"""Builds the parts of a run from its config, for the entry points.

In: a validated config. Out: `Parts`: tokenizer, chat, tasks, model, mesh and
engine, all checked against each other before anything compiles.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import itertools
import json
import logging
import os
import pathlib
import shutil
from typing import Any

import jax

from userrl_jax import bases
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import data
from userrl_jax import demonstrate
from userrl_jax import fitting
from userrl_jax import gyms
from userrl_jax import hosts
from userrl_jax import process
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax import users
from userrl_jax.agents import base as agents
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.inference import engine as engine_lib
from userrl_jax.models import attention
from userrl_jax.models import lora
from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import weights
from userrl_jax.rollout import episode
from userrl_jax.serving import host

# Tasks whose dialogues the built-in tokenizer is trained on.
_NUM_CORPUS_TASKS = 200
# Fields that the system prompts of gyms may depend on.
_IN_PROMPTS = (
  "chat.profile",
  "gyms.names",
  "gyms.max_turns",
  "gyms.function.",
  "gyms.intention.",
  "gyms.search.",
  "gyms.tau.",
  "gyms.telepathy.",
  "gyms.travel.",
  "gyms.turtle.",
  "evaluation.held_out_gyms",
)


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
  user: users.User
  # Training tasks that no stage trains on, see `selection`; not in `tasks`.
  dev_tasks: Sequence[types.Task] = ()


def build(config: config_lib.Config) -> Parts:
  """Loads and checks everything that can be wrong before compiling.

  Args:
    config: validated by `config_rules.validate`.

  Returns:
    The parts.

  Raises:
    ValueError: when folders, tasks, tokenizer, model or mesh do not fit.
  """
  hosts.check_joined(config.hosts)
  process.use_compile_cache()
  process.split_cpu(config.mesh.cpu_devices)
  process.keep_freed_memory()
  # Orbax warns that a checkpoint opened for reading is opened for reading.
  logging.getLogger("absl").setLevel(logging.ERROR)
  folder = pathlib.Path(config.out_dir)
  model = published.configured(config.model)
  mesh = sharding.make_mesh(config.mesh)
  engine_mesh = sharding.of_host(mesh)
  hosts.connect(mesh)
  sharding.row_sharding(mesh, config.packing.rows_per_micro_batch)
  theirs = None
  if config.user.kind == "local" and config.local.devices == "apart":
    engine_mesh, others = host.halves(engine_mesh)
    theirs = list(others.devices.flat)
  models = host.local_models(config.user, config.judge, config.local, theirs)
  beside = 0
  if theirs is None:
    beside = sum(one.device_bytes for one in models.values())
  config = fitting.sized(config, reserved=beside)
  user = users.User(
    users.of_host(config.user, jax.process_count()),
    config.judge,
    config.budget,
    config.recording,
    folder,
    agent=users.agent_settings(
      config.user, config.agent, config.evaluation, config.rollout
    ),
    models=models,
  )
  asyncio.run(user.check())
  tasks = load_tasks(config, "train")
  held_back = data.held_back(
    [(task.gym, task.id) for task in tasks],
    config.selection.num_tasks,
    config.seed,
  )
  dev_tasks = [t for t in tasks if (t.gym, t.id) in held_back]
  tasks = [t for t in tasks if (t.gym, t.id) not in held_back]
  met = (
    tasks + dev_tasks + held_out_tasks(config, config.evaluation.held_out_gyms)
  )
  tokenizer, source = _tokenizer(config, folder, tasks, user)
  if tokenizer.vocab_size > model.vocab_size:
    name = config.model.folder or config.model.preset
    raise ValueError(
      "the model's vocabulary must hold the tokenizer's: "
      f"{name} has {model.vocab_size} ids, "
      f"the tokenizer {tokenizer.vocab_size}; "
      "choose another model or tokenizer.vocab_size"
    )
  model = dataclasses.replace(
    model,
    # What only rounds the vocabulary up is no token: not sampled, not learned.
    num_ids=tokenizer.vocab_size,
    **lora.fields(config.lora),
    attention=attention.choose(
      config.model.attention,
      platform=jax.default_backend(),
      dtype=model.dtype,
      head_dim=model.head_dim,
      row_length=config.packing.row_length,
    ),
  )
  chat = chat_lib.Chat(tokenizer, config.chat.profile, config.chat.thinking)
  asyncio.run(_check_prompts(config, chat, met, user))
  hosts.check_same(
    {
      "config": json.dumps(_same_on_all_hosts(config)),
      "tokenizer": tokenizer.fingerprint,
      "tasks": str([(task.gym, task.id) for task in tasks]),
    },
    folder,
  )
  if source is None:
    if hosts.is_first():
      _keep_tokenizer(tokenizer, folder)
  else:
    _check_phrases(config, tokenizer, source)
  engine = engine_lib.Engine(
    model,
    config.engine,
    config.rollout.max_tokens_per_episode,
    tokenizer.im_end_id,
    engine_mesh,
  )
  return Parts(
    config=config,
    folder=folder,
    tasks=tasks,
    tokenizer=tokenizer,
    chat=chat,
    model=model,
    mesh=mesh,
    engine=engine,
    episodes=episode.Settings(
      limits=config.rollout,
      max_turns=config.gyms.max_turns,
      profile=config.chat.profile,
      show_reward=config.chat.show_reward,
    ),
    user=user,
    dev_tasks=dev_tasks,
  )


def _same_on_all_hosts(config: config_lib.Config) -> dict[str, Any]:
  values = config_fields.to_dict(config)
  del values["hosts"]["process_id"]
  return values


def has_begun(folder: pathlib.Path) -> bool:
  """Returns whether a folder holds work of a run, not only its preparation."""
  names = ("metrics.jsonl", "evaluations", "episodes")
  return any((folder / name).exists() for name in names)


def load_tasks(config: config_lib.Config, split: str) -> list[types.Task]:
  """Returns the tasks of a split, the gyms taking turns."""
  of_gyms = [
    gyms.load_tasks(name, config.gyms, split, config.seed)
    for name in config.gyms.names
  ]
  return [
    task
    for turn in itertools.zip_longest(*of_gyms)
    for task in turn
    if task is not None
  ]


def held_out_tasks(
  config: config_lib.Config, names: Sequence[str] | None = None
) -> list[types.Task]:
  """Returns the tasks of an evaluation: some of every split and (named) gym.

  Raises:
    ValueError: when a gym has no such tasks.
  """
  settings = config.evaluation
  return [
    task
    for split in settings.splits
    for name in (_played_gyms(config) if names is None else names)
    for task in gyms.load_tasks(name, config.gyms, split, config.seed)[
      : settings.num_tasks
    ]
  ]


def _played_gyms(config: config_lib.Config) -> tuple[str, ...]:  # all of a run
  return config.gyms.names + config.evaluation.held_out_gyms


def first_params(
  parts: Parts, folder: str | os.PathLike = "", step: int | None = None
) -> qwen3.Params:
  """Returns the params that a run or a stage starts from.

  Args:
    parts: of the run.
    folder: of checkpoints. Without one, params are those of `init_from`, or
      of `model.folder`, or else random.
    step: which checkpoint; the last one when None.

  Raises:
    ValueError: when the folder does not hold params of this model.
  """
  seed = parts.config.seed
  folder = folder or parts.config.init_from
  if folder:
    return bases.load_params(folder, parts.model, parts.mesh, step)
  init = lambda: qwen3.init(parts.model, jax.random.key(seed))
  shardings = sharding.param_shardings(jax.eval_shape(init), parts.mesh)
  if parts.config.model.folder:
    return weights.load(parts.config.model.folder, parts.model, shardings)
  return jax.jit(init, out_shardings=shardings)()


def _tokenizer(
  config: config_lib.Config,
  folder: pathlib.Path,
  tasks: Sequence[types.Task],
  user: users.User,
) -> tuple[tokenizers.Tokenizer, pathlib.Path | None]:
  """Loads the tokenizer, or trains the built-in one on first use.

  Returns:
    The tokenizer, and the folder it is from; None when it was trained just now.

  Raises:
    ValueError: when there is no such tokenizer, or the params to start from
      were trained with another one: they would take ids for another text.
  """
  settings = config.tokenizer
  of_start = pathlib.Path(config.init_from) / "tokenizer"
  has_start = bool(config.init_from) and of_start.is_dir()
  if settings.kind == "huggingface" or settings.folder:
    tokenizer = tokenizers.load(settings.folder, settings.kind)
    of_weights = pathlib.Path(config.model.folder)
    field, known = "init_from", of_start if has_start else None
    if not has_start and (of_weights / type(tokenizer).FILE).is_file():
      field, known = "model.folder", of_weights
    if known is not None and not known.samefile(settings.folder):
      other = tokenizers.load(known, settings.kind)
      if other.fingerprint != tokenizer.fingerprint:
        raise ValueError(
          f"tokenizer.folder must hold the tokenizer of {field}, {known}, got "
          f"another one in {settings.folder}; name that folder instead"
        )
    return tokenizer, pathlib.Path(settings.folder)
  if has_start:
    return tokenizers.load(of_start, settings.kind), of_start
  if (folder / "tokenizer").is_dir() and has_begun(folder):
    kept = folder / "tokenizer"
    return tokenizers.load(kept, settings.kind), kept
  texts = demonstrate.corpus(config, tasks[:_NUM_CORPUS_TASKS], user)
  phrases = list(chat_lib.PHRASES)
  for name in _played_gyms(config):
    phrases += _prompt_phrases(config, name)
  size = settings.vocab_size
  return tokenizers.train_sentencepiece(texts, size, phrases), None


def _prompt_phrases(config: config_lib.Config, name: str) -> list[str]:
  """Returns the fixed texts of a gym's prompt: pieces of a built-in one."""
  gym = gyms.make(name, config.gyms)
  system = gym.system_prompt(config.chat.profile)
  return chat_lib.prompt_phrases(config.chat.profile, system, gym.choices)


def _check_phrases(
  config: config_lib.Config,
  tokenizer: tokenizers.Tokenizer,
  source: pathlib.Path,
) -> None:
  """Refuses prompts other than those that a built-in tokenizer knows.

  To params of such a tokenizer a prompt is one id; spelt out, the same prompt
  with another number in it would be a hundred that they have never seen.

  Raises:
    ValueError: names the gym and what is set otherwise.
  """
  is_piece = lambda text: len(tokenizer.encode(text)) == 1
  if not all(map(is_piece, chat_lib.PHRASES)):
    return  # it is none of ours
  for name in _played_gyms(config):
    if all(map(is_piece, _prompt_phrases(config, name))):
      continue
    raise ValueError(
      f"the system prompt of gym {name!r} must be the one that the tokenizer "
      f"{source} was made with, got another one"
      f"{_prompt_changes(config, source.parent / 'config.json')}; set gyms and "
      "chat.profile as they were there, or start a new run without init_from"
    )


def _prompt_changes(config: config_lib.Config, path: pathlib.Path) -> str:
  """Returns how a config differs from a written one in what prompts say."""
  try:
    earlier = config_fields.from_dict(json.loads(path.read_text()))
  except (OSError, ValueError):  # none, or of another version
    return ""
  changes = [
    f"{field}: {there!r} there, {here!r} now"
    for field, (there, here) in config_fields.differences(
      config, earlier
    ).items()
    if field.startswith(_IN_PROMPTS)
  ]
  return f" ({'; '.join(changes)})" if changes else ""


def _keep_tokenizer(
  tokenizer: tokenizers.Tokenizer, folder: pathlib.Path
) -> None:
  """Writes a new tokenizer into the run's folder, all or nothing."""
  temporary = folder / "tokenizer.partial"
  temporary.mkdir(parents=True, exist_ok=True)
  tokenizer.save(temporary)
  shutil.rmtree(folder / "tokenizer", ignore_errors=True)
  temporary.rename(folder / "tokenizer")


async def _check_prompts(
  config: config_lib.Config,
  chat: chat_lib.Chat,
  tasks: Sequence[types.Task],
  user: users.User,
) -> None:
  """Refuses a budget that the longest prompt of a gym would fill.

  Raises:
    ValueError: names the budget and the prompt's length.
  """
  for name in _played_gyms(config):
    firsts = []
    async with user.opened() as judge:
      for task in [task for task in tasks if task.gym == name]:
        gym = gyms.make(name, config.gyms, judge)
        firsts.append((await gym.reset(task, config.seed)).text)
    ids = chat.prompt_ids(
      gym.system_prompt(config.chat.profile), max(firsts, key=len), gym.choices
    )
    agents.check_prompt(len(ids), config.rollout.max_tokens_per_episode)
