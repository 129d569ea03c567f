"""Refilling an iteration: what is flat is played anew, of other tasks."""

import itertools
import types as python_types

import numpy as np
import pytest

from userrl_jax import collecting
from userrl_jax import config
from userrl_jax import types


def _task(name):
  return types.Task("toy", name, "train", 1, "", {}, types.Secret({}))


def _group(task):
  """Plays a task: its name says whether members get different rewards.

  And with `ill` in it, that two of four are invalid.
  """
  rewards = (0.0, 1.0) if task.id.startswith("told") else (1.0, 1.0)
  num_ill = 2 if "ill" in task.id else 0
  rewards += (0.0,) * num_ill
  ids = np.array([1, 2], np.int32)
  members = [
    types.Trajectory(
      task,
      member,
      0,
      token_ids_T=ids,
      logprobs_T=np.zeros(2, np.float32),
      turn_ids_T=ids - 2,
      turns=(types.Turn("", None, "", reward),),
      stop_reason=types.StopReason.TERMINATED,
      fault=types.Fault.USER_TIMEOUT if member > 1 else types.Fault.OK,
    )
    for member, reward in enumerate(rewards)
  ]
  return types.Group(task, members)


@pytest.mark.parametrize(
  ("policy", "rounds", "want"),
  [
    ("keep", 2, [["flat1", "told1", "flat2"]]),
    ("drop", 2, [["flat1", "told1", "flat2"]]),
    ("refill", 1, [["flat1", "told1", "flat2"], ["flat3", "told2"]]),
    # Each round takes a draw, and of it what is missing, nothing twice.
    (
      "refill",
      5,
      [["flat1", "told1", "flat2"], ["flat3", "told2"], ["told3"]],
    ),
  ],
)
def test_only_what_is_missing_is_played(policy, rounds, want):
  draws = iter(
    [_task(name) for name in names]
    for names in (
      ["flat1", "told1", "flat2"],
      ["flat3", "told2", "told9"],
      ["told1", "flat1", "told3"],
      ["never"],
    )
  )
  played = []

  def play(tasks, before):
    assert [g.task.id for g in before] == [*itertools.chain(*played)]
    played.append([task.id for task in tasks])
    return [_group(task) for task in tasks]

  grpo = config.Grpo(flat_groups=policy, refill_rounds=rounds)
  groups = collecting.refill(draws, play, grpo)
  assert played == want
  assert [g.task.id for g in groups] == [
    name for names in want for name in names
  ]


def test_a_refill_ends_when_there_is_nothing_else_to_play():
  draws = iter([[_task("flat1")]] * 2)
  grpo = config.Grpo(flat_groups="refill", refill_rounds=9)
  groups = collecting.refill(
    draws, lambda tasks, before: list(map(_group, tasks)), grpo
  )
  assert [g.task.id for g in groups] == ["flat1"]


@pytest.mark.parametrize(
  ("first", "second", "is_right"),
  [
    # 2 invalid of 12 episodes; of the second round alone, 2 of 4.
    (["told1", "told2", "told3", "flat1"], ["told4ill"], True),
    (["told1ill", "told2", "told3", "flat1"], ["told4ill"], False),
    (["told1ill", "flat1ill"], ["told3"], False),  # seen at once
  ],
)
def test_invalid_episodes_are_counted_over_the_whole_iteration(
  tmp_path, first, second, is_right
):
  parts = python_types.SimpleNamespace(
    config=config.Config(rollout=config.Rollout(max_invalid_share=0.2)),
    folder=tmp_path,
  )
  draws = iter([[*map(_task, first)], [*map(_task, second)]])

  def play(tasks, before):
    play_own = lambda own: [*map(_group, own)]
    return collecting.gathered(parts, tasks, 2, play_own, before)

  grpo = config.Grpo(flat_groups="refill", refill_rounds=1)
  if not is_right:
    with pytest.raises(SystemExit):
      collecting.refill(draws, play, grpo)
    return
  groups = collecting.refill(draws, play, grpo)
  assert [g.task.id for g in groups] == first + second
