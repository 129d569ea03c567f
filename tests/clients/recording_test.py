"""Recorded answers: the same episodes again, offline; misses; no mixing."""

import asyncio
import itertools
import json
import random
import sqlite3
import stat

import pytest

from tests.clients import episodes
from tests.clients import server
from userrl_jax import config
from userrl_jax import types
from userrl_jax import underway
from userrl_jax import users

FAULTS = ("error", "broken", "refusal", "empty", "drop")


@pytest.fixture(scope="module")
def table():
  return episodes.Table()


@pytest.fixture
def file(tmp_path):
  return tmp_path / "answers.sqlite"


def who(base_url, mode, file, folder=None, **changes):
  recorded = config.Recording(mode, "" if mode == "live" else str(file))
  return users.User(
    episodes.user(base_url, **changes), recorded=recorded, folder=folder
  )


def record(table, file, **faults):
  """Returns the groups of two iterations, and how often a model was asked."""
  with server.Server(episodes.moody, **faults) as running:
    user = who(running.base_url, "record", file, temperature=1.0)
    groups = [table.play(user, 3, iteration=i) for i in range(2)]
    return groups, len(running.log), running.base_url


def replay(table, file, base_url, mode="replay", **changes):
  user = who(base_url, mode, file, **{"temperature": 1.0} | changes)
  return [table.play(user, 3, iteration=i) for i in range(2)], user


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_what_was_recorded_is_played_again_offline(table, file, share):
  random.seed(1)
  groups, num_asked, url = record(table, file, fault_share=share, faults=FAULTS)
  again, user = replay(table, file, url)  # nobody listens there any more
  assert [*map(episodes.written, groups)] == [*map(episodes.written, again)]
  counts = user.take_counts()
  assert counts["user/requests"] == 0
  assert 0 < counts["user/replayed"] <= num_asked
  faults = {str(t.fault) for g in groups for t in episodes.trajectories(g)}
  assert (len(faults) > 2) == (share > 0)
  # A model that answers by chance would not have said the same twice.
  other, _, _ = record(table, file.with_name("other"))
  assert episodes.written(groups[0]) != episodes.written(other[0])


def test_members_of_a_group_are_answered_apart(table, file):
  answers = itertools.cycle(("Yes", "No", "Maybe"))
  answer = lambda messages: (
    json.dumps({"right": False})
    if '"right"' in messages[0]["content"]
    else json.dumps({"answer": next(answers)})
  )

  async def ask(member, user):
    async with user.opened() as judge:
      with underway.episode(f"one.{member}", "telepathy"):
        game = episodes.gyms.make("telepathy", episodes.GYMS, judge)
        await game.reset(table.tasks[0], 0)
        step = await game.step(types.Action("action", "Is it big?"))
        return step.observation.text

  with server.Server(answer) as running:
    user = who(running.base_url, "record", file)
    said = [asyncio.run(ask(member, user)) for member in (0, 1, 0)]
    assert said[0] == said[2] != said[1]
    assert len(running.log) == 2
  again = who(running.base_url, "replay", file)
  assert [asyncio.run(ask(member, again)) for member in (1, 0)] == said[1:]


def test_a_step_that_ran_out_of_time_does_so_again_and_at_once(table, file):
  limits = episodes.config_lib.Rollout(
    max_tokens_per_episode=4096,
    step_timeout_s=3.0,
    num_retries=0,
    max_invalid_share=1.0,
  )
  with server.Server(episodes.moody, script=["", "slow", "slow"]) as running:
    user = who(running.base_url, "record", file, timeout_s=30.0)
    groups = table.play(user, 1, limits=limits)
  assert [str(t.fault) for t in episodes.trajectories(groups)].count(
    "user_timeout"
  ) == 2
  limits.step_timeout_s = 30.0
  user = who(running.base_url, "replay", file, timeout_s=30.0)
  again = table.play(user, 1, limits=limits)
  assert episodes.written(again) == episodes.written(groups).replace(
    b"within 3 s", b"within 30 s"
  )


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"temperature": 0.5}, "another sampling was recorded there"),
    ({"model": "other"}, "another model was recorded there"),
  ],
)
def test_a_miss_says_what_was_asked_and_gives_nothing_away(
  table, file, changes, why
):
  _, _, url = record(table, file)
  with pytest.raises(types.SetupError) as caught:
    replay(table, file, url, **changes)
  message = str(caught.value)
  assert why in message and "of the user to model" in message
  assert "0.telepathy." in message and str(file) in message
  for task in table.tasks:
    secret = task.secret.reveal()
    assert secret["gloss"] not in message
  user = who(url, "replay", file, temperature=1.0)
  with pytest.raises(types.SetupError, match="nothing was asked there"):
    table.play(user, 3, iteration=7)


def test_replay_or_live_asks_for_what_is_missing_only(table, file):
  groups, num_asked, _ = record(table, file)
  with server.Server(episodes.moody) as running:
    again, _ = replay(table, file, running.base_url, "replay_or_live")
    assert not running.log
    user = who(running.base_url, "replay_or_live", file, temperature=1.0)
    new = table.play(user, 3, iteration=2)
    assert 0 < len(running.log) < num_asked
  assert [*map(episodes.written, groups)] == [*map(episodes.written, again)]
  user = who(running.base_url, "replay", file, temperature=1.0)
  assert episodes.written(table.play(user, 3, iteration=2)) == (
    episodes.written(new)
  )


def test_another_process_asks_again_for_what_failed_on_the_way(table, file):
  groups, _, _ = record(table, file, fault_share=1.0, faults=("error",))
  assert not any(t.is_valid for t in episodes.trajectories(groups[0]))
  with server.Server(episodes.moody) as running:
    user = who(running.base_url, "record", file, temperature=1.0)
    again = table.play(user, 3)
  assert all(t.is_valid for t in episodes.trajectories(again))
  user = who(running.base_url, "replay", file, temperature=1.0)
  assert episodes.written(table.play(user, 3)) == episodes.written(again)


def test_recordings_of_two_runs_are_not_mixed(table, file, tmp_path):
  with server.Server(episodes.moody) as running:
    for _ in range(2):  # a run that was killed goes on with its own
      table.play(who(running.base_url, "record", file, tmp_path / "a"), 1)
    with pytest.raises(ValueError, match="needs a file of its own"):
      who(running.base_url, "record", file, tmp_path / "b")
    who(running.base_url, "replay_or_live", file, tmp_path / "b")


@pytest.mark.parametrize("text", [None, "no database", ""])
def test_what_is_no_recording_is_said_before_anything_is_played(file, text):
  if text is not None:
    file.write_text(text)
  with pytest.raises(ValueError, match=r"recording\.file must be a recording"):
    who("http://127.0.0.1:9/v1", "replay", file)


def test_the_file_is_one_and_holds_no_prompt_and_no_key(
  table, file, monkeypatch
):
  monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-seen")
  record(table, file)
  assert [p.name for p in file.parent.iterdir()] == [file.name]
  assert stat.S_IMODE(file.stat().st_mode) == 0o600
  data = file.read_bytes()
  assert b"sk-never-to-be-seen" not in data
  for task in table.tasks:
    assert task.secret.reveal()["gloss"].encode() not in data
  with sqlite3.connect(file) as database:
    (number,) = database.execute("SELECT count(*) FROM replies").fetchone()
  assert number > 20


def test_a_replay_needs_no_key(table, file, monkeypatch):
  record(table, file)
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  user = who("https://models.example/v1", "replay", file, temperature=1.0)
  asyncio.run(user.check())
  assert table.play(user, 3)
