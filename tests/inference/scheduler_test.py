"""The scheduler: who gets rows, who reads, forks, decodes; no device."""

import asyncio
import dataclasses

import numpy as np
import pytest

from userrl_jax import config as config_lib
from userrl_jax.inference import sampling
from userrl_jax.inference import scheduler

SETTINGS = config_lib.Engine(
  num_rows=3,
  num_lanes=2,
  decode_tokens=4,
  extend_chunk=64,
  extend_tokens=64,
)


class _Asked(asyncio.Future):
  """A future without a running loop; nobody awaits it here."""


def _asking(schedule, order, ids, budget=4):
  loop = asyncio.new_event_loop()
  session = scheduler.Session(order, np.zeros(2), sampling.Sampling())
  session.token_ids = list(ids)
  session.budget = budget
  session.done = _Asked(loop=loop)
  loop.close()
  schedule.ask(session)
  return session


def _make(num_tiles=1, length=0, **changes):
  settings = dataclasses.replace(SETTINGS, **changes)
  return scheduler.Scheduler(settings, num_tiles, length)


def _read(call):
  for session in call.sessions:
    session.num_written += min(call.chunk, session.num_unread - 1)


def _answer(schedule, session):
  """Ends a turn: the session's user thinks."""
  session.done = None
  schedule.withdraw(session)


def test_nobody_asks_nothing_to_do():
  assert _make().next_call() is None


def test_the_oldest_reads_first_and_pieces_depend_on_itself_alone():
  schedule = _make()
  old = _asking(schedule, 1, range(78))
  _asking(schedule, 2, range(200, 300))
  chunks = []
  while (call := schedule.next_call()).kind == "extend":
    if old in call.sessions:
      chunks.append(call.chunk)
    _read(call)
  # 77 ids to read: a long piece, and what is left in a small one.
  assert chunks == [64, 16]
  assert call.kind == "decode" and old in call.sessions


@pytest.mark.parametrize("length, lanes", [(2048, 16), (9472, 2)])
def test_last_pieces_of_long_rows_have_no_more_lanes_than_chunks(length, lanes):
  """Every lane copies its row: 64 of them took more than a chip has."""
  schedule = _make(
    length=length,
    num_rows=32,
    num_lanes=32,
    extend_chunk=128,
    extend_tokens=256,
  )
  assert schedule.num_lanes(128) == 2 and schedule.num_lanes() == 32
  assert schedule.num_lanes(scheduler.SMALL_CHUNK) == lanes
  for order in range(32):
    _asking(schedule, order, [order, 1, 2, 3])
  call = schedule.next_call()
  assert call.kind == scheduler.Kind.EXTEND
  assert (call.chunk, len(call.sessions)) == (scheduler.SMALL_CHUNK, lanes)


def test_who_has_had_least_goes_first_and_earlier_waves_before():
  schedule = _make(num_rows=4)
  veteran = _asking(schedule, 1, range(40))
  late = _asking(schedule, 2, range(100, 110))
  veteran.turn_start, late.turn_start = 40, 10
  assert schedule.next_call().sessions == [late, veteran]
  next_wave = _asking(schedule, 3, range(200, 202))
  next_wave.wave, next_wave.turn_start = 1, 2
  assert schedule.next_call().sessions == [late, veteran, next_wave]


def test_a_few_lanes_do_not_wait_for_a_call_that_is_mostly_padding():
  schedule = _make(num_rows=9, num_lanes=8, extend_tokens=64)
  ready = [_asking(schedule, i, [i]) for i in range(6)]
  reading = [_asking(schedule, 10, range(10))]
  # Two lanes are idle, and one could be filled by a call for four.
  assert schedule.next_call().sessions == ready
  reading.append(_asking(schedule, 11, range(20, 30)))
  assert schedule.next_call().sessions == reading
  schedule.release(ready[0])
  schedule.release(reading[1])
  assert schedule.next_call().sessions == reading[:1]  # 5 are few


def test_one_reads_a_shared_prompt_and_the_others_fork():
  schedule = _make(num_rows=4, extend_tokens=128)
  members = [_asking(schedule, i, [*range(60), 60]) for i in range(3)]
  other = _asking(schedule, 9, range(100, 160))
  call = schedule.next_call()
  assert call.kind == "extend"
  assert call.sessions == [members[0], other]
  _read(call)
  call = schedule.next_call()
  if call.kind == "extend":  # the rest of the reader's prompt
    _read(call)
    call = schedule.next_call()
  assert call.kind == "fork"
  assert call.sources == {members[1]: members[0], members[2]: members[0]}


def test_a_reader_that_leaves_is_replaced():
  schedule = _make()
  first, second = (_asking(schedule, i, range(200)) for i in (1, 2))
  call = schedule.next_call()
  assert call.sessions == [first]
  _read(call)
  first.done = None
  schedule.withdraw(first)  # its turn was cancelled half-way
  assert schedule.next_call().sessions == [second]


def test_lanes_are_filled_before_decoding():
  schedule = _make()
  ready = _asking(schedule, 1, [5])
  reading = _asking(schedule, 2, range(40))
  call = schedule.next_call()
  assert call.kind == "extend" and call.sessions == [reading]
  second = _asking(schedule, 0, [6])
  call = schedule.next_call()
  assert call.kind == "decode" and call.sessions == [second, ready]


def test_who_comes_when_all_rows_are_taken_waits():
  schedule = _make()
  holders = [_asking(schedule, i, [i + 5]) for i in range(3)]
  late = _asking(schedule, 3, [20])
  schedule.next_call()
  for holder in holders:
    _answer(schedule, holder)
  assert schedule.next_call() is None and not late.has_row
  assert schedule.num_waiting == 3
  schedule.release(holders[1])
  assert schedule.next_call().sessions == [late]


def test_or_takes_the_row_of_who_waits_longest():
  schedule = _make(when_full="give_up")
  holders = [_asking(schedule, i, [i + 5]) for i in range(3)]
  schedule.next_call()
  for i in (1, 0, 2):
    _answer(schedule, holders[i])
    schedule.next_call()
  late = _asking(schedule, 3, [20])
  assert schedule.next_call().sessions == [late]
  assert schedule.num_given_up == 1
  assert [h.has_row for h in holders] == [True, False, True]
  assert holders[1].num_written == 0  # all of it is to be read again


def test_a_row_in_use_is_never_given_up():
  schedule = _make(when_full="give_up")
  for i in range(4):
    _asking(schedule, i, [i + 5])
  schedule.next_call()
  assert schedule.num_given_up == 0 and schedule.num_holding == 3


def test_tiles_share_the_work_and_a_group_stays_together():
  schedule = _make(num_tiles=2, num_rows=4)
  members = [_asking(schedule, i, range(50)) for i in range(3)]
  others = [_asking(schedule, 10 + i, range(i, 40)) for i in range(1, 4)]
  schedule.next_call()
  assert len({s.tile for s in members}) == 1
  assert {s.tile for s in members + others} == {0, 1}
  rows = [(s.tile, s.row) for s in members + others]
  assert len(set(rows)) == 6


@pytest.mark.parametrize(
  ("max_length", "lengths"),
  [
    (160, [160]),
    (161, [176]),
    (700, [256, 512, 768]),
    (1024, [256, 512, 1024]),
    (4096, [1024, 2048, 4096]),
    (40_960, [10_240, 20_480, 40_960]),
  ],
)
def test_calls_look_at_a_few_lengths_of_whole_blocks(max_length, lengths):
  total = scheduler.cache_length(max_length, 256)
  seen = {scheduler.call_length(n, total, 256) for n in range(1, total + 1)}
  assert sorted(seen) == lengths
  assert total >= max_length


def test_decoding_looks_at_three_quarters_of_a_row_too():
  lengths = lambda total: sorted(
    {
      scheduler.call_length(n, total, 256, (1, 2, 3, 4))
      for n in range(1, total + 1)
    }
  )
  assert lengths(256) == [256]
  assert lengths(512) == [256, 512]
  assert lengths(1024) == [256, 512, 768, 1024]
  assert lengths(1280) == [512, 1024, 1280]
  assert lengths(4096) == [1024, 2048, 3072, 4096]
  with pytest.raises(ValueError, match="a row has 512 positions, 513"):
    scheduler.call_length(513, 512, 256)
