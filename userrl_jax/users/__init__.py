"""Who answers the agent: rules, or a model: behind an endpoint, or in here.

In: the sections of a config that are about users, and models in this process.
Out: a `User`, kept for a run, which opens a judge for `gyms.make` as long as
the episodes that it answers.
"""

from collections.abc import AsyncIterator, Mapping
import contextlib
import dataclasses
import pathlib
from typing import Any

from userrl_jax import config
from userrl_jax import types
from userrl_jax.clients import endpoint
from userrl_jax.clients import local as local_lib
from userrl_jax.clients import lookup
from userrl_jax.clients import shared as shared_lib
from userrl_jax.gyms import judging

_NUM_TRIES = 3  # of the first word


class User:
  """Answers the agent in all collections of a run, and counts over them.

  One for a run: what an endpoint learnt (that it takes our requests) and its
  counters live on from one collection to the next.
  """

  def __init__(
    self,
    settings: config.User,
    judge: config.Judge | None = None,
    caps: config.Budget | None = None,
    recorded: config.Recording | None = None,
    folder: pathlib.Path | None = None,
    agent: config.User | None = None,
    models: Mapping[str, local_lib.Model] | None = None,
  ):
    """Checks the settings; connects to nothing.

    Args:
      settings: of who answers.
      judge: of who judges; None: the same.
      caps: what both may cost; None is no cap.
      recorded: where answers are kept; None: nowhere.
      folder: of the run, which keeps what was spent; None keeps nothing.
      agent: of an endpoint that plays under the same limits, see
        `agent_settings`; None: none does.
      models: in this process, by `user.model` and `judge.model`.

    Raises:
      types.SetupError: when an endpoint's settings do not hold, or there is no
        such model in this process.
      ValueError: when the recording, or what was spent, cannot be read.
    """
    self._settings = settings
    self._clients: dict[str, endpoint.Endpoint | local_lib.Local] = {}
    self._taken: dict[str, float] = {}
    if settings.kind == "scripted" and agent is None:
      return
    self._shared = shared_lib.Shared(settings, caps, recorded, folder)
    if agent is not None:
      self._clients["agent"] = endpoint.Endpoint(agent, "agent", self._shared)
    if settings.kind == "scripted":
      return
    roles = {"user": settings}
    if judge is not None and judge.model:
      roles["judge"] = judge_settings(settings, judge)
    for role, own in roles.items():
      self._clients[role] = self._client(own, role, models or {})

  def _client(
    self, own: config.User, role: str, models: Mapping[str, local_lib.Model]
  ) -> endpoint.Endpoint | local_lib.Local:
    if own.kind != "local":
      return endpoint.Endpoint(own, role, self._shared)
    if own.model not in models:
      raise types.SetupError(
        "user.kind local needs the model in this process, which this command "
        "does not load; choose user.kind endpoint and serve the model with "
        "python -m userrl_jax.serve"
      )
    return local_lib.Local(own, role, self._shared, models[own.model])

  @property
  def agent(self) -> endpoint.Endpoint:
    """Returns the endpoint that plays, open while the user is."""
    client = self._clients["agent"]
    assert isinstance(client, endpoint.Endpoint)
    return client

  @contextlib.asynccontextmanager
  async def opened(self) -> AsyncIterator[judging.Judge | None]:
    """Opens the user of a collection of episodes, one at a time.

    Yields:
      A judge, or None where rules answer.
    """
    async with contextlib.AsyncExitStack() as stack:
      for client in self._clients.values():
        await stack.enter_async_context(client)
      by_role = {role: c.complete for role, c in self._clients.items()}
      if "user" not in by_role:
        yield None
      else:
        yield judging.Judge(
          by_role["user"],
          self._settings.num_reasks,
          by_judge=by_role.get("judge"),
          structured=self._settings.structured,
          leak_reasks=(
            self._settings.num_reasks
            if self._settings.on_leak == "reask"
            else 0
          ),
          passage=lookup.Lookup(self._shared),
        )

  async def check(self) -> None:
    """Asks every endpoint for one word, before anything depends on it.

    A replay asks nobody; and a model in this process would have to be compiled.

    Raises:
      types.SetupError: when one does not answer; says why.
      types.BudgetSpent: when the budget covers no word.
    """
    for role, client in self._clients.items():
      if self._shared.recording.mode == "replay":
        return
      if isinstance(client, local_lib.Local):
        continue
      async with client:
        await _check(role, client)

  def take_counts(self) -> dict[str, float]:
    """Returns what endpoints did since the last call; {} where rules answer.

    Returns:
      user/requests (sent, retries included), user/retries, user/tokens_in,
        user/tokens_out (as the endpoint tells)
      user/failed/<fault>: questions that ended in it, once it has occurred
      user/device_calls of a model in this process, whatever they asked for
      user/usd where tokens have a price; user/outages and user/outage_s, once
        there was one; user/replayed where a recording answers
      user/searches of the web, tries included, once there was one
      judge/...: the same of a judge of its own
    """
    totals: dict[str, float] = {}
    for role, client in self._clients.items():
      counts = client.counts
      totals[f"{role}/requests"] = counts.num_requests
      totals[f"{role}/retries"] = counts.num_retries
      totals[f"{role}/tokens_in"] = counts.num_tokens_in
      totals[f"{role}/tokens_out"] = counts.num_tokens_out
      for fault, number in counts.failures.items():
        totals[f"{role}/failed/{fault}"] = number
      if isinstance(client, local_lib.Local):
        totals[f"{role}/device_calls"] = client.num_device_calls
      usd = self._shared.budget.of_process(role).usd
      num_outages, outage_s = client.outages
      optional = {"usd": usd, "outages": num_outages, "outage_s": outage_s}
      totals |= {f"{role}/{k}": float(v) for k, v in optional.items() if v}
    if self._clients:
      searches = self._shared.budget.of_process(lookup.ROLE).calls
      totals |= {"user/searches": float(searches)} if searches else {}
    if self._clients and self._shared.recording.mode != "live":
      totals["user/replayed"] = self._shared.recording.num_replayed
    new = {
      name: total - self._taken.get(name, 0) for name, total in totals.items()
    }
    self._taken = totals
    return new


def opened(
  settings: config.User,
) -> contextlib.AbstractAsyncContextManager[judging.Judge | None]:
  """Opens a user for one collection that nobody counts; see `User.opened`."""
  return User(settings).opened()


async def check(settings: config.User) -> None:
  """Asks an endpoint for one word; see `User.check`."""
  await User(settings).check()


def of_host(settings: config.User, num_hosts: int) -> config.User:
  """Returns the settings of one of several hosts: its share of the limits.

  What is left over is nobody's, so that all together stay within them.

  Raises:
    types.SetupError: when a limit is too low to be shared.
  """
  shares: dict[str, Any] = {}
  for name in ("max_concurrent", "requests_per_minute", "tokens_per_minute"):
    limit = getattr(settings, name)
    if 0 < limit < num_hosts:
      raise types.SetupError(
        f"user.{name} must be at least the number of hosts, {num_hosts}, each "
        f"of which takes its share, got {limit}; raise it, or use fewer hosts"
      )
    shares[name] = limit // num_hosts
  return dataclasses.replace(settings, **shares)


def agent_settings(
  user: config.User,
  agent: config.Agent,
  evaluation: config.Evaluation,
  rollout: config.Rollout,
) -> config.User | None:
  """Returns the settings of an endpoint that plays; None where none does.

  They are the user's but for the agent's own, the temperature of evaluation
  and the tokens of a turn.
  """
  if evaluation.agent != "endpoint":
    return None
  return dataclasses.replace(
    user,
    kind="endpoint",
    model=agent.model,
    base_url=agent.base_url or user.base_url,
    api_key_env=agent.api_key_env or user.api_key_env,
    temperature=evaluation.temperature,
    max_tokens=rollout.max_tokens_per_turn,
    timeout_s=agent.timeout_s,
    usd_per_million_in=agent.usd_per_million_in,
    usd_per_million_out=agent.usd_per_million_out,
  )


def judge_settings(user: config.User, judge: config.Judge) -> config.User:
  """Returns the settings of a judge's endpoint: the user's but for its own."""
  return dataclasses.replace(
    user,
    model=judge.model,
    base_url=judge.base_url or user.base_url,
    api_key_env=judge.api_key_env or user.api_key_env,
    temperature=judge.temperature,
    max_tokens=judge.max_tokens,
    usd_per_million_in=judge.usd_per_million_in,
    usd_per_million_out=judge.usd_per_million_out,
  )


async def _check(role: str, client: endpoint.Endpoint) -> None:
  for tries_left in reversed(range(_NUM_TRIES)):
    try:
      await client.ping()
      return
    except types.FaultError as error:
      if error.fault not in (
        types.Fault.USER_TIMEOUT,
        types.Fault.USER_ERROR,
        types.Fault.USER_BUSY,
      ):
        return  # it answered
      if not tries_left:
        raise types.SetupError(
          f"the endpoint of section {role} must answer, got {error.detail}; "
          f"start it, or check {role}.base_url and user.timeout_s"
        ) from error
