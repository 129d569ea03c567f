"""The folder of a run: when it may be gone on with, and how it is written."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import flags
from userrl_jax import metrics
from userrl_jax import recorder
from userrl_jax import run_folder
from userrl_jax import stages
from userrl_jax.learning import batching

COMMAND = flags.Command(
  ("--config=recipe.py", "--config.seed=3"), "recipe.py", {"seed": (0, 3)}
)
PACKED = batching.PackStats(2, 0, 1, 1, 80, 30, 0.25)
NUM_STEPS = 6
STAGE = stages.Stage("base", NUM_STEPS, config_lib.Optimizer(), 0, per_step=4)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp("built")
  config = config_lib.Config(out_dir=str(folder), seed=3, stages=("base",))
  config.checkpoint.every_steps = 2
  config.gyms.num_train_tasks = 32
  return assembly.build(config)


@pytest.fixture
def parts(built, tmp_path):
  return dataclasses.replace(built, folder=tmp_path / "run")


@jax.jit
def _update(state):
  return {"params": state["params"] + 1}, {"train/loss": state["params"].sum()}


def _begin(run, parts, state=None):
  if state is None:
    state = {"params": jnp.zeros(3)}
  make_stream = lambda: stages.stream(parts, STAGE)
  return run.begin(STAGE, state, make_stream, _update)


def _run(parts, last_step=NUM_STEPS):
  """Records a stage of a stand-in learner; returns what its stream drew."""
  drawn = []
  with recorder.Recorder(parts, COMMAND) as run:
    state, stream = _begin(run, parts)
    for step in run.remaining():
      if step == last_step:  # killed
        return drawn, state
      drawn.append([task.id for task in next(stream)])
      state, numbers = _update(state)
      run.record(step, numbers, PACKED)
      run.save_when_due(step + 1, state)
    run.finish(parts.folder / "report.html")
  return drawn, state


def _losses(parts):
  text = (parts.folder / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return [(line["step"], line["train/loss"]) for line in lines]


def test_a_run_goes_on_where_its_last_checkpoint_was(parts, capsys, tmp_path):
  elsewhere = dataclasses.replace(parts, folder=tmp_path / "whole")
  drawn, state = _run(elsewhere)
  assert _losses(elsewhere) == [(i, 3.0 * i) for i in range(NUM_STEPS)]
  first, _ = _run(parts, last_step=5)
  rest, resumed = _run(parts)
  assert "base: goes on after step 4 of 6" in capsys.readouterr().out
  assert first == drawn[:5] and rest == drawn[4:]
  assert resumed["params"].tolist() == state["params"].tolist() == [6.0] * 3
  assert _losses(parts) == _losses(elsewhere)
  assert _run(parts)[0] == []  # a finished stage is not run again


def test_what_goes_wrong_is_told_once_also_when_resumed(
  parts, tmp_path, capsys, monkeypatch
):
  sound = _update

  @jax.jit
  def ill(state):
    state, numbers = sound(state)
    signs = {"episode/num": 4.0, "score/tau": 0.05, "group/flat_share": 0.9}
    return state, numbers | signs

  monkeypatch.setitem(globals(), "_update", ill)
  elsewhere = dataclasses.replace(parts, folder=tmp_path / "whole")
  _run(elsewhere)
  assert capsys.readouterr().out.count("diagnosis: dead_groups: 90% of") == 1
  _run(parts, last_step=5)
  _run(parts)
  assert capsys.readouterr().out.count("diagnosis: dead_groups: 90% of") == 2
  found = [
    (one.folder / "diagnostics.jsonl").read_text() for one in (parts, elsewhere)
  ]
  assert found[0] == found[1]
  (line,) = map(json.loads, found[0].splitlines())
  assert (line["stage"], line["step"]) == ("base", 4)
  text = (parts.folder / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  marked = [x["step"] for x in lines if x.get("diagnosis/dead_groups") == 1]
  assert marked == [4, 5]


@pytest.mark.parametrize(
  ("credit", "is_advised"), [("equalized", False), ("em", True)]
)
def test_no_remedy_is_in_use_already(
  parts, capsys, monkeypatch, credit, is_advised
):
  sound = _update

  @jax.jit
  def falls(state):
    state, numbers = sound(state)
    score = jnp.where(state["params"].sum() <= 18, 0.8, 0.01)
    return state, numbers | {"episode/num": 4.0, "score/tau": score}

  monkeypatch.setitem(globals(), "_update", falls)
  stage = dataclasses.replace(STAGE, num_steps=12)
  monkeypatch.setitem(globals(), "STAGE", stage)
  monkeypatch.setattr(parts.config.grpo.credit, "credit", credit)
  _run(parts, last_step=12)
  out = capsys.readouterr().out
  assert "diagnosis: collapse: the score fell from 0.80 to" in out
  assert ("credit.credit=equalized" in out) == is_advised


def test_a_folder_of_another_config_is_refused(parts):
  _run(parts, last_step=3)
  config = dataclasses.replace(parts.config, seed=4)
  with pytest.raises(ValueError, match=r"another config \(seed: 3 -> 4\)"):
    recorder.Recorder(dataclasses.replace(parts, config=config), COMMAND)
  kept = dataclasses.replace(parts.config.checkpoint, every_steps=1)
  config = dataclasses.replace(parts.config, out_dir="moved", checkpoint=kept)
  recorder.Recorder(dataclasses.replace(parts, config=config), COMMAND)


@pytest.mark.parametrize(
  ("every", "steps"), [(1, [*range(12)]), (5, [0, 5, 10]), (12, [0])]
)
def test_dialogues_are_kept_of_every_nth_step(parts, every, steps):
  settings = dataclasses.replace(
    parts.config.checkpoint, transcripts_every=every
  )
  config = dataclasses.replace(parts.config, checkpoint=settings)
  run = recorder.Recorder(dataclasses.replace(parts, config=config), COMMAND)
  assert [s for s in range(12) if run.keeps_dialogues(s)] == steps


def test_a_folder_where_nothing_ran_takes_any_config(parts):
  recorder.Recorder(parts, COMMAND)
  config = dataclasses.replace(parts.config, seed=4)
  recorder.Recorder(dataclasses.replace(parts, config=config), COMMAND)
  written = json.loads((parts.folder / "config.json").read_text())
  assert written["seed"] == 4


def test_a_state_of_another_shape_is_a_users_error(parts, capsys):
  _run(parts, last_step=3)
  run = recorder.Recorder(parts, COMMAND)
  with pytest.raises(SystemExit) as stopped:
    _begin(run, parts, state={"params": jnp.zeros(5)})
  assert stopped.value.code == 2
  assert "saved with shape (3,), wanted (5,)" in capsys.readouterr().err


def test_other_tasks_are_a_users_error(parts, capsys):
  _run(parts, last_step=3)
  run = recorder.Recorder(parts, COMMAND)
  with pytest.raises(SystemExit) as stopped:
    _begin(run, dataclasses.replace(parts, tasks=parts.tasks[:-1]))
  assert stopped.value.code == 2
  assert "the tasks it began with" in capsys.readouterr().err


def test_the_environment_says_how_to_run_it_again(parts):
  recorder.Recorder(parts, COMMAND)
  found = json.loads((parts.folder / "environment.json").read_text())
  assert found["command"].endswith("--config=recipe.py --config.seed=3")
  assert found["differences"] == {"seed": [0, 3]}
  assert found["tokenizer"] == parts.tokenizer.fingerprint
  assert found["packages"]["jax"] == jax.__version__


def test_who_goes_on_with_a_run_is_added(parts):
  _run(parts, last_step=3)
  path = parts.folder / "environment.json"
  first = json.loads(path.read_text())
  assert "resumed" not in first
  for num_resumed in (1, 2):
    _run(parts)
    found = json.loads(path.read_text())
    assert len(found.pop("resumed")) == num_resumed
    assert found == first
  first["git"] = {"commit": "another", "changed": False}
  path.write_text(json.dumps(first))
  again = flags.Command(("--config=moved.py",), "moved.py", {})
  recorder.Recorder(parts, again)
  (entry,) = json.loads(path.read_text())["resumed"]
  assert entry["command"].endswith(" --config=moved.py")
  assert set(entry) == {"commit", "changed", "devices", "command", "time"}


def test_another_commit_is_said(parts, capsys):
  _run(parts, last_step=3)
  path = parts.folder / "environment.json"
  known = json.loads(path.read_text())
  recorder.Recorder(parts, COMMAND)
  assert "goes on with" not in capsys.readouterr().out
  path.write_text(json.dumps(known | {"git": {"commit": "an older one"}}))
  recorder.Recorder(parts, COMMAND)
  out = capsys.readouterr().out
  assert "the run began with commit an older one and goes on with" in out


def test_time_goes_on_where_it_was(parts):
  _run(parts, last_step=5)
  path = parts.folder / "metrics.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  lines[3]["time_s"] = 1000.0  # the last one before the checkpoint
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  _run(parts)
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  times = [line["time_s"] for line in lines]
  assert times[3] == 1000.0 < times[4] < times[5] < 1100.0


def test_what_an_unbegun_run_made_is_dropped(parts):
  kept = parts.folder / "dialogues" / "base.npz"
  kept.parent.mkdir(parents=True)
  kept.write_text("of another config")
  recorder.Recorder(parts, COMMAND)
  assert not kept.exists()
  _run(parts, last_step=1)
  kept.parent.mkdir()
  kept.write_text("of this run")
  recorder.Recorder(parts, COMMAND)
  assert kept.exists()


def test_a_complete_stage_needs_no_data(parts):
  _run(parts)
  run = recorder.Recorder(parts, COMMAND)
  fail = lambda: pytest.fail("there is nothing left to learn from it")
  state, stream = run.begin(STAGE, {"params": jnp.zeros(3)}, fail, _update)
  assert list(run.remaining()) == list(stream) == []
  assert state["params"].tolist() == [6.0] * 3


def test_a_damaged_evaluation_is_named(parts):
  path = run_folder.evaluation_path(parts.folder, "grpo")
  assert run_folder.read_evaluation(parts.folder, "grpo") is None
  path.parent.mkdir(parents=True)
  path.write_text('{"stage": "gr')
  with pytest.raises(ValueError, match="grpo.json must hold a finished"):
    run_folder.read_evaluation(parts.folder, "grpo")


def test_json_is_written_all_or_nothing(tmp_path):
  path = tmp_path / "folder" / "x.json"
  metrics.write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    metrics.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}
  assert [p.name for p in path.parent.iterdir()] == ["x.json"]
