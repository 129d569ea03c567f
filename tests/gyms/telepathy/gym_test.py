"""The Telepathy game: what each move gets, what ends it, what stays hidden."""

import asyncio
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.telepathy import generate
from userrl_jax.gyms.telepathy import gym as telepathy_gym
from userrl_jax.gyms.telepathy import world

SIX = ("dog", "oak", "bus", "drum", "plum", "sock")


class FixedUser:
  """Says what it is given, in order; any value, also one that is none."""

  def __init__(self, *verdicts):
    self._verdicts = iter(verdicts)

  async def yes_no(self, secret, question):
    return next(self._verdicts)

  async def is_right(self, secret, guess):
    return next(self._verdicts)


def play(name, *moves, level=1, user=None, guess_limit=0, hints=()):
  """Returns the gym and the steps of moves like 'action Is it big?'."""
  task = generate.task("t", "test", level, name, SIX, hints)
  settings = config.Gyms(
    max_turns=30, telepathy=config_gyms.Telepathy(guess_limit=guess_limit)
  )

  async def run():
    gym = telepathy_gym.TelepathyGym(settings, user)
    first = await gym.reset(task, 0)
    steps = []
    for move in moves:
      choice, _, content = move.partition(" ")
      steps.append(await gym.step(types.Action(choice, content)))
    return gym, first.text, steps

  return asyncio.run(run())


def ask(name, *questions):
  """Returns the replies of rules to questions."""
  _, _, steps = play(name, *(f"action {q}" for q in questions))
  return [step.observation.text for step in steps]


def test_vector_of_the_specification():
  """Row 9 of the test vectors: two wrong guesses, then the right one."""
  _, _, steps = play(
    "dog",
    *(f"answer {x}" for x in ("a", "b", "c")),
    user=FixedUser(False, False, True),
  )
  assert [s.reward for s in steps] == [0, 0, 1]
  assert [s.terminated for s in steps] == [False, False, True]
  assert [s.info["success"] for s in steps] == [False, False, True]
  assert [s.observation.text for s in steps] == ["Wrong.", "Wrong.", "Correct."]


@pytest.mark.parametrize(
  "level, hints, text",
  [
    (1, (), "One of: dog oak bus drum plum sock"),
    (2, (), "An animal."),
    (2, ("fly", "soft"), "An animal. Can it fly? No. Is it soft? Yes."),
    (3, ("legs",), "A thing. Does it have legs? Yes."),
  ],
)
def test_first_message(level, hints, text):
  assert play("dog", level=level, hints=hints)[1] == text


@pytest.mark.parametrize("name", world.entities())
def test_fixed_questions_and_names_get_the_value_of_the_table(name):
  entity = world.entities()[name]
  for attribute in world.attributes().values():
    assert ask(name, attribute.question) == [f"{entity.values[attribute.key]}."]
    for phrase in attribute.phrases:
      asked = ask(name, f"Would you say {phrase}?")
      assert asked == [f"{entity.values[attribute.key]}."], phrase
  assert ask(name, f"Is it a {name}?") == ["Yes."]


@pytest.mark.parametrize(
  "question, reply",
  [
    ("Is it an animal?", "Yes."),
    ("Is it a vehicle?", "No."),
    ("Is it not an animal?", "No."),
    ("Isn't it alive?", "Yes."),
    ("Is it not alive?", "No."),
    ("It cannot fly, right?", "Yes."),
    ("Is it never not alive?", "Yes."),
    ("Is it neither alive nor living?", "No."),
    ("Is it neither metal nor metallic?", "Yes."),
    ("Is it neither big nor green?", "Maybe. One question at a time."),
    ("Is it dangerous?", "Maybe."),
    ("Is it not dangerous?", "Maybe."),
    ("Does it live in water?", "No."),  # and is no question about life
    ("Is it made of metal?", "No."),
    ("Is it a hound?", "Yes."),
    ("Is it an oak?", "No."),
    ("Is it a dog or an oak?", "Maybe. One question at a time."),
    ("Is it alive and big?", "Maybe. One question at a time."),
    ("Alive? Not alive?", "Maybe. One question at a time."),
    ("Is it bigger than a car?", "Maybe."),
    ("Who are you?", "Maybe."),
  ],
)
def test_questions_about_a_dog(question, reply):
  assert ask("dog", question) == [reply]


def test_asking_for_the_name_neither_ends_nor_pays():
  gym, _, (step,) = play("dog", "action Is it a dog?", level=3)
  assert (step.reward, step.terminated, step.info["outcome"]) == (0, 0, "yes")
  assert gym.state.knows_name


def test_guess_limit():
  moves = ("answer oak", "answer {x}", "answer bus")
  gym, _, steps = play("dog", *moves, guess_limit=2)
  assert [s.observation.text for s in steps] == [
    "Wrong.",
    "Format: answer is one name, like kite",
    "Wrong. No guesses left.",
  ]
  assert [s.terminated for s in steps] == [False, False, True]
  assert not any(s.reward or s.info["success"] for s in steps)
  one = play("dog", guess_limit=1)[0]
  for profile in base.PROFILES:
    assert "2 wrong guesses lose." in gym.system_prompt(profile)
    assert "turns. 1 wrong guess loses." in one.system_prompt(profile)
    assert "lose" not in play("dog")[0].system_prompt(profile)
  assert "question that names" in one.system_prompt("full")
  assert "question that names" not in play("dog")[0].system_prompt("full")
  with pytest.raises(ValueError, match="guess_limit must be at least 0"):
    play("dog", guess_limit=-1)


@pytest.mark.parametrize(
  "question, reply, num_wrong",
  [
    ("Is it a dog?", "Yes.", 0),
    ("Is it a puppy?", "Yes.", 0),
    ("Is it an oak?", "No. No guesses left.", 1),
    ("Is it an oak tree?", "No. No guesses left.", 1),
    ("Are they buses?", "No. No guesses left.", 1),
    ("It is no oak, right?", "Yes. No guesses left.", 1),
    ("Is it a dog or an oak?", "Maybe. One question at a time.", 0),
    ("Is it big, like an oak?", "Maybe. One question at a time.", 0),
    ("Is it a plant?", "No.", 0),
    ("Is it a kite?", "Maybe.", 0),
  ],
)
def test_a_question_that_names_a_thing_is_a_guess(question, reply, num_wrong):
  gym, _, (step,) = play("dog", f"action {question}", guess_limit=1)
  assert step.observation.text == reply and step.reward == 0
  assert step.terminated == (num_wrong == 1) and not step.info["success"]
  assert gym.state.num_wrong_guesses == num_wrong
  assert (step.info["outcome"] == "wrong") == (num_wrong == 1)
  # Without a limit there is nothing to go round.
  _, _, (free,) = play("dog", f"action {question}")
  assert free.observation.text == reply.removesuffix(" No guesses left.")
  assert not free.terminated and free.info["outcome"] != "wrong"


def test_questions_with_names_are_guesses_where_a_model_replies_too():
  for said, num_wrong in (("Yes", 1), ("No", 1), ("Maybe", 0), ("Several", 0)):
    question = "action Is it like a dog or an oak?"
    gym = play("dog", question, user=FixedUser(said), guess_limit=1)[0]
    assert gym.state.num_wrong_guesses == num_wrong


@pytest.mark.parametrize(
  "wording, is_negated",
  [("", False), ("Is it {}?", False), ("Is it not {}?", True)],
)
def test_reading_out_the_list_is_worth_one_guess(wording, is_negated):
  """By guesses, or by questions until a reply tells the name."""
  settings = config.Gyms(num_test_tasks=300)
  tasks = gyms.load_tasks("telepathy", settings, "test", 1)

  def player(texts):
    names = texts[0].removeprefix(telepathy_gym.CANDIDATES).split()
    if not wording:
      return types.Action("answer", names[len(texts) - 1])
    found = ("No." if is_negated else "Yes.") == texts[-1]
    if found or len(texts) == settings.max_turns:
      return types.Action("answer", names[len(texts) - 1 - found])
    return types.Action("action", wording.format(names[len(texts) - 1]))

  score = 0.0
  for task in tasks:
    score += contract.play(gyms.make("telepathy", settings), task, player).score
  assert 0.08 < score / len(tasks) < 0.25


def test_brief_prompt_is_brief():
  assert len(play("dog")[0].system_prompt("brief").split()) <= 25


@pytest.mark.parametrize(
  "level, before, after",
  [
    (1, ["barks"], ["barks"]),
    (2, ["barks", "dog", "hound", "puppy"], ["barks"]),
    (3, ["barks", "dog", "hound", "puppy"], ["barks"]),
  ],
)
def test_undisclosed(level, before, after):
  def hidden(*moves):
    gym = play("dog", *moves, level=level)[0]
    return [text.partition(",")[0] for text in gym.undisclosed()]

  assert hidden() == hidden("action Is it alive?", "answer oak") == before
  assert hidden("action Is it a dog?") == hidden("answer dog") == after
  assert hidden("action Is it an oak?") == before


@pytest.mark.parametrize("said", ["", "yes", "Yes.", None, True, 1])
def test_verdict_on_a_question_out_of_range_is_a_fault(said):
  with pytest.raises(types.FaultError) as caught:
    play("dog", "action Is it big?", user=FixedUser(said))
  assert caught.value.fault == types.Fault.USER_UNPARSABLE


@pytest.mark.parametrize("said", ["", "Yes", None, 1])
def test_verdict_on_a_guess_out_of_range_is_a_fault(said):
  with pytest.raises(types.FaultError) as caught:
    play("dog", "answer dog", user=FixedUser(said))
  assert caught.value.fault == types.Fault.USER_UNPARSABLE


def test_plain_strings_are_verdicts():
  user = FixedUser("Yes", "No", "Maybe")
  _, _, steps = play("dog", *["action Is it big?"] * 3, user=user)
  assert [s.observation.text for s in steps] == ["Yes.", "No.", "Maybe."]


def test_steps_are_fast():
  """Plays 10,000 new texts a second; the best of three tries counts."""
  settings = config.Gyms(telepathy=config_gyms.Telepathy(guess_limit=0))
  tasks = gyms.load_tasks("telepathy", settings, "train", 0)
  contents = (
    ("action", "Is it big, please {}?"),
    ("action", "Is it a bird or a plane or green {}?"),
    ("answer", "kite {}"),
    ("answer", "[kite {}]"),
    ("action", "Does it live in water {}?"),
    ("answer", "it is a house {}"),
  )

  async def run(number):
    for place, task in enumerate(tasks):
      gym = gyms.make("telepathy", settings)
      await gym.reset(task, 0)
      for choice, content in contents:
        text = content.format(f"n{number}x{place}")
        await gym.step(types.Action(choice, text))

  rates = []
  for number in range(3):
    start = time.process_time()
    asyncio.run(run(number))
    rates.append(len(tasks) * len(contents) / (time.process_time() - start))
  assert max(rates) >= 10_000, rates
