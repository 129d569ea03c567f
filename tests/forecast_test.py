"""The forecast of calls, counted by hand."""

import types as python_types

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
  assert "at most $3.35 for what it writes" in text  # 256 tokens a call
  assert text.endswith("budget: 2.5 dollars")


def test_held_out_gyms_are_asked_in_evaluations_only():
  some = parts(kind="endpoint", model="m")
  plan = stages.plan(some)
  before = forecast.calls(some, plan)
  some.config.evaluation.held_out_gyms = ("turtle", "search", "tau")
  assert forecast.calls(some, plan) == before | {
    "evaluations": 4 * 4 * 10 * 5  # telepathy and these three
  }


def test_rules_cost_nothing():
  some = parts()
  assert forecast.calls(some, stages.plan(some)) == {}
  assert forecast.text(some, stages.plan(some)) == ""
