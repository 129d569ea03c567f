"""What must hold between the fields of endpoints; knows no JAX.

In: the sections that endpoints read: of users, of a judge, of an agent, of
costs and of recordings. Out: rules for `config_rules`, which refuses a config
that breaks one.
"""

from collections.abc import Iterator

from userrl_jax import config
from userrl_jax import method_rules


def rules(
  user: config.User,
  judge: config.Judge,
  agent: config.Agent,
  budget: config.Budget,
  recording: config.Recording,
  evaluation: config.Evaluation,
  step_timeout_s: float,
) -> Iterator[method_rules.Rule]:
  """Yields what must hold between fields that are right by themselves."""
  is_user, asks = user.kind == "endpoint", user.kind != "scripted"
  is_agent = evaluation.agent == "endpoint"
  is_endpoint = is_user or is_agent
  for name, value in vars(agent).items():
    rule = "left out unless evaluation.agent is endpoint"
    yield (
      f"agent.{name}",
      rule,
      is_agent or value == getattr(config.Agent(), name),
    )
  rule = "the name of a model when evaluation.agent is endpoint"
  yield "agent.model", rule, agent.model != "" or not is_agent
  for name in ("top_k", "top_p", "min_p"):
    rule = "left out when evaluation.agent is endpoint: it samples by itself"
    default = getattr(config.Evaluation(), name)
    is_left_out = getattr(evaluation, name) == default
    yield f"evaluation.{name}", rule, is_left_out or not is_agent
  rule = "left out unless user.kind is endpoint: nothing else has it"
  yield "user.structured", rule, is_user or not user.structured
  for path, value in (
    ("user.requests_per_minute", user.requests_per_minute),
    ("user.tokens_per_minute", user.tokens_per_minute),
    ("user.max_outage_s", user.max_outage_s),
    ("user.usd_per_million_in", user.usd_per_million_in),
    ("user.usd_per_million_out", user.usd_per_million_out),
    ("budget.max_usd", budget.max_usd),
    ("budget.max_tokens", budget.max_tokens),
    ("budget.max_calls", budget.max_calls),
  ):
    rule = "left out unless user.kind is endpoint: nothing else has it"
    yield path, rule, is_endpoint or not value
  rule = "left out where user.kind is scripted: rules ask no model"
  yield "judge.model", rule, asks or not judge.model
  yield "user.on_leak", rule, asks or user.on_leak == "reask"
  for name, value in vars(judge).items():
    rule = "left out unless judge.model names a model that judges"
    default = getattr(config.Judge(), name)
    yield f"judge.{name}", rule, judge.model != "" or value == default
  is_live = recording.mode == "live"
  rule = "live where user.kind is scripted: rules need no recording"
  yield "recording.mode", rule, asks or is_agent or is_live
  rule = "given where recording.mode is not live, and only there"
  yield "recording.file", rule, is_live == (recording.file == "")
  for name, section, is_asked in (
    ("user", user, is_user),
    ("judge", judge, is_user and judge.model != ""),
    ("agent", agent, is_agent),
  ):
    rule = f"0 unless all that is asked has a price ({name}.usd_per_million_in"
    rule += " or _out; a free one may have 1e-9)"
    has_one = section.usd_per_million_in + section.usd_per_million_out > 0
    yield "budget.max_usd", rule, has_one or not (budget.max_usd and is_asked)
  rule = f"below rollout.step_timeout_s ({step_timeout_s:g})"
  rule += " where user.max_outage_s is set: else no request ever fails"
  fits = user.timeout_s < step_timeout_s
  yield "user.timeout_s", rule, fits or not user.max_outage_s
