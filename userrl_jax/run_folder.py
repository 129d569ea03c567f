"""Reads back what a run wrote, whichever of it is there.

In: a run's folder. Out: a `Run`. A file that is missing or broken is a note,
never a crash: a report is most wanted of a run that went wrong.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from userrl_jax import scorecard

FORGETTING_START = "forgetting_start.json"  # see `forgetting.note_start`
# How the names of stages begin that GRPO is compared with.
ARMS = ("continued", "rl_only")
# Stages whose params a stage starts from: the first that the run has.
STARTS = {
  "base": (),
  "cold_start": ("base",),
  "grpo": ("cold_start", "base"),
  "continued_updates": ("cold_start",),
  "continued": ("cold_start",),
  "rl_only_updates": ("base",),
  "rl_only": ("base",),
}


@dataclasses.dataclass
class Run:
  """What a run's folder holds; a missing part is empty, and told in notes."""

  folder: pathlib.Path
  config: dict[str, Any]
  environment: dict[str, Any]  # of the process that began it
  processes: list[dict[str, Any]]  # that, and those of who resumed it
  metrics: list[dict[str, Any]]
  evaluations: dict[str, scorecard.Evaluation]  # by stage, in order
  played: dict[str, list[dict[str, Any]]]  # evaluation transcripts by stage
  # All training transcripts of the last step that has some.
  trained: dict[str, list[dict[str, Any]]]
  stages: list[str]
  notes: list[str]  # what is not there or cannot be read
  # What went wrong in training: stage, step, name and message.
  findings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  # What evaluations took, a line for each process that finished one.
  evaluation_costs: list[dict[str, Any]] = dataclasses.field(
    default_factory=list
  )
  # Of the params that it started from; see `forgetting.note_start`.
  forgetting_start: dict[str, Any] = dataclasses.field(default_factory=dict)


def read(run_dir: str | pathlib.Path, max_training: int) -> Run:
  """Reads what is there of a run's folder.

  Args:
    run_dir: the `out_dir` of a run, finished or not.
    max_training: how many training transcripts of each stage, the last ones,
      where they do not say their step.

  Raises:
    ValueError: when there is no such folder.
  """
  folder = pathlib.Path(run_dir)
  if not folder.is_dir():
    raise ValueError(
      f"RUN_DIR must be the folder of a run, got {folder}, which is not there; "
      "give the out_dir of a run"
    )
  notes: list[str] = []
  run_config = _read_json(folder / "config.json", notes)
  metrics = _read_lines(folder / "metrics.jsonl", notes)
  evaluations = _read_evaluations(folder, notes)
  stages = [str(stage) for stage in run_config.get("stages", ())]
  found = [line["stage"] for line in metrics if "stage" in line]
  stages = list(dict.fromkeys([*stages, *map(str, found), *evaluations]))
  stages.sort(key=lambda stage: stage.startswith(ARMS))
  played, trained = {}, {}
  for stage in stages:
    path = folder / "transcripts" / f"evaluation_{stage}.jsonl"
    if stage in evaluations or path.exists():
      played[stage] = _read_dialogues(path, notes)
    path = folder / "transcripts" / f"{stage}.jsonl"
    if path.exists():
      trained[stage] = _last(_read_dialogues(path, notes), max_training)
  for stage in stages:
    if stage not in evaluations:
      notes.append(f"evaluations/{stage}.json is not there")
  environment = _read_json(folder / "environment.json", notes)
  return Run(
    folder=folder,
    config=run_config,
    environment=environment,
    processes=_processes(environment),
    metrics=metrics,
    evaluations={s: evaluations[s] for s in stages if s in evaluations},
    played={s: p for s, p in played.items() if p},
    trained={s: t for s, t in trained.items() if t},
    stages=stages,
    notes=notes,
    findings=_read_findings(folder / "diagnostics.jsonl", notes),
    evaluation_costs=(
      _read_lines(path, notes)
      if (path := folder / "evaluation_costs.jsonl").exists()
      else []
    ),
    forgetting_start=(
      _read_json(path, notes)
      if (path := folder / FORGETTING_START).exists()
      else {}
    ),
  )


def stages_before(stage: str, stages: Sequence[str]) -> list[str]:
  """Returns what of a run's stages led to a stage, the base left out."""
  starts = STARTS.get(stage, ())
  before = next((start for start in starts if start in stages), "base")
  if before == "base":
    return []
  return [*stages_before(before, stages), before]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {dotted field: its value} of a config as it was kept."""
  fields: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      fields |= flat(value, f"{prefix}{name}.")
    else:
      fields[f"{prefix}{name}"] = value
  return fields


def _read_json(path: pathlib.Path, notes: list[str]) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
      raise ValueError("it is no JSON object")
    return value
  except FileNotFoundError:
    notes.append(f"{path.name} is not there")
  except (ValueError, OSError) as error:
    notes.append(f"{path.name} cannot be read: {error}")
  return {}


def _processes(environment: dict[str, Any]) -> list[dict[str, Any]]:
  """Returns an environment for each process; a later one tells what changed."""
  first = {k: v for k, v in environment.items() if k != "resumed"}
  resumed = environment.get("resumed", [])
  return [first] + [
    {**first, **later, "git": {k: later.get(k) for k in ("commit", "changed")}}
    for later in (resumed if isinstance(resumed, list) else [])
    if isinstance(later, dict)
  ]


def _read_lines(path: pathlib.Path, notes: list[str]) -> list[dict[str, Any]]:
  try:
    text = path.read_text(encoding="utf-8", errors="replace")
  except OSError:
    notes.append(f"{path.name} is not there")
    return []
  records, broken = [], []
  for number, line in enumerate(text.split("\n"), 1):
    try:
      if line.strip():
        value = json.loads(line)
        (records if isinstance(value, dict) else broken).append(
          value if isinstance(value, dict) else number
        )
    except ValueError:
      broken.append(number)
  if broken:
    notes.append(f"{path.name}: lines {broken[:5]} are no JSON records")
  return records


def _last(
  records: Sequence[dict[str, Any]], count: int
) -> list[dict[str, Any]]:
  if not records or "step" not in records[-1]:
    return list(records[-count:])
  return [r for r in records if r.get("step") == records[-1]["step"]]


def _read_findings(
  path: pathlib.Path, notes: list[str]
) -> list[dict[str, Any]]:
  needed = ("stage", "step", "name", "message")
  found = _read_lines(path, notes) if path.exists() else []
  return [line for line in found if all(name in line for name in needed)]


def evaluation_path(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the file of an evaluation in a run's folder."""
  return folder / "evaluations" / f"{name}.json"


def read_evaluation(folder: pathlib.Path, name: str) -> dict[str, Any] | None:
  """Returns a finished evaluation, None where there is none.

  Raises:
    ValueError: when its file is damaged.
  """
  path = evaluation_path(folder, name)
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f"{path} must hold a finished evaluation, got {error}; restore a copy, "
      "or delete the file"
    ) from error


def _read_evaluations(
  folder: pathlib.Path, notes: list[str]
) -> dict[str, scorecard.Evaluation]:
  evaluations = {}
  for path in sorted((folder / "evaluations").glob("*.json")):
    try:
      values = json.loads(path.read_text(encoding="utf-8"))
      evaluations[path.stem] = scorecard.Evaluation.from_dict(values)
    except (ValueError, OSError) as error:
      notes.append(f"evaluations/{path.name} cannot be read: {error}")
  return evaluations


def _read_dialogues(
  path: pathlib.Path, notes: list[str]
) -> list[dict[str, Any]]:
  """Returns transcripts that have what the page shows of them."""
  needed = ("gym", "task", "turns", "reward", "fault", "stop_reason")
  records = _read_lines(path, notes)
  whole = [r for r in records if all(name in r for name in needed)]
  if len(whole) < len(records):
    notes.append(
      f"{path.name}: {len(records) - len(whole)} records are no transcripts"
    )
  return whole
