"""Written dialogues as trajectories: the same ids, loss on what was said."""

import dataclasses

import pytest

from userrl_jax import config as config_lib
from userrl_jax import demonstrate
from userrl_jax import exchange
from userrl_jax import gyms
from userrl_jax import imported
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.chat import turns
from userrl_jax.rollout import episode

Message = messages_lib.Message


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizers.train_sentencepiece(["f = 7"], 512, chat_lib.PHRASES)


def dialogue(**changes):
  call = turns.Call("f", '{"x": 1}')
  values = {
    "messages": (
      Message("system", "Sys"),
      Message("user", "First"),
      Message("assistant", "I call.", "Hm.", (call,)),
      Message("tool", "Seen"),
      Message("assistant", "Done."),
    ),
    "where": "here",
  }
  return exchange.Dialogue(**(values | changes))


@pytest.mark.parametrize("profile", chat_lib.PROFILES)
def test_what_was_played_comes_back_id_by_id(tokenizer, profile, tmp_path):
  c = config_lib.Config()
  c.rollout.max_tokens_per_episode = 4096
  c.cold_start.noise, c.cold_start.num_tries = 0.2, 4
  c.gyms.names = ("function", "telepathy", "travel")
  c.chat.profile = profile
  chat = chat_lib.Chat(tokenizer, profile)
  settings = episode.Settings(c.rollout, 6, profile, show_reward=False)
  tasks = [
    t for n in c.gyms.names for t in gyms.load_tasks(n, c.gyms, "train", 0)[:4]
  ]
  played = demonstrate.ranked(c, tasks, chat, settings)
  written = []
  for t in played:
    gym = gyms.make(t.task.gym, c.gyms)
    written.append(
      imported.exported(t, chat, gym.system_prompt(profile), gym.choices)
    )
  for name in ("a.jsonl", "a.json"):
    exchange.write(tmp_path / name, written)
    read = exchange.read(tmp_path / name)
    again, report = imported.select(read, chat, 4096)
    assert len(again) == len(played) == report.num_read >= 9
    for one, other in zip(again, played, strict=True):
      assert one.token_ids_T.tolist() == other.token_ids_T.tolist()
      assert one.turn_ids_T.tolist() == other.turn_ids_T.tolist()
      assert one.num_sampled_K.size == len(other.turns)
    named = {t.task.gym for t in again}
    assert len(named) == 3 and (named == set(c.gyms.names)) == (
      name == "a.jsonl"
    )


def test_loss_is_on_the_agents_turns_alone(tokenizer):
  chat = chat_lib.Chat(tokenizer, "full")
  made = imported.trajectory(dialogue(), chat)
  parts = [
    tokenizer.decode(made.token_ids_T[made.turn_ids_T == k].tolist())
    for k in (-1, 0, 1)
  ]
  read, first, last = parts
  assert first == (
    "<think>\nHm.\n</think>\n\nI call.\n<tool_call>\n"
    '{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>'
  )
  assert last == "Done.<|im_end|>"
  assert "First" in read and "Seen" in read and "call" not in read


def test_what_must_not_be_learned_is_left_out_and_named(tokenizer):
  chat = chat_lib.Chat(tokenizer, "full")
  bad = turns.Call(problem=turns.Problem.BAD_JSON, source="<tool_call>{")
  long = dialogue(
    messages=(*dialogue().messages, Message("assistant", "x" * 999))
  )
  dialogues = [
    dialogue(gym="a", score=1.0),
    dialogue(gym="b", score=0.9, where="twice"),
    dialogue(gym="c", score=1.0, where="held out"),
    dialogue(split="test", score=1.0, where="of test"),
    dialogue(score=0.2, where="low"),
    dataclasses.replace(long, score=1.0, where="long"),
    dialogue(
      messages=(Message("user", "q"), Message("assistant", calls=(bad,))),
      score=1.0,
      where="broken",
    ),
  ]
  size = imported.trajectory(dialogues[0], chat).token_ids_T.size
  select = lambda limit: imported.select(
    dialogues, chat, limit, held_out_gyms=("c",), min_score=0.5
  )
  kept, report = select(size)
  assert [t.task.gym for t in kept] == ["a"]
  assert report.kept == {"a": 1} and report.num_read == 7
  assert report.left_out == {
    "there already": ["twice"],
    "of a held-out gym": ["held out"],
    "of a held-out split": ["of test"],
    "score below 0.5": ["low"],
    f"longer than {size} tokens": ["long"],
    "a call that cannot be read": ["broken"],
  }
  assert "1 of 7 dialogues are kept" in str(report) and "low" in str(report)
  assert select(size - 1)[0] == []


def test_what_cannot_be_asked_of_dialogues_is_said(tokenizer):
  chat = chat_lib.Chat(tokenizer, "full")
  with pytest.raises(ValueError, match="here: a score must be there"):
    imported.select([dialogue()], chat, 999, min_score=0.5)
  silent = chat_lib.Chat(tokenizer, "full", thinking=False)
  with pytest.raises(ValueError, match="here: .* needs chat.thinking"):
    imported.select([dialogue()], silent, 999)
