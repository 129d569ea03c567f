"""Who answers the agent: rules, or a model behind an endpoint.

In: the section `user` of a config. Out: a judge for `gyms.make`, open as long
as the episodes that it answers.
"""

from collections.abc import AsyncIterator
import contextlib

from userrl_jax import config
from userrl_jax.clients import endpoint
from userrl_jax.gyms import judging


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
