"""When a stage is saved: by steps, by time, and when the run is told to end."""

import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from userrl_jax import config as config_lib
from userrl_jax import saving

NUM_STEPS = 9


class Places:
  """A stream as far as saving knows one."""

  place = 0

  def get_state(self):
    return {"place": self.place}


def _state(num_done):
  return {"w": jnp.full(3, num_done)}


class Run:
  """The loop of a stage, step by step."""

  def __init__(self, folder, said=None, **schedule):
    tell = pytest.fail if said is None else said.append
    self.saver = saving.Saver(config_lib.Checkpoint(**schedule), tell)
    self.store = self.saver.open(folder, NUM_STEPS)
    self.stream, self.num_done = Places(), 0

  def step(self, in_rollout=lambda: None, in_update=lambda: None):
    state = _state(self.num_done)
    with self.saver.saving_what_is_done(self.num_done, state):
      self.stream.place += 1
      in_rollout()
    in_update()
    self.num_done += 1
    self.saver.save_when_due(self.num_done, _state(self.num_done))


def _kept(folder):
  """Returns (steps done, place in the stream) of what a new run finds."""
  store = saving.Saver(config_lib.Checkpoint(), print).open(folder, NUM_STEPS)
  state, extras = store.restore(_state(0))
  store.close()
  assert state["w"].tolist() == [extras["next_step"]] * 3
  return extras["next_step"], extras["stream"]["place"]


@pytest.mark.parametrize(
  ("schedule", "seconds", "saved"),
  [
    ({"every_steps": 2}, 0, [2, 4]),
    ({"every_steps": 0}, 9999, []),
    ({"every_steps": 0, "every_minutes": 2}, 50, [3]),
    ({"every_steps": 4, "every_minutes": 2}, 50, [3, 4]),
  ],
)
def test_it_saves_by_steps_and_by_time(
  tmp_path, monkeypatch, schedule, seconds, saved
):
  clock = [0.0]
  monkeypatch.setattr(saving.time, "monotonic", lambda: clock[0])
  run = Run(tmp_path, keep=NUM_STEPS, **schedule)
  run.saver.begin(run.stream)
  for _ in range(5):
    clock[0] += seconds
    run.step()
  run.saver.close()
  found = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
  assert found == saved


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_update_ends_after_the_step(tmp_path, number, capfd):
  said: list[str] = []
  run = Run(tmp_path, said)
  with pytest.raises(SystemExit) as ended, run.saver:
    run.saver.begin(run.stream)
    run.step()
    run.step(in_update=lambda: os.kill(os.getpid(), number))
  assert ended.value.code == 128 + number
  assert _kept(tmp_path) == (2, 2)
  assert "a second one ends it now" in capfd.readouterr().err
  assert said[-1].startswith(f"ended by {number.name}; the same command goes")


def test_a_signal_in_a_rollout_gives_it_up(tmp_path):
  said: list[str] = []
  run = Run(tmp_path, said)
  with pytest.raises(SystemExit) as ended, run.saver:
    run.saver.begin(run.stream)
    run.step()
    run.step(
      in_rollout=lambda: (os.kill(os.getpid(), signal.SIGTERM), pytest.fail())
    )
  assert ended.value.code == 143
  # The open rollout's tasks are drawn again.
  assert _kept(tmp_path) == (1, 1)
  assert f"{tmp_path.name}: kept a checkpoint after step 1" in said
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_where_nothing_changes_ends_at_once(tmp_path):
  run = Run(tmp_path, [])
  with pytest.raises(SystemExit) as ended, run.saver:
    os.kill(os.getpid(), signal.SIGTERM)
    pytest.fail("went on")
  assert ended.value.code == 143
  run = Run(tmp_path, [])
  with pytest.raises(SystemExit) as ended, run.saver:
    run.saver.begin(run.stream)
    for _ in range(NUM_STEPS):
      run.step()
    os.kill(os.getpid(), signal.SIGTERM)  # in the evaluation
    pytest.fail("went on")
  assert _kept(tmp_path) == (NUM_STEPS, NUM_STEPS)


def test_a_second_signal_ends_what_holds_the_first_back():
  script = (
    "import os\n"
    "from userrl_jax import stopping\n"
    "with stopping.Notice() as notice:\n"
    "  notice.hold()\n"
    "  os.kill(os.getpid(), 15)\n"
    "  print('held', flush=True)\n"
    "  os.kill(os.getpid(), 15)\n"
    "  print('not reached', flush=True)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(saving.__file__).parents[1],
  )
  assert (done.returncode, done.stdout) == (-15, "held\n"), done.stderr


def test_joined_hosts_end_at_the_sync_point():
  """JAX hears the signal and finds a step after which all hosts end."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  script = (
    "import os, sys, time\n"
    "import jax\n"
    "from userrl_jax import stopping\n"
    "jax.distributed.initialize(sys.argv[1], 1, 0)\n"
    "with stopping.Notice() as notice:\n"
    "  with notice.released():\n"
    "    assert not notice.reached(1)\n"
    "    os.kill(os.getpid(), 15)\n"
    "  step, deadline = 1, time.monotonic() + 60\n"
    "  while not notice.reached(step := step + 1):\n"
    "    assert time.monotonic() < deadline\n"
    "    time.sleep(0.05)\n"
    "  print(notice.name, notice.reached(step + 1), flush=True)\n"
    "  notice.leave()\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, address],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(saving.__file__).parents[1],
    timeout=120,
  )
  assert (done.returncode, done.stdout) == (143, "SIGTERM True\n"), done.stderr


@pytest.fixture
def full_disk():
  """Makes all files end at 4 kB, as a disk that is full would."""
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_what_cannot_be_written_ends_the_run(tmp_path, capfd, full_disk):
  large = {"w": jax.random.normal(jax.random.key(0), (10_000,))}
  run = Run(tmp_path)
  run.saver.begin(run.stream)
  run.saver.save_when_due(1, large)
  full_disk()
  with pytest.raises(SystemExit) as ended:
    run.saver.save_when_due(5, large)  # begins to write
    for _ in range(6000):
      time.sleep(0.01)
      run.saver.save_when_due(6, large)  # not due: is told of it all the same
  assert ended.value.code == 2
  message = f"error: a checkpoint must be written to {tmp_path}, got "
  assert message in capfd.readouterr().err
