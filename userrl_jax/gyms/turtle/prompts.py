"""The rules of the Turtle gym as the agent is told them."""

from userrl_jax import config
from userrl_jax.gyms import base

_BRIEF_1 = """\
Find the hidden story. action "Is it the son?" or action "Is the son lost?" \
asks yes or no. answer "The son is lost." tells it. {limits}"""

_BRIEF = """\
Find the hidden story behind the scene. action "Is it the son?" asks a \
yes-or-no question about one thing. answer "The son is lost. It was at the \
mill." tells the whole story in short sentences; the reply counts the points \
that are right. {limits}"""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and play a \
game of riddles with it.

A user tells you a scene that makes no sense at first. Behind it is a hidden \
story in which everything falls into place. Your goal is to find out that \
story by questions, and to tell it.

Every turn, call the tool once with a `choice` and its `content`:
- `action`: one question about the story, such as `Is somebody dead?`, that \
can be replied to by yes or no. The user replies `Yes.`, `No.`, or `Maybe.` \
when it depends, does not matter or cannot be understood. A question about \
several matters at once gets no useful reply.
- `answer`: the whole hidden story in at most 90 words, with every twist that \
explains the scene. The user counts how many of the story's points you have \
right, without telling which; you gain what is better than before, and the \
game is won when nothing is missing. Retelling the scene itself gains \
nothing, and neither do several explanations side by side.

{limits} A call in another format is not played but takes a turn. Reason \
between <think> and </think> first, then call the tool. Ask who is involved, \
what happened to them and why the scene looks as it does before you tell \
the story.

Example: {{"choice": "action", "content": "Is somebody dead?"}}
Example: {{"choice": "answer", "content": "The son is lost, so she waits."}}"""


def system_prompt(settings: config.Gyms, profile: str) -> str:
  """Returns the rules for the levels and limits in play.

  Raises:
    ValueError: when there is no such profile.
  """
  brief = _BRIEF_1 if max(settings.levels) == 1 else _BRIEF
  prompt = base.check_profile({"full": _FULL, "brief": brief}, profile)
  return prompt.format(limits=_limits(settings))


def _limits(settings: config.Gyms) -> str:
  turns = f"You have {settings.max_turns} turns."
  limit = settings.turtle.answer_limit
  if not limit:
    return turns
  return f"{turns} {limit} answer{'s' if limit > 1 else ''} at most."
