"""One episode: an agent and a gym, awaited in turns until one of them ends it.

The same lines serve the policy on the device, an oracle that demonstrates, and
whoever else takes the agent's chair. Everything that goes wrong ends up in the
trajectory as a fault (law L2); nothing that failed becomes a reward, and a bug
or a hang in one episode ends that episode only. What would go wrong in every
episode, a `types.SetupError`, comes out.
"""

from collections.abc import Awaitable
import dataclasses
from typing import TypeVar

from userrl_jax import config
from userrl_jax import types
from userrl_jax import underway
from userrl_jax.agents import base as agents
from userrl_jax.gyms import base as gyms

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all episodes of a collection share."""

  limits: config.Rollout
  max_turns: int
  profile: str  # of the prompt: full or brief
  show_reward: bool  # append the reward to every observation


async def play(
  task: types.Task,
  gym: gyms.Gym,
  agent: agents.Agent,
  settings: Settings,
  *,
  seed: int,
  member: int,
  iteration: int,
) -> types.Trajectory:
  """Plays an episode to its end and freezes it into a trajectory.

  Args:
    task: of the gym.
    gym: new, without a task.
    agent: new; closed here.
    settings: limits and prompt profile.
    seed: of the gym's randomness.
    member: place in the group.
    iteration: at which the group was opened.

  Returns:
    The trajectory; invalid, with the fault on it, when something other than
    the agent failed.

  Raises:
    types.SetupError: when the user's set-up cannot work.
  """
  turns: list[types.Turn] = []
  prompt, max_score = "", 1.0
  fault, detail = types.Fault.OK, ""
  try:
    name = f"{seed}.{iteration}.{task.gym}.{task.id}.{member}"
    with underway.episode(name, task.gym):
      first = await _reset(gym, task, seed, settings.limits)
      max_score = gym.max_score
      system = gym.system_prompt(settings.profile)
      prompt = f"{system}\n\n{first.text}"
      begun = agent.begin(system, first.text, gym.choices)
      await _of_agent(begun, settings.limits)
      stop = await _converse(gym, agent, settings, turns)
  except types.FaultError as error:
    stop, fault, detail = types.StopReason.FAULT, error.fault, error.detail
  except types.SetupError:
    raise
  except Exception as error:  # the agent's: those of gyms are faults by now
    stop, fault = types.StopReason.FAULT, types.Fault.AGENT_ERROR
    detail = f"{type(error).__name__}: {error}"
  finally:
    try:
      agent.close()
    except Exception as error:
      stop, fault = types.StopReason.FAULT, types.Fault.AGENT_ERROR
      detail = f"while closing, {type(error).__name__}: {error}"
  return types.Trajectory(
    task=task,
    member=member,
    iteration=iteration,
    token_ids_T=agent.ledger.token_ids_T(),
    logprobs_T=agent.ledger.logprobs_T(),
    turn_ids_T=agent.ledger.turn_ids_T(),
    turns=tuple(turns),
    stop_reason=stop,
    fault=fault,
    detail=detail,
    prompt=prompt,
    max_score=max_score,
    profile=gym.manner.name if gym.manner is not None else "",
  )


async def _converse(
  gym: gyms.Gym,
  agent: agents.Agent,
  settings: Settings,
  turns: list[types.Turn],
) -> types.StopReason:
  """Takes turns until the end; appends each to `turns`."""
  num_malformed = 0

  # The gym counts the turns that come to it: where some did not, turns run out
  # here, and the gym is asked what that is worth.
  def is_last() -> bool:
    is_limit = len(turns) + 1 >= settings.max_turns
    return is_limit and num_malformed <= settings.limits.max_malformed

  while True:
    reply = await _of_agent(agent.act(), settings.limits)
    if reply.action is None:
      num_malformed += 1
      step = types.Step(types.Observation(reply.detail), 0.0, False, False)
      if not reply.stop and is_last():
        step = gym.out_of_turns(step)
      turns.append(
        types.Turn(
          reply.text,
          None,
          reply.detail,
          step.reward,
          reply.fault,
          reply.detail,
          step.info,
        )
      )
      if reply.stop:
        return reply.stop
      observation = reply.detail
    else:
      try:
        step = await _step(gym, reply.action, settings.limits)
      except types.FaultError as error:
        turns.append(
          types.Turn(
            reply.text, reply.action, "", 0.0, error.fault, error.detail
          )
        )
        raise
      fault = types.Fault.OK
      if step.info.get("outcome") == gyms.MALFORMED:
        fault = types.Fault.AGENT_MALFORMED
        num_malformed += 1
      if not (step.terminated or step.truncated) and is_last():
        step = gym.out_of_turns(step)
      observation = step.observation.text
      if settings.show_reward:
        observation += f"\nReward: {step.reward:g}"
      turns.append(
        types.Turn(
          reply.text,
          reply.action,
          observation,
          step.reward,
          fault,
          "" if fault == types.Fault.OK else step.observation.text,
          step.info,
        )
      )
      if step.terminated:
        return types.StopReason.TERMINATED
      if step.truncated:
        return types.StopReason.TURN_LIMIT
    if num_malformed > settings.limits.max_malformed:
      return types.StopReason.MALFORMED_LIMIT
    if len(turns) >= settings.max_turns:
      return types.StopReason.TURN_LIMIT
    agent.observe(observation)
    if not agent.has_room():
      return types.StopReason.EPISODE_BUDGET


async def _of_agent(answer: Awaitable[_T], limits: config.Rollout) -> _T:
  """Awaits what an agent does, within the time that it has.

  Raises:
    types.FaultError: AGENT_ERROR when it takes too long.
  """
  if not limits.agent_timeout_s:
    return await answer
  try:
    async with underway.within(limits.agent_timeout_s):
      return await answer
  except TimeoutError:
    detail = f"no turn within {limits.agent_timeout_s:g} s"
    raise types.FaultError(types.Fault.AGENT_ERROR, detail) from None


async def _reset(
  gym: gyms.Gym, task: types.Task, seed: int, limits: config.Rollout
) -> types.Observation:
  """Starts the gym, within the time of a step.

  Raises:
    types.FaultError: GYM_ERROR when it raises or takes too long.
    types.SetupError: as it comes.
  """
  try:
    async with underway.within(limits.step_timeout_s):
      return await gym.reset(task, seed)
  except (types.FaultError, types.SetupError):
    raise
  except TimeoutError:
    detail = f"no start within {limits.step_timeout_s:g} s"
    raise types.FaultError(types.Fault.GYM_ERROR, detail) from None
  except Exception as error:
    detail = f"{type(error).__name__}: {error}"
    raise types.FaultError(types.Fault.GYM_ERROR, detail) from error


async def _step(
  gym: gyms.Gym, action: types.Action, limits: config.Rollout
) -> types.Step:
  """Steps the gym, again when something other than the agent failed.

  A failed step has changed nothing (the gyms' contract), so it may be taken
  again; a step that ran out of time is cancelled first, never run twice. What
  was tried again below, by a client or a judge, is not tried again here.

  Raises:
    types.FaultError: that of the last try.
    types.SetupError: at once: another try would fail as well.
  """
  for tries_left in reversed(range(limits.num_retries + 1)):
    try:
      async with underway.within(limits.step_timeout_s):
        return await gym.step(action)
    except types.FaultError as error:
      if error.is_final or not tries_left:
        raise
    except TimeoutError:
      if not tries_left:
        raise types.FaultError(
          types.Fault.USER_TIMEOUT,
          f"no answer within {limits.step_timeout_s:g} s",
        ) from None
    except types.SetupError:
      raise
    except Exception as error:  # a gym's bug is data, not a crash
      raise types.FaultError(
        types.Fault.GYM_ERROR, f"{type(error).__name__}: {error}"
      ) from error
  raise AssertionError("unreachable")
