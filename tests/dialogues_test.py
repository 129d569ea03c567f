"""Kept dialogues: made once, read back as they were, never half there."""

import dataclasses

import numpy as np
import pytest

from userrl_jax import config as config_lib
from userrl_jax import data
from userrl_jax import demonstrate
from userrl_jax import dialogues
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.learning import batching
from userrl_jax.rollout import episode

GYMS = ("function", "telepathy")


@pytest.fixture(scope="module")
def config():
  c = config_lib.Config()
  c.gyms.names = GYMS
  c.gyms.num_train_tasks = 8
  c.rollout.max_tokens_per_episode = 1024
  c.base.num_episodes = 20
  return c


@pytest.fixture(scope="module")
def tasks(config):
  return [
    t for gym in GYMS for t in gyms.load_tasks(gym, config.gyms, "train", 0)
  ]


@pytest.fixture(scope="module")
def made(config, tasks):
  tokenizer = tokenizers.train_sentencepiece(["f = 7"], 512, chat_lib.PHRASES)
  settings = episode.Settings(config.rollout, 6, "brief", show_reward=False)
  chat = chat_lib.Chat(tokenizer, "brief")
  return demonstrate.canned(config, tasks, chat, settings)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "dialogues" / "base.npz"


def _no_more():
  pytest.fail("they are there already")


def test_they_are_made_once_and_learning_sees_no_difference(path, tasks, made):
  first = dialogues.kept(path, lambda: made, tasks)
  assert [p.name for p in path.parent.iterdir()] == ["base.npz"]
  again = dialogues.kept(path, _no_more, tasks)
  for read in (first, again):
    streams = [data.trajectory_stream(x, 4, seed=1) for x in (made, read)]
    assert streams[0].get_state() == streams[1].get_state()
    packing = config_lib.Packing(row_length=1024, rows_per_micro_batch=2)
    for _ in range(12):
      batches = [
        batching.pack_demonstrations(
          next(stream), packing, capacity=2, all_ids=True
        )[0]
        for stream in streams
      ]
      for one, other in zip(batches[0].rows, batches[1].rows, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for one, other in zip(made, read, strict=True):
      assert (one.task, one.member) == (other.task, other.member)
      assert one.rewards_K.tolist() == other.rewards_K.tolist()
      for name in ("token_ids_T", "turn_ids_T", "logprobs_T"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype and a.tolist() == b.tolist()
    assert any(t.reward for t in read) or not any(t.reward for t in made)


def test_of_several_hosts_the_first_makes_and_writes_them(
  path, tasks, made, monkeypatch
):
  """The others read: two that write have the same name for what is partial."""

  def gather(value):
    assert not path.exists()
    monkeypatch.undo()
    dialogues.kept(path, lambda: made, tasks)  # as the first host does
    return [value, value]

  monkeypatch.setattr(dialogues.hosts, "is_first", lambda: False)
  monkeypatch.setattr(dialogues.hosts, "gather", gather)
  assert len(dialogues.kept(path, _no_more, tasks)) == len(made)


def test_what_fails_while_it_is_made_leaves_nothing(path, tasks):
  def fail():
    raise ValueError("too few")

  with pytest.raises(ValueError, match="^too few$"):
    dialogues.kept(path, fail, tasks)
  assert not path.exists()


def test_damage_is_named_or_harmless(path, tasks, made):
  dialogues.kept(path, lambda: made, tasks)
  whole = path.read_bytes()
  expected = [t.token_ids_T.tolist() for t in made]
  num_refused = 0
  places = range(0, len(whole), 41)
  for place in places:
    data = bytearray(whole)
    data[place] ^= 0x55
    path.write_bytes(data)
    try:
      read = dialogues.kept(path, _no_more, tasks)
    except ValueError as error:
      assert str(error).startswith(f"{path} must hold the dialogues")
      num_refused += 1
    else:  # the date of a file within it, say
      assert [t.token_ids_T.tolist() for t in read] == expected
  assert num_refused > len(places) / 2
  for data in (b"", b"no dialogues", whole[: len(whole) // 2]):
    path.write_bytes(data)
    with pytest.raises(ValueError, match="restore a copy, or delete the file"):
      dialogues.kept(path, _no_more, tasks)


def test_those_of_other_tasks_are_refused(path, tasks, made):
  dialogues.kept(path, lambda: made, tasks)
  others = [dataclasses.replace(task, id=f"x{task.id}") for task in tasks]
  with pytest.raises(ValueError, match="must hold the dialogues that the run"):
    dialogues.kept(path, _no_more, others)


def test_invalid_ones_are_counted_and_left_out(path, tasks, made):
  spoilt = [
    dataclasses.replace(t, fault=fault)
    for t, fault in zip(
      made,
      [types.Fault.USER_TIMEOUT, types.Fault.GYM_ERROR] * 2,
      strict=False,
    )
  ]
  kept = dialogues.kept(path, lambda: made[4:] + spoilt, tasks)
  assert [t.task for t in kept] == [t.task for t in made[4:]]
  assert dialogues.faults(path) == {"user_timeout": 2, "gym_error": 2}
  assert dialogues.faults(path.with_name("other.npz")) == {}
