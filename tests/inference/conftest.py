"""A small model, and dialogues of random ids through an engine."""

import asyncio
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config as config_lib
from userrl_jax import sharding
from userrl_jax.inference import engine as engine_lib
from userrl_jax.inference import sampling
from userrl_jax.models import qwen3

STOP_ID = 7
MAX_LENGTH = 700  # calls look at 256, 512 or 768 positions
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
  num_rows=6,
  num_lanes=4,
  decode_tokens=4,
  extend_chunk=64,
  extend_tokens=64,
)


@dataclasses.dataclass
class Dialogue:
  """What one episode read and sampled, id by id."""

  token_ids: list[int]
  logprobs: list[float]
  is_sampled: list[bool]
  turns: list[engine_lib.Sampled]
  key: np.ndarray  # [2] uint32, of its session
  how: sampling.Sampling


@dataclasses.dataclass(frozen=True)
class Script:
  """How dialogues go; the i-th is the same in every run."""

  num_dialogues: int = 9
  num_turns: int = 3
  budget: int = 10
  prompt: tuple[int, int] = (20, 240)
  group_size: int = 1  # neighbours that share a prompt
  delay_s: float = 0.0
  how: sampling.Sampling = dataclasses.field(default=sampling.Sampling())
  order: int = 0  # seed of the order in which they begin; 0 is as numbered

  def converse(self, engine, index):
    return _converse(self, engine, index)


async def _converse(script, engine, index):
  prompts = np.random.default_rng(index // script.group_size)
  rng = np.random.default_rng(10_000 + index)
  key = np.array([3, index], np.uint32)
  session = engine.open(key, script.how)
  dialogue = Dialogue([], [], [], [], key, script.how)
  for turn in range(script.num_turns):
    if script.delay_s:
      await asyncio.sleep(script.delay_s * np.random.random())
    draw = prompts if turn == 0 else rng
    num_new = draw.integers(*(script.prompt if turn == 0 else (1, 60)))
    new_ids = draw.integers(8, MODEL.vocab_size, num_new).tolist()
    sampled = await engine.sample(session, new_ids, script.budget)
    dialogue.token_ids += new_ids + sampled.token_ids
    dialogue.logprobs += [0.0] * len(new_ids) + sampled.logprobs
    dialogue.is_sampled += [False] * len(new_ids)
    dialogue.is_sampled += [True] * len(sampled.token_ids)
    dialogue.turns.append(sampled)
  engine.close(session)
  return dialogue


def make_engine(settings=SETTINGS, mesh=None, model=MODEL, length=MAX_LENGTH):
  mesh = mesh or sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])
  return engine_lib.Engine(model, settings, length, STOP_ID, mesh)


def run(
  params,
  script=Script(),
  settings=SETTINGS,
  mesh=None,
  length=MAX_LENGTH,
  look=lambda engine: None,
):
  """Returns all dialogues, in order, and the engine.

  `look` is called with it while it still has its rows.
  """
  engine = make_engine(settings, mesh, length=length)
  order = np.arange(script.num_dialogues)
  if script.order:
    np.random.default_rng(script.order).shuffle(order)

  async def main():
    async with engine.serving(params):
      dialogues = await asyncio.gather(
        *(script.converse(engine, int(i)) for i in order)
      )
      look(engine)
      return dialogues

  dialogues = asyncio.run(main())
  return [dialogues[i] for i in np.argsort(order)], engine


def next_logprobs(params, token_ids):
  """Returns [T, V] untempered log-probs, by the learner's forward."""
  tokens_1T = np.zeros((1, MAX_LENGTH), np.int32)
  tokens_1T[0, : len(token_ids)] = token_ids
  return np.asarray(_next_logprobs(params, tokens_1T))[: len(token_ids)]


@jax.jit
def _next_logprobs(params, tokens_1T):
  hidden, _ = qwen3.forward(
    params,
    MODEL,
    tokens_1T,
    jnp.arange(MAX_LENGTH)[None],
    jnp.ones_like(tokens_1T),
  )
  return jax.nn.log_softmax(qwen3.logits(params, MODEL, hidden)[0])


def assert_close(params, got, want, most_divergent=0.2):
  """Same dialogues, but for draws that rounding alone may turn.

  Log-probs agree to 1e-4 up to the first id that differs. There, the uniform
  number of the draw, worked out anew, is as near to the border between the two
  ids. Prints and returns how many dialogues part.
  """
  num_divergent = 0
  for a, b in zip(got, want, strict=True):
    pairs = zip(a.token_ids, b.token_ids, strict=False)
    same = next((i for i, (x, y) in enumerate(pairs) if x != y), None)
    stop = min(len(a.token_ids), len(b.token_ids)) if same is None else same
    np.testing.assert_allclose(a.logprobs[:stop], b.logprobs[:stop], atol=1e-4)
    if same is None:
      assert len(a.token_ids) == len(b.token_ids)
      continue
    num_divergent += 1
    assert a.is_sampled[same] and b.is_sampled[same]
    assert abs(distance(params, a, b.token_ids[same], same)) < 1e-4
  print(f"{num_divergent} of {len(want)} dialogues part at a near-tie")
  assert num_divergent <= most_divergent * len(want)
  return num_divergent


def distance(params, dialogue, other, position):
  """Returns how far a draw was from giving another id, in probability.

  Tokens are drawn by inverting a CDF: its border that is next to the other id,
  on the side of the drawn one, less the uniform number of the draw.
  """
  assert dialogue.how == sampling.Sampling()  # others change the CDF
  own = dialogue.token_ids[position]
  logprobs = next_logprobs(params, dialogue.token_ids[:position])[-1]
  cdf_V = np.cumsum(np.exp(np.float64(logprobs)))
  key = jax.random.wrap_key_data(jnp.asarray(dialogue.key))
  uniform = sampling.uniforms(key[None], jnp.array([[position]]))[0, 0]
  return cdf_V[other - 1 if own < other else other] - float(uniform)


@pytest.fixture(scope="package")
def params():
  return jax.jit(lambda key: qwen3.init(MODEL, key))(jax.random.key(0))
