"""The forecast of calls, counted by hand."""

import types as python_types

import pytest

from userrl_jax import config as config_lib
from userrl_jax import data
from userrl_jax import forecast
from userrl_jax import stages


def parts(**user):
  c = config_lib.Config(stages=("base", "cold_start", "grpo", "continued"))
  c.gyms.names = ("function", "telepathy")  # only the second has a user
  c.gyms.max_turns = 5
  c.base.num_episodes = 100
  c.cold_start.num_tries = 3
  c.cold_start.episodes_per_step = 8
  c.grpo.num_iterations = 7
  c.grpo.tasks_per_iteration = 4
  c.grpo.group_size = 8
  c.evaluation.num_tasks = 10
  c.user = config_lib.User(**user)
  return python_types.SimpleNamespace(config=c, tasks=tasks(c.gyms.names, 20))


def tasks(names, *counts):
  """Returns tasks of gyms, which take turns while they have some."""
  counts = counts * len(names) if len(counts) == 1 else counts
  return [
    python_types.SimpleNamespace(gym=name)
    for number in range(max(counts))
    for name, count in zip(names, counts, strict=True)
    if number < count
  ]


def test_calls_are_tasks_times_group_times_turns():
  some = parts(kind="endpoint", model="m", usd_per_million_out=10.0)
  plan = stages.plan(some)
  assert forecast.calls(some, plan) == {
    "the tokenizer": 12 * 5,
    "dialogues of base": 50 * 5,
    "dialogues of cold_start": 20 * 3 * 5,  # of continued as well
    "grpo": 7 * 4 * 8 // 2 * 5,
    "evaluations": 4 * 2 * 10 // 2 * 5,
  }
  some.config.budget.max_usd = 2.5
  text = forecast.text(some, plan)
  assert text.startswith("at most 1,370 calls") and "grpo 560" in text
  assert "at most $3.51 for what is written" in text  # 256 tokens a call
  assert text.endswith("budget: 2.5 dollars")


def test_looks_and_refills_are_plays_too():
  some = parts(kind="endpoint", model="m")
  some.config.tokenizer.folder = "somewhere"  # nobody is asked for its sake
  plan = stages.plan(some)
  before = forecast.calls(some, plan)
  assert "the tokenizer" not in before
  some.config.selection = config_lib.config_selection.Selection(
    num_tasks=6, play_every=3
  )
  some.config.grpo.flat_groups, some.config.grpo.refill_rounds = "refill", 2
  some.config.evaluation.forgetting_tasks = 3
  assert forecast.calls(some, plan) == before | {
    "grpo": 3 * before["grpo"],
    "looks at grpo": 3 * 6 * 5,  # after 3, 6 and the last of 7
    "dialogues to look at": 6 * 3 * 5,
    "the forgetting check": 3 * 5,
  }


def test_gyms_count_with_the_tasks_that_they_have():
  """Of 40, 30 are of the gym that asks; a draw of 4 has 3 of them."""
  some = parts(kind="endpoint", model="m")
  some.tasks = tasks(some.config.gyms.names, 10, 30)
  some.config.cold_start.num_tasks = 25  # the first ten of each, and 5 more
  plan = stages.plan(some)
  before = forecast.calls(some, plan)
  assert before == {
    "the tokenizer": 12 * 5,
    "dialogues of base": (2 * 30 + 10) * 5,
    "dialogues of cold_start": 15 * 3 * 5,
    "grpo": 7 * 3 * 8 * 5,
    "evaluations": 4 * 2 * 10 // 2 * 5,
  }
  some.config.grpo.flat_groups, some.config.grpo.refill_rounds = "refill", 2
  assert forecast.calls(some, plan)["grpo"] == 3 * before["grpo"]


@pytest.mark.parametrize("counts", [(10, 30), (23, 7), (40, 3), (1, 9)])
@pytest.mark.parametrize("num_iterations", [1, 5, 40])
def test_the_forecast_of_draws_is_what_is_drawn(counts, num_iterations):
  some = parts(kind="endpoint", model="m")
  some.config.grpo.num_iterations = num_iterations
  some.tasks = tasks(some.config.gyms.names, *counts)
  for number, task in enumerate(some.tasks):
    task.id = str(number)
  stream = data.task_stream(some.tasks, 4, seed=3)
  drawn = [task for _ in range(num_iterations) for task in stream.next()]
  num_asked = sum(task.gym == "telepathy" for task in drawn)
  grpo = next(s for s in stages.plan(some) if s.name == "grpo")
  assert forecast.calls(some, [grpo])["grpo"] == num_asked * 8 * 5


def test_imported_dialogues_ask_nobody(tmp_path):
  some = parts(kind="endpoint", model="m")
  some.config.selection = config_lib.config_selection.Selection(
    num_tasks=6, play_every=3
  )
  plan = stages.plan(some)
  before = forecast.calls(some, plan)
  some.config.cold_start.source = str(tmp_path / "dialogues.jsonl")
  for name in ("dialogues of cold_start", "dialogues to look at"):
    assert before.pop(name)
  assert forecast.calls(some, plan) == before


@pytest.mark.parametrize(
  ("user", "agent", "said"),
  [
    ("scripted", "policy", ""),
    ("scripted", "endpoint", "at most 80 calls of the agent, "),
    ("endpoint", "policy", "at most 40 calls of the user, "),
    (
      "endpoint",
      "endpoint",
      "at most 40 calls of the user and 80 calls of the agent, ",
    ),
  ],
)
def test_evaluations_and_demonstrations_tell_their_own(user, agent, said):
  some = parts(kind=user, model="m", usd_per_million_out=10.0)
  some.config.evaluation.agent = agent
  some.config.agent.usd_per_million_out = 100.0
  some.config.rollout.max_tokens_per_turn = 50
  tasks = [
    python_types.SimpleNamespace(gym=gym) for gym in some.config.gyms.names
  ]
  text = forecast.text_of_episodes(some, tasks, 8)
  assert text.startswith(said) and bool(text) == bool(said)
  usd = 40 * 256 * 10 * (user != "scripted") + 80 * 50 * 100 * (
    agent == "endpoint"
  )
  assert not said or f"at most ${usd / 1e6:.2f} for what is written" in text


def test_held_out_gyms_are_asked_in_evaluations_only():
  some = parts(kind="endpoint", model="m")
  plan = stages.plan(some)
  before = forecast.calls(some, plan)
  some.config.evaluation.held_out_gyms = ("turtle", "search", "tau")
  assert forecast.calls(some, plan) == before | {
    "evaluations": 4 * 4 * 10 * 5  # telepathy and these three
  }


@pytest.mark.parametrize(
  ("gym", "one_model", "two"),
  # Verdicts that a turn asks for: on a message and for the words of the reply.
  [
    ("function", 0, 0),
    ("intention", 2, 2),
    ("persuade", 1, 2),  # one tells both, two tell each their own
    ("telepathy", 1, 1),
    ("travel", 2, 2),
  ],
)
def test_some_turns_ask_twice(gym, one_model, two):
  some = parts(kind="endpoint", model="m", usd_per_million_out=1.0)
  some.config.gyms.names = (gym,)
  for num, model, who in (
    (one_model, "", "the user"),
    (two, "j", "user and judge"),
  ):
    some.tasks = tasks((gym,), 40)
    some.config.judge = config_lib.Judge(model=model, usd_per_million_out=3.0)
    plan = stages.plan(some)
    asked = forecast.calls(some, plan)
    assert asked["grpo"] == 7 * 4 * 8 * 5 * num
    total = sum(asked.values())
    said = forecast.text(some, plan)
    assert said.startswith(f"at most {total:,} calls of {who}, ")
    usd = total * 256 * (3.0 if model else 1.0) / 1e6  # the dearer of the two
    assert f"at most ${usd:,.2f} for what is written" in said


def test_rules_cost_nothing():
  some = parts()
  assert forecast.calls(some, stages.plan(some)) == {}
  assert forecast.text(some, stages.plan(some)) == ""
