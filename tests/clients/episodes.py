"""Episodes of Telepathy against an endpoint, for tests of what is around it."""

import asyncio
import json
import random
import threading

from userrl_jax import config as config_lib
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import metrics
from userrl_jax.agents import scripted
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode

GYMS = config_lib.Gyms(
  names=("telepathy",),
  levels=(2,),
  max_turns=4,
  num_train_tasks=6,
  telepathy=config_gyms.Telepathy(guess_limit=0),
)
LIMITS = config_lib.Rollout(
  max_tokens_per_episode=4096, step_timeout_s=60.0, max_invalid_share=1.0
)


def user(base_url, **changes):
  values = {"model": "small", "timeout_s": 15.0, "num_retries": 1}
  return config_lib.User(
    kind="endpoint", base_url=base_url, **(values | changes)
  )


def moody(messages, chance=random):
  """Plays the user of Telepathy by chance: never twice the same."""
  if '"right"' in messages[0]["content"]:
    return json.dumps({"right": chance.random() < 0.3})
  return json.dumps({"answer": chance.choice(("Yes", "No", "Maybe"))})


def moody_in_order():
  """Returns a moody user for one run: what comes n-th is answered alike."""
  chances, lock = random.Random(0), threading.Lock()

  def answer(messages):
    with lock:
      return moody(messages, chances)

  return answer


def judges(running):
  """Returns the requests that a server got from the judge, not the user."""
  return [
    r for r in running.log if '"right"' in r.body["messages"][0]["content"]
  ]


class Table:
  """Plays groups of scripted agents, as a training run plays its own."""

  def __init__(self):
    self._chat = chat_lib.Chat(
      tokenizers.train_sentencepiece(["a b c"] * 3, 512, chat_lib.PHRASES),
      "brief",
    )
    self.tasks = gyms.load_tasks("telepathy", GYMS, "train", 0)

  def play(self, who, group_size=2, iteration=0, limits=LIMITS, tasks=None):
    """Returns the groups of an iteration with this `users.User`."""

    def make_agent(task, member, seed):
      rng = random.Random(seed)
      oracle = gyms.oracle("telepathy")(task, rng, 0.5, GYMS)
      return scripted.ScriptedAgent(oracle.next_action, self._chat, 4096)

    async def play():
      async with who.opened() as judge:
        return await collect.collect(
          self.tasks if tasks is None else tasks,
          group_size,
          lambda name: gyms.make(name, GYMS, judge),
          make_agent,
          episode.Settings(limits, 4, "brief", show_reward=False),
          seed=0,
          iteration=iteration,
        )

    return asyncio.run(play())


def trajectories(groups):
  return [t for group in groups for t in group.trajectories]


def written(groups):
  """Returns all that is in trajectories, as bytes."""
  return b"".join(
    json.dumps(metrics.trajectory_record(t)).encode()
    + t.token_ids_T.tobytes()
    + t.logprobs_T.tobytes()
    + t.turn_ids_T.tobytes()
    for t in trajectories(groups)
  )
