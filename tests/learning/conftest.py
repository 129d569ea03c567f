"""A tiny model and random multi-turn groups, for every test of learning."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.models import qwen3

VOCAB_SIZE = 64


@pytest.fixture(scope="session")
def model_config():
  return qwen3.Config(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    tie_embeddings=False,
  )


@pytest.fixture(scope="session")
def params(model_config):
  """Random params, drawn by numpy because compiling `init` takes seconds."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda key: qwen3.init(model_config, key),
    jax.eval_shape(lambda: jax.random.key(0)),
  )

  def draw(path, leaf):
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    if path[-1].key == "scale":
      return jnp.asarray(1 + 0.1 * noise)
    return jnp.asarray(noise * np.float32(leaf.shape[-2] ** -0.5))

  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def logprobs_alone(model_config):
  """Computes one trajectory's log-probs, unpacked: [T-1, V], position by id."""

  @jax.jit
  def compute(params, ids_1T, temperature):
    hidden, _ = qwen3.forward(
      params,
      model_config,
      ids_1T,
      jnp.arange(ids_1T.shape[1])[None],
      jnp.ones_like(ids_1T),
    )
    logits = qwen3.logits(params, model_config, hidden) / temperature
    return jax.nn.log_softmax(logits)[0]

  def of_trajectory(params, trajectory, temperature=1.0):
    ids = trajectory.token_ids_T
    padded = np.zeros((1, 64), np.int32)
    padded[0, : len(ids)] = ids
    return compute(params, padded, temperature)[: len(ids) - 1]

  return of_trajectory


@pytest.fixture(scope="session")
def chosen_logprobs(logprobs_alone):
  """Computes the log-prob of each id of a trajectory but its first: [T-1]."""

  def of_trajectory(params, trajectory, temperature=1.0):
    ids = trajectory.token_ids_T
    logprobs = logprobs_alone(params, trajectory, temperature)
    return jnp.take_along_axis(logprobs, ids[1:, None], axis=1)[:, 0]

  return of_trajectory


@pytest.fixture(scope="session")
def mesh():
  return sharding.make_mesh(config.Mesh(), jax.devices()[:1])


@pytest.fixture(scope="session")
def host_calls():
  """Finds the places at which a compiled program calls its host."""

  def find(compiled):
    pattern = r".*(?:callback|infeed|outfeed|is_host_transfer=true).*"
    return re.findall(pattern, compiled.as_text())

  called = jax.jit(lambda x: jax.debug.print("{}", x))
  assert find(called.lower(0.0).compile())  # it would see one
  return find


@pytest.fixture(scope="session")
def make_trajectory():
  """Makes a trajectory of random ids: read, (sampled, read) a turn."""

  def make(rng, sampled, rewards, *, read=4, member=0, task_id="0", fault="ok"):
    task = types.Task("toy", task_id, "train", 1, "", {}, types.Secret({}))
    turn_ids = [-1] * read
    for k, count in enumerate(sampled):
      turn_ids += [k] * count + [-1] * int(rng.integers(1, 4))
    turn_ids_T = np.array(turn_ids, np.int32)
    T = len(turn_ids)
    # Around the log-prob of an untrained model, far enough to hit every clip.
    logprobs_T = rng.normal(-np.log(VOCAB_SIZE), 0.5, T).astype(np.float32)
    return types.Trajectory(
      task=task,
      member=member,
      iteration=0,
      token_ids_T=rng.integers(0, VOCAB_SIZE, T).astype(np.int32),
      logprobs_T=np.where(turn_ids_T >= 0, logprobs_T, 0).astype(np.float32),
      turn_ids_T=turn_ids_T,
      turns=tuple(types.Turn("", None, "", float(r)) for r in rewards),
      stop_reason=types.StopReason.TERMINATED,
      fault=types.Fault(fault),
    )

  return make


@pytest.fixture(scope="session")
def make_groups(make_trajectory):
  """Makes P groups of G random trajectories of up to K turns."""

  def make(seed, P=3, G=4, K=3, most=6):
    rng = np.random.default_rng(seed)
    groups = []
    for p in range(P):
      members = []
      for g in range(G):
        num_turns = int(rng.integers(1, K + 1))
        members.append(
          make_trajectory(
            rng,
            rng.integers(1, most + 1, num_turns),
            rng.choice([0.0, 0.25, 1.0], num_turns),
            read=int(rng.integers(1, 6)),
            member=g,
            task_id=str(p),
          )
        )
      groups.append(types.Group(members[0].task, members))
    return groups

  return make
