"""Requests at once and a minute."""

import asyncio

import pytest

from tests import virtual_time
from tests.clients import episodes
from tests.clients import server
from userrl_jax import underway
from userrl_jax import users
from userrl_jax.clients import limits as limits_lib


def make(max_concurrent, **limits):
  return limits_lib.Limits(max_concurrent, clock=virtual_time.now, **limits)


def passed(limits, sizes, corrected=None, held_s=0.0):
  """Returns after how many seconds each of the requests got its place."""
  times = {}

  async def one(i, size):
    async with limits.place(size) as booked:
      times[i] = virtual_time.now()
      if corrected is not None:
        limits.correct(booked, corrected)

  async def run():
    limits.hold(held_s)
    await asyncio.gather(*(one(i, size) for i, size in enumerate(sizes)))

  virtual_time.run(run())
  return [times[i] for i in range(len(sizes))]


@pytest.mark.parametrize(
  ("limits", "size", "per_minute"),
  [
    ({"requests_per_minute": 4}, 10, 4),
    ({"tokens_per_minute": 100}, 30, 3),
    ({"requests_per_minute": 2, "tokens_per_minute": 100}, 1, 2),
    ({"tokens_per_minute": 100}, 500, 1),  # alone, or never
  ],
)
def test_no_minute_holds_more(limits, size, per_minute):
  times = passed(make(8, **limits), [size] * 8)
  assert times == sorted(times)  # in order of arrival
  for early, late in zip(times, times[per_minute:]):
    assert late - early == pytest.approx(60.0, abs=0.1)
  assert times[per_minute - 1] == 0.0  # the first ones at once


def test_what_a_request_did_not_take_is_free_again():
  times = passed(make(8, tokens_per_minute=100), [50] * 6, corrected=10)
  assert times[-1] == 0.0


def test_all_wait_when_the_endpoint_asks_for_it():
  times = passed(make(8), [1, 1], held_s=40.0)
  assert times == pytest.approx([40.0, 40.0], abs=0.1)


def test_waiting_for_our_own_limits_is_no_timeout():
  limits = limits_lib.Limits(1)

  async def one():
    async with underway.within(0.25), limits.place(1):
      await asyncio.sleep(0.1)

  async def run():
    await asyncio.gather(*(one() for _ in range(6)))

  virtual_time.run(run())


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
