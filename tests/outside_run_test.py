"""README's own gym, from its page to a GRPO step and a run that goes on."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

NAME = "my_pkg.my_gym:Letters"
HELD_OUT = "my_pkg.held:Held"  # the same game, under another name
RECIPE = """
from userrl_jax import config


def get_config():
  c = config.Config(stages=("cold_start", "grpo"))
  c.model.num_layers = 1
  c.tokenizer.vocab_size = 512
  c.gyms.names = ("my_pkg.my_gym:Letters",)
  c.gyms.num_train_tasks = 8
  c.gyms.num_test_tasks = 4
  c.rollout.max_tokens_per_turn = 16
  c.rollout.max_tokens_per_episode = 192
  c.engine = config.Engine(num_rows=8, num_lanes=8, decode_tokens=8)
  c.packing = config.Packing(row_length=192, logprob_chunk=64)
  c.cold_start.num_steps = 2
  c.cold_start.episodes_per_step = 4
  c.cold_start.optimizer = config.Optimizer()
  c.grpo.num_iterations = 2
  c.grpo.tasks_per_iteration = 2
  c.grpo.group_size = 2
  c.grpo.credit.gym_scales = ("my_pkg.my_gym:Letters=0.5",)
  c.evaluation.held_out_gyms = ("my_pkg.held:Held",)
  c.evaluation.num_tasks = 2
  c.checkpoint.every_steps = 1
  return c
"""
HELD = f"""
import dataclasses
from my_pkg import my_gym


class Held(my_gym.Letters):
  name = "{HELD_OUT}"

  @staticmethod
  def load_tasks(settings, split, seed):
    tasks = my_gym.Letters.load_tasks(settings, split, seed)
    return [dataclasses.replace(task, gym=Held.name) for task in tasks]
"""
_UNREPEATABLE = re.compile(
  r"time.*|.*/tokens_per_s|.*/programs|rollout/idle_share"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
  """Returns a folder that holds `my_pkg` with README's gym, and a recipe."""
  text = (root / "README.md").read_text(encoding="utf-8")
  section = text.partition("## Adding a gym")[2].partition("\n## ")[0]
  (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  folder = tmp_path_factory.mktemp("outside")
  (folder / "my_pkg").mkdir()
  (folder / "my_pkg" / "my_gym.py").write_text(code, encoding="utf-8")
  (folder / "my_pkg" / "held.py").write_text(HELD)
  (folder / "recipe.py").write_text(RECIPE)
  return folder


@pytest.fixture(scope="module")
def start(folder, root):
  """Returns a function that runs a module where a user would, to its end."""

  def run(module, *arguments):
    done = subprocess.run(
      [sys.executable, "-m", f"userrl_jax.{module}", *arguments],
      cwd=folder,
      env={
        **os.environ,
        "PYTHONPATH": str(root),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      },
      capture_output=True,
      text=True,
      check=False,
    )
    return done.returncode, done.stdout + done.stderr

  return run


@pytest.fixture(scope="module")
def finished(folder, start):
  """Returns the folder of a finished run, and what it said."""
  code, said = start("train", "--config=recipe.py", "--config.out_dir=run")
  assert code == 0, said
  return folder / "run", said


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _numbers(folder):
  """Returns the numbers of a run that come out the same every time."""
  return [
    {k: v for k, v in line.items() if not _UNREPEATABLE.fullmatch(k)}
    for line in _lines(folder / "metrics.jsonl")
  ]


def test_the_command_passes_what_the_page_shows(start):
  code, said = start("gyms.contract", NAME)
  assert code == 0, said
  assert "FAIL" not in said and "checks hold, 0 fail" in said


@pytest.mark.slow
def test_it_is_trained_measured_and_written_down(finished):
  run, said = finished
  grpo = [n for n in _numbers(run) if n["stage"] == "grpo"]
  assert len(grpo) == 2
  assert all(0 <= n[f"score/{NAME}"] <= 1 for n in grpo)
  assert all(n["episode/num"] == 4 for n in grpo)
  assert not any(f"score/{HELD_OUT}" in n for n in grpo)
  for stage in ("cold_start", "grpo"):
    summary = json.loads((run / "evaluations" / f"{stage}.json").read_text())
    assert NAME in summary["gyms"] and HELD_OUT in str(summary["held_out"])
    assert set(summary["pins"]["tasks"]) == {NAME, HELD_OUT}
  played = _lines(run / "transcripts" / "grpo.jsonl")
  assert {t["gym"] for t in played} == {NAME}
  assert all(t["valid"] for t in played)
  assert f"{NAME}" in said and HELD_OUT in said
  assert NAME in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_of_it_goes_on_and_ends_the_same(finished, folder, start):
  """As if it had been killed after the first of its GRPO steps."""
  run, _ = finished
  shutil.copytree(run, folder / "resumed")
  resumed = folder / "resumed"
  shutil.rmtree(resumed / "checkpoints" / "grpo" / "2")
  for path in (resumed / "evaluations").glob("grpo*"):
    path.unlink()
  code, said = start("train", "--config=recipe.py", "--config.out_dir=resumed")
  assert code == 0 and "goes on after step 1 of 2" in said, said
  assert _numbers(resumed) == _numbers(run)
  one, two = (
    json.loads((f / "evaluations" / "grpo.json").read_text())
    for f in (run, resumed)
  )
  assert one["gyms"] == two["gyms"]


@pytest.mark.slow
def test_an_agent_by_rules_is_measured_in_it_without_params(start, folder):
  code, said = start(
    "evaluate",
    "--config=recipe.py",
    "--config.out_dir=measured",
    "--config.stages=('grpo',)",
    "--config.evaluation.agent=oracle",
  )
  assert code == 0, said
  (path,) = (folder / "measured" / "evaluations").glob("*.json")
  assert json.loads(path.read_text())["gyms"][NAME]["score"] == 1
