"""Users who are not ideal: what they may change, and what never."""

import asyncio
import collections
import dataclasses
import itertools
import json
import random

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import judging
from userrl_jax.gyms.persuade import debate
from userrl_jax.users import profiles

TALKING = ("intention", "persuade", "tau", "telepathy", "travel", "turtle")
SETTINGS = config.Gyms(
  levels=(1, 2), num_train_tasks=6, num_test_tasks=6, max_turns=10
)


def load(name):
  return gyms.load_tasks(name, SETTINGS, "test", 0)


def play(task, manner, player, seed=0, judge=None):
  """Returns the gym and its steps, at most max_turns, and what it showed."""

  async def run():
    gym = gyms.make(task.gym, SETTINGS, judge)
    gym.manner = manner
    texts = [(await gym.reset(task, seed)).text]
    steps = []
    while not gym.state.is_over:
      steps.append(await gym.step(player(texts)))
      texts.append(steps[-1].observation.text)
      for secret in gym.undisclosed():
        shown = any(secret in text for text in texts)
        assert not (secret and shown), f"{task.id} shows what is hidden"
    return gym, steps

  return asyncio.run(run())


def oracle(task):
  return gyms.oracle(task.gym)(
    task, random.Random(0), 0.2, SETTINGS
  ).next_action


def test_the_gyms_with_someone_to_talk_to_are_these():
  talk = {name: gyms.GYMS[name].Gym.talk for name in gyms.GYMS}
  assert {name for name in talk if talk[name]} == set(TALKING)


@pytest.mark.parametrize("name", TALKING)
@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=str)
def test_nothing_undisclosed_is_shown_under_any_profile(name, profile):
  eager = dataclasses.replace(  # every turn does what this profile may do
    profile,
    **{
      field.name: 0.7
      for field in dataclasses.fields(profile)[2:]
      if getattr(profile, field.name)
    },
  )
  for seed, task in enumerate(load(name)):
    gym, steps = play(task, profiles.Manner(eager), oracle(task), seed)
    limit = gym.max_observation_chars
    assert all(len(step.observation.text) <= limit for step in steps)
    total = sum(step.reward for step in steps)
    assert 0 <= total <= gym.max_score + 1e-9


@pytest.mark.parametrize("name", gyms.GYMS)
def test_a_plain_user_is_the_gyms_own(name):
  for task in load(name)[:3]:
    plain = profiles.Manner(profiles.PROFILES["plain"])
    assert (
      play(task, plain, oracle(task))[1] == play(task, None, oracle(task))[1]
    )


ALWAYS = [
  # (profile, gym, its move, what it says in place of this, its outcome)
  (dict(wrong=1.0), "telepathy", "Is it alive?", ("Yes.", "No."), "misled"),
  (dict(evades=1.0), "telepathy", "Is it alive?", profiles.EVASIONS, "evaded"),
  (dict(patience=0.0), "travel", "Any wishes?", (profiles.LEFT,), "gone"),
  (dict(terse=1.0), "telepathy", "Is it alive?", ("y", "n", "hm"), None),
]


@pytest.mark.parametrize(("shares", "name", "text", "says", "outcome"), ALWAYS)
def test_a_turn_with_such_a_user(shares, name, text, says, outcome):
  for task in load(name):
    manner = profiles.Manner(profiles.Profile("x", **shares))
    say = lambda texts: types.Action("action", text)
    _, (true, *_) = play(task, None, say)
    gym, (step, *_) = play(task, manner, say)
    assert step.observation.text in says
    assert step.observation.text != true.observation.text
    assert step.info["outcome"] == (outcome or true.info["outcome"])
    assert step.reward == 0 and gym.name == name


def test_who_was_misled_can_ask_again_and_is_paid_then():
  """A lie neither pays nor counts as told: the wish is still to be heard."""
  task = load("intention")[0]
  slot = "What " + task.secret.reveal()["details"][0]["slot"] + "?"
  ask = lambda texts: types.Action("action", slot)
  _, true = play(task, None, ask)
  assert true[0].reward > 0
  always = profiles.Manner(profiles.Profile("x", wrong=1.0))
  _, lies = play(task, always, ask)
  if true[0].terminated:
    pytest.fail("choose a task of several details")
  assert {s.info["outcome"] for s in lies} == {"misled"}
  assert sum(s.reward for s in lies) == 0
  often = profiles.Manner(profiles.Profile("x", wrong=0.5))
  _, mixed = play(task, often, ask)
  assert sum(s.reward for s in mixed) == pytest.approx(true[0].reward)


def test_the_verdict_on_an_answer_is_never_touched():
  worst = profiles.Manner(
    profiles.Profile("x", wrong=1.0, evades=1.0, presses=1.0, typos=1.0)
  )
  for task in load("telepathy"):
    name = task.secret.reveal()["name"]
    guess = lambda texts, name=name: types.Action("answer", name)
    _, (step,) = play(task, worst, guess)
    assert (step.observation.text, step.reward) == ("Correct.", 1.0)
    # Nor is a guess in other words.
    wrong = profiles.Manner(profiles.Profile("x", wrong=1.0))
    asks = lambda texts, name=name: types.Action("action", f"Is it a {name}?")
    assert play(task, wrong, asks)[1][0].observation.text == "Yes."


def test_a_fickle_users_last_word_is_true():
  fickle = profiles.Manner(profiles.Profile("x", fickle=1.0))
  for task in load("telepathy"):
    say = lambda texts: types.Action("action", "Is it alive?")
    true = play(task, None, say)[1][0].observation.text
    said = play(task, fickle, say)[1][0].observation.text
    contrary, last = said.split(f" {profiles.TAKEN_BACK} ")
    assert last == true and {contrary, last} == {"Yes.", "No."}


def test_nobody_evades_twice_in_a_row():
  evasive = profiles.Manner(profiles.Profile("x", evades=0.9))
  say = lambda texts: types.Action("action", "Is it alive?")
  for seed, task in enumerate(load("telepathy")):
    outcomes = [s.info["outcome"] for s in play(task, evasive, say, seed)[1]]
    evaded = [o == base.EVADED for o in outcomes]
    assert any(evaded)
    assert not any(a and b for a, b in itertools.pairwise(evaded))


def test_draws_depend_on_seed_task_and_turn_alone():
  manner = profiles.Manner(profiles.PROFILES["adversarial"])
  task = load("telepathy")[0]
  say = lambda texts: types.Action("action", "Is it alive?")
  texts = [
    [s.observation.text for s in play(task, manner, say, seed)[1]]
    for seed in (1, 1, 2)
  ]
  assert texts[0] == texts[1] != texts[2]


def test_a_mix_draws_by_weight_and_alike_for_a_group():
  mix = profiles.mix(("plain=3", "noisy"))
  task = load("telepathy")[0]
  drawn = [mix.of(task, seed, 0).name for seed in range(2000)]
  counts = collections.Counter(drawn)
  assert set(counts) == {"plain", "noisy"}
  assert 0.7 < counts["plain"] / 2000 < 0.8
  assert all(
    mix.of(task, s, m).name == drawn[s] for s in range(20) for m in range(4)
  )
  assert profiles.mix(()) is None and profiles.each((), 2) is None
  of_mix = dict(profiles.mix(("harmless=5",)).weights)
  assert sum(of_mix.values()) == pytest.approx(5)
  each = profiles.each(("noisy", "wrong"), 2)
  members = [each.of(task, 0, m).name for m in range(4)]
  assert members == ["noisy", "noisy", "wrong", "wrong"]


@pytest.mark.parametrize(
  ("entries", "message"),
  [
    (("noise",), "did you mean 'noisy'"),
    (("plain=0",), "positive number"),
    (("plain=much",), "write plain=3"),
  ],
)
def test_what_is_no_mix(entries, message):
  with pytest.raises(ValueError, match=message):
    profiles.mix(entries)
  assert list(profiles.problems(entries, ("nobody",)))[1].startswith(
    "evaluation.profiles: unknown profile"
  )


def test_a_model_is_told_how_to_speak_where_it_speaks():
  task = load("persuade")[0]
  asked = []

  async def complete(messages, schema=None):
    asked.append(messages[0]["content"])
    return json.dumps({"reply": "I see.", "stance": debate.Stance(0).label})

  judge = judging.Judge(complete, 0)
  shares = dict(chats=1.0, wrong=1.0)
  manner = profiles.Manner(profiles.Profile("x", **shares))
  gym, steps = play(task, manner, oracle(task), judge=judge)
  assert asked and all("small talk" in text for text in asked)
  assert all("You are mistaken" in text for text in asked)
  # Rules add nothing to what a model was told to say.
  spoken = [s for s in steps if s.info["outcome"] == base.MISLED]
  assert spoken and {s.observation.text for s in spoken} == {"I see."}
  assert gym.state.stance == 0
  asked.clear()
  play(task, None, oracle(task), judge=judge)
  assert asked and not any("How you speak" in text for text in asked)


def test_a_model_without_words_is_changed_by_rules():
  task = load("telepathy")[0]

  async def complete(messages, schema=None):
    assert "How you speak" not in messages[0]["content"]
    return '{"answer": "Yes"}'

  manner = profiles.Manner(profiles.PROFILES["terse"])
  say = lambda texts: types.Action("action", "Is it alive?")
  _, steps = play(task, manner, say, judge=judging.Judge(complete, 0))
  assert steps[0].observation.text == "y"


@pytest.mark.parametrize(("reasks", "num_asked"), [(0, 1), (2, 3), (None, 1)])
def test_a_leak_is_asked_for_again_and_then_a_fault(reasks, num_asked):
  """Of a model that tells another wish than the one that was asked for."""
  task = next(t for t in load("intention") if t.level == 2)
  first, second, *_ = task.secret.reveal()["details"]
  replies = []

  async def complete(messages, schema=None):
    if "covered" in messages[0]["content"]:
      place = messages[1]["content"].index
      return '{"kind": "focused", "covered": [1]}' if place("1.") else ""
    replies.append(1)
    return json.dumps({"reply": f"{first['value']} and {second['value']}"})

  judge = judging.Judge(complete, 0, leak_reasks=reasks)

  async def run():
    gym = gyms.make("intention", SETTINGS, judge)
    await gym.reset(task, 0)
    state = gym.state
    with pytest.raises(types.FaultError) as error:
      await gym.step(types.Action("action", first["question"]))
    assert error.value.fault == types.Fault.USER_LEAK
    assert second["value"] not in str(error.value)
    assert gym.state == state

  asyncio.run(run())
  assert len(replies) == num_asked


def test_what_the_agent_said_itself_is_no_leak():
  class Parrot(base.Gym):
    name, choices = "parrot", ("action",)

    def system_prompt(self, profile):
      return ""

    def start(self, task, seed):
      return base.State(task.id, seed), "Hello."

    async def play(self, state, action):
      async def complete(messages):
        return '{"reply": "the red door"}'

      said = await judging.Judge(complete, 0).verdict("", "", {}, Spoken)
      return state, base.Reply(said.reply, "said")

    def undisclosed(self):
      return ("the red door",)

  @dataclasses.dataclass(frozen=True)
  class Spoken:
    reply: str

  async def run(text, leak_reasks=0):
    gym = Parrot(SETTINGS)
    gym.leak_reasks = leak_reasks
    task = types.Task("parrot", "1", "test", 1, "s", {}, types.Secret({}))
    await gym.reset(task, 0)
    return await gym.step(types.Action("action", text))

  asyncio.run(run("Is it behind the red door?"))
  asyncio.run(run("Where is it?", None))
  with pytest.raises(types.FaultError, match="user_leak"):
    asyncio.run(run("Where is it?"))
