"""Tests of the command line, in a process of its own where exits matter."""

import os
import subprocess
import sys

import pytest

from userrl_jax import config_fields
from userrl_jax import flags

_ENTRY = """
from userrl_jax import flags
def main(config, command):
  with flags.user_errors():
    if config.seed == 13: raise ValueError("tasks must exist, got none")
    if config.seed == 14: open("/no/such/folder/tasks.jsonl")
  if config.seed == 15: raise ValueError("a defect of ours")
  print("ran", config.seed)
if __name__ == "__main__":
  flags.run(main)
"""
_RECIPE = """
from userrl_jax import config
def get_config(size="8"):
  c = config.Config(out_dir="runs/test")
  c.grpo.group_size = int(size)
  return c
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
  path = tmp_path_factory.mktemp("recipes") / "recipe.py"
  path.write_text(_RECIPE)
  return path


def _run(root, folder, *argv, **environment):
  entry = folder / "entry.py"
  entry.write_text(_ENTRY)
  return subprocess.run(
    [sys.executable, str(entry), *argv],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(root), **environment},
    capture_output=True,
    text=True,
    check=False,
  )


def _parse(recipe, *overrides):
  return flags.parse([f"--config={recipe}", *overrides])


def _error(recipe, *overrides):
  with pytest.raises(ValueError) as info:
    _parse(recipe, *overrides)
  return str(info.value)


def test_the_recipe_alone(recipe):
  config, command = _parse(recipe)
  assert config == flags.load_recipe(str(recipe))
  assert command == flags.Command((f"--config={recipe}",), str(recipe), {})


def test_a_recipe_takes_an_argument(recipe):
  config, command = flags.parse([f"--config={recipe}:4"])
  assert config.grpo.group_size == 4
  assert command.recipe == f"{recipe}:4"
  assert command.differences == {}


def test_a_start_may_be_that_of_the_seed(recipe):
  start = "--config.init_from=runs/{seed}/checkpoints"
  config, command = _parse(recipe, start, "--config.seed=7")
  assert config.init_from == "runs/7/checkpoints"
  assert command.differences["init_from"] == ("", "runs/7/checkpoints")


@pytest.mark.parametrize(
  ("override", "path", "value"),
  [
    (["--config.grpo.group_size=16"], "grpo.group_size", 16),
    (["--config.grpo.group_size", "16"], "grpo.group_size", 16),
    (["--config.mesh.data", "2"], "mesh.data", 2),
    (["--config.grpo.optimizer.b1=0.5"], "grpo.optimizer.b1", 0.5),
    (["--config.rollout.temperature=2"], "rollout.temperature", 2.0),
    (["--config.out_dir=7"], "out_dir", "7"),
    (["--config.chat.show_reward"], "chat.show_reward", True),
    (["--config.chat.show_reward=true"], "chat.show_reward", True),
    (["--config.gyms.names=a"], "gyms.names", ("a",)),
    (["--config.gyms.names=a,b"], "gyms.names", ("a", "b")),
    (["--config.gyms.names=('a', 'b')"], "gyms.names", ("a", "b")),
    (["--config.gyms.names=('a',)"], "gyms.names", ("a",)),
    (['--config.gyms.names=["a","b"]'], "gyms.names", ("a", "b")),
    (["--config.gyms.levels=1,3"], "gyms.levels", (1, 3)),
    (["--config.gyms.levels=(2, 3)"], "gyms.levels", (2, 3)),
  ],
)
def test_a_field_is_set_with_its_type(recipe, override, path, value):
  config, command = _parse(recipe, *override)
  knobs = {knob.path: knob.value for knob in config_fields.knobs(config)}
  assert knobs[path] == value
  assert type(knobs[path]) is type(value)
  assert command.differences.keys() == {path}
  assert command.differences[path][1] == value


def test_false_and_negative_values(recipe):
  config, _ = _parse(
    recipe,
    "--config.chat.show_reward",
    "--noconfig.chat.show_reward",
    "--config.mesh.data=1",
    "--config.mesh.tensor",
    "-1",
  )
  assert config.chat.show_reward is False
  assert config.mesh.tensor == -1


def test_fields_may_stand_before_the_recipe(recipe):
  config, _ = flags.parse(["--config.seed=3", "--config", str(recipe)])
  assert config.seed == 3


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (
      ["--config.grpo.group_sze=1"],
      "there is no config field grpo.group_sze; the nearest is grpo.group_size",
    ),
    (
      ["--noconfig.chat.show_rewards"],
      "there is no config field chat.show_rewards; "
      "the nearest is chat.show_reward",
    ),
    (
      ["--config.mesh=1"],
      "mesh is a section; set one of its fields: "
      "mesh.data, mesh.fsdp, mesh.tensor",
    ),
    (["--config.seed=a"], "seed must be int, got 'a'"),
    (["--config.seed=1.5"], "seed must be int, got '1.5'"),
    (
      ["--config.rollout.temperature=x"],
      "rollout.temperature must be float, g",
    ),
    (["--config.chat.show_reward=maybe"], "chat.show_reward must be bool, got"),
    (
      ["--config.gyms.levels=1,1.5"],
      "gyms.levels must be tuple[int, ...], got '1,1.5'",
    ),
    (["--config.gyms.levels="], "gyms.levels must hold values"),
    (["--config.seed"], "Missing value for flag --config.seed"),
    (["--config.grpo.group_size=1"], "grpo.group_size must be at least 2"),
    (
      ["--grpo.clip_low=1"],
      "there is no flag --grpo.clip_low; the nearest is --config.grpo.clip_low",
    ),
    (["--confg=x.py"], "there is no flag --confg; the nearest is --config"),
    (["--zzzz"], "there is no flag --zzzz; see --help"),
    (["seed=1"], "there is no argument seed=1; set a field as --config.field="),
  ],
)
def test_what_users_do_wrong_is_said(recipe, overrides, message):
  assert _error(recipe, *overrides).startswith(message)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("x = 1\n", "{} must define get_config(), which it does not"),
    ("def get_config():\n  return {}\n", "{}: get_config() must return a user"),
    ("def get_config(:\n", "{}:1: SyntaxError: "),
    ("\ndef get_config():\n  return 1 / 0\n", "{}:3: ZeroDivisionError: "),
    (
      "from userrl_jax import config\n"
      "def get_config():\n"
      "  c = config.Config()\n"
      "  c.grpo.group_sze = 4\n"
      "  return c\n",
      "{}: there is no config field grpo.group_sze; "
      "the nearest is grpo.group_size",
    ),
    (
      "from userrl_jax import config\n"
      "def get_config():\n"
      "  return config.Config(seed='0')\n",
      "{}: seed must be int, got '0' (str)",
    ),
  ],
)
def test_a_broken_recipe_is_named(tmp_path, text, message):
  path = tmp_path / "broken.py"
  path.write_text(text)
  assert _error(path).startswith(message.format(path))


def test_a_missing_recipe_names_the_nearest(recipe):
  missing = recipe.parent / "recip.py"
  assert _error(missing) == (
    f"--config must be a Python file with get_config(), got {missing}, which "
    f"is no file; the nearest is {recipe}"
  )


def test_a_recipe_is_asked_for():
  with pytest.raises(ValueError, match="--config must name a recipe, got none"):
    flags.parse(["--config.seed=1"])


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("--config.sed=1", "there is no config field sed; the nearest is seed"),
    ("--config.seed=x", "seed must be int, got 'x'"),
    ("--config.seed=-1", "seed must be 0 or more, got -1"),
    ("--config.seed=13", "tasks must exist, got none"),
    ("--config.seed=14", "[Errno 2] No such file or directory"),
  ],
)
def test_a_user_error_is_one_message_and_exit_code_2(
  root, recipe, tmp_path, override, message
):
  done = _run(root, tmp_path, f"--config={recipe}", override)
  assert done.returncode == 2
  assert done.stdout == ""
  assert done.stderr.startswith(f"error: {message}")
  assert len(done.stderr.splitlines()) == 1


def test_several_problems_are_one_message(root, recipe, tmp_path):
  argv = [f"--config={recipe}", "--config.seed=-1", "--config.out_dir="]
  done = _run(root, tmp_path, *argv)
  assert done.returncode == 2
  assert done.stderr == (
    "error: out_dir must be given, got ''\n  seed must be 0 or more, got -1\n"
  )


def test_a_defect_of_ours_keeps_its_traceback(root, recipe, tmp_path):
  done = _run(root, tmp_path, f"--config={recipe}", "--config.seed=15")
  assert done.returncode == 1
  assert "Traceback" in done.stderr
  assert "a defect of ours" in done.stderr


def test_a_user_errors_traceback_can_be_asked_for(root, recipe, tmp_path):
  argv = [f"--config={recipe}", "--config.seed=13"]
  done = _run(root, tmp_path, *argv, USERRL_TRACEBACK="1")
  assert done.returncode == 1
  assert "Traceback" in done.stderr


def test_a_right_command_runs(root, recipe, tmp_path):
  done = _run(root, tmp_path, f"--config={recipe}", "--config.seed=1")
  assert (done.returncode, done.stdout, done.stderr) == (0, "ran 1\n", "")


def test_help_lists_every_field(capsys):
  with pytest.raises(SystemExit) as info:
    flags.parse(["--help"])
  assert info.value.code == 0
  shown = capsys.readouterr().out
  for path in config_fields.field_types():
    assert f"--config.{path}=" in shown


def test_an_entry_point_has_flags_of_its_own(recipe, capsys):
  own = {"seat": "agent", "num_tasks": 1}
  base = [f"--config={recipe}", "--config.seed=3"]
  config, command = flags.parse([*base, "--num_tasks", "4"], own)
  assert config.seed == 3
  assert command.own == {"seat": "agent", "num_tasks": 4}
  assert command.differences == {"seed": (0, 3)}
  for argv, message in (
    (["--num_tasks=x"], "--num_tasks=x: invalid literal"),
    (["--seet=user"], "there is no flag --seet; the nearest is --seat"),
  ):
    with pytest.raises(ValueError, match=message):
      flags.parse([*base, *argv], own)
  with pytest.raises(ValueError, match="there is no flag --seat"):
    flags.parse([*base, "--seat=user"])
  with pytest.raises(SystemExit):
    flags.parse(["--help"], own)
  assert "[--seat=agent] [--num_tasks=1]" in capsys.readouterr().out
