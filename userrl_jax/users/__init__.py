"""Who answers the agent: rules, or a model behind an endpoint.

In: the section `user` of a config. Out: a judge for `gyms.make`, open as long
as the episodes that it answers.
"""

from collections.abc import AsyncIterator
import contextlib

from userrl_jax import config
from userrl_jax import types
from userrl_jax.clients import endpoint
from userrl_jax.gyms import judging

_NUM_TRIES = 3  # of the first word


@contextlib.asynccontextmanager
async def opened(settings: config.User) -> AsyncIterator[judging.Judge | None]:
  """Opens the user of a collection of episodes.

  Yields:
    A judge, or None where rules answer.

  Raises:
    ValueError: when the endpoint's settings do not hold.
  """
  if settings.kind == "scripted":
    yield None
  else:
    async with endpoint.Endpoint(settings) as client:
      yield judging.Judge(client.complete, settings.num_reasks)


async def check(settings: config.User) -> None:
  """Asks an endpoint for one word, before anything depends on it.

  Raises:
    ValueError: when it does not answer; says why.
  """
  if settings.kind == "scripted":
    return
  async with endpoint.Endpoint(settings) as client:
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
          raise ValueError(
            f"the endpoint of section user must answer, got {error.detail}; "
            "start it, or check user.base_url and user.timeout_s"
          ) from error
