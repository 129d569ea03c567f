"""A person in either chair, through the real entry point and pipes."""

import asyncio
import copy
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.clients import server
from userrl_jax import assembly
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import demonstrate
from userrl_jax import flags as flags_lib
from userrl_jax import gyms
from userrl_jax import metrics
from userrl_jax import pins
from userrl_jax import play
from userrl_jax import types
from userrl_jax.gyms.turtle import prompted
from userrl_jax.gyms.turtle import scripted
from userrl_jax.learning import learner
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode

GYMS = ("function", "turtle")
RECIPE = """
from userrl_jax import config
def get_config():
  c = config.Config()
  c.gyms.names = ("function", "turtle")
  c.gyms.num_test_tasks = 3
  c.evaluation.num_tasks = 3
  c.evaluation.agent = "oracle"
  c.model.num_layers = 1
  c.engine = config.Engine(num_rows=2, num_lanes=2, decode_tokens=8)
  c.engine.extend_tokens = 128
  return c
"""


@pytest.fixture(scope="module")
def config():
  values = {}
  exec(RECIPE, values)
  return values["get_config"]()


@pytest.fixture
def start(root, tmp_path):
  """Returns a function that starts the command where there is no JAX."""
  (tmp_path / "recipe.py").write_text(RECIPE)
  for name in ("jax", "jaxlib"):
    (tmp_path / "blocked").mkdir(exist_ok=True)
    (tmp_path / "blocked" / f"{name}.py").write_text("raise SystemExit('JAX')")

  def started(*flags, blocked=True):
    places = [str(root), *([str(tmp_path / "blocked")] if blocked else [])]
    return subprocess.Popen(
      [
        *(sys.executable, "-m", "userrl_jax.play"),
        f"--config={tmp_path / 'recipe.py'}",
        f"--config.out_dir={tmp_path / 'run'}",
        *flags,
      ],
      cwd=tmp_path,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(places[::-1])},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  # What a shell starts in the background ignores ctrl-C, and so would this.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield started
  signal.signal(signal.SIGINT, before)


@pytest.fixture
def sit(start):
  """Returns a function that types lines and returns (code, shown, errors)."""

  def sat(lines, *flags, **kwargs):
    process = start(*flags, **kwargs)
    out, errors = process.communicate("".join(f"{x}\n" for x in lines), 100)
    return process.returncode, out, errors

  return sat


def _records(tmp_path, name):
  path = tmp_path / "run" / "transcripts" / f"evaluation_{name}.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def _task(config, gym, number=0):
  return gyms.load_tasks(gym, config.gyms, "test", config.seed)[number]


def _of_oracle(config, task, user=None, script=None):
  """Plays the same game by the oracle (or a script), here; its record."""
  seed = lambda member: collect.episode_seed(
    config.seed, play._ITERATION, task, member
  )
  script = script or demonstrate.oracle_script(
    task, random.Random(seed(0)), 0.0, config.gyms
  )
  settings = episode.Settings(config.rollout, 6, "brief", False)
  game = gyms.GYMS[task.gym].Gym
  played = asyncio.run(
    episode.play(
      task,
      game(config.gyms, user) if user else game(config.gyms),
      demonstrate.Speaker(script),
      settings,
      seed=seed(-1),
      member=0,
      iteration=play._ITERATION,
    )
  )
  return metrics.trajectory_record(played)


def _but_texts(record):
  """Returns a record without how the agent's calls were written."""
  turns = [{**turn, "text": ""} for turn in record["turns"]]
  return {**record, "turns": turns}


class _Noting(scripted.ScriptedUser):
  """Answers by rules; notes what a person would type to say the same."""

  def __init__(self):
    self.typed = []

  async def yes_no(self, tale, question):
    verdict = await super().yes_no(tale, question)
    self.typed.append(verdict.value.lower())
    return verdict

  async def grade(self, tale, text):
    points = await super().grade(tale, text)
    self.typed.append(", ".join(map(str, points)))
    return points


@pytest.mark.parametrize("gym", GYMS)
def test_a_person_wins_as_the_agent(config, sit, tmp_path, gym):
  """And is written down just as an agent that plays the same."""
  expected = _of_oracle(config, _task(config, gym))
  actions = [turn["action"] for turn in expected["turns"]]
  assert expected["success"] and len(actions) > 1
  lines = [f"{a['choice']} {a['content']}" for a in actions]
  code, out, errors = sit(lines, f"--gym={gym}")
  assert (code, errors) == (0, "")
  (record,) = _records(tmp_path, "person_1")
  assert _but_texts(record) == _but_texts(expected)
  assert [turn["text"] for turn in record["turns"]] == lines
  assert all(f"  | {t['observation']}\n" in out for t in record["turns"])
  assert f"won in {len(lines)} turns (terminated): reward 1, score 1" in out
  folder = tmp_path / "run"
  summary = json.loads((folder / "evaluations/person_1.json").read_text())
  assert summary["gyms"][gym]["score"] == 1.0
  of_run = copy.deepcopy(config)
  of_run.gyms.names = (gym,)
  pinned = pins.of_play(of_run, [_task(config, gym)])
  same = ("tasks", "user", "model", "version")
  assert pins.differences(summary["pins"], pinned, same) == []
  assert summary["pins"]["agent"] == "person"
  about = json.loads((folder / "plays/person_1.json").read_text())
  assert (about["seat"], about["agent"]) == ("agent", "person")
  assert about["config"]["gyms"]["names"] == [gym]
  assert about["tasks"] == [[gym, "test", record["task"]]]


def test_a_game_draws_as_it_does_in_evaluations(config, sit, tmp_path):
  """Which wish an idle person is told at last comes from the game's seed."""
  idle = types.Action("action", "Thank you.")
  config = copy.deepcopy(config)
  config.gyms.levels = (3,)
  task = _task(config, "travel")
  expected = _of_oracle(config, task, script=lambda observations: idle)
  sit(["action Thank you."] * 6, "--gym=travel", "--config.gyms.levels=3")
  (record,) = _records(tmp_path, "person_1")
  assert "volunteered" in [t["privileged"]["outcome"] for t in record["turns"]]
  assert _but_texts(record) == _but_texts(expected)


def test_a_person_answers_as_the_user(config, sit, tmp_path):
  """As the rules would, so the oracle comes to the same end."""
  user = _Noting()
  task = _task(config, "turtle", 1)
  expected = _of_oracle(config, task, user)
  assert expected["success"] and len(user.typed) > 1
  code, out, errors = sit(
    user.typed, "--gym=turtle", "--seat=user", "--first_task=1"
  )
  assert (code, errors) == (0, "")
  (record,) = _records(tmp_path, "person_with_oracle_1")
  assert record == expected
  path = tmp_path / "run" / "evaluations" / "person_with_oracle_1.json"
  pinned = json.loads(path.read_text())["pins"]
  assert (pinned["agent"], pinned["user"]["kind"]) == ("oracle", "person")
  assert pinned["tasks"] == pins.of_play(config, [task])["tasks"]
  tale = task.secret.reveal()["story"]
  assert tale.bottom in out  # whoever answers must know it
  assert out.count(prompted.SYSTEM) == 2  # of a question and of a retelling
  assert "answer (Yes | No | Maybe | Several | Unclear): " in out
  assert "reward 1, score 1" in out


def test_what_cannot_be_read_is_asked_for_again(config, sit, tmp_path):
  task = _task(config, "turtle")
  bad_agent = ["", "shout hello", "action", "", "ACTION: ", '"', "quit"]
  code, out, _ = sit([*bad_agent], "--gym=turtle")
  assert code == 0
  assert "must begin with action or answer, got 'shout hello'" in out
  assert out.count("action: ") == 2 and "action must say something" in out
  (record,) = _records(tmp_path, "person_1")
  # A lone quote is a content: the gym, not the terminal, says what it is.
  assert [t["action"]["content"] for t in record["turns"]] == ['"']

  user = _Noting()
  expected = _of_oracle(config, task, user)
  *answers, points = user.typed
  typed = ["maybe not", "", "?", *answers, "2", "9, 9", "two", points]
  _, out, errors = sit(typed, "--gym=turtle", "--seat=user")
  assert errors == ""
  (record,) = _records(tmp_path, "person_with_oracle_1")
  assert record == expected
  tale = task.secret.reveal()["story"]
  assert out.count("answer must be Yes | No | Maybe") == 2
  assert out.count(tale.bottom) == 3  # "?" shows it once more
  for complaint in (
    "'points' must have 2 integers; once more",
    "each of 'points' must be 0, 1 or 2; once more",
    "points must be none, or with commas, each a whole number, got 'two'",
  ):
    assert complaint in out, out


@pytest.mark.parametrize("seat", play.SEATS)
@pytest.mark.parametrize("lines", [[], [" QUIT "]])
def test_who_leaves_has_no_score(sit, tmp_path, seat, lines):
  code, out, errors = sit(
    lines, "--gym=turtle", f"--seat={seat}", "--num_tasks=2"
  )
  assert (code, errors) == (0, "")
  name = "person_1" if seat == "agent" else "person_with_oracle_1"
  (record,) = _records(tmp_path, name)  # the next task is not begun
  assert record["fault"] == "cancelled" and not record["valid"]
  why = "the person left" if lines else "the person's input ended"
  assert f"no score (cancelled): {why}" in out
  path = tmp_path / "run" / "evaluations" / f"{name}.json"
  found = json.loads(path.read_text())["gyms"]["turtle"]
  assert (found["score"], found["invalid"]) == (None, 1)


def _read_until(process, text):
  """Returns what was shown until a text, a prompt without a line end too."""
  shown = ""
  while not shown.endswith(text):
    shown += process.stdout.read(1)
    assert process.poll() is None, process.stderr.read()
  return shown


def test_a_slow_person_is_no_fault(start, tmp_path):
  limit = "--config.rollout.step_timeout_s=1"
  process = start("--gym=turtle", "--seat=user", limit)
  _read_until(process, "Unclear): ")
  time.sleep(1.5)
  _, errors = process.communicate("no\n", 60)
  (record,) = _records(tmp_path, "person_with_oracle_1")
  assert record["turns"][0]["observation"] == "No."
  assert record["detail"] == "the person's input ended" and not errors


def test_ctrl_c_stops_and_keeps_what_is_done(start, tmp_path):
  process = start("--gym=turtle", "--num_tasks=2")
  _read_until(process, "action/answer> ")
  process.stdin.write("answer it\nanswer it\n")
  process.stdin.flush()
  _read_until(process, "(2 of 2)")
  _read_until(process, "action/answer> ")
  process.send_signal(signal.SIGINT)
  process.wait(60)  # nobody presses enter
  out, errors = process.communicate()
  assert (process.returncode, errors) == (130, "")
  assert "stopped; this dialogue is not kept" in out
  assert len(_records(tmp_path, "person_1")) == 1
  assert (tmp_path / "run" / "evaluations" / "person_1.json").exists()


def test_sittings_follow_each_other(sit, tmp_path):
  """Tasks of gyms take turns; no sitting writes over another."""
  answers = ["answer 0"] * 6  # wrong ones, until turns run out
  telling = ["answer nothing"] * 2
  flags = ("--num_tasks=2", "--first_task=2")
  code, out, _ = sit([*answers, *telling], *flags)
  assert code == 0 and out.count("not won in ") == 2
  assert sit(["quit"], *flags)[0] == 0
  records = _records(tmp_path, "person_1")
  assert [r["gym"] for r in records] == ["function", "turtle"]
  assert [r["task"].rpartition("-")[2] for r in records] == ["1", "1"]
  assert [r["fault"] for r in records] == ["ok", "ok"]
  assert len(_records(tmp_path, "person_2")) == 1


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--seat=judge"], "--seat must be agent or user, got 'judge'"),
    (["--gym=turtl"], "unknown gym: 'turtl'; did you mean 'turtle'?"),
    (["--num_tasks=0"], "--num_tasks must be positive"),
    (["--num_tasks=7"], "--first_task and --num_tasks must stay within the 6"),
    (["--num_tasks=x"], "flag --num_tasks=x: invalid literal"),
    (["--seet=user"], "there is no flag --seet; the nearest is --seat"),
    (["--seat=user", "--gym=function"], "a person can answer in intention,"),
    (
      ["--config.gyms.reward_profile=paper", "--config.gyms.turtle.x=1"],
      "there is no config field gyms.turtle.x",
    ),
    (["--config.gyms.tasks=nowhere"], "gyms.tasks"),
    (
      [
        "--config.user.kind=endpoint",
        "--config.user.model=m",
        "--config.user.base_url=http://127.0.0.1:9/v1",
      ],
      "the endpoint of section user must answer",
    ),
  ],
)
def test_errors_are_one_message_before_anything_begins(
  sit, tmp_path, flags, message
):
  code, out, errors = sit([], *flags)
  assert (code, out) == (2, "")
  assert errors.startswith("error: ") and message in errors
  assert len(errors.splitlines()) == 1
  assert not (tmp_path / "run" / "plays").exists()


def test_a_model_takes_the_seat_that_is_left(config, sit, tmp_path):
  """It answers a person who acts, and judges for a person who answers."""
  task = _task(config, "telepathy")
  name = task.secret.reveal()["name"]
  with server.Server(server.telepathy_answer) as running:
    flags = (
      "--gym=telepathy",
      "--config.user.kind=endpoint",
      "--config.user.model=m",
      f"--config.user.base_url={running.base_url}",
      "--config.user.timeout_s=30",
      "--config.rollout.step_timeout_s=40",
    )
    code, out, errors = sit(["action Is it big?", f"answer {name}"], *flags)
    assert (code, errors) == (0, "")
    (record,) = _records(tmp_path, "person_1")
    assert record["turns"][0]["observation"] in ("Yes.", "No.")
    assert record["success"]
    num_asked = len(running.log)
    # Canned moves ask twice, then guess wrong; the person is asked no guess.
    moves = (*flags, "--config.evaluation.agent=canned", "--first_task=1")
    code, out, errors = sit(["no"] * 2, *moves, "--seat=user")
    assert (code, errors) == (0, "")
    (record,) = _records(tmp_path, "person_with_canned_1")
    choices = [turn["action"]["choice"] for turn in record["turns"]]
    assert choices == ["action", "action", "answer"]
    assert (record["fault"], record["reward"]) == ("ok", 0.0)
    assert len(running.log) == num_asked + 2  # the word at the start, the guess
    assert out.count("answer (Yes") == 2 and "right (" not in out


def test_a_policy_needs_weights(sit):
  code, _, errors = sit(
    [],
    "--seat=user",
    "--gym=turtle",
    "--config.evaluation.agent=policy",
    blocked=False,
  )
  assert code == 2
  assert errors.startswith("error: a policy that plays needs init_from")


@pytest.mark.slow
def test_a_policy_plays_with_a_person(root, sit, tmp_path):
  """A random one says nothing that can be read: no question comes."""
  run_config = flags_lib.load_recipe(str(tmp_path / "recipe.py"))
  run_config.out_dir = str(tmp_path / "trained")
  kept = tmp_path / "trained" / "checkpoints" / "grpo"
  parts = assembly.build(run_config)
  with checkpoint.Store(kept) as store:
    store.describe(parts.tokenizer, config_fields.to_dict(run_config))
    params = assembly.first_params(parts)
    state = learner.init_state(params, config_lib.Optimizer(), 1, parts.mesh)
    store.save(7, state, {})
  code, out, errors = sit(
    [],
    "--seat=user",
    "--config.gyms.names=function,turtle",
    "--gym=turtle",
    "--config.evaluation.agent=policy",
    f"--config.init_from={kept}",
    blocked=False,
  )
  assert code == 0, errors
  (record,) = _records(tmp_path, "person_with_grpo@7_1")
  assert record["valid"] and record["num_sampled"] > 0
  path = tmp_path / "run" / "evaluations" / "person_with_grpo@7_1.json"
  pinned = json.loads(path.read_text())["pins"]
  assert (pinned["agent"], pinned["user"]["kind"]) == ("policy", "person")
  task = _task(run_config, "turtle")
  want = pins.of(parts, params, [task])
  same = ("model", "tasks", "tokenizer")
  assert pins.differences(pinned, want, same) == []
  assert "not won in " in out


@pytest.mark.parametrize(
  ("seat", "typed"),
  [("agent", "action\nIs it dark?\nquit\n"), ("user", "quit\n")],
)
def test_the_command_alone_is_enough(root, tmp_path, seat, typed):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "userrl_jax.play"),
      *("--gym=turtle", f"--seat={seat}"),
    ],
    input=typed,
    cwd=tmp_path,
    env=dict(os.environ) | {"PYTHONPATH": str(root)},
    capture_output=True,
    text=True,
    timeout=100,
  )
  assert done.returncode == 0, done.stderr
  (path,) = (tmp_path / "runs" / "play" / "transcripts").iterdir()
  (record,) = map(json.loads, path.read_text().splitlines())
  assert record["gym"] == "turtle" and record["fault"] == "cancelled"
  assert seat == "user" or len(record["turns"]) >= 1
