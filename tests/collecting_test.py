"""Collecting ahead of the update: bounded, complete, and it resumes."""

import collections
import gc
import json
import pathlib
import threading
import types

import jax
import numpy as np
import pytest

from userrl_jax import ahead
from userrl_jax import assembly
from userrl_jax import collecting
from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import data
from userrl_jax import diagnostics
from userrl_jax import flags
from userrl_jax import recorder
from userrl_jax import train
from userrl_jax.inference import sampling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _config(folder, staleness, iterations=4):
  c = config_lib.Config(out_dir=str(folder), stages=("cold_start", "grpo"))
  c.model.num_layers = 1
  c.gyms.num_train_tasks = 12
  c.gyms.num_test_tasks = 4
  c.gyms.max_turns = 6
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 448
  c.rollout.max_staleness = staleness
  c.engine = config_lib.Engine(num_rows=24, num_lanes=8, decode_tokens=8)
  c.packing = config_lib.Packing(row_length=448, logprob_chunk=64)
  c.cold_start.num_steps = 2
  c.cold_start.noise = 0.0
  c.cold_start.episodes_per_step = 8
  c.cold_start.optimizer = config_lib.Optimizer()
  c.grpo.num_iterations = iterations
  c.grpo.tasks_per_iteration = 3
  c.grpo.group_size = 2
  c.evaluation.num_tasks = 2
  c.checkpoint.every_steps = 1
  return c


def _run(config):
  """Trains; returns the metrics of GRPO."""
  config_rules.validate(config)
  train.main(config, flags.Command((), "recipe.py", {}))
  text = (pathlib.Path(config.out_dir) / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return [x for x in lines if x["stage"] == "grpo"]


def test_ahead_plays_every_task_once_within_the_bound(tmp_path, monkeypatch):
  played, updates = [], [0]
  play = collecting.collect.collect

  async def noted(tasks, *args, iteration, **kwargs):
    played.append((iteration, updates[0], [t.id for t in tasks]))
    return await play(tasks, *args, iteration=iteration, **kwargs)

  monkeypatch.setattr(collecting.collect, "collect", noted)
  record = recorder.Recorder.record

  def counted(self, step, numbers, packed, groups=()):
    record(self, step, numbers, packed, groups)
    updates[0] += bool(groups)

  monkeypatch.setattr(recorder.Recorder, "record", counted)
  lines = _run(_config(tmp_path / "ahead", staleness=1))
  assert [x["step"] for x in lines] == [0, 1, 2, 3]
  grpo = [x for x in played if x[0] >= 0]
  assert [i for i, _, _ in grpo] == [0, 1, 2, 3]
  # An iteration begins at most one update early, and one of them does.
  early = [i - done for i, done, _ in grpo]
  assert max(early) == 1 and min(early) >= 0
  plain = data.task_stream(
    assembly.load_tasks(_config(tmp_path, 0), "train"), 3, seed=0
  )
  assert [t for _, _, t in grpo] == [
    [t.id for t in plain.next()] for _ in range(4)
  ]
  assert not [t for t in threading.enumerate() if t.name == ahead.THREAD]


def test_the_next_begins_when_half_of_this_are_over(tmp_path, monkeypatch):
  over, found = collections.Counter(), {}
  play = collecting.collect.collect

  async def noted(*args, iteration, kept=None, **kwargs):
    if isinstance(kept, ahead.Half):  # no evaluation
      found[iteration], add = over[iteration - 1], kept.add

      def counted(trajectory):
        over[iteration] += 1
        add(trajectory)

      monkeypatch.setattr(kept, "add", counted)
    return await play(*args, iteration=iteration, kept=kept, **kwargs)

  monkeypatch.setattr(collecting.collect, "collect", noted)
  config = _config(tmp_path / "ahead", staleness=2, iterations=5)
  config.engine.num_lanes = 2  # so that they do not all end at once
  _run(config)
  assert [found[i] >= 3 for i in (1, 2, 3, 4)] == [True] * 4  # of 6 episodes
  assert found[1] < 6  # it did not wait for the slowest


def test_a_checkpoint_holds_the_place_of_the_updates(tmp_path, monkeypatch):
  """Not that of what was played ahead: a resumed run skips no task."""
  places = []
  save = recorder.Recorder.save_when_due

  def noted(self, num_done, state):
    if self._stage.name == "grpo":
      places.append(self._stream.get_state())
    save(self, num_done, state)

  monkeypatch.setattr(recorder.Recorder, "save_when_due", noted)
  config = _config(tmp_path / "run", staleness=2, iterations=4)
  _run(config)
  plain = data.task_stream(assembly.load_tasks(config, "train"), 3, seed=0)
  for place in places:
    plain.next()
    assert place == plain.get_state()
  assert len(places) == 4


def test_strict_is_the_same_in_every_run(tmp_path, monkeypatch):
  beside = _bytes_beside_updates(monkeypatch)
  a, b = (_run(_config(tmp_path / n, staleness=0)) for n in "ab")
  assert not any("diagnosis/logprob_gap" in x for x in a + b)
  strip = lambda x: {k: v for k, v in x.items() if k.startswith("score/")}
  assert [strip(x) for x in a] == [strip(x) for x in b]
  leaves = []
  for n in "ab":
    parts = assembly.build(_config(tmp_path / n, staleness=0))
    leaves.append(
      assembly.first_params(parts, tmp_path / n / "checkpoints" / "grpo")
    )
  jax.tree.map(np.testing.assert_array_equal, *leaves)
  # Neither the sampler's copy of params nor its KV rows.
  assert len(beside) == 8
  assert max(beside) < sum(x.nbytes for x in jax.tree.leaves(leaves[0])) / 10


def _bytes_beside_updates(monkeypatch):
  """Returns where the bytes that live beside each update's own will be."""
  gc.collect()
  before, beside, run = _buffers(jax.live_arrays()), [], train.iterations.run

  def noted(update, state, batches, **kwargs):
    others = _buffers(jax.live_arrays())
    for own in (before, _buffers(jax.tree.leaves((state, batches)))):
      others = {at: size for at, size in others.items() if at not in own}
    beside.append(sum(others.values()))
    return run(update, state, batches, **kwargs)

  monkeypatch.setattr(train.iterations, "run", noted)
  return beside


def _buffers(arrays):
  """Returns the sizes of buffers, several arrays of which may be one."""
  return {
    x.unsafe_buffer_pointer(): x.nbytes
    for x in arrays
    if isinstance(x, jax.Array)
  }


def test_a_sampler_at_another_temperature_is_told_of_after_one_step(
  tmp_path, monkeypatch
):
  """By a tenth hotter than the learner recomputes, in a run that is exact."""
  hotter = lambda temperature: sampling.Sampling(1.1 * temperature)
  monkeypatch.setattr(
    ahead, "sampling_lib", types.SimpleNamespace(Sampling=hotter)
  )
  config = _config(tmp_path / "run", staleness=0, iterations=1)
  [line] = _run(config)
  assert line["rollout/logprob_gap"] > diagnostics.MAX_EXACT_GAP
  assert line["diagnosis/logprob_gap"] == 1
  text = (tmp_path / "run" / "diagnostics.jsonl").read_text()
  told = [json.loads(one) for one in text.splitlines()]
  [finding] = [one for one in told if one["name"] == "logprob_gap"]
  assert finding["stage"] == "grpo" and finding["step"] == 0
  assert "temperature" in finding["message"]
