"""The forecast of calls, counted by hand."""

import types as python_types

import pytest

from userrl_jax import config as config_lib
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
  return python_types.SimpleNamespace(config=c, tasks=[None] * 40)


def test_calls_are_tasks_times_group_times_turns():
  some = parts(kind="endpoint", model="m", usd_per_million_out=10.0)
  plan = stages.plan(some)
  assert forecast.calls(some, plan) == {
    "dialogues of base": 50 * 5,
    "dialogues of cold_start": 20 * 3 * 5,  # of continued as well
    "grpo": 7 * 4 * 8 // 2 * 5,
    "evaluations": 4 * 2 * 10 // 2 * 5,
  }
  some.config.budget.max_usd = 2.5
  text = forecast.text(some, plan)
  assert text.startswith("at most 1,310 calls") and "grpo 560" in text
  assert "at most $3.35 for what is written" in text  # 256 tokens a call
  assert text.endswith("budget: 2.5 dollars")


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
