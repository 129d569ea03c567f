"""The rules of the Intention gym as the agent is told them."""

from userrl_jax import config
from userrl_jax.gyms import base

_BRIEF_1 = """\
Fill the form. action "What date?" asks about one thing. Ask about each thing \
with a ?, the first one first. {limits}"""

_BRIEF = """\
The user's request leaves things open. action "How old is it?" asks about one \
of them; it pays more, the more it matters. Find out all of them, one a turn, \
and nothing that was said. {limits}"""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and find out \
with it what a user really wants.

The environment is a user with a request that leaves details open. Your goal \
is to uncover all of them by asking; you do not have to fulfil the request. \
The first message is the request{opening}.

Every turn, call the tool once with a `choice` and its `content`:
- `action`: one question to the user, such as `How old is it?`. When it asks \
for a detail that is open, the user tells it. A question about two open \
details at once pays less than its better half, and one about more is not \
answered; neither is one about details as such.

A detail pays once, the more it matters to the request. The game ends when \
nothing is open any more. {limits} A call in another format is not played but \
takes a turn. Reason between <think> and </think> first, then call the tool. \
List what such a request has to settle, strike out what was said, and ask for \
what matters most.

Example: {{"choice": "action", "content": "How old is it?"}}"""

_FORM = """\
: a form in which a `?` marks what is open; every reply repeats what still is"""
_TASK = ", with its category"


def system_prompt(settings: config.Gyms, profile: str) -> str:
  """Returns the rules for the levels and limits in play.

  Raises:
    ValueError: when there is no such profile.
  """
  is_level_1 = max(settings.levels) == 1
  brief = _BRIEF_1 if is_level_1 else _BRIEF
  prompt = base.check_profile({"full": _FULL, "brief": brief}, profile)
  return prompt.format(
    limits=_limits(settings), opening=_FORM if is_level_1 else _TASK
  )


def _limits(settings: config.Gyms) -> str:
  turns = f"You have {settings.max_turns} turns."
  patience = settings.intention.patience
  if not patience:
    return turns
  noun = "useless question loses" if patience == 1 else "useless questions lose"
  return f"{turns} {patience} {noun}."
