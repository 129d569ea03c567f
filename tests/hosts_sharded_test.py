"""Two hosts of which neither holds all params: they are split over both."""

import base64
import json
import signal

import numpy as np
import pytest

from tests import hosting
from userrl_jax import host_watch
from userrl_jax import selection

pytestmark = pytest.mark.exhaustive

# Over all eight devices, where by default each holds everything.
SPLIT = ["--config.mesh.data=1", "--config.mesh.fsdp=8"]
_CLAIMED = "params/layers/attention/q/kernel"


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  place = hosting.Place(tmp_path_factory.mktemp("runs"), root)
  place.make_base()
  return place


@pytest.fixture(scope="module")
def alone(place):
  """The folder of a run in one process, every device with all params."""
  hosting.finished([place.start("alone")])
  return place.folder / "alone"


@pytest.fixture(scope="module")
def split(place):
  """The folder of a run of two hosts, and what they printed."""
  outputs = hosting.finished(place.start_two("split", *SPLIT))
  return place.folder / "split", [out for out, _ in outputs]


def test_hosts_train_together_what_neither_holds(split, alone):
  folder, (out, silent) = split
  assert "grpo 5/5" in out and "grpo" not in silent
  weights = {
    path: spec
    for path, spec in _specs(folder / "checkpoints" / "grpo" / "5").items()
    if path.endswith(("kernel", "embedding"))
  }
  assert len(weights) == 3 * 8  # of the model and two moments
  assert all("fsdp" in spec for spec in weights.values()), weights
  hosting.check_equal(folder, alone)
  assert hosting.hosts_by_step(folder) == [[0, 1]] * 5
  assert _files(folder) == _files(alone)
  assert _evaluation(folder) == _evaluation(alone)


def _specs(checkpoint):
  """Returns by which mesh axes the arrays of a checkpoint were split."""
  kept = json.loads((checkpoint / "state" / "_sharding").read_text())
  return {
    base64.b64decode(path).decode(): json.loads(spec)["partition_spec"]
    for path, spec in kept.items()
  }


def _files(run):
  """Returns what is in a run's folder, but for checkpoints."""
  files = {p.relative_to(run) for p in run.rglob("*") if p.is_file()}
  return {p for p in files if p.parts[0] not in ("checkpoints", "tensorboard")}


def _evaluation(run, name="grpo"):
  """Returns the scores of an evaluation."""
  found = _read_evaluation(run, name)
  return {key: found[key] for key in ("gyms", "macro", "splits", "averages")}


def _read_evaluation(run, name="grpo"):
  return json.loads((run / "evaluations" / f"{name}.json").read_text())


@pytest.mark.parametrize(
  "flags", [[], ["--config.mesh.data=2", "--config.mesh.tensor=2"]]
)
def test_what_they_began_one_process_ends(place, split, alone, flags):
  folder = hosting.stopped(split[0], f"split_then_one_{len(flags)}", 2)
  if flags:
    flags = [*flags, "--config.mesh.fsdp=2"]
  [(out, _)] = hosting.finished([place.start(folder.name, *flags)])
  assert "grpo: goes on after step 2 of 5" in out
  hosting.check_equal(folder, alone)
  assert hosting.hosts_by_step(folder) == [[0, 1]] * 2 + [[0]] * 3


def test_what_one_process_began_they_end(place, alone):
  folder = hosting.stopped(alone, "one_then_split", 2)
  (out, _), _ = hosting.finished(place.start_two(folder.name, *SPLIT))
  assert "grpo: goes on after step 2 of 5" in out
  hosting.check_equal(folder, alone)
  assert hosting.hosts_by_step(folder) == [[0]] * 2 + [[0, 1]] * 3


def _flip(checkpoint):
  path = _largest(checkpoint / "state" / "ocdbt.process_1")
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def _cut(checkpoint):
  path = _largest(checkpoint / "state" / "ocdbt.process_1")
  path.write_bytes(path.read_bytes()[:1000])


def _delete(checkpoint):
  _largest(checkpoint / "state" / "ocdbt.process_0").unlink()


def _claim_another(checkpoint):
  """Makes a digest that of another array: all can read, and none may use."""
  path = checkpoint / "extras" / "metadata"
  record = json.loads(path.read_text())
  record["digests"][_CLAIMED] ^= 1
  path.write_text(json.dumps(record))


def _largest(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
  "harm,says",
  [
    # Host 0 reads its own parts, which are whole.
    (_cut, "WARNING: host 1 of 2: checkpoint "),
    (_flip, "WARNING: "),
    (_delete, "WARNING: checkpoint "),
    (_claim_another, f"got ValueError: {_CLAIMED} are not what"),
  ],
)
def test_they_fall_back_together(place, split, alone, harm, says):
  folder = hosting.stopped(split[0], f"harmed{harm.__name__}", 3)
  harm(folder / "checkpoints" / "grpo" / "3")
  (out, _), _ = hosting.finished(place.start_two(folder.name, *SPLIT))
  assert says in out and "It is set aside as 3.damaged" in out
  assert "grpo: goes on after step 2 of 5" in out
  assert (folder / "checkpoints" / "grpo" / "3.damaged").is_dir()
  hosting.check_equal(folder, alone)


def test_they_go_on_after_one_was_killed_as_they_saved(place, alone):
  folder = place.folder / "killed"
  when = (signal.SIGKILL, "checkpoint", 4)
  both = place.start_two(folder.name, *SPLIT, doomed=1, when=when)
  outputs = hosting.ended(both)
  codes = [process.returncode for process in both]
  assert codes == [host_watch.EXIT_CODE, -signal.SIGKILL], outputs
  assert "error: host 1 of 2 was last heard of" in outputs[0][1]
  hosting.finished(place.start_two(folder.name, *SPLIT))
  hosting.check_equal(folder, alone)


def test_they_evaluate_a_checkpoint(place, split):
  folder = split[0] / "checkpoints" / "grpo"
  flags = [f"--config.init_from={folder}"]
  hosting.finished([place.start("measured_alone", *flags, entry="evaluate")])
  [(out, _), _] = hosting.finished(
    place.start_two("measured", *flags, *SPLIT, entry="evaluate")
  )
  assert "grpo@5" in out
  measured = [
    _read_evaluation(place.folder / name, "grpo@5")
    for name in ("measured", "measured_alone")
  ]
  digests = {found["pins"]["model"] for found in measured}
  assert digests == {_read_evaluation(split[0])["pins"]["model"]}
  for name in ("measured", "measured_alone"):
    scores = _evaluation(place.folder / name, "grpo@5")
    assert scores == _evaluation(split[0])


def test_they_look_adapt_and_choose(place):
  """Frozen bases, best checkpoints, a KL, and what is forgotten."""
  flags = [
    '--config.stages=("cold_start","grpo")',
    "--config.cold_start.num_steps=4",
    "--config.cold_start.optimizer.warmup_steps=2",
    "--config.cold_start.num_tries=1",
    "--config.cold_start.episodes_per_step=4",
    "--config.lora.rank=4",
    '--config.lora.targets=("q","v","down")',
    "--config.grpo.kl_coef=0.1",
    "--config.grpo.num_mini_batches=2",
    "--config.evaluation.forgetting_tasks=1",
    "--config.selection.num_tasks=2",
    "--config.selection.loss_every=2",
    "--config.selection.play_every=2",
    "--config.selection.use=cold_start,grpo",
  ]
  hosting.finished([place.start("looks_alone", *flags)])
  hosting.finished(place.start_two("looks", *SPLIT, *flags))
  alone, folder = place.folder / "looks_alone", place.folder / "looks"
  chosen_alone, chosen = selection.read(alone), selection.read(folder)
  for stage, steps in (("cold_start", [2, 4]), ("grpo", [2, 4, 5])):
    one, two = chosen_alone[stage], chosen[stage]
    assert [step for step, _ in two["looks"]] == steps
    np.testing.assert_allclose(two["looks"], one["looks"], atol=1e-5)
    assert (two["best"], two["used"]) == (one["best"], one["used"])
    kept = selection.best_folder(folder, stage)
    assert (kept / str(two["best"])).is_dir() and (kept / "base").is_dir()
    assert _evaluation(folder, stage) == _evaluation(alone, stage)
    one, two = (
      _read_evaluation(run, stage)["forgetting"] for run in (alone, folder)
    )
    for name in ("perplexity_turns", "perplexity_all"):
      np.testing.assert_allclose(two[name], one[name], rtol=1e-5)
  # Another than the last one, so what is evaluated was read back.
  assert chosen["grpo"]["used"] < 5
  assert _files(folder) == _files(alone)
