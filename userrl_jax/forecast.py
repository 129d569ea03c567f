"""How often a run will ask the models that answer and judge, at most.

In: the parts of a run and its stages. Out: calls, by what they are for, before
it begins. Tasks x group x turns x calls a turn, where nobody ends early and
nothing is asked again; so most runs stay well below.
"""

import collections
from collections.abc import Mapping, Sequence
import math

from userrl_jax import assembly
from userrl_jax import config as config_lib
from userrl_jax import data
from userrl_jax import demonstrate
from userrl_jax import gyms
from userrl_jax import selection_rules
from userrl_jax import stages
from userrl_jax import types

AGENT = "the agent"


def calls(
  parts: assembly.Parts, plan: Sequence[stages.Stage]
) -> dict[str, int]:
  """Returns the calls of each stage and of all evaluations, {} for rules."""
  c = parts.config
  if c.user.kind == "scripted":
    return {}
  is_apart = c.judge.model != ""
  # Gyms may have unequal numbers of tasks, so each counts with its own.
  of_tasks = [gyms.max_asked(task.gym, is_apart) for task in parts.tasks]
  num_rounds, num_more = divmod(c.base.num_episodes, max(1, len(of_tasks)))
  demonstrated = of_tasks[: c.cold_start.num_tasks or None]
  num_made = {
    "base": num_rounds * sum(of_tasks) + sum(of_tasks[:num_more]),
    "cold_start": sum(demonstrated) * c.cold_start.num_tries,
  }
  asked: dict[str, int] = {}
  if c.tokenizer.kind == "sentencepiece" and not (
    c.tokenizer.folder or c.init_from
  ):
    answered = of_tasks[: demonstrate.NUM_FOR_TOKENIZER // 2]
    asked["the tokenizer"] = 2 * sum(answered)
  episodes: dict[str, int] = {}
  for stage in plan:
    if not stage.dialogues:
      asked[stage.name] = _of_draws(parts, stage) * c.grpo.group_size
    elif not stages.is_imported(parts, stage):
      made = f"dialogues of {stage.dialogues}"  # once, for all who imitate them
      asked[made] = num_made[stage.dialogues]
    episodes |= _of_looks(parts, stage)
  e = c.evaluation
  if e.forgetting_tasks:  # dialogues that are made once
    episodes["the forgetting check"] = e.forgetting_tasks * len(c.gyms.names)
  played = c.gyms.names + e.held_out_gyms
  one = e.num_tasks * len(e.splits) * len(played) * e.num_attempts
  one *= max(1, len(e.profiles))
  each = _calls_a_turn(c.gyms.names, is_apart)
  asked |= {name: math.ceil(n * each) for name, n in episodes.items()}
  each = _calls_a_turn(played, is_apart)
  asked["evaluations"] = math.ceil(one * len(plan) * each)
  return {name: n * c.gyms.max_turns for name, n in asked.items()}


def _of_draws(parts: assembly.Parts, stage: stages.Stage) -> int:
  """Returns the most calls of a turn of all tasks that a stage plays.

  Which gyms a draw has tasks of is the same in every epoch, see `data.Stream`;
  of a refill it is not known which draws it takes, so each is the dearest.
  """
  c = parts.config
  counts = collections.Counter(task.gym for task in parts.tasks)
  is_apart = c.judge.model != ""
  each = [gyms.max_asked(name, is_apart) for name in counts]
  order = [each[kind] for kind, _ in data.interleaved([*counts.values()])]
  num_draws = max(1, len(order) // stage.per_step)
  of_draws = [
    sum(order[i * stage.per_step : (i + 1) * stage.per_step])
    for i in range(num_draws)
  ]
  if c.grpo.flat_groups == "refill":
    rounds = 1 + c.grpo.refill_rounds
    return stage.num_steps * rounds * max(of_draws)
  num_epochs, num_more = divmod(stage.num_steps, num_draws)
  return num_epochs * sum(of_draws) + sum(of_draws[:num_more])


def _of_looks(parts: assembly.Parts, stage: stages.Stage) -> dict[str, int]:
  """Returns episodes of tasks that are held back, to look at a stage."""
  c = parts.config
  num_tasks = c.selection.num_tasks * len(c.gyms.names)
  if num_tasks and stage.name in selection_rules.PLAYING:
    num_looks = math.ceil(stage.num_steps / c.selection.play_every)
    return {f"looks at {stage.name}": num_looks * num_tasks}
  is_made = not stages.is_imported(parts, stage)
  if num_tasks and stage.name in selection_rules.IMITATING and is_made:
    return {"dialogues to look at": num_tasks * c.cold_start.num_tries}
  return {}


def of_episodes(
  parts: assembly.Parts, tasks: Sequence[types.Task], num_attempts: int
) -> dict[str, int]:
  """Returns the calls of an evaluation, or of demonstrations, by who is asked.

  Args:
    parts: of the run; its config is enough.
    tasks: that are played.
    num_attempts: at each.
  """
  config = parts.config
  num_turns = num_attempts * config.gyms.max_turns
  of: dict[str, int] = {}
  if config.user.kind != "scripted":
    is_apart = config.judge.model != ""
    each = sum(gyms.max_asked(task.gym, is_apart) for task in tasks)
    of[_who(config.judge)] = each * num_turns
  if config.evaluation.agent == "endpoint":
    of[AGENT] = len(tasks) * num_turns
  return of


def _calls_a_turn(names: Sequence[str], is_apart: bool) -> float:
  """Returns the most calls of a turn, the mean of gyms of as many tasks."""
  return sum(gyms.max_asked(name, is_apart) for name in names) / len(names)


def text(parts: assembly.Parts, plan: Sequence[stages.Stage]) -> str:
  """Returns the forecast of a run in one line, "" where rules answer."""
  of = calls(parts, plan)
  detail = f" ({', '.join(f'{name} {n:,}' for name, n in of.items())})"
  asked = {_who(parts.config.judge): sum(of.values())}
  return _line(parts, asked, detail) if of else ""


def text_of_episodes(
  parts: assembly.Parts, tasks: Sequence[types.Task], num_attempts: int
) -> str:
  """Returns that of `of_episodes` in one line, "" where nobody is asked."""
  of = of_episodes(parts, tasks, num_attempts)
  return _line(parts, of) if of else ""


def _who(judge: config_lib.Judge) -> str:
  return "user and judge" if judge.model else "the user"


def _line(
  parts: assembly.Parts, of: Mapping[str, int], detail: str = ""
) -> str:
  """Returns a forecast with the price of what is written.

  What the model reads has no bound here: prompts are made as the run goes on.
  """
  c = parts.config
  said = " and ".join(f"{n:,} calls of {who}" for who, n in of.items())
  line = f"at most {said}, unless something is asked again{detail}"
  priced: list[config_lib.User | config_lib.Judge] = [c.user]
  if c.judge.model:
    priced.append(c.judge)
  dearest = {
    _who(c.judge): max(s.max_tokens * s.usd_per_million_out for s in priced),
    AGENT: c.rollout.max_tokens_per_turn * c.agent.usd_per_million_out,
  }
  if any(dearest[who] for who in of):
    usd = sum(n * dearest[who] for who, n in of.items()) / 1e6
    line += f"; at most ${usd:,.2f} for what is written"
  caps = c.budget
  cap = {
    "calls": caps.max_calls,
    "tokens": caps.max_tokens,
    "dollars": caps.max_usd,
  }
  set_caps = [f"{value:g} {name}" for name, value in cap.items() if value]
  return line + (f"; budget: {', '.join(set_caps)}" if set_caps else "")


def at_rate(
  parts: assembly.Parts, counts: Mapping[str, float], seconds: float
) -> tuple[list[str], list[str]]:
  """Returns what a run asks at most, at the rate of some episodes.

  Args:
    parts: of the run; its config and tasks are enough.
    counts: of the episodes, see `users.User.take_counts`.
    seconds: that they took, one after the other.

  Returns:
    What to say of the run, and which caps of the budget may end it sooner.

  Raises:
    ValueError: when a stage of the run cannot be.
  """
  config = parts.config
  if config.user.kind == "scripted":
    return ["asks no model and costs nothing"], []
  num_calls = sum(calls(parts, stages.plan(parts)).values())
  num = total(counts, "requests")
  if not num:
    return [f"{num_calls:,} calls at most"], ["none measured"]
  each_in, each_out = (
    total(counts, f"tokens_{x}") / num for x in ("in", "out")
  )
  hours = num_calls * seconds / num / config.user.max_concurrent / 3600
  said = [
    f"{num_calls:,} calls at most",
    f"of {each_in:.0f} tokens in and {each_out:.0f} out each",
    f"{hours:.2f} hours of answers, {config.user.max_concurrent} at once",
  ]
  usd = num_calls * total(counts, "usd") / num
  if has_prices(config.user, config.judge):
    said.append(f"${usd:,.2f}")
  else:
    said.append("no prices (user.usd_per_million_in and _out)")
  caps = config.budget
  return said, [
    f"budget.{name} {cap:g} may end it sooner"
    for name, cap, need in (
      ("max_calls", caps.max_calls, num_calls),
      ("max_tokens", caps.max_tokens, num_calls * (each_in + each_out)),
      ("max_usd", caps.max_usd, usd),
    )
    if 0 < cap < need
  ]


def total(counts: Mapping[str, float], name: str) -> float:
  """Returns a count of user and judge together."""
  return sum(counts.get(f"{role}/{name}", 0.0) for role in ("user", "judge"))


def has_prices(user: config_lib.User, judge: config_lib.Judge) -> bool:
  """Returns whether tokens of user or judge have a price."""
  prices = (user.usd_per_million_in, user.usd_per_million_out)
  return any((*prices, judge.usd_per_million_in, judge.usd_per_million_out))
