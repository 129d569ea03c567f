"""Gyms from outside the package: named, checked, refused where they lack."""

import pathlib
import random
import re
import sys
import textwrap

import pytest

from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import demonstrate
from userrl_jax import gyms
from userrl_jax import measures
from userrl_jax import pins
from userrl_jax import types
from userrl_jax.gyms import contract
from userrl_jax.gyms import contract_command
from userrl_jax.gyms import outside
from userrl_jax.gyms import subjects

NAME = "my_pkg.my_gym:Letters"
_ROOT = pathlib.Path(__file__).resolve().parents[2]


def example() -> str:
  """Returns the gym that README.md has written out."""
  text = (_ROOT / "README.md").read_text(encoding="utf-8")
  section = text.partition("## Adding a gym")[2].partition("\n## ")[0]
  (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  return code


@pytest.fixture
def package(tmp_path, monkeypatch):
  """Returns the folder of `my_pkg`, importable, as nothing was imported yet."""
  folder = tmp_path / "my_pkg"
  folder.mkdir()
  (folder / "my_gym.py").write_text(example(), encoding="utf-8")
  monkeypatch.syspath_prepend(str(tmp_path))
  yield folder
  outside.load.cache_clear()
  for name in [n for n in sys.modules if n.partition(".")[0] == "my_pkg"]:
    del sys.modules[name]


VARIANT = """
import dataclasses
from my_pkg.my_gym import *
from my_pkg import my_gym

class Other(my_gym.Letters):
  name = f"{__name__}:Other"

  @staticmethod
  def load_tasks(settings, split, seed):
    found = my_gym.Letters.load_tasks(settings, split, seed)
    return [dataclasses.replace(t, gym=Other.name) for t in found]

"""


@pytest.fixture
def variant(package):
  """Returns a function that writes the gym with other lines; gives its name."""

  def write(lines, name="other"):
    body = textwrap.indent(textwrap.dedent(lines), "  ")
    (package / f"{name}.py").write_text(VARIANT + body)
    return f"my_pkg.{name}:Other"

  return write


def run_command(*argv):
  with pytest.raises(SystemExit) as ended:
    contract_command.run(argv)
  return ended.value.code


def test_it_is_used_as_one_of_ours(package):
  settings = config_lib.Gyms(names=(NAME,), num_train_tasks=5)
  tasks = gyms.load_tasks(NAME, settings, "train", 0)
  assert [task.gym for task in tasks] == [NAME] * 5
  record = subjects.play(
    gyms.make(NAME, settings),
    tasks[0],
    gyms.oracle(NAME)(tasks[0], random.Random(0)).next_action,
  )
  assert record.score == 1
  assert gyms.canned(NAME)(random.Random(0)).choice in types.CHOICES
  assert all(action.content for action in gyms.hacks(NAME)(tasks[0]))
  assert not gyms.has_user(NAME) and not gyms.can_be_asked(NAME)
  assert gyms.information(tasks[0], subjects.turns(record)) == (None,) * len(
    record.steps
  )
  no_user = types.Trajectory(
    tasks[0], 0, 0, *[None] * 3, (), types.StopReason.TERMINATED
  )
  assert measures.questions(no_user) is None
  with pytest.raises(ValueError, match="a model can answer in .*, got gym"):
    variant_judge = object()
    has_user = type("U", (outside.load(NAME).Gym,), {"has_user": True})
    outside.load(NAME).Gym = has_user
    gyms.make(NAME, settings, variant_judge)


def test_pins_follow_its_sources(package):
  before = pins._sources([NAME])
  assert before != pins._sources([])
  (package / "words.json").write_text("[]")
  after = pins._sources([NAME])
  assert len(after) == len(before) + 1 and set(before) < set(after)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("my_pkg.my_gym:", "must be named as module:Class"),
    ("my pkg:Gym", "must be named as module:Class"),
    ("my_pkg.none:Gym", "module 'my_pkg.none' must be importable .*PYTHONPATH"),
    ("no_such_pkg:Gym", "module 'no_such_pkg' must be .*PYTHONPATH"),
    ("my_pkg.broken:Gym", "module 'my_pkg.broken' .* ZeroDivisionError"),
    ("my_pkg.lacks:Gym", "No module named 'no_such_library'$"),
    ("my_pkg.syntax:Gym", "module 'my_pkg.syntax' .* SyntaxError"),
    ("my_pkg.my_gym:Leters", "must have the gym 'Leters'.*'Letters'"),
    ("my_pkg.my_gym:WORDS", "must be a class that extends gyms.base.Gym"),
    ("my_pkg.my_gym:Oracle", "must be a class that extends gyms.base.Gym"),
    ("my_pkg.empty:Empty", "must define play, start, system_prompt, undisc"),
    (
      "my_pkg.again:Letters",
      "name must be 'my_pkg.again:Letters'.*got 'my_pkg",
    ),
  ],
)
def test_what_is_no_gym_is_named(package, name, message):
  (package / "broken.py").write_text("1 / 0\n")
  (package / "lacks.py").write_text("import no_such_library\n")
  (package / "syntax.py").write_text("def x(:\n")
  (package / "again.py").write_text("from my_pkg.my_gym import Letters\n")
  (package / "empty.py").write_text(
    "from userrl_jax.gyms import base\nclass Empty(base.Gym):\n  pass\n"
  )
  with pytest.raises(ValueError, match=message):
    gyms.make(name, config_lib.Gyms())


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ("choices = ['action']", "choices must be a tuple of some of"),
    ("choices = ('think',)", "choices must be a tuple of some of"),
    ("max_content_chars = 0", "max_content_chars must be a positive int"),
    ("has_user = None", "has_user must be True or False"),
    ("reward_profiles = 'default'", "reward_profiles must be a tuple"),
    ("load_tasks = None", "must have load_tasks"),
    ("hacks = ('x',)", "hacks must be callable or left out"),
    ("def play(self, state, action): pass", "play must be an async method"),
  ],
)
def test_what_a_class_must_have_is_named(variant, lines, message):
  with pytest.raises(ValueError, match=message):
    gyms.make(variant(lines), config_lib.Gyms())


@pytest.mark.parametrize(
  ("tasks", "message"),
  [
    ("None", "must return a list of types.Task, got NoneType"),
    ("['x']", "must be a types.Task, got str"),
    ("my_gym.Letters.load_tasks(s, split, seed)", "field gym of task 'test-0'"),
    ("[make('a'), make('a')]", "each only once in a split, got 'a'"),
    ("[make('a', split='train')]", "field split of task 'a' must be 'test'"),
    ("[make('a', secret={})]", "field secret of task 'a'"),
    ("[][0]", "load_tasks failed for split 'test' with IndexError"),
    ("[make('a', level=2)]", "has no test tasks of levels"),
  ],
)
def test_what_is_no_task_is_named(variant, tasks, message):
  name = variant(f"""
    @staticmethod
    def load_tasks(s, split, seed):
      def make(id, split=split, level=1, secret=types.Secret({{}})):
        return types.Task(Other.name, id, split, level, id, {{}}, secret)
      return {tasks}
  """)
  with pytest.raises(ValueError, match=message):
    gyms.load_tasks(name, config_lib.Gyms(), "test", 0)


def problems(name, **changes):
  """Returns what the config of a run of a gym breaks."""
  config = config_lib.Config()
  config.gyms.names = (name,)
  for field, value in changes.items():
    if field == "stages":
      config.stages = value
    elif field == "reward_profile":
      config.gyms.reward_profile = value
    else:
      setattr(config.evaluation, field, value)
  try:
    config_rules.validate(config)
  except ValueError as error:
    return str(error).splitlines()
  return []


@pytest.mark.parametrize(
  ("lacking", "changes", "message"),
  [
    ((), {}, None),
    (("Oracle",), {"stages": ("base", "grpo")}, None),
    (("Oracle",), {}, "stages must be without cold_start, as gym 'my_pkg.ot"),
    (("Oracle",), {"stages": ("grpo",), "agent": "oracle"}, "evaluation.agent"),
    (
      ("Oracle",),
      {"stages": ("grpo",), "forgetting_tasks": 2},
      "evaluation.forgetting_tasks must be 0",
    ),
    (("random_move",), {"stages": ("cold_start", "grpo")}, None),
    (("random_move",), {}, "stages must be without base, as gym"),
    (("random_move",), {"stages": ("grpo",), "agent": "canned"}, "evaluation."),
    (("Oracle", "random_move", "hacks"), {"stages": ("grpo",)}, None),
    ((), {"reward_profile": "paper"}, "gyms.reward_profile must be a profile"),
    ((), {"held_out_gyms": (NAME, "search")}, None),
    ((), {"held_out_gyms": ("my_pkg.my_gym:No",)}, "evaluation.held_out_gyms"),
    ((), {"held_out_gyms": ("my_pkg.other:Other",)}, "evaluation.held_out"),
  ],
)
def test_a_config_is_refused_where_a_part_is_needed(
  variant, lacking, changes, message
):
  name = variant("\n".join(f"{part} = None" for part in lacking) or "pass")
  found = problems(name, **changes)
  assert len(found) == (message is not None), found
  assert message is None or found[0].startswith(message)


def test_a_name_that_cannot_be_had_is_a_problem_of_the_config(package):
  (found,) = problems("my_pkg.my_gym:Leters")
  assert found.startswith("gyms.names must be ") and "'Letters'" in found


def test_the_tokenizer_takes_whoever_can_speak(variant):
  config = config_lib.Config()
  texts = {}
  for number, lines in enumerate(
    (
      "pass",
      "Oracle = None",
      "random_move = None",
      "Oracle = random_move = None",
    )
  ):
    name = variant(lines, f"speaks{number}")
    config.gyms.names = (name,)
    tasks = gyms.load_tasks(name, config.gyms, "train", 0)
    if number == 3:
      with pytest.raises(
        ValueError, match="random_move or Oracle for the buil"
      ):
        demonstrate.corpus(config, tasks)
    else:
      texts[number] = demonstrate.corpus(config, tasks)
  assert len(texts[0]) == len(texts[1]) + len(texts[2]) > 0
  assert "walnut" in texts[2]  # demonstrated
  for part, refusing in (("Oracle", gyms.oracle), ("random_move", gyms.canned)):
    with pytest.raises(ValueError, match=f"must have {part} for"):
      refusing(name)


def test_the_example_keeps_the_contract(package, capsys):
  assert run_command(NAME) == 0
  out = capsys.readouterr().out
  assert out.count("\nok ") == len(contract.CHECKS) + 1 and "FAIL" not in out
  assert f"{len(contract.CHECKS) + 1} checks hold, 0 fail" in out


@pytest.mark.parametrize(
  ("lines", "check", "why"),
  [
    (
      "hacks = staticmethod(lambda task: [types.Action('answer', "
      "task.secret.reveal()['word'])])",
      "hacks",
      "pays",
    ),
    (
      "async def play(self, state, action):\n"
      "  import time; time.sleep(0.0001)\n"
      "  return await super().play(state, action)",
      "blocking",
      "time.sleep",
    ),
    (
      "async def play(self, state, action):\n  return 1 / 0",
      "types",
      "raised ZeroDivisionError",
    ),
    (
      "information = staticmethod(lambda task, turns: [])",
      "information",
      "bits for every turn",
    ),
    ("undisclosed = lambda self: ('letter',)", "secrets", "undisclosed"),
  ],
)
def test_a_broken_promise_is_told(variant, capsys, lines, check, why):
  assert run_command(variant(lines)) == 1
  (line,) = [
    line
    for line in capsys.readouterr().out.splitlines()
    if line.startswith(f"FAIL  {check} ")
  ]
  assert why in line


@pytest.mark.parametrize("name", gyms.GYMS)
def test_splits_of_our_own_gyms_share_nothing(name):
  settings = config_lib.Gyms(
    levels=(1, 2, 3), num_train_tasks=90, num_test_tasks=30
  )
  contract_command.check_splits(name, settings, seed=0)


def test_parts_that_are_missing_are_left_out(variant, capsys):
  name = variant("""
    Oracle = hacks = None
    @staticmethod
    def load_tasks(settings, split, seed):
      found = my_gym.Letters.load_tasks(settings, split, seed)
      return [
        dataclasses.replace(t, gym=Other.name, structure="same") for t in found
      ]
  """)
  assert run_command(name) == 1  # for its splits alone
  out = capsys.readouterr().out
  assert "skip  hacks" in out and "skip  oracle" in out
  assert out.count("FAIL") == 1 and "FAIL  splits" in out
  assert "structure 'same' may be of one split" in out


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["functoin"], "did you mean 'function'"),
    (["no_such_pkg:Gym"], "module 'no_such_pkg' must be importable"),
    (["function", "--levels=x"], "--levels must be"),
    (["function", "--levels=4"], "gyms.levels must be"),
    (["function", "--reward_profile=x"], "reward profile"),
  ],
)
def test_a_bad_name_ends_with_code_2(capsys, argv, message):
  assert run_command(*argv) == 2
  assert message in capsys.readouterr().err
