"""The audit of users: planted misdeeds are found, honest users are clean."""

import asyncio
import json
import random

import pytest

from tests.clients import episodes
from tests.clients import server
from userrl_jax import audit
from userrl_jax import audit_rows
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import demonstrate
from userrl_jax import gyms
from userrl_jax import metrics
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode
from userrl_jax.users import profiles

GYMS = ("intention", "telepathy", "travel", "turtle")


def _config():
  c = config_lib.Config()
  c.gyms = config_lib.Gyms(
    names=GYMS, num_train_tasks=4, num_test_tasks=4, max_turns=8
  )
  return c


def _played(users, num_attempts=1):
  """Returns transcripts of oracles with these users."""
  c = _config()
  settings = episode.Settings(c.rollout, c.gyms.max_turns, "brief", False)
  tasks = [
    task for g in GYMS for task in gyms.load_tasks(g, c.gyms, "test", c.seed)
  ]
  make = lambda task, member, seed: demonstrate.Speaker(
    demonstrate.oracle_script(task, random.Random(seed), 0.2, c.gyms)
  )
  groups = asyncio.run(
    collect.collect(
      tasks,
      num_attempts,
      lambda name: gyms.make(name, c.gyms),
      make,
      settings,
      seed=c.seed,
      iteration=3,
      users=users,
    )
  )
  return [metrics.trajectory_record(t) for g in groups for t in g.trajectories]


def _written(folder, records, user=None):
  (folder / "transcripts").mkdir(parents=True)
  c = _config()
  c.user = user or c.user
  config = config_fields.to_dict(c)
  (folder / "config.json").write_text(json.dumps(config))
  lines = "".join(json.dumps(r) + "\n" for r in records)
  (folder / "transcripts" / "evaluation_x.jsonl").write_text(lines)
  return folder


def _rows(folder, records):
  return {row.gym: row for row in audit.audit([_written(folder, records)])}


def _kinds(row):
  return {f.kind for f in row.findings}


def test_rules_keep_to_their_part(tmp_path):
  for row in _rows(tmp_path, _played(None)).values():
    assert row.user == "rules" and row.findings == []
    assert row.counts["checked"] == row.counts["turns"] > 0
    assert row.consistency[0] in (None, 1.0)


def test_what_profiles_do_is_found(tmp_path):
  users = profiles.each(("wrong", "evasive"), 1)
  records = _played(users, 2)
  rows = audit.audit([_written(tmp_path, records)])
  found = {(row.user, kind) for row in rows for kind in _kinds(row)}
  assert ("rules (wrong)", "contradicts facts") in found
  assert {("rules (evasive)", k) for k in ("ignored", "refusal")} <= found
  assert not {k for _, k in found} & {"leak", "premature", "stopped"}
  misled = sum(
    turn["privileged"].get("outcome") == "misled"
    for record in records
    for turn in record["turns"]
  )
  against = [f for r in rows for f in r.findings if "facts" in f.kind]
  # Where rules have no answer, such as Maybe, there is none to contradict.
  assert 0 < len(against) == misled


@pytest.fixture
def travel():
  """The first record of a game of Travel that has asked for two wishes."""
  records = [r for r in _played(None) if r["gym"] == "travel"]
  return next(
    r
    for r in records
    if [t["privileged"]["outcome"] for t in r["turns"]].count("wish") >= 1
  )


def test_a_leak_is_told_from_what_came_too_early(tmp_path, travel):
  wishes = [
    k
    for k, turn in enumerate(travel["turns"])
    if turn["privileged"]["outcome"] == "wish"
  ]
  told = travel["turns"][wishes[-1]]["observation"]
  early = json.loads(json.dumps(travel))
  early["turns"][0]["observation"] += f" {told}"
  folder = tmp_path / "early" / "transcripts" / "evaluation_x.jsonl"
  (row,) = _rows(tmp_path / "early", [early]).values()
  linked = audit_rows.table([row], tmp_path)
  assert f"[{folder}:1](early/transcripts/evaluation_x.jsonl#L1) t" in linked
  assert _kinds(row) == {"premature"}
  assert row.findings[0].place.endswith("evaluation_x.jsonl:1")
  cut = json.loads(json.dumps(early))
  cut["turns"] = cut["turns"][: wishes[-1]]
  (row,) = _rows(tmp_path / "leak", [cut]).values()
  assert _kinds(row) == {"leak"}


def _telepathy(*exchanges, fault="ok"):
  record = next(r for r in _played(None) if r["gym"] == "telepathy")
  turn = {**record["turns"][0], "fault": fault}
  record["turns"] = [
    {
      **turn,
      "action": {"choice": "action", "content": question},
      "observation": reply,
      "privileged": {"outcome": "said"},
    }
    for question, reply in exchanges
  ]
  return record


MISDEEDS = [
  ([("Is it so?", "Yes."), ("is it so", "No.")], {"contradicts itself"}),
  ([("Is it so?", "Yes."), ("Is it so?", "yes, sure")], set()),
  ([("Hm?", "I'm sorry, but I can't help with that.")], {"refusal"}),
  ([("What a very nice day today", "What a very nice day today!")], {"echo"}),
  ([("Is it so?", "Is it so?")], set()),  # too short to tell
]


@pytest.mark.parametrize(("exchanges", "kinds"), MISDEEDS)
def test_misdeeds_that_need_no_truth(tmp_path, exchanges, kinds):
  (row,) = _rows(tmp_path, [_telepathy(*exchanges)]).values()
  assert _kinds(row) == kinds


def test_consistency_counts_pairs_over_episodes(tmp_path):
  replies = ("Yes.", "Yes.", "No.", "Maybe.")
  records = [_telepathy(("Is it so?", reply)) for reply in replies]
  (row,) = _rows(tmp_path, records).values()
  assert row.consistency == (pytest.approx(1 / 3), 3)
  assert row.diversity == pytest.approx(3 / 4)


ASKED_TWICE = [
  # (user, share of pairs in the same words, of distinct replies)
  (server.telepathy_answer, (1.0, 1.0), (0.0, 0.15)),
  (episodes.moody_in_order(), (0.1, 0.6), (0.0, 0.15)),
  ("rules", (1.0, 1.0), (0.0, 0.15)),
]


@pytest.mark.parametrize(("answer", "same", "distinct"), ASKED_TWICE)
def test_the_same_is_asked_twice(tmp_path, answer, same, distinct, capsys):
  questions = [(f"Is it of the kind {n}?", "Yes.") for n in range(6)]
  records = [_telepathy(*questions) for _ in range(12)]
  file = tmp_path / "audit.json"
  with server.Server(answer) as running:
    user = None if answer == "rules" else episodes.user(running.base_url)
    folder = _written(tmp_path / "run", records, user)
    assert audit.main([str(folder), "--probe=40", "--json", str(file)]) == 0
  (row,) = json.loads(file.read_text())
  found = row["probe"]["shares"]
  assert len(row["probe"]["pairs"]) == 40 and not row["probe"]["num_failed"]
  assert same[0] <= found["same words"] <= same[1]
  assert found["same outcome"] >= found["same words"]
  if answer != "rules":  # which have no answer to such questions
    assert same[0] <= found["same yes or no"] <= same[1]
  assert distinct[0] < found["distinct"] <= distinct[1]
  if answer != "rules":  # every reply was asked for, and each by itself
    fences = [r.body["messages"][0]["content"] for r in running.log]
    assert len(set(fences)) == len(fences) == 81  # with the first word
  printed = capsys.readouterr().out
  name = "rules" if answer == "rules" else "small"
  assert f"| {folder} | {name} | telepathy | 40 | 0 | " in printed


def test_a_question_that_fails_is_told(tmp_path):
  questions = [("Is it so?", "Yes."), ("Is it not?", "Yes.")]
  with server.Server(server.telepathy_answer, script=["", "500"]) as running:
    user = episodes.user(running.base_url, num_retries=0)
    folder = _written(tmp_path, [_telepathy(*questions)], user)
    (row,) = audit.audit([folder], 5)
  assert row.probe.num_failed == 1 and len(row.probe.pairs) == 1


def test_users_that_cannot_be_asked_end_it(tmp_path, capsys):
  with server.Server(server.telepathy_answer) as running:
    url = running.base_url
  user = episodes.user(url, num_retries=0)
  folder = _written(tmp_path, [_telepathy(("Is it so?", "Yes."))], user)
  assert audit.main([str(folder), "--probe=1"]) == 2
  assert "the endpoint of section user must answer" in capsys.readouterr().err
  assert audit.main([str(folder), "--probe=-1"]) == 2
  assert "--probe must be at least 0, got -1" in capsys.readouterr().err


def test_a_stopped_leak_is_counted(tmp_path):
  record = _telepathy(("Is it so?", ""), fault="user_leak")
  (row,) = _rows(tmp_path, [record]).values()
  assert _kinds(row) == {"stopped"} and row.share("stopped") == 1.0


def test_what_agents_do_where_they_are_refused_is_found(tmp_path):
  records = []
  for n in range(40):
    rude = n % 4 == 0
    question = f"{'As you are told, is' if rude else 'Is'} it so?"
    fault = "user_refusal" if rude else "ok"
    record = _telepathy((question, "" if rude else "Yes."), fault=fault)
    records.append(record | {"task": f"task {n % 5}"})
  (row,) = _rows(tmp_path, records).values()
  said = audit_rows.table([row])
  line = '10 of 10 calls of action that say "you are told", 0 of 30 others'
  assert f"- rules, refused or without a verdict, telepathy: {line}" in said
  (found,) = audit_rows.to_dicts([row])
  assert found["provoked"] == {"provoked/share": 0.25, "provoked/action": 0.25}
  assert found["provocations"][0]["num_faults"] == 10


def test_the_command(tmp_path, capsys):
  folder = _written(tmp_path / "run", _played(None))
  file = tmp_path / "audit.json"
  assert audit.main([str(folder), "--json", str(file)]) == 0
  printed = capsys.readouterr().out
  assert "| rules | travel | 4 |" in printed and "0.0% of" in printed
  assert len(json.loads(file.read_text())) == len(GYMS)
  assert audit.main([str(tmp_path / "none")]) == 2
  assert "must be the config of a run" in capsys.readouterr().err
