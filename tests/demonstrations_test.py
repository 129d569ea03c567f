"""Demonstrations by any agent: chosen, written, resumed, imitated."""

import dataclasses
import json
import re

import pytest

from tests.agents import guesser
from tests.clients import server
from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import config_gyms
from userrl_jax import config_rules
from userrl_jax import demonstrate
from userrl_jax import demonstrations
from userrl_jax import evaluate
from userrl_jax import exchange
from userrl_jax import flags
from userrl_jax import stages
from userrl_jax import types

COMMAND = flags.Command((), "", {})


def make_config(folder, who, **sections):
  c = config_lib.Config(out_dir=str(folder), **sections)
  c.model.num_layers = 1
  c.gyms = config_lib.Gyms(
    names=("function", "telepathy"),
    num_train_tasks=6,
    num_test_tasks=4,
    telepathy=config_gyms.Telepathy(guess_limit=0),
  )
  c.rollout.max_tokens_per_episode = 512
  c.cold_start.num_tries = 3
  c.cold_start.noise = 0.3
  c.cold_start.episodes_per_step = 2
  c.grpo.tasks_per_iteration = 4
  c.evaluation.agent = who
  c.evaluation.num_tasks = 4
  config_rules.validate(c)
  return c


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
  """A finished run of demonstrations by the oracle: parts and report."""
  parts = assembly.build(make_config(tmp_path_factory.mktemp("o"), "oracle"))
  return parts, demonstrations.make(parts, COMMAND)


def _files(folder):
  """Returns what a run wrote; episodes may finish in another order."""
  texts = {
    path.name: path.read_text()
    for path in (folder / "demonstrations").iterdir()
  }
  episodes = (folder / "episodes" / "demonstrations.jsonl").read_text()
  return {**texts, "episodes": sorted(episodes.splitlines())}


def test_the_best_of_each_task_are_written(oracle):
  parts, report = oracle
  dialogues = exchange.read(parts.folder / "demonstrations" / "dialogues.jsonl")
  tasks = [(d.gym, d.task) for d in dialogues]
  assert len(set(tasks)) == len(tasks)  # cold_start.top_k is 1
  assert {d.split for d in dialogues} == {"train"}
  assert all(d.score == 1.0 for d in dialogues)
  for gym in ("function", "telepathy"):
    of = report["gyms"][gym]
    assert of["played"] == 18 == of["kept"] + sum(of["left_out"].values())
    assert of["kept"] == sum(d.gym == gym for d in dialogues) > 3
    assert of["score_of_valid"] < of["score_of_kept"] == 1.0
    assert of["left_out"]["earned nothing"] > 0
  other = exchange.read(parts.folder / "demonstrations" / "sharegpt.json")
  assert [d.messages for d in other] == [d.messages for d in dialogues]


def test_the_same_again_is_played_once_and_the_same_elsewhere(
  oracle, tmp_path, monkeypatch, capsys
):
  parts, report = oracle
  first = _files(parts.folder)
  # Killed amid a line: one episode is left, and half of another.
  path = parts.folder / "episodes" / "demonstrations.jsonl"
  whole = path.read_text()
  path.write_text(whole[: whole.index("\n", whole.index("\n") + 1) + 40])
  assert demonstrations.make(parts, COMMAND) == report
  assert "1 episodes were played already" in capsys.readouterr().out
  assert _files(parts.folder) == first
  # Complete: nobody plays.
  no_more = lambda *_, **settings: pytest.fail("they are there already")
  monkeypatch.setattr(demonstrate, "oracle_script", no_more)
  assert demonstrations.make(parts, COMMAND) == report
  assert _files(parts.folder) == first


def test_an_agents_flaws_are_left_out(oracle):
  parts, _ = oracle
  kept = [
    json.loads(line)
    for line in (parts.folder / "episodes" / "demonstrations.jsonl")
    .read_text()
    .splitlines()[1:]
  ]
  groups = demonstrations._play(parts, None, parts.tasks[:1], _Nothing())
  good = max(groups[0].trajectories, key=lambda t: t.reward)
  assert good.reward == 1.0 and len(kept) == 36
  spoil = lambda **turn: dataclasses.replace(
    good, turns=(dataclasses.replace(good.turns[0], **turn), *good.turns[1:])
  )
  spoiled = {
    "a turn is agent_malformed": spoil(fault=types.Fault.AGENT_MALFORMED),
    "invalid: agent_error": dataclasses.replace(
      good, fault=types.Fault.AGENT_ERROR
    ),
    "longer than rollout.max_tokens_per_episode": dataclasses.replace(
      good, stop_reason=types.StopReason.EPISODE_BUDGET
    ),
    "earned nothing": dataclasses.replace(good, turns=(good.turns[0],)),
    "below cold_start.min_score": dataclasses.replace(good, max_score=2.0),
    "a turn with several calls": dataclasses.replace(
      good, turns=(*good.turns, good.turns[-1])
    ),
  }
  settings = dataclasses.replace(parts.config.cold_start, min_score=0.6)
  demanding = dataclasses.replace(
    parts, config=dataclasses.replace(parts.config, cold_start=settings)
  )
  group = types.Group(good.task, [*spoiled.values(), good])
  chosen, report = demonstrations.choose(demanding, [group])
  assert chosen == [good]
  assert report[good.task.gym]["left_out"] == dict.fromkeys(spoiled, 1)


class _Nothing:
  """Keeps nothing."""

  def find(self, task, member):
    return None

  def add(self, trajectory):
    pass


def test_a_cold_start_imitates_them(oracle, tmp_path, capsys):
  parts, report = oracle
  path = parts.folder / "demonstrations" / "dialogues.jsonl"
  played = demonstrate.ranked(
    parts.config, parts.tasks, parts.chat, parts.episodes
  )
  streams = {}
  for name in ("oracle", str(path)):
    cold_start = dataclasses.replace(parts.config.cold_start, source=name)
    evaluation = config_lib.Evaluation()
    config = dataclasses.replace(
      parts.config,
      cold_start=cold_start,
      evaluation=evaluation,
      stages=("cold_start",),
    )
    run = dataclasses.replace(
      parts, config=config, folder=tmp_path / str(len(streams))
    )
    (stage,) = stages.plan(run)
    stages.stream(run, stage)  # makes them; what follows reads them back
    streams[name] = stages.stream(run, stage).get_state()["items_sha256"]
  assert streams["oracle"] == streams[str(path)]  # the same ids, and turns
  total = sum(of["kept"] for of in report["gyms"].values())
  assert total == len(played)
  out = capsys.readouterr().out
  assert f"{total} of {total} dialogues are kept" in out
  assert "of no use here: cold_start.num_tasks, cold_start.num_tries, " in out


def test_a_wrong_source_is_refused_before_anything_compiles(oracle, tmp_path):
  parts, _ = oracle
  bad = tmp_path / "bad.json"
  bad.write_text('[{"conversations": 3}]')
  for source, message in (
    (bad, "bad.json, record 1: field 'conversations' must be a list"),
    (tmp_path / "none.jsonl", "none.jsonl must be readable"),
    (tmp_path, "field 'conversations'"),
  ):
    config = dataclasses.replace(
      parts.config,
      evaluation=config_lib.Evaluation(),
      cold_start=config_lib.ColdStart(source=str(source)),
    )
    run = dataclasses.replace(parts, config=config, folder=tmp_path / "run")
    with pytest.raises(ValueError, match=message):
      stages.plan(run)


def test_what_cannot_demonstrate_is_refused(oracle):
  parts, _ = oracle
  for agent, message in (
    ("canned", "moves are random"),
    ("policy", "init_fro"),
  ):
    evaluation = dataclasses.replace(parts.config.evaluation, agent=agent)
    config = dataclasses.replace(parts.config, evaluation=evaluation)
    with pytest.raises(ValueError, match=message):
      demonstrations.check(dataclasses.replace(parts, config=config))


def test_an_endpoint_demonstrates_and_is_evaluated_and_replayed(
  tmp_path, capsys
):
  with server.Server(guesser.answer, 0.1, faults=("error", "drop")) as running:
    agent = config_lib.Agent("Org/m 1", running.base_url)
    config = make_config(tmp_path / "run", "endpoint", agent=agent)
    config.gyms.names = ("telepathy",)
    config.user.num_retries = 4
    config.recording.mode = "record"
    config.recording.file = str(tmp_path / "answers.sqlite")
    config.budget.max_calls = 500
    config_rules.validate(config)
    parts = assembly.build(config)
    report = demonstrations.make(parts, COMMAND)
    assert report["agent"] == "Org/m 1"
    assert report["gyms"]["telepathy"]["kept"] == 6  # in six turns all win
    tasks = assembly.held_out_tasks(config)
    summary = evaluate.evaluate(parts, None, tasks, evaluate._what(config)[0])
    assert summary["stage"] == "Org-m-1"
    assert summary["gyms"]["telepathy"]["score"] == 1.0
    spent = json.loads((parts.folder / "budget.json").read_text())["spent"]
    assert {of["role"] for of in spent} == {"agent"}
    assert sum(of["calls"] for of in spent) == len(running.log)
    num_failed = sum(bool(request.fault) for request in running.log)
    said = re.findall(
      "at most (.*) calls of the agent", capsys.readouterr().out
    )
    # What was played again in place of a failure was not foretold; nor was the
    # evaluation, which only the command of that name tells.
    of_evaluation = len(tasks) * config.gyms.max_turns
    num_asked = len(running.log) - num_failed - 1  # the first word
    assert 0.5 < num_asked / (int(said[0]) + of_evaluation) <= 1
  again = dataclasses.replace(config, out_dir=str(tmp_path / "again"))
  again.recording = dataclasses.replace(config.recording, mode="replay")
  parts_again = assembly.build(again)  # there is no endpoint any more
  assert demonstrations.make(parts_again, COMMAND)["gyms"] == report["gyms"]
  one, other = (p.folder / "demonstrations" for p in (parts, parts_again))
  for name in ("dialogues.jsonl", "sharegpt.json"):
    assert (one / name).read_text() == (other / name).read_text()


def test_an_agents_settings_need_an_endpoint_and_say_so():
  def problems(**values):
    with pytest.raises(ValueError) as raised:
      config_rules.validate(config_lib.Config(**values))
    return str(raised.value)

  endpoint = config_lib.Evaluation(agent="endpoint")
  assert "agent.model must be left out" in problems(
    agent=config_lib.Agent(model="m")
  )
  assert "agent.model must be the name" in problems(evaluation=endpoint)
  agent = config_lib.Agent(model="m", usd_per_million_out=1.0)
  sampling = dataclasses.replace(endpoint, top_k=3)
  assert "evaluation.top_k must be left out" in problems(
    evaluation=sampling, agent=agent
  )
  config_rules.validate(
    config_lib.Config(
      evaluation=endpoint,
      agent=agent,
      budget=config_lib.Budget(max_usd=1.0),
      recording=config_lib.Recording("record", "file"),
    )
  )


def test_a_policy_demonstrates_through_the_engine(tmp_path):
  config = make_config(tmp_path, "policy")
  config.gyms.names, config.gyms.max_turns = ("function",), 2
  config.rollout.max_tokens_per_turn = 8
  config.engine = config_lib.Engine(num_rows=8, num_lanes=8, decode_tokens=8)
  config.cold_start.num_tasks = 2
  parts = assembly.build(config)
  params = assembly.first_params(parts)
  tasks = parts.tasks[:2]
  groups = demonstrations._play(parts, params, tasks, _Nothing())
  assert [len(group.trajectories) for group in groups] == [3, 3]
  tries = [t for group in groups for t in group.trajectories]
  assert len({t.token_ids_T.tobytes() for t in tries}) == 6  # each draws apart
  chosen, report = demonstrations.choose(parts, groups)
  # Random params say nothing that could be read, and that shows nobody how.
  assert chosen == [] and report["function"]["score_of_kept"] is None
  flaws = report["function"]["left_out"]
  assert sum(flaws.values()) == 6 and set(flaws) <= {
    "a turn is truncated",
    "a turn is agent_malformed",
  }
