"""What a run writes down about itself: numbers and transcripts.

In: groups of trajectories and dicts of numbers. Out: `metrics.jsonl`,
TensorBoard and `transcripts/`. Names of numbers are
`subject/what`, with the unit in the name where there is one.
"""

import collections
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from userrl_jax import diagnostics
from userrl_jax import gyms
from userrl_jax import measures
from userrl_jax import types


def summarize_groups(groups: Sequence[types.Group]) -> dict[str, float]:
  """Describes the episodes of an iteration in numbers.

  Rewards, success, turns and tokens are of valid episodes only (law L2);
  shares of stop reasons and faults are of all.

  Args:
    groups: of any gyms.

  Returns:
    reward/<gym>, score/<gym> (reward as a share of what the task can give),
      success/<gym>, turns/<gym>: mean over the gym's valid episodes
    profile/<name>/score, profile/<name>/num: mean score and number of the valid
      episodes with users of a profile, of all gyms together
    score/macro: mean of the gyms' scores, when there are several and each has a
      valid episode
    flat/<gym>: group/flat_share of the gym's groups
    episode/num, episode/turns, episode/tokens_per_turn (sampled)
    episode/invalid_share; turn/malformed_share of all turns
    turn/leaks: replies of a model that told too much and were asked for again,
      once there was one
    group/flat_share: of groups, those whose valid episodes all have one reward
    group/too_few: groups of several with fewer than two valid episodes, which
      have nothing to compare and are never learned from
    stop/<reason>: share of episodes, every reason
    fault/<kind>: count, every kind but ok; fault/<gym>/<kind> where it occurred
    A mean of nothing is left out.
  """
  trajectories = [t for group in groups for t in group.trajectories]
  valid = [t for t in trajectories if t.is_valid]
  numbers: dict[str, float] = {"episode/num": float(len(trajectories))}
  for gym in sorted({t.task.gym for t in valid}):
    own = [t for t in valid if t.task.gym == gym]
    numbers[f"reward/{gym}"] = _mean(t.reward for t in own)
    numbers[f"score/{gym}"] = _mean(t.score for t in own)
    numbers[f"success/{gym}"] = _mean(measures.is_success(t) for t in own)
    numbers[f"turns/{gym}"] = _mean(len(t.turns) for t in own)
    numbers[f"flat/{gym}"] = _mean(
      _is_flat(group) for group in groups if group.task.gym == gym
    )
  for profile in sorted({t.profile for t in valid} - {""}):
    own = [t for t in valid if t.profile == profile]
    numbers[f"profile/{profile}/score"] = _mean(t.score for t in own)
    numbers[f"profile/{profile}/num"] = float(len(own))
  scores = [v for n, v in numbers.items() if n.startswith("score/")]
  if len(scores) > 1 and len(scores) == len({t.task.gym for t in trajectories}):
    numbers["score/macro"] = _mean(scores)
  if valid:
    numbers["episode/turns"] = _mean(len(t.turns) for t in valid)
  sampled = [n for t in valid for n in t.num_sampled_K]
  if sampled:
    numbers["episode/tokens_per_turn"] = _mean(sampled)
  if trajectories:
    numbers["episode/invalid_share"] = 1 - len(valid) / len(trajectories)
    stops = collections.Counter(t.stop_reason for t in trajectories)
    for reason in types.StopReason:
      numbers[f"stop/{reason}"] = stops[reason] / len(trajectories)
  turns = [turn for t in trajectories for turn in t.turns]
  if turns:
    numbers["turn/malformed_share"] = _mean(
      turn.fault == types.Fault.AGENT_MALFORMED for turn in turns
    )
  leaks = sum(turn.info.get("leaks", 0) for turn in turns)
  if leaks:
    numbers["turn/leaks"] = float(leaks)
  if groups:
    numbers["group/flat_share"] = _mean(_is_flat(group) for group in groups)
    numbers["group/too_few"] = float(sum(g.has_too_few for g in groups))
  return numbers | _count_faults(trajectories)


def trajectory_record(
  trajectory: types.Trajectory, tokenizer: Any = None
) -> dict[str, Any]:
  """Returns one transcript as JSON-able values, both sides of every turn.

  Nothing of `Task.secret` is in it. What gyms say about a turn (`info`) may be
  privileged and stands under `privileged`, never among what the agent read; so
  does `information_bits`, where a gym counts what each turn told.

  Args:
    trajectory: any.
    tokenizer: when given, the whole id stream is added as it decodes.
  """
  t = trajectory
  turns = []
  bits_K = gyms.information(t.task, t.turns)
  for k, (turn, bits) in enumerate(zip(t.turns, bits_K, strict=True)):
    logprobs = t.logprobs_T[t.turn_ids_T == k]
    turns.append(
      {
        "text": turn.text,
        "action": turn.action
        and {"choice": turn.action.choice, "content": turn.action.content},
        "observation": turn.observation,
        "reward": float(turn.reward),
        "fault": str(turn.fault),
        "detail": turn.detail,
        "num_tokens": int(logprobs.size),
        "mean_logprob": _mean(logprobs) if logprobs.size else None,
        "privileged": _jsonable(turn.info)
        | ({} if bits is None else {"information_bits": round(bits, 6)}),
      }
    )
  record = {
    "gym": t.task.gym,
    "task": t.task.id,
    "split": t.task.split,
    "level": int(t.task.level),
    "structure": t.task.structure,
    "public": _jsonable(t.task.public),
    "member": int(t.member),
    "iteration": int(t.iteration),
    "prompt": t.prompt,
    "turns": turns,
    "reward": t.reward,
    "score": t.score,
    "max_score": t.max_score,
    "success": measures.is_success(t),
    "valid": t.is_valid,
    "stop_reason": str(t.stop_reason),
    "fault": str(t.fault),
    "detail": t.detail,
    "num_tokens": int(t.token_ids_T.size),
    "num_sampled": int((t.turn_ids_T >= 0).sum()),
  }
  for turn, gap in zip(turns, t.logprob_gaps):
    turn["logprob_gap"] = gap
  if t.profile:
    record["profile"] = t.profile
  if t.host:
    record["host"] = t.host
  if tokenizer is not None:
    record["stream"] = tokenizer.decode(t.token_ids_T.tolist())
  return record


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
      file.write(json.dumps(trajectory_record(trajectory)) + "\n")
  temporary.replace(path)


class Writers:
  """Writes a run's numbers and transcripts; a context manager.

  A run that is killed and resumed leaves the files of an uninterrupted one,
  except for times: on opening, what was written at or after the step that is
  run next is dropped. So write a step's numbers before its checkpoint.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    stages: Sequence[str],
    resume: tuple[str, int] | None = None,
    begun: Collection[str] = (),
  ):
    """Opens the files of a run folder.

    Args:
      folder: of the run; made when it is not there.
      stages: of the run, in order.
      resume: (stage, step) that is run next; None starts from nothing, and
        drops what an earlier run left.
      begun: later stages that go on too, where this one does some of its steps
        again. Open the files anew with each of them.

    Raises:
      ValueError: when the stage to resume is none of `stages`, or a file to
        go on with has a line that is no JSON record.
    """
    if resume and resume[0] not in stages:
      raise ValueError(
        f"a run can only resume one of its stages {list(stages)}, got "
        f"{resume[0]!r}"
      )
    self._folder = pathlib.Path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    first = stages.index(resume[0]) if resume else 0
    self._resume = resume
    own = resume[0] if resume else ""
    again = [s for s in stages[first:] if s == own or s not in begun]

    def is_done(record: Mapping[str, Any]) -> bool:
      if not resume or record["stage"] not in stages:
        return False
      if record["stage"] == own:
        return record["step"] < resume[1]
      return record["stage"] not in again

    path = self._folder / "metrics.jsonl"
    self._order = list(stages) if begun else []
    _keep_lines(path, is_done, stages)
    _keep_lines(self._folder / "diagnostics.jsonl", is_done, stages)
    for stage in again:
      _keep_lines(self._folder / "transcripts" / f"{stage}.jsonl", is_done)
      if stage != own:
        shutil.rmtree(self._folder / "tensorboard" / stage, ignore_errors=True)
    self._file = path.open("a", encoding="utf-8")
    self._boards: dict[str, Any] = {}
    try:
      import tensorboardX  # an extra; the JSONL is always there

      self._make_board = tensorboardX.SummaryWriter
    except ImportError:
      self._make_board = None

  def __enter__(self) -> "Writers":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()

  def write(
    self, stage: str, step: int, numbers: Mapping[str, Any], time_s: float
  ) -> None:
    """Writes the numbers of one step.

    Args:
      stage: one of the run's.
      step: counts from 0 in each stage.
      numbers: name -> number or array of one number.
      time_s: seconds since the run began.

    Raises:
      ValueError: when something named is no number.
    """
    plain = {name: _number(name, numbers[name]) for name in sorted(numbers)}
    record = {"stage": stage, "step": step, "time_s": round(time_s, 3), **plain}
    self._file.write(json.dumps(record) + "\n")
    self._file.flush()
    board = self._board(stage)
    if board is not None:
      for name, number in plain.items():
        board.add_scalar(name, number, step)

  def write_findings(
    self, stage: str, step: int, findings: Iterable[diagnostics.Finding]
  ) -> None:
    """Appends what was found wrong at a step to `diagnostics.jsonl`."""
    path = self._folder / "diagnostics.jsonl"
    for finding in findings:
      record = {"stage": stage, "step": step, **dataclasses.asdict(finding)}
      with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")

  def write_transcripts(
    self,
    stage: str,
    step: int,
    trajectories: Iterable[types.Trajectory],
    tokenizer: Any = None,
  ) -> None:
    """Appends the trajectories of a step to `transcripts/<stage>.jsonl`."""
    path = self._folder / "transcripts" / f"{stage}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      for trajectory in trajectories:
        record = trajectory_record(trajectory, tokenizer)
        file.write(json.dumps({"stage": stage, "step": step, **record}) + "\n")

  def close(self) -> None:
    """Closes every file; numbers already written are safe without it."""
    self._file.close()
    if self._order:
      for name in ("metrics.jsonl", "diagnostics.jsonl"):
        _keep_lines(self._folder / name, lambda _: True, self._order)
    for board in self._boards.values():
      board.close()
    self._boards.clear()

  def _board(self, stage: str) -> Any:
    if self._make_board is None:
      return None
    if stage not in self._boards:
      step = None
      if self._resume and stage == self._resume[0]:
        step = self._resume[1]
      self._boards[stage] = self._make_board(
        str(self._folder / "tensorboard" / stage), purge_step=step
      )
    return self._boards[stage]


def _mean(values: Iterable[Any]) -> float:
  return float(np.mean([float(value) for value in values]))


def _is_flat(group: types.Group) -> bool:
  """Tells whether the rewards leave nothing to compare (0 or 1 valid too)."""
  return len({t.reward for t in group.trajectories if t.is_valid}) < 2


def _count_faults(
  trajectories: Sequence[types.Trajectory],
) -> dict[str, float]:
  kinds = [fault for fault in types.Fault if fault != types.Fault.OK]
  numbers = {f"fault/{kind}": 0.0 for kind in kinds}
  for t in trajectories:
    for fault in measures.faults(t):
      name = f"fault/{t.task.gym}/{fault}"
      numbers[name] = numbers.get(name, 0.0) + 1
      numbers[f"fault/{fault}"] += 1
  return numbers


def _number(name: str, value: Any) -> float | int:
  try:
    if isinstance(value, (bool, int)):
      return int(value)
    return float(value)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"a metric must be one number, got {value!r} for {name}"
    ) from error


def _jsonable(value: Any) -> Any:
  """Returns plain JSON values; what is none is shown as its repr."""
  if isinstance(value, Mapping):
    return {str(k): _jsonable(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_jsonable(v) for v in value]
  if isinstance(value, (set, frozenset)):
    return sorted((_jsonable(v) for v in value), key=repr)
  if isinstance(value, (np.ndarray, np.generic)):
    return _jsonable(value.tolist())
  if isinstance(value, str):
    return str(value)  # an enum's value
  if value is None or isinstance(value, (bool, int, float)):
    return value
  return repr(value)


def _keep_lines(
  path: pathlib.Path,
  is_kept: Callable[[Mapping[str, Any]], bool],
  order: Sequence[str] = (),
) -> None:
  """Drops lines of a JSONL file, all at once; a cut last line is dropped.

  Stages given an order are brought into it: one that does some steps again may
  have written them after the lines of a later one.
  """
  if not path.exists():
    return
  lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
  kept = []
  for number, line in enumerate(lines, 1):
    if not line.endswith("\n"):
      break  # the run was killed while writing the last line
    try:
      record = json.loads(line)
      if is_kept(record):
        place = order.index(record["stage"]) if order else 0
        kept.append((place, line))
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{path} line {number} must be a JSON record with stage and step, got "
        f"{line[:80]!r}; delete the file, or the run's folder, to start anew"
      ) from error
  kept.sort(key=lambda pair: pair[0])
  temporary = path.with_suffix(".tmp")
  text = "".join(line for _, line in kept)
  temporary.write_text(text, encoding="utf-8")
  temporary.replace(path)
