"""How often a run will ask the model that answers as the user, at most.

In: the parts of a run and its stages. Out: calls, by what they are for, before
the first of them is made. Tasks x group x turns x calls a turn, where nobody
ends early and nothing is asked again; so most runs stay well below.
"""

from collections.abc import Sequence
import math

from userrl_jax import assembly
from userrl_jax import gyms
from userrl_jax import stages

_CALLS_A_TURN = 1


def calls(
  parts: assembly.Parts, plan: Sequence[stages.Stage]
) -> dict[str, int]:
  """Returns the calls of each stage and of all evaluations, {} for rules."""
  c = parts.config
  if c.user.kind == "scripted":
    return {}
  share = _share_with_user(c.gyms.names)
  num_tasks = len(parts.tasks)
  demonstrated = min(c.cold_start.num_tasks or num_tasks, num_tasks)
  num_made = {
    "base": c.base.num_episodes,
    "cold_start": demonstrated * c.cold_start.num_tries,
  }
  episodes: dict[str, int] = {}
  for stage in plan:
    if stage.dialogues:
      made = f"dialogues of {stage.dialogues}"  # once, for all who imitate them
      episodes[made] = num_made[stage.dialogues]
    else:
      episodes[stage.name] = (
        stage.num_steps * stage.per_step * c.grpo.group_size
      )
  e = c.evaluation
  played = c.gyms.names + e.held_out_gyms
  one = e.num_tasks * len(e.splits) * len(played) * e.num_attempts
  one *= max(1, len(e.profiles))
  asked = {name: math.ceil(n * share) for name, n in episodes.items()}
  asked["evaluations"] = math.ceil(one * len(plan) * _share_with_user(played))
  return {
    name: n * c.gyms.max_turns * _CALLS_A_TURN for name, n in asked.items()
  }


def _share_with_user(names: Sequence[str]) -> float:
  """Returns the share of gyms in which somebody answers."""
  return sum(map(gyms.has_user, names)) / len(names)


def text(parts: assembly.Parts, plan: Sequence[stages.Stage]) -> str:
  """Returns the forecast in one line, with the price of what is written.

  What the model reads has no bound here: prompts are made as the run goes on.
  Empty where rules answer.
  """
  of = calls(parts, plan)
  if not of:
    return ""
  total = sum(of.values())
  line = f"at most {total:,} calls of the user, unless something is asked again"
  line += f" ({', '.join(f'{name} {n:,}' for name, n in of.items())})"
  user = parts.config.user
  if user.usd_per_million_out:
    usd = total * user.max_tokens * user.usd_per_million_out / 1e6
    line += f"; at most ${usd:,.2f} for what it writes"
  caps = parts.config.budget
  cap = {
    "calls": caps.max_calls,
    "tokens": caps.max_tokens,
    "dollars": caps.max_usd,
  }
  set_caps = [f"{value:g} {name}" for name, value in cap.items() if value]
  return line + (f"; budget: {', '.join(set_caps)}" if set_caps else "")
