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
from userrl_jax import stopping

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


class Other:
  """Another host, as far as a notice knows one: what it heard, and when."""

  def __init__(self, monkeypatch, heard=()):
    self.heard, self._heard_by_then = 0, dict(heard)  # after so many exchanges
    self.num_exchanges, self.during = 0, lambda: None
    monkeypatch.setattr(stopping.jax, "process_count", lambda: 2)
    monkeypatch.setattr(stopping.hosts, "gather", self._gather)

  def _gather(self, own):
    self.heard = self._heard_by_then.get(self.num_exchanges, self.heard)
    self.num_exchanges += 1
    self.during()
    return [own, self.heard]


def _hear(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_joined_hosts_leave_after_the_step_in_which_one_hears(
  monkeypatch, number
):
  Other(monkeypatch)
  with stopping.Notice() as notice:
    notice.hold()
    assert not notice.reached()
    with notice.released():  # a rollout, which the other host goes on with
      _hear(number)
    notice.release()  # nor does the evaluation end on one host alone
    assert notice.reached() and notice.name == number.name
    with pytest.raises(SystemExit) as ended:
      notice.leave()
  assert ended.value.code == 128 + number


def test_a_joined_host_ends_by_what_another_heard(monkeypatch):
  Other(monkeypatch, {1: signal.SIGTERM})
  with stopping.Notice() as notice:
    notice.hold()
    assert not notice.reached()
    assert notice.reached() and notice.name == "SIGTERM"
    _hear()  # its own one, while it saves: no second one
    with pytest.raises(SystemExit) as ended:
      notice.leave()
  assert ended.value.code == 143


def test_joined_hosts_end_by_what_all_know(monkeypatch):
  """What is heard amid an exchange counts in the next one."""
  other = Other(monkeypatch)
  other.during = lambda: other.num_exchanges == 1 and _hear()
  with stopping.Notice() as notice:
    notice.hold()
    assert not notice.reached() and notice.name == ""
    assert notice.reached()


def test_joined_hosts_leave_before_a_stage(tmp_path, monkeypatch):
  """One hears in an evaluation, or while it restores a checkpoint."""
  run = Run(tmp_path, [])
  Other(monkeypatch, {0: signal.SIGTERM})
  with pytest.raises(SystemExit) as ended, run.saver:
    run.saver.begin(run.stream)
    pytest.fail("began")
  assert ended.value.code == 143


def test_a_host_that_joins_hears_its_signals_itself():
  """JAX's notice of preemption would take them, whatever comes of it."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  script = (
    "import os, sys\n"
    "from jax.experimental import multihost_utils\n"
    "from userrl_jax import config_hosts\n"
    "from userrl_jax import hosts\n"
    "from userrl_jax import stopping\n"
    "hosts._join(config_hosts.Hosts(sys.argv[1]), 1)\n"
    "with stopping.Notice() as notice:\n"
    "  notice.hold()\n"
    "  os.kill(os.getpid(), 15)\n"
    "  print(notice.reached(), notice.name, flush=True)\n"
    "try:\n"
    "  multihost_utils.reached_preemption_sync_point(1)\n"
    "except RuntimeError:\n"
    "  print('not JAX', flush=True)\n"
    "  notice.leave()\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, address],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(saving.__file__).parents[1],
    timeout=120,
  )
  assert done.stdout == "True SIGTERM\nnot JAX\n", done.stderr
  assert done.returncode == 143


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
