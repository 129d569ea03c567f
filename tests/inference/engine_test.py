"""The engine: the token ledger, independence of scheduling, shapes, faults."""

import asyncio
import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference import conftest as small
from userrl_jax import config as config_lib
from userrl_jax import types
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import engine as engine_lib
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3

# A turn that nobody serves would be waited for without end.
pytestmark = pytest.mark.timeout(300)


def _gaps(params, dialogue, temperature=1.0):
  """|recomputed - sampled| log-probs of what was sampled."""
  logits_TV = small.next_logprobs(params, dialogue.token_ids) / temperature
  logprobs_TV = np.asarray(jax.nn.log_softmax(logits_TV))
  ids = np.asarray(dialogue.token_ids[1:])
  chosen = logprobs_TV[np.arange(len(ids)), ids]
  gaps = np.abs(chosen - np.asarray(dialogue.logprobs[1:]))
  return gaps[np.asarray(dialogue.is_sampled[1:])]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recomputed_logprobs_equal_the_sampled(params, temperature):
  script = small.Script(how=sampling.Sampling(temperature))
  dialogues, _ = small.run(params, script)
  assert max(_gaps(params, d, temperature).max() for d in dialogues) <= 1e-4
  assert _gaps(params, dialogues[0], temperature + 0.1).max() > 1e-3


def test_rows_as_accelerators_want_them_hold_the_same(params, monkeypatch):
  """Keys by position, and in place also where a call is shorter than a row."""
  tile = dataclasses.replace(small.SETTINGS, num_rows=6, num_lanes=6)
  want, _ = small.run(params, settings=tile)
  monkeypatch.setattr(cache_lib, "is_cpu", lambda mesh: False)
  for settings in (tile, small.SETTINGS):
    got, _ = small.run(params, settings=settings)
    assert max(_gaps(params, d).max() for d in got) <= 1e-4
    small.assert_close(params, got, want)


def test_model_logprobs_are_untempered_and_unfiltered(params):
  how = sampling.Sampling(temperature=0.7, top_p=0.8)
  dialogues, _ = small.run(params, small.Script(how=how))
  for d in dialogues:
    model = [x for turn in d.turns for x in turn.model_logprobs]
    drawn = np.asarray(d.logprobs)[np.asarray(d.is_sampled)]
    untempered = np.zeros(len(d.token_ids))
    untempered[np.asarray(d.is_sampled)] = model
    plain = dataclasses.replace(d, logprobs=untempered.tolist())
    assert _gaps(params, plain).max() <= 1e-4
    # What was left out makes the rest likelier.
    tempered = _gaps(params, d, 0.7)
    assert tempered.max() > 1e-2 and np.mean(drawn > model) > 0.5


def test_results_do_not_depend_on_scheduling(params):
  want, _ = small.run(params)
  assert max(len(d.token_ids) for d in want) > 300  # more than one length
  others = {
    "fewer rows": (small.Script(), {"num_rows": 4}),
    "users wait": (small.Script(delay_s=0.02), {"num_rows": 5}),
    "other order": (small.Script(order=1), {}),
    "shorter calls": (small.Script(order=2), {"decode_tokens": 3}),
    "others beside": (small.Script(num_dialogues=15), {"num_rows": 12}),
  }
  for name, (script, changes) in others.items():
    settings = dataclasses.replace(small.SETTINGS, **changes)
    got, _ = small.run(params, script, settings)
    for a, b in zip(got, want, strict=False):
      assert a.token_ids == b.token_ids, name
      assert a.logprobs == b.logprobs, name


def test_another_tile_changes_rounding_only(params):
  want, _ = small.run(params)
  tile = dataclasses.replace(
    small.SETTINGS, num_lanes=2, extend_chunk=32, extend_tokens=32
  )
  small.assert_close(params, small.run(params, settings=tile)[0], want)


def test_a_divergence_that_rounding_does_not_explain_is_no_near_tie(params):
  """Not even one to the id beside, between which and it there is no other."""
  want, _ = small.run(params, small.Script(num_dialogues=2))
  got = copy.deepcopy(want)
  place = want[0].is_sampled.index(True)
  got[0].token_ids[place] += 1
  with pytest.raises(AssertionError):
    small.assert_close(params, got, want, most_divergent=1.0)
  assert small.assert_close(params, want, want) == 0
  # By the same measure, every draw lies within the borders of its own id.
  for one in want:
    for place in np.flatnonzero(one.is_sampled)[:9]:
      own = one.token_ids[place]
      if own > 0:
        assert small.distance(params, one, own - 1, place) < 1e-4
      assert small.distance(params, one, own + 1, place) > -1e-4


def test_members_of_a_group_fork_its_prompt(params):
  script = small.Script(num_dialogues=12, group_size=4, prompt=(90, 240))
  settings = dataclasses.replace(small.SETTINGS, num_rows=12)
  got, engine = small.run(params, script, settings)
  counters = engine.take_counters()
  prompts = [d.token_ids[: d.is_sampled.index(True)] for d in got]
  assert prompts[0] == prompts[3] != prompts[4]
  forked = sum(len(p) - 1 for i, p in enumerate(prompts) if i % 4)
  assert counters.tokens_forked == forked
  # Members differ, and each is as if it had read the prompt itself.
  assert len({tuple(d.token_ids) for d in got}) == 12
  one_by_one = dataclasses.replace(settings, num_rows=1, num_lanes=1)
  alone, engine = small.run(params, script, one_by_one)
  assert engine.take_counters().tokens_forked == 0
  small.assert_close(params, got, alone)


def test_a_prompt_of_a_group_is_read_once(params):
  """What 16 prompts of 900 ids cost, whoever else shares them."""
  script = small.Script(
    num_dialogues=128, group_size=8, prompt=(900, 901), num_turns=1
  )
  settings = dataclasses.replace(
    small.SETTINGS, num_rows=128, num_lanes=32, extend_tokens=256
  )
  _, engine = small.run(params, script, settings, length=1024)
  counters = engine.take_counters()
  assert counters.tokens_read == 16 * 899
  assert counters.tokens_forked == 112 * 899
  # All that was computed, padding included: 14 pieces of 64 ids and one of 16.
  assert counters.positions_extended == 16 * 912 < 1.05 * 16 * 900


def test_a_row_given_up_is_read_again(params):
  script = small.Script(num_dialogues=12, delay_s=0.05)
  give_up = dataclasses.replace(
    small.SETTINGS, num_rows=4, num_lanes=2, when_full="give_up"
  )
  got, engine = small.run(params, script, give_up)
  assert engine.take_counters().rows_given_up > 3
  keep = dataclasses.replace(give_up, num_rows=12)
  want, engine = small.run(params, script, keep)
  assert engine.take_counters().rows_given_up == 0
  small.assert_close(params, got, want)


def test_a_turn_ends_at_the_stop_id_or_its_budget(params):
  dialogues, _ = small.run(params, small.Script(num_dialogues=20))
  turns = [turn for d in dialogues for turn in d.turns]
  assert {turn.stopped for turn in turns} == {True, False}
  for turn in turns:
    assert small.STOP_ID not in turn.token_ids[:-1]
    assert turn.stopped == (turn.token_ids[-1] == small.STOP_ID)
    assert turn.stopped or len(turn.token_ids) == 10
    assert len(turn.logprobs) == len(turn.token_ids)


def test_an_id_that_the_tokenizer_lacks_is_never_sampled(params):
  model = dataclasses.replace(small.MODEL, num_ids=12)
  engine = small.make_engine(model=model)

  async def main():
    async with engine.serving(params):
      script = small.Script(how=sampling.Sampling(temperature=5.0))
      return await asyncio.gather(
        *(script.converse(engine, i) for i in range(9))
      )

  sampled = [
    i for d in asyncio.run(main()) for t in d.turns for i in t.token_ids
  ]
  assert len(sampled) > 100 and set(sampled) == set(range(12))


def test_counters_count_every_token(params):
  dialogues, engine = small.run(params)
  counters = engine.take_counters()
  assert counters.tokens_sampled == sum(sum(d.is_sampled) for d in dialogues)
  # A turn's last id is read by the decode call that follows.
  read = sum(len(d.is_sampled) - sum(d.is_sampled) for d in dialogues)
  ends = sum(len(d.turns) for d in dialogues)
  resumed = sum(len(d.turns) - 1 for d in dialogues)
  assert counters.tokens_read == read - ends + resumed
  assert 0 <= counters.padding < 1
  assert 0 < counters.lanes_busy <= counters.lanes
  assert 0 < counters.idle_share < 1 and counters.busy_s > 0
  assert counters.mean("rows_held") <= small.SETTINGS.num_rows
  assert counters.queued > 0  # 9 dialogues, 6 rows
  seconds = counters.busy_s + counters.idle_s
  assert counters.tokens_per_s == counters.tokens_sampled / seconds > 0
  assert engine.take_counters().tokens_sampled == 0


@pytest.mark.slow
@pytest.mark.parametrize(
  "num_turns", [1_000, pytest.param(10_000, marks=pytest.mark.exhaustive)]
)
def test_many_mixed_turns_compile_few_programs(params, num_turns):
  before = cache_lib.num_programs()
  settings = dataclasses.replace(
    small.SETTINGS, num_rows=96, num_lanes=61, decode_tokens=8
  )
  script = small.Script(num_dialogues=num_turns // 5, num_turns=5, group_size=2)
  mixed = dataclasses.replace(script, how=sampling.Sampling(0.8, top_p=0.9))
  small.run(params, script, settings)
  small.run(params, dataclasses.replace(mixed, num_dialogues=40), settings)
  assert 3 < cache_lib.num_programs() - before <= 12


def test_a_session_lives_across_a_change_of_params(params):
  other = jax.tree.map(lambda x: 1.1 * x, params)
  engine = small.make_engine()
  new_ids = list(range(8, 30))

  async def main(first, second):
    async with engine.serving(first):
      session = engine.open(np.zeros(2, np.uint32))
      a = await engine.sample(session, new_ids, 10)
      await engine.swap(second)
      b = await engine.sample(session, new_ids, 10)
      engine.close(session)
      return a, b

  (a, b), (c, d) = (asyncio.run(main(params, p)) for p in (params, other))
  assert a == c and b.logprobs != d.logprobs


def test_memory_is_as_planned(params):
  engine = small.make_engine()
  count = lambda: sum(x.nbytes for x in jax.live_arrays())
  bytes_of = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  seen = {}

  async def main():
    before = count()
    async with engine.serving(params):
      seen["layout"] = count() - before
      dialogue = await small.Script().converse(engine, 0)
      seen["serving"] = count() - before
      await engine.swap(params)
      seen["swapped"] = count() - before
    seen["after"] = count() - before
    async with engine.serving(params):
      session = engine.open(np.zeros(2, np.uint32))
      await engine.sample(session, [8, 9], 3)
    seen["held"] = count() - before
    engine.close(session)
    return dialogue

  asyncio.run(main())
  rows, length = small.SETTINGS.num_rows, 768
  planned = 2 * 2 * rows * length * 2 * 8 * 4  # layers, k and v, heads, dims
  assert engine.cache_bytes == planned
  assert seen["layout"] == bytes_of(params)
  assert seen["serving"] == seen["swapped"] == bytes_of(params) + planned
  # An update has the memory, but for rows that an episode goes on with.
  assert seen["after"] == 0 and seen["held"] == planned


def test_too_long_a_turn_is_refused(params):
  engine = small.make_engine()

  async def main():
    async with engine.serving(params):
      session = engine.open(np.zeros(2, np.uint32))
      await engine.sample(session, [8] * 690, 11)

  with pytest.raises(ValueError, match="holds 700 ids"):
    asyncio.run(main())


def test_a_failed_device_call_is_an_engine_fault_now_and_later(params):
  engine = small.make_engine()
  broken = params | {"final_norm": {"scale": jnp.ones(3)}}
  faults = []

  async def main():
    async with engine.serving(broken):
      for _ in range(2):
        session = engine.open(np.zeros(2, np.uint32))
        try:
          await engine.sample(session, [8, 9], 3)
        except types.FaultError as error:
          faults.append(error.fault)
        engine.close(session)

  with pytest.raises(Exception, match="scale"):
    asyncio.run(main())
  assert faults == [types.Fault.ENGINE_ERROR] * 2
  # And the engine serves again.
  assert len(asyncio.run(_one_dialogue(engine, params)).turns) == 3


def test_a_cancelled_turn_frees_its_place(params):
  engine = small.make_engine()

  async def cancelled(after_s):
    session = engine.open(np.zeros(2, np.uint32))
    try:
      async with asyncio.timeout(after_s):
        await engine.sample(session, [8] * 640, 50)
    except TimeoutError:
      return True
    finally:
      engine.close(session)

  async def main():
    async with engine.serving(params):
      results = await asyncio.gather(*(cancelled(i / 1e4) for i in range(20)))
      return results, await small.Script().converse(engine, 1)

  results, dialogue = asyncio.run(main())
  assert any(results)
  assert dialogue.token_ids == small.run(params)[0][1].token_ids


def test_a_cancel_amid_decoding_changes_nothing_for_the_others(params):
  settings = dataclasses.replace(small.SETTINGS, num_rows=10)
  script = small.Script(num_dialogues=6)
  want, _ = small.run(params, script, settings)
  engine = small.make_engine(settings)
  num_sampled = []

  async def cancelled(index):
    session = engine.open(np.array([9, index], np.uint32))
    turn = asyncio.create_task(engine.sample(session, [8] * 30, 200))
    while not turn.done():
      if len(session.token_ids) > 30 and engine._device.locked():
        num_sampled.append(len(session.token_ids) - 30)
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
          await turn
        break
      await asyncio.sleep(1e-4)
    engine.close(session)

  async def main():
    async with engine.serving(params):
      dialogues = await asyncio.gather(
        *(script.converse(engine, i) for i in range(6)),
        *(cancelled(i) for i in range(6)),
      )
      return dialogues[:6], engine.num_rows_held

  got, num_held = asyncio.run(main())
  assert num_held == 0
  assert len(num_sampled) > 2 and min(num_sampled) > 0
  for a, b in zip(got, want, strict=True):
    assert a.token_ids == b.token_ids and a.logprobs == b.logprobs


async def _one_dialogue(engine, params):
  async with engine.serving(params):
    return await small.Script().converse(engine, 1)


def test_greedy_is_temperature_zero(params):
  how = sampling.Sampling(temperature=0)
  dialogues, _ = small.run(params, small.Script(num_dialogues=3, how=how))
  for d in dialogues:
    best = small.next_logprobs(params, d.token_ids).argmax(-1)
    is_sampled = np.asarray(d.is_sampled[1:])
    np.testing.assert_array_equal(
      best[:-1][is_sampled], np.asarray(d.token_ids[1:])[is_sampled]
    )


def test_bfloat16_rows_take_half_the_memory():
  settings = config_lib.Engine(num_rows=4, num_lanes=4)
  model = dataclasses.replace(small.MODEL, dtype="bfloat16")
  half = small.make_engine(settings, model=model)
  assert 2 * half.cache_bytes == small.make_engine(settings).cache_bytes
  params = qwen3.init(model, jax.random.key(0))
  assert len(asyncio.run(_one_dialogue(half, params)).turns) == 3


def test_decoding_in_place_changes_nothing(params):
  """As many lanes as rows: lane i is row i, and nothing is copied."""
  tile = {"num_lanes": 6, "decode_tokens": 5}
  copied = dataclasses.replace(small.SETTINGS, num_rows=9, **tile)
  in_place = dataclasses.replace(small.SETTINGS, num_rows=6, **tile)
  want, _ = small.run(params, settings=copied)
  for script in (small.Script(), small.Script(order=1, delay_s=0.01)):
    got, _ = small.run(params, script, in_place)
    for a, b in zip(got, want, strict=True):
      assert a.token_ids == b.token_ids
      assert a.logprobs == b.logprobs


def test_what_fails_between_device_calls_ends_every_turn(params, monkeypatch):
  engine = small.make_engine()

  def broken(*_):
    raise KeyError("finish")

  monkeypatch.setattr(engine_lib.scheduler, "finish_turns", broken)

  async def main():
    async with engine.serving(params):
      session = engine.open(np.zeros(2, np.uint32))
      with pytest.raises(types.FaultError, match="finish") as raised:
        await engine.sample(session, [8, 9], 3)
      assert raised.value.fault == types.Fault.ENGINE_ERROR

  with pytest.raises(KeyError, match="finish"):
    asyncio.run(main())
