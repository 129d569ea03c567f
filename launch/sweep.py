"""Runs a recipe many times with other values of its fields, and reports.

  python launch/sweep.py --config=configs/quickstart.py --out_dir=runs/sweep \
    --grid=grpo.optimizer.learning_rate=3e-4,6e-4 --grid=seed=0,1,2
  python launch/sweep.py --config=configs/quickstart.py --out_dir=runs/drawn \
    --random='grpo.optimizer.learning_rate=log(1e-5,1e-3)' --num_draws=8

In: a recipe, fields that are the same (`--config.field=value`), a grid, and
fields to draw (log, uniform, choice); with both, every draw meets every mix of
the grid. Each run is checked before the first one starts. Out: in `--out_dir` a
folder a run, named by its values, `logs/`, `state/`, and one report of all.

The same command again goes on: what is finished is not repeated, what was
killed goes on where it was, what failed is tried again. Values may be added to
a grid, and draws. Sweeps that share a disk share the work. Exit code: 0, or 1
when a run failed, or 143 when the sweep was told to stop.

A recipe may hold an experiment (`configs/ablations/`): its arms are then part
of the grid, and the report makes the tests that were planned with them.

  --arms=a,b        only these arms of the recipe's experiment
  --jobs=4          so many runs at once
  --gpus_per_job=1  each of them on so many GPUs of its own
  --dry_run         prints the commands, runs nothing
  --slurm           writes a job array for sbatch and a job for the report that
                    waits for it, prints how to submit both, runs nothing
  --only=N          only run number N, from 0; no report (the job array does so)
  --report_only     reports on what there is
  --noreport        leaves the report as it is
"""

from collections.abc import Mapping, Sequence
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags as absl_flags

# This checkout's package, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from userrl_jax import config_fields
from userrl_jax import experiments
from userrl_jax import flags
from userrl_jax import sweep_report
from userrl_jax import sweeps

_ROOT = sys.path[0]
_STOPPED = 143  # exit code after SIGTERM, as shells tell it
_POLL_S = 0.1


def main(argv: Sequence[str]) -> int:
  """Runs the sweep that the arguments say; returns the exit code."""
  with flags.user_errors():
    own, rest = parse(argv)
    if own.help:
      print(__doc__)
      return 0
    folder = pathlib.Path(own.out_dir)
    experiment = experiments.of(rest)
    runs = sweeps.plan(
      rest,
      folder,
      grid=own.grid,
      drawn=own.random,
      num_draws=own.num_draws,
      draw_seed=own.draw_seed,
      arms=_arms(own.arms, experiment),
    )
    if own.only >= len(runs):
      raise ValueError(f"--only must be below {len(runs)}, got {own.only}")
    _check_finished(runs, folder)
  if own.dry_run:
    for run in runs:
      print(shlex.join(["python", "-m", "userrl_jax.train", *run.argv]))
    return 0
  if own.slurm:
    print(write_array(argv, folder, len(runs), own.jobs))
    return 0
  codes: dict[str, int | None] = {}
  if not own.report_only:
    wanted = [runs[own.only]] if own.only >= 0 else runs
    codes = Driver(folder, own.jobs, own.gpus_per_job).run(wanted)
    if None in codes.values():
      print("stopped; the same command goes on", file=sys.stderr)
      return _STOPPED
  if own.only < 0 and own.report:
    folder.mkdir(parents=True, exist_ok=True)
    members = _members(runs, folder)
    page, table = sweep_report.write(folder, members, experiment)
    print(f"\n{table}\n\nreport: {page}")
  failed = {name: code for name, code in codes.items() if code}
  for name, code in failed.items():
    log = folder / "logs" / f"{name}.log"
    print(f"failed with code {code}: {name}\n  {last_words(log)}\n  {log}")
  return int(bool(failed))


def parse(argv: Sequence[str]) -> tuple[absl_flags.FlagValues, list[str]]:
  """Returns the flags of the sweep, and the arguments that are train's.

  Raises:
    ValueError: when one is wrong.
  """
  own = absl_flags.FlagValues()
  text = lambda name, value: absl_flags.DEFINE_string(
    name, value, name, flag_values=own
  )
  number = lambda name, value, low: absl_flags.DEFINE_integer(
    name, value, name, lower_bound=low, flag_values=own
  )
  text("out_dir", "runs/sweep")
  text("arms", "")
  number("num_draws", 8, 1)
  number("draw_seed", 0, 0)
  number("jobs", 1, 1)
  number("gpus_per_job", 0, 0)
  number("only", -1, -1)
  for name in ("grid", "random"):
    absl_flags.DEFINE_multi_string(name, [], name, flag_values=own)
  actions = ("dry_run", "slurm", "report_only")
  for name in (*actions, "help"):
    absl_flags.DEFINE_bool(name, False, name, flag_values=own)
  absl_flags.DEFINE_bool("report", True, "report", flag_values=own)
  own.set_gnu_getopt()
  try:
    _, *rest = own(["", *argv], known_only=True)
  except absl_flags.Error as error:
    raise ValueError(str(error)) from error
  given = [f"--{name}" for name in actions if getattr(own, name)]
  if len(given) > 1:
    raise ValueError(f"one of {', '.join(given)} must be given, got several")
  return own, rest


@dataclasses.dataclass
class _Job:
  run: sweeps.Run
  process: subprocess.Popen[bytes]
  lock: Any  # an open file; the process holds it, too
  slot: int
  start: float
  is_told: bool = False  # to stop


class Driver:
  """Runs what is not finished, some at once, and keeps what became of it."""

  def __init__(self, folder: pathlib.Path, num_jobs: int, gpus_per_job: int):
    self._folder, self._gpus = folder, gpus_per_job
    self._free = list(range(num_jobs))
    self._jobs: list[_Job] = []
    self._is_stopping = False

  def run(self, runs: Sequence[sweeps.Run]) -> dict[str, int | None]:
    """Returns each run's exit code; None where it was not finished."""
    for name in ("state", "logs"):
      (self._folder / name).mkdir(parents=True, exist_ok=True)
    before = {
      which: signal.signal(which, self._stop)
      for which in (signal.SIGTERM, signal.SIGINT)
    }
    codes: dict[str, int | None] = {run.name: None for run in runs}
    places = {run.name: f"[{n}/{len(runs)}]" for n, run in enumerate(runs, 1)}
    say = lambda run, what: print(
      f"{places[run.name]} {run.name}: {what}", flush=True
    )
    waiting, told = list(runs), set()
    try:
      while self._jobs or (waiting and not self._is_stopping):
        for run in [] if self._is_stopping else list(waiting):
          lock = self._free and _lock(self._folder, run)
          if not lock:
            if self._free and run.name not in told:
              say(run, "another process runs it")
              told.add(run.name)
            continue
          waiting.remove(run)
          if read_state(self._folder, run).get("code") == 0:
            lock.close()
            codes[run.name] = 0
            say(run, "is finished")
            continue
          say(run, "starts")
          self._jobs.append(self._start(run, lock))
        for job in self._jobs:
          if self._is_stopping and not job.is_told:
            job.is_told = True
            job.process.terminate()
        for job in [j for j in self._jobs if j.process.poll() is not None]:
          code = codes[job.run.name] = self._end(job)
          seconds = time.monotonic() - job.start
          how = f"failed with code {code}" if code else "finished"
          how = "stopped" if code and job.is_told else how
          say(job.run, f"{how} in {seconds:.0f} s")
        time.sleep(_POLL_S)
    finally:
      for which, handler in before.items():
        signal.signal(which, handler)
    if self._is_stopping:  # what it stopped has not failed
      codes = {
        name: code if code == 0 else None for name, code in codes.items()
      }
    return codes

  def _start(self, run: sweeps.Run, lock: Any) -> _Job:
    slot = self._free.pop(0)
    state = read_state(self._folder, run)
    starts = state.get("starts", 0) + 1
    _write_state(self._folder, run, {"code": None, "starts": starts})
    with (self._folder / "logs" / f"{run.name}.log").open("ab") as log:
      process = subprocess.Popen(
        [sys.executable, "-m", "userrl_jax.train", *run.argv],
        env=environment(os.environ, slot, self._gpus),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        # It keeps the lock should the sweep be killed, and it not.
        pass_fds=(lock.fileno(),),
      )
    return _Job(run, process, lock, slot, time.monotonic())

  def _end(self, job: _Job) -> int:
    code = job.process.returncode
    starts = read_state(self._folder, job.run).get("starts", 1)
    _write_state(self._folder, job.run, {"code": code, "starts": starts})
    job.lock.close()
    self._jobs.remove(job)
    self._free.append(job.slot)
    self._free.sort()
    return code

  def _stop(self, *_: Any) -> None:
    self._is_stopping = True


def environment(
  own: Mapping[str, str], slot: int, num_gpus: int
) -> dict[str, str]:
  """Returns the environment of a run: this package, and GPUs of its own.

  Args:
    own: the environment of the sweep.
    slot: which of the jobs at once it is.
    num_gpus: of each job; 0 lets it see what the sweep sees.
  """
  packages = [_ROOT, *filter(None, [own.get("PYTHONPATH")])]
  made = {**own, "PYTHONPATH": os.pathsep.join(packages)}
  if num_gpus:
    seen = list(filter(None, own.get("CUDA_VISIBLE_DEVICES", "").split(",")))
    end = (slot + 1) * num_gpus
    names = seen or [str(n) for n in range(end)]
    made["CUDA_VISIBLE_DEVICES"] = ",".join(names[end - num_gpus : end])
  return made


def read_state(folder: pathlib.Path, run: sweeps.Run) -> dict[str, Any]:
  """Returns what became of a run; empty when there is nothing of it."""
  path = folder / "state" / f"{run.name}.json"
  state = json.loads(path.read_text()) if path.exists() else {}
  is_gone = state.get("code") == 0 and not (folder / run.name).is_dir()
  return {} if is_gone else state


def write_array(
  argv: Sequence[str], folder: pathlib.Path, num_runs: int, num_jobs: int
) -> str:
  """Writes a job array and a report's job; returns how to submit both."""
  (folder / "logs").mkdir(parents=True, exist_ok=True)
  again = [sys.executable, str(pathlib.Path(__file__).resolve())]
  again += [a for a in argv if not re.fullmatch(r"--?slurm(=.*)?", a)]
  limit = f"%{num_jobs}" if num_jobs > 1 else ""
  array = _write_job(
    folder / "array.sbatch",
    [
      f"--job-name={folder.name}",
      f"--array=0-{num_runs - 1}{limit}",
      f"--output={folder}/logs/array-%a.log",
      "--open-mode=append",
      "--requeue",
    ],
    f'{shlex.join(again)} --only="$SLURM_ARRAY_TASK_ID"',
  )
  report = _write_job(
    folder / "report.sbatch",
    [f"--job-name={folder.name}_report", f"--output={folder}/logs/report.log"],
    shlex.join([*again, "--report_only"]),
  )
  return (
    "# Add to it what a run needs, such as --gres=gpu:1 --time=4:00:00:\n"
    f"job=$(sbatch --parsable {array})\n"
    "# The report, when the last run has ended, whatever became of it:\n"
    f'sbatch --dependency=afterany:"${{job%%;*}}" {report}'
  )


def _write_job(path: pathlib.Path, options: Sequence[str], command: str) -> str:
  lines = ["#!/bin/bash", *(f"#SBATCH {one}" for one in options)]
  path.write_text("\n".join([*lines, f"exec {command}"]) + "\n")
  return shlex.quote(str(path))


def last_words(log: pathlib.Path) -> str:
  """Returns the line of a log that says most about its end."""
  text = log.read_text(errors="replace") if log.exists() else ""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  errors = [line for line in lines[-50:] if line.startswith("error: ")]
  return [*lines[-1:], *errors[-1:]][-1] if lines else "it said nothing"


def _write_state(
  folder: pathlib.Path, run: sweeps.Run, values: Mapping[str, Any]
) -> None:
  path = folder / "state" / f"{run.name}.json"
  values = {**values, "argv": run.argv, "config": run.config}
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(values, indent=2) + "\n")
  temporary.replace(path)


def _lock(folder: pathlib.Path, run: sweeps.Run) -> Any:
  """Returns an open file that holds the run's lock; None when it is held."""
  file = (folder / "state" / f"{run.name}.lock").open("w")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    return None
  return file


def _check_finished(runs: Sequence[sweeps.Run], folder: pathlib.Path) -> None:
  """Refuses a folder with finished runs of another config."""
  for run in runs:
    state = read_state(folder, run)
    if state.get("code") != 0:
      continue  # train itself says whether it can go on
    changed = config_fields.differences(
      config_fields.from_dict(json.loads(json.dumps(run.config))),
      config_fields.from_dict(state["config"]),
    )
    if changed.keys() - {"out_dir"}:
      from userrl_jax import recorder  # slow: it brings JAX

      free = recorder.FREE_FIELDS
      changed = {k: v for k, v in changed.items() if not k.startswith(free)}
    if changed.keys() - {"out_dir"}:
      what = "; ".join(f"{k}: {a!r} -> {b!r}" for k, (a, b) in changed.items())
      raise ValueError(
        f"{folder} must hold runs of this recipe, got {run.name} finished with "
        f"another ({what}); give another --out_dir"
      )


def _arms(
  wanted: str, experiment: experiments.Experiment | None
) -> tuple[str, ...]:
  """Returns the arms to run: those that are named, else all there are."""
  known = experiment.arms if experiment else ()
  names = tuple(filter(None, wanted.split(",")))
  if set(names) - set(known):
    raise ValueError(
      f"--arms must be some of {', '.join(known) or 'none'}, which the "
      f"recipe's experiment has, got {wanted}"
    )
  return names or known


def _members(
  runs: Sequence[sweeps.Run], folder: pathlib.Path
) -> list[sweep_report.Member]:
  members = []
  for run in runs:
    state = read_state(folder, run)
    code = state.get("code")
    problem = "" if code == 0 else "is not finished"
    if not state:
      problem = "has not begun"
    elif code:
      problem = f"failed with code {code}"
    members.append(
      sweep_report.Member(
        run.name, run.cell, folder / run.name, problem, run.arm
      )
    )
  return members


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
