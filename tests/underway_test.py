"""What is known of an episode below it: draws, words, a clock that can stop."""

import asyncio

import pytest

from tests import virtual_time
from userrl_jax import underway


def test_draws_follow_from_the_episode_alone():
  async def names(name, pause_s):
    with underway.episode(name, "function"):
      first = underway.current().draw()
      await asyncio.sleep(pause_s)
      return first, underway.current().draw(), underway.secret_word()

  async def both(*pauses_s):
    return await asyncio.gather(*map(names, "ab", pauses_s))

  first, again = asyncio.run(both(0.02, 0.0)), asyncio.run(both(0.0, 0.02))
  assert first == again
  assert [names[:2] for names in first] == [("a#0", "a#1"), ("b#0", "b#1")]
  assert first[0][2] != first[1][2]


def test_words_are_32_digits_and_random_outside_of_episodes():
  with underway.episode("a", "function"):
    inside = [underway.secret_word() for _ in range(3)]
  outside = [underway.secret_word() for _ in range(3)]
  words = inside + outside
  assert len(set(words)) == 6
  assert all(len(word) == 32 and int(word, 16) >= 0 for word in words)
  assert underway.current() is None


def test_a_pause_stops_the_clock():
  async def run(pause_s, work_s):
    async with underway.within(0.2):
      await asyncio.sleep(0.1)
      with underway.paused():
        await asyncio.sleep(pause_s)
      await asyncio.sleep(work_s)

  virtual_time.run(run(0.4, 0.0))

  async def too_long():
    with pytest.raises(TimeoutError):
      await run(0.3, 5.0)
    return virtual_time.now()

  assert virtual_time.run(too_long()) == pytest.approx(0.5)


def test_pauses_at_once_stop_it_once():
  async def pause(seconds):
    with underway.paused():
      await asyncio.sleep(seconds)

  async def run():
    async with underway.within(0.15):
      await asyncio.gather(pause(0.1), pause(0.3))
      await asyncio.sleep(0.05)
      await asyncio.gather(pause(0.2), asyncio.sleep(0.1))
    with underway.paused():  # where nothing runs out, nothing is stopped
      pass

  virtual_time.run(run())


def test_a_deadline_can_be_let_expire():
  async def run():
    with pytest.raises(TimeoutError):
      async with underway.within(60.0):
        await underway.expire()
    return virtual_time.now()

  assert virtual_time.run(run()) < 1.0
