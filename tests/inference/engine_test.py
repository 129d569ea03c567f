"""The engine: the token ledger, independence of scheduling, shapes, faults."""

import asyncio
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config as config_lib
from userrl_jax import types
from userrl_jax.inference import cache as cache_lib
from userrl_jax.inference import engine as engine_lib
from userrl_jax.models import qwen3

STOP_ID = 7
MAX_LENGTH = 160
MODEL = qwen3.Config(
  vocab_size=50,
  hidden_size=32,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  intermediate_size=48,
  tie_embeddings=True,
)
SETTINGS = config_lib.Engine(
  num_rows=6, num_lanes=4, decode_tokens=4, extend_chunk=32
)


@dataclasses.dataclass
class Dialogue:
  """What one episode read and sampled, id by id."""

  token_ids: list[int]
  logprobs: list[float]
  is_sampled: list[bool]
  turns: list[engine_lib.Sampled]


@pytest.fixture(scope="module")
def params():
  return jax.jit(lambda key: qwen3.init(MODEL, key))(jax.random.key(0))


async def _converse(engine, index, num_turns=3, delay_s=0.0):
  rng = np.random.default_rng(index)
  delays = np.random.default_rng(index + 1000)
  key = jax.random.key_data(jax.random.fold_in(jax.random.key(3), index))
  row = await engine.open(key)
  dialogue = Dialogue([], [], [], [])
  for turn in range(num_turns):
    if delay_s:
      await asyncio.sleep(delay_s * delays.random())
    num_new = int(rng.integers(20, 50) if turn == 0 else rng.integers(1, 12))
    new_ids = rng.integers(8, 50, num_new).tolist()
    sampled = await engine.sample(row, new_ids, 10)
    dialogue.token_ids += new_ids + sampled.token_ids
    dialogue.logprobs += [0.0] * num_new + sampled.logprobs
    dialogue.is_sampled += [False] * num_new
    dialogue.is_sampled += [True] * len(sampled.token_ids)
    dialogue.turns.append(sampled)
  engine.close(row)
  return dialogue


def _run(params, settings=SETTINGS, num_dialogues=9, temperature=1.0, **kw):
  engine = engine_lib.Engine(MODEL, settings, MAX_LENGTH, STOP_ID)

  async def main():
    async with engine.serving(params, temperature):
      return await asyncio.gather(
        *(_converse(engine, i, **kw) for i in range(num_dialogues))
      )

  return asyncio.run(main()), engine


def _gap(params, dialogue, temperature=1.0):
  """Largest |recomputed - sampled| log-prob, by the learner's forward."""
  tokens_1T = jnp.array([dialogue.token_ids])
  hidden, _ = qwen3.forward(
    params,
    MODEL,
    tokens_1T,
    jnp.arange(tokens_1T.shape[1])[None],
    jnp.ones_like(tokens_1T),
  )
  logits = qwen3.logits(params, MODEL, hidden)[0, :-1] / temperature
  logprobs = jax.nn.log_softmax(logits)
  chosen = logprobs[jnp.arange(len(logprobs)), tokens_1T[0, 1:]]
  gaps = np.abs(np.asarray(chosen) - np.asarray(dialogue.logprobs[1:]))
  return gaps[np.asarray(dialogue.is_sampled[1:])].max()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recomputed_logprobs_equal_the_sampled(params, temperature):
  dialogues, _ = _run(params, temperature=temperature)
  gaps = [_gap(params, d, temperature) for d in dialogues]
  assert max(gaps) <= 1e-4
  assert _gap(params, dialogues[0], temperature + 0.1) > 1e-3


def test_results_do_not_depend_on_scheduling(params):
  together, _ = _run(params)
  fewer_rows = dataclasses.replace(SETTINGS, num_rows=4)
  with_delays, _ = _run(params, fewer_rows, delay_s=0.02)
  for a, b in zip(together, with_delays, strict=True):
    assert a.token_ids == b.token_ids
    assert a.logprobs == b.logprobs
  other_tile = dataclasses.replace(SETTINGS, num_lanes=2, decode_tokens=3)
  tiled, _ = _run(params, other_tile)
  for a, b in zip(together, tiled, strict=True):
    assert a.token_ids == b.token_ids
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_a_turn_ends_at_the_stop_id_or_its_budget(params):
  dialogues, _ = _run(params, num_dialogues=20)
  turns = [turn for d in dialogues for turn in d.turns]
  assert {turn.stopped for turn in turns} == {True, False}
  for turn in turns:
    assert STOP_ID not in turn.token_ids[:-1]
    assert turn.stopped == (turn.token_ids[-1] == STOP_ID)
    assert turn.stopped or len(turn.token_ids) == 10


def test_counters_count_every_token(params):
  dialogues, engine = _run(params)
  counters = engine.take_counters()
  assert counters.tokens_sampled == sum(sum(d.is_sampled) for d in dialogues)
  # A row's last id of each turn is read by the decode call that follows.
  assert counters.tokens_read < sum(len(d.token_ids) for d in dialogues)
  assert 0 <= counters.padding < 1
  assert engine.take_counters().tokens_sampled == 0


def test_a_long_mixed_run_compiles_few_programs(params):
  before = cache_lib.extend._cache_size() + cache_lib.decode._cache_size()
  settings = dataclasses.replace(SETTINGS, num_lanes=3, num_rows=5)
  _run(params, settings, num_dialogues=40, num_turns=4)
  after = cache_lib.extend._cache_size() + cache_lib.decode._cache_size()
  assert 0 < after - before <= 3


def test_too_long_a_turn_is_refused(params):
  engine = engine_lib.Engine(MODEL, SETTINGS, MAX_LENGTH, STOP_ID)

  async def main():
    async with engine.serving(params, 1.0):
      row = await engine.open(np.zeros(2, np.uint32))
      await engine.sample(row, [8] * 150, 11)

  with pytest.raises(ValueError, match="holds 160 ids"):
    asyncio.run(main())


def test_a_failed_device_call_is_an_engine_fault(params):
  engine = engine_lib.Engine(MODEL, SETTINGS, MAX_LENGTH, STOP_ID)
  broken = {"embed": params["embed"]}  # no layers
  faults = []

  async def main():
    async with engine.serving(broken, 1.0):
      row = await engine.open(np.zeros(2, np.uint32))
      try:
        await engine.sample(row, [8, 9], 3)
      except types.FaultError as error:
        faults.append(error.fault)

  with pytest.raises(KeyError):
    asyncio.run(main())
  assert faults == [types.Fault.ENGINE_ERROR]


def test_a_cancelled_turn_frees_its_place(params):
  engine = engine_lib.Engine(MODEL, SETTINGS, MAX_LENGTH, STOP_ID)

  async def cancelled():
    row = await engine.open(np.zeros(2, np.uint32))
    try:
      async with asyncio.timeout(0):
        await engine.sample(row, [8] * 40, 20)
    except TimeoutError:
      return True
    finally:
      engine.close(row)

  async def main():
    async with engine.serving(params, 1.0):
      results = await asyncio.gather(*(cancelled() for _ in range(10)))
      dialogue = await _converse(engine, 1)
      return results, dialogue

  results, dialogue = asyncio.run(main())
  assert all(results)
  assert len(dialogue.turns) == 3
