"""Checkpoints: bit-exact, atomic, and loud about anything that is wrong."""

import dataclasses
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from userrl_jax import checkpoint
from userrl_jax import checkpoint_faults
from userrl_jax import checkpoint_reading
from userrl_jax import config
from userrl_jax import digests
from userrl_jax import sharding
from userrl_jax.learning import learner
from userrl_jax.models import qwen3

EXTRAS = {"stage": "grpo", "data": {"next_index": 3}, "seed": 2**40}


class State(NamedTuple):
  step: jax.Array
  params: dict[str, Any]
  opt_state: Any


class Words:
  """A tokenizer as far as a checkpoint knows one."""

  def __init__(self, fingerprint: str):
    self.fingerprint = fingerprint

  def save(self, folder):
    (pathlib.Path(folder) / "words.txt").write_text("a b c")


def make_state(width: int = 5, seed: int = 0) -> State:
  key = jax.random.key(seed)
  params = {
    "layers": {"w": jax.random.normal(key, (3, width, 40))},
    "embedding": jax.random.normal(key, (7, width)).astype(jnp.bfloat16),
    "odd": jnp.array([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
    "mask": jnp.array([True, False]),
  }
  return State(
    step=jnp.int32(4),
    params=params,
    opt_state=optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(1e-3)
    ).init(params),
  )


def abstract(state: Any) -> Any:
  return jax.eval_shape(lambda: state)


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
  return [
    (str(x.dtype), x.shape, np.asarray(x).tobytes())
    for x in jax.tree.leaves(tree)
  ]


def test_round_trip_is_bit_exact(tmp_path):
  state = make_state()
  with checkpoint.Store(tmp_path / "c", keep=2) as store:
    assert store.latest_step() is None
    store.save(4, state, EXTRAS)
  with checkpoint.Store(tmp_path / "c", keep=2) as store:
    assert store.latest_step() == 4
    restored, extras = store.restore(abstract(state))
  assert bits(restored) == bits(state)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert extras == EXTRAS


def test_keeps_the_latest_and_picks_by_step(tmp_path):
  with checkpoint.Store(tmp_path, keep=2) as store:
    for step in (1, 2, 5):
      store.save(step, make_state(seed=step), {"n": step})
    assert store.latest_step() == 5
    older, extras = store.restore(abstract(make_state()), step=2)
    assert extras == {"n": 2}
    assert bits(older) == bits(make_state(seed=2))
    with pytest.raises(ValueError, match=r"one of \[2, 5\], got 1"):
      store.restore(abstract(make_state()), step=1)
    with pytest.raises(ValueError, match="above the latest"):
      store.save(5, make_state(), {})


def test_state_may_be_donated_right_after_saving(tmp_path):
  state = make_state()
  before = bits(state)
  update = jax.jit(
    lambda s: jax.tree.map(lambda x: jnp.zeros_like(x), s), donate_argnums=0
  )
  with checkpoint.Store(tmp_path) as store:
    store.save(1, state, {})
    jax.block_until_ready(update(state))
    restored, _ = store.restore(abstract(make_state()))
  assert bits(restored) == before


@pytest.mark.parametrize("keep", [0, -1])
def test_refuses_to_keep_none(tmp_path, keep):
  with pytest.raises(ValueError, match="at least 1"):
    checkpoint.Store(tmp_path, keep)


@pytest.mark.parametrize("extras", [{"a": (1, 2)}, {1: 2}, {"a": np.int64(1)}])
def test_extras_must_survive_json(tmp_path, extras):
  with checkpoint.Store(tmp_path) as store:
    with pytest.raises((ValueError, TypeError)):
      store.save(1, make_state(), extras)
    assert store.latest_step() is None


def test_other_shape_names_leaf_and_both_shapes(tmp_path):
  with checkpoint.Store(tmp_path) as store:
    store.save(1, make_state(width=5), {})
    with pytest.raises(ValueError) as error:
      store.restore(abstract(make_state(width=6)))
  message = str(error.value)
  assert "params/embedding" in message
  assert "(7, 5)" in message and "(7, 6)" in message


def test_shape_is_checked_before_any_array_is_read(tmp_path):
  with checkpoint.Store(tmp_path) as store:
    store.save(1, make_state(width=64), {})
    store.wait()
    damage(largest_file(tmp_path / "1"), "delete")
    with pytest.raises(ValueError, match="wanted"):
      store.restore(abstract(make_state(width=65)))


def test_other_dtype_missing_and_unwanted_leaves(tmp_path):
  state = make_state()
  with checkpoint.Store(tmp_path) as store:
    store.save(1, state, {})
    other = state._replace(step=jnp.float32(0))
    with pytest.raises(ValueError, match=r"step is saved as int32.*float32"):
      store.restore(abstract(other))
    more = state._replace(params={**state.params, "head": jnp.ones(2)})
    with pytest.raises(ValueError, match="must hold params/head"):
      store.restore(abstract(more))
    fewer = state._replace(params={"odd": state.params["odd"]})
    with pytest.raises(ValueError, match=r"got also .*params/"):
      store.restore(abstract(fewer))


def largest_file(folder: pathlib.Path) -> pathlib.Path:
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def damage(path: pathlib.Path, how: str) -> None:
  data = bytearray(path.read_bytes())
  if how == "delete":
    path.unlink()
  elif how == "truncate":
    path.write_bytes(data[: len(data) // 2])
  else:
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder of two checkpoints, 1 and 2, of other values."""
  folder = tmp_path_factory.mktemp("saved")
  with checkpoint.Store(folder) as store:
    for step in (1, 2):
      store.save(step, make_state(width=64, seed=step), {"counter": 12345670})
  return folder


def restore_copy(saved, folder, harm):
  """Returns what a harmed copy restores: its step, and what is said."""
  shutil.copytree(saved, folder)
  harm(folder)
  said: list[str] = []
  with checkpoint.Store(folder, tell=said.append) as store:
    restored, extras = store.restore(abstract(make_state(width=64)))
    used = store.latest_step()
    store.save(3, restored, extras)  # nothing is in the way of going on
  assert extras == {"counter": 12345670}
  assert bits(restored) == bits(make_state(width=64, seed=used))
  return used, said


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_damage_to_any_file_falls_back_and_says_so(saved, tmp_path, how):
  """What is restored is whole, whichever file of the newest is harmed."""
  files = sorted(p for p in (saved / "2").rglob("*") if p.is_file())
  names = [str(p.relative_to(saved)) for p in files]
  passed_over = set()
  for number, name in enumerate(names):
    folder = tmp_path / str(number)
    harm = lambda copy, name=name: damage(copy / name, how)
    used, said = restore_copy(saved, folder, harm)
    assert used in (1, 2)
    if used == 1:
      passed_over.add(name)
      (warning,) = said
      assert warning.startswith(f"WARNING: checkpoint {folder / '2'} must ")
      assert "from checkpoint 1 and" in warning
      assert (folder / "2.damaged").is_dir()
    else:
      assert said == []
  # Nothing is read from the others: commit marks, and what each process wrote
  # before its index was merged with those of all.
  needed = {"2/extras/metadata", "2/state/_METADATA", "2/state/manifest.ocdbt"}
  arrays = {name for name in names if name.startswith("2/state/d/")}
  assert arrays and passed_over >= needed | arrays


@pytest.mark.parametrize("num_told", [1, 2])
def test_all_hosts_do_without_what_one_cannot_read(
  saved, tmp_path, monkeypatch, num_told
):
  """The other one tells after reading, or after the digests."""
  proven: list[int] = []
  of = digests.of
  told = ["", "why"] if num_told == 2 else ["why"]

  def gather(own):
    if isinstance(own, list):
      return [own, own]  # both see the same checkpoints
    assert own == ""  # here all is whole
    return [own, told.pop(0) if told else ""]

  monkeypatch.setattr(checkpoint_faults.hosts, "gather", gather)
  monkeypatch.setattr(
    checkpoint_reading.digests, "of", lambda x: proven.append(1) or of(x)
  )
  used, said = restore_copy(saved, tmp_path / "copy", lambda copy: None)
  assert used == 1 and "host 1 of 2: why" in said[0]
  assert (tmp_path / "copy" / "2.damaged").is_dir()
  # Digests are worked out together, so only where all could read. One more is
  # of the one that is saved then.
  assert len(proven) == num_told + 1


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("read", ["store", "params"])
def test_hosts_wait_until_they_see_the_same(
  saved, tmp_path, monkeypatch, read, is_late
):
  """A shared disk may show a host late what another one wrote."""
  folder, hidden = tmp_path / "copy", tmp_path / "hidden"
  shutil.copytree(saved, folder)
  (folder / "2").rename(hidden)
  looks = []

  def gather(own):
    if not isinstance(own, list):
      return [own, own]
    looks.append(own)
    if len(looks) == 3 and is_late:
      hidden.rename(folder / "2")
    return [[1, 2], own]

  monkeypatch.setattr(checkpoint_faults.hosts, "gather", gather)
  monkeypatch.setattr(checkpoint_faults, "_BETWEEN_S", 0.01)

  def go_on():
    if read == "params":
      wanted = abstract(make_state(width=64).params)
      return checkpoint.load_params(folder, wanted)
    with checkpoint.Store(folder) as store:
      return store.restore(abstract(make_state(width=64)))[0].params

  if is_late:
    assert bits(go_on()) == bits(make_state(width=64, seed=2).params)
    assert looks[:4] == [[1], [1], [1], [1, 2]]
    return
  with pytest.raises(ValueError) as error:
    go_on()
  assert "got [1, 2] on host 0 and [1] on host 1 of 2" in str(error.value)


def test_a_host_tells_the_others_what_it_cannot_read(monkeypatch):
  told = []
  monkeypatch.setattr(
    checkpoint_faults.hosts, "gather", lambda own: told.append(own) or [own, ""]
  )
  with (
    pytest.raises(ValueError, match="^why$"),
    checkpoint_faults.on_all_hosts(),
  ):
    raise ValueError("why")
  with checkpoint_faults.on_all_hosts():
    pass
  assert told == ["why", ""]


def test_extras_that_still_parse_are_proven_too(saved, tmp_path):
  def harm(folder):
    path = folder / "2" / "extras" / "metadata"
    text = path.read_text()
    assert "12345670" in text
    path.write_text(text.replace("12345670", "12345679"))

  used, said = restore_copy(saved, tmp_path / "copy", harm)
  assert used == 1 and "its extras are not what was saved" in said[0]


def test_without_a_whole_checkpoint_it_stops(saved, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(saved, folder)
  for step in ("1", "2"):
    damage(largest_file(folder / step), "flip")
  with checkpoint.Store(folder, tell=pytest.fail) as store:
    with pytest.raises(ValueError) as error:
      store.restore(abstract(make_state(width=64)))
    assert store.latest_step() == 2
  assert f"{folder / '2'} must be readable" in str(error.value)
  assert "none before it can be used: 1" in str(error.value)


def test_a_named_or_published_step_is_never_another(saved, tmp_path):
  """An evaluation must not score an older checkpoint in a newer one's name."""
  folder = tmp_path / "copy"
  shutil.copytree(saved, folder)
  damage(largest_file(folder / "2"), "flip")
  wanted = make_state(width=64)
  with (
    checkpoint.Store(folder) as store,
    pytest.raises(ValueError, match="2 must be readable"),
  ):
    store.restore(abstract(wanted), step=2)
  with pytest.raises(ValueError, match="2 must be readable"):
    checkpoint.load_params(folder, abstract(wanted.params))


def test_an_empty_finished_folder_is_an_error(tmp_path):
  (tmp_path / "7").mkdir()
  with (
    checkpoint.Store(tmp_path) as store,
    pytest.raises(ValueError, match="7 must be readable"),
  ):
    store.restore(abstract(make_state()))


def test_kill_while_saving_leaves_the_one_before(tmp_path):
  script = textwrap.dedent("""
    import os, sys, threading, time
    import jax.numpy as jnp
    from userrl_jax import checkpoint
    store = checkpoint.Store(sys.argv[1])
    store.save(1, {"w": jnp.arange(4.0)}, {"n": 1})
    def watch():
      while not list(store.folder.glob("2.*/state*")):
        time.sleep(0.001)
      os.kill(os.getpid(), 9)
    threading.Thread(target=watch, daemon=True).start()
    store.save(2, {"w": jnp.arange(2e7)}, {"n": 2})
    print("finished")
  """)
  done = subprocess.run(
    [sys.executable, "-c", script, tmp_path],
    capture_output=True,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    cwd=pathlib.Path(checkpoint.__file__).parents[1],
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith("2")] != [], (
    "killed too early to mean anything"
  )
  with checkpoint.Store(tmp_path) as store:
    assert store.latest_step() == 1
    state, extras = store.restore(abstract({"w": jnp.arange(4.0)}))
    assert extras == {"n": 1}
    store.save(2, state, {"n": 2})
    assert store.latest_step() == 2
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_restores_onto_the_given_shardings():
  script = textwrap.dedent("""
    import tempfile
    import jax, jax.numpy as jnp, numpy as np
    from userrl_jax import checkpoint
    P = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    place = lambda *spec: jax.sharding.NamedSharding(mesh, P(*spec))
    w = jax.random.normal(jax.random.key(0), (8, 6))
    state = {
      "params": {"w": jax.device_put(w, place("data", "fsdp"))},
      "step": jnp.int32(1),
    }
    folder = tempfile.mkdtemp()
    with checkpoint.Store(folder) as store:
      store.save(1, state, {})
      want = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=place("fsdp"))
      got, _ = store.restore(
        {"params": {"w": want}, "step": jax.eval_shape(lambda: jnp.int32(0))}
      )
    assert got["params"]["w"].sharding.is_equivalent_to(place("fsdp"), 2)
    assert np.array_equal(got["params"]["w"], w)
    alone = checkpoint.load_params(folder, jax.eval_shape(lambda: {"w": w}))
    assert len(alone["w"].sharding.device_set) == 1
    assert np.array_equal(alone["w"], w)
  """)
  done = subprocess.run(
    [sys.executable, "-c", script],
    capture_output=True,
    text=True,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    },
    cwd=pathlib.Path(checkpoint.__file__).parents[1],
  )
  assert done.returncode == 0, done.stderr


def test_any_mesh_goes_on_from_the_checkpoint_of_another(
  eight_devices, tmp_path
):
  if not eight_devices:
    return
  model = dataclasses.replace(qwen3.PRESETS["qwen3_tiny"], num_layers=1)
  optimizer = config.Optimizer()
  on = lambda *sizes, devices=None: sharding.make_mesh(
    config.Mesh(*sizes), devices
  )
  start = lambda mesh: learner.init_state(
    qwen3.init(model, jax.random.key(0)), optimizer, 10, mesh
  )
  meshes = [
    on(8, 1, 1),
    on(1, 4, 2),
    on(2, 2, 2),
    on(1, 1, 1, devices=jax.devices()[3:4]),
  ]
  state = start(meshes[0])
  before = bits(state)
  shapes = jax.eval_shape(lambda: state)
  split = 0
  with checkpoint.Store(tmp_path, keep=1) as store:
    for step, (mesh, other) in enumerate(
      itertools.pairwise([*meshes, meshes[0]])
    ):
      assert all(x.sharding.mesh == mesh for x in jax.tree.leaves(state))
      store.save(step + 1, state, {})
      wanted = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        sharding.param_shardings(shapes, other),
      )
      state, _ = store.restore(wanted)
      assert bits(state) == before
      for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(wanted)):
        assert got.sharding == want.sharding
        split += not got.sharding.is_fully_replicated
  assert split > 20  # parts were put together anew, not only copied


def test_load_params_reads_params_only_and_converts(tmp_path):
  state = make_state()
  with checkpoint.Store(tmp_path) as store:
    store.save(3, state, {})
  params = checkpoint.load_params(tmp_path, abstract(state.params))
  assert bits(params) == bits(state.params)
  half = {**state.params, "odd": state.params["odd"].astype(jnp.bfloat16)}
  params = checkpoint.load_params(tmp_path, abstract(half))
  assert bits(params) == bits(half)


def test_load_params_errors(tmp_path):
  wide = make_state(width=6).params
  with pytest.raises(ValueError, match="not there"):
    checkpoint.load_params(tmp_path / "nowhere", abstract(wide))
  assert not (tmp_path / "nowhere").exists()
  with pytest.raises(ValueError, match="must hold a finished checkpoint"):
    checkpoint.load_params(tmp_path, abstract(wide))
  with checkpoint.Store(tmp_path) as store:
    store.save(3, make_state(width=5), {})
  with pytest.raises(ValueError, match=r"params/embedding.*\(7, 5\).*\(7, 6\)"):
    checkpoint.load_params(tmp_path, abstract(wide))
  with pytest.raises(ValueError, match="got also params/embedding"):
    checkpoint.load_params(tmp_path, abstract({"odd": wide["odd"]}))


def test_describe_keeps_tokenizer_and_config_beside(tmp_path):
  with checkpoint.Store(tmp_path) as store:
    store.describe(Words("f" * 64), {"seed": 1})
    store.save(1, make_state(), {})
    store.describe(Words("f" * 64), {"seed": 2})
    with pytest.raises(ValueError, match=r"eeeeeeeeeeee.*ffffffffffff"):
      store.describe(Words("e" * 64), {"seed": 1})
    assert store.latest_step() == 1
  assert (tmp_path / "tokenizer" / "words.txt").read_text() == "a b c"
  assert (tmp_path / "config.json").read_text() == '{\n  "seed": 2\n}\n'
