"""What must hold where a model in this process is the user; knows no JAX.

In: the sections of users. Out: rules for `config_rules`, which refuses a config
that breaks one.
"""

from collections.abc import Iterator

from userrl_jax import config
from userrl_jax import method_rules

# What a request over a network has.
_OF_ENDPOINTS = ("api_key_env", "timeout_s", "num_retries", "max_concurrent")


def rules(
  user: config.User, judge: config.Judge, local: config.Local
) -> Iterator[method_rules.Rule]:
  """Yields what must hold between fields that are right by themselves."""
  is_local = user.kind == "local"
  if not is_local:
    rule = "left out unless user.kind is local: there is no such model"
    for name, value in vars(config.Local()).items():
      yield f"local.{name}", rule, getattr(local, name) == value
    return
  default_user = config.User()
  for name in _OF_ENDPOINTS:
    rule = "left out where user.kind is local: no network lies between"
    is_default = getattr(user, name) == getattr(default_user, name)
    yield f"user.{name}", rule, is_default
  for name in ("base_url", "api_key_env"):
    rule = "left out where user.kind is local: its judge is local, too"
    yield f"judge.{name}", rule, getattr(judge, name) == ""
  for name in ("usd_per_million_in", "usd_per_million_out"):
    rule = "left out where user.kind is local: its tokens have no price"
    yield f"judge.{name}", rule, not getattr(judge, name)
  rule = f"below local.max_length ({local.max_length}): prompts come first"
  yield "user.max_tokens", rule, user.max_tokens < local.max_length
  yield "judge.max_tokens", rule, judge.max_tokens < local.max_length
