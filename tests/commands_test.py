"""Every command of pages, docstrings and launch scripts can be given so.

They are run by bash itself, which finds no program: what they would start
comes here instead. It is parsed by the flags of the entry point that it names,
or is a launch script, whose --dry_run is started and read in the same way.

Of pages these are the blocks and what stands between backticks, of docstrings
what does or begins a line. BUILD_NOTES.md is left out: its commands are dated
and were given to the code of their day.
"""

import argparse
import ast
import configparser
import functools
import importlib.util
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from userrl_jax import config_fields
from userrl_jax import experiments
from userrl_jax import flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = {  # how many commands at least: a page that is not read has none
  "README.md": 40,
  "CONTRIBUTING.md": 8,
  "configs/ablations/PLAN.md": 1,
}
PAGES |= {
  path.relative_to(ROOT).as_posix(): 1
  for path in sorted((ROOT / "configs" / "expected").glob("*.md"))
}
# Programs of others, whose arguments are not checked.
_OTHERS = {"curl", "git", "gcloud", "pre-commit", "ruff", "mypy", "shellcheck"}
_OTHERS |= {"scontrol", "source"}
# What making an environment takes, where none is active.
_PREPARED = ("venv", "source", "pip")
# Where a page leaves out what it has shown before.
_SHOWN_BEFORE = [
  "--config.gyms.tasks=FOLDER",
  "--config.tokenizer.folder=FOLDER",
]
_CHECKED: dict[tuple[str, ...], str] = {}  # {command: what it is checked as}
_BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A command in words: what tells it from a file or a field in the same font.
_PROGRAM = r"(?:[A-Z_]+=\S+ )*(?:python|bash|pip|sbatch|curl)"
_BEGINS_LINE = re.compile(
  rf"^\s*(?:[A-Z]\w+:)?\s*({_PROGRAM} .*(?:(?<=\\)\n.*)*)", re.MULTILINE
)
_RECORD = r"""
command_not_found_handle() { printf '%s\0' "$@" >&9; printf '\1' >&9; }
for one in sbatch source; do
  eval "$one() { command_not_found_handle $one \"\$@\"; }"
done
PATH=/nowhere
"""


class _Parsed(Exception):
  """Ends an entry point when its arguments are read."""


def commands_of(page: str, tmp_path: pathlib.Path) -> list[list[str]]:
  """Returns what the blocks of a page start, and what stands in its words."""
  return _commands("\n".join(_scripts_of((ROOT / page).read_text())), tmp_path)


def _commands(script: str, tmp_path: pathlib.Path) -> list[list[str]]:
  """Returns what a script would start, in order, as bash reads it."""
  log = tmp_path / "commands"
  with log.open("wb") as file:
    done = subprocess.run(
      ["bash", "-c", f"exec 9>&{file.fileno()}\n{_RECORD}{script}"],
      cwd=tmp_path,
      pass_fds=(file.fileno(),),
      capture_output=True,
      text=True,
    )
  assert not done.stderr, done.stderr
  text = log.read_bytes().decode()
  return [one.split("\0")[:-1] for one in text.split("\1")[:-1]]


def _check(words: list[str], tmp_path: pathlib.Path) -> str:
  """Checks one command; returns what it is checked as."""
  while "=" in words[0] or words[0] == "env":
    words = words[1:]
  program, *rest = words
  if rest[:2] == ["-m", "venv"]:
    return "venv"
  if program == "srun":
    at = rest.index("env")
    return _check(rest[at:], tmp_path)
  if program == "sbatch":
    script = next(i for i, word in enumerate(rest) if word.endswith(".sh"))
    return _check(["bash", *rest[script:]], tmp_path)
  if program == "bash" and rest[0] == "-c":
    return "shell"
  if program == "bash":
    if rest[0].startswith("launch/"):
      _check_script(rest, tmp_path)
    assert (ROOT / rest[0]).is_file(), rest
    return rest[0]
  if program == "pip" or (program == "python" and rest[:2] == ["-m", "pip"]):
    _check_extras(words)
    return "pip"
  if program == "python" and rest[0] == "-m":
    _check_entry(rest[1], rest[2:])
    return rest[1]
  if program == "python" and rest[0].startswith("tests/"):
    assert (ROOT / rest[0]).is_file(), rest
    return rest[0]
  if program == "python":
    done = subprocess.run(
      [sys.executable, *rest, "--dry_run"],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    _check_all(done.stdout, tmp_path)
    return rest[0]
  assert program in _OTHERS, words
  return program


def _check_all(text: str, tmp_path: pathlib.Path) -> list[str]:
  """Checks the commands of a script, each once a session."""
  done = []
  for words in _commands(text, tmp_path):
    key = tuple(words)
    if key not in _CHECKED:
      _CHECKED[key] = _check(words, tmp_path)
    done.append(_CHECKED[key])
  return done


def _check_entry(module: str, arguments: list[str]) -> None:
  """Has an entry point parse its arguments, and no more."""
  if module in ("pytest", "venv"):
    return
  source = pathlib.Path(importlib.util.find_spec(module).origin).read_text()
  assert '__name__ == "__main__"' in source or module.startswith("tests.")
  if module.startswith("tests."):
    return  # it reads its arguments in its own way
  if not re.search(r"\b(argparse|flags|contract_command)\b", source):
    assert not arguments, f"{module} takes none"
    return
  if "..." in arguments:
    at = arguments.index("...")
    arguments[at : at + 1] = _SHOWN_BEFORE
  if "--config=..." in arguments:
    at = arguments.index("--config=...")
    arguments[at] = "--config=configs/quickstart.py"
  parse_args, parse = argparse.ArgumentParser.parse_args, flags.parse

  def parse_args_only(self, argv=None, namespace=None):
    parse_args(self, argv, namespace)
    raise _Parsed

  def parse_only(*given):
    parse(*given)
    raise _Parsed

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, "parse_args", parse_args_only)
    patch.setattr(flags, "parse", parse_only)
    patch.setattr(sys, "argv", [module, *arguments])
    patch.delitem(sys.modules, module, raising=False)
    with pytest.raises(_Parsed):
      runpy.run_module(module, run_name="__main__")


def _check_extras(words: list[str]) -> None:
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  known = set(setup["options.extras_require"])
  for text in re.findall(r"\[(\w[\w,]*)\]", " ".join(words)):
    assert set(text.split(",")) <= known, words


def _check_script(words: list[str], tmp_path: pathlib.Path) -> list[str]:
  """Starts a launch script with --dry_run, and checks what it prints."""
  script, *arguments = (word for word in words if word != "--dry_run")
  done = subprocess.run(
    ["bash", script, "--dry_run", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={
      k: v
      for k, v in os.environ.items()
      if not k.startswith(("SLURM_", "VIRTUAL_ENV"))
    },
  )
  assert done.returncode == 0, done.stderr
  checked = _check_all(done.stdout, tmp_path)
  started = ("userrl_jax.", "pytest", "launch/sweep.py")
  assert any(one.startswith(started) for one in checked)
  return checked


@pytest.fixture
def at_root(monkeypatch, tmp_path):
  """Starts where a reader does, beside the gym that README writes out."""
  beside = tmp_path / "beside"
  write_gym(beside)
  monkeypatch.syspath_prepend(beside)
  monkeypatch.chdir(ROOT)


def write_gym(folder: pathlib.Path) -> None:
  """Writes the gym that README writes out, into a package of a folder."""
  readme = (ROOT / "README.md").read_text()
  section = readme.partition("## Adding a gym")[2].partition("\n## ")[0]
  (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  package = folder / "my_pkg"
  package.mkdir(parents=True)
  (package / "my_gym.py").write_text(code)


def _scripts_of(page: str) -> list[str]:
  """Returns the blocks of a page, then the commands between its words."""
  blocks = [code for kind, code in _BLOCKS.findall(page) if kind == "bash"]
  return blocks + _between_backticks(_BLOCKS.sub("", page))


def _between_backticks(text: str) -> list[str]:
  found = re.findall(rf"`({_PROGRAM} [^`]*)`", text)
  return [" ".join(one.split()) for one in found]


@functools.cache
def _docstrings() -> dict[str, str]:
  """Returns {file: what it says of itself} of the whole repository."""
  files = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  trees = {file: ast.parse((ROOT / file).read_text()) for file in files}
  return {file: ast.get_docstring(tree) or "" for file, tree in trees.items()}


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_can_be_given(at_root, page, tmp_path):
  scripts = _scripts_of((ROOT / page).read_text())
  checked = [one for code in scripts for one in _check_all(code, tmp_path)]
  # None is passed over: a line that starts no program is a comment, or said so.
  assert len(checked) >= PAGES[page]
  if page == "README.md":
    assert checked.count("userrl_jax.train") >= 8
    assert {"userrl_jax.compare", "userrl_jax.serve"} <= set(checked)


@pytest.mark.parametrize(
  ("top", "at_least"),
  [("configs", 13), ("launch", 2), ("tests", 8), ("userrl_jax", 15)],
)
def test_commands_of_docstrings_can_be_given(at_root, tmp_path, top, at_least):
  checked = {
    file: [
      one
      for code in _between_backticks(text) + _BEGINS_LINE.findall(text)
      for one in _check_all(code, tmp_path)
    ]
    for file, text in _docstrings().items()
    if file.startswith(f"{top}/")
  }
  assert sum(map(len, checked.values())) >= at_least
  if top == "configs":
    assert all(checked.values()), checked
    assert checked["configs/paper_32b.py"] == [
      *("launch/tpu_pod.sh", "userrl_jax.doctor"),
    ]
  if top == "userrl_jax":
    assert checked["userrl_jax/evaluate.py"] == ["userrl_jax.evaluate"]


def test_fields_in_words_are_fields():
  """Also those that stand in no command."""
  texts = _docstrings() | {page: (ROOT / page).read_text() for page in PAGES}
  texts |= {str(path): (ROOT / path).read_text() for path in _scripts()}
  fields = config_fields.field_types()
  sections = {name.rpartition(".")[0] for name in fields}
  known = {"field", *fields, *sections}
  for where, text in texts.items():
    for name in re.findall(r"--config\.([a-z_0-9.]*[a-z_0-9])", text):
      assert name in known, (where, name)


def _scripts() -> list[pathlib.Path]:
  paths = (ROOT / "launch").glob("[!_]*.sh")
  return [path.relative_to(ROOT) for path in sorted(paths)]


@pytest.mark.parametrize(
  ("words", "found"),
  [
    ("quickstart.sh --config.seed=3", [*_PREPARED, "userrl_jax.train"]),
    ("test.sh -k seed", [*_PREPARED, "pytest"]),
    ("single_host.sh configs/quickstart.py", [*_PREPARED, "userrl_jax.train"]),
    (
      """slurm.sh configs/quickstart.py --config.stages='("base",)'""",
      [*_PREPARED, "userrl_jax.train", "scontrol"],
    ),
    (
      """tpu_pod.sh me zone project configs/quickstart.py
      --config.stages='("base",)'""",
      ["shell", "gcloud", "gcloud", *_PREPARED, "userrl_jax.train"],
    ),
    *(
      (
        f"paper.sh {size} MODEL TASKS TAU --config.user.base_url=http://h/v1",
        [
          *(*_PREPARED, "userrl_jax.demonstrate"),
          *(*_PREPARED, "userrl_jax.train"),
          *(*_PREPARED, "userrl_jax.evaluate"),
        ],
      )
      for size in ("4b", "8b", "4b:equalized_sum")
    ),
    (
      "paper.sh 4b:no_cold_start M T TB --config.user.base_url=http://h/v1",
      [
        *(*_PREPARED, "userrl_jax.train"),
        *(*_PREPARED, "userrl_jax.evaluate"),
      ],
    ),
    *(
      (f"ablations.sh {words}", [*_PREPARED, *["launch/sweep.py"] * 2])
      for words in ("b --config.grpo.kl_coef=0", "d", "e")
    ),
  ],
)
def test_scripts_print_what_they_do(words, found, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert _check_script(shlex.split(f"launch/{words}"), tmp_path) == found


def _sweeps(letter: str) -> list[str]:
  """Returns the sweeps that a dry run of an experiment prints."""
  done = subprocess.run(
    ["bash", "launch/ablations.sh", "--dry_run", letter],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return [line for line in done.stdout.splitlines() if "sweep.py" in line]


def test_experiments_of_two_seeds_train_no_other_cold_starts():
  for letter in "de":
    start, _ = _sweeps(letter)
    assert "--out_dir=runs/ablations/cold_start --grid=seed=0,1 " in start
    assert "--noreport" in start  # that of b has five seeds


def test_what_stands_beside_b_is_run_before_its_report():
  path = ROOT / "configs" / "ablations" / "cold_start.py"
  (beside,) = experiments.load(str(path)).beside
  longer, own = _sweeps("b")
  folder = beside.folder.removesuffix("/seed={seed}")
  assert f"--out_dir={folder} " in longer and "--noreport" in longer
  assert beside.evaluation in longer.partition("--config.stages=")[2]
  assert "rl_only_iterations=120" in longer
  assert "--out_dir=runs/ablations/cold_start " in own
  assert "--noreport" not in own


def test_every_script_is_tested_and_short():
  text = pathlib.Path(__file__).read_text()
  for path in _scripts():
    assert path.name in text
    assert os.access(ROOT / path, os.R_OK)
  for path in (ROOT / "launch").glob("*.sh"):
    assert len(path.read_text().splitlines()) <= 60, path


@pytest.mark.parametrize(
  "words",
  [
    "python -m userrl_jax.train --config=configs/quickstart.py --config.sed=1",
    "python -m userrl_jax.train --config=configs/none.py",
    "python -m userrl_jax.report",
    "python -m userrl_jax.export --run=x",
    "python -m userrl_jax.serve --prot=8000 --model=x",
    "python -m userrl_jax.play --config=configs/quickstart.py --set=agent",
    "python launch/sweep.py --config=configs/quickstart.py --grid=sed=1",
    "bash launch/tpu_pod.sh me",
    "bash launch/paper.sh 14b MODEL TASKS TAU",
    "bash launch/paper.sh 4b:no_such_arm MODEL TASKS TAU",
    "bash launch/ablations.sh f",
    "pip install -e .[cud]",
    "userrl-train --config=configs/quickstart.py",
  ],
)
def test_a_wrong_command_is_found(words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  with pytest.raises((AssertionError, ValueError, SystemExit)):
    _check_all(words, tmp_path)


def test_the_shell_reads_pages_as_a_reader_does(tmp_path):
  page = 'for x in 1 2; do\n  a $x "b c" \\\n    d  # no\ndone\nexport K=v\n'
  assert _commands(page, tmp_path) == [["a", n, "b c", "d"] for n in "12"]
