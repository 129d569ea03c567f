"""Caps that no number of calls under way can pass, and what a run resumes."""

import asyncio
import json
import re
import subprocess
import sys

import pytest

from tests import virtual_time
from tests.clients import episodes
from tests.clients import server
from userrl_jax import config
from userrl_jax import types
from userrl_jax import underway
from userrl_jax import users
from userrl_jax.clients import budget as budget_lib

MESSAGES = [{"role": "user", "content": "Is it big?"}]
PRICED = {"usd_per_million_in": 1000.0, "usd_per_million_out": 2000.0}
# Of the test server, which tells of 7 tokens in and 3 out.
USD_A_CALL = (7 * 1000 + 3 * 2000) / 1e6


def asked(running, num_calls, caps, folder=None, **changes):
  """Asks often at once; returns who was asked, replies and errors."""
  settings = episodes.user(running.base_url, **PRICED | changes)
  who = users.User(settings, caps=caps, folder=folder)

  async def run():
    async with who.opened() as judge:
      return await asyncio.gather(
        *(judge._complete(MESSAGES) for _ in range(num_calls)),
        return_exceptions=True,
      )

  return who, asyncio.run(run())


def spent(folder):
  record = json.loads((folder / "budget.json").read_text())
  return {
    name: sum(line[name] for line in record["spent"])
    for name in ("calls", "tokens", "usd")
  } | {"at_most": record["at_most"]}


@pytest.mark.parametrize(
  ("caps", "max_calls"),
  [
    ({"max_calls": 10}, 10),
    # The largest cost of a call is that of 256 tokens out and of a few in.
    ({"max_usd": 0.8}, int((0.8 - 0.62) / USD_A_CALL) + 1),
    ({"max_tokens": 450}, 12),
  ],
)
@pytest.mark.parametrize("max_concurrent", [1, 32])
def test_no_cap_is_passed_however_many_calls_are_under_way(
  tmp_path, caps, max_calls, max_concurrent
):
  with server.Server(lambda _: "Yes", delay_s=0.01) as running:
    _, replies = asked(
      running,
      64,
      config.Budget(**caps),
      tmp_path,
      max_concurrent=max_concurrent,
    )
    num_made = len(running.log)
  assert replies.count("Yes") == num_made
  refused = [r for r in replies if r != "Yes"]
  assert refused and all(isinstance(r, types.BudgetSpent) for r in refused)
  field, cap = next(iter(caps.items()))
  assert f"budget.{field}" in str(refused[0])
  now = spent(tmp_path)
  assert now["calls"] == num_made > 0
  assert now[field.removeprefix("max_")] <= cap
  # What calls could have cost and did not is used by others.
  assert num_made >= max_calls - 1


def test_a_resumed_run_goes_on_with_what_was_spent(tmp_path):
  with server.Server(lambda _: "Yes") as running:
    asked(running, 6, config.Budget(max_calls=10), tmp_path)
    _, replies = asked(running, 6, config.Budget(max_calls=10), tmp_path)
    assert replies.count("Yes") == 4 and len(running.log) == 10
    _, replies = asked(running, 6, config.Budget(max_calls=10), tmp_path)
    assert replies.count("Yes") == 0 and len(running.log) == 10
    _, replies = asked(running, 6, config.Budget(max_calls=15), tmp_path)
    assert replies.count("Yes") == 5
  assert spent(tmp_path)["usd"] == pytest.approx(15 * USD_A_CALL)
  (tmp_path / "budget.json").write_text('{"spent": [{"role": "user"}]}')
  with pytest.raises(ValueError, match=r"budget\.json must say"):
    asked(running, 1, config.Budget(), tmp_path)


KILLED = """
import asyncio, os, pathlib, sys
from userrl_jax import config, users
who = users.User(
  config.User(kind="endpoint", base_url=sys.argv[1], model="m", max_tokens=50),
  caps=config.Budget(max_calls=100, max_tokens=100_000),
  folder=pathlib.Path(sys.argv[2]),
)
async def run():
  async with who.opened() as judge:
    one = lambda: judge._complete([{"role": "user", "content": "Yes?"}])
    await asyncio.gather(*(one() for _ in range(12)))
    rest = [asyncio.ensure_future(one()) for _ in range(5)]
    while not pathlib.Path(sys.argv[3]).exists():  # are they under way?
      await asyncio.sleep(0.01)
    os.kill(os.getpid(), 9)
asyncio.run(run())
"""


def test_a_killed_run_has_spent_at_most_what_it_says(tmp_path, root):
  """The last five are asked of a server that has their requests and waits."""
  are_asked = tmp_path / "asked"

  def answer(_):
    if len(running.log) >= 17:
      are_asked.touch()
    if len(running.log) > 12:
      running.stop.wait(60)
    return "Yes"

  with server.Server(answer) as running:
    subprocess.run(
      [
        *(sys.executable, "-c", KILLED),
        *(running.base_url, tmp_path, are_asked),
      ],
      cwd=root,
      timeout=300,
    )
    assert len(running.log) == 17
    at_most = spent(tmp_path)["at_most"]
    assert 17 <= at_most["calls"] <= 18
    assert at_most["tokens"] >= 12 * 10 + 5 * 54
    budget = budget_lib.Budget(config.Budget(), tmp_path / "budget.json")
    assert budget.spent.calls == at_most["calls"]


@pytest.mark.parametrize(
  ("fault", "is_full"),
  [
    ("", False),
    ("500", False),
    ("busy", False),
    ("drop", True),
    ("slow", True),
  ],
)
def test_what_nobody_tells_the_cost_of_costs_the_most(tmp_path, fault, is_full):
  timeout_s = 0.5 if fault == "slow" else 15.0
  changes = {"num_retries": 0, "timeout_s": timeout_s, "max_tokens": 100}
  with server.Server(lambda _: "Yes", script=[fault]) as running:
    asked(running, 1, config.Budget(), tmp_path, **changes)
  now = spent(tmp_path)
  told = 0 if fault else 10
  assert now["calls"] == 1
  assert now["tokens"] > 100 if is_full else now["tokens"] == told


def test_a_call_that_was_never_sent_costs_nothing(tmp_path):
  with server.Server(lambda _: "Yes") as running:
    pass
  asked(running, 1, config.Budget(), tmp_path, num_retries=0)
  assert spent(tmp_path)["tokens"] == 0


def test_it_is_booked_by_role_and_gym(tmp_path):
  with server.Server(episodes.moody) as running:
    who = users.User(
      episodes.user(running.base_url),
      config.Judge(model="big", usd_per_million_in=1e6),
      folder=tmp_path,
    )
    asyncio.run(who.check())
    episodes.Table().play(who)
    num_judged = len(episodes.judges(running))
    num_asked = len(running.log) - 2 - num_judged
  record = json.loads((tmp_path / "budget.json").read_text())
  lines = {(x["role"], x["gym"]): x for x in record["spent"]}
  assert {key: x["calls"] for key, x in lines.items()} == {
    ("judge", "-"): 1,
    ("judge", "telepathy"): num_judged,
    ("user", "-"): 1,
    ("user", "telepathy"): num_asked,
  }
  assert num_judged > 0
  assert lines["judge", "telepathy"]["usd"] == pytest.approx(7 * num_judged)
  assert lines["judge", "telepathy"]["seconds"] > 0
  counts = who.take_counts()
  assert counts["judge/usd"] == pytest.approx(7 * (num_judged + 1))
  assert "user/usd" not in counts


def test_a_spent_budget_ends_a_collection_with_no_further_call():
  with server.Server(episodes.moody) as running:
    who = users.User(
      episodes.user(running.base_url), caps=config.Budget(max_calls=9)
    )
    with pytest.raises(types.BudgetSpent, match=r"max_calls=9") as caught:
      episodes.Table().play(who)
    assert len(running.log) == 9
  assert caught.value.exit_code == 3
  assert re.search("9 calls", str(caught.value))


def test_waiting_for_the_budget_is_no_timeout():
  budget = budget_lib.Budget(config.Budget(max_calls=2))
  one = budget_lib.Amount(1)

  async def late():
    async with underway.within(0.1):
      await budget.reserve(one)

  async def run():
    await budget.reserve(one)
    await budget.reserve(one)
    waiting = asyncio.ensure_future(late())
    await asyncio.sleep(0.3)
    budget.settle("user", one, budget_lib.Amount())
    await waiting

  virtual_time.run(run())


@pytest.mark.parametrize(
  ("tokens", "warns"), [((7, 3), False), ((7, 900), True), ((90_000, 3), True)]
)
def test_who_takes_more_than_was_reserved_is_told_of_once(
  caplog, tokens, warns
):
  with server.Server(episodes.moody, tokens=tokens) as running:
    asked(running, 3, config.Budget(max_usd=1e6))
  said = [r.getMessage() for r in caplog.records if "most it" in r.getMessage()]
  assert len(said) == warns
  assert not warns or f"took {sum(tokens)} tokens" in said[0]
