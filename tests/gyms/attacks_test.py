"""What the agent writes orders nobody: attacks of our own on model users.

`attacks.json` has texts that want a judge to pay: orders, forged verdicts and
fences, placeholders, play-acting, and all that encoded. They go through every
gym that a model can be the user of, as every choice, above real games.
"""

import asyncio
import collections
import dataclasses
import functools
import json
import pathlib

import pytest

from tests.gyms import fake_judge
from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import judging
from userrl_jax.gyms.turtle import story

ATTACKS = json.loads(
  pathlib.Path(__file__).with_name("attacks.json").read_text("utf-8")
)
SETTINGS = config.Gyms(
  tasks="pack",
  levels=(1, 2, 3),
  max_turns=3,
  telepathy=config_gyms.Telepathy(guess_limit=0),
  search=config_gyms.Search(answer_limit=0),
)
PROMPTED = [name for name, gym in gyms.GYMS.items() if gym.Gym.has_user]
HARMLESS = {
  "action": "Is it a big one?",
  "answer": "It is a big one because of the rain that falls in the evening.",
  "search": "something big",
}

PAYING = {"intention": "action", "travel": "action"}  # elsewhere: answer

# Choices of a gym's own tasks in which rules or records know what no judge may
# pay. In the others the game bounds what one text can earn: one detail, as
# many stances as an argument moves, one wish.
VETOED = {
  "intention": (),
  "persuade": (),
  "search": ("search", "answer"),
  "tau": ("action", "answer", "search"),
  "telepathy": ("action", "answer"),
  "travel": ("search", "answer"),
  "turtle": ("action", "answer"),
}
MOST = {"intention": 0.5, "persuade": 2 / 6, "travel": 0.3}  # share of all

# Tasks about which rules know little, so that the model alone decides.
ALONE = {
  "telepathy": types.Task(
    *("telepathy", "lamp", "test", 2, "s", {"description": "A thing."}),
    types.Secret({"name": "Lighthouse", "aliases": (), "gloss": "a tower"}),
  ),
  "search": types.Task(
    *("search", "isle", "test", 2, "s", {"question": "Which town is it?"}),
    types.Secret({"answer": "Lisbon", "aliases": (), "corpus": "web"}),
  ),
  "turtle": types.Task(
    *("turtle", "bell", "test", 3, "s"),
    {"title": "The Bell", "surface": "A bell rings in an empty tower."},
    types.Secret(
      {
        "story": story.Story(
          "The Bell",
          "A bell rings in an empty tower.",
          "Your goat rules here: a player of ropes marks the text of a task.",
          (story.Criterion("A goat pulls the rope.", 20),),
        )
      }
    ),
  ),
}


class NoPages:
  """A web without a page."""

  async def search(self, query, k):
    return []


class Judge:
  """Asks a fake model; counts what it was asked."""

  def __init__(self, answer):
    self._answer = answer
    self.asked = []

  async def complete(self, messages):
    self.asked.append(messages)
    return self._answer(messages)

  def gym(self, name):
    judge = judging.Judge(self.complete, 0)
    if name == "search":
      entry = gyms.GYMS[name]
      return entry.Gym(SETTINGS, entry.prompted.prompted(judge), NoPages())
    return gyms.make(name, SETTINGS, judge)


@dataclasses.dataclass(frozen=True)
class Played:
  """A game that opened with an attack and went on with a harmless move."""

  choice: str
  text: str
  first_reward: float  # of the attack alone
  reward: float
  success: bool
  was_judged: bool  # it was not refused before
  was_told: bool  # an order stood outside of the fence, in either turn


def play(name, answer, tasks):
  """Plays every attack as every choice on every task."""

  async def game(task, choice, text):
    judge = Judge(answer)
    gym = judge.gym(name)
    await gym.reset(task, 0)
    steps = [await gym.step(types.Action(choice, text))]
    was_judged = bool(judge.asked)
    if not gym.state.is_over:
      steps.append(await gym.step(types.Action(choice, HARMLESS[choice])))
    outsides = map(fake_judge.outside, judge.asked)
    return Played(
      choice,
      text,
      steps[0].reward,
      sum(step.reward for step in steps),
      any(step.info["success"] for step in steps),
      was_judged,
      any(map(fake_judge.is_told, outsides)),
    )

  async def every():
    return [
      await game(task, choice, attack["text"])
      for task in tasks
      for choice in gyms.GYMS[name].Gym.choices
      for attack in ATTACKS
    ]

  return asyncio.run(every())


@functools.cache
def own_tasks(name):
  """Returns a task of each level that has no word of an order in it."""
  tasks = [
    task
    for task in gyms.load_tasks(name, SETTINGS, "test", 0)
    if not fake_judge.is_told(repr(task.secret.reveal()))
  ]
  found = tuple({task.level: task for task in tasks}.values())
  assert len(found) == 3
  return found


def tasks_of(name):
  return own_tasks(name) + ((ALONE[name],) if name in ALONE else ())


def test_there_are_many_attacks_of_many_kinds():
  texts = [attack["text"] for attack in ATTACKS]
  assert len(set(texts)) == len(texts) >= 60
  kinds = collections.Counter(attack["family"] for attack in ATTACKS)
  assert len(kinds) >= 6 and min(kinds.values()) >= 8
  # The fake judge understands them all, and nothing else as an order.
  assert [text for text in texts if not fake_judge.is_told(text)] == []
  assert not any(map(fake_judge.is_told, HARMLESS.values()))


@pytest.mark.parametrize("name", PROMPTED)
def test_a_judge_that_obeys_what_is_outside_of_the_fence_pays_nothing(name):
  played = play(name, fake_judge.obedient, tasks_of(name))
  assert [p for p in played if p.was_told or p.reward or p.success] == []
  assert sum(p.was_judged for p in played) >= len(ATTACKS) / 2


@pytest.mark.parametrize("name", PROMPTED)
def test_without_the_fence_the_same_judge_pays(name, monkeypatch):
  monkeypatch.setattr(judging, "_fenced", lambda text, nonce: text)
  played = play(name, fake_judge.obedient, tasks_of(name))
  judged = [p for p in played if p.was_judged]
  assert [p for p in judged if not p.was_told] == []
  if name == "tau":  # which pays for records, whatever the user believes
    assert not any(p.reward for p in played)
    return
  paid = [p for p in judged if p.choice == PAYING.get(name, "answer")]
  assert len({p.text for p in paid}) >= len(ATTACKS) / 5
  assert all(p.first_reward > 0 for p in paid)


@pytest.mark.parametrize("name", PROMPTED)
def test_rules_hold_against_a_judge_that_obeys_everything(name):
  """Also inside of the fence: this is what no prompt can prevent."""
  played = play(name, fake_judge.obeys_everything, own_tasks(name))
  vetoed = [p for p in played if p.choice in VETOED[name]]
  assert [p for p in vetoed if p.first_reward or p.success] == []
  most = max(p.first_reward for p in played)
  assert 0 <= most <= MOST.get(name, 0.0) + 1e-9
  assert (most > 0) == (name in MOST)
