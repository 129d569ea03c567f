"""A GRPO run interrupted at twenty drawn moments ends as one that was not.

Ten SIGKILLs and ten SIGTERMs, ten amid a rollout and ten amid an update. The
process sends the signal to itself, so that it cannot come too late: it waits a
drawn time within the phase, looks whether the phase still goes on, and if not
waits half as long in the next one.
"""

import itertools
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import short_runs

NUM_STEPS, NUM_EACH = 22, 5
# What `python -m userrl_jax.train` does. The moment is a signal (0 is none), a
# phase, which time it is entered and how many seconds into it. Into the log go
# phases and the signal that was sent in one.
PROGRAM = """
import json, os, sys, threading, time
from userrl_jax import flags
from userrl_jax import hosts
from userrl_jax import process
from userrl_jax import train

_, log, number, phase, times, delay_s, *argv = sys.argv
process.use_compile_cache = lambda: None  # the environment names one
said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
plain_enter = hosts.enter
changed = threading.Condition()
entered, at, num_met = "", time.monotonic(), 0

def say(**what):
  os.write(said, (json.dumps(what) + "\\n").encode())

def enter(name):
  global entered, at, num_met
  with changed:
    say(phase=entered, s=time.monotonic() - at)
    entered, at = name, time.monotonic()
    num_met += name == phase
    changed.notify()
  plain_enter(name)

def signal_itself():
  wait_s, wanted = float(delay_s), int(times)
  while True:
    with changed:
      changed.wait_for(lambda: num_met >= wanted and entered == phase)
      wanted = num_met
    time.sleep(wait_s)
    with changed:
      if num_met == wanted and entered == phase:
        say(signal=int(number), phase=phase, after_s=time.monotonic() - at)
        os.kill(os.getpid(), int(number))
        return
    wanted, wait_s = wanted + 1, wait_s / 2

hosts.enter = enter
if int(number):
  threading.Thread(target=signal_itself, daemon=True).start()
flags.run(hosts.joined(train.main), argv)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  folder = tmp_path_factory.mktemp("interruptions")
  return short_runs.Place(folder, root, NUM_STEPS)


def _run(place, name, log, moment=(0, "", 0, 0.0)):
  """Runs until the end, or its moment; returns (exit code, output, errors)."""
  done = subprocess.run(
    [
      *(sys.executable, "-c", PROGRAM, place.folder / log),
      *(*map(str, moment), *place.flags(name)),
    ],
    cwd=place.root,
    env=place.environment,
    capture_output=True,
    text=True,
    timeout=600,
  )
  return done.returncode, done.stdout, done.stderr


def _moments(seconds):
  """Draws (signal, phase, times entered, seconds into it), in any order."""
  chance = random.Random(20)
  kinds = list(
    itertools.product(
      (signal.SIGKILL, signal.SIGTERM), ("rollout", "update"), range(NUM_EACH)
    )
  )
  chance.shuffle(kinds)
  # Half of them in the first iteration of a process, half in the second.
  return [
    (int(number), phase, 1 + i % 2, chance.uniform(0, seconds[phase]))
    for number, phase, i in kinds
  ]


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_interrupted_at_twenty_moments_of_grpo_it_ends_the_same(place):
  code, _, errors = _run(place, "whole", "whole.log")
  assert code == 0, errors
  phases = short_runs.lines(place.folder / "whole.log")
  seconds = {
    name: float(np.median([x["s"] for x in phases if x["phase"] == name]))
    for name in ("rollout", "update")
  }
  moments, folder = _moments(seconds), place.folder / "interrupted"
  started = time.monotonic()
  for moment in moments:
    code, out, errors = _run(place, folder.name, "sent.log", moment)
    if moment[0] == signal.SIGKILL:
      assert code == -signal.SIGKILL, errors
      continue
    assert code == 128 + signal.SIGTERM, errors
    assert "ended by SIGTERM; the same command goes on" in out
    assert "Traceback" not in errors
    # No finished step is lost, and no half of one is kept.
    written = [x["step"] for x in short_runs.lines(folder / "metrics.jsonl")]
    kept = (folder / "checkpoints" / "grpo").glob("[0-9]*")
    assert max((int(p.name) for p in kept), default=0) == len(written)
  sent = [
    line
    for line in short_runs.lines(place.folder / "sent.log")
    if "signal" in line
  ]
  assert [(x["signal"], x["phase"]) for x in sent] == [m[:2] for m in moments]
  assert len(sent) == 4 * NUM_EACH
  code, out, errors = _run(place, folder.name, "end.log")
  assert code == 0, errors
  assert "grpo: goes on after step" in out
  short_runs.check_equal(folder, place.folder / "whole", NUM_STEPS)
  print(f"{len(sent)} hits in {time.monotonic() - started:.0f} s", seconds)
  print(json.dumps(sent))
