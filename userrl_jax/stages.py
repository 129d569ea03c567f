"""What the stages of a run are: where each starts, how long and on what.

In: the parts of a run. Out: its `Stage`s, in order, and for each of them the
state and the update that it begins with and the stream that it learns from.
`train` is the loop over them.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import pathlib
from typing import Any

import jax

from userrl_jax import assembly
from userrl_jax import bases
from userrl_jax import config as config_lib
from userrl_jax import data
from userrl_jax import demonstrate
from userrl_jax import dialogues
from userrl_jax import exchange
from userrl_jax import flags
from userrl_jax import imported
from userrl_jax import skipped
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import imitation
from userrl_jax.learning import iterations
from userrl_jax.learning import learner
from userrl_jax.learning import soundness
from userrl_jax.models import qwen3

_ORACLE = "oracle"  # of cold_start.source: what is no path
_OF_ORACLE = tuple(
  f"cold_start.{name}" for name in ("num_tasks", "num_tries", "top_k", "noise")
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of a run."""

  name: str
  num_steps: int
  optimizer: config_lib.Optimizer
  seed: int  # of its stream
  per_step: int  # tasks, or dialogues, of a step
  start: str = ""  # the stage whose params it starts from; "" is none
  dialogues: str = ""  # the stage whose dialogues it imitates; "" plays itself


def plan(parts: assembly.Parts) -> list[Stage]:
  """Returns the stages of a run, in order.

  Raises:
    ValueError: when a step asks for more than there can be, or an evaluation is
      not of the policy; names the field.
  """
  c = parts.config
  if c.evaluation.agent != "policy":
    raise ValueError(
      "evaluation.agent must be policy where stages are trained, got "
      f"{c.evaluation.agent!r}; play it with python -m userrl_jax.evaluate"
    )
  runs = set(c.stages)
  base = Stage(
    "base",
    c.base.num_steps,
    c.base.optimizer,
    c.seed,
    c.base.episodes_per_step,
    dialogues="base",
  )
  after_base = base.name if base.name in runs else ""
  cold_start = Stage(
    "cold_start",
    c.cold_start.num_steps,
    c.cold_start.optimizer,
    c.seed,
    c.cold_start.episodes_per_step,
    start=after_base,
    dialogues="cold_start",
  )
  grpo = Stage(
    "grpo",
    c.grpo.num_iterations,
    c.grpo.optimizer,
    c.seed,
    c.grpo.tasks_per_iteration,
    start=cold_start.name if cold_start.name in runs else after_base,
  )
  rl_only_updates = dataclasses.replace(
    grpo, name="rl_only_updates", start=after_base
  )
  rl_only = dataclasses.replace(
    rl_only_updates,
    name="rl_only",
    num_steps=c.comparison.rl_only_iterations,
  )
  stages = [
    base,
    cold_start,
    grpo,
    _continued("continued_updates", cold_start, grpo.num_steps),
    _continued("continued", cold_start, c.comparison.continued_steps),
    rl_only_updates,
    rl_only,
  ]
  stages = [stage for stage in stages if stage.name in runs]
  for stage in stages:
    _check_count(parts, stage)
  return stages


@flags.user_errors()
def start(
  parts: assembly.Parts, stage: Stage
) -> tuple[learner.State, Callable[..., Any]]:
  """Returns the state that a stage starts with, and its update.

  The update is jitted; where it is skipped as not finite, `skipped` keeps why.

  Raises:
    SystemExit: with a message and code 2, when there are no params to start
      from, or settings do not make sense together.
  """
  c, model = parts.config, _model(parts, stage)
  if model.adapter_rank:
    params = qwen3.init_trained(model, jax.random.key(c.seed))
  else:
    params = _first_params(parts, stage)
  state = learner.init_state(
    params, stage.optimizer, stage.num_steps, parts.mesh
  )
  settings: imitation.Settings | learner.Settings = _settings(parts, stage)
  method, temperature = learner, c.rollout.temperature
  if stage.dialogues:
    settings = imitation.Settings(stage.optimizer, c.packing, stage.num_steps)
    method, temperature = imitation, 1.0
  of = model, settings, parts.mesh
  return state, skipped.Update(
    method.make_update(*of),
    soundness.make_examine(
      method.make_gradient(*of), model, c.packing, parts.mesh, temperature
    ),
    parts.mesh,
    parts.folder,
    stage.name,
  )


@flags.user_errors()
def frozen(parts: assembly.Parts, stage: Stage) -> qwen3.Params | None:
  """Returns the params that a stage reads and does not change; None without.

  They are those that it started with, also when it goes on from a checkpoint:
  the base that adapters adapt, and what the KL of GRPO is to.

  Raises:
    SystemExit: with a message and code 2, when they cannot be read.
  """
  model = _model(parts, stage)
  make = lambda: _first_params(parts, stage)
  if model.adapter_rank:
    folder = parts.folder / "checkpoints" / stage.name
    return bases.kept(folder, make, model, parts.mesh)
  has_kl = not stage.dialogues and parts.config.grpo.kl_coef > 0
  return make() if has_kl else None


def beside(parts: assembly.Parts, stage: Stage) -> dict[str, Any]:
  """Returns what `iterations.run` needs beside state, update and batches."""
  settings = _settings(parts, stage)
  return {
    "frozen": frozen(parts, stage),
    "recompute": iterations.make_recompute(parts.model, settings, parts.mesh),
  }


def finished(
  parts: assembly.Parts,
  stage: Stage,
  state: learner.State,
  frozen: qwen3.Params | None,
) -> qwen3.Params:
  """Returns all params that a stage ends with; frozen ones are used up."""
  return bases.merged(state.params, frozen, _model(parts, stage), parts.mesh)


def stream(parts: assembly.Parts, stage: Stage) -> data.Stream[Any]:
  """Returns the stream that a stage learns from: of tasks, or of dialogues.

  Dialogues are made, or imported, on first use and kept in the run's folder.

  Raises:
    ValueError: when there are too few for a step, or a file is damaged.
  """
  if not stage.dialogues:
    return data.task_stream(parts.tasks, stage.per_step, stage.seed)
  of_dialogues = functools.partial(
    data.trajectory_stream, per_step=stage.per_step, seed=stage.seed
  )

  is_read = is_imported(parts, stage)

  def make():
    if is_read:
      made = _imported(parts)
      of_dialogues(made)
      return made
    make_all = {"base": demonstrate.canned, "cold_start": demonstrate.ranked}
    made = make_all[stage.dialogues](
      parts.config, parts.tasks, parts.chat, parts.episodes, parts.user
    )
    # Refuses too few, which are not worth keeping.
    of_dialogues([t for t in made if t.is_valid])
    return made

  path = dialogues_path(parts, stage)
  tasks = None if is_read else parts.tasks
  kept = dialogues.kept(path, make, tasks)
  held_back = _held_back(parts, kept) if is_read else set()
  return of_dialogues([t for t in kept if _key(t) not in held_back])


def held_out(parts: assembly.Parts, stage: Stage) -> Sequence[types.Trajectory]:
  """Returns demonstrations of tasks that are held back, to look at their loss.

  An oracle's are made like those that are learned, and kept like them; of
  imported ones they are those of `selection.num_tasks` tasks a gym.

  Raises:
    SystemExit: with a message and code 2, when there are none.
  """
  with flags.user_errors():
    if is_imported(parts, stage):
      path = dialogues_path(parts, stage)
      kept = dialogues.kept(path, lambda: _imported(parts), None)
      held_back = _held_back(parts, kept)
      found = [t for t in kept if _key(t) in held_back]
    else:
      config = dataclasses.replace(
        parts.config,
        cold_start=dataclasses.replace(parts.config.cold_start, num_tasks=0),
      )
      found = dialogues.kept(
        parts.folder / "dialogues" / "held_out.npz",
        lambda: demonstrate.ranked(
          config, parts.dev_tasks, parts.chat, parts.episodes, parts.user
        ),
        parts.dev_tasks,
      )
    if not found:
      raise ValueError(
        "selection.num_tasks must hold back a task that is demonstrated, got "
        f"{parts.config.selection.num_tasks}; raise it, or cold_start.num_tries"
      )
  return found


@flags.user_errors()
def counted(parts: assembly.Parts, stage: Stage) -> Stage:
  """Returns a stage with the steps of `cold_start.num_epochs`, if that is set.

  Demonstrations are made for it, or imported: their number is not known before.
  What does not fill a last step is left out of an epoch.

  Raises:
    SystemExit: with a message and code 2, when the warm-up does not fit.
  """
  num_epochs = parts.config.cold_start.num_epochs
  if stage.name != "cold_start" or not num_epochs:
    return stage
  num_steps = num_epochs * stream(parts, stage).steps_per_epoch
  warmup_steps = stage.optimizer.warmup_steps
  if stage.optimizer.schedule == "cosine" and warmup_steps >= num_steps:
    raise ValueError(
      "cold_start.optimizer.warmup_steps must be below the steps of "
      f"cold_start.num_epochs ({num_steps}), got {warmup_steps}; lower it, or "
      "provide more demonstrations"
    )
  return dataclasses.replace(stage, num_steps=num_steps)


def dialogues_path(parts: assembly.Parts, stage: Stage) -> pathlib.Path:
  """Returns the file of the dialogues that a stage imitates."""
  return parts.folder / "dialogues" / f"{stage.dialogues}.npz"


def is_imported(parts: assembly.Parts, stage: Stage) -> bool:
  """Returns whether a stage imitates dialogues of a file."""
  source = parts.config.cold_start.source
  return stage.dialogues == "cold_start" and source != _ORACLE


def capacity(parts: assembly.Parts, stage: Stage) -> int:
  """Returns how many micro-batches always hold what a step learns from."""
  grpo, num_trajectories = parts.config.grpo, stage.per_step
  if not stage.dialogues:
    num_groups = math.ceil(stage.per_step / grpo.num_mini_batches)
    num_trajectories = num_groups * grpo.group_size
  return batching.capacity(
    num_trajectories,
    parts.config.rollout.max_tokens_per_episode,
    parts.config.packing,
  )


def _first_params(parts: assembly.Parts, stage: Stage) -> qwen3.Params:
  folder = parts.folder / "checkpoints" / stage.start if stage.start else ""
  if stage.start in parts.config.selection.use:
    folder = folder / "best"
  return assembly.first_params(parts, folder)


def _model(parts: assembly.Parts, stage: Stage) -> qwen3.Config:
  """Returns the model as a stage trains it: random params are trained whole."""
  if stage.name == "base":
    return dataclasses.replace(parts.model, adapter_rank=0)
  return parts.model


def _settings(parts: assembly.Parts, stage: Stage) -> learner.Settings:
  c = parts.config
  grpo = dataclasses.replace(c.grpo, num_iterations=stage.num_steps)
  return learner.Settings(grpo, c.packing, c.rollout.temperature)


def _held_back(
  parts: assembly.Parts, dialogues: Sequence[types.Trajectory]
) -> set[tuple[str, str]]:
  """Returns the names of imported dialogues' tasks that are not learned."""
  num_tasks, names = parts.config.selection.num_tasks, map(_key, dialogues)
  if not num_tasks:
    return set()
  held_back = data.held_back(names, num_tasks, parts.config.seed)
  return held_back | {(task.gym, task.id) for task in parts.dev_tasks}


def _key(trajectory: types.Trajectory) -> tuple[str, str]:
  return trajectory.task.gym, trajectory.task.id


def _imported(parts: assembly.Parts) -> list[types.Trajectory]:
  """Returns what the cold start imitates of a file; says what it left out.

  Raises:
    ValueError: when a record is not what it must be.
  """
  c = parts.config
  made, report = imported.select(
    exchange.read(pathlib.Path(c.cold_start.source).expanduser()),
    parts.chat,
    c.rollout.max_tokens_per_episode,
    held_out_gyms=c.evaluation.held_out_gyms,
    min_score=c.cold_start.min_score,
  )
  print(
    f"cold_start.source {c.cold_start.source}: {report}\n"
    f"  of the oracle, and of no use here: {', '.join(_OF_ORACLE)}"
  )
  return made


def _check_count(parts: assembly.Parts, stage: Stage) -> None:
  if is_imported(parts, stage):
    if not dialogues_path(parts, stage).exists():  # read now, not in an hour
      exchange.read(pathlib.Path(parts.config.cold_start.source).expanduser())
    return
  c, num_tasks = parts.config, len(parts.tasks)
  field, limit, what = {
    "base": (
      "base.episodes_per_step",
      c.base.num_episodes,
      "base.num_episodes",
    ),
    "cold_start": (
      "cold_start.episodes_per_step",
      num_tasks * c.cold_start.top_k,
      f"cold_start.top_k demonstrations of each of {num_tasks} training tasks",
    ),
    "": (
      "grpo.tasks_per_iteration",
      num_tasks,
      "all training tasks of gyms.tasks",
    ),
  }[stage.dialogues]
  if stage.per_step > limit:
    raise ValueError(
      f"{field} must be at most {limit} ({what}), got {stage.per_step}; lower "
      "it, or provide more"
    )


def _continued(name: str, cold_start: Stage, num_steps: int) -> Stage:
  """Returns an arm in which the cold start goes on.

  It restarts warm and anneals over its own length, which is stronger than to
  stay at the low rate that a cosine ends with.
  """
  warmup_steps = min(cold_start.optimizer.warmup_steps, num_steps // 10)
  return dataclasses.replace(
    cold_start,
    name=name,
    num_steps=num_steps,
    optimizer=dataclasses.replace(
      cold_start.optimizer, warmup_steps=warmup_steps
    ),
    seed=data.MAX_SEED - 1 - cold_start.seed,  # another order of dialogues
    start=cold_start.name,
  )
