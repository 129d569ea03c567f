"""Refilling an iteration: what is flat is played anew, of other tasks."""

import numpy as np
import pytest

from userrl_jax import collecting
from userrl_jax import config
from userrl_jax import types


def _task(name):
  return types.Task("toy", name, "train", 1, "", {}, types.Secret({}))


def _group(task):
  """Plays a task: its name says whether members get different rewards."""
  rewards = (0.0, 1.0) if task.id.startswith("told") else (1.0, 1.0)
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

  def play(tasks):
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
    draws, lambda tasks: list(map(_group, tasks)), grpo
  )
  assert [g.task.id for g in groups] == ["flat1"]
