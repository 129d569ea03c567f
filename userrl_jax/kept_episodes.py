"""Keeps the episodes of an evaluation as they finish, until it is complete.

In: finished trajectories, one after the other. Out: the same trajectories in a
later process, so that what was played is not played again. The file is JSON
lines: what was being evaluated, then an episode a line. A line that was cut off
is dropped; episodes that failed are not kept, so that they are tried again. Of
several hosts each writes a file of its own.
"""

from collections.abc import Mapping, Sequence
import glob
import json
import pathlib
from typing import Any

import numpy as np

from userrl_jax import types


def path_of(folder: pathlib.Path, name: str, host: int = 0) -> pathlib.Path:
  """Returns the file of an evaluation's episodes in a run's folder."""
  of_host = f".host{host}" if host else ""
  return folder / "evaluations" / f"{name}.episodes{of_host}.jsonl"


def paths_of_others(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Returns the files that are there of hosts but the first one."""
  pattern = f"{glob.escape(name)}.episodes.host*.jsonl"
  return sorted((folder / "evaluations").glob(pattern))


class KeptEpisodes:
  """A file of finished episodes of one evaluation; see `collect.Kept`."""

  def __init__(
    self,
    path: pathlib.Path,
    pins: Mapping[str, Any],
    tasks: Sequence[types.Task],
    *,
    taken_over: Sequence[pathlib.Path] = (),
    given: Sequence[str] | None = None,
  ):
    """Opens the file and reads what is in it.

    Args:
      path: of the file, made when it is not there.
      pins: what is being evaluated.
      tasks: all that episodes may be of.
      taken_over: files of other hosts; what they have is from now on in this
        one, and they are deleted.
      given: lines of episodes that another host keeps; the file begins anew
        beside them. None: it goes on.

    Raises:
      ValueError: when a file is damaged, or of another evaluation.
    """
    self._path = path
    self._known: dict[tuple[str, str, int], types.Trajectory] = {}
    self._tasks = {(task.gym, task.id): task for task in tasks}
    self._pins = json.loads(json.dumps(pins))
    self.lines: list[str] = []  # of episodes that were kept before
    for one in (path, *taken_over) if given is None else ():
      if one.exists():
        self.lines += self._read(one)
    for line in given or ():
      self._take_in(json.loads(line))
    own = [json.dumps({"pins": pins}) + "\n", *self.lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(own), encoding="utf-8")
    temporary.replace(path)
    for one in taken_over:
      one.unlink()
    self._file = path.open("a", encoding="utf-8")

  def __len__(self) -> int:
    return len(self._known)

  def find(self, task: types.Task, member: int) -> types.Trajectory | None:
    """Returns a finished episode, None when it is still to be played."""
    return self._known.get((task.gym, task.id, member))

  def add(self, trajectory: types.Trajectory) -> None:
    """Writes down an episode that has just finished, unless it failed."""
    if trajectory.is_valid:
      self._file.write(json.dumps(to_record(trajectory)) + "\n")
      self._file.flush()

  def close(self) -> None:
    """Closes the file and leaves it for a later process."""
    self._file.close()

  def remove(self) -> None:
    """Deletes the file: the evaluation is complete."""
    self.close()
    self._path.unlink()

  def _read(self, path: pathlib.Path) -> list[str]:
    """Takes in the episodes of a file; returns the lines of new ones."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
      lines.pop()  # it was killed while writing it
    new, pinned = [], self._pins
    for number, line in enumerate(lines, 1):
      try:
        record = json.loads(line)
        if number == 1:
          pinned = record["pins"]
          continue
        is_new = self._take_in(record)
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
          f"{path} line {number} must be a finished episode, got "
          f"{type(error).__name__}: {error}; delete the file to play anew"
        ) from error
      if is_new:
        new.append(line)
    if pinned != self._pins:
      changed = [k for k in self._pins if pinned.get(k) != self._pins[k]]
      raise ValueError(
        f"{path} must hold episodes of this evaluation, got those of "
        f"another {', '.join(changed)}; give another --config.out_dir, or "
        "delete the file to play anew"
      )
    return new

  def _take_in(self, record: Mapping[str, Any]) -> bool:
    """Keeps the episode of a record; returns whether it was not known."""
    trajectory = from_record(record, self._tasks)
    task = trajectory.task
    key = task.gym, task.id, trajectory.member
    is_new = key not in self._known
    self._known.setdefault(key, trajectory)
    return is_new


def to_record(trajectory: types.Trajectory) -> dict[str, Any]:
  """Returns a trajectory as JSON-able values, all but its task's own fields."""
  t = trajectory
  return {
    "gym": t.task.gym,
    "task": t.task.id,
    "member": t.member,
    "iteration": t.iteration,
    "token_ids": t.token_ids_T.tolist(),
    "logprobs": t.logprobs_T.tolist(),
    "turn_ids": t.turn_ids_T.tolist(),
    "turns": [
      {
        "text": turn.text,
        "action": turn.action
        and {"choice": turn.action.choice, "content": turn.action.content},
        "observation": turn.observation,
        "reward": float(turn.reward),
        "fault": str(turn.fault),
        "detail": turn.detail,
        "info": dict(turn.info),
      }
      for turn in t.turns
    ],
    "stop_reason": str(t.stop_reason),
    "fault": str(t.fault),
    "detail": t.detail,
    "prompt": t.prompt,
    "max_score": float(t.max_score),
    **({"profile": t.profile} if t.profile else {}),
  }


def from_record(
  record: Mapping[str, Any], tasks: Mapping[tuple[str, str], types.Task]
) -> types.Trajectory:
  """Returns the trajectory that `to_record` wrote, bit by bit.

  Raises:
    KeyError: when a field is missing, or the task is unknown.
    ValueError: when a value is not what it must be.
  """
  return types.Trajectory(
    task=tasks[record["gym"], record["task"]],
    member=record["member"],
    iteration=record["iteration"],
    token_ids_T=np.array(record["token_ids"], np.int32),
    logprobs_T=np.array(record["logprobs"], np.float32),
    turn_ids_T=np.array(record["turn_ids"], np.int32),
    turns=tuple(
      types.Turn(
        **{
          **turn,
          "action": turn["action"] and types.Action(**turn["action"]),
          "fault": types.Fault(turn["fault"]),
        }
      )
      for turn in record["turns"]
    ),
    stop_reason=types.StopReason(record["stop_reason"]),
    fault=types.Fault(record["fault"]),
    detail=record["detail"],
    prompt=record["prompt"],
    max_score=record["max_score"],
    profile=record.get("profile", ""),
  )
