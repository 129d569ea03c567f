"""Tau's released tasks: what is read, how it splits, how they are played."""

import asyncio
import collections
import json
import os
import pathlib
import sys

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import contract
from userrl_jax.gyms.tau import calls as calls_lib
from userrl_jax.gyms.tau import gym as gym_lib
from userrl_jax.gyms.tau import oracle
from userrl_jax.gyms.tau import released
from userrl_jax.gyms.tau import scripted
from userrl_jax.gyms.tau import taubench
from userrl_jax.gyms.tau import worlds

TOOL = """
import json
from tau_bench.envs.tool import Tool

class {kind}(Tool):
  @staticmethod
  def invoke(data, {arguments}):
    {body}

  @staticmethod
  def get_info():
    names = [n.split("=")[0].strip() for n in "{arguments}".split(",")]
    kind = "array" if "{name}" == "drop" else "string"
    return {{"type": "function", "function": {{"name": "{name}",
      "description": "About {name}.", "parameters": {{"type": "object",
      "properties": {{n: {{"type": kind}} for n in names}},
      "required": names}}}}}}
"""
TOOLS = {
  "find": ("key", "return next(k for k, r in data['lamps'].items()"
           " if r['key'] == key)"),
  "paint": ("key, colour",
            "row = data['lamps'][key]; row['colours'].append(colour);"
            " return json.dumps(row)"),
  "wash": ("key", "row = data['lamps'][key]; row['colours'].clear();"
           " return 'clean'"),
  "drop": ("keys", "return 'none'"),
  "crash": ("key", "data['lamps'][key]['colours'].append(1); return 1 / 0"),
  "calculate": ("expression", "return str(eval(expression))"),
  "transfer_to_human_agents": ("summary", "return 'transferred'"),
}  # fmt: skip


def record(task_id="retail-train-1", actions=None, outputs=(), **changes):
  """Returns a task in the form of the released files."""
  if actions is None:
    actions = [{"name": "paint", "kwargs": {"key": "a", "colour": "red"}}]
  task = {
    "user_id": "u",
    "actions": actions,
    "instruction": "You are U. Your lamp should be red.",
    "outputs": list(outputs),
  } | changes
  return {"id": task_id, "obs": "Hello, a lamp!", "info": {"task": task}}


def write(folder, *records, name=released.FILE_NAME):
  (folder / name).write_text(json.dumps(records), encoding="utf-8")
  return str(folder)


@pytest.fixture(name="checkout")
def checkout_folder(tmp_path):
  """Returns a folder in the form of tau-bench, with lamps for a database."""
  envs = tmp_path / "bench" / "tau_bench" / "envs"
  tools, data = envs / "retail" / "tools", envs / "retail" / "data"
  tools.mkdir(parents=True)
  data.mkdir()
  # What must not be run: games that ask for libraries that are not there.
  (tmp_path / "bench" / "tau_bench" / "__init__.py").write_text("1 / 0")
  (envs / "__init__.py").write_text("import no_such_library")
  (envs / "tool.py").write_text("1 / 0")
  lines = []
  for name, (arguments, body) in TOOLS.items():
    kind = name.title().replace("_", "")
    (tools / f"{name}.py").write_text(
      TOOL.format(kind=kind, name=name, arguments=arguments, body=body)
    )
    lines.append(f"from .{name} import {kind}")
  kinds = ", ".join(n.title().replace("_", "") for n in TOOLS)
  (tools / "__init__.py").write_text(
    "\n".join([*lines, f"ALL_TOOLS = [{kinds}]"])
  )
  lamps = {k: {"key": k, "colours": ["grey"]} for k in "abc"}
  (data / "lamps.json").write_text(json.dumps(lamps))
  (envs / "retail" / "wiki.md").write_text("# Lamps\nBe kind to lamps.\n")
  return str(tmp_path / "bench")


class FixedUser:
  """Is content once the agent says so."""

  async def turn(self, scene, message):
    return scripted.Said("Well.", is_settled="Done" in message)


def play(folder, checkout, *moves, number=0, **settings):
  settings = config.Gyms(
    tasks=folder,
    levels=(1, 2, 3),
    max_turns=20,
    tau=config_gyms.Tau(checkout=checkout),
    **settings,
  )

  async def run():
    gym = gym_lib.TauGym(settings, FixedUser())
    task = released.read_folder(folder)[number]
    texts = [(await gym.reset(task, 0)).text]
    steps = []
    for choice, content in moves:
      steps.append(await gym.step(types.Action(choice, content)))
      texts.append(steps[-1].observation.text)
    return gym, texts, steps

  return asyncio.run(run())


PAINT = ("answer", 'paint: {"key": "a", "colour": "red"}')
DONE = ("action", "Done.")


@pytest.mark.parametrize("profile", gym_lib.TauGym.reward_profiles)
def test_the_right_calls_and_a_content_user_pay(tmp_path, checkout, profile):
  folder = write(tmp_path, record())
  gym, texts, steps = play(
    folder,
    checkout,
    *(("search", "tools"), ("answer", "find a"), PAINT, DONE),
    reward_profile=profile,
  )
  assert texts[0] == "# Lamps\nBe kind to lamps.\n\nHello, a lamp!"
  assert "paint(key: string, colour: string): About paint." in texts[1]
  assert texts[2:4] == ["a", '{"key": "a", "colours": ["grey", "red"]}']
  assert steps[-1].reward == 1 and steps[-1].info["success"]
  assert json.loads(gym.state.changes) == {
    "lamps": {"a": {"key": "a", "colours": ["grey", "red"]}}
  }
  assert gym.undisclosed()[0].startswith("You are U.")
  # and no other episode sees the paint
  assert play(folder, checkout, PAINT)[1][1] == texts[3]


@pytest.mark.parametrize(
  "moves, outcome",
  [
    ([DONE], "unfounded"),
    ([("answer", 'paint: {"key": "b", "colour": "red"}'), DONE], "unfounded"),
    ([PAINT, PAINT, DONE], "unfounded"),
    ([("answer", "transfer_to_human_agents Help!")], "transferred"),
    ([PAINT, ("answer", "transfer_to_human_agents Help!")], "transferred"),
    ([PAINT, ("action", "Hello.")], "talk"),
    ([("answer", "crash a")], "error"),
    ([("answer", "paint z")], "error"),
    ([("answer", "find z")], "error"),
    ([("answer", 'drop: {"keys": "a"}')], "error"),
    ([("answer", 'find: {"kee": "a"}')], "error"),
    ([("answer", "calculate 9**9**9**9")], "error"),
    ([("answer", "calculate __import__('os').getpid()")], "error"),
    ([("answer", "calculate (2.5 + 4) * -3 / 2")], "read"),
    ([("answer", "get_order 5")], "malformed"),
  ],
)
def test_other_ends_pay_nothing(tmp_path, checkout, moves, outcome):
  _, texts, steps = play(write(tmp_path, record()), checkout, *moves)
  assert steps[-1].info["outcome"] == outcome, texts
  assert not any(s.reward or s.info["success"] for s in steps)


def test_a_failed_tool_changes_nothing(tmp_path, checkout):
  gym, texts, _ = play(
    write(tmp_path, record()), checkout, ("answer", "crash a")
  )
  assert texts[1] == "Error: ZeroDivisionError" and gym.state.changes == "{}"


def test_what_was_undone_is_no_change(tmp_path, checkout):
  world = taubench.load(checkout, "retail")
  base = world._tables["lamps"]
  table = taubench._Table(base, {})
  table["a"]["colours"].append("red")
  assert base["a"]["colours"] == ["grey"] and len(table) == 3
  assert next(row["colours"] for row in table.values()) == ["grey", "red"]
  assert list(table) == list("abc") and "z" not in table
  assert world._changes({"lamps": table}) != "{}"
  table["a"]["colours"].pop()
  assert world._changes({"lamps": table}) == "{}"
  table["d"] = {"key": "d"}
  assert json.loads(world._changes({"lamps": table})) == {
    "lamps": {"d": {"key": "d"}}
  }


def test_a_transfer_pays_where_the_task_wants_one(tmp_path, checkout):
  help_ = {"name": "transfer_to_human_agents", "kwargs": {"summary": "x"}}
  folder = write(tmp_path, record(actions=[help_]))
  _, _, steps = play(folder, checkout, ("answer", "transfer_to_human_agents y"))
  assert steps[-1].reward == 1
  _, _, steps = play(folder, checkout, DONE)
  assert steps[-1].info["outcome"] == "unfounded"


def test_outputs_must_be_told_as_whole_words(tmp_path, checkout):
  folder = write(tmp_path, record(actions=[], outputs=["1054", "blue"]))
  told = ("action", "It costs 1,054 and is Blue.")
  assert play(folder, checkout, told, DONE)[2][-1].reward == 1
  half = ("action", "It costs 10543 and is blueish.")
  assert play(folder, checkout, half, DONE)[2][-1].reward == 0
  nothing = write(tmp_path, record("retail-train-2", actions=[]))
  assert play(nothing, checkout, DONE)[2][-1].reward == 1
  assert play(nothing, checkout, PAINT, DONE)[2][-1].reward == 0


def test_the_checkout_leaves_no_modules_behind(checkout):
  taubench.World(pathlib.Path(checkout, "tau_bench", "envs", "retail"))
  assert not [name for name in sys.modules if name.startswith("tau_bench")]


def test_what_is_needed_is_said(tmp_path, checkout):
  folder = write(tmp_path, record(), record("airline-3", actions=[]))
  with pytest.raises(ValueError, match="set gyms.tau.checkout"):
    play(folder, "")
  with pytest.raises(ValueError, match="must hold tau_bench/envs/retail"):
    play(folder, str(tmp_path))
  with pytest.raises(ValueError, match="must hold tau_bench/envs/airline"):
    play(folder, checkout, number=1)
  gym = gyms.make("tau", config.Gyms(tau=config_gyms.Tau(checkout=checkout)))
  with pytest.raises(ValueError, match="user.kind=endpoint"):
    asyncio.run(gym.reset(released.read_folder(folder)[0], 0))
  odd = write(tmp_path, record(actions=[{"name": "fly", "kwargs": {}}]))
  with pytest.raises(ValueError, match="no tool 'fly'"):
    play(odd, checkout)


def test_released_tasks_keep_the_contract(tmp_path, checkout):
  calls = [
    {"name": "paint", "kwargs": {"key": k, "colour": "red"}} for k in "ab"
  ]
  folder = write(
    tmp_path,
    *(record(f"retail-train-{n}", calls[:n]) for n in (1, 2)),
  )
  settings = config.Gyms(tasks=folder, tau=config_gyms.Tau(checkout=checkout))
  subject = contract.Subject(
    lambda: gym_lib.TauGym(settings, FixedUser()),
    released.read_folder(folder),
    oracle.Oracle,
    gyms.canned("tau"),
    gyms.hacks("tau"),
  )
  left_out = (contract.check_canned_band, contract.check_hacks)
  for check in contract.CHECKS:
    if check not in left_out:  # promises of ours, and of a wary user
      check(subject)


@pytest.mark.parametrize(
  "expression, value",
  [
    ("1", "1.0"),
    (" 1 + 2 * 3", "7.0"),
    ("-(4 / 3)", "-1.33"),
    ("0.1+0.2", "0.3"),
  ],
)
def test_sums(expression, value):
  assert taubench.calculate(expression) == value


@pytest.mark.parametrize(
  "expression",
  [
    "",
    "2**3",
    "1/0",
    "x",
    "1e999",
    "(" * 150,
    "1+" * 150,
    "[1]",
    "True",
    "'a'*9",
  ],
)
def test_no_sums(expression):
  with pytest.raises(ValueError):
    taubench.calculate(expression)


def test_a_situation_is_all_that_a_world_changes(checkout):
  world = taubench.load(checkout, "retail")
  before = worlds.Situation("{}")
  call = calls_lib.Call("paint", {"key": "a", "colour": "red"})
  outcomes = [world.run({}, before, call) for _ in range(2)]
  assert outcomes[0] == outcomes[1] and before == worlds.Situation("{}")
  again = world.run({}, outcomes[0].situation, call)
  assert '"red","red"' in again.situation.changes


@pytest.mark.parametrize(
  "records, message",
  [
    ({}, "must be a list of tasks"),
    (["x"], "a task must be an object"),
    ([record("shop-1")], "'id' must be like"),
    ([record(), record()], "'id' must be unique"),
    ([{**record(), "obs": " "}], "'obs' must be text"),
    ([{**record(), "info": {}}], "'task' is missing"),
    ([record(instruction="")], "'instruction' must be text"),
    ([record(outputs=[5])], "'outputs' must be a list of texts"),
    ([record(actions=[{"name": "x"}])], "'kwargs' is missing"),
    ([record(instruction="Hello, a lamp!")], "must not tell the instruction"),
  ],
)
def test_a_broken_record_names_file_and_place(tmp_path, records, message):
  path = tmp_path / released.FILE_NAME
  path.write_text(json.dumps(records))
  with pytest.raises(ValueError, match=message) as caught:
    released.read_folder(str(tmp_path))
  assert str(path) in str(caught.value)


def test_a_second_file_is_the_test_set(tmp_path):
  write(tmp_path, *(record(f"retail-train-{n}") for n in range(9)))
  write(
    tmp_path,
    *(record("retail-0"), record("airline-0")),
    name=released.TEST_FILE_NAME,
  )
  tasks = released.read_folder(str(tmp_path))
  splits = collections.Counter(task.split for task in tasks)
  assert splits == {"train": 9, "test": 2}
  assert {t.structure.split("|")[1] for t in tasks if t.split == "test"} == {
    "retail",
    "airline",
  }


@pytest.fixture(name="upstream")
def upstream_folder():
  if "USERRL_SHARED" not in os.environ:
    pytest.skip("USERRL_SHARED names no folder with released files")
  return str(pathlib.Path(os.environ["USERRL_SHARED"], "upstream", "gyms"))


def test_released_tasks_load_and_split(upstream):
  settings = config.Gyms(
    tasks=upstream, levels=(2, 3), num_train_tasks=999, num_test_tasks=999
  )
  tasks = {
    split: gyms.load_tasks("tau", settings, split, 0)
    for split in ("train", "dev", "test")
  }
  assert {s: len(found) for s, found in tasks.items()} == {
    "train": 425,
    "dev": 25,
    "test": 50,
  }
  kinds = [{t.structure for t in found} for found in tasks.values()]
  assert not kinds[0] & kinds[1] and not kinds[2] & (kinds[0] | kinds[1])
  assert sum(map(len, kinds)) == 55
  levels = collections.Counter(
    task.level for found in tasks.values() for task in found
  )
  assert levels == {2: 334, 3: 166}
