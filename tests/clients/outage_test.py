"""An endpoint that is away for a while: nothing is lost, nothing scored 0."""

import asyncio
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.clients import episodes
from tests.clients import server
from userrl_jax import types
from userrl_jax import users


@pytest.fixture(scope="module")
def table():
  return episodes.Table()


class Process:
  """The server as a process of its own, which can die."""

  def __init__(self, root, delay_s=0.02, *flags):
    with socket.create_server(("127.0.0.1", 0)) as taken:
      self._port = taken.getsockname()[1]
    self._root, self._delay_s, self._flags = root, delay_s, flags
    self.base_url = f"http://127.0.0.1:{self._port}/v1"

  def start(self, dies_after=0):
    self._process = subprocess.Popen(
      [
        *(sys.executable, "-m", "tests.clients.server"),
        *("--port", str(self._port), "--delay_s", str(self._delay_s)),
        *("--dies_after", str(dies_after), *self._flags),
      ],
      cwd=self._root,
      stdout=subprocess.PIPE,
    )
    assert b"serving" in self._process.stdout.readline()

  def wait(self):
    """Waits until it has died."""
    assert self._process.wait(600.0) == -signal.SIGKILL
    self._process.stdout.close()

  def kill(self):
    self._process.send_signal(signal.SIGKILL)
    self._process.wait()
    self._process.stdout.close()


def limits(**changes):
  return episodes.config_lib.Rollout(
    **{"max_tokens_per_episode": 4096, "max_invalid_share": 0.0} | changes
  )


def play_while(table, process, who, away_s, **changes):
  """Plays many episodes; the server dies amid them, and starts again."""

  def start_again():
    process.wait()
    time.sleep(away_s)
    process.start()

  process.start(dies_after=300)  # of some 600
  thread = threading.Thread(target=start_again)
  thread.start()
  try:
    return table.play(who, 8, limits=limits(**changes), tasks=table.tasks * 4)
  finally:
    thread.join()
    process.kill()


def test_a_server_that_is_killed_and_comes_back_costs_time_only(
  table, root, caplog
):
  process = Process(root)
  # The step's time is far shorter than the outage, and still enough.
  who = users.User(
    episodes.user(
      process.base_url, max_outage_s=60.0, timeout_s=3.0, max_concurrent=8
    )
  )
  with caplog.at_level(logging.WARNING):
    groups = play_while(table, process, who, 8.0, step_timeout_s=6.0)
  played = episodes.trajectories(groups)
  assert len(played) == 8 * 24
  assert {str(t.fault) for t in played} == {"ok"}
  counts = who.take_counts()
  assert counts["user/outages"] >= 1 and counts["user/outage_s"] > 7.0
  assert not [name for name in counts if "failed" in name]
  assert "rollouts wait for it" in caplog.text
  assert re.search(r"answers again after \d+ s", caplog.text)
  # The same as if nothing had happened: this model answers by rule.
  process.start()
  who = users.User(episodes.user(process.base_url))
  calm = table.play(who, 8, limits=limits(), tasks=table.tasks * 4)
  process.kill()
  assert episodes.written(calm) == episodes.written(groups)


def test_without_the_breaker_such_episodes_are_invalid_never_0(table, root):
  process = Process(root)
  who = users.User(episodes.user(process.base_url, num_retries=0))
  groups = play_while(
    table, process, who, 1.0, max_invalid_share=1.0, num_retries=0
  )
  played = episodes.trajectories(groups)
  assert {str(t.fault) for t in played} == {"ok", "user_error"}


def test_one_at_a_time_tries_whether_it_is_back(table):
  """And nobody else: a server that starts is not run over."""
  with server.Server(
    episodes.moody, script=["503"] * 8, delay_s=0.01
  ) as running:
    who = users.User(
      episodes.user(running.base_url, max_outage_s=60.0, num_retries=0)
    )
    start = time.monotonic()
    groups = table.play(who, 1, limits=limits())
    assert time.monotonic() - start > 1.0
    faults = [request.fault for request in running.log]
    assert faults.count("503") == 8
    assert all(t.is_valid for t in episodes.trajectories(groups))
  assert who.take_counts()["user/outages"] == 1


def test_what_fails_for_one_request_alone_is_no_outage(table):
  """Others are answered: it is retried, then booked, and nobody waits."""
  bad = table.tasks[0].secret.reveal()["name"]

  class Picky(server.Server):
    def _fault(self, body):
      is_bad = f"Name: {bad}\n" in body["messages"][-1]["content"]
      return "500" if is_bad else ""

  with Picky(episodes.moody, delay_s=0.05) as running:
    who = users.User(
      episodes.user(running.base_url, max_outage_s=60.0, num_retries=2)
    )
    groups = table.play(who, 1, limits=limits(max_invalid_share=1.0))
  faults = [str(t.fault) for t in episodes.trajectories(groups)]
  assert faults == ["user_error", *["ok"] * 5]
  assert "user/outages" not in who.take_counts()


def test_an_outage_that_lasts_stops_the_run_and_books_nothing(table):
  with server.Server(episodes.moody) as running:
    pass
  who = users.User(
    episodes.user(running.base_url, max_outage_s=1.0, num_retries=1)
  )
  start = time.monotonic()
  with pytest.raises(types.SetupError, match=r"got nothing for 1 s") as caught:
    table.play(who, 2, limits=limits())
  assert 0.9 < time.monotonic() - start < 30.0
  assert "user.max_outage_s" in str(caught.value)


def test_a_run_may_start_before_its_endpoint(root):
  process = Process(root)
  who = users.User(episodes.user(process.base_url, max_outage_s=60.0))
  thread = threading.Timer(1.0, process.start)
  thread.start()
  asyncio.run(who.check())
  thread.join()
  process.kill()
