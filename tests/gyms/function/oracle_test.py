"""The demonstrator plays from what it reads, and wins."""

import asyncio
import random
import re

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax.gyms import base
from userrl_jax.gyms import contract
from userrl_jax.gyms.function import generate
from userrl_jax.gyms.function import oracle


def play(task, seed=0, noise=0.0, answer_limit=0, **settings):
  settings = config.Gyms(levels=(1, 2, 3), **settings)
  settings.function.answer_limit = answer_limit
  player = oracle.Oracle(task, random.Random(seed), noise, settings)
  gym = gyms.make("function", settings)
  return contract.play(gym, task, player.next_action)


@pytest.mark.parametrize("level", generate.LEVELS)
def test_wins_within_the_turns(level):
  for task in generate.tasks(21, (level,), "train", 150):
    record = play(task)
    assert record.score == 1 and len(record.steps) <= 5
    if level == 1:
      assert len(record.steps) == 4


def test_level_1_answers_the_mean_of_what_it_read():
  variables = set()
  for seed, task in enumerate(generate.tasks(3, (1,), "train", 40)):
    record = play(task, seed)
    search, down, up, answer = record.actions
    test_case = task.secret.reveal()["test_case"]
    assert (search.choice, search.content) == ("search", "test")
    points = [list(map(int, a.content.split())) for a in (down, up)]
    changes = [
      [x - t for x, t in zip(point, test_case, strict=True)] for point in points
    ]
    index = changes[0].index(-1)
    variables.add(index)
    assert changes == [
      [step * (i == index) for i in range(4)] for step in (-1, 1)
    ]
    values = [
      int(text.split(" = ")[1])
      for text in record.texts
      if re.match(r"f\(.*\) = ", text)
    ]
    assert int(answer.content) * 2 == sum(values)
  assert variables == {3}  # always the last: habits are easy to imitate


def test_answer_comes_from_observations_not_from_the_rule():
  """Told other values than the rule's, it answers what it was told."""
  task = generate.task("t", "train", 1, "a + b - c - d", (3, 1, 4, 2))
  player = oracle.Oracle(task, random.Random(0))
  texts = ["f(a, b, c, d) is ready.", "Test case: 3 1 4 2"]
  for value in (100, 104):
    point = player.next_action(texts).content.replace(" ", ", ")
    texts.append(f"f({point}) = {value}")
  assert player.next_action(texts).content == "102"


def test_refused_probe_leads_to_another_variable():
  task = generate.task("t", "train", 1, "a + b - c - d", (3, 1, 4, 2))
  player = oracle.Oracle(task, random.Random(0))
  texts = ["f(a, b, c, d) is ready.", "Test case: 3 1 4 2"]
  first = player.next_action(texts).content
  texts.append("Refused: that is the test case.")
  second = player.next_action(texts).content
  changed = [
    [i for i, x in enumerate(move.split()) if int(x) != (3, 1, 4, 2)[i]]
    for move in (first, second)
  ]
  assert changed[0] != changed[1]


@pytest.mark.parametrize(
  "rule, test_case, num_turns",
  [
    ("a ** 2 + b ** 2 + c ** 2 + d ** 2", (1, 2, 3, 4), 5),
    ("a ** 4 * b ** 4 * c ** 4 * d ** 4", (1, 2, 3, 4), 4),
    ("a ** b ** c * d", (3, 2, 2, 4), 4),
    ("a / b / c / d", (8, 1, 2, 4), 4),
    ("(a / b / c) ** 2 + d ** 4", (8, 1, 2, 4), 6),
  ],
)
def test_wins_where_the_mean_is_wrong(rule, test_case, num_turns):
  task = generate.task("t", "train", 3, rule, test_case)
  for seed in range(8):
    record = play(task, seed)
    assert record.score == 1 and len(record.steps) <= num_turns


def test_noise_is_random_moves_and_keeps_the_last_answer():
  tasks = generate.tasks(5, (1,), "train", 150)
  records = [
    play(t, seed, 0.3, answer_limit=2, max_turns=20)
    for seed, t in enumerate(tasks)
  ]
  assert all(record.score == 1 for record in records)
  outcomes = [s.info["outcome"] for r in records for s in r.steps]
  assert "wrong" in outcomes and base.MALFORMED not in outcomes
  num_extra = sum(len(record.steps) - 4 for record in records)
  assert num_extra > 50
  assert play(tasks[0], 7, 0.5).actions == play(tasks[0], 7, 0.5).actions


def test_full_noise_is_canned_play():
  task = generate.tasks(5, (1,), "train", 1)[0]

  async def run():
    gym = gyms.make("function", config.Gyms())
    noisy = oracle.Oracle(task, random.Random(4), noise=1.0)
    record = await contract.play_async(gym, task, noisy.next_action)
    return [action.choice for action in record.actions]

  assert asyncio.run(run()) != ["search", "action", "action", "answer"]
