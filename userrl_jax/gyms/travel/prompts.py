"""The rules of the Travel gym as the agent is told them."""

from userrl_jax import config
from userrl_jax.gyms import base

_BRIEF_1 = """\
Book what the user wants. search "hotel Rome" lists options by wish, cheapest \
first. action "Do you want a view?" asks for the one wish. answer "H2" \
chooses: the first option listed for the wish is best. You have {max_turns} \
turns."""

_BRIEF = """\
Book what the user wants, item by item: the cheapest option with all wishes. \
search "hotel Rome 3 May" lists options, {price}; name all arguments. \
action "Do you want a view or a gym?" asks about one or two wishes. answer \
"H2" chooses, once an item. You have {max_turns} turns."""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and plan a \
trip with it for a user who does not say everything at once.

The environment is a user with wishes and a database of travel options. The \
trip has one or more items out of hotel, flight, restaurant, rental car and \
apartment. For every item, choose the cheapest option that satisfies all of \
the user's wishes about it. The user tells a wish only when asked about its \
topic{implicitly}.

Every turn, call the tool once with a `choice` and its `content`:
- `search`: one request that names one item and all of its arguments, as words \
or JSON, such as `hotel Rome`. The database replies with {listing}. One search \
an item is enough.{outage}
- `action`: a message to the user, such as `Do you want a view?`. A question \
about one or two topics of one item is answered; about more, or about wishes \
in general, it is not.{volunteer}
- `answer`: exactly one option id, such as `H2`. It settles the item for good, \
and its wishes that you have not asked for are lost. The game ends when every \
item is settled.

Searches, wishes you asked for and choices are rewarded, the cheapest fitting \
option most. You have {max_turns} turns. A call in another format is not \
played but takes a turn. Reason between <think> and </think> first, then call \
the tool. Search first: the options show which topics are worth a question.

Example: {{"choice": "search", "content": "hotel Rome"}}"""

_BY_TOPIC = "what can be had, and under each the ids of the options that have \
it, the cheapest first"
_BY_OPTION = "every option, in no order: its id, what it has, and its price at \
the end"
_BY_FIELD = "every option, in no order, as a line of JSON with its id and cost"


def system_prompt(settings: config.Gyms, profile: str) -> str:
  """Returns the rules for the levels and limits in play.

  Raises:
    ValueError: when there is no such profile.
  """
  is_level_1 = max(settings.levels) == 1
  brief = _BRIEF_1 if is_level_1 else _BRIEF
  prompt = base.check_profile({"full": _FULL, "brief": brief}, profile)
  is_own = settings.tasks in ("generated", "pack")
  every, after = settings.travel.outage_every, settings.travel.reveal_after
  outage = f" When a search finds the database down (it happens to every \
search whose number is a multiple of {every}), search again."
  volunteer = f" After {after} messages in a row that brought nothing, the \
user volunteers a wish at the next, which is then not rewarded."
  return prompt.format(
    max_turns=settings.max_turns,
    implicitly="" if is_level_1 else ", and often only as a hint",
    listing=(_BY_TOPIC if is_level_1 else _BY_OPTION) if is_own else _BY_FIELD,
    price="price last" if is_own else "as JSON with a cost",
    outage=outage if every else "",
    volunteer=volunteer if after else "",
  )
