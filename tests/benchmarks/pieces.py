"""A gym for timings: whatever is said, four turns of equal length."""

import hashlib

from userrl_jax import types
from userrl_jax.agents import base as agents
from userrl_jax.agents import policy
from userrl_jax.gyms import base

NUM_TURNS = 4
WORDS = "The next piece follows here."


class Pieces(base.Gym):
  """Pays by chance, so that groups are not flat and an update has work."""

  name = "tests.benchmarks.pieces:Pieces"
  choices = ("action",)
  reward_profiles = ("default",)

  @staticmethod
  def load_tasks(settings, split, seed):
    secret, num = types.Secret({}), settings.num_train_tasks
    return [
      types.Task(Pieces.name, f"{split}-{i}", split, 1, f"{i}", {}, secret)
      for i in range(num)
    ]

  @staticmethod
  def random_move(rng):
    return types.Action("action", " ".join(rng.sample(WORDS.split(), 3)))

  def system_prompt(self, profile):
    return "Say a piece."

  def start(self, task, seed):
    return base.State(task.id, seed), WORDS

  def undisclosed(self):
    return ()

  async def play(self, state, action):
    digest = hashlib.blake2b(action.content.encode(), digest_size=1).digest()
    return state, base.Reply(WORDS, "said", reward=digest[0] / 1024)


class Speaker(policy.PolicyAgent):
  """The policy, whose turns are moves of the gym whatever they say."""

  async def act(self):
    reply = await super().act()
    return agents.Reply(reply.text, types.Action("action", reply.text or "-"))
