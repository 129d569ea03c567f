"""README's commands, run one after the other as a reader would.

They are taken from the page, in its order, and started in a folder that has
the recipes and nothing else. Put behind each is only what makes a recipe tiny.
What cannot be run so is listed, with the reason; what is neither fails a test.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests import commands_test
from tests.serving import small
from userrl_jax import exchange

README = commands_test.ROOT / "README.md"
# By how a command begins: why it stays with what `commands_test` does.
LISTED = {
  "bash launch/test.sh": "runs this test",
  "pip install": "needs a network; the environment of the tests has it",
  "python -m userrl_jax.train --config=configs/real_input.py "
  "--config.gyms.tasks=FOLDER_WITH_FUNCTIONS_JSON": "needs released tasks and "
  "a published tokenizer: real_input_test",
  "bash launch/single_host.sh": "installs, for all GPUs or chips of a machine",
  "bash launch/tpu_pod.sh": "needs gcloud and a TPU: launch_test",
  "sbatch": "needs SLURM: launch_test",
  "bash launch/paper.sh": "needs published weights and an endpoint",
  "python -m userrl_jax.doctor --config=configs/paper_8b.py": "needs "
  "libtpu and a published tokenizer: plan_test",
  "python launch/sweep.py": "six and eight runs: sweep_test has smaller sweeps",
  "bash launch/ablations.sh": "hours: sweep_test, experiment_report_test",
  "python -m userrl_jax.train --config=configs/real_input.py "
  "--config.out_dir=runs/things --config.tokenizer.folder": "an endpoint, "
  "a released file: endpoint_run_test, real_input_telepathy_test",
  "python -m userrl_jax.train --config=configs/real_input.py "
  "--config.out_dir=runs/things ...": "is cut short, and needs a model that "
  "can judge: serving/local_test",
  "python -m userrl_jax.merge": "needs released files: merge_test",
}
SMALL = {
  "gyms.num_train_tasks": 24,
  "gyms.num_test_tasks": 2,
  "base.num_episodes": 36,
  "base.num_copies": 36,
  "base.num_steps": 4,
  "cold_start.num_steps": 4,
  "cold_start.optimizer.warmup_steps": 1,
  "grpo.num_iterations": 2,
  "grpo.tasks_per_iteration": 3,
  "grpo.optimizer.warmup_steps": 1,
  "comparison.continued_steps": 2,
  "comparison.rl_only_iterations": 2,
  "evaluation.num_tasks": 2,
  "evaluation.forgetting_tasks": 2,
  "engine.num_rows": 12,
  "engine.num_lanes": 12,
}
# Enough that its agent calls, and so has dialogues to be looked at.
TALKS = SMALL | {"base.num_steps": 40, "cold_start.num_steps": 40}
# Letters has eight training tasks.
LETTERS = {k: v for k, v in SMALL.items() if k != "grpo.tasks_per_iteration"}
LETTERS["gyms.num_test_tasks"] = 4
QWEN = {
  "gyms.levels": 1,
  "cold_start.num_steps": 2,
  "cold_start.optimizer.warmup_steps": 1,
  "grpo.num_iterations": 2,
  "grpo.group_size": 2,
  "evaluation.num_tasks": 1,
  "evaluation.forgetting_tasks": 1,
  "engine.num_rows": 4,
  "engine.num_lanes": 4,
  "packing.row_length": 1024,
  "rollout.max_tokens_per_episode": 1024,
  "rollout.max_tokens_per_turn": 24,
}
SEEDS, ARMS = (0, 1, 2), ("continued_updates", "continued")
ARMS += ("rl_only_updates", "rl_only")
STAGES = ("base", "cold_start", "grpo")


@dataclasses.dataclass(frozen=True)
class Step:
  """What a command needs to be tiny, and what README promises of it."""

  check: Callable[["Desk", str], None]  # after it: (where it ran, its output)
  fields: dict[str, object] = dataclasses.field(default_factory=dict)
  typed: str = ""  # what its input says
  before: Callable[["Desk"], object] = lambda desk: None


@dataclasses.dataclass
class Desk:
  """A folder that commands are given in."""

  folder: pathlib.Path
  open: contextlib.ExitStack  # what ends when all is done
  url: str = ""  # of what is served
  server: subprocess.Popen[str] | None = None

  def __truediv__(self, path: str) -> pathlib.Path:
    return self.folder / path

  def start(self, words, **options) -> subprocess.Popen[str]:
    """Starts a command; "python" is the one that runs the tests."""
    program = sys.executable if words[0] == "python" else words[0]
    return subprocess.Popen(
      [program, *words[1:]],
      cwd=self.folder,
      env=os.environ
      | {
        "PYTHONPATH": str(commands_test.ROOT),
        # Less optimised code compiles in half the time.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
      },
      text=True,
      stdout=subprocess.PIPE,
      **options,
    )

  def run(self, words, typed="") -> str:
    """Runs a command to its end, which must be a good one."""
    process = self.start(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = process.communicate(typed)
    assert process.returncode == 0, f"{words}\n{out}\n{errors}"
    return out


def _check_run(name: str, *stages: str) -> Callable[[Desk, str], None]:
  """Returns a check that a folder has all that README says of a run's."""

  def check(desk, out):
    run = desk / f"runs/{name}"
    assert f"report: runs/{name}/report.html" in out
    for file in ("report.html", "config.json", "environment.json"):
      assert (run / file).stat().st_size > 0
    rows = [line.split()[0] for line in out.splitlines() if line.split()]
    metrics = (run / "metrics.jsonl").read_text().splitlines()
    for stage in stages:
      assert stage in rows  # of the table
      assert (run / f"evaluations/{stage}.json").is_file()
      assert (run / f"transcripts/evaluation_{stage}.jsonl").is_file()
      kept = {path.name for path in (run / f"checkpoints/{stage}").iterdir()}
      assert "config.json" in kept and any(map(str.isdigit, kept))
      assert any(json.loads(line)["stage"] == stage for line in metrics)
    environment = json.loads((run / "environment.json").read_text())
    assert {"command", "differences", "packages", "git"} <= set(environment)

  return check


def _check_table(*named: str) -> Callable[[Desk, str], None]:
  """Returns a check that rows of a Markdown table begin so."""

  def check(desk, out):
    rows = [line for line in out.splitlines() if line.startswith("|")]
    for name in named:
      assert any(row.startswith(f"| {name}") for row in rows), out

  return check


def _check_again(desk, out):
  found = json.loads((desk / "runs/again/evaluations/grpo@2.json").read_text())
  own = desk / "runs/quickstart/evaluations/grpo.json"
  for name in ("model", "tokenizer", "tasks"):
    assert found["pins"][name] == json.loads(own.read_text())["pins"][name]
  assert "grpo@2" in out


def _check_report(desk, out):
  assert out == "runs/mine/report.html\n"
  assert "<html" in (desk / "runs/mine/report.html").read_text()


def _check_compare(desk, out):
  for arm in ("base", "cold_start", *ARMS):
    assert f"| {arm}" in out, out


def _check_export(desk, out):
  assert {p.name for p in (desk / "FOLDER").iterdir()} >= {
    *("config.json", "model.safetensors", "tokenizer.json"),
  }
  if not importlib.util.find_spec("torch"):
    return  # what loads it in transformers; the other commands can do without
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(desk / "FOLDER")
  words = transformers.AutoTokenizer.from_pretrained(desk / "FOLDER")
  ids = words("What is it?", return_tensors="pt").input_ids
  assert model.dtype == torch.bfloat16
  assert model(ids).logits.isfinite().all()


def _check_doctor(desk, out):
  assert out.splitlines()[-1].endswith(" 0 fail"), out
  for gym in ("function", "telepathy", "travel"):
    assert f"ok   gym {gym}: score 1.00" in out


def _check_audit(desk, out):
  _check_table("runs/mine | rules | telepathy", "runs/mine | rules | travel")(
    desk, out
  )


def _check_probe(desk, out):
  _check_audit(desk, out)
  of = out.partition("| asked twice |")[2].splitlines()
  cells = [[c.strip() for c in line.split("|")] for line in of]
  asked = {row[3]: row[4:] for row in cells if len(row) > 8}
  assert int(asked["telepathy"][0]) > 0, out
  assert asked["telepathy"][2].startswith("100.0% of"), out  # rules do


def _check_curl(desk, out):
  (choice,) = json.loads(out)["choices"]
  assert choice["message"]["role"] == "assistant"
  desk.server.terminate()
  assert desk.server.wait(60) == 0


def _check_play(pattern: str) -> Callable[[Desk, str], None]:
  def check(desk, out):
    (path,) = (desk / "runs/play/transcripts").glob(f"{pattern}.jsonl")
    (record,) = map(json.loads, path.read_text().splitlines())
    assert "no score (cancelled)" in out or "not won" in out
    assert record["turns"] or record["fault"] == "cancelled"

  return check


def _check_shown(desk, out):
  folder = desk / "runs/shown/demonstrations"
  shown = exchange.read(folder / "dialogues.jsonl")
  assert shown and all(one.score >= 0.9 for one in shown)
  assert json.loads((folder / "report.json").read_text())


def _write_theirs(desk):
  shown = desk / "runs/shown/demonstrations/dialogues.jsonl"
  exchange.write(desk / "theirs.json", exchange.read(shown))


def _check_exchanged(desk, out):
  ours = exchange.read(desk / "ours.jsonl")
  assert ours == exchange.read(desk / "theirs.json") and len(ours) > 5


def _check_contract(desk, out):
  lines = out.splitlines()
  assert len(lines) > 9 and lines[-1].endswith(" hold, 0 fail"), out


_TRAIN = "python -m userrl_jax.train --config=configs/quickstart.py"
_PLAY = "python -m userrl_jax.play"
_MINE = "runs/mine"
# By how a command begins, in the page's order.
RUN = {
  "bash launch/quickstart.sh": Step(_check_run("quickstart", *STAGES), SMALL),
  f"{_TRAIN} --config.out_dir={_MINE}": Step(
    _check_run("mine", *STAGES), TALKS
  ),
  "python -m userrl_jax.evaluate": Step(_check_again, SMALL),
  "python -m userrl_jax.report": Step(
    _check_report, before=lambda desk: (desk / _MINE / "report.html").unlink()
  ),
  "python -m userrl_jax.paired": Step(
    _check_table("telepathy", "mean of gyms")
  ),
  "python -m userrl_jax.rescore": Step(_check_table("telepathy", "travel")),
  **{
    f"{_TRAIN} --config.seed={seed}": Step(
      _check_run(f"seed{seed}", *STAGES, *ARMS), SMALL
    )
    for seed in SEEDS
  },
  "python -m userrl_jax.compare": Step(_check_compare),
  "python -m userrl_jax.train --config=configs/real_input.py "
  "--config.out_dir=runs/qwen": Step(
    _check_run("qwen", "cold_start", "grpo"),
    QWEN,
    before=lambda desk: small.published_folder(desk / "Qwen3-4B", README),
  ),
  "python -m userrl_jax.export": Step(_check_export),
  "python -m userrl_jax.doctor --config=configs/quickstart.py": Step(
    _check_doctor
  ),
  f"python -m userrl_jax.audit {_MINE}": Step(_check_audit),
  f"python -m userrl_jax.audit {_MINE} --probe=50": Step(_check_probe),
  "python -m userrl_jax.serve": Step(lambda desk, out: None),
  "curl localhost:8000/v1/chat/completions": Step(_check_curl),
  # A person at a terminal types more; that is play_test's.
  f"{_PLAY} --gym=turtle --seat=agent": Step(
    _check_play("evaluation_person_1"), typed="action Is it dark?\nquit\n"
  ),
  f"{_PLAY} --config=configs/quickstart.py --config.out_dir=runs/play "
  "--gym=telepathy --seat=agent": Step(
    _check_play("evaluation_person_2"), typed="action Is it big?\nquit\n"
  ),
  f"{_PLAY} --config=configs/quickstart.py --config.out_dir=runs/play "
  "--gym=telepathy --seat=user": Step(
    _check_play("evaluation_person_with_grpo@2_1"), typed="quit\n"
  ),
  "python -m userrl_jax.demonstrate": Step(_check_shown, SMALL),
  f"{_TRAIN} --config.out_dir=runs/imitates": Step(
    _check_run("imitates", *STAGES), SMALL
  ),
  "python -m userrl_jax.exchange": Step(_check_exchanged, before=_write_theirs),
  "python -m userrl_jax.gyms.contract my_pkg.my_gym:Letters": Step(
    _check_contract, before=lambda desk: commands_test.write_gym(desk.folder)
  ),
  f"{_TRAIN} --config.out_dir=runs/letters": Step(
    _check_run("letters", *STAGES), LETTERS
  ),
}


def _key(words: list[str]) -> str:
  """Returns which entry a command is of: the longest that it begins with."""
  text = " ".join(words)
  found = [
    key
    for key in (*LISTED, *RUN)
    if text == key or text.startswith((f"{key} ", f"{key}=", f"{key}_"))
  ]
  return max(found, key=len, default="")


def test_every_command_is_run_or_listed(tmp_path):
  commands = commands_test.commands_of("README.md", tmp_path)
  keys = [_key(words) for words in commands]
  lost = [words for words, key in zip(commands, keys, strict=True) if not key]
  assert not lost, "neither run nor listed, with a reason"
  assert set(keys) == {*LISTED, *RUN}, "an entry is of no command"
  assert [key for key in keys if key in RUN] == list(RUN), "each once, in order"


def _serve(desk, words):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  (flag,) = [word for word in words if word.startswith("--port=")]
  words = [f"--port={port}" if word == flag else word for word in words]
  desk.server = desk.start(words)
  desk.open.callback(desk.server.kill)
  line = desk.server.stdout.readline()
  assert f"http://127.0.0.1:{port}/v1" in line, line
  desk.url = f"localhost:{port}"


def _ask(desk, words):
  named = ("localhost:8000", "quickstart-grpo-70")  # which had 70 iterations
  own = (desk.url, f"quickstart-grpo-{SMALL['grpo.num_iterations']}")
  for theirs, ours in zip(named, own, strict=True):
    assert any(theirs in word for word in words)
    words = [word.replace(theirs, ours) for word in words]
  return desk.run([*words, "--silent", "--fail-with-body"])


def _quickstart(desk, words, flags, tmp_path):
  """Runs what the script would, but for what makes an environment."""
  dry = subprocess.run(
    [*words, "--dry_run", *flags],
    cwd=commands_test.ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  commands = commands_test._commands(dry, tmp_path)
  own = [w for w in commands if w[1:2] == ["-m"] and "userrl_jax" in w[2]]
  assert own and own[-1] == commands[-1]
  return "".join(map(desk.run, own))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_the_commands_one_after_the_other(tmp_path):
  if not shutil.which("curl"):
    pytest.skip("needs curl, which README asks a server with")
  desk = tmp_path / "desk"
  desk.mkdir()
  (desk / "configs").symlink_to(commands_test.ROOT / "configs")
  (desk / "runs").mkdir()
  with contextlib.ExitStack() as stack:
    desk = Desk(desk, stack)
    for words in commands_test.commands_of("README.md", tmp_path):
      step = RUN.get(key := _key(words))
      if not step:
        continue
      started = time.monotonic()
      step.before(desk)
      flags = [f"--config.{k}={v}" for k, v in step.fields.items()]
      if words[0] == "bash":
        out = _quickstart(desk, words, flags, tmp_path)
      elif words[0] == "curl":
        out = _ask(desk, words)
      elif "userrl_jax.serve" in words:
        out = _serve(desk, words)
      else:
        out = desk.run([*words, *flags], step.typed)
      step.check(desk, out)
      print(f"{time.monotonic() - started:5.1f} s  {key}", flush=True)
