"""Dialogues without a policy: canned ones, and ranked demonstrations."""

import dataclasses
import json

import pytest

from tests.clients import server
from userrl_jax import config as config_lib
from userrl_jax import demonstrate
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.rollout import episode


@pytest.fixture(scope="module")
def config():
  c = config_lib.Config()
  c.rollout.max_tokens_per_episode = 1024
  c.base.num_episodes = 50
  c.cold_start.num_tries = 5
  c.cold_start.top_k = 2
  c.cold_start.noise = 0.4
  return c


@pytest.fixture(scope="module")
def tasks(config):
  return gyms.load_tasks("function", config.gyms, "train", 0)[:12]


@pytest.fixture(scope="module")
def chat():
  tokenizer = tokenizers.train_sentencepiece(["f = 7"], 512, chat_lib.PHRASES)
  return chat_lib.Chat(tokenizer, "brief")


def _make(make, config, tasks, chat):
  settings = episode.Settings(
    config.rollout, config.gyms.max_turns, "brief", show_reward=False
  )
  return make(config, tasks, chat, settings)


def _streams(trajectories):
  return [t.token_ids_T.tolist() for t in trajectories]


def test_ranked_keeps_the_best_of_each_task(config, tasks, chat):
  kept = _make(demonstrate.ranked, config, tasks, chat)
  everything = dataclasses.replace(config)
  everything.cold_start = dataclasses.replace(config.cold_start, top_k=5)
  tries = _make(demonstrate.ranked, everything, tasks, chat)
  # Noise makes some tries fail, and some wins longer than others.
  assert len(tries) < 5 * len(tasks)
  assert all(t.is_valid and t.reward == 1.0 for t in tries)
  num_longer = 0
  for task in tasks:
    lengths = [len(t.turns) for t in tries if t.task.id == task.id]
    best = [len(t.turns) for t in kept if t.task.id == task.id]
    assert lengths == sorted(lengths)
    assert best == lengths[:2]
    num_longer += len(set(lengths)) > 1
  assert num_longer > 3
  assert [t.task.id for t in kept] == sorted(
    (t.task.id for t in kept), key=[t.id for t in tasks].index
  )


def test_rank_prefers_reward_then_brevity(config, tasks, chat):
  good, *_ = _make(demonstrate.ranked, config, tasks, chat)

  def with_turns(member, *rewards, fault=types.Fault.OK):
    turns = tuple(types.Turn("", None, "", reward) for reward in rewards)
    return dataclasses.replace(good, member=member, turns=turns, fault=fault)

  group = types.Group(
    tasks[0],
    [
      with_turns(0, 0.0),
      with_turns(1, 0.0, 0.0, 0.5),
      with_turns(2, 0.0, 1.0),
      with_turns(3, 1.0, fault=types.Fault.USER_ERROR),
      with_turns(4, 0.5, 0.5, 0.0),
      with_turns(5, 0.5),
    ],
  )
  members = lambda top_k: [t.member for t in demonstrate.rank(group, top_k)]
  assert members(9) == [2, 4, 5, 1]
  assert members(2) == [2, 4]


def test_an_oracle_without_noise_needs_no_second_try(config, tasks, chat):
  calm = dataclasses.replace(config)
  calm.cold_start = dataclasses.replace(
    config.cold_start, noise=0.0, num_tries=1, top_k=1
  )
  kept = _make(demonstrate.ranked, calm, tasks, chat)
  assert [t.task for t in kept] == tasks
  actions = [turn.action for t in kept for turn in t.turns]
  assert {action.choice for action in actions} == {"search", "action", "answer"}


def test_canned_makes_as_many_as_asked_of_all_tasks(config, tasks, chat):
  canned = _make(demonstrate.canned, config, tasks, chat)
  assert len(canned) == 50
  counts = [[t.task.id for t in canned].count(task.id) for task in tasks]
  assert counts == [5, 5] + [4] * 10
  assert len({tuple(ids) for ids in _streams(canned)}) > 40
  # It shows every move and no skill: nothing in it depends on the task.
  choices = [turn.action.choice for t in canned for turn in t.turns]
  assert set(choices) == set(types.CHOICES)
  assert all(turn.fault == "ok" for t in canned for turn in t.turns)
  assert sum(t.reward for t in canned) < 10


def test_canned_plays_no_more_than_is_asked_for(config, tasks, chat):
  few = dataclasses.replace(config)
  few.base = dataclasses.replace(config.base, num_episodes=len(tasks))
  unplayable = dataclasses.replace(tasks[0], gym="nowhere")
  canned = _make(demonstrate.canned, few, [*tasks, unplayable], chat)
  assert [t.task for t in canned] == tasks
  few.base.num_episodes = len(tasks) + 1
  with pytest.raises(ValueError, match="nowhere"):
    _make(demonstrate.canned, few, [unplayable, *tasks], chat)


def test_copies_repeat_themselves_in_ids_of_the_dialogues(config, tasks, chat):
  few = dataclasses.replace(config)
  few.base = dataclasses.replace(config.base, num_episodes=20, num_copies=30)
  made = _make(demonstrate.canned, few, tasks, chat)
  plain, copied = made[:20], made[20:]
  known = {i for ids in _streams(plain) for i in ids}
  special = set(chat.tokenizer.special_ids.values())
  periods = set()
  for t in copied:
    ids = t.token_ids_T.tolist()
    assert set(ids) <= known - special
    assert set(t.turn_ids_T) == {-1} and t.turns == () and t.is_valid
    periods.add(next(p for p in range(1, 13) if ids[p:] == ids[:-p]))
  assert len(copied) == 30 and len(periods) > 5
  assert len({tuple(ids) for ids in _streams(copied)}) == 30
  assert {t.task.id for t in copied} == {t.task.id for t in plain}


def test_dialogues_are_a_function_of_the_seed(config, tasks, chat):
  for make in (demonstrate.canned, demonstrate.ranked):
    first = _streams(_make(make, config, tasks, chat))
    assert _streams(_make(make, config, tasks, chat)) == first
    other = dataclasses.replace(config, seed=1)
    assert _streams(_make(make, other, tasks, chat)) != first
  corpus = demonstrate.corpus(config, tasks)
  assert corpus == demonstrate.corpus(config, tasks)
  assert corpus != demonstrate.corpus(
    dataclasses.replace(config, seed=1), tasks
  )


def test_the_corpus_has_all_sides_of_a_dialogue(config, tasks):
  corpus = demonstrate.corpus(config, tasks)
  assert corpus.count("f is ready.") == 2 * len(tasks)  # canned, oracle play
  assert "Correct." in corpus and "test" in corpus
  assert any(text.startswith("Test case: ") for text in corpus)


class TestTheCorpusWithAModelAsUser:
  """The endpoint is asked little, and nothing that fails in it stops a run."""

  @pytest.fixture
  def things(self):
    settings = config_lib.Gyms(names=("telepathy",), num_train_tasks=20)
    return gyms.load_tasks("telepathy", settings, "train", 0)

  def _corpus(self, tasks, **faults):
    with server.Server(server.telepathy_answer, **faults) as running:
      user = config_lib.User(
        kind="endpoint",
        base_url=running.base_url,
        model="small",
        num_retries=0,
        num_reasks=0,
      )
      c = config_lib.Config(user=user)
      c.rollout.num_retries = 0
      return demonstrate.corpus(c, tasks), running.log

  def _named(self, log):
    """Returns the secrets that the requests were about."""
    texts = [json.dumps(request.body) for request in log]
    return {text.partition("Name: ")[2].partition("\\n")[0] for text in texts}

  def test_a_few_tasks_are_asked_about(self, things):
    texts, log = self._corpus(things)
    names = {task.secret.reveal()["name"] for task in things[:12]}
    assert self._named(log) and self._named(log) <= names
    assert "Yes." in texts and "No." in texts
    assert sum(text.startswith("One of:") for text in texts) == 2 * len(things)

  @pytest.mark.parametrize("share", [0.3, 1.0])
  def test_what_fails_is_left_out(self, things, share):
    faults = ("error", "drop", "broken", "refusal", "empty")
    texts, _ = self._corpus(things, fault_share=share, faults=faults)
    assert sum(text.startswith("One of:") for text in texts) == 2 * len(things)
    assert any(text.startswith("Is it ") for text in texts)
    assert ("Yes." in texts) == (share < 1)
    assert "" not in texts

  def test_a_wrong_key_is_said(self, things):
    with pytest.raises(types.SetupError, match="check the key"):
      self._corpus(things, script=["401"] * 50)
