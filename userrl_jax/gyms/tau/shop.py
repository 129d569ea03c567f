"""Our own shop: its tools, which check what they are asked to do, and policy.

Calls come in; JSON or `Error: ...` goes out. Every tool is a function of the
store's rows and its arguments. Orders are shown and changed only to the person
who was identified, pending ones can be cancelled or sent elsewhere, and items
of delivered ones returned or exchanged for the same product in stock.
"""

from collections.abc import Callable, Mapping
import functools
import json
import pathlib
from typing import Any

from userrl_jax.gyms.tau import calls
from userrl_jax.gyms.tau import store as store_lib
from userrl_jax.gyms.tau import worlds

REASONS = ("late", "mistake", "price")
TRANSFER = "transfer_to_human"
WRITES = ("cancel_order", "return_items", "exchange_item", "update_address")
MAX_ADDRESS_CHARS = 60

POLICY = """\
1. Find out who the user is, by email or by name and zip code.
2. Say what you are going to change and get a yes before you change it.
3. Call one tool a turn.
4. Only a pending order can be cancelled or sent elsewhere. Only an item of a \
delivered order can be returned, or exchanged for a variant of the same \
product in stock. Refuse all else and say why: which status, or sold out.
5. Other payments and lost parcels: look at the order, then transfer the user. \
Never transfer otherwise."""

_P = calls.Parameter
_ORDER = _P("order_id")
TOOLS = (
  calls.Tool(
    "find_user",
    tuple(_P(name, "text", False) for name in ("email", "name", "zip")),
    "user by email, or name and zip",
  ),
  calls.Tool("get_user", (_P("user_id"),), "a user's orders"),
  calls.Tool("get_order", (_ORDER,), "status and items"),
  calls.Tool("get_product", (_P("product"),), "variants, by name or id"),
  calls.Tool(
    "cancel_order", (_ORDER, _P("reason", "|".join(REASONS))), "pending only"
  ),
  calls.Tool(
    "return_items", (_ORDER, _P("item_ids", "list")), "delivered only"
  ),
  calls.Tool(
    "exchange_item",
    (_ORDER, _P("item_id"), _P("new_item_id")),
    "delivered only",
  ),
  calls.Tool("update_address", (_ORDER, _P("address")), "pending only"),
  calls.Tool(TRANSFER, (_P("summary"),), "ends the game"),
)
_LEVEL_1 = ("get_order", "cancel_order", "return_items", "update_address")

_Arguments = Mapping[str, Any]


class _RefusedError(Exception):
  """A tool will not do that."""


class _Desk:
  """One call at work: the rows, and who was identified."""

  def __init__(self, session: store_lib.Session, user_id: str):
    self.session = session
    self.user_id = user_id
    self.looked: tuple[str, ...] = ()

  def order(self, key: str) -> store_lib.Row:
    """Returns an order of the identified user."""
    if not self.user_id:
      raise _RefusedError("identify the user first")
    order = self.session.one("orders", _id(key))
    if order is None or order["user"] != self.user_id:
      raise _RefusedError(f"this user has no order {key:.20}")
    self.looked = (order["id"],)
    return order

  def order_that_is(self, key: str, status: str) -> store_lib.Row:
    order = self.order(key)
    if order["status"] != status:
      raise _RefusedError(f"order {order['id']} is {order['status']}")
    return order

  def items(self, order: store_lib.Row) -> list[dict[str, Any]]:
    """Returns the lines of an order with what they are."""
    found = []
    for line in self.session.rows("lines", order_id=order["id"]):
      variant = self.session.one("variants", line["variant"])
      assert variant is not None
      product = self.session.one("products", variant["product"])
      assert product is not None
      found.append({"line": line, "variant": variant, "product": product})
    return found

  def item(self, order: store_lib.Row, key: str) -> dict[str, Any]:
    """Returns the kept item of an id, or of a product that comes once."""
    named = [
      item
      for item in self.items(order)
      if item["line"]["state"] == "kept"
      and key.lower()
      in (item["variant"]["id"].lower(), item["product"]["name"])
    ]
    if len(named) != 1:
      raise _RefusedError(f"order {order['id']} has no item {key:.20} to take")
    return named[0]


class Shop:
  """The shop of the pack and of the generator."""

  policy = POLICY

  def __init__(self, is_level_1: bool = False):
    """Opens the shop; at level 1 few tools are there."""
    self.tools = tuple(
      tool for tool in TOOLS if not is_level_1 or tool.name in _LEVEL_1
    )
    self._tools = {tool.name: tool for tool in self.tools}

  def run(
    self, rows: Mapping[str, Any], situation: worlds.Situation, call: calls.Call
  ) -> worlds.Outcome:
    """Runs a call of one of `tools`; see `worlds.World`."""
    try:
      arguments = calls.check(call, self._tools[call.name])
    except ValueError as error:
      return worlds.refused(situation, str(error))
    earlier = json.loads(situation.changes)
    with store().opened(dict(rows), earlier) as session:
      desk = _Desk(session, situation.user_id)
      try:
        value = _FUNCTIONS[call.name](desk, arguments)
      except _RefusedError as error:
        text = worlds.ERROR + str(error)
        return worlds.Outcome(text, situation, desk.looked)
    changes = situation.changes
    if session.written:
      changes = store_lib.write_down(
        store().changed(dict(rows), earlier, session.written)
      )
    return worlds.Outcome(
      json.dumps(value),
      worlds.Situation(changes, desk.user_id),
      desk.looked,
      call.name == TRANSFER,
    )


@functools.cache
def shop(is_level_1: bool) -> Shop:
  """Returns the shop, as far as its level goes."""
  return Shop(is_level_1)


@functools.cache
def store() -> store_lib.Store:
  """Returns the shop's tables."""
  return store_lib.Store(file()["shop"])


@functools.cache
def file() -> Mapping[str, Any]:
  """Returns what lexicon.json holds: the tables, and the words of requests."""
  path = pathlib.Path(__file__).with_name("lexicon.json")
  return json.loads(path.read_text(encoding="utf-8"))


def rows(table: str) -> dict[str, store_lib.Row]:
  """Returns a table of the shop by id."""
  return {row["id"]: row for row in file()["shop"][table]}


def _find_user(desk: _Desk, arguments: _Arguments) -> Any:
  if "email" in arguments:
    found = desk.session.rows("users", email=arguments["email"])
  elif {"name", "zip"} <= arguments.keys():
    found = desk.session.rows(
      "users", name=arguments["name"], zip=arguments["zip"]
    )
  else:
    raise _RefusedError("find_user needs email, or name and zip")
  if not found:
    raise _RefusedError("no such user")
  desk.user_id = found[0]["id"]
  return {"user_id": desk.user_id}


def _get_user(desk: _Desk, arguments: _Arguments) -> Any:
  if arguments["user_id"] != desk.user_id:
    raise _RefusedError("identify the user first")
  user = desk.session.one("users", desk.user_id)
  assert user is not None
  orders = desk.session.rows("orders", user=desk.user_id)
  return {
    "user_id": user["id"],
    "name": user["name"],
    "payment": user["payment"],
    "orders": [order["id"] for order in orders],
  }


def _get_order(desk: _Desk, arguments: _Arguments) -> Any:
  order = desk.order(arguments["order_id"])
  items = desk.items(order)
  return {
    "order_id": order["id"],
    "status": order["status"],
    "address": order["address"],
    "payment": order["payment"],
    "items": [
      {
        "item_id": item["variant"]["id"],
        "name": f"{item['product']['name']}, {item['variant']['options']}",
        "price": item["variant"]["price"],
        "state": item["line"]["state"],
      }
      for item in items
    ],
    "total": sum(item["variant"]["price"] for item in items),
  }


def _get_product(desk: _Desk, arguments: _Arguments) -> Any:
  key = arguments["product"]
  product = desk.session.one("products", key.lower())
  for found in desk.session.rows("products", name=key):
    product = found
  if product is None:
    raise _RefusedError(f"no product {key:.20}")
  desk.looked = (product["id"],)
  variants = desk.session.rows("variants", product=product["id"])
  return {
    "product": product["name"],
    "variants": [
      {
        "item_id": variant["id"],
        "option": variant["options"],
        "price": variant["price"],
        "stock": variant["stock"],
      }
      for variant in variants
    ],
  }


def _cancel_order(desk: _Desk, arguments: _Arguments) -> Any:
  order = desk.order_that_is(arguments["order_id"], "pending")
  reason = arguments["reason"]
  desk.session.write("orders", order, status="cancelled", note=reason)
  return {order["id"]: "cancelled"}


def _return_items(desk: _Desk, arguments: _Arguments) -> Any:
  order = desk.order_that_is(arguments["order_id"], "delivered")
  items = [desk.item(order, key) for key in arguments["item_ids"]]
  lines = {item["line"]["id"]: item["line"] for item in items}
  if len(lines) < len(items):
    raise _RefusedError("name every item once")
  for line in lines.values():
    desk.session.write("lines", line, state="returned")
  return {order["id"]: "returned"}


def _exchange_item(desk: _Desk, arguments: _Arguments) -> Any:
  order = desk.order_that_is(arguments["order_id"], "delivered")
  item = desk.item(order, arguments["item_id"])
  old = item["variant"]
  new = desk.session.one("variants", arguments["new_item_id"].upper())
  if new is None or new["product"] != old["product"] or new == old:
    raise _RefusedError("the new item must be another variant of the product")
  desk.looked = (*desk.looked, new["product"])
  if not new["stock"]:
    raise _RefusedError(f"{new['id']} is sold out")
  desk.session.write("variants", old, stock=old["stock"] + 1)
  desk.session.write("variants", new, stock=new["stock"] - 1)
  desk.session.write("lines", item["line"], variant=new["id"])
  return {order["id"]: "exchanged"}


def _update_address(desk: _Desk, arguments: _Arguments) -> Any:
  order = desk.order_that_is(arguments["order_id"], "pending")
  address = " ".join(arguments["address"].split())
  if not 3 <= len(address) <= MAX_ADDRESS_CHARS:
    raise _RefusedError(f"an address has 3 to {MAX_ADDRESS_CHARS} characters")
  desk.session.write("orders", order, address=address)
  return {order["id"]: f"goes to {address}"}


def _transfer(desk: _Desk, arguments: _Arguments) -> Any:
  return {"user": "transferred"}


def _id(key: str) -> str:
  return key.strip().lstrip("#").upper()


_FUNCTIONS: dict[str, Callable[[_Desk, _Arguments], Any]] = {
  "find_user": _find_user,
  "get_user": _get_user,
  "get_order": _get_order,
  "get_product": _get_product,
  "cancel_order": _cancel_order,
  "return_items": _return_items,
  "exchange_item": _exchange_item,
  "update_address": _update_address,
  TRANSFER: _transfer,
}
