"""A model in this process as user and judge: its faults, its draws, GRPO."""

import asyncio
import json
import subprocess
import sys
import types as types_lib

import jax
import pytest

from tests.clients import episodes
from tests.serving import small
from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import config_rules
from userrl_jax import gyms
from userrl_jax import lowering
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax import underway
from userrl_jax import users
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.serving import host as host_lib


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Returns models: one talks at random, others give a verdict."""
  folder = tmp_path_factory.mktemp("models")
  return {
    "random": small.random_folder(folder / "random"),
    "yes": small.chain_folder(folder / "yes", small.VERDICT),
    "right": small.chain_folder(folder / "right", small.RIGHT),
  }


def make_user(user, judge=None, recorded=None, **changes):
  settings = config_lib.User(kind="local", model=str(user), **changes)
  judge = config_lib.Judge(model=str(judge)) if judge else config_lib.Judge()
  local = config_lib.Local(max_length=1536, num_rows=small.NUM_ROWS)
  models = host_lib.local_models(settings, judge, local)
  return users.User(settings, judge, recorded=recorded, models=models), models


def faults_of(groups):
  return [str(t.fault) for t in episodes.trajectories(groups)]


def test_a_model_too_large_for_a_device_is_refused(folders, monkeypatch):
  _, models = make_user(folders["yes"])
  (host,) = models.values()
  kept = host.params_bytes + host.cache_bytes
  # Reading copies rows, of which there are as many as lanes.
  a_row = host.cache_bytes // small.NUM_ROWS
  num_lanes = lowering.extend_lanes(host._settings)
  assert host.device_bytes >= kept + num_lanes * a_row
  device = types_lib.SimpleNamespace(
    platform="gpu", memory_stats=lambda: {"bytes_limit": kept}
  )
  monkeypatch.setattr(host_lib.jax, "local_devices", lambda: [device])
  with pytest.raises(ValueError, match=r"user\.model: the model must fit"):
    host_lib._check_memory(host, "user.model")
  device.memory_stats = lambda: {"bytes_limit": host.device_bytes}
  host_lib._check_memory(host, "user.model")


def test_policy_and_user_work_on_half_the_devices_each(
  eight_devices, folders, tmp_path, monkeypatch
):
  if not eight_devices:
    return
  recipe = write_recipe(tmp_path, folders["yes"])
  c = config_fields.from_dict(
    json.loads(recipe.with_suffix(".json").read_text())
  )
  c.packing.rows_per_micro_batch = 8
  places, reserved = {}, []
  sized = assembly.fitting.sized

  def noted(config, **of_others):
    reserved.append(of_others["reserved"])
    return sized(config, **of_others)

  monkeypatch.setattr(assembly.fitting, "sized", noted)
  for c.local.devices in ("apart", "share"):
    c.out_dir = str(tmp_path / c.local.devices)
    parts = assembly.build(c)
    [model] = host_models(parts)
    places[c.local.devices] = [
      set(engine._mesh.devices.flat) for engine in (parts.engine, model.engine)
    ]
  assert reserved == [0, model.device_bytes]
  policy, user = places["apart"]
  assert len(policy) == len(user) == 4 and not policy & user
  assert places["share"] == [policy | user] * 2


def host_models(parts):
  """Returns the models in the process that a run's users ask."""
  return {client._model for client in parts.user._clients.values()}


def test_an_odd_number_of_devices_has_no_halves():
  mesh = sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])
  with pytest.raises(ValueError, match="even number of devices along data"):
    host_lib.halves(mesh)


def test_verdicts_play_and_what_is_none_is_a_fault(folders):
  table = episodes.Table()
  # Asks "Is it big?" and the like, then guesses: the judge is asked last.
  user, models = make_user(folders["yes"], folders["right"])
  groups = table.play(user)
  assert set(faults_of(groups)) == {"ok"}
  assert any(t.reward == 1 for t in episodes.trajectories(groups))
  counts = user.take_counts()
  assert counts["user/requests"] > 6 and counts["judge/requests"] > 2
  assert counts["user/tokens_out"] == 2 * counts["user/requests"]
  # Many episodes ask at once, and share device calls.
  calls = counts["user/device_calls"] + counts["judge/device_calls"]
  asked = counts["user/requests"] + counts["judge/requests"]
  yes = models[str(folders["yes"])].engine.counters
  assert yes.mean("lanes_busy") > 1.5, (calls, asked)

  user, _ = make_user(folders["random"], max_tokens=12, num_reasks=1)
  groups = table.play(user)
  invalid = [t for t in episodes.trajectories(groups) if not t.is_valid]
  assert {str(t.fault) for t in invalid} == {"user_unparsable"}
  assert len(invalid) == len(episodes.trajectories(groups))
  assert all(t.reward == 0 for t in invalid)
  counts = user.take_counts()
  assert counts["user/requests"] == 2 * len(invalid)  # and one re-ask each
  assert counts["user/failed/user_unparsable"] > 0


def complete(user, *texts, name="e"):
  async def main():
    async with user.opened() as judge:
      with underway.episode(name, "telepathy"):
        return [
          await judge._complete([{"role": "user", "content": text}])
          for text in texts
        ]

  return asyncio.run(main())


def test_a_draw_is_a_function_of_the_episode(folders):
  draws = lambda name: complete(
    make_user(folders["yes"])[0], "a", "a", name=name
  )
  assert draws("e") == [small.VERDICT] * 2
  hot = {"temperature": 5.0, "max_tokens": 40}

  def tried(name):
    try:
      return complete(make_user(folders["yes"], **hot)[0], "a", name=name)
    except types.FaultError as error:
      return error.detail

  # So hot a chain says anything; whatever it is, it is said again.
  assert tried("e") == tried("e")


def test_a_prompt_too_long_and_a_reply_cut_off_have_names(folders):
  user, _ = make_user(folders["random"], max_tokens=3)
  with pytest.raises(types.FaultError) as error:
    complete(user, "bird " * 2000)
  assert error.value.fault == types.Fault.USER_ERROR and error.value.is_final
  assert "local.max_length (1536)" in error.value.detail
  assert "bird" not in error.value.detail
  with pytest.raises(types.FaultError, match="cut off at 3 tokens") as error:
    complete(user, "hm")
  assert error.value.fault == types.Fault.USER_UNPARSABLE


def test_a_recording_is_played_without_the_model(folders, tmp_path):
  table = episodes.Table()
  file = str(tmp_path / "answers.sqlite")
  record = config_lib.Recording("record", file)
  user, _ = make_user(folders["yes"], folders["right"], record)
  first = table.play(user)
  replay = config_lib.Recording("replay", file)
  user, models = make_user(folders["yes"], folders["right"], replay)
  assert episodes.written(table.play(user)) == episodes.written(first)
  assert all(host.num_device_calls == 0 for host in models.values())


@pytest.mark.parametrize(
  ("changes", "field"),
  [
    ({}, None),
    ({"judge.model": "other", "judge.temperature": 1.0}, None),
    ({"recording.mode": "record", "recording.file": "x"}, None),
    ({"local.dtype": "bfloat16", "local.num_rows": 64}, None),
    ({"user.model": ""}, "user.model"),
    ({"user.base_url": "http://localhost:1/v1"}, "user.base_url"),
    ({"user.structured": True}, "user.structured"),
    ({"user.timeout_s": 3.0}, "user.timeout_s"),
    ({"user.max_concurrent": 3}, "user.max_concurrent"),
    ({"user.api_key_env": "KEY"}, "user.api_key_env"),
    ({"budget.max_calls": 3}, "budget.max_calls"),
    ({"user.max_tokens": 2048}, "user.max_tokens"),
    ({"judge.model": "x", "judge.base_url": "http://h/v1"}, "judge.base_url"),
    ({"local.dtype": "int8"}, "local.dtype"),
    ({"user.kind": "scripted", "user.model": ""}, None),
    (
      {"user.kind": "endpoint", "local.max_length": 64},
      "local.max_length",
    ),
    (
      {"user.kind": "endpoint", "local.num_rows": 64},
      "local.num_rows",
    ),
  ],
)
def test_impossible_mixes_are_refused(changes, field):
  config = config_lib.Config()
  for path, value in (
    {"user.kind": "local", "user.model": "folder"} | changes
  ).items():
    *sections, name = path.split(".")
    section = config
    for one in sections:
      section = getattr(section, one)
    setattr(section, name, value)
  if field is None:
    config_rules.validate(config)
    return
  with pytest.raises(ValueError) as error:
    config_rules.validate(config)
  (line,) = str(error.value).splitlines()
  assert line.startswith(f"{field} must be ")


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("nowhere", "user.model must be the folder of a run"),
    (".", "config.json"),
  ],
)
def test_a_folder_without_a_model_is_refused(tmp_path, path, message):
  with pytest.raises(ValueError, match=message):
    make_user(tmp_path / path)


def test_a_model_that_cannot_fit_is_refused(folders):
  settings = config_lib.User(kind="local", model=str(folders["yes"]))
  local = config_lib.Local(num_rows=2**24)
  with pytest.raises(ValueError, match="user.model: the model must fit"):
    host_lib.local_models(settings, config_lib.Judge(), local)


RECIPE = """
import json, pathlib
from userrl_jax import config_fields


def get_config():
  path = pathlib.Path(__file__).with_suffix(".json")
  return config_fields.from_dict(json.loads(path.read_text()))
"""


def policy_folder(folder, settings, questions=("Is it big?",)):
  """Writes a policy that asks, or guesses: one as likely as the other."""
  gym = gyms.make("telepathy", settings)
  call = lambda choice, content: (
    f'\n{{"name": "interact_with_env", "arguments": '
    f'{{"choice": "{choice}", "content": "{content}"}}}}\n'
  )
  return small.chain_folder(
    folder,
    "<tool_call>",
    (
      *(call("action", question) for question in questions),
      call("answer", "a volcano"),
    ),
    "</tool_call>",
    phrases=chat_lib.prompt_phrases(
      "brief", gym.system_prompt("brief"), gym.choices
    ),
  )


def write_recipe(folder, user, judge=None, num_iterations=2):
  """Writes a recipe of GRPO with models on both sides; returns its file.

  By hand, for more iterations:
    python -c "import pathlib as p; from tests.serving import local_test as t
    from tests.serving import small as s; d = p.Path('runs/both'); d.mkdir()
    t.write_recipe(d, s.chain_folder(d / 'user', s.VERDICT), num_iterations=10)"
    python -m userrl_jax.train --config=runs/both/run.py
  """
  c = config_lib.Config(out_dir=str(folder / "run"), stages=("grpo",))
  c.gyms = config_lib.Gyms(
    names=("telepathy",), num_train_tasks=8, num_test_tasks=2, max_turns=3
  )
  policy = policy_folder(folder / "policy", c.gyms)
  c.model.preset, c.model.folder = "", str(policy)
  c.tokenizer.folder = str(policy)
  c.user = config_lib.User(
    kind="local", model=str(user), max_tokens=16, num_reasks=0
  )
  if judge:
    c.judge = config_lib.Judge(model=str(judge), max_tokens=16)
  c.local = config_lib.Local(max_length=1536, num_rows=small.NUM_ROWS)
  c.rollout.max_tokens_per_turn = 8
  c.rollout.max_tokens_per_episode = 320
  c.rollout.max_invalid_share = 1.0
  c.engine = config_lib.Engine(num_rows=16, num_lanes=16, decode_tokens=8)
  c.packing = config_lib.Packing(row_length=320, rows_per_micro_batch=4)
  c.grpo.num_iterations = num_iterations
  c.grpo.tasks_per_iteration = 4
  c.grpo.group_size = 4
  c.grpo.optimizer.learning_rate = 1e-6  # it goes on both asking and guessing
  c.evaluation.num_tasks = 2
  config_rules.validate(c)
  recipe = folder / "run.py"
  recipe.write_text(RECIPE)
  values = config_fields.to_dict(c)
  recipe.with_suffix(".json").write_text(json.dumps(values))
  return recipe


def train(recipe, root):
  """Runs a recipe to its end."""
  done = subprocess.run(
    [sys.executable, "-m", "userrl_jax.train", f"--config={recipe}"],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
  "judge", [pytest.param("", marks=pytest.mark.exhaustive), "right"]
)
def test_grpo_with_models_on_both_sides(folders, tmp_path, root, judge):
  recipe = write_recipe(
    tmp_path, folders["yes"], folders[judge] if judge else None, 10
  )
  train(recipe, root)
  folder = tmp_path / "run"
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  assert len(steps) == 10
  assert sum(step["user/requests"] for step in steps) > 8 * len(steps)
  # Each question alone would take this many device calls, or more.
  alone = [
    step["user/tokens_in"] / config_lib.Engine().extend_chunk
    + step["user/requests"]
    for step in steps
  ]
  assert sum(step["user/device_calls"] for step in steps) < 0.6 * sum(alone)
  played = [
    json.loads(line)
    for path in folder.glob("transcripts/grpo*.jsonl")
    for line in path.read_text().splitlines()
  ]
  guessed = [
    t for t in played if any("answer" in x["text"] for x in t["turns"])
  ]
  asked = [t for t in played if t not in guessed]
  assert guessed and asked
  assert {t["fault"] for t in asked} == {"ok"}
  of_judge = [step.get("judge/device_calls", 0) for step in steps]
  assert (sum(of_judge) > 0) == bool(judge)
  if judge:
    assert {(t["fault"], t["reward"]) for t in guessed} == {("ok", 1.0)}
  else:  # the user's model judges, and says what is no verdict on a guess
    assert {t["fault"] for t in guessed} == {"user_unparsable"}
    assert {t["reward"] for t in guessed} == {0.0}
    shares = [step["episode/invalid_share"] for step in steps]
    assert min(shares) > 0 and sum(shares) < len(shares)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_grpo_with_models_that_only_babble(folders, tmp_path, root):
  """Random params on all sides: every verdict is none, and no score is 0."""
  random = folders["random"]
  recipe = write_recipe(tmp_path, random, random, 2)
  train(recipe, root)
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  assert len(steps) == 2
  for step in steps:
    assert step["fault/user_unparsable"] == step["episode/num"] == 16
    assert step["episode/invalid_share"] == 1 and step["train/num_tokens"] == 0
    assert step["user/device_calls"] > 0 and step["train/grad_norm"] == 0
