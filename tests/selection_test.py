"""The best checkpoint: of held-back tasks alone, and the same when resumed."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import types

import jax
import numpy as np
import pytest

from userrl_jax import assembly
from userrl_jax import bases
from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import config_selection
from userrl_jax import data
from userrl_jax import demonstrate
from userrl_jax import exchange
from userrl_jax import flags
from userrl_jax import forgetting
from userrl_jax import gyms
from userrl_jax import imported
from userrl_jax import metrics
from userrl_jax import pins
from userrl_jax import selection
from userrl_jax import stages
from userrl_jax import train


def make_config(out_dir):
  c = config_lib.Config(out_dir=str(out_dir), stages=("cold_start", "grpo"))
  c.model.num_layers = 1
  c.gyms.names = ("telepathy",)
  c.gyms.num_train_tasks = 24
  c.gyms.num_test_tasks = 4
  c.gyms.max_turns = 3
  c.rollout.max_tokens_per_turn = 16
  c.rollout.max_tokens_per_episode = 224
  c.engine = config_lib.Engine(num_rows=8, num_lanes=8, decode_tokens=8)
  c.packing = config_lib.Packing(
    row_length=224, rows_per_micro_batch=2, logprob_chunk=64
  )
  c.cold_start.num_epochs = 2
  c.cold_start.num_tries = 1
  c.cold_start.noise = 0.0
  c.cold_start.episodes_per_step = 4
  c.cold_start.optimizer = config_lib.Optimizer(learning_rate=5e-3)
  c.grpo.num_iterations = 4
  c.grpo.tasks_per_iteration = 2
  c.grpo.group_size = 2
  c.grpo.credit.credit = "predicted"
  # Moves params also where all score alike: the first of equal looks is best.
  c.grpo.entropy_coef = 0.1
  c.grpo.optimizer = config_lib.Optimizer(learning_rate=1e-2)
  c.evaluation.num_tasks = 2
  c.checkpoint.every_steps = 2
  c.selection = config_selection.Selection(
    num_tasks=4, loss_every=4, play_every=2, use=("cold_start", "grpo")
  )
  return c


@pytest.fixture(scope="module")
def parts(finished):
  config, _ = finished
  return assembly.build(config)


COMMAND = flags.Command((), "recipe.py", {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  config = make_config(folder)
  config_rules.validate(config)
  train.main(config, COMMAND)
  return config, folder


def lines(folder):
  text = (folder / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def params_of(parts, folder):
  return jax.device_get(bases.load_params(folder, parts.model, parts.mesh))


def same(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


def test_every_look_is_written_and_the_best_is_kept_and_used(finished, parts):
  _, folder = finished
  chosen = selection.read(folder)
  steps = [x for x in lines(folder) if x["stage"] == "cold_start"]
  # Twice over the demonstrations of the tasks that are left.
  (stage, grpo) = stages.plan(parts)
  num_steps = stages.counted(parts, stage).num_steps
  per_epoch = stages.stream(parts, stage).steps_per_epoch
  assert num_steps == 2 * per_epoch > 4
  assert [x["step"] for x in steps if "train/loss" in x] == [*range(num_steps)]

  for name, what, better in (
    ("cold_start", selection.LOSS, min),
    ("grpo", selection.SCORE, max),
  ):
    own = [x for x in lines(folder) if x["stage"] == name and what in x]
    looks = [[x["step"] + 1, x[what]] for x in own]
    assert chosen[name]["looks"] == looks and len(looks) >= 2
    best = better(value for _, value in looks)
    first_best = next(step for step, value in looks if value == best)
    assert chosen[name]["best"] == chosen[name]["used"] == first_best
    kept = selection.best_folder(folder, name)
    assert str(first_best) in {path.name for path in kept.iterdir()}
    # The evaluation is of what is kept, and not of the last step.
    summary = json.loads((folder / f"evaluations/{name}.json").read_text())
    found = params_of(parts, kept)
    digest = lambda params: pins.of(parts, params, ())["model"]
    assert digest(found) == summary["pins"]["model"]
    last = params_of(parts, folder / "checkpoints" / name)
    is_last = first_best == own[-1]["step"] + 1
    assert (digest(last) == summary["pins"]["model"]) == is_last
    assert name == "cold_start" or not is_last
  # The next stage starts from it.
  start = jax.device_get(stages._first_params(parts, grpo))
  assert same(
    start, params_of(parts, selection.best_folder(folder, "cold_start"))
  )


def test_the_loss_is_that_of_held_back_demonstrations(finished, parts):
  _, folder = finished
  (stage, _) = stages.plan(parts)
  held_out = stages.held_out(parts, stage)
  names = {(t.task.gym, t.task.id) for t in held_out}
  learned = {(t.gym, t.id) for t in parts.tasks}
  held_back = {(t.gym, t.id) for t in parts.dev_tasks}
  assert names <= held_back and len(names) > 1 and len(held_back) == 4
  assert not held_back & learned and len(learned) == 20
  record = selection.read(folder)["cold_start"]
  kept = params_of(parts, selection.best_folder(folder, "cold_start"))
  perplexity, _ = forgetting.perplexity(
    parts, kept, list(held_out), all_ids=False
  )
  (best,) = [value for step, value in record["looks"] if step == record["best"]]
  np.testing.assert_allclose(np.log(perplexity), best, rtol=1e-5)


def test_a_resumed_run_chooses_the_same(finished, tmp_path):
  """As if it was killed between the last look and its checkpoint."""
  config, folder = finished
  again = tmp_path / "again"
  shutil.copytree(folder, again)
  for gone in ("checkpoints/grpo/4", "checkpoints/grpo/best/4"):
    shutil.rmtree(again / gone, ignore_errors=True)
  (again / "evaluations" / "grpo.json").unlink()
  kept = json.loads((again / "selection.json").read_text())
  (again / "selection.json").write_text(
    json.dumps({"cold_start": kept["cold_start"]})
  )
  with (again / "metrics.jsonl").open("a") as file:
    file.write('{"stage": "grpo", "st')  # a line that was cut off, too
  train.main(dataclasses.replace(config, out_dir=str(again)), COMMAND)
  assert selection.read(again) == selection.read(folder)
  looks = lambda place: [
    (x["step"], x[selection.SCORE])
    for x in lines(place)
    if selection.SCORE in x
  ]
  assert looks(again) == looks(folder)


def test_looks_that_are_cut_off_are_made_up_for(
  finished, parts, tmp_path, monkeypatch, capfd
):
  """The last one of imitation, one amid a stage and the last of all."""
  config, folder = finished
  again = tmp_path / "again"
  config = dataclasses.replace(config, out_dir=str(again))
  num_steps = stages.counted(parts, stages.plan(parts)[0]).num_steps
  for measure, step in (("_loss", num_steps), ("_score", 2), ("_score", 4)):
    stage = {"_loss": "cold_start", "_score": "grpo"}[measure]
    measured = getattr(selection.Selector, measure)

    def end(self, params, measured=measured, step=step, stage=stage):
      found = measured(self, params)
      last = lines(again)[-1]
      if (last["stage"], last["step"]) == (stage, step - 1):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")
      return found

    with monkeypatch.context() as patch:
      patch.setattr(selection.Selector, measure, end)
      with pytest.raises(SystemExit) as ended:
        train.main(config, COMMAND)
    assert ended.value.code == 143
    assert "ended by SIGTERM" in capfd.readouterr().out
    assert (again / "checkpoints" / stage / str(step)).is_dir()
    last = [x for x in lines(again) if x["stage"] == stage][-1]
    assert last["step"] == step - 1 and "train/loss" in last
  # Once more in the last one, which is now made up for, and amid its writing.
  note = metrics.Writers.write

  def write(self, stage, step, numbers, time_s):
    if selection.SCORE in numbers and step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    note(self, stage, step, numbers, time_s)

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writers, "write", write)
    with pytest.raises(SystemExit) as ended:
      train.main(config, COMMAND)
  assert ended.value.code == 143
  assert selection.SCORE in lines(again)[-1]  # whole, before it ended
  train.main(config, COMMAND)
  assert selection.read(again) == selection.read(folder)
  timeless = lambda place: [
    {k: v for k, v in x.items() if "time" not in k and not k.endswith("_per_s")}
    for x in lines(place)
  ]
  looked = lambda found: [x for x in found if "selection/" in str(x.keys())]
  assert looked(timeless(again)) == looked(timeless(folder))
  assert len(lines(again)) == len(lines(folder))
  for name in ("cold_start", "grpo"):
    path = pathlib.Path("evaluations") / f"{name}.json"
    one, other = (json.loads((x / path).read_text()) for x in (again, folder))
    assert one["pins"]["model"] == other["pins"]["model"]
    assert one["macro"] == other["macro"]


def test_a_look_is_better_by_its_own_measure_and_the_first_of_equals():
  loss = lambda value: selection.Look(1, value, True)
  score = lambda value: selection.Look(1, value, False)
  assert loss(1.0).beats(None) and score(0.0).beats(None)
  assert loss(1.0).beats(loss(1.1)) and not loss(1.1).beats(loss(1.0))
  assert score(1.1).beats(score(1.0)) and not score(1.0).beats(score(1.1))
  assert not loss(1.0).beats(loss(1.0))


def test_a_base_is_copied_whole_or_not_at_all(tmp_path, monkeypatch):
  """A kill amid it must not leave what looks like a base."""
  stage = types.SimpleNamespace(name="cold_start")
  best = selection.best_folder(tmp_path, stage.name)
  base = best.parent / bases.NAME
  (base / "0").mkdir(parents=True)
  (base / "lora.json").write_text("{}")
  (base / "0" / "params").write_text("whole")
  run = types.SimpleNamespace(
    folder=tmp_path, tokenizer=None, config=config_lib.Config()
  )
  selector = types.SimpleNamespace(_parts=run, _stage=stage)
  state = types.SimpleNamespace(params={"w": jax.numpy.ones(3)})

  def half(source, target):
    pathlib.Path(target).mkdir()
    (pathlib.Path(target) / "lora.json").write_text("{}")
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(selection.shutil, "copytree", half)
    with pytest.raises(KeyboardInterrupt):
      selection.Selector._keep(selector, 2, state)
  assert not (best / bases.NAME).exists()
  selection.Selector._keep(selector, 2, state)
  assert (best / bases.NAME / "0" / "params").read_text() == "whole"
  names = {p.name for p in best.iterdir()}
  assert names == {"2", bases.NAME, "config.json"}


def test_held_back_tasks_depend_on_names_and_seed_alone():
  names = [(gym, f"t{i}") for gym in ("a", "b") for i in range(9)]
  first = data.held_back(names, 3, 0)
  assert {gym: sum(g == gym for g, _ in first) for gym in "ab"} == {
    "a": 3,
    "b": 3,
  }
  assert data.held_back(names[::-1] * 2, 3, 0) == first
  assert data.held_back(names, 3, 1) != first
  assert data.held_back(names, 0, 0) == set()
  with pytest.raises(ValueError, match="below the training tasks of a .9."):
    data.held_back(names, 9, 0)


@pytest.mark.parametrize(
  ("changes", "field", "mended"),
  [
    ({"selection.loss_every": 3}, "selection.loss_every", 4),
    ({"selection.play_every": 5}, "selection.play_every", 6),
    ({"selection.use": ("base",)}, "selection.use", ("grpo",)),
    ({"selection.num_tasks": 0}, "selection.num_tasks", 1),
    (
      {"checkpoint.every_steps": 0, "checkpoint.every_minutes": 1.0},
      "checkpoint.every_steps",
      2,
    ),
    ({"rollout.max_staleness": 1}, "rollout.max_staleness", 0),
    ({"cold_start.num_steps": 7}, "cold_start.num_steps", 200),
  ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, field, mended):
  config = make_config(tmp_path)

  def put(path, value):
    section, name = path.split(".")
    setattr(getattr(config, section), name, value)

  for path, value in changes.items():
    put(path, value)
  with pytest.raises(ValueError, match=f"{field} must be ") as error:
    config_rules.validate(config)
  assert "\n" not in str(error.value)
  put(field, mended)
  config_rules.validate(config)


def test_imported_dialogues_are_held_back_by_task(finished, parts, tmp_path):
  config, _ = finished
  made = demonstrate.ranked(
    config, parts.tasks, parts.chat, parts.episodes, parts.user
  )
  path: pathlib.Path = tmp_path / "dialogues.jsonl"
  gym = gyms.make("telepathy", config.gyms)
  system = gym.system_prompt(config.chat.profile)
  exchange.write(
    path,
    [imported.exported(t, parts.chat, system, gym.choices) for t in made],
  )
  cold_start = dataclasses.replace(config.cold_start, source=str(path))
  parts = dataclasses.replace(
    parts,
    config=dataclasses.replace(config, cold_start=cold_start),
    folder=tmp_path / "run",
  )
  (stage, _) = stages.plan(parts)
  held_out = stages.held_out(parts, stage)
  stream = stages.stream(parts, stage)
  learned = {t.task.id for _ in range(20) for t in next(stream)}
  assert len({t.task.id for t in held_out}) == 4
  assert not learned & {t.task.id for t in held_out}
  assert len(learned) + 4 == len({t.task.id for t in made})


def test_adapters_are_kept_with_their_base(tmp_path):
  c = make_config(tmp_path)
  c.stages = ("cold_start",)
  c.lora = config_lib.Lora(rank=2, alpha=4.0, targets=("q", "up"))
  c.selection.use = ("cold_start",)
  c.cold_start.num_epochs = 1
  c.selection.loss_every = 2
  config_rules.validate(c)
  train.main(c, COMMAND)
  parts = assembly.build(c)
  record = selection.read(tmp_path)["cold_start"]
  # Whole by itself: the base is in the best folder, too.
  kept = params_of(parts, selection.best_folder(tmp_path, "cold_start"))
  (stage,) = stages.plan(parts)
  perplexity, _ = forgetting.perplexity(
    parts, kept, list(stages.held_out(parts, stage)), all_ids=False
  )
  looks = dict(record["looks"])
  np.testing.assert_allclose(
    np.log(perplexity), looks[record["best"]], rtol=1e-4
  )
  assert len(set(looks.values())) > 1
