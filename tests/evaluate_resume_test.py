"""Evaluations that were stopped go on; what they measured is pinned."""

import dataclasses
import json
import signal
import time
import types as python_types

import jax
import numpy as np
import pytest

from tests import evaluating
from userrl_jax import assembly
from userrl_jax import evaluate
from userrl_jax import gyms
from userrl_jax import hosts
from userrl_jax import kept_episodes
from userrl_jax import run_folder
from userrl_jax import stages
from userrl_jax import types
from userrl_jax.gyms import telepathy

RECIPE = """
from userrl_jax import config


def get_config():
  c = config.Config(out_dir="given by each test")
  c.model.num_layers = 1
  c.tokenizer.vocab_size = 768
  c.gyms.names = ("function", "telepathy", "travel")
  c.gyms.num_train_tasks = 16
  c.gyms.num_test_tasks = 8
  c.gyms.max_turns = 3
  c.rollout.max_tokens_per_turn = 16
  c.rollout.max_tokens_per_episode = 256
  c.engine = config.Engine(num_rows=4, num_lanes=4, decode_tokens=8)
  c.cold_start.episodes_per_step = c.base.episodes_per_step = 8
  c.grpo.tasks_per_iteration = 8
  c.evaluation.num_tasks = 8
  c.evaluation.num_attempts = 2
  return c
"""
NUM_EPISODES = 3 * 8 * 2


@pytest.fixture(scope="module")
def config():
  namespace: dict = {}
  exec(RECIPE, namespace)
  return namespace["get_config"]()


@pytest.fixture(scope="module")
def built(config, tmp_path_factory):
  folder = tmp_path_factory.mktemp("built")
  return assembly.build(dataclasses.replace(config, out_dir=str(folder)))


@pytest.fixture(scope="module")
def params(built):
  return assembly.first_params(built)


@pytest.fixture
def parts(built, tmp_path):
  return dataclasses.replace(built, folder=tmp_path)


@pytest.fixture
def tasks(config):
  return assembly.held_out_tasks(config)


def _as(parts, **fields):
  evaluation = dataclasses.replace(parts.config.evaluation, **fields)
  return dataclasses.replace(
    parts, config=dataclasses.replace(parts.config, evaluation=evaluation)
  )


def _lines(path):
  return path.read_text().splitlines() if path.exists() else []


def _transcripts(folder, stage):
  path = folder / "transcripts" / f"evaluation_{stage}.jsonl"
  return path.read_text()


class _Gym(telepathy.Gym):
  """Counts what is started, and cannot go on after some moves."""

  started: list[tuple[str, int]]
  moves_left: int

  def start(self, task, seed):
    self.started.append(task.id)
    return super().start(task, seed)

  async def play(self, state, action):
    type(self).moves_left -= 1
    if self.moves_left < 0:
      raise types.SetupError("the key is used up")
    return await super().play(state, action)


@pytest.fixture
def fragile(monkeypatch):
  """Returns a function that lets so many moves be made in Telepathy."""
  entry = python_types.SimpleNamespace(**vars(telepathy))
  entry.Gym = _Gym
  monkeypatch.setitem(gyms.GYMS, "telepathy", entry)

  def allow(num_moves):
    _Gym.started, _Gym.moves_left = [], num_moves
    return _Gym

  return allow


@pytest.mark.parametrize("agent", ["oracle", "canned"])
def test_a_stopped_evaluation_plays_only_what_is_missing(
  agent, parts, tasks, tmp_path, fragile
):
  one = _as(parts, agent=agent)
  fragile(10**6)
  whole = evaluate.evaluate(one, None, tasks, "whole")
  assert len(_Gym.started) == 16
  fragile(20)
  with pytest.raises(SystemExit) as stopped:
    evaluate.evaluate(one, None, tasks, "stopped")
  assert stopped.value.code == 2
  path = kept_episodes.path_of(tmp_path, "stopped")
  kept = [json.loads(line) for line in _lines(path)[1:]]
  assert 0 < len(kept) < NUM_EPISODES
  played = sum(episode["gym"] == "telepathy" for episode in kept)
  with path.open("a") as file:
    file.write('{"gym": "telepathy", "ta')  # killed in the middle of a line
  fragile(10**6)
  resumed = evaluate.evaluate(one, None, tasks, "stopped")
  assert len(_Gym.started) == 16 - played
  assert {**resumed, "stage": "whole"} == whole
  assert _transcripts(tmp_path, "stopped") == _transcripts(tmp_path, "whole")
  assert not path.exists()


def test_a_stopped_evaluation_goes_on_with_another_mesh_and_rate(
  parts, tasks, tmp_path, fragile, capsys
):
  """What a resumed run may change, an evaluation that goes on may, too."""
  one = _as(parts, agent="oracle")
  fragile(20)
  with pytest.raises(SystemExit):
    evaluate.evaluate(one, None, tasks, "stopped")
  num_kept = len(_lines(kept_episodes.path_of(tmp_path, "stopped"))) - 1
  assert num_kept > 0
  c = one.config
  user = dataclasses.replace(c.user, requests_per_minute=5, max_concurrent=2)
  mesh = dataclasses.replace(c.mesh, cpu_devices=2)
  fragile(10**6)
  for change, is_free in (
    ({"gyms": dataclasses.replace(c.gyms, max_turns=2)}, False),
    ({"user": dataclasses.replace(user, num_reasks=7)}, False),
    ({"user": user, "mesh": mesh}, True),
  ):
    other = dataclasses.replace(one, config=dataclasses.replace(c, **change))
    capsys.readouterr()
    if is_free:
      found = evaluate.evaluate(other, None, tasks, "stopped")
      assert f"{num_kept} of {NUM_EPISODES} episodes" in capsys.readouterr().out
      assert found["pins"] == evaluate.pins.of(other, None, tasks)
    else:
      with pytest.raises(SystemExit):
        evaluate.evaluate(other, None, tasks, "stopped")
      assert "got those of another" in capsys.readouterr().err


def test_oracles_are_a_ceiling_and_canned_moves_a_floor(parts, tasks):
  means = {}
  for agent in ("oracle", "canned"):
    summary = evaluate.evaluate(_as(parts, agent=agent), None, tasks, agent)
    means[agent] = summary["macro"]["score"]
    assert summary["pins"]["agent"] == agent
  assert means["oracle"] > means["canned"] + 0.2


def test_held_out_gyms_leave_the_others_as_they_are(parts, params):
  of_two = dataclasses.replace(parts.config.gyms, names=("function", "travel"))
  config = dataclasses.replace(parts.config, gyms=of_two)
  trained = dataclasses.replace(parts, config=config)
  held_out = _as(trained, held_out_gyms=("telepathy",))
  gyms_of = lambda tasks: {task.gym for task in tasks}
  learned = assembly.load_tasks(held_out.config, "train")
  assert gyms_of(learned) == {"function", "travel"}
  alone, both = (
    evaluate.evaluate(some, params, assembly.held_out_tasks(some.config), name)
    for name, some in (("alone", trained), ("both", held_out))
  )
  assert "held_out" not in alone
  assert set(both["held_out"]["gyms"]) == {"telepathy"}
  for name in ("gyms", "macro", "splits", "averages"):
    assert both[name] == alone[name]
  assert both["pins"]["config"] != alone["pins"]["config"]
  played = map(json.loads, _transcripts(parts.folder, "both").splitlines())
  assert {d["gym"] for d in played} == {"function", "travel", "telepathy"}


def test_training_refuses_to_evaluate_another_agent(parts):
  with pytest.raises(ValueError, match=r"must be policy .* got 'oracle'"):
    stages.plan(_as(parts, agent="oracle"))


def test_an_episode_is_kept_bit_by_bit(parts, params, tasks):
  made = []

  class Kept:
    def find(self, task, member):
      return None

    def add(self, trajectory):
      made.append(trajectory)

  evaluate._play(parts, params, tasks[:2], Kept())
  assert len(made) == 4
  known = {(task.gym, task.id): task for task in tasks}
  for trajectory in made:
    text = json.dumps(kept_episodes.to_record(trajectory))
    again = kept_episodes.from_record(json.loads(text), known)
    for field in dataclasses.fields(types.Trajectory):
      a, b = (getattr(t, field.name) for t in (trajectory, again))
      if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
      else:
        assert a == b and type(a) is type(b)


def test_failed_episodes_are_tried_again(parts, tasks, tmp_path):
  path = tmp_path / "x.jsonl"
  kept = kept_episodes.KeptEpisodes(path, {"model": "a"}, tasks)
  empty = np.zeros(0, np.int32)
  failed = types.Trajectory(
    *(tasks[0], 0, 0, empty, empty, empty, ()),
    stop_reason=types.StopReason.FAULT,
    fault=types.Fault.USER_TIMEOUT,
  )
  kept.add(failed)
  ended = types.StopReason.TURN_LIMIT
  ok = types.Fault.OK
  kept.add(dataclasses.replace(failed, fault=ok, stop_reason=ended, member=1))
  kept.close()
  again = kept_episodes.KeptEpisodes(path, {"model": "a"}, tasks)
  assert again.find(tasks[0], 0) is None and len(again) == 1
  assert again.find(tasks[0], 1).stop_reason is ended
  again.close()
  with pytest.raises(ValueError, match="got those of another model"):
    kept_episodes.KeptEpisodes(path, {"model": "b"}, tasks)
  path.write_text(path.read_text() + "{}\n")
  with pytest.raises(ValueError, match="line 3 must be a finished episode"):
    kept_episodes.KeptEpisodes(path, {"model": "a"}, tasks)


def test_pins_tell_what_was_evaluated(parts, params, tasks, capsys):
  summary = evaluate.evaluate(parts, params, tasks[:1], "grpo")
  pinned = summary["pins"]
  again = evaluate.evaluate(parts, params, tasks[:1], "grpo")
  assert again == summary
  leaf = jax.tree.leaves(params)[0]
  moved_on = jax.tree.map(
    lambda x: x.at[0, 0].add(1e-6) if x is leaf else x, params
  )
  for one, model, own, name in (
    (parts, moved_on, tasks[:1], "model"),
    (parts, params, tasks[1:2], "tasks"),
    (_as(parts, agent="canned"), None, tasks[:1], "agent, model"),
  ):
    with pytest.raises(SystemExit):
      evaluate.evaluate(one, model, own, "grpo")
    assert f"one of another {name};" in capsys.readouterr().err
  other = evaluate.pins.of(_as(parts, temperature=0.5), params, tasks[:1])
  assert evaluate.pins.differences(pinned, other, pinned) == ["config"]
  user = dataclasses.replace(parts.config.user, kind="endpoint", model="m")
  asked = dataclasses.replace(
    parts, config=dataclasses.replace(parts.config, user=user)
  )
  now = evaluate.pins.of(asked, params, tasks[:1])
  assert evaluate.pins.differences(pinned, now, pinned) == ["user", "config"]
  moved = dataclasses.replace(parts.config, out_dir="elsewhere", init_from="x")
  same = evaluate.pins.of(
    dataclasses.replace(parts, config=moved), params, tasks[:1]
  )
  assert same == pinned


def test_a_killed_evaluation_ends_with_the_same_numbers(
  config, parts, params, tasks, tmp_path, root
):
  """Kills the real command with -9; compares with a run in this process."""
  whole_parts = dataclasses.replace(parts, folder=tmp_path / "whole")
  kept = evaluating.keep(tmp_path, whole_parts, params)
  name = evaluating.NAME
  whole = evaluate.evaluate(whole_parts, params, tasks, name)
  (tmp_path / "recipe.py").write_text(RECIPE)
  out_dir = tmp_path / "killed"
  path = kept_episodes.path_of(out_dir, name)

  def start():
    return evaluating.start(root, tmp_path / "recipe.py", out_dir, kept)

  process = start()
  while process.poll() is None and len(_lines(path)) < 5:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  _, errors = process.communicate()
  assert process.returncode == -signal.SIGKILL, errors
  num_kept = len(_lines(path)) - 1
  assert 4 <= num_kept < NUM_EPISODES
  assert not run_folder.evaluation_path(out_dir, name).exists()

  process = start()
  out, errors = process.communicate()
  assert process.returncode == 0, errors
  assert f"{num_kept} of {NUM_EPISODES} episodes were played already" in out
  text = run_folder.evaluation_path(out_dir, name).read_text()
  assert json.loads(text) == whole
  assert _transcripts(out_dir, name) == _transcripts(whole_parts.folder, name)


def test_what_several_hosts_played_is_taken_over(
  parts, tasks, tmp_path, fragile, capsys
):
  """Stopped on three hosts, it goes on with one."""
  one = _as(parts, agent="oracle")
  fragile(10**6)
  whole = evaluate.evaluate(one, None, tasks, "whole")
  fragile(20)
  with pytest.raises(SystemExit):
    evaluate.evaluate(one, None, tasks, "stopped")
  first, *others = (
    kept_episodes.path_of(tmp_path, "stopped", host) for host in range(3)
  )
  head, *episodes = first.read_text().splitlines(keepends=True)
  assert len(episodes) > 4
  first.write_text(head + "".join(episodes[:2]))
  others[0].write_text(head + "".join(episodes[2:]) + '{"gym": "tele')
  others[1].write_text(head + episodes[0])  # of an earlier number of hosts

  own = tmp_path / "own.jsonl"
  pinned = json.loads(head)["pins"]
  own.write_text("of an earlier process, which the first host took over")
  kept = kept_episodes.KeptEpisodes(own, pinned, tasks, given=episodes[2:])
  kept.close()
  assert len(kept) == len(episodes) - 2 and own.read_text() == head

  played = sum(json.loads(line)["gym"] == "telepathy" for line in episodes)
  fragile(10**6)
  capsys.readouterr()
  resumed = evaluate.evaluate(one, None, tasks, "stopped")
  assert (
    f"{len(episodes)} of {NUM_EPISODES} episodes" in capsys.readouterr().out
  )
  assert len(_Gym.started) == 16 - played
  assert {**resumed, "stage": "whole"} == whole
  assert not any(path.exists() for path in (first, *others))


def test_episodes_are_kept_until_all_hosts_know_of_the_numbers(
  parts, tasks, tmp_path, monkeypatch
):
  """A host must not forget its share before the first one wrote the whole."""
  one = _as(parts, agent="oracle")
  path = kept_episodes.path_of(tmp_path, "whole")
  result = run_folder.evaluation_path(tmp_path, "whole")
  gather, met = hosts.gather, []

  def meet(value):
    met.append((path.exists(), result.exists()))
    return gather(value)

  monkeypatch.setattr(hosts, "gather", meet)
  evaluate.evaluate(one, None, tasks, "whole")
  assert met[-1] == (True, True) and not path.exists()
  # What a kill right before the end left is not taken over by a later one.
  path.write_text("left")
  evaluate.evaluate(one, None, tasks, "whole")
  assert not path.exists()
