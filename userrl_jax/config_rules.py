"""What must hold of a config before anything compiles; knows no JAX.

In: the config that a recipe and flags made. Out: nothing, or a ValueError that
lists every field that is wrong. Rules of single fields are the tables below;
rules between fields are in `_mix_problems`.
"""

from collections.abc import Callable, Iterator
import dataclasses
import math
from typing import Any

from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import endpoint_rules
from userrl_jax import gym_rules
from userrl_jax import hosts_rules
from userrl_jax import local_rules
from userrl_jax import method_rules
from userrl_jax import selection_rules
from userrl_jax.users import profiles

_NAMES: dict[str, tuple[Any, ...]] = {  # gyms and presets know their own names
  "Model.dtype": ("float32", "bfloat16"),
  "Model.attention": ("auto", "xla", "cudnn", "splash"),
  "Model.remat": ("none", "full"),
  "Lora.targets": ("q", "k", "v", "o", "gate", "up", "down"),
  "Tokenizer.kind": ("sentencepiece", "huggingface"),
  "Chat.profile": ("full", "brief"),
  "Gyms.levels": (1, 2, 3),
  "Gyms.reward_profile": (
    "default",
    "paper",
    "released_train",
    "released_eval",
  ),
  "Search.source": ("corpus", "web"),
  "User.kind": ("scripted", "endpoint", "local"),
  "User.on_leak": ("fault", "reask"),
  "Local.devices": ("share", "apart"),
  "Local.dtype": ("auto", "float32", "bfloat16"),
  "Recording.mode": ("live", "record", "replay", "replay_or_live"),
  "Engine.when_full": ("wait", "give_up"),
  "Credit.score": ("mean", "sum", "r2g"),
  "Credit.credit": (
    *("equalized", "naive", "r2g", "em"),
    *("information", "predicted"),
  ),
  "Credit.normalize": ("std", "std_n", "none", "leave_one_out"),
  "Credit.spread": ("scaled", "signed", "printed"),
  "Credit.reward_scale": ("raw", "share"),
  "Grpo.loss": ("ppo", "gspo", "cispo", "plain"),
  "Grpo.aggregation": ("token_mean", "sequence_mean", "constant_length"),
  "Grpo.kl_estimator": ("k1", "k2", "k3"),
  "Grpo.flat_groups": ("keep", "drop", "refill"),
  "Grpo.overlong": ("train", "mask"),
  "Optimizer.name": ("adamw", "muon"),
  "Optimizer.schedule": ("constant", "cosine"),
  "Evaluation.agent": ("policy", "oracle", "canned", "endpoint"),
  "Evaluation.splits": ("train", "fresh", "dev", "test"),
  "Config.stages": (
    "base",
    "cold_start",
    "grpo",
    "continued_updates",
    "continued",
    "rl_only_updates",
    "rl_only",
  ),
}
_ARMS = _NAMES["Config.stages"][3:]
_MAY_BE_EMPTY = (
  "Model.preset",
  "Model.folder",
  "Lora.targets",
  "Tau.checkout",
  "Tokenizer.folder",
  "User.base_url",
  "User.model",
  "User.api_key_env",
  "User.profiles",
  "Judge.model",
  "Judge.base_url",
  "Agent.model",
  "Agent.base_url",
  "Agent.api_key_env",
  "Judge.api_key_env",
  "Recording.file",
  "Credit.gym_scales",
  "Evaluation.held_out_gyms",
  "Evaluation.profiles",
  "Selection.use",
  "Config.init_from",
  "Hosts.coordinator",
)

_Rule = tuple[str, Callable[[float], bool]]
_POSITIVE: _Rule = ("positive", lambda x: x > 0)  # where nothing else is said
_NOT_NEGATIVE: _Rule = ("0 or more", lambda x: x >= 0)
_SHARE: _Rule = ("in [0, 1]", lambda x: 0 <= x <= 1)
_BELOW_ONE: _Rule = ("in [0, 1)", lambda x: 0 <= x < 1)
_SIZE_OR_REST: _Rule = ("positive, or -1", lambda x: x > 0 or x == -1)
_NUMBERS = {
  "Config.seed": _NOT_NEGATIVE,
  "Model.num_layers": _NOT_NEGATIVE,
  "Lora.rank": _NOT_NEGATIVE,
  "Function.answer_limit": _NOT_NEGATIVE,
  "Tau.unclosed_reward": _SHARE,
  "Intention.patience": _NOT_NEGATIVE,
  "Persuade.max_gain": _NOT_NEGATIVE,
  "Search.answer_limit": _NOT_NEGATIVE,
  "Search.search_limit": _NOT_NEGATIVE,
  "Telepathy.guess_limit": _NOT_NEGATIVE,
  "Travel.outage_every": _NOT_NEGATIVE,
  "Travel.reveal_after": _NOT_NEGATIVE,
  "Turtle.answer_limit": _NOT_NEGATIVE,
  "Turtle.step_penalty": _SHARE,
  "User.temperature": _NOT_NEGATIVE,
  "User.num_retries": _NOT_NEGATIVE,
  "User.num_reasks": _NOT_NEGATIVE,
  "User.requests_per_minute": _NOT_NEGATIVE,
  "User.tokens_per_minute": _NOT_NEGATIVE,
  "User.max_outage_s": _NOT_NEGATIVE,
  "User.usd_per_million_in": _NOT_NEGATIVE,
  "User.usd_per_million_out": _NOT_NEGATIVE,
  "Judge.temperature": _NOT_NEGATIVE,
  "Judge.usd_per_million_in": _NOT_NEGATIVE,
  "Judge.usd_per_million_out": _NOT_NEGATIVE,
  "Agent.usd_per_million_in": _NOT_NEGATIVE,
  "Agent.usd_per_million_out": _NOT_NEGATIVE,
  "Budget.max_usd": _NOT_NEGATIVE,
  "Budget.max_tokens": _NOT_NEGATIVE,
  "Budget.max_calls": _NOT_NEGATIVE,
  "Engine.num_rows": _NOT_NEGATIVE,
  "Engine.num_lanes": _NOT_NEGATIVE,
  "Rollout.max_staleness": _NOT_NEGATIVE,
  "Rollout.max_malformed": _NOT_NEGATIVE,
  "Rollout.agent_timeout_s": _NOT_NEGATIVE,
  "Rollout.num_retries": _NOT_NEGATIVE,
  "Rollout.max_invalid_share": _SHARE,
  "Credit.gamma": _SHARE,
  "Credit.turn_penalty": _NOT_NEGATIVE,
  "Credit.length_penalty": _NOT_NEGATIVE,
  "Credit.free_tokens": _NOT_NEGATIVE,
  "Credit.hold_until": _NOT_NEGATIVE,
  "Optimizer.warmup_steps": _NOT_NEGATIVE,
  "Optimizer.b1": _BELOW_ONE,
  "Optimizer.b2": _BELOW_ONE,
  "Optimizer.weight_decay": _NOT_NEGATIVE,
  "Base.num_copies": _NOT_NEGATIVE,
  "ColdStart.num_tasks": _NOT_NEGATIVE,
  "ColdStart.num_epochs": _NOT_NEGATIVE,
  "Selection.num_tasks": _NOT_NEGATIVE,
  "ColdStart.noise": _SHARE,
  "ColdStart.min_score": _SHARE,
  "Grpo.clip_low": _BELOW_ONE,
  "Grpo.kl_coef": _NOT_NEGATIVE,
  "Grpo.entropy_coef": _NOT_NEGATIVE,
  "Grpo.importance_cap": ("0, or at least 1", lambda x: x == 0 or x >= 1),
  "Grpo.dual_clip": ("above 1", lambda x: x > 1),
  "Evaluation.temperature": _NOT_NEGATIVE,
  "Evaluation.top_k": _NOT_NEGATIVE,
  "Evaluation.top_p": ("in (0, 1]", lambda x: 0 < x <= 1),
  "Evaluation.min_p": _SHARE,
  "Evaluation.forgetting_tasks": _NOT_NEGATIVE,
  "Checkpoint.every_steps": _NOT_NEGATIVE,
  "Checkpoint.every_minutes": _NOT_NEGATIVE,
  "Hosts.process_id": _NOT_NEGATIVE,
  "Mesh.data": _SIZE_OR_REST,
  "Mesh.fsdp": _SIZE_OR_REST,
  "Mesh.tensor": _SIZE_OR_REST,
}


def validate(config: config_lib.Config) -> None:
  """Refuses a config with a wrong type, a wrong value or an impossible mix.

  Raises:
    ValueError: one line a problem: the field, what must hold, what was got.
  """
  problems = config_fields.type_problems(config)
  if not problems:  # the rules below compare values, so types come first
    problems = list(_value_problems(config)) or list(_mix_problems(config))
  if problems:
    raise ValueError("\n".join(problems))


def _value_problems(config: config_lib.Config) -> Iterator[str]:
  for knob in config_fields.knobs(config):
    values = knob.value if isinstance(knob.value, tuple) else (knob.value,)
    may_be_empty = knob.key in _MAY_BE_EMPTY
    if not (values or may_be_empty) or len(set(values)) < len(values):
      yield f"{knob.path} must hold values, none twice, got {knob.value}"
    for value in values:
      rule = _broken_rule(knob.key, value)
      if rule:
        yield f"{knob.path} must be {rule}, got {value!r}"


def _broken_rule(key: str, value: Any) -> str:
  if key in _NAMES:
    names = ", ".join(map(str, _NAMES[key]))
    return "" if value in _NAMES[key] else f"one of {names}"
  if isinstance(value, str):
    return "" if value or key in _MAY_BE_EMPTY else "given"
  if isinstance(value, bool):
    return ""
  rule, holds = _NUMBERS.get(key, _POSITIVE)
  return "" if math.isfinite(value) and holds(value) else rule


def _mix_problems(c: config_lib.Config) -> Iterator[str]:
  """Yields what is wrong between fields that are right by themselves."""
  rollout, engine, gyms, grpo = c.rollout, c.engine, c.gyms, c.grpo
  episode, stages = rollout.max_tokens_per_episode, set(c.stages)
  arms = c.comparison
  rules: list[method_rules.Rule] = [
    (
      "model.preset",
      "given, unless model.folder gives the shape",
      c.model.preset != "" or c.model.folder != "",
    ),
    (
      "model.num_layers",
      "0 with model.folder: published weights keep their depth",
      c.model.num_layers == 0 or c.model.folder == "",
    ),
    (
      "tokenizer.folder",
      "given with model.folder (or init_from): published weights know the ids "
      "of their own tokenizer only",
      c.model.folder == "" or c.tokenizer.folder != "" or c.init_from != "",
    ),
    (
      "tokenizer.folder",
      "a folder with tokenizer.json when tokenizer.kind is huggingface",
      c.tokenizer.kind != "huggingface" or c.tokenizer.folder != "",
    ),
    (
      "packing.row_length",
      f"at least rollout.max_tokens_per_episode ({episode}): a row holds a "
      "whole trajectory",
      c.packing.row_length >= episode,
    ),
    (
      "rollout.max_tokens_per_turn",
      f"below rollout.max_tokens_per_episode ({episode})",
      rollout.max_tokens_per_turn < episode,
    ),
    (
      "engine.num_lanes",
      f"at most engine.num_rows ({engine.num_rows})",
      not engine.num_rows or engine.num_lanes <= engine.num_rows,
    ),
    (
      "engine.extend_tokens",
      f"at least engine.extend_chunk ({engine.extend_chunk})",
      engine.extend_tokens >= engine.extend_chunk,
    ),
    (
      "stages",
      f"in the order {', '.join(_NAMES['Config.stages'])}",
      list(c.stages) == sorted(c.stages, key=_NAMES["Config.stages"].index),
    ),
    (
      "stages",
      f"with cold_start, where an arm ({', '.join(_ARMS)}) is among them",
      "cold_start" in stages or not stages & set(_ARMS),
    ),
    (
      "stages",
      "with base, where rl_only_updates or rl_only is among them and neither "
      "init_from nor model.folder is given: it has nothing to start from",
      bool({"base"} & stages or c.init_from or c.model.folder)
      or not {"rl_only_updates", "rl_only"} & stages,
    ),
    (
      "comparison.continued_steps",
      f"at least grpo.num_iterations ({grpo.num_iterations})",
      arms.continued_steps >= grpo.num_iterations or "continued" not in stages,
    ),
    (
      "comparison.rl_only_iterations",
      f"at least grpo.num_iterations ({grpo.num_iterations})",
      arms.rl_only_iterations >= grpo.num_iterations or "rl_only" not in stages,
    ),
    (
      "grpo.group_size",
      "at least 2, to compare members (or set grpo.credit.released)",
      grpo.group_size > 1
      or grpo.credit.released
      or not {"grpo", "rl_only_updates", "rl_only"} & stages,
    ),
    (
      "grpo.tasks_per_iteration",
      f"at most gyms.num_train_tasks ({gyms.num_train_tasks})",
      grpo.tasks_per_iteration <= gyms.num_train_tasks,
    ),
    (
      "grpo.credit.hold_until",
      f"at most gyms.max_turns ({gyms.max_turns}): no later turn can pay",
      grpo.credit.hold_until <= gyms.max_turns,
    ),
    *method_rules.rules(grpo, gyms.names, rollout.max_staleness),
    *gym_rules.rules(gyms, c.evaluation, c.stages, c.user.kind),
    *selection_rules.rules(
      c.selection, c.stages, c.cold_start, c.checkpoint, rollout.max_staleness
    ),
    *method_rules.adapter_rules(
      c.lora,
      c.stages,
      {"cold_start": c.cold_start.optimizer, "grpo": grpo.optimizer},
    ),
    (
      "evaluation.num_tasks",
      f"at most gyms.num_test_tasks ({gyms.num_test_tasks})",
      c.evaluation.splits == ("train",)
      or c.evaluation.num_tasks <= gyms.num_test_tasks,
    ),
    (
      "evaluation.forgetting_tasks",
      f"at most gyms.num_test_tasks ({gyms.num_test_tasks})",
      c.evaluation.forgetting_tasks <= gyms.num_test_tasks,
    ),
    (
      "evaluation.splits",
      "without fresh unless gyms.tasks is generated",
      "fresh" not in c.evaluation.splits or gyms.tasks == "generated",
    ),
    (
      "user.model",
      "the name of a model when user.kind is endpoint, its folder when local",
      c.user.kind == "scripted" or c.user.model != "",
    ),
    (
      "user.base_url",
      "empty unless user.kind is endpoint: there is no other address",
      c.user.kind == "endpoint" or c.user.base_url == "",
    ),
    (
      "user.model",
      "empty where user.kind is scripted: rules ask no model",
      c.user.kind != "scripted" or c.user.model == "",
    ),
    *endpoint_rules.rules(
      c.user,
      c.judge,
      c.agent,
      c.budget,
      c.recording,
      c.evaluation,
      c.rollout.step_timeout_s,
    ),
    *local_rules.rules(c.user, c.judge, c.local),
    *hosts_rules.rules(c.hosts, c.evaluation, c.budget, c.recording),
    (
      "cold_start.top_k",
      f"at most cold_start.num_tries ({c.cold_start.num_tries})",
      c.cold_start.top_k <= c.cold_start.num_tries,
    ),
    (
      "mesh.data",
      "positive when another size of mesh is -1",
      dataclasses.astuple(c.mesh).count(-1) < 2,
    ),
  ]
  # Arms in which the cold start goes on cut its warm-up to their length.
  for stage, section, optimizer, num_steps in (
    ("base", "base", c.base.optimizer, c.base.num_steps),
    (
      "cold_start",
      "cold_start",
      c.cold_start.optimizer,
      c.cold_start.num_steps,
    ),
    *(
      (stage, "grpo", grpo.optimizer, iterations * grpo.num_mini_batches)
      for stage, iterations in (
        ("grpo", grpo.num_iterations),
        ("rl_only_updates", grpo.num_iterations),
        ("rl_only", arms.rl_only_iterations),
      )
    ),
  ):
    rules.append(
      (
        f"{section}.optimizer.warmup_steps",
        f"below the {num_steps} steps of the cosine schedule of {stage}",
        stage not in stages
        or optimizer.schedule != "cosine"
        or optimizer.warmup_steps < num_steps,
      )
    )
  yield from profiles.problems(c.user.profiles, c.evaluation.profiles)
  got = {knob.path: knob.value for knob in config_fields.knobs(c)}
  for path, rule, holds in rules:
    if not holds:
      yield f"{path} must be {rule}, got {got[path]!r}"
