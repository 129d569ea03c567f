"""Which model is asked what: one that plays the user, and one that judges."""

import asyncio
import json
import re

import pytest

from tests.clients import server
from tests.gyms import fake_judge
from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax import underway
from userrl_jax import users
from userrl_jax.gyms import base
from userrl_jax.gyms import contract

SETTINGS = config.Gyms(tasks="pack", levels=(1, 2, 3), max_turns=10)
NUM_TASKS = 3

# Fields of the verdicts: what the user says or knows, and what the judge marks.
ROLES = {
  "intention": ({"reply"}, {"kind covered"}),
  "persuade": ({"reply"}, {"stance"}),
  "search": (set(), {"same"}),
  "tau": ({"say agrees settled"}, set()),
  "telepathy": ({"answer"}, {"right"}),
  "travel": ({"reply"}, {"item", "kind number"}),
  "turtle": ({"answer"}, {"points"}),
}

# What rules are sure of otherwise, and nobody is asked.
BLURRED = {("search", "answer"), ("telepathy", "answer"), ("travel", "search")}


def fields_of(request):
  """Returns the names of what a request asks for."""
  form = request.body["messages"][0]["content"].rsplit("\n\n", 1)[1]
  return " ".join(re.findall(r'"(\w+)": ', form))


async def moves(name, task, number):
  """Returns what the demonstrator does, in words that rules are not sure of."""
  player = gyms.oracle(name)(task, base.episode_rng(task.id, number))
  known = await contract.play_async(
    gyms.make(name, SETTINGS), task, player.next_action
  )
  return [
    types.Action(m.choice, _blurred(name, m.content))
    if (name, m.choice) in BLURRED
    else m
    for m in known.actions
  ]


def _blurred(name, content):
  if name == "travel":  # the item is not called by its name
    return re.sub(r"^\w+", "what I need", content)
  return f"old {content}"


def verdict(messages, pays):
  """Returns a verdict whose words tell nothing."""
  found = json.loads(fake_judge.verdict(messages, pays))
  return json.dumps(
    {k: "Well, yes." if k in ("reply", "say") else v for k, v in found.items()}
  )


def play(name, judge, marks):
  """Plays some tasks; returns the rewards and what was asked, by model.

  Args:
    name: of the gym.
    judge: the section of the config.
    marks: whether the model of that name pays.
  """

  class Marker(server.Server):
    def _reply(self, path, key, body, fault):
      self._answer = lambda messages: verdict(messages, marks[body["model"]])
      return super()._reply(path, key, body, fault)

  async def run(base_url):
    settings = config.User(
      kind="endpoint", base_url=base_url, model="talks", max_concurrent=1
    )
    rewards = []
    async with users.User(settings, judge).opened() as asked:
      for number, task in enumerate(
        gyms.load_tasks(name, SETTINGS, "test", 0)[:NUM_TASKS]
      ):
        with underway.episode(f"{number}", name):
          gym = gyms.make(name, SETTINGS, asked)
          await gym.reset(task, number)
          for move in await moves(name, task, number):
            rewards.append((await gym.step(move)).reward)
            if gym.state.is_over:
              break
    return rewards

  with Marker(lambda messages: "") as running:
    rewards = asyncio.run(run(running.base_url))
    return rewards, list(running.log)


def asked_of(log, model):
  return {fields_of(r) for r in log if r.body["model"] == model}


def test_the_table_has_every_gym_that_a_model_answers_in():
  assert ROLES.keys() == {n for n, g in gyms.GYMS.items() if g.Gym.has_user}


@pytest.mark.parametrize("name", ROLES)
def test_who_judges_is_asked_for_every_mark_and_nothing_else(name):
  of_user, of_judge = ROLES[name]
  judge = config.Judge(model="judges", api_key_env="", max_tokens=99)
  rewards, log = play(name, judge, {"talks": False, "judges": True})
  assert asked_of(log, "talks") == of_user
  assert asked_of(log, "judges") == of_judge
  assert {r.body["max_tokens"] for r in log if r.body["model"] == "judges"} <= {
    99
  }
  # The marks of the one who judges are those that pay, and no others.
  if of_judge:
    assert sum(rewards) > 0
    bad, _ = play(name, judge, {"talks": True, "judges": False})
    assert sum(bad) < sum(rewards)
  # One model alone reads the same texts.
  alone, other_log = play(
    name, config.Judge(), {"talks": True, "judges": False}
  )
  assert {r.body["model"] for r in other_log} == {"talks"}
  if name == "persuade":  # where it tells words and stance at once
    assert asked_of(other_log, "talks") == {"reply stance"}
  elif name != "tau":
    texts = lambda log: [r.body["messages"] for r in log]
    same, same_log = play(name, judge, {"talks": True, "judges": True})
    assert texts(same_log) == texts(other_log) and same == alone
