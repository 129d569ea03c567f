"""Plays kept transcripts again, to pay them by another profile of rewards.

In: transcripts of episodes in which rules answer, and how their run was set.
Out: the same transcripts with the rewards that another `gyms.reward_profile`
pays for the same moves. Each is first played by the profile that it had: what
then differs from what was written down could not be trusted, and is refused.
"""

import asyncio
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.rollout import collect
from userrl_jax.users import profiles

Record = Mapping[str, Any]  # of one episode, as `metrics.trajectory_record`


def paid(
  records: Sequence[Record],
  settings: config.Gyms,
  seed: int,
  reward_profile: str,
  show_reward: bool = False,
) -> list[dict[str, Any]]:
  """Returns transcripts with the rewards of another profile.

  Moves after a game is over by the other profile earn nothing. Invalid episodes
  are left as they are.

  Args:
    records: transcripts of one run.
    settings: of its gyms.
    seed: of the run.
    reward_profile: by which it is paid now.
    show_reward: whether rewards stood in observations.

  Raises:
    ValueError: when a gym has no such profile, a task is not the run's, or an
      episode played again is not the one that was written down.
  """
  other = dataclasses.replace(settings, reward_profile=reward_profile)
  tasks: dict[tuple[str, str], dict[str, types.Task]] = {}
  made = []
  for record in records:
    made.append(dict(record))
    if not record["valid"]:
      continue
    part = record["gym"], record["split"]
    if part not in tasks:
      loaded = gyms.load_tasks(record["gym"], settings, record["split"], seed)
      tasks[part] = {task.id: task for task in loaded}
    task = tasks[part].get(record["task"])
    if task is None:
      raise ValueError(
        f"{record['gym']}/{record['task']} must be a task of the run's config, "
        f"which has none of that name in split {record['split']}"
      )
    _, before = asyncio.run(_play(record, task, settings, seed))
    for turn, (text, reward) in zip(record["turns"], before, strict=True):
      if show_reward and turn["action"]:
        text += f"\nReward: {reward:g}"
      if text != turn["observation"] or abs(reward - turn["reward"]) > 1e-9:
        raise ValueError(
          f"{record['gym']}/{record['task']} must be played again as it was, "
          f"got {text!r} ({reward:g}) where {turn['observation']!r} "
          f"({turn['reward']:g}) was written down; only episodes in which "
          "rules answer, of this version, can be paid by another profile"
        )
    max_score, after = asyncio.run(_play(record, task, other, seed))
    turns = [
      {**turn, "reward": reward}
      for turn, (_, reward) in zip(record["turns"], after, strict=True)
    ]
    total = sum(reward for _, reward in after)
    made[-1] |= {"turns": turns, "max_score": max_score, "reward": total}
    made[-1] |= {"score": total / max_score}
  return made


async def _play(
  record: Record, task: types.Task, settings: config.Gyms, seed: int
) -> tuple[float, list[tuple[str, float]]]:
  """Returns the most that a task gives, and each turn's reply and reward."""
  own_seed = collect.episode_seed(seed, record["iteration"], task, -1)
  gym = gyms.make(task.gym, settings)
  if record.get("profile"):
    gym.manner = profiles.Manner(profiles.PROFILES[record["profile"]])
  await gym.reset(task, own_seed)
  steps = []
  for turn in record["turns"]:
    if turn["action"] is None:  # it reached no gym
      step = types.Step(
        types.Observation(turn["observation"]), 0.0, False, False
      )
    elif gym.state.is_over:
      step = types.Step(types.Observation(""), 0.0, False, False)
    else:
      step = await gym.step(types.Action(**turn["action"]))
    is_last = len(steps) + 1 == len(record["turns"])
    ran_out = record.get("stop_reason") == types.StopReason.TURN_LIMIT
    if is_last and ran_out and not gym.state.is_over:
      step = gym.out_of_turns(step)  # see `rollout.episode`
    steps.append((step.observation.text, step.reward))
  return gym.max_score, steps
