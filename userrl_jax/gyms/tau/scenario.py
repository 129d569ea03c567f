"""What a task of the Tau gym is about: a user, requests, and their right end.

A record, as packs and the generator write it, comes in; a checked, immutable
`Scenario` and the task of it go out. Where the store must end up is found by
running the right calls on the shop, so it is never written by hand.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.tau import calls
from userrl_jax.gyms.tau import shop
from userrl_jax.gyms.tau import store
from userrl_jax.gyms.tau import worlds

# How a request ends well: the store is changed, or not since that is against
# the policy, or not since only something is asked, or the user is transferred.
EXPECTED = ("change", "no_change", "tell", "transfer")
TOOL_OF = {
  "cancel": "cancel_order",
  "return": "return_items",
  "exchange": "exchange_item",
  "address": "update_address",
}
VERBS = (*TOOL_OF, "tell", "payment", "lost")
WHYS = ("pending", "shipped", "delivered", "cancelled", "sold out")
SLOTS = ("email", "name", "zip", "order", "item", "reason", "option", "address")


@dataclasses.dataclass(frozen=True)
class Intent:
  """One thing that the user wants."""

  verb: str  # of VERBS; "" in released tasks
  expect: str  # of EXPECTED
  request: str  # how the user says it
  arguments: Mapping[str, Any]  # of the tool that does it, or would
  why: str  # no_change: of WHYS
  outputs: tuple[str, ...]  # what the agent must tell
  look: str  # no_change, tell, transfer: the record that must be looked at
  goal: str  # changes of the store when this and all before have ended well

  @property
  def order_id(self) -> str:
    return self.arguments.get("order_id", "")


@dataclasses.dataclass(frozen=True)
class Scenario:
  """A task as the gym plays it; privileged."""

  id: str
  source: str  # whose tools: shop, or a domain of tau-bench
  user_id: str
  is_signed_in: bool  # identified, and agreed to the first request, from the on
  facts: Mapping[str, str]  # slot -> what the user can say
  intents: tuple[Intent, ...]
  rows: Mapping[str, Any]  # records that come on top of the shop's
  instruction: str  # what a model that plays the user is told

  @property
  def opening(self) -> str:
    return self.intents[0].request


def task(record: Mapping[str, Any]) -> types.Task:
  """Returns the task of a record.

  Raises:
    ValueError: when the record makes no sense in the shop.
  """
  text = json.dumps(record)
  found = _scenario(text)
  return types.Task(
    gym="tau",
    id=found.id,
    split=record["split"],
    level=record["level"],
    structure=record["structure"],
    public={"opening": found.opening, "level": record["level"]},
    secret=types.Secret({"record": text}),
  )


def of_task(task: types.Task) -> Scenario:
  """Returns what a task of the pack or the generator is about."""
  return _scenario(task.secret.reveal()["record"])


def structure(record: Mapping[str, Any]) -> str:
  """Returns the key that splits are made by.

  Level 1: what is done to which order. Above: the kinds of the requests, and
  what the user does not remember.
  """
  intents = record["intents"]
  if record["level"] == 1:
    arguments = intents[0]["arguments"]
    order_id, value = list(arguments.values())[:2]
    value = value[0] if isinstance(value, list) else value
    return f"1|{intents[0]['verb']}:{value}|{order_id}"
  kinds = [f"{i['verb']}:{i.get('why') or i['expect']}" for i in intents]
  unknown = "".join(f"-{slot}" for slot in sorted(record["unknown"]))
  return f"{record['level']}|{'+'.join(kinds)}|{unknown}"


@functools.lru_cache(maxsize=8192)
def _scenario(text: str) -> Scenario:
  record = json.loads(text)
  user = shop.rows("users").get(record["user"])
  if user is None:
    raise ValueError(
      f"field 'user' must be an id of the shop's users, got {record['user']!r}"
    )
  is_signed_in = record["level"] == 1
  intents, goal = [], store.UNCHANGED
  for number, values in enumerate(record["intents"], 1):
    try:
      intent = _intent(record, values, goal)
    except ValueError as error:
      raise ValueError(f"intent {number}: {error}") from error
    goal = intent.goal
    intents.append(intent)
  if not intents:
    raise ValueError("field 'intents' must name what the user wants, got none")
  facts = {slot: user[slot] for slot in ("email", "name", "zip")}
  facts["payment"] = user["payment"]
  for slot in record["unknown"]:
    if slot not in SLOTS:
      raise ValueError(base.unknown("slot of field 'unknown'", slot, SLOTS))
    facts.pop(slot, None)
  if "email" not in facts and not {"name", "zip"} <= facts.keys():
    raise ValueError(
      "field 'unknown' must leave a way to identify the user: email, or name "
      f"and zip, got {record['unknown']}"
    )
  return Scenario(
    id=record["id"],
    source="shop",
    user_id=record["user"],
    is_signed_in=is_signed_in,
    facts={**facts, **{slot: "" for slot in record["unknown"]}},
    intents=tuple(intents),
    rows=record["rows"],
    instruction=_instruction(user, intents),
  )


def facts_of(found: Scenario, intent: Intent) -> dict[str, str]:
  """Returns what the user can say now, by slot; what is unknown is empty."""
  arguments, variants = intent.arguments, shop.rows("variants")
  products = shop.rows("products")
  facts: dict[str, str] = {}
  if "order_id" in arguments:
    facts["order"] = arguments["order_id"]
  for name in ("reason", "address"):
    if name in arguments:
      facts[name] = arguments[name]
  keys = arguments.get("item_ids", [arguments.get("item_id", "")])
  keys = [arguments["item"]] if "item" in arguments else keys
  items = [
    f"{variants[key]['options']} {products[variants[key]['product']]['name']}"
    if key in variants
    else key
    for key in keys
    if key
  ]
  if items:
    facts["item"] = " and the ".join(items)
  if "new_item_id" in arguments:
    facts["option"] = variants[arguments["new_item_id"]]["options"]
  return {**facts, **found.facts}


def calls_of(intent: Intent) -> tuple[calls.Call, ...]:
  """Returns the call that changes what is asked for; none if nothing is."""
  if intent.verb not in TOOL_OF:
    return ()
  arguments = {k: v for k, v in intent.arguments.items() if k != "item"}
  return (calls.Call(TOOL_OF[intent.verb], arguments),)


def _intent(
  record: Mapping[str, Any], values: Mapping[str, Any], goal: str
) -> Intent:
  """Returns a request after trying it on the shop as it is by then."""
  for name, allowed in (("verb", VERBS), ("expect", EXPECTED)):
    if values[name] not in allowed:
      raise ValueError(
        base.unknown(f"value of {name!r}", values[name], allowed)
      )
  intent = Intent(
    verb=values["verb"],
    expect=values["expect"],
    request=values["request"],
    arguments=values["arguments"],
    why=values.get("why", ""),
    outputs=tuple(values.get("outputs", ())),
    look=values.get("look", ""),
    goal=goal,
  )
  situation = worlds.Situation(goal, record["user"])
  world = shop.shop(False)
  for call in calls_of(intent):
    outcome = world.run(record["rows"], situation, call)
    if intent.expect == "change":
      if outcome.is_error:
        raise ValueError(f"what is to change must be possible: {outcome.text}")
      return dataclasses.replace(intent, goal=outcome.situation.changes)
    if not outcome.is_error or intent.why not in outcome.text:
      raise ValueError(
        f"the shop must refuse since {intent.why!r}, got {outcome.text!r}"
      )
  if intent.expect == "change":
    raise ValueError(f"verb {intent.verb!r} changes nothing")
  if intent.expect == "no_change" and intent.why not in WHYS:
    raise ValueError(base.unknown("value of 'why'", intent.why, WHYS))
  name, key = "get_order", "order_id"
  if intent.look in shop.rows("products"):
    name, key = "get_product", "product"
  outcome = world.run(
    record["rows"], situation, calls.Call(name, {key: intent.look})
  )
  if intent.look not in outcome.looked:
    raise ValueError(
      f"field 'look' must be the order or product to look at, got "
      f"{intent.look!r}: {outcome.text}"
    )
  if intent.expect == "tell" and not (
    intent.outputs and all(output in outcome.text for output in intent.outputs)
  ):
    raise ValueError(
      f"field 'outputs' must be found in {outcome.text!r}, got {intent.outputs}"
    )
  return intent


def _instruction(user: Mapping[str, Any], intents: list[Intent]) -> str:
  """Returns what a model that plays the user must know and not read out."""
  wishes = [
    f"({number}) {_ENDS[intent.expect]}: {intent.request}"
    for number, intent in enumerate(intents, 1)
  ]
  return f"You are {user['name']}. Wishes in their order: {' '.join(wishes)}"


_ENDS = {
  "change": "this should be done",
  "no_change": "the shop's policy forbids this, which you accept for a reason",
  "tell": "you want to be told",
  "transfer": "only a human can do this",
}
