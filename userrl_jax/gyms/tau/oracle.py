"""The demonstrator of the Tau gym: how a good agent plays.

It has fixed habits: identify the user, ask for what the request needs, look the
order up, say what will be changed, change it, say that it is done; or say why
not, or what was asked for, or transfer. It knows which request it is serving,
and uses what the user knows only once it has asked for it or read it.
"""

from collections.abc import Mapping
import json
import random
import re
from typing import Any

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.tau import canned
from userrl_jax.gyms.tau import gym
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import scripted
from userrl_jax.gyms.tau import worlds

EMAIL = "What is your email?"
NAME = "What are your name and zip code?"
ITEM = "Which item is it?"
OPTION = "Which option do you want?"
ORDER = "What is the order number?"
_ASK = {
  "cancel": "What is the order number, and the reason?",
  "return": "What is the order number, and which item is it?",
  "exchange": "What is the order number, and which item is it?",
  "address": "What is the order number, and the new address?",
}
_PLAN = {
  "cancel": "Shall I cancel order {order_id}, reason {reason}?",
  "return": "Shall I return the {item} of order {order_id}?",
  "exchange": "Shall I exchange the {item} of order {order_id} for {option}?",
  "address": "Shall I send order {order_id} to {address}?",
}
_STATUS = re.compile(r"is (pending|shipped|delivered|cancelled)$")


class Oracle:
  """Plays one task; needs 2 turns at level 1, and at most 16 above."""

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: of the pack or the generator; of released tasks only the right
        calls are known.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1].
      settings: of the gym; not needed.
    """
    self._calls: list[types.Action] = []
    secret = task.secret.reveal()
    if "record" in secret:
      self._found = scenario.of_task(task)
    else:
      self._calls = _released_moves(secret)
    self._rng = rng
    self._noise = noise
    self._actions: dict[int, types.Action] = {}  # by place of its reply

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
    elif self._calls:
      action = self._calls[min(len(observations), len(self._calls)) - 1]
    else:
      action = self._planned(observations)
    self._actions[len(observations)] = action
    return action

  def _planned(self, observations: list[str]) -> types.Action:
    number, start = 0, 0
    intents = self._found.intents
    for place, text in enumerate(observations):
      following = intents[number + 1 : number + 2]
      if following and text == f"{gym.THANKS} {following[0].request}":
        number, start = number + 1, place
    replies = {  # to each move, the last one
      action.content: observations[place]
      for place, action in self._actions.items()
      if place < len(observations)
    }
    recent = {  # since the present request
      action.content: observations[place]
      for place, action in self._actions.items()
      if start < place < len(observations)
    }
    intent = intents[number]
    if self._found.is_signed_in:
      return _level_1(intent, recent)
    return self._identify(replies) or self._serve(intent, replies, recent)

  def _identify(self, replies: Mapping[str, str]) -> types.Action | None:
    """Returns the next move to find out who the user is; None once known."""
    facts = self._found.facts
    key = facts["email"]
    if EMAIL not in replies:
      return types.Action("action", EMAIL)
    if not key:
      if NAME not in replies:
        return types.Action("action", NAME)
      key = f"{facts['name']} {facts['zip']}"
    call = f"find_user {key}"
    if replies.get(call, worlds.ERROR).startswith(worlds.ERROR):
      return types.Action("answer", call)
    return None

  def _serve(
    self,
    intent: scenario.Intent,
    replies: Mapping[str, str],
    recent: Mapping[str, str],
  ) -> types.Action:
    facts = scenario.facts_of(self._found, intent)
    order_id = intent.order_id
    if order_id:
      question = _ASK.get(intent.verb, ORDER)
      if question not in recent:
        return types.Action("action", question)
      if not facts["order"]:
        action = self._find(order_id, intent, replies, recent)
        if action:
          return action
      if intent.verb == "exchange" and OPTION not in recent:
        return types.Action("action", OPTION)
      look = f"get_order {order_id}"
      if look not in recent:
        return types.Action("answer", look)
    product = intent.look if intent.look.startswith("p") else ""
    if intent.verb == "exchange" and not product:
      product = facts["item"].split()[-1]
    if product and f"get_product {product}" not in recent:
      return types.Action("answer", f"get_product {product}")
    if intent.expect == "transfer":
      summary = f"transfer_to_human Order {order_id} needs a human."
      return types.Action("answer", summary)
    if intent.expect == "tell":
      return types.Action("action", f"It is {' '.join(intent.outputs)}.")
    if intent.expect == "no_change":
      return types.Action("action", f"Sorry, it is {intent.why}.")
    plan = _PLAN[intent.verb].format(**{**intent.arguments, **facts})
    if recent.get(plan) != scripted.YES:
      return types.Action("action", plan)
    (call,) = scenario.calls_of(intent)
    if written(call) not in recent:
      return types.Action("answer", written(call))
    return types.Action("action", f"Done: order {order_id} is up to date.")

  def _find(
    self,
    order_id: str,
    intent: scenario.Intent,
    replies: Mapping[str, str],
    recent: Mapping[str, str],
  ) -> types.Action | None:
    """Returns the next move to find the order by its item; None once found."""
    asked = _ASK.get(intent.verb, ORDER)
    if ITEM not in recent and "which item" not in asked:
      return types.Action("action", ITEM)
    listing = f"get_user {self._found.user_id}"
    if listing not in replies:
      return types.Action("answer", listing)
    for other in json.loads(replies[listing])["orders"]:
      if f"get_order {other}" not in recent:
        return types.Action("answer", f"get_order {other}")
      if other == order_id:
        return None
    return None


def written(call: Any) -> str:
  """Returns a call as words, in the order of the tool's arguments."""
  words = [call.name]
  for value in call.arguments.values():
    words.append(",".join(value) if isinstance(value, list) else value)
  return " ".join(words)


def _level_1(
  intent: scenario.Intent, recent: Mapping[str, str]
) -> types.Action:
  (call,) = scenario.calls_of(intent)
  reply = recent.get(written(call))
  if reply is None:
    return types.Action("answer", written(call))
  if status := _STATUS.search(reply):
    return types.Action("action", f"Sorry, it is {status[1]}.")
  return types.Action("action", canned.DONE)


def _released_moves(secret: Mapping[str, Any]) -> list[types.Action]:
  """Returns the right calls of a released task, and a last message."""
  moves = [
    types.Action(
      "answer", json.dumps({"name": a["name"], "arguments": a["kwargs"]})
    )
    for a in secret["actions"]
  ]
  outputs = " ".join(secret["outputs"])
  return [*moves, types.Action("action", f"Done. {outputs}".strip())]
