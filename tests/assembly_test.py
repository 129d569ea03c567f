"""What a run's config makes of its parts."""

import asyncio
import os

import jax
import pytest

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import process
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.agents import scripted
from userrl_jax.chat import tokenizers


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  def build(thinking):
    config = config_lib.Config(out_dir=str(tmp_path_factory.mktemp("run")))
    config.gyms.num_train_tasks = 4
    config.model.num_layers = 1
    config.chat.thinking = thinking
    return assembly.build(config)

  return {thinking: build(thinking) for thinking in (True, False)}


def test_chat_thinking_closes_the_thinking_of_every_turn(parts):
  """The run's chat opens each turn with an empty think block, read as such."""
  streams = {}
  for thinking, part in parts.items():
    script = lambda observations: types.Action("action", "1 2 3 4")
    agent = scripted.ScriptedAgent(script, part.chat, 512)
    asyncio.run(agent.begin("S", "U", types.CHOICES))
    asyncio.run(agent.act())
    agent.observe("= 3")
    streams[thinking] = agent.ledger
  tokenizer = parts[False].tokenizer
  assert tokenizer.fingerprint == parts[True].tokenizer.fingerprint
  special = tokenizer.special_ids
  block = [
    special[tokenizers.Special.THINK],
    *tokenizer.encode("\n\n"),
    special[tokenizers.Special.THINK_END],
    *tokenizer.encode("\n\n"),
  ]
  longer, ids = list(streams[False].token_ids), streams[True].token_ids
  assert len(longer) == len(ids) + 2 * len(block)
  begin = longer.index(block[0])
  assert longer[begin : begin + len(block)] == longer[-len(block) :] == block
  del longer[-len(block) :], longer[begin : begin + len(block)]
  assert tuple(longer) == ids
  assert (streams[False].turn_ids_T()[begin : begin + len(block)] == -1).all()


def test_a_cpu_is_split_before_jax_starts(run_apart):
  if "USERRL_APART" not in os.environ:
    run_apart(USERRL_APART="1", XLA_FLAGS="")
    return
  process.split_cpu(2)
  assert sharding.make_mesh(config_lib.Mesh(cpu_devices=2)).size == 2
  process.split_cpu(2)  # as it is: nothing to refuse
  with pytest.raises(ValueError, match="cpu_devices=3 must be set before JAX"):
    process.split_cpu(3)
  assert jax.device_count() == 2


def test_prompts_of_held_out_gyms_are_known_and_fit(tmp_path):
  def build(name, held_out_gyms, episode):
    c = config_lib.Config(out_dir=str(tmp_path / name))
    c.model.num_layers = 1
    c.tokenizer.vocab_size = 640
    c.gyms.num_train_tasks = c.gyms.num_test_tasks = 4
    c.evaluation.num_tasks = 4
    c.evaluation.held_out_gyms = held_out_gyms
    c.rollout.max_tokens_per_episode = episode
    return assembly.build(c)

  names = ("intention", "search")
  parts = build("both", names, episode=256)
  assert {task.gym for task in parts.tasks} == {"function"}
  for name in ("function", *names):
    for phrase in assembly._prompt_phrases(parts.config, name):
      assert len(parts.tokenizer.encode(phrase)) == 1
  # Intention's first message is far longer than Function's.
  with pytest.raises(ValueError, match=r"max_tokens_per_episode .*got 64"):
    build("short", names, episode=64)
  build("alone", (), episode=64)
