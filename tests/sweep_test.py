"""A sweep of tiny runs in processes of their own: killed, resumed, reported."""

import fcntl
import importlib.util
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

RECIPE = """
from userrl_jax import config


def get_config():
  c = config.Config(stages=("base",))
  c.model.num_layers = 1
  c.gyms.num_train_tasks = 4
  c.gyms.num_test_tasks = 4
  c.gyms.max_turns = 2
  c.rollout.max_tokens_per_turn = 8
  c.rollout.max_tokens_per_episode = 192
  c.engine = config.Engine(num_rows=4, num_lanes=4, decode_tokens=8)
  c.packing = config.Packing(
    row_length=192, rows_per_micro_batch=1, logprob_chunk=64
  )
  c.base.num_steps = 4
  c.base.num_episodes = 8
  c.base.episodes_per_step = 2
  c.base.optimizer = config.Optimizer()
  c.grpo.tasks_per_iteration = 4
  c.evaluation.num_tasks = 2
  c.checkpoint.every_steps = 1
  return c
"""
# All runs are in one fixture.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GRID = (
  "--grid=base.optimizer.learning_rate=1e-3,1e-2",
  "--grid=seed=0,1,2",
)
NAMES = [
  f"learning_rate={rate},seed={seed}"
  for rate in ("0.001", "0.01")
  for seed in (0, 1, 2)
]


class Place:
  """Where the sweeps of this module live: a recipe and compiled programs."""

  def __init__(self, folder, root):
    self.folder, self._script = folder, root / "launch" / "sweep.py"
    (folder / "recipe.py").write_text(RECIPE)
    self._env = {
      **os.environ,
      "JAX_ENABLE_COMPILATION_CACHE": "true",
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      # Less optimised code compiles in half the time.
      "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }

  def start(self, name, *flags):
    """Starts a sweep into `<folder>/<name>`, a group of processes."""
    return subprocess.Popen(
      [
        *(sys.executable, str(self._script), "--config=recipe.py"),
        *(f"--out_dir={name}", *flags),
      ],
      cwd=self.folder,
      env=self._env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def run(self, name, *flags):
    """Runs to the end; returns (exit code, standard output, its errors)."""
    process = self.start(name, *flags)
    try:
      out, errors = process.communicate(timeout=800)
    finally:
      process.kill()
    return process.returncode, out, errors

  def states(self, name):
    """Returns {run: what became of it} of those that started."""
    paths = (self.folder / name / "state").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  return Place(tmp_path_factory.mktemp("sweeps"), root)


@pytest.fixture
def sweep(place, root, monkeypatch):
  """Returns the same in this process: (name, flags) -> exit code."""
  monkeypatch.chdir(place.folder)
  monkeypatch.setattr(sys, "path", list(sys.path))
  script = root / "launch" / "sweep.py"
  spec = importlib.util.spec_from_file_location("launch_sweep", script)
  module = importlib.util.module_from_spec(spec)
  monkeypatch.setitem(sys.modules, spec.name, module)
  spec.loader.exec_module(module)
  recipe = "--config=recipe.py"
  return lambda name, *flags: module.main([recipe, f"--out_dir={name}", *flags])


@pytest.fixture(scope="module")
def finished(place):
  """What six runs said, killed in the fourth and started again."""
  process = place.start("six", *GRID)
  try:
    _wait_for_checkpoint(process, place.folder / "six" / NAMES[3])
  finally:
    os.killpg(process.pid, signal.SIGKILL)  # as when the machine goes down
    process.communicate()
  killed = place.states("six")
  code, out, errors = place.run("six", *GRID, "--jobs=2")
  assert code == 0, out + errors
  return killed, out


def _wait_for_checkpoint(process, folder):
  """Waits for a checkpoint that is whole: they are written beside the steps."""
  deadline = time.monotonic() + 800
  while time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()
    paths = (folder / "checkpoints" / "base").glob("[0-9]*")
    if any(path.name.isdigit() for path in paths):
      return
    time.sleep(0.02)
  raise TimeoutError(f"no checkpoint in {folder}")


@pytest.mark.exhaustive
def test_a_killed_sweep_goes_on_and_repeats_nothing(place, finished):
  killed, out = finished
  assert [killed[name]["code"] for name in NAMES[:4]] == [0, 0, 0, None]
  assert not killed.keys() & set(NAMES[4:])
  states = place.states("six")
  assert {
    name: state["code"] for name, state in states.items()
  } == dict.fromkeys(NAMES, 0)
  starts = [states[name]["starts"] for name in NAMES]
  assert starts == [1, 1, 1, 2, 1, 1]
  assert out.count(": is finished") == 3
  log = (place.folder / "six" / "logs" / f"{NAMES[3]}.log").read_text()
  assert "base: goes on after step" in log
  for name in NAMES:
    lines = (place.folder / "six" / name / "metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in lines.splitlines()]
    assert steps == [0, 1, 2, 3]


@pytest.mark.exhaustive
def test_it_ends_in_one_report(place, finished):
  _, out = finished
  folder = place.folder / "six"
  cells = json.loads((folder / "report.json").read_text())["cells"]
  assert sorted(c["name"] for c in cells) == [
    "learning_rate=0.001",
    "learning_rate=0.01",
  ]
  assert all(c["num_finished"] == c["num_runs"] == 3 for c in cells)
  scores = {
    name: json.loads((folder / name / "evaluations" / "base.json").read_text())
    for name in NAMES
  }
  for cell in cells:
    own = [s["macro"]["score"] for n, s in scores.items() if cell["name"] in n]
    assert cell["score"]["mean"] == pytest.approx(sum(own) / 3)
  table = (folder / "report.md").read_text()
  assert table in out and "score of base" in table
  page = (folder / "report.html").read_text()
  assert "</html>" in page and all(f">{name}</a>" in page for name in NAMES)


@pytest.mark.exhaustive
def test_a_finished_sweep_starts_nothing(place, finished):
  _, out = finished
  code, again, _ = place.run("six", *GRID)
  assert code == 0 and "starts" not in again
  assert again.count(": is finished") == 6
  assert again[again.index("| setting") :] == out[out.index("| setting") :]


@pytest.mark.exhaustive
def test_a_folder_holds_one_sweep(place, finished):
  code, _, errors = place.run("six", *GRID, "--config.base.num_steps=5")
  assert code == 2
  assert "error: six must hold runs of this recipe" in errors
  assert "base.num_steps: 4 -> 5" in errors
  # But for fields that a run may go on with.
  code, out, errors = place.run("six", *GRID, "--config.checkpoint.keep=3")
  assert code == 0 and out.count(": is finished") == 6, errors


def test_a_failed_run_stops_no_other_and_is_told_at_the_end(place):
  flags = ("--grid=gyms.tasks=no/such/folder,generated",)
  code, out, errors = place.run("failing", *flags)
  assert code == 1, errors
  states = place.states("failing")
  assert [s["code"] for _, s in sorted(states.items())] == [0, 2]
  failed = next(name for name, s in states.items() if s["code"])
  end = out[out.rindex("failed with code 2") :]
  assert failed in end and "error: " in end and "no/such/folder" in end
  assert f"Note: {failed}: failed with code 2." in out
  assert "| tasks=generated | 1 of 1 |" in out


def test_a_sweep_that_is_told_to_stop_stops_its_runs(place, finished):
  process = place.start("stopped", "--grid=seed=0,1")
  assert process.stdout.readline() == "[1/2] seed=0: starts\n"
  process.terminate()
  out, errors = process.communicate(timeout=60)
  assert process.returncode == 143 and errors.startswith("stopped; ")
  assert "[1/2] seed=0: stopped in" in out and "seed=1" not in out
  (state,) = place.states("stopped").values()
  assert state["code"] in (-signal.SIGTERM, 143)
  assert not (place.folder / "stopped" / "report.html").exists()


@pytest.mark.exhaustive
def test_a_run_is_never_run_twice_at_once(place, finished):
  lock = place.folder / "six" / "state" / f"{NAMES[4]}.lock"
  with lock.open() as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    process = place.start("six", *GRID, "--only=4")
    line = process.stdout.readline()
    assert line == f"[1/1] {NAMES[4]}: another process runs it\n"
    assert process.poll() is None
  out, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors
  assert out == f"[1/1] {NAMES[4]}: is finished\n"


@pytest.mark.exhaustive
def test_what_is_deleted_has_not_begun(place, finished, sweep, capsys):
  shutil.copytree(place.folder / "six", place.folder / "less")
  shutil.rmtree(place.folder / "less" / NAMES[0])
  assert sweep("less", *GRID, "--report_only") == 0
  assert f"Note: {NAMES[0]}: has not begun." in capsys.readouterr().out


def test_jobs_have_gpus_of_their_own(sweep):
  environment = sys.modules["launch_sweep"].environment
  for seen, slot, num, expected in (
    ({}, 1, 0, None),
    ({}, 1, 2, "2,3"),
    ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 1, 2, "6,7"),
    ({"CUDA_VISIBLE_DEVICES": "4,5"}, 0, 0, "4,5"),
  ):
    made = environment(seen, slot, num)
    assert made.get("CUDA_VISIBLE_DEVICES") == expected


def test_wrong_flags_start_nothing(sweep, capsys):
  for flags, message in (
    (["--grid=seed=0", "--config.sed=1"], "no config field sed"),
    (["--grid=seed=0", "--jobs=0"], "flag --jobs=0"),
    (["--grid=seed=0", "--only=1"], "--only must be below 1, got 1"),
    (["--grid=seed=0", "--dry_run", "--slurm"], "--dry_run, --slurm must be"),
  ):
    with pytest.raises(SystemExit) as info:
      sweep("wrong", *flags)
    assert info.value.code == 2, flags
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors
  assert not pathlib.Path("wrong").exists()


def test_a_dry_run_prints_commands_and_writes_nothing(sweep, capsys):
  assert sweep("dry", *GRID, "--dry_run") == 0
  out = capsys.readouterr().out
  assert out.startswith("python -m userrl_jax.train --config=recipe.py ")
  assert len(out.splitlines()) == 6
  assert not pathlib.Path("dry").exists()


def test_a_report_is_left_as_it_is_if_told_so(sweep, monkeypatch):
  driver = sys.modules["launch_sweep"].Driver
  finish = lambda self, runs: {run.name: 0 for run in runs}
  monkeypatch.setattr(driver, "run", finish)
  page = pathlib.Path("kept") / "report.html"
  page.parent.mkdir()
  page.write_text("of five seeds")
  assert sweep("kept", "--grid=seed=0,1", "--noreport") == 0
  assert page.read_text() == "of five seeds"
  assert sweep("kept", "--grid=seed=0,1") == 0
  assert "has not begun" in page.read_text()


def test_the_report_of_a_job_array_waits_for_it(place, sweep, capsys):
  assert sweep("array", *GRID, "--slurm") == 0
  script = capsys.readouterr().out
  # Stands in for SLURM: says a job's number, and what it was asked for.
  sbatch = 'sbatch() { echo "17;a_cluster"; echo "$*" >>asked; }\n'
  subprocess.run(["bash", "-euc", sbatch + script], check=True)
  assert pathlib.Path("asked").read_text().splitlines() == [
    "--parsable array/array.sbatch",
    "--dependency=afterany:17 array/report.sbatch",
  ]
  lines = pathlib.Path("array", "report.sbatch").read_text().splitlines()
  (command,) = [line for line in lines if line and line[0] != "#"]
  words = shlex.split(command)
  assert words[3:] == [
    *("--config=recipe.py", "--out_dir=array", *GRID, "--report_only"),
  ]


@pytest.mark.exhaustive
def test_a_job_array_has_a_task_for_each_run(place, finished, sweep, capsys):
  assert sweep("array", *GRID, "--slurm", "--jobs=2") == 0
  assert "sbatch --parsable array/array.sbatch" in capsys.readouterr().out
  script = pathlib.Path("array") / "array.sbatch"
  assert "#SBATCH --array=0-5%2\n" in script.read_text()
  # A task of it, in the folder of the finished sweep: there is nothing to do.
  script.write_text(
    script.read_text().replace("--out_dir=array", "--out_dir=six")
  )
  done = subprocess.run(
    ["bash", str(script)],
    env={**os.environ, "SLURM_ARRAY_TASK_ID": "4"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == f"[1/1] {NAMES[4]}: is finished\n"
