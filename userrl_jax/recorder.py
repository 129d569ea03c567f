"""Keeps the folder of a run: what it is, what it did, where it can go on.

In: the parts of a run and what its stages report. Out: `<out_dir>/`

  config.json, environment.json   what runs: every knob, command, versions, git
  metrics.jsonl, tensorboard/     numbers of every step
  transcripts/                    dialogues, by stage
  evaluations/                    scores, by stage
  checkpoints/<stage>/            where a killed run goes on

A stage that began earlier is restored by `begin`; what an interrupted run
wrote after its last checkpoint is dropped, so files come out the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

import jax

from userrl_jax import assembly
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import console
from userrl_jax import data
from userrl_jax import flags
from userrl_jax import metrics
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import learner

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
# Fields in which a resumed run may differ from what its folder holds.
_FREE_FIELDS = ("out_dir", "checkpoint.")
_TRANSCRIPTS_EVERY = 5  # steps between transcripts of training episodes


class Recorder:
  """Writes down a run, and finds where an interrupted one goes on."""

  def __init__(self, parts: assembly.Parts, command: flags.Command):
    """Opens the run's folder.

    Raises:
      ValueError: when the folder holds a run of another config.
    """
    self._parts = parts
    self._console = console.Console()
    self._start = self._step_start = time.monotonic()
    self._evaluations: list[Mapping[str, Any]] = []
    self._writers: metrics.Writers | None = None
    parts.folder.mkdir(parents=True, exist_ok=True)
    self._keep_config()
    write_json(parts.folder / "environment.json", _environment(parts, command))
    self._console.print(
      f"run {parts.folder}: {parts.config.model.preset} on "
      f"{len(jax.devices())} x {jax.devices()[0].device_kind}, "
      f"{len(parts.tasks)} training tasks, vocabulary "
      f"{parts.tokenizer.vocab_size}"
    )

  @flags.user_errors()
  def begin(
    self,
    stage: str,
    state: learner.State,
    stream: data.Stream,
    num_steps: int,
    update: Callable[..., Any],
  ) -> learner.State:
    """Opens a stage, at its latest checkpoint when it has one.

    Args:
      stage: its name.
      state: to start from, or the shape of what is restored.
      stream: its data; moved to where the checkpoint was.
      num_steps: of the stage.
      update: its jitted update, whose compiled programs are counted.

    Returns:
      The state to go on from.

    Raises:
      SystemExit: with a message and code 2, when the stage cannot go on from
        what its folder holds.
    """
    self._stage, self._stream, self._num_steps = stage, stream, num_steps
    self._update = update
    folder = self._parts.folder / "checkpoints" / stage
    self._store = checkpoint.Store(folder, self._parts.config.checkpoint.keep)
    self._store.describe(
      self._parts.tokenizer, config_lib.to_dict(self._parts.config)
    )
    self._next_step = 0
    if self._store.latest_step() is not None:
      state, extras = self._store.restore(state)
      stream.set_state(extras["stream"])
      self._next_step = extras["next_step"]
      self._console.print(
        f"{stage}: goes on after step {self._next_step} of {num_steps}"
      )
    stages = self._parts.config.stages
    if self._writers is None and self._next_step < num_steps:
      is_fresh = stage == stages[0] and self._next_step == 0
      self._writers = metrics.Writers(
        self._parts.folder,
        stages,
        resume=None if is_fresh else (stage, self._next_step),
      )
    self._step_start = time.monotonic()
    return state

  def remaining(self) -> Iterable[int]:
    """Returns the steps of the stage that are still to do."""
    return range(self._next_step, self._num_steps)

  def record(
    self,
    step: int,
    numbers: Mapping[str, Any],
    packed: batching.PackStats,
    groups: Sequence[types.Group] = (),
  ) -> None:
    """Writes and shows the numbers of a finished step."""
    # Waits for the update, so that its time is in the step's.
    numbers = {k: float(v) for k, v in jax.device_get(dict(numbers)).items()}
    now = time.monotonic()
    numbers |= {
      "time/step_s": now - self._step_start,
      "train/tokens_per_s": packed.num_tokens / (now - self._step_start),
      "train/padding": packed.pad_share,
      "train/programs": self._update._cache_size(),
    }
    if groups:
      engine = self._parts.engine
      counters = engine.take_counters()
      numbers |= metrics.summarize_groups(groups)
      numbers |= {
        "rollout/tokens_sampled": counters.tokens_sampled,
        "rollout/tokens_read": counters.tokens_read,
        "rollout/padding": counters.padding,
        "rollout/programs": engine.num_programs(),
      }
    assert self._writers is not None
    self._writers.write(self._stage, step, numbers, now - self._start)
    if groups and step % _TRANSCRIPTS_EVERY == 0:
      self._writers.write_transcripts(
        self._stage, step, [t for g in groups for t in g.trajectories]
      )
    if groups or (step + 1) % 20 == 0 or step + 1 == self._num_steps:
      self._console.show(self._stage, step, self._num_steps, numbers)
    self._step_start = time.monotonic()

  def save_when_due(self, num_done: int, state: learner.State) -> None:
    """Saves a checkpoint on schedule and at the end of the stage."""
    is_last = num_done == self._num_steps
    if is_last or num_done % self._parts.config.checkpoint.every_steps == 0:
      extras = {"next_step": num_done, "stream": self._stream.get_state()}
      self._store.save(num_done, state, extras)
    if is_last:
      self._store.close()

  def show_evaluation(self, summary: Mapping[str, Any]) -> None:
    """Shows the evaluations so far, this one last."""
    self._parts.engine.take_counters()
    self._evaluations.append(summary)
    self._console.show_table(self._evaluations)
    self._step_start = time.monotonic()  # its time is no training step's

  def finish(self, report: pathlib.Path) -> None:
    """Closes the files and says where the report is."""
    if self._writers is not None:
      self._writers.close()
    minutes = (time.monotonic() - self._start) / 60
    self._console.print(f"done in {minutes:.1f} min; report: {report}")

  def _keep_config(self) -> None:
    path = self._parts.folder / "config.json"
    config = self._parts.config
    if path.exists() and assembly.has_begun(self._parts.folder):
      earlier = config_lib.from_dict(json.loads(path.read_text()))
      changed = {
        field: values
        for field, values in config_lib.differences(config, earlier).items()
        if not field.startswith(_FREE_FIELDS)
      }
      if changed:
        what = "; ".join(
          f"{f}: {a!r} -> {b!r}" for f, (a, b) in changed.items()
        )
        raise ValueError(
          f"{self._parts.folder} holds a run of another config ({what}); give "
          "another --config.out_dir, or delete that folder"
        )
    write_json(path, config_lib.to_dict(config))


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(".partial")
  temporary.write_text(json.dumps(value, indent=2) + "\n")
  temporary.replace(path)


def write_transcripts(
  path: pathlib.Path, trajectories: Sequence[types.Trajectory]
) -> None:
  """Writes trajectories as JSON lines, atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(".partial")
  with temporary.open("w", encoding="utf-8") as file:
    for trajectory in trajectories:
      file.write(json.dumps(metrics.trajectory_record(trajectory)) + "\n")
  temporary.replace(path)


def _environment(
  parts: assembly.Parts, command: flags.Command
) -> dict[str, Any]:
  """Describes what is needed to run the same again."""
  return {
    "command": " ".join(["python", "-m", _module(), *command.argv]),
    "recipe": command.recipe,
    "differences": {k: list(v) for k, v in command.differences.items()},
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    "devices": [device.device_kind for device in jax.devices()],
    "num_cpus": os.cpu_count(),
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
