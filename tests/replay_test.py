"""Transcripts paid by another profile of rewards are as if played by it."""

import asyncio
import dataclasses
import json
import random

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import metrics
from userrl_jax import replay
from userrl_jax import rescore
from userrl_jax import types
from userrl_jax.rollout import collect
from userrl_jax.users import profiles

SETTINGS = config.Gyms(
  names=("travel", "telepathy"),
  levels=(1, 2),
  num_train_tasks=6,
  num_test_tasks=6,
  max_turns=10,
)
SEED, ITERATION = 3, -10


def _record(task, settings, member, profile=""):
  """Plays a task by its oracle, with a slip, and writes it down."""
  gym = gyms.make(task.gym, settings)
  if profile:
    gym.manner = profiles.Manner(profiles.PROFILES[profile])
  script = gyms.oracle(task.gym)(task, random.Random(member), 0.3, SETTINGS)

  async def run():
    seed = collect.episode_seed(SEED, ITERATION, task, -1)
    texts = [(await gym.reset(task, seed)).text]
    turns = [types.Turn("?", None, "Call a tool.", 0.0, "agent_malformed", "")]
    while not gym.state.is_over:
      action = script.next_action(texts)
      step = await gym.step(action)
      texts.append(step.observation.text)
      turns.append(types.Turn("!", action, texts[-1], step.reward))
    return turns

  turns = asyncio.run(run())
  made = {
    **{"gym": task.gym, "task": task.id, "split": task.split},
    **{"member": member, "iteration": ITERATION, "valid": True},
    "max_score": gym.max_score,
    "turns": [
      {
        "action": turn.action and dataclasses.asdict(turn.action),
        **{"observation": turn.observation, "reward": turn.reward},
        "num_tokens": 2,
      }
      for turn in turns
    ],
  }
  return made | ({"profile": profile} if profile else {})


def _records(settings, profile=""):
  return [
    _record(task, settings, member, profile)
    for name in SETTINGS.names
    for task in gyms.load_tasks(name, SETTINGS, "test", SEED)
    for member in (0, 1)
  ]


@pytest.mark.parametrize("profile", ["", "noisy"])
def test_moves_are_paid_as_if_played_by_the_profile(profile):
  played = _records(SETTINGS, profile)
  other = dataclasses.replace(SETTINGS, reward_profile="paper")
  want = _records(other, profile)
  got = replay.paid(played, SETTINGS, SEED, "paper")
  assert any(a["max_score"] != b["max_score"] for a, b in zip(played, want))
  for a, b in zip(got, want, strict=True):
    rewards = [turn["reward"] for turn in b["turns"]]
    assert [turn["reward"] for turn in a["turns"]] == rewards
    assert a["max_score"] == b["max_score"]
    assert a["reward"] == sum(rewards)
  assert [r["turns"] for r in played] == [
    r["turns"] for r in replay.paid(played, SETTINGS, SEED, "default")
  ]


def test_what_was_not_played_so_is_refused():
  (task, *_) = gyms.load_tasks("travel", SETTINGS, "test", SEED)
  record = _record(task, SETTINGS, 0)
  changed = json.loads(json.dumps(record))
  changed["turns"][-1]["observation"] += " Thanks."
  for wrong, words in (
    (changed, r"must be played again as it was, .* 'Thanks|Thanks\.'"),
    ({**record, "task": "none"}, "must be a task of the run's config"),
  ):
    with pytest.raises(ValueError, match=words):
      replay.paid([wrong], SETTINGS, SEED, "paper")
  with pytest.raises(ValueError, match="reward profile of gym 'travel'"):
    replay.paid([record], SETTINGS, SEED, "papers")
  invalid = {**changed, "valid": False}
  assert replay.paid([invalid], SETTINGS, SEED, "paper") == [invalid]


def test_the_command_scores_by_another_profile(tmp_path, capsys):
  c = config.Config(seed=SEED, gyms=SETTINGS)
  (tmp_path / "transcripts").mkdir()
  metrics.write_json(tmp_path / "config.json", dataclasses.asdict(c))
  path = tmp_path / "transcripts" / "evaluation_grpo.jsonl"
  records = _records(SETTINGS)
  path.write_text("".join(json.dumps(r) + "\n" for r in records))
  assert rescore.main([str(path), "--score=sum", "--reward_profile=paper"]) == 0
  assert "| travel | 12 |" in capsys.readouterr().out
  c.user.kind, c.user.model = "endpoint", "m"
  metrics.write_json(tmp_path / "config.json", dataclasses.asdict(c))
  assert rescore.main([str(path), "--reward_profile=paper"]) == 2
  assert "user.kind of the run must be scripted" in capsys.readouterr().err
