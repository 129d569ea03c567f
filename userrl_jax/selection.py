"""Finds the best checkpoint of a stage by tasks that are held back.

In: params as a stage goes on. Out: numbers of what is looked at (the loss of
held-back demonstrations, or the score of held-back tasks), the params of the
best look, kept beside the checkpoints, and what the stage hands on:

  checkpoints/<stage>/best/<step>/   params of the best look
  selection.json                     by stage: every look, and which is used

Held-back tasks are training tasks that no stage trains on. Splits that are
evaluated have no part in it.
"""

import dataclasses
import json
import math
import pathlib
import shutil
from typing import Any

import jax

from userrl_jax import assembly
from userrl_jax import bases
from userrl_jax import checkpoint
from userrl_jax import checkpoint_faults
from userrl_jax import collecting
from userrl_jax import config_fields
from userrl_jax import flags
from userrl_jax import forgetting
from userrl_jax import hosts
from userrl_jax import metrics
from userrl_jax import recorder
from userrl_jax import selection_rules
from userrl_jax import stages
from userrl_jax.inference import sampling
from userrl_jax.learning import learner
from userrl_jax.models import lora
from userrl_jax.models import qwen3

_PREFIX = "selection/"  # of all that a look finds
LOSS, SCORE = f"{_PREFIX}loss", f"{_PREFIX}score"

_ITERATION = -12  # of plays of held-back tasks: apart from all others
_FILE = "selection.json"


@dataclasses.dataclass(frozen=True)
class Look:
  """What one look found."""

  num_steps: int  # of the stage, done by then
  value: float  # loss, nats a token; or score
  is_better_low: bool

  def beats(self, other: "Look | None") -> bool:
    """Tells whether it is strictly better: of equal ones the first is best."""
    if other is None:
      return True
    if self.is_better_low:
      return self.value < other.value
    return self.value > other.value


class Selector:
  """Looks at a stage as it goes on; does nothing where nothing is held back."""

  def __init__(
    self, parts: assembly.Parts, run: recorder.Recorder, stage: stages.Stage
  ):
    """Goes on with the looks of a stage that has begun (`Recorder.begin`).

    Raises:
      SystemExit: with a message and code 2, when nothing of what is held back
        can be looked at.
    """
    self._parts, self._run, self._stage = parts, run, stage
    self._looks: list[Look] = []
    self._last_look = 0  # steps before it, whatever it found
    self._is_on = bool(parts.dev_tasks) and stage.name in (
      *selection_rules.IMITATING,
      *selection_rules.PLAYING,
    )
    if not self._is_on:
      return
    settings = parts.config.selection
    self._every = settings.play_every
    if stage.dialogues:
      self._every = settings.loss_every
      self._held_out = stages.held_out(parts, stage)
    known = self._known() if hosts.is_first() else []
    for num_steps, value in hosts.gather(known)[0]:
      self._last_look = num_steps
      if value is not None:
        self._looks.append(Look(num_steps, value, bool(stage.dialogues)))

  def _known(self) -> list[tuple[int, float | None]]:
    """Returns the looks of an earlier process; drops what it does once more."""
    run, stage = self._run, self._stage
    name = LOSS if stage.dialogues else SCORE
    known = [
      (line["step"] + 1, line.get(name))
      for line in run.lines_of_stage("metrics.jsonl")
      if any(key.startswith(_PREFIX) for key in line)
      and line["step"] < run.remaining().start
    ]
    # A look that was cut off may have kept its params already.
    looked = {num_steps for num_steps, _ in known}
    folder = best_folder(self._parts.folder, stage.name)
    for path in folder.glob("[0-9]*"):
      if path.name.isdigit() and int(path.name) not in looked:
        shutil.rmtree(path)
    return known

  def look(
    self, num_done: int, state: learner.State, frozen: qwen3.Params | None
  ) -> None:
    """Looks at a state, on schedule and at the end, unless it was looked at.

    So a stage that goes on makes up for a look that was cut off: give it what
    was restored.

    Args:
      num_done: steps of the stage so far.
      state: after them; it is left as it is.
      frozen: params that its adapters adapt, if it has any.

    Raises:
      SystemExit: when the run has to end, with the state kept, though not amid
        the writing of what the look found; or when that cannot be written.
    """
    if not self._is_on or num_done == self._last_look:
      return
    is_last = num_done == self._stage.num_steps
    if num_done % self._every and not is_last:
      return
    hosts.enter("look")
    measure = self._loss if self._stage.dialogues else self._score
    with self._run.saving_what_is_done(num_done, state):
      numbers, value = measure(lora.complete(state.params, frozen))
    with self._run.keeping_beside():
      if math.isfinite(value):
        look = Look(num_done, value, bool(self._stage.dialogues))
        if look.beats(self._best):
          self._keep(num_done, state)
        self._looks.append(look)
      self._last_look = num_done
      self._run.note(num_done - 1, numbers)

  def chosen(self, params: qwen3.Params) -> qwen3.Params:
    """Returns the params that the stage is evaluated with and hands on.

    Args:
      params: of its last step.

    Returns:
      Those, or the best look's where `selection.use` has the stage.

    Raises:
      SystemExit: with a message and code 2, when the best look's are not there.
    """
    if not self._is_on or not self._looks:
      return params
    best, name = self._best, self._stage.name
    assert best is not None
    uses = name in self._parts.config.selection.use
    used = best if uses else self._looks[-1]
    record = {
      "what": LOSS if self._stage.dialogues else SCORE,
      "looks": [[x.num_steps, x.value] for x in self._looks],
      "best": best.num_steps,
      "used": used.num_steps,
    }
    if hosts.is_first():
      path = self._parts.folder / _FILE
      known = json.loads(path.read_text()) if path.exists() else {}
      metrics.write_json(path, {**known, name: record})
    what = "held-out loss" if self._stage.dialogues else "score on dev tasks"
    self._run.tell(
      f"{name}: {what} {best.value:.3f} after step {best.num_steps}, the best "
      f"of {len(self._looks)} looks, {self._looks[-1].value:.3f} after the "
      f"last; evaluated and handed on: step {used.num_steps}"
    )
    if used.num_steps == self._stage.num_steps:
      return params
    folder = best_folder(self._parts.folder, name)
    with flags.user_errors():
      return bases.load_params(
        folder, self._parts.model, self._parts.mesh, used.num_steps
      )

  @property
  def _best(self) -> Look | None:
    best = None
    for look in self._looks:
      best = look if look.beats(best) else best
    return best

  def _loss(self, params: qwen3.Params) -> tuple[dict[str, float], float]:
    parts = self._parts
    if parts.model.adapter_rank:
      merge = lambda own: lora.merge(own, parts.model.adapter_scale)
      params = jax.jit(merge)(params)
    perplexity, num_tokens = forgetting.perplexity(
      parts, params, list(self._held_out), all_ids=False
    )
    loss = math.log(perplexity)
    return {LOSS: loss, f"{_PREFIX}num_tokens": float(num_tokens)}, loss

  def _score(self, params: qwen3.Params) -> tuple[dict[str, float], float]:
    parts, e = self._parts, self._parts.config.evaluation
    groups = collecting.play(
      parts,
      params,
      parts.dev_tasks,
      1,
      sampling.Sampling(e.temperature, e.top_k, e.top_p, e.min_p),
      _ITERATION,
    )
    found = metrics.summarize_groups(groups)
    own = {n: v for n, v in found.items() if n.startswith("score/")}
    numbers = {f"{_PREFIX}{name}": v for name, v in own.items()}
    valid = [t for group in groups for t in group.trajectories if t.is_valid]
    numbers[f"{_PREFIX}num_valid"] = float(len(valid))
    gyms = {task.gym for task in parts.dev_tasks}
    name = f"score/{next(iter(gyms))}" if len(gyms) == 1 else "score/macro"
    if name not in own:  # a gym has no valid episode, so there is no mean
      return numbers, math.nan
    return numbers | {SCORE: own[name]}, own[name]

  def _keep(self, num_done: int, state: learner.State) -> None:
    """Keeps the params; the ones before stay until the next, for a resume."""
    folder = best_folder(self._parts.folder, self._stage.name)
    base = folder.parent / bases.NAME
    with (
      checkpoint_faults.writing(folder),
      checkpoint.Store(folder, keep=2) as store,
    ):
      if hosts.is_first():
        store.describe(
          self._parts.tokenizer, config_fields.to_dict(self._parts.config)
        )
        if base.is_dir():
          _copy_once(base, folder / bases.NAME)
      if store.latest_step() != num_done:
        store.save(num_done, {"params": state.params}, {})


def _copy_once(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a folder unless it is there, under its name when it is whole."""
  if target.exists():
    return
  partial = target.with_name(f"{target.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
  shutil.copytree(source, partial)
  partial.rename(target)


def best_folder(run: pathlib.Path, stage: str) -> pathlib.Path:
  """Returns the folder of a stage's best checkpoint."""
  return run / "checkpoints" / stage / "best"


def read(run: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Returns what was chosen, by stage; {} where nothing was held back."""
  path = run / _FILE
  try:
    return dict(json.loads(path.read_text())) if path.exists() else {}
  except ValueError:
    return {}
