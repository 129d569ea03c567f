"""Kills a run at every change of what lies beside a stage's checkpoints.

Which is the frozen base of its adapters (`bases`), the params of the best look
and the record of what was chosen (`selection`). As `run_killed_test` does with
a checkpoint: a library counts the calls that change those files, and kills at
the n-th. The same command, started again, must end as a run that nothing
interrupted.
"""

import dataclasses
import functools
import itertools
import json
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from tests import killing
from tests import short_runs
from userrl_jax import bases
from userrl_jax import config as config_lib
from userrl_jax import selection
from userrl_jax import sharding
from userrl_jax.models import qwen3

UNREPEATABLE = short_runs.UNREPEATABLE
STAGES = ("cold_start", "grpo")
FLAGS = [
  f"--config.{name}={value}"
  for name, value in {
    "stages": ",".join(STAGES),
    "lora.rank": 2,
    "lora.targets": "q,up",
    "gyms.names": "telepathy,",
    "cold_start.num_steps": 4,
    "cold_start.num_tries": 1,
    "cold_start.noise": 0,
    "cold_start.episodes_per_step": 4,
    "cold_start.optimizer.learning_rate": 5e-3,
    "cold_start.optimizer.warmup_steps": 1,
    "grpo.group_size": 2,
    "grpo.entropy_coef": 0.1,  # moves params also where all score alike
    "grpo.optimizer.learning_rate": 1e-2,
    "selection.num_tasks": 4,
    "selection.loss_every": 1,
    "selection.play_every": 1,
    "selection.use": ",".join(STAGES),
  }.items()
]
NUM_ITERATIONS = 2
# What is written, by which stage and, of a look, after how many steps. The
# first look also copies the base; the third removes the first.
PLACES = {
  "base": ("base", "cold_start", 0),
  "first_look": ("best", "cold_start", 1),
  "third_look": ("best", "cold_start", 3),
  "choice": ("choice", "cold_start", 0),
  "base_of_the_next": ("base", "grpo", 0),
  "look_of_the_next": ("best", "grpo", 1),
  "choice_of_the_next": ("choice", "grpo", 0),
}


def arm(shim, log, what, stage, num_done, n):
  """Counts changes of one write; where n is 0, ends the process before it."""
  kept, keep = bases.kept, selection.Selector._keep
  chosen = selection.Selector.chosen

  def counted(below, write, *given):
    if not n:
      os.kill(os.getpid(), signal.SIGKILL)
    shim.kill_at(str(below).encode(), n, log)
    result = write(*given)
    shim.kill_at(b"nowhere", 0, os.devnull.encode())
    return result

  def counted_kept(folder, *rest):
    if (what, stage) != ("base", folder.name):
      return kept(folder, *rest)
    return counted(folder / bases.NAME, kept, folder, *rest)

  def counted_keep(self, done, state):
    if (what, stage, num_done) != ("best", self._stage.name, done):
      return keep(self, done, state)
    below = selection.best_folder(self._parts.folder, stage)
    return counted(below, keep, self, done, state)

  def counted_chosen(self, params):
    if (what, stage) != ("choice", self._stage.name):
      return chosen(self, params)
    below = self._parts.folder / "selection"  # .json, and what becomes it
    return counted(below, chosen, self, params)

  bases.kept = counted_kept
  selection.Selector._keep = counted_keep
  selection.Selector.chosen = counted_chosen


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  folder = tmp_path_factory.mktemp("best_killed")
  library = killing.built(folder)
  place = short_runs.Place(folder, root, NUM_ITERATIONS)
  place.library = library
  return place


@pytest.fixture(scope="module")
def start(place):
  with killing.starting(place, place.library, __name__) as started:
    yield lambda name, armed=(): started(name, f"{name}.log", armed, *FLAGS)


@pytest.fixture(scope="module")
def whole(place, start):
  """The folder of a run that nothing interrupted."""
  code, out = start("whole")
  assert code == 0, out
  return place.folder / "whole"


def _kept(folder):
  """Returns {name: what it says} of all that is in a folder of checkpoints.

  Of a checkpoint that is what it was saved as, array by array, and that it can
  be read: its digests are compared.
  """
  found = {}
  for path in folder.iterdir():
    if path.name in ("base", "best"):
      found[path.name] = _kept(path)
    elif path.name.isdigit():
      [record] = (path / "extras").glob("metadata")
      found[path.name] = json.loads(record.read_text())
    elif path.is_dir():
      found[path.name] = sorted(p.name for p in path.iterdir())
    else:
      found[path.name] = re.sub('"out_dir": .*', "", path.read_text())
  return found


def _check_equal(run, whole):
  for stage in STAGES:
    of = [_kept(r / "checkpoints" / stage) for r in (run, whole)]
    assert of[0] == of[1], stage
    assert len(of[0]["best"]) >= 4 and of[0]["best"]["base"] == of[0]["base"]
    for name in (stage, f"{stage}/base", f"{stage}/best"):
      folders = [r / "checkpoints" / name for r in (run, whole)]
      for ours, theirs in zip(*map(_params, folders), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    evaluation = f"evaluations/{stage}.json"
    assert (run / evaluation).read_text() == (whole / evaluation).read_text()
  numbers, expected = (
    [
      {k: v for k, v in line.items() if not UNREPEATABLE.fullmatch(k)}
      for line in short_runs.lines(r / "metrics.jsonl")
    ]
    for r in (run, whole)
  )
  assert numbers == expected
  for name in ("selection.json", "transcripts/grpo.jsonl"):
    assert (run / name).read_text() == (whole / name).read_text()


def _params(folder):
  """Returns whole params, which are proven as they are read."""
  model = dataclasses.replace(qwen3.PRESETS["qwen3_tiny"], num_layers=1)
  mesh = sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])
  return jax.tree.leaves(jax.device_get(bases.load_params(folder, model, mesh)))


@pytest.fixture(scope="module")
def begun(place, start, whole):
  """Returns the folder of a run that was killed right before a write."""

  @functools.cache
  def killed_before(name):
    code, out = start(f"before_{name}", (*PLACES[name], 0))
    assert code == -signal.SIGKILL, out
    return place.folder / f"before_{name}"

  return killed_before


@pytest.mark.exhaustive
def test_the_run_has_looks_to_choose_from(whole):
  """Else no later look would be kept, and no kill come to it."""
  chosen = selection.read(whole)
  looks = chosen["cold_start"]["looks"]
  assert [step for step, _ in looks] == [1, 2, 3, 4]
  values = [value for _, value in looks]
  assert values[:3] == sorted(values[:3], reverse=True)
  assert len(set(values)) == 4
  assert [step for step, _ in chosen["grpo"]["looks"]] == [1, 2]


@pytest.mark.exhaustive
@pytest.mark.timeout(36000)
@pytest.mark.parametrize("kills", ["some", "all"])
@pytest.mark.parametrize("name", PLACES)
def test_killed_at_any_change_a_run_ends_the_same(
  place, start, whole, begun, name, kills
):
  stride = {"some": 2 if "choice" in name else 60, "all": 1}[kills]
  first = 1 + stride // 3
  num_kills, started = 0, time.monotonic()
  for n in itertools.count(first, stride):
    run = place.folder / f"{name}_{stride}_{n}"
    shutil.copytree(begun(name), run)
    code, out = start(run.name, (*PLACES[name], n))
    log = place.folder / f"{run.name}.log.changes"
    changes = log.read_text().splitlines()
    if code == 0:  # it had no n-th change
      break
    assert code == -signal.SIGKILL, out
    assert len(changes) == n
    code, out = start(run.name)
    assert code == 0, f"after {changes[-1]}: {out}"
    print(f"{name}: killed at {changes[-1]}", flush=True)
    _check_equal(run, whole)
    shutil.rmtree(run)
    num_kills += 1
  s = time.monotonic() - started
  print(f"{name}: {num_kills} kills of {len(changes)} changes in {s:.0f} s")
  assert 0 < len(changes) < n
  assert num_kills == len(range(first, len(changes) + 1, stride))
  _check_equal(run, whole)
  shutil.rmtree(run)
