"""The Function game: what each move gets, what ends it, what stays hidden."""

import asyncio
import random
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.function import canned
from userrl_jax.gyms.function import expression
from userrl_jax.gyms.function import generate
from userrl_jax.gyms.function import gym as function_gym


def make_task(rule, test_case):
  return generate.task("t", "test", 1, rule, test_case)


def play(task, *moves, answer_limit=0, **settings):
  """Returns the gym and the steps of moves like 'action 1 2 3 4'."""

  async def run():
    gym = gyms.make(
      "function",
      config.Gyms(
        function=config_gyms.Function(answer_limit=answer_limit), **settings
      ),
    )
    await gym.reset(task, 0)
    steps = []
    for move in moves:
      choice, _, content = move.partition(" ")
      steps.append(await gym.step(types.Action(choice, content)))
    return gym, steps

  return asyncio.run(run())


def texts(steps):
  return [step.observation.text for step in steps]


def test_vector_of_the_specification():
  """Row 10 of the test vectors, in the fixed profile."""
  task = make_task("c * (a * b) * d", (3, 5, 5, 3))
  _, steps = play(task, "action 3 5 5 3", "action 3 5 5 -3", "answer 225")
  assert texts(steps) == [
    "Refused: that is the test case.",
    "f(3, 5, 5, -3) = -225",
    "Correct.",
  ]
  assert [s.reward for s in steps] == [0, 0, 1]
  assert [s.terminated for s in steps] == [False, False, True]
  assert [s.info["outcome"] for s in steps] == ["refused", "probe", "correct"]


@pytest.mark.parametrize(
  "choice, content",
  [
    ("action", "[action] 1 2 3 4"),
    ("foo", "[answer] 225"),
    ("finish", ""),
    ("answer", "[answer] 225"),
  ],
)
def test_no_prefix_is_an_escape_hatch(choice, content):
  """Row 21: prefixes are plain text, and unknown choices get a hint."""
  task = make_task("c * (a * b) * d", (3, 5, 5, 3))
  gym, steps = play(task, f"{choice} {content}")
  assert steps[0].observation.text.startswith("Format: ")
  assert steps[0].info["outcome"] == base.MALFORMED
  assert (steps[0].reward, steps[0].terminated) == (0, False)
  assert gym.state == function_gym.State("t", 0, num_turns=1)


@pytest.mark.parametrize(
  "rule, probe, text",
  [
    ("a + b - c * d", "2 1 4 2", "f(2, 1, 4, 2) = -5"),
    ("a + b - c * d", "2,1,4,2", "f(2, 1, 4, 2) = -5"),
    ("a + b - c * d", " 2 , 1,  4 2 ", "f(2, 1, 4, 2) = -5"),
    ("a + b - c * d", "-20 20 0 -0", "f(-20, 20, 0, 0) = 0"),
    ("a / b + c - d", "1 2 0 0", "f(1, 2, 0, 0) = 0.5"),
    ("a / b + c - d", "-1 3 0 0", "f(-1, 3, 0, 0) = -0.3333"),
    ("a / b + c - d", "2 3 0 0", "f(2, 3, 0, 0) = 0.6667"),
    ("a / b + c - d", "1 0 0 0", "f(1, 0, 0, 0): division by zero"),
    ("a / b / (c ** 2 * d ** 2)", "-1 9 9 9", "f(-1, 9, 9, 9) = 0.0"),
    ("a - b / (c * d) ** 2", "7 1 20 20", "f(7, 1, 20, 20) = 7.0"),
    ("a ** b + c + d", "20 20 1 1", "f(20, 20, 1, 1): too large"),
    ("d ** c ** b ** a", "9 9 9 9", "f(9, 9, 9, 9): too large"),
  ],
)
def test_probe(rule, probe, text):
  _, steps = play(make_task(rule, (1, 2, 5, 9)), f"action {probe}")
  assert texts(steps) == [text]
  assert steps[0].reward == 0 and not steps[0].terminated


@pytest.mark.parametrize(
  "content",
  [
    "1 2 3",
    "1 2 3 4 5",
    "1 2 3 4.0",
    "3 1 4 2.0000001",
    "1 2 3 21",
    "1 2 3 -21",
    "1e0 2 3 4",
    "1-2 3 4",
    "(1, 2, 3, 4)",
    "a=1 b=2 c=3 d=4",
    "1,,2,3,4",
    ",1 2 3 4",
    "1\t2\t3\t4",
    "+1 2 3 4",
    "\u0661 2 3 4",
  ],
)
def test_probe_takes_four_small_integers_only(content):
  _, steps = play(make_task("a + b + c + d", (3, 1, 4, 2)), f"action {content}")
  assert texts(steps) == [
    "Format: four whole numbers from -20 to 20, like 2 0 1 3"
  ]


def test_probe_refuses_orders_that_symmetry_equates():
  task = make_task("a * b + c - d", (3, 1, 4, 2))
  _, steps = play(task, "action 1 3 4 2", "action 3 1 2 4", "action 3 1 4 2")
  assert texts(steps) == [
    "Refused: f is the same on the test.",
    "f(3, 1, 2, 4) = 1",
    "Refused: that is the test case.",
  ]


def test_search():
  task = make_task("a + b + c + d", (3, 1, 4, 2))
  gym, steps = play(task, "search test", "search rule", "search TEST")
  assert texts(steps) == [
    "Test case: 3 1 4 2",
    "Format: search takes the word test",
    "Test case: 3 1 4 2",
  ]
  assert gym.state.knows_test_case


@pytest.mark.parametrize(
  "rule, content, is_right",
  [
    ("a + b + c + d", "10", True),
    ("a + b + c + d", "10.0", True),
    ("a + b + c + d", "+10", True),
    ("a + b + c + d", " 10 ", True),
    ("a + b + c + d", "20/2", True),
    ("a + b + c + d", "10.000009", True),  # within 1e-6 of 10, relatively
    ("a + b + c + d", "10.00002", False),
    ("a + b + c + d", "-10", False),
    ("a - b - c * d", "-6", True),
    ("a / (b + c) * d", "1.2", True),
    ("a / (b + c) * d", "6/5", True),
    ("a - b - c + d", "0", True),
    ("a - b - c + d", "0.000002", False),
  ],
)
def test_answer(rule, content, is_right):
  _, steps = play(make_task(rule, (3, 1, 4, 2)), f"answer {content}")
  assert texts(steps) == ["Correct." if is_right else "Wrong."]
  assert steps[0].reward == float(is_right)
  assert steps[0].terminated == is_right


@pytest.mark.parametrize("content", ["nan", "1e1", "5 6", "10/0", "x10", "10."])
def test_answer_takes_one_number_only(content):
  gym, steps = play(
    make_task("a + b + c + d", (3, 1, 4, 2)),
    f"answer {content}",
    answer_limit=1,
  )
  assert texts(steps) == ["Format: answer is one number, like 7, -2.5 or 3/4"]
  assert not steps[0].terminated and gym.state.num_wrong_answers == 0


def test_answer_limit_ends_the_game():
  task = make_task("a + b + c + d", (3, 1, 4, 2))
  gym, steps = play(task, "answer 1", "answer 2", answer_limit=2)
  assert texts(steps) == ["Wrong.", "Wrong. No answers left."]
  assert [s.terminated for s in steps] == [False, True]
  assert sum(s.reward for s in steps) == 0 and gym.state.is_over
  _, steps = play(task, *["answer 1"] * 5, "answer 10", max_turns=6)
  assert steps[-1].reward == 1 and steps[-1].terminated


def test_turn_limit():
  task = make_task("a + b + c + d", (3, 1, 4, 2))
  _, steps = play(task, "search test", "foo bar", "answer 3", max_turns=3)
  assert [s.truncated for s in steps] == [False, False, True]
  _, steps = play(task, "search test", "answer 10", max_turns=2)
  assert (steps[1].terminated, steps[1].truncated) == (True, False)


def test_undisclosed():
  task = make_task("a + b + c - d", (3, 1, 4, 2))
  fresh = gyms.make("function", config.Gyms())
  assert fresh.undisclosed() == ()
  rule = ("a + b + c - d", "a+b+c-d")
  for moves, hidden in (
    (["answer 1"], (*rule, "3 1 4 2")),
    (["action 1 3 4 2"], (*rule, "3 1 4 2")),  # refused, but not the test case
    (["search test"], rule),
    (["action 3 1 4 2"], rule),
  ):
    gym, _ = play(task, *moves)
    assert gym.undisclosed() == hidden


def test_no_probe_shows_the_value_on_the_test_case():
  for task in generate.tasks(0, (1, 2, 3), "test", 60):
    secret = task.secret.reveal()
    value = expression.parse(secret["rule"]).evaluate(secret["test_case"])
    for hack in canned.hacks(task):
      if hack.choice == "action":
        _, steps = play(task, f"action {hack.content}")
        assert "=" not in steps[0].observation.text, (hack, value)


def test_random_moves_are_well_formed_and_varied():
  rng = random.Random(0)
  moves = [canned.random_move(rng) for _ in range(2000)]
  task = make_task("a + b + c + d", (3, 1, 4, 2))
  for move in moves:
    _, steps = play(task, f"{move.choice} {move.content}")
    assert steps[0].info["outcome"] != base.MALFORMED
  for choice in types.CHOICES:
    share = sum(m.choice == choice for m in moves) / len(moves)
    assert 0.2 < share < 0.45


@pytest.mark.parametrize("source", ["generated", "pack"])
@pytest.mark.parametrize("levels", [(1,), (2,), (1, 3)])
def test_prompts_state_exactly_the_operators(levels, source):
  settings = config.Gyms(levels=levels, tasks=source)
  tasks = [
    t
    for split in ("train", "dev", "test")
    for t in gyms.load_tasks("function", settings, split, 0)
  ]
  rules = [t.secret.reveal()["rule"] for t in tasks]
  operators = set().union(*(expression.parse(rule).operators for rule in rules))
  stated = {
    1: {"+", "-", "*"},
    2: {"+", "-", "*", "("},
    3: {"+", "-", "*", "/", "(", "**"},
  }[max(levels)]
  used = operators | ({"("} if any("(" in rule for rule in rules) else set())
  assert used == stated
  assert not any(expression.parse(rule).has_variable_exponent for rule in rules)
  gym = gyms.make("function", settings)
  for profile in base.PROFILES:
    prompt = gym.system_prompt(profile)
    expected = function_gym.OPERATORS[max(levels)]
    assert f"with {expected}." in prompt or f"nothing but {expected}." in prompt
  assert ("/" in expected) == ("/" in stated)
  assert ("squares" in expected) == ("**" in stated)
  assert ("(" in expected) == ("(" in stated)


def test_prompts_state_the_limits():
  gym = gyms.make(
    "function",
    config.Gyms(max_turns=9, function=config_gyms.Function(answer_limit=4)),
  )
  for profile in base.PROFILES:
    prompt = gym.system_prompt(profile)
    assert "9 turns" in prompt and "4 wrong answers" in prompt
  free = gyms.make("function", config.Gyms())
  assert "wrong answers" not in free.system_prompt("brief")


def test_bad_answer_limit():
  with pytest.raises(ValueError, match="answer_limit"):
    gyms.make(
      "function", config.Gyms(function=config_gyms.Function(answer_limit=-1))
    )


def test_steps_are_fast():
  """Plays 10,000 scripted steps a second; the best of three tries counts."""
  settings = config.Gyms()
  tasks = gyms.load_tasks("function", settings, "train", 0)
  moves = [
    types.Action(*m)
    for m in (
      ("search", "test"),
      ("action", "3 1 4 1"),
      ("action", "3 1 4 3"),
      ("answer", "99"),
      ("action", "nonsense"),
      ("answer", "98"),
    )
  ]

  async def run():
    for task in tasks:
      gym = gyms.make("function", settings)
      await gym.reset(task, 0)
      for move in moves:
        await gym.step(move)

  rates = []
  for _ in range(3):
    start = time.process_time()
    asyncio.run(run())
    rates.append(len(tasks) * len(moves) / (time.process_time() - start))
  assert max(rates) >= 10_000, rates


def test_loading_again_is_free():
  settings = config.Gyms(num_train_tasks=512)
  gyms.load_tasks("function", settings, "train", 0)
  start = time.process_time()
  gyms.load_tasks("function", settings, "train", 0)
  assert time.process_time() - start < 0.01
