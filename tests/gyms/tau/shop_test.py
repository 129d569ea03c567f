"""The shop's tools on its records: what they show, refuse, change and undo."""

import json
import threading

import pytest

from userrl_jax.gyms.tau import calls
from userrl_jax.gyms.tau import prompts
from userrl_jax.gyms.tau import shop
from userrl_jax.gyms.tau import store
from userrl_jax.gyms.tau import worlds

FRESH = worlds.Situation(store.UNCHANGED)
TOOLS = shop.shop(False).tools


def run(*texts, user="", rows=None):
  """Returns the replies to calls, one after the other, and the situation."""
  situation = worlds.Situation(store.UNCHANGED, user)
  replies = []
  for text in texts:
    call = calls.read(text, TOOLS)
    outcome = shop.shop(False).run(rows or {}, situation, call)
    situation = outcome.situation
    replies.append(outcome.text)
  return replies, situation


@pytest.mark.parametrize(
  "user, call, reply",
  [
    ("", "find_user mia@post.test", '{"user_id": "u1"}'),
    ("", "find_user MIA@post.test", '{"user_id": "u1"}'),
    ("", "find_user Omar Vale 40220", '{"user_id": "u2"}'),
    ("", "find_user Omar Vale 40221", "Error: no such user"),
    ("", "find_user x@post.test", "Error: no such user"),
    ("", "find_user % %", "Error: no such user"),
    ("", "find_user ' OR 1=1 --", "Error: no such user"),
    ("", "find_user", "Error: find_user needs email, or name and zip"),
    ("", "find_user Omar", "Error: find_user needs email, or name and zip"),
    ("", "get_order W1001", "Error: identify the user first"),
    ("", "cancel_order W1001 late", "Error: identify the user first"),
    ("u2", "get_user u1", "Error: identify the user first"),
    ("u2", "get_order W1001", "Error: this user has no order W1001"),
    ("u2", "cancel_order W1001 late", "Error: this user has no order W1001"),
    ("u1", "cancel_order W1001 late", '{"W1001": "cancelled"}'),
    ("u1", "cancel_order #w1001 late", '{"W1001": "cancelled"}'),
    ("u1", "cancel_order W1002 late", "Error: order W1002 is delivered"),
    ("u1", "cancel_order W1003 late", "Error: order W1003 is shipped"),
    (
      "u1",
      "cancel_order W1001 boredom",
      "Error: reason must be late|mistake|price",
    ),
    ("u1", "cancel_order W1001", "Error: cancel_order needs reason"),
    ("u1", "return_items W1002 L2", '{"W1002": "returned"}'),
    ("u1", "return_items W1002 lamp, s1", '{"W1002": "returned"}'),
    (
      "u1",
      "return_items W1002 M1",
      "Error: order W1002 has no item M1 to take",
    ),
    ("u1", "return_items W1002 L2 lamp", "Error: name every item once"),
    ("u1", "return_items W1001 M1", "Error: order W1001 is pending"),
    ("u1", "exchange_item W1002 L2 L1", '{"W1002": "exchanged"}'),
    ("u1", "exchange_item W1002 L2 L3", "Error: L3 is sold out"),
    (
      "u1",
      "exchange_item W1002 L2 K1",
      "Error: the new item must be another variant of the product",
    ),
    (
      "u1",
      "exchange_item W1002 L2 L2",
      "Error: the new item must be another variant of the product",
    ),
    (
      "u1",
      "update_address W1001 5 Long Road",
      '{"W1001": "goes to 5 Long Road"}',
    ),
    ("u1", "update_address W1003 5 Long Road", "Error: order W1003 is shipped"),
    (
      "u1",
      "update_address W1001 x",
      "Error: an address has 3 to 60 characters",
    ),
    ("u1", "get_product M1", "Error: no product M1"),
    (
      "u1",
      '{"name": "get_order", "arguments": {"order": "W1001"}}',
      "Error: get_order takes no order",
    ),
    (
      "u1",
      '{"name": "return_items", "arguments": {"order_id": "W1002", '
      '"item_ids": [7]}}',
      "Error: item_ids must be a list of texts",
    ),
    (
      "u1",
      '{"name": "get_order", "arguments": {"order_id": {"a": 1}}}',
      "Error: order_id must be text",
    ),
  ],
)
def test_calls(user, call, reply):
  replies, situation = run(call, user=user)
  assert replies == [reply]
  is_write = call.removeprefix("{").split()[0] in shop.WRITES
  has_changed = situation.changes != store.UNCHANGED
  assert has_changed == (is_write and not reply.startswith("Error"))


def test_changes_are_seen_by_later_calls_and_by_no_other_episode():
  before = json.loads(run("get_order W1005", user="u2")[0][0])
  replies, situation = run(
    "exchange_item W1005 K2 K1",
    "return_items W1005 P1",
    "get_order W1005",
    "get_product kettle",
    user="u2",
  )
  after, product = map(json.loads, replies[2:])
  assert [i["item_id"] for i in before["items"]] == ["K2", "P1"]
  assert [(i["item_id"], i["state"]) for i in after["items"]] == [
    ("K1", "kept"),
    ("P1", "returned"),
  ]
  assert [v["stock"] for v in product["variants"]] == [1, 5]
  assert json.loads(run("get_order W1005", user="u2")[0][0]) == before
  changed = json.loads(situation.changes)
  assert {t: sorted(rows) for t, rows in changed.items()} == {
    "lines": ["W1005/1", "W1005/2"],
    "variants": ["K1", "K2"],
  }


def test_what_is_undone_is_no_change():
  replies, situation = run(
    "exchange_item W1005 K2 K1", "exchange_item W1005 K1 K2", user="u2"
  )
  assert not any(r.startswith("Error") for r in replies)
  assert situation == worlds.Situation(store.UNCHANGED, "u2")


def test_rows_of_an_episode_come_on_top_of_the_shop():
  order = {**shop.rows("orders")["W1001"], "id": "W1"}
  gone = {**shop.rows("orders")["W1001"], "status": "shipped"}
  rows = {"orders": {"W1": order, "W1001": gone}}
  replies, situation = run(
    "cancel_order W1 late", "cancel_order W1001 late", user="u1", rows=rows
  )
  assert replies == ['{"W1": "cancelled"}', "Error: order W1001 is shipped"]
  assert json.loads(situation.changes) == {
    "orders": {"W1": {**order, "status": "cancelled", "note": "late"}}
  }
  assert run("get_order W1", user="u1")[0][0].startswith("Error")


def test_threads_share_no_connection():
  found = []

  def work():
    found.append(run("cancel_order W1001 late", user="u1"))

  threads = [threading.Thread(target=work) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [run("cancel_order W1001 late", user="u1")] * 4


def test_an_error_inside_a_call_rolls_back():
  rows = shop.rows("users")
  with (
    pytest.raises(KeyError),
    shop.store().opened({"users": {"u1": rows["u2"]}}) as session,
  ):
    session.write("orders", shop.rows("orders")["W1001"], status="gone")
    raise KeyError("x")
  assert run("cancel_order W1001 late", user="u1")[0] == [
    '{"W1001": "cancelled"}'
  ]


def test_listing_is_short_and_tells_types():
  text = prompts.listing(TOOLS)
  assert len(text) <= 900 and len(TOOLS) == 9
  assert "find_user(email?: text, name?: text, zip?: text)" in text
  assert "cancel_order(order_id: text, reason: late|mistake|price)" in text
  assert {t.name for t in shop.shop(True).tools} < {t.name for t in TOOLS}


def test_shop_holds_together():
  tables = {name: shop.rows(name) for name in shop.file()["shop"]}
  sizes = {name: len(rows) for name, rows in tables.items()}
  assert (sizes["users"], sizes["products"], sizes["orders"]) == (12, 10, 30)
  for line in tables["lines"].values():
    assert line["order_id"] in tables["orders"]
    assert line["variant"] in tables["variants"]
  for order in tables["orders"].values():
    owner = tables["users"][order["user"]]
    assert order["payment"] == owner["payment"]
  assert len(json.dumps(shop.file()["shop"])) <= 15_000
  for name in ("email", "name", "id"):
    assert len({u[name] for u in tables["users"].values()}) == 12


@pytest.mark.parametrize(
  "text",
  [
    "",
    "hello",
    "get order W1",
    "{",
    "{}",
    "[]",
    "{x}",
    '{"name": 5}',
    '{"name": "GET"}',
    '{"name": "get_order", "arguments": []}',
    '{"name": "get_order", "args": {}}',
    '{"name": "get_order", "name": "get_user"}',
    "get_order: {",
    "[answer] get_order W1",
    '{"name": ' + "[" * 1900,
  ],
)
def test_no_call(text):
  with pytest.raises(ValueError):
    calls.read(text or "x", TOOLS)


@pytest.mark.parametrize(
  "text",
  [
    '{"name": "cancel_order", "arguments": '
    '{"order_id": "W1", "reason": "late"}}',
    ' cancel_order: {"order_id": "W1", "reason": "late"} ',
    "cancel_order W1 late",
    "cancel_order   W1   late",
  ],
)
def test_forms_of_a_call(text):
  arguments = {"order_id": "W1", "reason": "late"}
  assert calls.read(text, TOOLS) == calls.Call("cancel_order", arguments)
