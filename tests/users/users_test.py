"""Opening the user: rules, an endpoint that answers, and one that does not."""

import asyncio

import pytest

from tests.clients import server
from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax import users


def endpoint(base_url, **changes):
  settings = {"timeout_s": 15.0, "num_retries": 0} | changes
  return config.User(
    kind="endpoint", base_url=base_url, model="small", **settings
  )


def test_rules_need_no_judge():
  async def run():
    await users.check(config.User())
    async with users.opened(config.User()) as judge:
      return judge

  assert asyncio.run(run()) is None


def test_a_model_answers_in_the_gym_it_was_opened_for():
  gyms_settings = config.Gyms(num_train_tasks=1)
  (task,) = gyms.load_tasks("telepathy", gyms_settings, "train", 0)

  async def run(settings):
    await users.check(settings)
    async with users.opened(settings) as judge:
      gym = gyms.make("telepathy", gyms_settings, judge)
      await gym.reset(task, 0)
      name = task.secret.reveal()["name"]
      asked = await gym.step(types.Action("action", "Is it big?"))
      return asked, await gym.step(types.Action("answer", f"a {name}"))

  with server.Server(server.telepathy_answer) as running:
    asked, guessed = asyncio.run(run(endpoint(running.base_url)))
    assert asked.observation.text in ("Yes.", "No.")
    assert guessed.reward == 1.0
    assert len(running.log) >= 2


@pytest.mark.parametrize(
  ("script", "message"),
  [
    (["401"], "check the key in OPENAI_API_KEY"),
    (["404"], "user.base_url"),
    (["error", "drop", "error"], "must answer, got HTTP 500"),
  ],
)
def test_what_is_wrong_with_an_endpoint_is_said_at_once(script, message):
  with (
    server.Server(server.telepathy_answer, script=script) as running,
    pytest.raises(ValueError, match=message),
  ):
    asyncio.run(users.check(endpoint(running.base_url)))


def test_one_bad_answer_does_not_condemn_an_endpoint():
  with server.Server(
    server.telepathy_answer, script=["error", "refusal"]
  ) as running:
    asyncio.run(users.check(endpoint(running.base_url)))
    assert len(running.log) == 2


def test_nobody_listens():
  with server.Server(server.telepathy_answer) as running:
    settings = endpoint(running.base_url)
  with pytest.raises(ValueError, match="start it, or check user.base_url"):
    asyncio.run(users.check(settings))


def test_a_run_has_one_endpoint_whose_counts_go_on():
  settings = config.Gyms(num_train_tasks=1)
  (task,) = gyms.load_tasks("telepathy", settings, "train", 0)
  script = ["", "", "422", "error"]

  async def collection(user):
    async with user.opened() as judge:
      gym = gyms.make("telepathy", settings, judge)
      await gym.reset(task, 0)
      await gym.step(types.Action("action", "Is it big?"))

  with server.Server(server.telepathy_answer, script=script) as running:
    user = users.User(endpoint(running.base_url, num_retries=1))
    asyncio.run(user.check())
    asyncio.run(collection(user))
    counts = user.take_counts()
    assert (counts["user/requests"], counts["user/retries"]) == (2, 0)
    assert counts["user/tokens_out"] > 0
    # One prompt is at fault: earlier ones were answered by the same endpoint.
    with pytest.raises(types.FaultError):
      asyncio.run(collection(user))
    asyncio.run(collection(user))
    assert {
      k: v for k, v in user.take_counts().items() if "tokens" not in k
    } == {
      "user/requests": 3,
      "user/retries": 1,
      "user/failed/user_error": 1,
    }
    assert set(user.take_counts().values()) == {0}
  assert users.User(config.User()).take_counts() == {}


def test_hosts_share_the_limits():
  settings = config.User(
    max_concurrent=32, requests_per_minute=500, tokens_per_minute=0
  )
  assert users.of_host(settings, 1) == settings
  one = users.of_host(settings, 3)
  assert (one.max_concurrent, one.requests_per_minute) == (10, 166)
  assert one.tokens_per_minute == 0  # no limit stays none
  settings = config.User(requests_per_minute=3)
  with pytest.raises(types.SetupError, match=r"requests_per_minute .* 4, each"):
    users.of_host(settings, 4)
