"""The Search game: what each move gets, what ends it, what stays hidden."""

import asyncio
import dataclasses
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.search import generate
from userrl_jax.gyms.search import gym as search_gym
from userrl_jax.gyms.search import index
from userrl_jax.gyms.search import world

TOWN = world.by_name(world.TOWNS)["Amber Hill"]
BAKER = TOWN.facts["baker"]
WRONG = next(v for v in TOWN.facts.values() if v != BAKER)
RIVER = generate.task(
  "t",
  "train",
  2,
  "the Vale of Hesk",
  "Which river runs past the town that holds Candle Week?",
  "River Soller",
  ("town that holds Candle Week", "river past Pemsey"),
  world.WORLD,
)


class FixedUser:
  """Says what it is given, in order; any value, also one that is none."""

  def __init__(self, *verdicts):
    self._verdicts = iter(verdicts)

  async def equivalent(self, question, secret, answer):
    return next(self._verdicts)


class FixedPages:
  """Finds the same pages for everything, as many as it has."""

  def __init__(self, *hits):
    self._hits = hits

  async def search(self, query, k):
    return self._hits


def baker_task(corpus=world.TOWNS):
  question = "Who is the baker of Amber Hill?"
  queries = ("baker of Amber Hill",)
  return generate.task(
    "t", "test", 1, "Amber Hill", question, BAKER, queries, corpus
  )


def play(*moves, task=None, user=None, pages=None, max_turns=30, **knobs):
  """Returns the gym and the steps of moves like 'search baker'."""
  settings = config.Gyms(
    max_turns=max_turns, search=config_gyms.Search(**knobs)
  )

  async def run():
    gym = search_gym.SearchGym(settings, user, pages)
    await gym.reset(task or baker_task(), 0)
    steps = []
    for move in moves:
      choice, _, content = move.partition(" ")
      steps.append(await gym.step(types.Action(choice, content)))
    return gym, steps

  return asyncio.run(run())


def test_vector_19_a_placeholder_is_no_answer():
  gym, steps = play("answer <correct_answer>", "answer correct_answer")
  assert [s.reward for s in steps] == [0, 0]
  assert [s.info["outcome"] for s in steps] == [base.MALFORMED, "wrong"]
  assert gym.undisclosed() == (BAKER,)
  # Nor for a model: its verdict is not even asked for.
  assert play("answer <correct_answer>", user=FixedUser(True))[1][0].reward == 0


def test_vector_20_the_sixth_search_is_refused_and_costs_a_turn():
  moves = ["search baker of Amber Hill"] * 7 + [f"answer {BAKER}"]
  gym, steps = play(*moves)
  said = [s.info["outcome"] for s in steps]
  assert said == ["search"] * 5 + ["refused"] * 2 + ["correct"]
  assert [s.reward for s in steps] == [0] * 7 + [1]
  assert gym.state.num_turns == 8 and gym.state.num_searches == 5
  assert steps[5].observation.text == search_gym.NO_SEARCHES
  free = play(*moves, search_limit=0)[1]
  assert [s.info["outcome"] for s in free] == ["search"] * 7 + ["correct"]


@pytest.mark.parametrize("profile", search_gym.SearchGym.reward_profiles)
def test_all_reward_profiles_pay_the_right_answer_alone(profile):
  settings = config.Gyms(reward_profile=profile)
  gym = gyms.make("search", settings)
  moves = iter(("search baker of Amber Hill", f"answer {WRONG}"))

  def player(texts):
    choice, _, content = next(moves, f"answer {BAKER}").partition(" ")
    return types.Action(choice, content)

  record = contract.play(gym, baker_task(), player)
  assert [s.reward for s in record.steps] == [0, 0, 1]
  assert gym.max_score == 1
  assert record.steps[-1].terminated and record.steps[-1].info["success"]
  assert record.texts[2:] == ["Wrong.", "Correct."]


def test_level_1_shows_three_towns_and_one_line_each():
  _, (step,) = play("search baker of Amber Hill")
  lines = step.observation.text.splitlines()
  assert lines[0] == f"1. Amber Hill: The baker is {BAKER}."
  assert [line[:3] for line in lines] == ["1. ", "2. ", "3. "]
  assert all(": The baker is " in line for line in lines)
  assert play("search qqq")[1][0].observation.text == search_gym.NO_RESULTS


def test_two_hops_need_two_searches():
  _, steps = play(
    "search Which river runs past the town that holds Candle Week?",
    "search river past Pemsey",
    "answer it is the Soller",
    task=RIVER,
  )
  first, second, third = steps
  assert "the town of Pemsey" in first.observation.text
  assert "Soller" not in first.observation.text
  assert "River Soller" in second.observation.text
  assert third.reward == 1 and third.terminated
  assert len(first.observation.text.splitlines()) == 5


def test_answer_limit():
  moves = (f"answer {WRONG}", "answer {x}", f"answer {WRONG}", "answer no")
  gym, steps = play(*moves[:3], answer_limit=2)
  assert [s.observation.text for s in steps] == [
    "Wrong.",
    "Format: answer is one short name, number or date",
    "Wrong. No answers left.",
  ]
  assert [s.terminated for s in steps] == [False, False, True]
  assert not any(s.info["success"] for s in steps)
  for limit, text in (
    (1, "1 wrong answer loses."),
    (3, "3 wrong answers lose"),
  ):
    for profile in base.PROFILES:
      prompt = play(answer_limit=limit)[0].system_prompt(profile)
      assert text in prompt and "5 searches at most." in prompt
  for profile in base.PROFILES:
    gym = play(answer_limit=0, search_limit=0)[0]
    assert "lose" not in gym.system_prompt(profile)
    assert "at most" not in gym.system_prompt(profile)
  assert not any(s.terminated for s in play(*moves, answer_limit=0)[1])


@pytest.mark.parametrize(
  "knobs, message",
  [
    ({"answer_limit": -1}, "answer_limit must be at least 0"),
    ({"search_limit": -1}, "search_limit must be at least 0"),
    ({"source": "wbe"}, "did you mean 'web'"),
  ],
)
def test_bad_settings(knobs, message):
  with pytest.raises(ValueError, match=message):
    play(**knobs)


def test_what_pages_show_is_disclosed_and_nothing_else():
  hidden = lambda *moves, task=RIVER: play(*moves, task=task)[0].undisclosed()
  assert hidden() == ("River Soller", "Soller")
  assert hidden("answer Ammer") == hidden()
  assert hidden("search town that holds Candle Week") == hidden()
  assert hidden("search river past Pemsey") == ()
  assert hidden("answer soller") == ()
  hit = index.Hit("A walk", "Soller is a river.")
  gym = play("search x", task=RIVER, pages=FixedPages(hit))[0]
  assert gym.undisclosed() == ("River Soller",)


def test_pages_of_any_size_fit_the_observation():
  hit = index.Hit("t\n" * 900, "s \n\t" * 900)
  _, (step,) = play("search x", task=RIVER, pages=FixedPages(*[hit] * 9))
  lines = step.observation.text.splitlines()
  assert len(lines) == 5 and all(len(line) < 250 for line in lines)
  assert all(line.endswith("...") for line in lines)
  limit = search_gym.SearchGym.max_observation_chars
  assert len(step.observation.text) <= limit


@pytest.mark.parametrize("said", ["", "True", None, 1])
def test_a_verdict_that_is_none_is_a_fault(said):
  with pytest.raises(types.FaultError) as caught:
    play(f"answer {BAKER}", user=FixedUser(said))
  assert caught.value.fault == types.Fault.USER_UNPARSABLE


@pytest.mark.parametrize("hit", [None, "text", ("title", "snippet"), {}])
def test_hits_that_are_none_are_a_fault(hit):
  with pytest.raises(types.FaultError) as caught:
    play("search x", pages=FixedPages(hit))
  assert caught.value.fault == types.Fault.GYM_ERROR


def test_a_fault_costs_neither_a_turn_nor_a_search():
  class Failing:
    is_down = True

    async def search(self, query, k):
      if self.is_down:
        raise types.FaultError(types.Fault.GYM_ERROR, "down")
      return (index.Hit("Amber Hill", f"The baker is {BAKER}."),)

  async def run():
    pages = Failing()
    gym = search_gym.SearchGym(config.Gyms(), None, pages)
    await gym.reset(baker_task(), 0)
    before = gym.state
    with pytest.raises(types.FaultError):
      await gym.step(types.Action("search", "baker"))
    assert gym.state == before
    pages.is_down = False
    await gym.step(types.Action("search", "baker"))
    assert dataclasses.asdict(gym.state) == dataclasses.asdict(before) | {
      "num_turns": 1,
      "num_searches": 1,
      "seen": 1,
    }

  asyncio.run(run())


def test_released_questions_need_the_web_and_a_model():
  task = baker_task(world.WEB)
  with pytest.raises(ValueError, match="rules cannot judge"):
    play(task=task)
  with pytest.raises(ValueError, match=r"gyms\.search\.source=web"):
    play(task=task, user=FixedUser())


def test_brief_prompt_is_brief():
  assert len(play()[0].system_prompt("brief").split()) <= 40


def test_guessing_people_earns_little():
  """Three different guesses are what the limit allows."""
  settings = config.Gyms(num_test_tasks=300)
  people = world.lexicon()["towns"]["people"]
  score = 0.0
  for number, task in enumerate(gyms.load_tasks("search", settings, "test", 1)):
    guesses = iter(people[number % 29 :])
    score += contract.play(
      gyms.make("search", settings),
      task,
      lambda texts, guesses=guesses: types.Action("answer", next(guesses)),
    ).score
  assert score / 300 < 0.15


def test_steps_are_fast():
  """Plays 10,000 steps a second; the best of three tries counts."""
  settings = config.Gyms(search=config_gyms.Search(answer_limit=0))
  tasks = gyms.load_tasks("search", settings, "train", 0)

  async def run(number):
    for place, task in enumerate(tasks):
      gym = gyms.make("search", settings)
      await gym.reset(task, 0)
      for choice, content in (
        ("search", task.secret.reveal()["queries"][0]),
        ("answer", f"Otto {number}x{place}"),  # new to every memory
        ("answer", f"I think it is n{number}x{place}"),
        ("search", f"mayor of {tasks[place - 1].structure}"),
        ("answer", f"[{place}]"),
        ("answer", task.secret.reveal()["answer"]),
      ):
        await gym.step(types.Action(choice, content))

  rates = []
  for number in range(3):
    start = time.process_time()
    asyncio.run(run(number))
    rates.append(len(tasks) * 6 / (time.process_time() - start))
  assert max(rates) >= 10_000, rates
