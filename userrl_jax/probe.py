"""Puts the same question to a user twice: do they say the same again?

In: the config of a run, its transcripts and tasks. Out: pairs of replies, see
`audit_rows.Probe`. The moves of an episode are played again before the run's
own user, asked live; each question of it goes to two clones of one state, as
two episodes: neither a recording nor a draw can repeat what was said before.
The game goes on as the first of them replied.
"""

import asyncio
from collections.abc import Mapping, Sequence
import random
from typing import Any

from userrl_jax import audit_rows
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax import underway
from userrl_jax import users
from userrl_jax.gyms import base
from userrl_jax.gyms import judging
from userrl_jax.rollout import collect
from userrl_jax.serving import host
from userrl_jax.users import profiles

# A place (file:line), the task and the transcript of one of its episodes.
Played = tuple[str, types.Task, Mapping[str, Any]]


def fill(
  settings: Any,
  played: Mapping[int, Sequence[Played]],
  rows: Sequence[audit_rows.Row],
  num_questions: int,
) -> None:
  """Asks questions of episodes twice, and adds the replies to rows.

  Args:
    settings: the config of the run.
    played: place in `rows` -> the episodes that its questions are drawn from.
    rows: of the run; each gets a `probe`.
    num_questions: for each row, at most.

  Raises:
    types.SetupError: when the user cannot be asked, or the budget is spent.
  """
  user = users.User(
    settings.user,
    settings.judge,
    settings.budget,
    models=host.local_models(settings.user, settings.judge, settings.local),
  )

  async def ask() -> None:
    await user.check()
    async with user.opened() as judge:
      found = {
        number: audit_rows.Probe()
        for number, episodes in played.items()
        if episodes and gyms.GYMS[rows[number].gym].Gym.talk
      }
      await asyncio.gather(
        *(
          _play(settings, judge, episode, turns, found[number])
          for number in found
          for episode, turns in _drawn(
            played[number], num_questions, settings.seed
          )
        )
      )
      for number, probe in found.items():
        rows[number].probe = probe

  asyncio.run(ask())


def _drawn(
  episodes: Sequence[Played], num_questions: int, seed: int
) -> list[tuple[Played, list[int]]]:
  """Returns episodes, drawn at random, and the turns of them to ask twice."""
  order = list(episodes)
  random.Random(seed).shuffle(order)
  drawn = []
  for episode in order:
    _, task, record = episode
    talk = gyms.GYMS[task.gym].Gym.talk
    turns = [
      number
      for number, turn in enumerate(record["turns"])
      if turn["action"]
      and turn["action"]["choice"] == talk
      and turn["fault"] == types.Fault.OK
    ][:num_questions]
    num_questions -= len(turns)
    if turns:
      drawn.append((episode, turns))
  return drawn


async def _play(
  settings: Any,
  judge: judging.Judge | None,
  episode: Played,
  turns: Sequence[int],
  probe: audit_rows.Probe,
) -> None:
  """Plays an episode up to its last question; adds pairs to a probe."""
  place, task, record = episode
  gym = gyms.make(task.gym, settings.gyms, judge)
  if record.get("profile"):
    gym.manner = profiles.Manner(profiles.PROFILES[record["profile"]])
  seed = collect.episode_seed(settings.seed, record["iteration"], task, -1)
  limit_s = settings.rollout.step_timeout_s
  with underway.episode(f"probe|{place}", task.gym):
    await gym.reset(task, seed)
  for number, turn in enumerate(record["turns"][: max(turns) + 1]):
    if turn["action"] is None:
      continue
    if gym.state.is_over:  # the user has not decided as it did then
      return
    action = types.Action(**turn["action"])
    outcomes = []
    for again in range(2 if number in turns else 1):
      clone = gym.clone()
      with underway.episode(f"probe|{place}|{number}|{again}", task.gym):
        try:
          async with underway.within(limit_s):
            outcomes.append((clone, await clone.step(action)))
        except (types.FaultError, TimeoutError):
          continue
    if number in turns:
      _add(probe, f"{place} turn {number + 1}", action.content, outcomes)
    if not outcomes:
      return
    gym = outcomes[0][0]


def _add(
  probe: audit_rows.Probe,
  place: str,
  question: str,
  outcomes: Sequence[tuple[base.Gym, types.Step]],
) -> None:
  if len(outcomes) < 2:
    probe.num_failed += 1
    return
  texts = [step.observation.text for _, step in outcomes]
  names = [step.info["outcome"] for _, step in outcomes]
  probe.pairs.append(
    audit_rows.Pair(place, question, (texts[0], texts[1]), len({*names}) == 1)
  )
