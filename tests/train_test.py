"""A whole run in a process of its own: nothing to report, and kill -9."""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from userrl_jax import checkpoint
from userrl_jax.chat import tokenizers
from userrl_jax.models import qwen3

# Steps of each stage.
STAGES = {
  "base": 8,
  "cold_start": 24,
  "grpo": 4,
  "continued_updates": 4,
  "continued": 6,
  "rl_only_updates": 4,
  "rl_only": 6,
}
GYMS = ("function", "telepathy", "travel")
RECIPE = f"""
from userrl_jax import config


def get_config():
  c = config.Config(out_dir="given by each test")
  c.model.num_layers = 1
  c.stages = {tuple(STAGES)}
  c.tokenizer.vocab_size = 768
  c.gyms.names = {GYMS}
  c.gyms.num_train_tasks = 8
  c.gyms.num_test_tasks = 8
  c.gyms.max_turns = 4
  c.rollout.max_tokens_per_turn = 24
  c.rollout.max_tokens_per_episode = 256
  c.engine = config.Engine(num_rows=16, num_lanes=16, decode_tokens=8)
  c.packing = config.Packing(row_length=256, logprob_chunk=64)
  c.base.num_steps = {STAGES["base"]}
  c.base.num_episodes = 40
  c.base.num_copies = 24
  # Their updates are one program, so that it is compiled once.
  c.base.episodes_per_step = c.cold_start.episodes_per_step = 12
  c.cold_start.num_tries = 4
  c.base.optimizer = config.Optimizer(learning_rate=1e-2, warmup_steps=2)
  c.cold_start.optimizer = c.base.optimizer
  c.cold_start.num_steps = {STAGES["cold_start"]}
  c.grpo.num_iterations = {STAGES["grpo"]}
  c.grpo.tasks_per_iteration = 3
  c.grpo.group_size = 4
  c.comparison.continued_steps = {STAGES["continued"]}
  c.comparison.rl_only_iterations = {STAGES["rl_only"]}
  c.evaluation.splits = ("fresh", "test")
  c.evaluation.num_tasks = 4
  c.checkpoint.every_steps = 2
  return c
"""
# Of this process and this machine. A program is compiled when a process first
# meets its shape, so a resumed run counts only those it still met.
UNREPEATABLE = re.compile(
  r"time.*|.*/tokens_per_s|rollout/(programs|idle_share)"
)


class Place:
  """Where the runs of this module live: a recipe and compiled programs."""

  def __init__(self, folder: pathlib.Path, root: pathlib.Path):
    self.folder, self.root = folder, root
    (folder / "recipe.py").write_text(RECIPE)
    # Shared, so that only the first run spends its time on compiling.
    self._env = {
      **os.environ,
      "JAX_ENABLE_COMPILATION_CACHE": "true",
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    }

  def start(self, name, *flags, module="train"):
    """Starts a run that writes into `<folder>/<name>`."""
    return subprocess.Popen(
      [
        *(sys.executable, "-m", f"userrl_jax.{module}"),
        f"--config={self.folder / 'recipe.py'}",
        f"--config.out_dir={self.folder / name}",
        *flags,
      ],
      cwd=self.root,
      env=self._env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, name, *flags, **kwargs):
    """Runs to the end; returns (exit code, standard output, its errors)."""
    process = self.start(name, *flags, **kwargs)
    try:
      out, errors = process.communicate(timeout=600)
    finally:
      process.kill()
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  return Place(tmp_path_factory.mktemp("runs"), root)


@pytest.fixture(scope="module")
def finished(place):
  """The folder and the output of a run that nothing interrupted."""
  code, out, errors = place.run("finished")
  assert code == 0, errors
  return place.folder / "finished", out


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _steps(folder):
  return [
    {k: v for k, v in line.items() if not UNREPEATABLE.fullmatch(k)}
    for line in _lines(folder / "metrics.jsonl")
  ]


def _table(out):
  """Returns the last table that was printed."""
  start = [m.start() for m in re.finditer(r"^ *stage +gym", out, re.M)][-1]
  return out[start:].split("done in")[0]


def _texts(folder):
  return {path.name: path.read_text() for path in folder.iterdir()}


def _params(folder, stage):
  model = dataclasses.replace(qwen3.PRESETS["qwen3_tiny"], num_layers=1)
  wanted = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  params = checkpoint.load_params(folder / "checkpoints" / stage, wanted)
  return jax.tree.leaves(jax.device_get(params))


def _equal(some, others):
  pairs = zip(some, others, strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


def test_a_run_shows_its_table_and_where_the_report_is(finished):
  folder, out = finished
  rows = [line.split()[:2] for line in _table(out).splitlines()[2:]]
  assert [row for row in rows if row] == [
    [stage, gym] for stage in STAGES for gym in (*GYMS, "mean")
  ]
  assert f"report: {folder / 'report.html'}" in out
  assert "programs" in out and "padding" in out and "faults" in out


def test_the_report_is_one_file_of_its_own(finished):
  folder, _ = finished
  page = (folder / "report.html").read_text()
  assert "</html>" in page
  assert "qwen3_tiny" in page
  links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
  assert [x for x in links if not x.startswith(("#", "data:"))] == []
  assert "@import" not in page and "url(http" not in page


def test_every_step_is_written_down(finished):
  folder, _ = finished
  steps = [(line["stage"], line["step"]) for line in _steps(folder)]
  assert steps == [(s, i) for s, n in STAGES.items() for i in range(n)]


def test_training_learns_in_every_stage(finished):
  folder, _ = finished
  lines = _lines(folder / "metrics.jsonl")
  for stage in ("base", "cold_start"):
    losses = [x["train/loss"] for x in lines if x["stage"] == stage]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
  grpo = [x for x in lines if x["stage"] == "grpo"]
  assert any(x["train/grad_norm"] > 0 for x in grpo)
  assert not any(x["train/skipped"] for x in lines)
  assert not _equal(_params(folder, "cold_start"), _params(folder, "grpo"))


def test_the_ledger_holds_what_was_sampled(finished):
  folder, _ = finished
  for line in _lines(folder / "metrics.jsonl"):
    if line["stage"] in ("grpo", "rl_only_updates", "rl_only"):
      # Exactly 0 would say that nothing was recomputed.
      assert 0 < line["rollout/logprob_gap_max"] <= 1e-4
      assert line["rollout/num_valid"] == line["episode/num"] == 12
      assert line["rollout/tokens_sampled"] == line["train/num_tokens"]


@pytest.mark.parametrize("stage", ["grpo", "rl_only_updates"])
def test_gaps_of_turns_make_that_of_the_step(finished, stage):
  folder, _ = finished
  path = folder / "transcripts" / f"{stage}.jsonl"
  dialogues = [d for d in _lines(path) if d["step"] == 0]
  turns = [turn for d in dialogues for turn in d["turns"] if d["valid"]]
  gaps = np.array([turn["logprob_gap"] for turn in turns])
  counts = np.array([turn["num_tokens"] for turn in turns])
  (step,) = [
    line
    for line in _lines(folder / "metrics.jsonl")
    if (line["stage"], line["step"]) == (stage, 0)
  ]
  assert counts.sum() == step["train/num_tokens"] and np.ptp(gaps) > 0
  mean = (gaps * counts).sum() / counts.sum()
  assert mean == pytest.approx(step["rollout/logprob_gap"], rel=0.01, abs=1e-7)
  assert gaps.max() <= 1.01 * step["rollout/logprob_gap_max"]
  assert "· gap " in (folder / "report.html").read_text()


def test_evaluations_tell_what_they_took(finished):
  folder, _ = finished
  lines = _lines(folder / "evaluation_costs.jsonl")
  assert [line["stage"] for line in lines] == list(STAGES)
  for line in lines:
    path = folder / "transcripts" / f"evaluation_{line['stage']}.jsonl"
    dialogues = _lines(path)
    assert line["episode/num"] == len(dialogues)
    sampled = sum(d["num_sampled"] for d in dialogues)
    assert line["rollout/tokens_sampled"] == sampled
    assert line["time/step_s"] > 0


def test_an_update_is_one_program(finished):
  folder, _ = finished
  lines = _lines(folder / "metrics.jsonl")
  assert {line["train/programs"] for line in lines} == {1}
  assert lines[-1]["rollout/programs"] <= 9


def test_evaluations_and_transcripts_are_kept(finished):
  folder, _ = finished
  for stage in STAGES:
    gyms = json.loads((folder / "evaluations" / f"{stage}.json").read_text())
    played = _lines(folder / "transcripts" / f"evaluation_{stage}.jsonl")
    for name in GYMS:
      gym, own = gyms["gyms"][name], [t for t in played if t["gym"] == name]
      assert gym["num_tasks"] == 8 and gym["invalid"] == 0
      assert [t["split"] for t in own] == ["fresh"] * 4 + ["test"] * 4
      scores = {t["task"]: [t["score"]] for t in own}
      assert scores == gym["scores_by_task"]
  trained = _lines(folder / "transcripts" / "grpo.jsonl")
  assert {t["split"] for t in trained} == {"train"}
  assert {t["step"] for t in trained} == {0}
  assert {t["gym"] for t in trained} == set(GYMS) and len(trained) == 12


def test_arms_start_where_they_should(finished):
  """An arm's first numbers are those of the stage that it repeats."""
  folder, _ = finished
  first = {
    line["stage"]: line
    for line in _lines(folder / "metrics.jsonl")
    if line["step"] == 0
  }
  last = {line["stage"]: line for line in _lines(folder / "metrics.jsonl")}
  # The cold start goes on where it was: its loss does not start again.
  for arm in ("continued_updates", "continued"):
    loss = first[arm]["train/loss"]
    assert loss < first["cold_start"]["train/loss"] / 2
    assert loss < 2 * last["cold_start"]["train/loss"]
    assert loss == first["continued"]["train/loss"]
  for arm in ("rl_only_updates", "rl_only"):
    score = first[arm]["score/macro"]
    assert score < first["grpo"]["score/macro"] + 0.2
    assert score == first["rl_only"]["score/macro"]
    assert not _equal(_params(folder, "grpo"), _params(folder, arm))
  assert not _equal(_params(folder, "continued"), _params(folder, "cold_start"))


def test_checkpoints_hold_their_tokenizer_and_config(finished):
  folder, _ = finished
  environment = json.loads((folder / "environment.json").read_text())
  config = json.loads((folder / "config.json").read_text())
  assert config["grpo"]["num_iterations"] == STAGES["grpo"]
  for stage in STAGES:
    kept = folder / "checkpoints" / stage
    tokenizer = tokenizers.load(kept / "tokenizer", "sentencepiece")
    assert tokenizer.fingerprint == environment["tokenizer"]
    assert json.loads((kept / "config.json").read_text()) == config


def test_a_run_killed_in_each_stage_ends_like_one_that_was_not(place, finished):
  whole, out = finished
  folder, killed = place.folder / "killed", ""
  for stage, num_steps in STAGES.items():
    process = place.start(folder.name)
    _wait_for(process, folder, stage, 2 if num_steps == 4 else 4)
    _wait_for_checkpoint(process, folder, stage)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "evaluations" / f"{stage}.json").exists()
    before = re.findall(r"^(\w+): goes on after step \d+ of", said, re.M)
    assert before[-1:] == [killed] * bool(killed)
    killed = stage
    # What is killed in the middle of a line must not be in the way.
    with (folder / "metrics.jsonl").open("a") as file:
      file.write('{"stage": "grpo", "st')

  code, said, errors = place.run(folder.name)
  assert code == 0, errors
  assert re.search(rf"^{killed}: goes on after step \d+ of", said, re.M)
  assert _table(said) == _table(out)
  assert _steps(folder) == _steps(whole)
  for name in ("evaluations", "transcripts"):
    assert _texts(folder / name) == _texts(whole / name)
  times = [line["time_s"] for line in _lines(folder / "metrics.jsonl")]
  assert times == sorted(times)
  for name in STAGES:
    assert _equal(_params(folder, name), _params(whole, name))
  assert (folder / "report.html").exists()


def _interruptions(number):
  """Returns (signal, steps of all stages after which it comes), in order."""
  trained = STAGES["base"] + STAGES["cold_start"]
  if number == 3:
    return [
      (signal.SIGTERM, 2),
      (signal.SIGINT, trained + 1),
      (signal.SIGKILL, trained + 2),
    ]
  chance = random.Random(number)
  moments = sorted(chance.sample(range(1, trained + STAGES["grpo"]), number))
  kinds = (signal.SIGKILL, signal.SIGTERM)
  return [(kinds[i % 2], moment) for i, moment in enumerate(moments)]


@pytest.mark.slow
@pytest.mark.parametrize(
  "number", [3, pytest.param(20, marks=pytest.mark.exhaustive)]
)
def test_interrupted_again_and_again_it_ends_as_if_it_was_not(
  place, finished, number
):
  whole, _ = finished
  folder = place.folder / f"interrupted_{number}"
  stages = ("base", "cold_start", "grpo")
  flag = f"--config.stages={','.join(stages)}"
  random_delay = random.Random(number)
  num_interrupted = 0
  for kind, num_steps in _interruptions(number):
    before = _inode(folder / "metrics.jsonl")
    process = place.start(folder.name, flag)
    while process.poll() is None:
      goes_on = before != _inode(folder / "metrics.jsonl")
      if goes_on and len(_written(folder)) >= num_steps:
        break
      time.sleep(0.01)
    time.sleep(random_delay.uniform(0, 0.3))
    if process.poll() is not None:
      break  # the signals before came so late that it was through
    num_interrupted += 1
    process.send_signal(kind)
    out, errors = process.communicate(timeout=300)
    if kind == signal.SIGKILL:
      assert process.returncode == -signal.SIGKILL
      continue
    assert process.returncode == 128 + kind, errors
    assert f"ended by {kind.name}; the same command goes on" in out
    assert "Traceback" not in errors
    # No finished step is lost, and no half of one is kept.
    last = _steps(folder)[-1]
    kept = (folder / "checkpoints" / last["stage"]).glob("[0-9]*")
    assert max(int(p.name) for p in kept) == last["step"] + 1
  assert num_interrupted >= 0.7 * number
  code, _, errors = place.run(folder.name, flag)
  assert code == 0, errors
  assert _steps(folder) == [x for x in _steps(whole) if x["stage"] in stages]
  for stage in stages:
    assert _equal(_params(folder, stage), _params(whole, stage))
    name = f"{stage}.json"
    assert (folder / "evaluations" / name).read_text() == (
      whole / "evaluations" / name
    ).read_text()
  for name, text in _texts(folder / "transcripts").items():
    assert text == (whole / "transcripts" / name).read_text()


def _inode(path):
  """Returns which file it is: a run that goes on writes it anew."""
  return path.stat().st_ino if path.exists() else None


def _written(folder):
  """Returns the (stage, step) of every whole line."""
  path = folder / "metrics.jsonl"
  text = path.read_text() if path.exists() else ""
  whole_lines = text[: text.rfind("\n") + 1].splitlines()
  return [(x["stage"], x["step"]) for x in map(json.loads, whole_lines)]


def _wait_for(process, folder, stage, step):
  """Waits until a step is written down."""
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()
    if (stage, step) in _written(folder):
      return
    time.sleep(0.01)
  raise TimeoutError(f"no step {step} of {stage}")


def _wait_for_checkpoint(process, folder, stage):
  """Waits until a stage has one."""
  while not any(
    p.name.isdigit() for p in (folder / "checkpoints" / stage).glob("[0-9]*")
  ):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)


def test_a_checkpoint_evaluates_to_what_training_said(place, finished):
  whole, _ = finished
  flag = f"--config.init_from={whole / 'checkpoints' / 'grpo'}"
  code, out, errors = place.run("evaluated", flag, module="evaluate")
  assert code == 0, errors
  (result,) = (place.folder / "evaluated" / "evaluations").iterdir()
  assert result.stem == f"grpo@{STAGES['grpo']}"
  assert f"{result.stem} " in out
  again, before = (
    json.loads(path.read_text())["gyms"]
    for path in (result, whole / "evaluations" / "grpo.json")
  )
  assert again == before


def test_a_finished_run_shows_the_same_again(place, finished):
  whole, out = finished
  folder = place.folder / "again"
  shutil.copytree(whole, folder)
  # Nothing is left to learn, so nothing is made to learn from.
  shutil.rmtree(folder / "dialogues")
  code, again_out, errors = place.run(folder.name)
  assert code == 0, errors
  assert _table(again_out) == _table(out)
  assert not (folder / "dialogues").exists()
  assert _lines(folder / "metrics.jsonl") == _lines(whole / "metrics.jsonl")


def test_damaged_dialogues_are_named(place, finished):
  whole, _ = finished
  folder = place.folder / "damaged_dialogues"
  shutil.copytree(whole, folder)
  kept = folder / "dialogues" / "cold_start.npz"
  data = bytearray(kept.read_bytes())
  data[len(data) // 4] ^= 0xFF
  kept.write_bytes(data)
  shutil.rmtree(
    folder / "checkpoints" / "cold_start" / str(STAGES["cold_start"])
  )
  code, _, errors = place.run(folder.name)
  assert code == 2
  assert errors.startswith(f"error: {kept} must hold the dialogues")


def _damage(folder, stage, step):
  """Flips a bit of a checkpoint's largest array; returns the checkpoint."""
  latest = folder / "checkpoints" / stage / str(step)
  arrays = max(latest.rglob("d/*"), key=lambda path: path.stat().st_size)
  data = bytearray(arrays.read_bytes())
  data[len(data) // 2] ^= 0xFF
  arrays.write_bytes(data)
  return latest


@pytest.mark.exhaustive
def test_a_damaged_checkpoint_is_named_and_its_steps_done_again(
  place, finished
):
  """Also where later stages began: what they did stays."""
  whole, out = finished
  folder = place.folder / "damaged"
  shutil.copytree(whole, folder)
  latest = _damage(folder, "grpo", STAGES["grpo"])
  code, again_out, errors = place.run(folder.name)
  assert code == 0, errors
  assert f"WARNING: checkpoint {latest} must be readable" in again_out
  assert re.search(r"^grpo: goes on after step 2 of 4", again_out, re.M)
  assert _table(again_out) == _table(out)
  assert _steps(folder) == _steps(whole)
  for name in ("evaluations", "transcripts"):
    assert _texts(folder / name) == _texts(whole / name)
  for name in STAGES:
    assert _equal(_params(folder, name), _params(whole, name))


def test_a_run_without_a_whole_checkpoint_stops(place, finished):
  whole, _ = finished
  folder = place.folder / "lost"
  shutil.copytree(whole, folder)
  shutil.rmtree(folder / "evaluations")
  _damage(folder, "grpo", STAGES["grpo"] - 2)
  latest = _damage(folder, "grpo", STAGES["grpo"])
  code, _, errors = place.run(folder.name)
  assert code == 2
  assert errors.startswith(f"error: checkpoint {latest} must be readable")
  assert "none before it can be used: 2" in errors
  assert "Traceback" not in errors
  assert not (folder / "evaluations" / "grpo.json").exists()
