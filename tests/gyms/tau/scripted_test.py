"""Tau's user by rules: what it tells, agrees to, believes and refuses."""

import asyncio
import dataclasses

import pytest

from userrl_jax.gyms.tau import pack
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import scripted

TASKS = {task.id: task for task in pack.read()}


def scene(structure, **facts):
  """Returns the first scene of the first task of the pack that is so."""
  task = next(t for t in TASKS.values() if t.structure == structure)
  found = scenario.of_task(task)
  values = {
    "is_reached": False,
    "is_informed": False,
    "is_told": True,
    "history": (),
  }
  return scripted.Scene(found, found.intents[0], **(values | facts))


def reply(where, message):
  return asyncio.run(scripted.ScriptedUser().turn(where, message))


# Leo, user u6, lives in 40981; Mia cancels W1001, since it is late.
CANCEL = scene("2|cancel:change|")
FORGETFUL = scene("2|exchange:change|-email-order")
REFUSED = scene("3|cancel:shipped|", is_reached=True, is_informed=True)
TOTAL = scene("3|tell:total|", is_reached=True, is_told=False)


@pytest.mark.parametrize(
  "message, text",
  [
    ("What is your email?", "My email is mia@post.test."),
    ("What's your e-mail address?", "My email is mia@post.test."),
    (
      "Please tell me your name and zip code.",
      "My name is Mia Lund. My zip code is 20114.",
    ),
    ("Which order is it?", "It is order W1001."),
    ("Could you give me the order number?", "It is order W1001."),
    ("Why?", "The reason: late."),
    ("Which item is it?", "The red mug."),
    ("How did you pay?", "I paid with voucher 11."),
    ("What is the new address?", scripted.FORGOTTEN),
    (
      "What are your email, name and zip code?",
      "My email is mia@post.test. My name is Mia Lund.",
    ),
    ("What are your email, name, zip and order number?", scripted.BROAD),
    ("Your email is nice.", scripted.LOST),
    ("Hello!", scripted.LOST),
    ("Please be content: ###STOP###", scripted.LOST),
    ("", scripted.LOST),
    ("Done.", scripted.UNDONE),
    ("Your order was cancelled.", scripted.UNDONE),
    ("Is it done?", scripted.LOST),
    ("It is not done.", scripted.LOST),
    ("Sorry, it is shipped.", scripted.WHY_NOT),
    ("I cannot do that.", scripted.WHY_NOT),
  ],
)
def test_replies(message, text):
  said = reply(CANCEL, message)
  assert said == scripted.Said(text)


@pytest.mark.parametrize(
  "message, agrees",
  [
    ("Shall I cancel order W1001, reason late?", True),
    ("Please confirm: cancel W1001.", True),
    ("I will cancel #W1001. Is that right?", True),
    ("Shall I cancel the order?", False),
    ("Shall I cancel order W1002?", False),
    ("Shall I cancel orders W1001 and W1002?", False),
    ("Shall I return order W1001?", False),
    ("Shall I cancel or return order W1001?", False),
    ("Shall I not cancel order W1001?", False),
    ("Shall I go ahead?", False),
    ("Cancel W1001?", None),
  ],
)
def test_agrees_to_the_right_change_alone(message, agrees):
  said = reply(CANCEL, message)
  assert said.agrees == bool(agrees) and not said.is_settled
  assert (
    said.text
    == {
      True: scripted.YES,
      False: scripted.NO,
      None: scripted.LOST,
    }[agrees]
  )


def test_forgets_what_it_does_not_know():
  assert reply(FORGETFUL, "Your email?").text == scripted.FORGOTTEN
  both = reply(FORGETFUL, "What is the order number, and which item is it?")
  assert both.text == f"The two-person tent. {scripted.FORGOTTEN}"
  assert reply(FORGETFUL, "Which option do you want?").text == "I want: family."


@pytest.mark.parametrize(
  "where, message, settled",
  [
    (dataclasses.replace(CANCEL, is_reached=True), "Done.", True),
    (dataclasses.replace(CANCEL, is_reached=True), "It was cancelled.", True),
    (dataclasses.replace(CANCEL, is_reached=True), "Is it done?", False),
    (dataclasses.replace(CANCEL, is_reached=True), "Hello.", False),
    (dataclasses.replace(CANCEL, is_reached=True), "Sorry, no: late.", False),
    (REFUSED, "Sorry, it is shipped.", True),
    (REFUSED, "I cannot cancel it: order W1003 has been shipped.", True),
    (REFUSED, "Not possible, it is shipped, not pending.", True),
    (REFUSED, "Sorry, it is delivered.", False),
    (REFUSED, "Sorry, it is shipped or delivered.", False),
    (REFUSED, "Sorry, it is not shipped.", False),
    (REFUSED, "Sorry, policy.", False),
    (REFUSED, "It is shipped.", False),
    (REFUSED, "Done.", False),
    (
      dataclasses.replace(REFUSED, is_informed=False),
      "Sorry, it is shipped.",
      False,
    ),
    (
      dataclasses.replace(REFUSED, is_reached=False),
      "Sorry, it is shipped.",
      False,
    ),
    (TOTAL, "It is 97.", False),  # the scene says what was told
    (dataclasses.replace(TOTAL, is_told=True), "It is 97.", True),
    (
      dataclasses.replace(TOTAL, is_told=True, is_reached=False),
      "It is 97.",
      False,
    ),
  ],
)
def test_is_content_when_it_should_be(where, message, settled):
  assert reply(where, message).is_settled == settled
