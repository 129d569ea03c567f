"""The rules of the Tau gym as the agent is told them."""

from collections.abc import Sequence

from userrl_jax import config
from userrl_jax.gyms import base
from userrl_jax.gyms.tau import calls
from userrl_jax.gyms.tau import shop

HELP = (
  "search: tools, policy or help. action: a message to the user. answer: a "
  "tool call, like get_order W1001."
)

_BRIEF_1 = """\
Do what the user asks with one tool call. answer "cancel_order W3 late", \
"return_items W3 mug" or "update_address W3 Rome" calls a tool. Then tell the \
user: action "Done." or, if it shows an error, action "Sorry, it is shipped." \
search "tools" lists the tools. You have {max_turns} turns."""

_BRIEF = """\
Serve a shop's user. search "tools" lists tools, search "policy" the rules. \
answer "find_user mia@post.test" calls a tool: first identify the user. action \
"What is your email?" talks. Ask for what is missing, look orders up, say what \
you change and get a yes, change it, then say that it is done; or refuse and \
say why. You have {max_turns} turns."""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and serve a \
user of a shop with it.

The user wants something, and may want more once that is done. Behind you are \
internal tools that read and change records. Your goal is that, when the user \
is content, the records are as they should be: what was asked for is done, \
nothing else is, and the policy is kept.

Every turn, call the tool once with a `choice` and its `content`:
- `action`: a message to the user, such as a question, a plan to confirm, or \
what has been done.
- `answer`: one call of an internal tool, as JSON, `{{"name": "get_order", \
"arguments": {{"order_id": "W1001"}}}}`, or as words in the order of its \
arguments, `get_order W1001`. It replies with JSON or with an error.
- `search`: `tools` lists the internal tools, `policy` shows the policy, \
`help` these forms.

{policy}{reward}
You have {max_turns} turns. A call in another format is not played but takes a \
turn. Reason between <think> and </think> first, then call the tool. Think \
backwards from the last call that you will need.

Example: {{"choice": "search", "content": "tools"}}"""

_POLICY = """\
Policy of the shop:
{policy}

"""
_POLICY_OF_TASK = """\
The first message holds the policy to keep.

"""
_REWARD = """\
A change that the user has not said yes to forfeits the reward.
"""


def system_prompt(settings: config.Gyms, profile: str) -> str:
  """Returns the rules for the levels in play.

  Raises:
    ValueError: when there is no such profile.
  """
  is_level_1 = max(settings.levels) == 1
  brief = _BRIEF_1 if is_level_1 else _BRIEF
  prompt = base.check_profile({"full": _FULL, "brief": brief}, profile)
  is_ours = settings.tasks in ("generated", "pack")
  is_strict = is_ours and settings.reward_profile == "default"
  return prompt.format(
    max_turns=settings.max_turns,
    policy=_POLICY.format(policy=shop.POLICY) if is_ours else _POLICY_OF_TASK,
    reward=_REWARD if is_strict and not is_level_1 else "",
  )


def listing(tools: Sequence[calls.Tool]) -> str:
  """Returns what tools there are, one a line."""
  return "\n".join(tool.line() for tool in tools)
