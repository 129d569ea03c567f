"""The Tau game: what pays, what ends it, what a user can and cannot do."""

import asyncio
import dataclasses
import json
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.tau import generate
from userrl_jax.gyms.tau import gym as gym_lib
from userrl_jax.gyms.tau import pack
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import scripted

PROFILES = gym_lib.TauGym.reward_profiles
FIND = "answer find_user mia@post.test"
PLAN = "action Shall I cancel order W1001, reason late?"
CANCEL = "answer cancel_order W1001 late"


class FixedUser:
  """Says what it is given, in order; any value, also one that is none."""

  def __init__(self, *said):
    self._said = iter(said)
    self.scenes = []

  async def turn(self, scene, message):
    self.scenes.append(scene)
    return next(self._said)


SETTLED = scripted.Said("Fine.", is_settled=True)


def task_of(structure):
  return next(t for t in pack.read() if t.structure == structure)


def play(structure, *moves, user=None, **settings):
  """Returns the gym and the steps of moves like 'action Done.'."""
  settings = config.Gyms(**{"max_turns": 30} | settings)

  async def run():
    gym = gym_lib.TauGym(settings, user)
    await gym.reset(task_of(structure), 0)
    steps = []
    for move in moves:
      choice, _, content = move.partition(" ")
      steps.append(await gym.step(types.Action(choice, content)))
    return gym, steps

  return asyncio.run(run())


def ends(steps):
  return [(s.info["outcome"], s.reward, s.terminated) for s in steps]


@pytest.mark.parametrize("profile", PROFILES)
def test_vector_17_of_the_specification(profile):
  """The solution, then a message with the outputs; the user stops: 1."""
  user = FixedUser(scripted.Said("Yes.", agrees=True), SETTLED)
  _, steps = play(
    "2|cancel:change|",
    *(FIND, PLAN, CANCEL, "action That is all."),
    user=user,
    reward_profile=profile,
  )
  assert ends(steps) == [
    ("read", 0, False),
    ("agreed", 0, False),
    ("write", 0, False),
    ("served", 1, True),
  ]
  assert steps[-1].info["success"]


@pytest.mark.parametrize("task", pack.read(), ids=lambda t: t.id)
def test_vector_18_an_immediate_transfer_never_pays(task):
  async def run():
    gym = gyms.make("tau", config.Gyms(levels=(1, 2, 3)))
    await gym.reset(task, 0)
    return await gym.step(types.Action("answer", "transfer_to_human Help."))

  step = asyncio.run(run())
  assert step.reward == 0 and not step.info["success"]
  assert step.terminated == (task.level > 1)  # where there is such a tool


@pytest.mark.parametrize(
  "moves, outcome, reward",
  [
    (["answer get_order W1004"], "served", 1),
    (["answer get_order W1005"], "transferred", 0),
    ([], "transferred", 0),
    (
      ["answer get_order W1004", "answer cancel_order W1004 late"],
      "transferred",
      0,
    ),
  ],
)
def test_a_transfer_pays_after_a_look_at_the_order(moves, outcome, reward):
  find = "answer find_user omar@post.test"
  transfer = "answer transfer_to_human Other payment."
  _, steps = play("3|payment:transfer|", find, *moves, transfer)
  assert ends(steps)[-1] == (outcome, reward, True)
  # and where an order can simply be changed, never
  _, steps = play(
    "2|cancel:change|", FIND, "answer get_order W1001", PLAN, CANCEL, transfer
  )
  assert ends(steps)[-1] == ("transferred", 0, True)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_change_without_a_yes_pays_only_where_records_are_all(profile):
  _, steps = play(
    "2|cancel:change|", FIND, CANCEL, "action Done.", reward_profile=profile
  )
  is_strict = profile == "default"
  outcome = ("breach", 0, True) if is_strict else ("served", 1, True)
  assert ends(steps)[-1] == outcome
  assert steps[-1].info["success"] != is_strict


@pytest.mark.parametrize(
  "plan, call",
  [
    ("action Shall I cancel order W1003?", CANCEL),
    ("action Shall I return order W1001?", CANCEL),
    (PLAN, "answer update_address W1001 5 Long Road"),
  ],
)
def test_a_yes_is_for_one_change_of_one_order(plan, call):
  gym, _ = play("2|cancel:change|", FIND, plan, call)
  assert gym.state.num_breaches == 1


def test_other_changes_spoil_the_end():
  _, steps = play(
    "2|cancel:change|",
    *(FIND, PLAN, CANCEL, "answer return_items W1002 L2", "action Done."),
  )
  assert steps[-1].observation.text == scripted.UNDONE
  assert not steps[-1].terminated


def test_the_wrong_reason_is_another_end():
  _, steps = play(
    "2|cancel:change|",
    *(FIND, PLAN, "answer cancel_order W1001 price", "action Done."),
  )
  assert ends(steps)[-1] == ("talk", 0, False)


def test_two_requests_come_one_after_the_other():
  structure = "3|cancel:change+return:change|"
  found = scenario.of_task(task_of(structure))
  gym, steps = play(
    structure,
    FIND,
    "action Shall I cancel order W1001, reason price?",
    "answer cancel_order W1001 price",
    "action Done.",
  )
  assert ends(steps)[-1] == ("next", 0, False)
  assert steps[-1].observation.text == f"Thanks. {found.intents[1].request}"
  assert found.intents[1].request not in gym.undisclosed()
  gym, steps = play(structure, FIND)
  assert found.intents[1].request in gym.undisclosed()


@pytest.mark.parametrize(
  "moves, outcome",
  [
    (["answer get_order W1022", "action It is 97."], "served"),
    (["answer get_order W1022", "action Your total: 97, W1022."], "served"),
    (["action It is 97."], "talk"),
    (["answer get_order W1022", "action It is 197."], "talk"),
    (["answer get_order W1022", "action It is 95, 96, 97 or 98."], "talk"),
    (["answer get_order W1021", "action It is 97."], "talk"),
    (["action It is 97.", "answer get_order W1022", "action Done."], "talk"),
  ],
)
def test_outputs_count_when_looked_up_and_told_alone(moves, outcome):
  find = "answer find_user elsa@post.test"
  _, steps = play("3|tell:total|", find, *moves)
  assert steps[-1].info["outcome"] == outcome
  assert steps[-1].reward == (outcome == "served")


def test_a_refusal_counts_once_the_order_was_looked_at():
  sorry = "action Sorry, it is shipped."
  _, steps = play("3|cancel:shipped|", sorry, FIND, sorry)
  assert {s.observation.text for s in steps[::2]} == {scripted.WHY_NOT}
  for look in ("get_order W1003", "cancel_order W1003 mistake"):
    _, steps = play("3|cancel:shipped|", FIND, f"answer {look}", sorry)
    assert ends(steps)[-1] == ("served", 1, True)


def test_what_a_user_believes_neither_pays_nor_ends_the_game():
  user = FixedUser(*[SETTLED] * 3)
  _, steps = play("2|cancel:change|", *["action Done."] * 3, user=user)
  assert ends(steps) == [
    ("unfounded", 0, False),
    ("unfounded", 0, False),
    ("unfounded", 0, True),
  ]
  assert [scene.is_reached for scene in user.scenes] == [False] * 3
  assert not any(step.info["success"] for step in steps)


@pytest.mark.parametrize("reward", [0.0, 0.25])
def test_turns_that_run_out_before_the_last_word(reward):
  tau = config_gyms.Tau(unclosed_reward=reward)
  _, steps = play("2|cancel:change|", FIND, PLAN, CANCEL, tau=tau, max_turns=3)
  assert steps[-1].truncated and not steps[-1].info["success"]
  assert (steps[-1].info["outcome"], steps[-1].reward) == ("unclosed", reward)
  _, steps = play("2|cancel:change|", FIND, CANCEL, tau=tau, max_turns=2)
  assert (steps[-1].info["outcome"], steps[-1].reward) == ("unclosed", 0)
  _, steps = play("2|cancel:change|", FIND, PLAN, tau=tau, max_turns=2)
  assert (steps[-1].info["outcome"], steps[-1].reward) == ("agreed", 0)
  sorry = ("3|cancel:shipped|", FIND, "answer get_order W1003")
  _, steps = play(*sorry, tau=tau, max_turns=2)  # nothing done is no success
  assert (steps[-1].info["outcome"], steps[-1].reward) == ("read", 0)
  with pytest.raises(ValueError, match="unclosed_reward must be in"):
    gym_lib.TauGym(config.Gyms(tau=config_gyms.Tau(unclosed_reward=1.5)))


def test_searches():
  _, steps = play(
    "2|cancel:change|",
    *("search tools", "search Tools", "search policy", "search HELP"),
    "search orders",
  )
  outcomes = ["listing", "repeated", "policy", "help", "no_page"]
  assert [s.info["outcome"] for s in steps] == outcomes
  assert "get_product(product: text)" in steps[0].observation.text
  assert "get a yes before" in steps[2].observation.text


@pytest.mark.parametrize(
  "move, outcome",
  [
    ("answer calculate: {}", "unknown_tool"),
    ("answer transfer_to_human_agents x", "malformed"),
    ("answer get_money", "unknown_tool"),
    ("answer what now", "malformed"),
    ("answer get_order W1001", "error"),
    (f"action {'x' * 201}", "malformed"),
    (f"action {'x' * 200}", "talk"),
  ],
)
def test_outcomes_of_single_moves(move, outcome):
  _, (step,) = play("2|cancel:change|", move)
  assert step.info["outcome"] == outcome and step.reward == 0
  assert (step.observation.text[:8] == "Format: ") == (outcome == "malformed")


@pytest.mark.parametrize(
  "said",
  [
    None,
    "Yes.",
    scripted.Said(""),
    scripted.Said("x" * 901),
    scripted.Said(7),
    scripted.Said("Yes.", 1),
    scripted.Said("Yes.", False, "yes"),
  ],
)
def test_a_reply_out_of_range_is_a_fault_and_spends_no_turn(said):
  async def run():
    gym = gym_lib.TauGym(config.Gyms(), FixedUser(said))
    await gym.reset(task_of("2|cancel:change|"), 0)
    before = gym.state
    with pytest.raises(types.FaultError) as caught:
      await gym.step(types.Action("action", "Hello."))
    assert caught.value.fault is types.Fault.USER_UNPARSABLE
    assert gym.state == before

  asyncio.run(run())


def test_state_is_json_and_a_goal_is_hidden():
  gym, _ = play("2|cancel:change|", FIND, PLAN, CANCEL)
  state = dataclasses.asdict(gym.state)
  assert json.loads(json.dumps(state)) == state
  assert gym.state.changes in gym.undisclosed()  # it is what was to be reached
  assert [line.split(":")[0] for line in gym.state.history] == [
    "user",
    "agent",
    "user",
  ]


def test_prompts_tell_the_policy():
  def prompt(profile, **settings):
    return gyms.make("tau", config.Gyms(**settings)).system_prompt(profile)

  ours = prompt("full", levels=(2, 3))
  assert "Never transfer otherwise." in ours and "forfeits" in ours
  assert "forfeits" not in prompt("full", levels=(2,), reward_profile="paper")
  theirs = prompt("full", levels=(2, 3), tasks="folder")
  assert "first message" in theirs and "Never transfer" not in theirs
  for levels in ((1,), (1, 2, 3)):
    assert len(prompt("brief", levels=levels).split()) <= 70
  assert len(prompt("full", levels=(1,))) < 2800


def test_scripted_steps_are_fast():
  settings = config.Gyms(levels=(1, 2, 3), max_turns=16, num_test_tasks=30)
  tasks = gyms.load_tasks("tau", settings, "test", 0)

  async def run(number):
    started, num_steps = time.process_time(), 0
    for place, task in enumerate(tasks * 4):
      game = gyms.make("tau", settings)
      await game.reset(task, 0)
      rng = base.episode_rng("speed", number * 1000 + place)
      while not game.state.is_over:
        await game.step(gyms.canned("tau")(rng))
        num_steps += 1
    return num_steps / (time.process_time() - started)

  assert max(asyncio.run(run(number)) for number in range(3)) > 10_000


def test_levels_need_few_turns():
  for level, num_turns in ((1, 2), (2, 14), (3, 14)):
    settings = config.Gyms(levels=(level,), max_turns=num_turns)
    for task in generate.tasks(5, (level,), "train", 60):

      async def run(task=task, settings=settings):
        gym = gyms.make("tau", settings)
        texts = [(await gym.reset(task, 0)).text]
        player = gyms.oracle("tau")(task, base.episode_rng(task.id, 0))
        while not gym.state.is_over:
          step = await gym.step(player.next_action(texts))
          texts.append(step.observation.text)
        return step

      assert asyncio.run(run()).reward == 1
