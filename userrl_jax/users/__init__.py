"""Who answers the agent: rules, or a model behind an endpoint.

In: the section `user` of a config. Out: a `User`, kept for a run, which opens
a judge for `gyms.make` as long as the episodes that it answers.
"""

from collections.abc import AsyncIterator
import contextlib

from userrl_jax import config
from userrl_jax import types
from userrl_jax.clients import endpoint
from userrl_jax.gyms import judging

_NUM_TRIES = 3  # of the first word


class User:
  """Answers the agent in all collections of a run, and counts over them.

  One for a run: what an endpoint learnt (that it takes our requests) and its
  counters live on from one collection to the next.
  """

  def __init__(self, settings: config.User):
    """Checks the settings; connects to nothing.

    Raises:
      types.SetupError: when the endpoint's settings do not hold.
    """
    self._num_reasks = settings.num_reasks
    self._client = (
      None if settings.kind == "scripted" else endpoint.Endpoint(settings)
    )
    self._taken: dict[str, float] = {}

  @contextlib.asynccontextmanager
  async def opened(self) -> AsyncIterator[judging.Judge | None]:
    """Opens the user of a collection of episodes, one at a time.

    Yields:
      A judge, or None where rules answer.
    """
    if self._client is None:
      yield None
    else:
      async with self._client as client:
        yield judging.Judge(client.complete, self._num_reasks)

  async def check(self) -> None:
    """Asks an endpoint for one word, before anything depends on it.

    Raises:
      types.SetupError: when it does not answer; says why.
    """
    if self._client is None:
      return
    async with self._client as client:
      for tries_left in reversed(range(_NUM_TRIES)):
        try:
          await client.complete([{"role": "user", "content": "Say: ready"}])
          return
        except types.FaultError as error:
          if error.fault not in (
            types.Fault.USER_TIMEOUT,
            types.Fault.USER_ERROR,
          ):
            return  # it answered
          if not tries_left:
            raise types.SetupError(
              f"the endpoint of section user must answer, got {error.detail}; "
              "start it, or check user.base_url and user.timeout_s"
            ) from error

  def take_counts(self) -> dict[str, float]:
    """Returns what an endpoint did since the last call; {} where rules answer.

    Returns:
      user/requests (sent, retries included), user/retries, user/tokens_in,
        user/tokens_out (as the endpoint tells)
      user/failed/<fault>: questions that ended in it, once it has occurred
    """
    if self._client is None:
      return {}
    counts = self._client.counts
    totals: dict[str, float] = {
      "user/requests": counts.num_requests,
      "user/retries": counts.num_retries,
      "user/tokens_in": counts.num_tokens_in,
      "user/tokens_out": counts.num_tokens_out,
    }
    for fault, number in counts.failures.items():
      totals[f"user/failed/{fault}"] = number
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
