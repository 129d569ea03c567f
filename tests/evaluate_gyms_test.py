"""An evaluation of all gyms with two kinds of users, killed in the middle."""

import json
import signal
import time

import pytest

from tests import evaluating
from userrl_jax import assembly
from userrl_jax import flags
from userrl_jax import kept_episodes
from userrl_jax import run_folder

RECIPE = """
from userrl_jax import config


def get_config():
  c = config.Config(out_dir="given by the test")
  c.model.num_layers = 1
  c.tokenizer.vocab_size = 768
  c.gyms.names = (
    *("function", "intention", "persuade", "search"),
    *("tau", "telepathy", "travel", "turtle"),
  )
  c.gyms.num_train_tasks = 16
  c.gyms.num_test_tasks = 64
  c.gyms.max_turns = 3
  c.rollout.max_tokens_per_turn = 12
  c.rollout.max_tokens_per_episode = 384
  c.engine = config.Engine(num_rows=64, num_lanes=64, decode_tokens=12)
  c.grpo.tasks_per_iteration = 8
  c.evaluation.num_tasks = 64
  c.evaluation.profiles = ("plain", "noisy")
  return c
"""
NUM_EPISODES = 8 * 64 * 2


@pytest.mark.slow
def test_a_killed_evaluation_repeats_no_finished_episode(tmp_path, root):
  """Eight gyms x two users x 64 tasks; the same numbers as without a kill."""
  recipe = tmp_path / "recipe.py"
  recipe.write_text(RECIPE)
  config = flags.load_recipe(str(recipe))
  config.out_dir = str(tmp_path / "made")
  parts = assembly.build(config)
  kept = evaluating.keep(tmp_path, parts, assembly.first_params(parts))
  name = evaluating.NAME

  def start(folder):
    return evaluating.start(root, recipe, folder, kept)

  def finished(folder):
    process = start(folder)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    path = run_folder.evaluation_path(folder, name)
    dialogues = folder / "transcripts" / f"evaluation_{name}.jsonl"
    return out, json.loads(path.read_text()), dialogues.read_text()

  whole, killed = tmp_path / "whole", tmp_path / "killed"
  _, summary, dialogues = finished(whole)
  assert len(dialogues.splitlines()) == NUM_EPISODES
  assert set(summary["profiles"]) == {"plain", "noisy"}
  assert all(gym["num_tasks"] == 64 for gym in summary["gyms"].values())
  assert len(summary["gyms"]) == 8

  path = kept_episodes.path_of(killed, name)
  lines = lambda: path.read_text().splitlines() if path.exists() else []
  process = start(killed)
  while process.poll() is None and len(lines()) <= NUM_EPISODES // 2:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  first = lines()
  num_kept = len(first) - 1
  assert NUM_EPISODES // 2 <= num_kept < NUM_EPISODES

  out, again, dialogues_again = finished(killed)
  assert f"{num_kept} of {NUM_EPISODES} episodes were played already" in out
  assert again == summary and dialogues_again == dialogues
