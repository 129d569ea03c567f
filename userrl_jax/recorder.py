"""Keeps the folder of a run: what it is, what it did, where it can go on.

In: the parts of a run and what its stages report. Out: `<out_dir>/`

  config.json, environment.json   what runs: every knob, command, versions, git
  metrics.jsonl, tensorboard/     numbers of every step
  diagnostics.jsonl               what went wrong, if anything did
  transcripts/                    dialogues, by stage
  evaluations/                    scores, by stage
  dialogues/                      what stages imitate, made once
  checkpoints/<stage>/            where a killed run goes on
  skipped/                        batches of updates that were not finite

A stage that began earlier is restored by `begin`; what an interrupted run
wrote after its last checkpoint is dropped, so files come out the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import datetime
import json
import pathlib
import shutil
import time
from typing import Any

import jax

from userrl_jax import assembly
from userrl_jax import config_fields
from userrl_jax import console
from userrl_jax import costs
from userrl_jax import data
from userrl_jax import diagnostics
from userrl_jax import dialogues
from userrl_jax import environment as environment_lib
from userrl_jax import flags
from userrl_jax import hosts
from userrl_jax import metrics
from userrl_jax import provocations
from userrl_jax import saving
from userrl_jax import stages
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import learner

# Fields in which a resumed run may differ from what its folder holds.
FREE_FIELDS = (
  "out_dir",
  "checkpoint.",
  "budget.",
  "user.max_concurrent",
  "user.max_outage_s",
  "user.requests_per_minute",
  "user.tokens_per_minute",
  "hosts.",
  "mesh.",
)


class Recorder:
  """Writes down a run, and finds where an interrupted one goes on."""

  def __init__(self, parts: assembly.Parts, command: flags.Command):
    """Opens the run's folder.

    Raises:
      ValueError: when the folder holds a run of another config.
    """
    self._parts = parts
    self._console = console.Console(is_quiet=not hosts.is_first())
    self._start = self._step_start = time.monotonic()
    self._earlier_s = 0.0  # time of the processes that this one goes on for
    self._evaluations: list[Mapping[str, Any]] = []
    self._starts_from = ""  # the stage before this one, if any
    self._writers: metrics.Writers | None = None
    self._watch = diagnostics.Watch()
    self._saver = saving.Saver(parts.config.checkpoint, self._console.print)
    parts.folder.mkdir(parents=True, exist_ok=True)
    goes_on = assembly.has_begun(parts.folder)
    self._keep_config(goes_on)
    if hosts.is_first():
      self._keep_environment(command, goes_on)
      if not goes_on:  # they may be of another config, or tokenizer
        shutil.rmtree(parts.folder / "dialogues", ignore_errors=True)
    model, engine = parts.config.model, parts.config.engine
    self._console.print(
      f"run {parts.folder}: {model.folder or model.preset} on "
      f"{len(jax.devices())} x {jax.devices()[0].device_kind}, "
      f"{len(parts.tasks)} training tasks, vocabulary "
      f"{parts.tokenizer.vocab_size}, {engine.num_rows} KV rows and "
      f"{engine.num_lanes} lanes a device"
    )

  def __enter__(self) -> "Recorder":
    """From now on the run can be told to end: see `stopping`."""
    self._saver.__enter__()
    return self

  def __exit__(self, *exc: Any) -> None:
    self._saver.__exit__(*exc)

  def tell(self, line: str) -> None:
    """Shows a line about the run, if there is one to show."""
    if line:
      self._console.print(line)

  @flags.user_errors()
  def begin(
    self,
    stage: stages.Stage,
    state: learner.State,
    make_stream: Callable[[], data.Stream[Any]],
    update: Callable[..., Any],
  ) -> tuple[learner.State, Iterator[Any]]:
    """Opens a stage, at its latest checkpoint when it has one.

    Args:
      stage: what is opened.
      state: to start from, or the shape of what is restored.
      make_stream: makes its data, unless the stage is complete.
      update: its jitted update, whose compiled programs are counted.

    Returns:
      The state to go on from, and the stream, moved to where the checkpoint
      was; an empty one when the stage is complete.

    Raises:
      SystemExit: with a message and code 2, when the stage cannot go on from
        what its folder holds.
    """
    hosts.enter("checkpoint")
    self._stage, self._update = stage, update
    self._starts_from = stage.start
    folder = self._parts.folder / "checkpoints" / stage.name
    store = self._saver.open(folder, stage.num_steps)
    if hosts.is_first():
      store.describe(
        self._parts.tokenizer, config_fields.to_dict(self._parts.config)
      )
    self._next_step, place = 0, None
    if store.latest_step() is not None:
      state, extras = store.restore(state)
      self._next_step, place = extras["next_step"], extras["stream"]
      where = f"{self._next_step} of {stage.num_steps}"
      self._console.print(f"{stage.name}: goes on after step {where}")
    self._watch = diagnostics.Watch()
    self._is_open = False
    if self._next_step == stage.num_steps:
      self._saver.close()
      return state, iter(())
    self._stream = make_stream()
    self._tell_faults_of_dialogues(stage)
    if place is not None:
      self._stream.set_state(place)
    self._open()
    self._step_start = time.monotonic()
    self._saver.begin(self._stream)
    return state, self._stream

  def remaining(self) -> range:
    """Returns the steps of the stage that are still to do."""
    return range(self._next_step, self._stage.num_steps)

  def keeps_dialogues(self, step: int) -> bool:
    """Returns whether a step's dialogues are written down."""
    return step % self._parts.config.checkpoint.transcripts_every == 0

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
    played = [t for group in groups for t in group.trajectories]
    asked = provocations.of_trajectories(played)
    if groups:
      engine = self._parts.engine
      counters, counts = costs.taken(self._parts)
      numbers |= metrics.summarize_groups(groups)
      numbers |= counts | provocations.numbers(asked)
      numbers |= {
        "train/flat_groups_dropped": packed.num_flat_groups,
        "rollout/tokens_sampled": counters.tokens_sampled,
        "rollout/tokens_read": counters.tokens_read,
        "rollout/padding": counters.padding,
        "rollout/tokens_forked": counters.tokens_forked,
        "rollout/tokens_per_s": counters.tokens_per_s,
        "rollout/idle_share": counters.idle_share,
        "rollout/lanes_busy": counters.lanes_busy / max(counters.lanes, 1),
        "rollout/rows_held": counters.mean("rows_held"),
        "rollout/rows_waiting": counters.mean("rows_waiting"),
        "rollout/queued": counters.mean("queued"),
        "rollout/rows_given_up": counters.rows_given_up,
        "rollout/programs": engine.num_programs(),
      }
    name, num_steps = self._stage.name, self._stage.num_steps
    time_s = self._earlier_s + now - self._start
    holding, findings = self._watch.step(numbers, provocations.findings(asked))
    if self._writers is not None:
      self._writers.write(name, step, numbers | holding, time_s)
      self._writers.write_findings(name, step, findings)
      if groups and self.keeps_dialogues(step):
        self._writers.write_transcripts(name, step, played)
    if groups or (step + 1) % 20 == 0 or step + 1 == num_steps:
      self._console.show(name, step, num_steps, numbers)
    self._tell(findings)
    self._step_start = time.monotonic()

  def note(self, step: int, numbers: Mapping[str, float]) -> None:
    """Writes numbers of what was looked at after a step, not of the step.

    Also of a complete stage, whose last look was cut off.
    """
    if not self._is_open:
      self._open()
    self._parts.engine.take_counters()
    self._parts.user.take_counts()
    now = time.monotonic()
    time_s = self._earlier_s + now - self._start
    name, findings = self._stage.name, self._watch.look(numbers)
    if self._writers is not None:
      self._writers.write(name, step, numbers, time_s)
      self._writers.write_findings(name, step, findings)
    self._tell(findings)
    self._step_start = now

  def save_when_due(self, num_done: int, state: learner.State) -> None:
    """Saves a checkpoint on schedule and at the end of the stage.

    Raises:
      SystemExit: when the run is told to end, with what is done kept; or, with
        a message, when a checkpoint cannot be written.
    """
    hosts.enter("checkpoint")
    self._saver.save_when_due(num_done, state)

  def saving_what_is_done(
    self, num_done: int, state: learner.State
  ) -> contextlib.AbstractContextManager[None]:
    """Saves a checkpoint when what runs inside has to end the run.

    Such as a spent budget, or a signal: inside, one ends the run at once.

    Args:
      num_done: steps of the stage so far.
      state: after them; what runs inside does not change it.
    """
    return self._saver.saving_what_is_done(num_done, state)

  def keeping_beside(self) -> contextlib.AbstractContextManager[None]:
    """Keeps what is written inside whole; see `saving.Saver`."""
    return self._saver.keeping_beside()

  def show_evaluation(self, summary: Mapping[str, Any]) -> None:
    """Shows the evaluations so far, this one last."""
    self._parts.engine.take_counters()
    self._parts.user.take_counts()
    earlier = {one["stage"]: one for one in self._evaluations}
    self._evaluations.append(summary)
    self._console.show_table(self._evaluations)
    findings = self._watch.evaluation(summary, earlier.get(self._starts_from))
    if self._writers is not None:
      last = self._stage.num_steps - 1
      self._writers.write_findings(self._stage.name, last, findings)
    self._tell(findings)

  def finish(self, report: pathlib.Path) -> None:
    """Closes the files and says where the report is."""
    if self._writers is not None:
      self._writers.close()
    minutes = (self._earlier_s + time.monotonic() - self._start) / 60
    self._console.print(f"done in {minutes:.1f} min; report: {report}")

  def _max_gap(self) -> float:
    """Returns what gap of log-probs is no illness here."""
    c = self._parts.config
    is_exact = c.model.dtype == "float32" and c.rollout.max_staleness == 0
    # Elsewhere float32 products may be rounded like shorter numbers.
    is_exact &= jax.default_backend() == "cpu"
    return diagnostics.MAX_EXACT_GAP if is_exact else diagnostics.MAX_GAP

  def _tell(self, findings: Sequence[diagnostics.Finding]) -> None:
    for finding in findings:
      self._console.print(f"diagnosis: {finding.name}: {finding.message}")

  def lines_of_stage(self, name: str) -> list[dict[str, Any]]:
    """Returns what an earlier process wrote of the stage, in whole lines."""
    path = self._parts.folder / name
    text = path.read_text() if path.exists() else ""
    # A process may have been killed in the last line.
    lines = text[: text.rfind("\n") + 1].splitlines()
    records = [json.loads(line) for line in lines]
    return [r for r in records if r["stage"] == self._stage.name]

  def _tell_faults_of_dialogues(self, stage: stages.Stage) -> None:
    if not stage.dialogues:
      return
    path = stages.dialogues_path(self._parts, stage)
    faults = dialogues.faults(path)
    if faults:
      counts = ", ".join(f"{fault} {n}" for fault, n in sorted(faults.items()))
      self._console.print(
        f"{stage.name}: {sum(faults.values())} invalid dialogues are left out "
        f"({counts})"
      )

  def _open(self) -> None:
    """Opens the files of the stage, and goes on watching it."""
    self._is_open = True
    if hosts.is_first():
      self._open_writers()
    self._watch = diagnostics.Watch(
      self.lines_of_stage("metrics.jsonl"),
      [line["name"] for line in self.lines_of_stage("diagnostics.jsonl")],
      self._max_gap(),
      self._parts.config.grpo.credit.credit,
    )

  def _open_writers(self) -> None:
    names = self._parts.config.stages
    is_first = self._writers is None
    if self._writers is not None:
      self._writers.close()
    is_fresh = self._stage.name == names[0] and self._next_step == 0
    # Where this stage falls back to an older checkpoint, later ones are there.
    later = names[names.index(self._stage.name) + 1 :]
    folder, place = self._parts.folder, (self._stage.name, self._next_step)
    begun = [
      n for n in later if any((folder / "checkpoints" / n).glob("[0-9]*"))
    ]
    self._writers = metrics.Writers(
      folder, names, None if is_fresh else place, begun
    )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    if is_first:
      times = [json.loads(line)["time_s"] for line in lines]
      self._earlier_s = max(times, default=0.0)

  def _keep_environment(self, command: flags.Command, goes_on: bool) -> None:
    """Writes what runs; of a run that goes on, what it goes on with."""
    path = self._parts.folder / "environment.json"
    environment = environment_lib.describe(self._parts, command)
    if goes_on and path.exists():
      first = json.loads(path.read_text())
      code, now = first.get("git") or {}, environment["git"] or {}
      if now.get("commit") != code.get("commit"):
        self._console.print(
          f"the run began with commit {code.get('commit')} and goes on with "
          f"{now.get('commit')}"
        )
      time_now = datetime.datetime.now(datetime.UTC)
      first.setdefault("resumed", []).append(
        {
          "commit": now.get("commit"),
          "changed": now.get("changed"),
          "devices": environment["devices"],
          "command": environment["command"],
          "time": time_now.isoformat(timespec="seconds"),
        }
      )
      environment = first
    metrics.write_json(path, environment)

  def _keep_config(self, goes_on: bool) -> None:
    path = self._parts.folder / "config.json"
    config = self._parts.config
    if path.exists() and goes_on:
      earlier = config_fields.from_dict(json.loads(path.read_text()))
      changed = {
        field: values
        for field, values in config_fields.differences(config, earlier).items()
        if not field.startswith(FREE_FIELDS)
      }
      if changed:
        what = "; ".join(
          f"{f}: {a!r} -> {b!r}" for f, (a, b) in changed.items()
        )
        raise ValueError(
          f"{self._parts.folder} holds a run of another config ({what}); give "
          "another --config.out_dir, or delete that folder"
        )
    if hosts.is_first():
      metrics.write_json(path, config_fields.to_dict(config))
