"""Tasks of the Tau gym from a seed, at three levels.

Level 1: the user is signed in and says all in the first message; one call does
it, or shows why it cannot be done. Level 2: one change, for a user who has to
be identified and may not remember the order. Level 3: two changes, a request
that the policy forbids, a question, or a case for a human. Splits are made by
structure: at level 1 what is done to which order, else the kinds of requests
and what is not remembered.
"""

from collections.abc import Iterator
import functools
import itertools
import json
import random
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import shop

Record = dict[str, Any]

# Level 1: few words, for small models.
ORDERS = ("W1", "W2", "W3", "W4", "W5", "W6")
VALUES = {
  "cancel": shop.REASONS,
  "return": ("mug", "lamp", "tent"),
  "address": ("Rome", "Oslo", "Bern"),
}
SLOT_OF = {"cancel": "reason", "return": "item_ids", "address": "address"}
REQUESTS_1 = {
  "cancel": ("Cancel order {}, reason {}.", "Please cancel {}. Reason: {}."),
  "return": ("Order {}: return the {}.", "From {}, I return the {}."),
  "address": ("Send order {} to {}.", "Please send {} to {}."),
}
_ITEMS = {"mug": "M1", "lamp": "L1", "tent": "T1"}
_NEEDED = {
  "cancel": "pending",
  "address": "pending",
  "return": "delivered",
  "exchange": "delivered",
}
_REFUSED_1 = {"pending": ("shipped", "delivered")}
_REFUSED_1["delivered"] = ("pending", "shipped")
_POSSIBLE_SHARE = 0.6  # of the tasks of level 1

# Above: requests without any detail; the agent has to ask.
REQUESTS = {
  "cancel": "I want to cancel an order.",
  "return": "I want to return something.",
  "exchange": "I want to exchange something.",
  "address": "My order should go to another address.",
  "total": "What does my order come to in all?",
  "status": "What is the status of my order?",
  "price": "What do you ask for the {}?",
  "payment": "I want to pay my order in another way.",
  "lost": "My parcel was sent long ago and never came.",
}
ADDRESSES = (
  "7 Hazel Court",
  "19 Canal Street",
  "52 Vine Road",
  "4 Smith Yard",
  "88 Hill Rise",
  "13 Dock Lane",
)
UNKNOWN: tuple[tuple[str, ...], ...] = (
  (),
  ("order",),
  ("email",),
  ("email", "order"),
)
_VERBS = tuple(scenario.TOOL_OF)
KINDS_3: tuple[tuple[str, ...], ...] = (
  *(
    (f"{a}:change", f"{b}:change") for a, b in itertools.permutations(_VERBS, 2)
  ),
  ("cancel:shipped",),
  ("cancel:delivered",),
  ("address:shipped",),
  ("address:delivered",),
  ("return:pending",),
  ("return:shipped",),
  ("exchange:pending",),
  ("exchange:sold out",),
  ("tell:total",),
  ("tell:status",),
  ("tell:price",),
  ("payment:transfer",),
  ("lost:transfer",),
)


@functools.lru_cache(maxsize=64)
def tasks(
  seed: int, levels: tuple[int, ...], split: str, count: int
) -> tuple[types.Task, ...]:
  """Generates tasks, the same ones everywhere; see `sources.take_turns`."""
  draw = lambda level: _draw_tasks(seed, level, split)
  return sources.take_turns(draw, levels, split, count)


def split_of(structure: str) -> str:
  """Returns the split that a structure belongs to.

  Raises:
    ValueError: when it is none that tasks have.
  """
  splits = _splits()
  if structure not in splits:
    raise ValueError(f"no task has the structure {structure!r}")
  return splits[structure]


@functools.cache
def _splits() -> dict[str, str]:
  """Returns the split of every structure; all values stand in all splits."""
  splits = {}
  pairs = [(verb, value) for verb in VALUES for value in VALUES[verb]]
  for (v, (verb, value)), (o, order) in itertools.product(
    enumerate(pairs), enumerate(ORDERS)
  ):
    place = (v + v // 3 + o) % 6
    splits[f"1|{verb}:{value}|{order}"] = (
      "test" if place == 0 else "dev" if place == 3 and v % 2 else "train"
    )
  for (v, verb), (u, unknown) in itertools.product(
    enumerate(_VERBS), enumerate(UNKNOWN)
  ):
    place = (v + u) % 4
    splits[_key(2, (f"{verb}:change",), unknown)] = (
      "test" if place == 0 else "dev" if place == 2 and v % 2 else "train"
    )
  for number, kinds in enumerate(KINDS_3):
    splits[_key(3, kinds, ())] = (
      "test" if number % 5 == 2 else "dev" if number % 10 == 4 else "train"
    )
  return splits


def _key(level: int, kinds: tuple[str, ...], unknown: tuple[str, ...]) -> str:
  return f"{level}|{'+'.join(kinds)}|" + "".join(f"-{s}" for s in unknown)


def _draw_tasks(seed: int, level: int, split: str) -> Iterator[types.Task]:
  """Yields the tasks of one level and split, nothing twice."""
  draw_one = {1: _draw_1, 2: _draw_2, 3: _draw_3}[level]

  def draw(rng: random.Random, home: str) -> tuple[dict[str, Any], str] | None:
    record, game = draw_one(rng)
    record["level"] = level
    record["structure"] = scenario.structure(record)
    return (record, game) if split_of(record["structure"]) == home else None

  for task_id, (record, _) in sources.distinct(
    "tau",
    seed,
    level,
    split,
    draw,
    lambda drawn: sources.is_kept(drawn[1]),
    lambda drawn: json.dumps(drawn[0]),
  ):
    yield scenario.task(record | {"id": task_id, "split": split})


def _draw_1(rng: random.Random) -> tuple[Record, str]:
  """Returns a task of level 1, and what tells it from others that matters."""
  verb = rng.choice(tuple(VALUES))
  value, order = rng.choice(VALUES[verb]), rng.choice(ORDERS)
  needed = _NEEDED[verb]
  status = needed
  if rng.random() >= _POSSIBLE_SHARE:
    status = rng.choice(_REFUSED_1[needed])
  template = rng.choice(REQUESTS_1[verb])
  arguments: dict[str, Any] = {"order_id": order}
  arguments[SLOT_OF[verb]] = [value] if verb == "return" else value
  intent = {
    "verb": verb,
    "arguments": arguments,
    "request": template.format(order, value),
    **_end(status == needed, status, order),
  }
  user = rng.choice(tuple(shop.rows("users")))
  rows: dict[str, dict[str, Any]] = {"orders": {}, "lines": {}}
  for other in ORDERS:
    is_target = other == order
    item = _ITEMS[value if is_target and verb == "return" else _item(rng)]
    # Nothing can be done to the others, so that a wrong call does no harm.
    state = status if is_target else rng.choice(("shipped", "cancelled"))
    _add_order(rows, other, user, state, [item])
  record = {"user": user, "unknown": [], "intents": [intent], "rows": rows}
  return record, f"{intent['request']}|{status}"


def _item(rng: random.Random) -> str:
  return rng.choice(tuple(_ITEMS))


def _draw_2(rng: random.Random) -> tuple[Record, str]:
  """Returns a change for a user who may have forgotten something."""
  unknown = rng.choice(UNKNOWN)
  kinds = (f"{rng.choice(_VERBS)}:change",)
  return _record(rng, kinds, unknown)


def _draw_3(rng: random.Random) -> tuple[Record, str]:
  """Returns two changes, or one request of another kind."""
  return _record(rng, rng.choice(KINDS_3), ())


def _record(
  rng: random.Random, kinds: tuple[str, ...], unknown: tuple[str, ...]
) -> tuple[Record, str]:
  user = rng.choice(tuple(shop.rows("users")))
  rows: dict[str, dict[str, Any]] = {"orders": {}, "lines": {}}
  free = _products_not_of(user)
  rng.shuffle(free)
  numbers = rng.sample(range(2000, 10_000), len(kinds))
  intents = [
    _intent(rng, rows, user, free, f"W{number}", *kind.split(":"))
    for kind, number in zip(kinds, numbers, strict=True)
  ]
  record = {
    "user": user,
    "unknown": list(unknown),
    "intents": intents,
    "rows": rows,
  }
  return record, json.dumps(intents)


def _intent(
  rng: random.Random,
  rows: dict[str, dict[str, Any]],
  user: str,
  free: list[str],
  order: str,
  verb: str,
  end: str,
) -> dict[str, Any]:
  """Returns a request, and adds the order that it is about to the rows."""
  is_sold_out = end == "sold out"
  first, second = (
    next(v for v in map(_variants, free) if not is_sold_out or _sold_out(v)),
    _variants(free[-1]),
  )
  free[:] = [p for p in free[:-1] if p != first[0]["product"]]
  target = rng.choice(first)
  if verb == "exchange":
    new = rng.choice([v for v in first if (v["stock"] == 0) == is_sold_out])
    target = rng.choice([v for v in first if v != new])
  status = end if end in scenario.WHYS[:4] else _NEEDED.get(verb, "shipped")
  items = [target["id"], rng.choice(second)["id"]]
  _add_order(rows, order, user, status, items)
  arguments: dict[str, Any] = {"order_id": order}
  if verb == "cancel":
    arguments |= {"reason": rng.choice(shop.REASONS), "item": target["id"]}
  elif verb == "return":
    arguments |= {"item_ids": [target["id"]]}
  elif verb == "exchange":
    arguments |= {"item_id": target["id"], "new_item_id": new["id"]}
  elif verb == "address":
    arguments |= {"address": rng.choice(ADDRESSES), "item": target["id"]}
  if verb != "tell":
    ending = _end(end == "change", end, order)
    if end == "sold out":
      ending["look"] = target["product"]
    if end == "transfer":
      ending = {"expect": "transfer", "look": order}
    return (
      {"verb": verb, "arguments": arguments}
      | ending
      | {"request": REQUESTS[verb]}
    )
  prices = shop.rows("variants")
  told = {
    "total": str(sum(prices[item]["price"] for item in items)),
    "status": status,
    "price": str(target["price"]),
  }[end]
  request, look = REQUESTS[end], order
  if end == "price":
    product = shop.rows("products")[target["product"]]["name"]
    request = request.format(f"{target['options']} {product}")
    look, arguments = target["product"], {}
  return {
    "verb": verb,
    "expect": "tell",
    "why": end,
    "arguments": arguments,
    "request": request,
    "outputs": [told],
    "look": look,
  }


def _end(is_change: bool, why: str, look: str) -> dict[str, str]:
  if is_change:
    return {"expect": "change"}
  return {"expect": "no_change", "why": why, "look": look}


def _variants(product: str) -> list[dict[str, Any]]:
  variants = shop.rows("variants").values()
  return [v for v in variants if v["product"] == product]


def _sold_out(variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
  return [v for v in variants if not v["stock"]]


def _products_not_of(user: str) -> list[str]:
  """Returns the products that none of the user's orders in the shop has."""
  orders = {o["id"] for o in shop.rows("orders").values() if o["user"] == user}
  variants = shop.rows("variants")
  had = {
    variants[line["variant"]]["product"]
    for line in shop.rows("lines").values()
    if line["order_id"] in orders
  }
  return [product for product in shop.rows("products") if product not in had]


def _add_order(
  rows: dict[str, dict[str, Any]],
  order: str,
  user: str,
  status: str,
  items: list[str],
) -> None:
  owner = shop.rows("users")[user]
  rows["orders"][order] = {
    "id": order,
    "user": user,
    "status": status,
    "address": "1 Old Street",
    "payment": owner["payment"],
    "note": "",
  }
  for number, item in enumerate(items, 1):
    key = f"{order}/{number}"
    rows["lines"][key] = {
      "id": key,
      "order_id": order,
      "variant": item,
      "state": "kept",
    }
