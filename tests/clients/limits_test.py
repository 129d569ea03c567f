"""Requests at once and a minute, on a clock of the test's own."""

import asyncio
import time

import pytest

from tests.clients import episodes
from tests.clients import server
from userrl_jax import underway
from userrl_jax import users
from userrl_jax.clients import limits as limits_lib


class Clock:
  """Runs faster than time, by so much."""

  def __init__(self, factor):
    self._factor, self._start = factor, time.monotonic()

  def __call__(self):
    return self._factor * (time.monotonic() - self._start)


def passed(limits, clock, sizes, corrected=None):
  """Returns when each of the requests got its place, in the clock's seconds."""
  times = {}

  async def one(i, size):
    async with limits.place(size) as booked:
      times[i] = clock()
      if corrected is not None:
        limits.correct(booked, corrected)

  async def run():
    # What sleeps so many seconds of the clock sleeps too long: it is faster.
    await asyncio.gather(*(one(i, size) for i, size in enumerate(sizes)))

  asyncio.run(run())
  return [times[i] for i in range(len(sizes))]


@pytest.fixture
def fast(monkeypatch):
  """A clock on which a minute takes 0.3 s, for sleeping as well."""
  clock = Clock(200.0)
  sleep = asyncio.sleep
  monkeypatch.setattr(
    limits_lib.asyncio, "sleep", lambda seconds: sleep(seconds / 200.0)
  )
  return clock


@pytest.mark.parametrize(
  ("limits", "size", "per_minute"),
  [
    ({"requests_per_minute": 4}, 10, 4),
    ({"tokens_per_minute": 100}, 30, 3),
    ({"requests_per_minute": 2, "tokens_per_minute": 100}, 1, 2),
    ({"tokens_per_minute": 100}, 500, 1),  # alone, or never
  ],
)
def test_no_minute_holds_more(fast, limits, size, per_minute):
  times = passed(limits_lib.Limits(8, clock=fast, **limits), fast, [size] * 8)
  assert times == sorted(times)  # in order of arrival
  for early, late in zip(times, times[per_minute:]):
    assert late - early >= 59.9
  assert times[per_minute - 1] < 30  # and the first ones at once


def test_what_a_request_did_not_take_is_free_again(fast):
  limits = limits_lib.Limits(8, tokens_per_minute=100, clock=fast)
  times = passed(limits, fast, [50] * 6, corrected=10)
  assert times[-1] < 30


def test_all_wait_when_the_endpoint_asks_for_it(fast):
  limits = limits_lib.Limits(8, clock=fast)
  limits.hold(40.0)
  assert min(passed(limits, fast, [1, 1])) >= 39.9


def test_waiting_for_our_own_limits_is_no_timeout():
  limits = limits_lib.Limits(1)

  async def one():
    async with underway.within(0.25), limits.place(1):
      await asyncio.sleep(0.1)

  async def run():
    await asyncio.gather(*(one() for _ in range(6)))

  asyncio.run(run())


def test_roles_share_their_limits():
  table = episodes.Table()
  with server.Server(episodes.moody, delay_s=0.05) as running:
    who = users.User(
      episodes.user(running.base_url, max_concurrent=3),
      episodes.config_lib.Judge(model="big", temperature=0.5, max_tokens=9),
    )
    asyncio.run(who.check())
    groups = table.play(who, group_size=3)
    assert running.max_under_way == 3
    assert running.num_connections <= 2 + 3  # two for the words of the check
    judged = episodes.judges(running)
    assert {r.body["model"] for r in judged} == {"big"}
    assert {r.body["max_tokens"] for r in judged} == {9}
    asked = [r for r in running.log[2:] if r not in judged]
    assert {r.body["model"] for r in asked} == {"small"}
  counts = who.take_counts()
  assert counts["judge/requests"] == 1 + len(judged)
  assert counts["user/requests"] == 1 + len(asked)
  assert all(t.is_valid for t in episodes.trajectories(groups))
