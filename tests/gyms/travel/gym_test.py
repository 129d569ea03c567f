"""The Travel game itself: rewards, refusals, outages, volunteered wishes."""

import asyncio
import dataclasses
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.travel import gym as gym_lib
from userrl_jax.gyms.travel import scenario

Kind, Verdict = scenario.Kind, scenario.Verdict


def aspect(name, letter, *wished):
  """Returns an aspect whose options 1 (best), 2 fit and whose 3, 4 do not."""
  has = {1: wished, 2: wished, 3: wished[1:], 4: wished[:-1] or ("bar",)}
  return {
    "aspect": name,
    "arguments": {"city": "Rome"},
    "preferences": [
      {
        "topic": topic,
        "text": f"{name} with a {topic}",
        "hint": f"I dream of {topic}-like things.",
        "predicate": {"field": "amenities", "op": "has", "value": topic},
      }
      for topic in wished
    ],
    "options": [
      {"id": f"{letter}{i}", "price": price, "amenities": list(has[i])}
      for i, price in ((1, 50), (2, 70), (3, 20), (4, 30))
    ],
  }


TASK = scenario.task(
  {
    "id": "two",
    "split": "train",
    "level": 2,
    "structure": "two",
    "opening": "I need a hotel (2 wishes) and a restaurant (1 wishes) in Rome.",
    "aspects": [
      aspect("hotel", "H", "view", "pool"),
      aspect("restaurant", "R", "band"),
    ],
  }
)


class VerdictUser:
  """Judges as a test says, whatever the agent writes."""

  def __init__(self, *verdicts):
    self.verdicts = list(verdicts)
    self.disclosed = []

  async def match_query(self, secret, text):
    return self.verdicts.pop(0)

  async def classify(self, secret, remaining, text):
    return self.verdicts.pop(0)

  async def reply(self, secret, kind, preference, text):
    self.disclosed.append(preference and preference.id)
    return preference.hint if preference else "Hm."


def play(moves, user=None, task=TASK, **settings):
  """Returns the gym and (reward, terminated, outcome) of each move."""

  async def run():
    game = gym_lib.TravelGym(
      config.Gyms(**{"max_turns": 20, "levels": (1, 2, 3)} | settings), user
    )
    await game.reset(task, 0)
    steps = [await game.step(types.Action(*move)) for move in moves]
    return game, [(s.reward, s.terminated, s.info["outcome"]) for s in steps]

  return asyncio.run(run())


def asks(*kinds):
  moves = [("action", "so?")] * len(kinds)
  return moves, VerdictUser(*(Verdict(kind) for kind in kinds))


@pytest.mark.parametrize(
  "profile, verdicts, moves, expected",
  [
    pytest.param(
      "released_eval",
      [(True, "hotel"), (True, "hotel"), Verdict(Kind.WISH, "P2")],
      ["search x", "search x", "action x", "answer H1", "answer R2"],
      [
        (0.2, "search"),
        (0, "repeated"),
        (0.6, "wish"),
        (1, "best"),
        (0.8, "correct"),
      ],
      id="11",
    ),
    pytest.param(
      "released_train",
      [
        (True, "hotel"),
        (False, ""),
        (True, "restaurant"),
        (True, "hotel"),
        (True, "hotel"),
      ],
      ["search x"] * 6,
      [
        (0, "search"),
        (0, "no_match"),
        (0, "search"),
        (0, "repeated"),
        (0, "outage"),
        (0, "repeated"),
      ],
      id="12",
    ),
    pytest.param(
      "released_eval",
      [],
      ["answer H1, R1", "answer H1", "answer H2", "answer R1"],
      [(0, "malformed"), (1, "best"), (0, "refused"), (1, "best")],
      id="13",
    ),
    pytest.param(
      "released_eval",
      [],
      ["answer H1,R2,bad", "answer H1", "answer R1"],
      [(0, "malformed"), (1, "best"), (1, "best")],
      id="14",
    ),
    pytest.param(
      "released_eval",
      [],
      ["answer H3", "answer R4"],
      [(0, "wrong"), (0, "wrong")],
      id="15",
    ),
    pytest.param(
      "released_eval",
      [Verdict(Kind.CHAT)] * 5,
      ["action x"] * 5,
      [(0, "chat")] * 3 + [(0, "volunteered"), (0, "chat")],
      id="16",
    ),
    pytest.param(
      "released_train",
      [Verdict(Kind.WISH, "P3"), Verdict(Kind.NO_WISH), Verdict(Kind.VAGUE)],
      ["action x", "action x", "action x"],
      [(0.8, "wish"), (0, "no_wish"), (0, "vague")],
      id="train",
    ),
    pytest.param(
      "paper",
      [(True, "restaurant"), Verdict(Kind.WISH, "P1")],
      ["search x", "action x", "answer R1"],
      [(0.2, "search"), (0.2, "wish"), (1, "best")],
      id="paper",
    ),
    pytest.param(
      "default",
      [(True, "restaurant"), Verdict(Kind.WISH, "P1")],
      ["search x", "action x", "answer R1", "answer H2"],
      [(0.05, "search"), (0.1, "wish"), (0.3, "best"), (0.075, "correct")],
      id="default",
    ),
  ],
)
def test_vectors(profile, verdicts, moves, expected):
  """By the numbers of the reference's test vectors, in the fixed profile."""
  game, steps = play(
    [tuple(move.split(" ", 1)) for move in moves],
    VerdictUser(*verdicts),
    reward_profile=profile,
  )
  assert [outcome for _, _, outcome in steps] == [o for _, o in expected]
  assert [r for r, _, _ in steps] == pytest.approx([r for r, _ in expected])
  assert [t for _, t, _ in steps] == [
    i == len(steps) - 1 and game.state.chosen == 3 for i in range(len(steps))
  ]


def test_maximum_of_each_profile():
  expected = {
    "default": 1.0,
    "released_train": 0.8 * 3 + 2,
    "released_eval": 0.2 * 2 + 0.6 * 3 + 2,
    "paper": 0.2 * 2 + 0.2 * 3 + 2,
  }
  for profile, score in expected.items():
    game, _ = play([], reward_profile=profile)
    assert game.max_score == pytest.approx(score)
  assert set(expected) == set(gym_lib.TravelGym.reward_profiles)


@pytest.mark.parametrize(
  "answers, success",
  [("H1 R1", True), ("H2 R1", False), ("R1 H3", False), ("R1 H1", True)],
)
def test_success_is_every_best_option(answers, success):
  async def run():
    game = gym_lib.TravelGym(config.Gyms())
    await game.reset(TASK, 0)
    steps = [
      await game.step(types.Action("answer", a)) for a in answers.split()
    ]
    assert [s.info["success"] for s in steps] == [False, success]

  asyncio.run(run())


def test_a_refused_answer_changes_nothing():
  for content in ("H9", "F1", "h1", "H1 R1", "H\u0661", "H1\n R1"):
    game, steps = play([("answer", content)])
    assert steps[0][:2] == (0, False)
    assert dataclasses.replace(game.state, num_turns=0) == gym_lib.State(
      "two", 0
    )


def test_a_choice_forfeits_the_wishes_of_its_aspect():
  moves = [("answer", "H1"), ("action", "Do you want a view?")]
  game, steps = play([*moves, ("action", "Do you want a band?")])
  assert [o for _, _, o in steps] == ["best", "no_wish", "wish"]
  assert game.undisclosed() == (
    "I dream of view-like things.",
    "hotel with a view",
    "I dream of pool-like things.",
    "hotel with a pool",
  )


def test_a_volunteered_wish_is_disclosed_in_an_order_of_the_episode():
  moves, user = asks(*[Kind.CHAT, Kind.VAGUE, Kind.NO_WISH] * 6)
  game, steps = play(moves, user)
  assert [i for i, s in enumerate(steps) if s[2] == "volunteered"] == [3, 7, 11]
  told = [p for p in user.disclosed if p]
  assert sorted(told) == ["P1", "P2", "P3"] and game.undisclosed() == ()
  assert sum(reward for reward, _, _ in steps) == 0
  orders = set()
  for seed in range(20):
    order = list("123")
    base.episode_rng("two", seed).shuffle(order)
    orders.add("".join(order))
  assert len(orders) > 3


def test_a_question_that_hits_starts_the_count_of_idle_messages_again():
  verdicts = [Verdict(k) for k in (1, 1, 1)] + [Verdict(2, "P1")]
  verdicts += [Verdict(k) for k in (3, 4, 1, 1)]
  _, steps = play([("action", "so?")] * 8, VerdictUser(*verdicts))
  assert [o for _, _, o in steps][3:] == [
    "wish",
    "no_wish",
    "vague",
    "chat",
    "volunteered",
  ]


def test_zero_turns_outages_and_volunteering_off():
  travel = config_gyms.Travel(outage_every=0, reveal_after=0)
  moves, user = asks(*[Kind.CHAT] * 9)
  _, steps = play(moves, user, travel=travel)
  assert {o for _, _, o in steps} == {"chat"}
  _, steps = play([("search", "hotel Oslo")] * 11, travel=travel)
  assert {o for _, _, o in steps} == {"no_match"}
  for field in ("outage_every", "reveal_after"):
    with pytest.raises(ValueError, match=field):
      settings = config.Gyms(travel=config_gyms.Travel(**{field: -1}))
      gym_lib.TravelGym(settings)


@pytest.mark.parametrize(
  "choice, verdict",
  [
    ("search", (True, "flight")),
    ("search", (True, "")),
    ("search", ("False", "hotel")),
    ("action", Verdict(0)),
    ("action", Verdict(5)),
    ("action", Verdict("2", "P1")),
    ("action", Verdict(True)),
    ("action", Verdict(2)),
    ("action", Verdict(2, "P4")),
    ("action", Verdict(1, "P1")),
    ("action", None),
  ],
)
def test_a_verdict_out_of_range_is_a_fault_and_spends_no_turn(choice, verdict):
  async def run():
    game = gym_lib.TravelGym(config.Gyms(), VerdictUser(verdict))
    await game.reset(TASK, 0)
    before = game.state
    with pytest.raises(types.FaultError) as caught:
      await game.step(types.Action(choice, "x"))
    assert caught.value.fault is types.Fault.USER_UNPARSABLE
    assert game.state == before

  asyncio.run(run())


@pytest.mark.parametrize("said", ["", "  ", None, "x" * 701])
def test_a_reply_must_be_text_that_fits(said):
  class Mute(VerdictUser):
    async def reply(self, secret, kind, preference, text):
      return said

  with pytest.raises(types.FaultError, match="user_unparsable"):
    play([("action", "x")], Mute(Verdict(1)))


def test_prompts_follow_the_settings():
  def prompt(profile, **settings):
    return gyms.make("travel", config.Gyms(**settings)).system_prompt(profile)

  for levels in ((1,), (1, 2, 3)):
    brief = prompt("brief", levels=levels, max_turns=17)
    assert len(brief.split()) <= 55 and "17" in brief
  assert "cheapest first" in prompt("brief")
  assert "cheapest first" not in prompt("brief", levels=(2,))
  never = config_gyms.Travel(outage_every=0, reveal_after=0)
  words = ("database down", "volunteers")
  assert all(word in prompt("full") for word in words)
  assert not any(word in prompt("full", travel=never) for word in words)


def test_scripted_steps_are_fast():
  settings = config.Gyms(levels=(1, 2, 3), max_turns=16, num_test_tasks=30)
  tasks = gyms.load_tasks("travel", settings, "test", 0)

  async def run():
    started, num_steps = time.process_time(), 0
    for number in range(150):
      game = gyms.make("travel", settings)
      await game.reset(tasks[number % 30], 0)
      rng = base.episode_rng("speed", number)
      while not game.state.is_over:
        await game.step(gyms.canned("travel")(rng))
        num_steps += 1
    return num_steps / (time.process_time() - started)

  assert max(asyncio.run(run()) for _ in range(3)) > 10_000
