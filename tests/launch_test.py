"""Launch scripts, with programs of others in place of SLURM's and Google's.

A made-up host takes what `gcloud` copies and runs what it is told; Python there
writes down its arguments instead of training.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from userrl_jax import host_watch

STAGES = '--config.stages=("base", "grpo")'  # has what shells would read
PYTHON = f"""#!/bin/bash
if [ "$1" != -m ]; then exec {sys.executable} "$@"; fi
printf '%s\\0' "${{KEY-}}" "${{JAX_PLATFORMS-}}" \
  "${{JAX_LOCAL_DEVICE_IDS-}}" "$PWD" "$@" >>"$RECORD"
printf '\\1' >>"$RECORD"
case "$2" in userrl_jax*) exit "${{CODE:-0}}" ;; esac
"""
PROGRAMS = {
  "gcloud": """#!/bin/bash
case "$4" in
  scp) cp "$5" "$FAR" ;;
  ssh) for word in "$@"; do
    case "$word" in --command=*)
      cd "$FAR" && HOME="$FAR" exec bash -c "${word#--command=}" ;;
    esac
  done ;;
esac
""",
  "srun": """#!/bin/bash
while [[ "$1" == -* ]]; do shift; done
# Like SLURM's, it ends with the highest code of its tasks.
highest=0
for code in ${CODES:-${CODE:-0}}; do
  CODE="$code" "$@" || ended=$?
  if [ "${ended:-0}" -gt "$highest" ]; then highest="$ended"; fi
done
exit "$highest"
""",
  "scontrol": """#!/bin/bash
echo "scontrol $*"
""",
  "nvidia-smi": "#!/bin/bash\nexit 1\n",
}


@pytest.fixture
def launch(root, tmp_path):
  """Returns a function that starts a script: what it said and what it ran."""
  far, venv = tmp_path / "far", tmp_path / "venv"
  for folder in (far, venv / "bin", tmp_path / "bin"):
    folder.mkdir(parents=True)
  (far / ".userrl_jax.env").write_text("KEY=secret\n")
  (venv / "bin" / "python").write_text(PYTHON)
  (venv / "bin" / "python").chmod(0o755)
  for name, text in PROGRAMS.items():
    (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / name).chmod(0o755)
  record = tmp_path / "record"
  record.touch()
  environment = {
    k: v
    for k, v in os.environ.items()
    if not k.startswith(("SLURM_", "JAX_", "XLA_"))
  }
  environment |= {
    "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    "VIRTUAL_ENV": str(venv),
    "RECORD": str(record),
    "FAR": str(far),
    "TMPDIR": str(tmp_path),
  }

  def run(script, *words, **variables):
    done = subprocess.run(
      ["bash", str(root / "launch" / script), *words],
      cwd=tmp_path,
      env=environment | variables,
      capture_output=True,
      text=True,
    )
    calls = [one.split("\0")[:-1] for one in record.read_text().split("\1")]
    return done, calls[:-1]

  return run


def _train(calls):
  """Returns (key, platform, devices, folder) and arguments of the one run."""
  (call,) = [call for call in calls if call[5].startswith("userrl_jax")]
  return call[:4], call[5:]


def test_a_slice_trains_on_what_this_checkout_holds(launch, root, tmp_path):
  words = ("me", "zone", "project", "configs/quickstart.py", STAGES)
  done, calls = launch("tpu_pod.sh", *words)
  assert done.returncode == 0, done.stderr
  (key, platform, _, folder), arguments = _train(calls)
  assert (key, platform) == ("secret", "")
  assert arguments == [
    *("userrl_jax.train", "--config=configs/quickstart.py", STAGES),
    "--config.hosts.coordinator=auto",
  ]
  far = pathlib.Path(folder)
  assert far == tmp_path / "far" / "userrl_jax"
  for name in ("setup.cfg", "userrl_jax/train.py", "configs/quickstart.py"):
    assert (far / name).read_bytes() == (root / name).read_bytes()
  assert any(call[-1] == ".[tpu]" for call in calls)
  assert "secret" not in done.stdout + done.stderr


def test_one_host_of_a_slice_needs_no_other(launch):
  words = ("me", "zone", "project", "configs/quickstart.py")
  _, calls = launch("tpu_pod.sh", *words, WORKER="0", ENTRY="demonstrate")
  (_, platform, *_), arguments = _train(calls)
  assert platform == "cpu"
  assert arguments == [
    "userrl_jax.demonstrate",
    "--config=configs/quickstart.py",
  ]


def test_a_job_has_all_gpus_of_its_node(launch, root):
  variables = {
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_SUBMIT_DIR": str(root),
    "SLURM_JOB_ID": "17",
  }
  words = ("configs/quickstart.py", STAGES)
  done, calls = launch("slurm.sh", *words, **variables)
  assert done.returncode == 0, done.stderr
  (_, _, devices, folder), arguments = _train(calls)
  assert (devices, folder) == ("0,1,2,3", str(root))
  assert arguments[2:] == [STAGES, "--config.hosts.coordinator=auto"]
  assert "scontrol" not in done.stdout


@pytest.mark.parametrize(
  ("code", "again"),
  [
    (143, True),
    (host_watch.EXIT_CODE, True),
    (137, True),
    (1, False),
    (2, False),
    (0, False),
  ],
)
def test_a_job_is_queued_again_when_its_time_is_up_or_a_host_is_lost(
  launch, root, code, again
):
  variables = {"SLURM_SUBMIT_DIR": str(root), "SLURM_JOB_ID": "17"}
  done, _ = launch(
    "slurm.sh", "configs/quickstart.py", CODE=str(code), **variables
  )
  assert done.returncode == code
  assert (done.stdout.count("scontrol requeue 17\n") > 0) == again


@pytest.mark.parametrize(
  ("codes", "code", "again"),
  [
    ((137, host_watch.EXIT_CODE), 137, True),  # one killed, one that lost it
    ((host_watch.EXIT_CODE, 143), 143, True),
    ((2, 2), 2, False),  # a wrong config, and one that heard of it
    ((0, 1), 1, False),
  ],
)
def test_a_job_of_hosts_ends_with_the_highest_code(
  launch, root, codes, code, again
):
  done, _ = launch(
    *("slurm.sh", "configs/quickstart.py"),
    CODES=" ".join(map(str, codes)),
    SLURM_SUBMIT_DIR=str(root),
    SLURM_JOB_ID="17",
  )
  assert done.returncode == code, done.stderr
  assert ("scontrol requeue 17\n" in done.stdout) == again


@pytest.mark.parametrize(
  ("limit", "count", "again"),
  [({}, 19, True), ({}, 20, False), ({"MAX_RESTARTS": "2"}, 2, False)],
)
def test_a_job_is_not_queued_without_end(launch, root, limit, count, again):
  done, _ = launch(
    *("slurm.sh", "configs/quickstart.py"),
    CODE=str(host_watch.EXIT_CODE),
    SLURM_SUBMIT_DIR=str(root),
    SLURM_RESTART_COUNT=str(count),
    **limit,
  )
  assert done.returncode == host_watch.EXIT_CODE
  assert ("scontrol requeue" in done.stdout) == again
  assert (f"after {count} restarts" in done.stderr) != again


def test_one_host_runs_with_what_it_has(launch):
  done, calls = launch("single_host.sh", "configs/quickstart.py", STAGES)
  assert done.returncode == 0, done.stderr
  (_, platform, *_), arguments = _train(calls)
  assert platform == "cpu" and arguments[-1] == STAGES
  assert calls[-2][-1] == "."  # no extra is installed
  done, calls = launch("single_host.sh", "x.py", ACCELERATOR="cuda", CODE="3")
  assert done.returncode == 3
  assert calls[-2][-1] == ".[cuda]" and calls[-1][1] == ""


def test_the_paper_is_demonstrated_trained_and_evaluated(launch):
  words = ("4b", "model", "tasks", "tau", "--config.seed=3")
  done, calls = launch("paper.sh", *words)
  assert done.returncode == 0, done.stderr
  runs = [call[5:] for call in calls if call[5].startswith("userrl_jax")]
  assert [run[0].rpartition(".")[2] for run in runs] == [
    *("demonstrate", "train", "evaluate"),
  ]
  assert all("--config.seed=3" in run for run in runs)
  source = ("--config.cold_start.source=shown.jsonl",)
  _, calls = launch("paper.sh", *words, *source)
  assert not any("demonstrate" in call[5] for call in calls[-4:])


def test_arms_of_the_paper_share_their_demonstrations(launch):
  made, trained = [], []
  for arm in ("equalized_r2g", "equalized_sum"):
    _, calls = launch("paper.sh", f"4b:{arm}", "model", "tasks", "tau")
    runs = [call[5:] for call in calls if call[5].startswith("userrl_jax")]
    made += [run for run in runs if run[0].endswith("demonstrate")]
    trained += [run for run in runs if run[0].endswith("train")]
  # Of another config, the second would be refused.
  assert made[0] == made[-1] and trained[0] != trained[-1]


def test_what_failed_ends_the_paper(launch):
  done, calls = launch("paper.sh", "4b", "model", "tasks", "tau", CODE="3")
  assert done.returncode == 3
  assert sum(call[5].startswith("userrl_jax") for call in calls) == 1


def test_too_few_arguments_show_how_to_start(launch):
  for script in ("single_host.sh", "slurm.sh", "tpu_pod.sh", "paper.sh"):
    done, calls = launch(script)
    assert done.returncode == 2 and not calls
    assert f"launch/{script}" in done.stderr
