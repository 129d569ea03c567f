"""A policy that plays with a person: built beforehand, served while they talk.

What of `play` needs JAX: that entry point imports it only where a policy plays.
"""

from collections.abc import AsyncIterator
import contextlib
import dataclasses
import pathlib

import numpy as np

from userrl_jax import assembly
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import types
from userrl_jax import users
from userrl_jax.agents import policy
from userrl_jax.inference import sampling as sampling_lib
from userrl_jax.models import qwen3


@dataclasses.dataclass(frozen=True)
class Partner:
  """A policy with its params."""

  name: str  # the checkpoint with its step, or the folder
  parts: assembly.Parts
  params: qwen3.Params
  sampling: sampling_lib.Sampling

  @property
  def user(self) -> users.User:
    """Returns the user of the run."""
    return self.parts.user

  @contextlib.asynccontextmanager
  async def serving(self) -> AsyncIterator[None]:
    """Samples for its agents while the context is entered."""
    async with self.parts.engine.serving(self.params):
      yield

  def agent(self, task: types.Task, seed: int) -> policy.PolicyAgent:
    """Returns an agent for an episode; the seed is its own, of 63 bits."""
    return policy.PolicyAgent(
      self.parts.engine,
      self.parts.chat,
      self.parts.config.rollout,
      np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32),
      self.sampling,
    )


def load(config: config_lib.Config) -> Partner:
  """Loads the policy of `init_from` or `model.folder`; compiles nothing.

  Raises:
    ValueError: when neither is given, or what is there does not fit.
  """
  if not config.init_from and not config.model.folder:
    raise ValueError(
      "a policy that plays needs init_from, a folder of checkpoints, or "
      "model.folder, got neither; e.g. "
      "--config.init_from=runs/quickstart/checkpoints/grpo, or "
      "--config.evaluation.agent=oracle"
    )
  parts = assembly.build(config)
  step = checkpoint.last_step(config.init_from) if config.init_from else None
  params = assembly.first_params(parts, step=step)
  knobs = config.evaluation
  sampling = sampling_lib.Sampling(
    knobs.temperature, knobs.top_k, knobs.top_p, knobs.min_p
  )
  folder = pathlib.Path(config.init_from or config.model.folder).resolve().name
  name = folder if step is None else f"{folder}@{step}"
  return Partner(name, parts, params, sampling)
