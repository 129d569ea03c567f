"""Every gym keeps the contract, and the contract catches gyms that do not."""

import asyncio
import dataclasses
import os
import random
import subprocess
import sys
import time

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import contract

CASES = {
  "generated": config.Gyms(num_test_tasks=300),
  "pack": config.Gyms(
    tasks="pack",
    levels=(1, 2, 3),
    max_turns=16,
    function=config_gyms.Function(answer_limit=9),
  ),
}


@pytest.mark.parametrize("name", gyms.GYMS)
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda c: c.__name__)
def test_gym_keeps_contract(name, check):
  settings = CASES["generated"]
  tasks = gyms.load_tasks(name, settings, "test", seed=3)
  slow = (contract.check_hacks, contract.check_clone)
  check(
    contract.subject(name, settings, tasks[:40] if check in slow else tasks)
  )


@pytest.mark.parametrize("name", gyms.GYMS)
@pytest.mark.parametrize("split", ("train", "dev", "test"))
def test_pack_keeps_contract(name, split):
  settings = CASES["pack"]
  tasks = gyms.load_tasks(name, settings, split, seed=0)
  subject = contract.subject(name, settings, tasks)
  for check in contract.CHECKS:
    if check is not contract.check_canned_band:  # a promise of level 1
      check(subject)


@pytest.mark.parametrize("name", gyms.GYMS)
def test_hacks_leave_the_game_open_where_guesses_are_free(name):
  settings = dataclasses.replace(
    CASES["generated"],
    telepathy=config_gyms.Telepathy(guess_limit=0),
    turtle=config_gyms.Turtle(answer_limit=0),
    search=config_gyms.Search(answer_limit=0),
  )
  for task in gyms.load_tasks(name, settings, "test", seed=3)[:5]:
    for hack in gyms.hacks(name)(task):
      gym = gyms.make(name, settings)
      record = contract.play(gym, task, lambda texts, hack=hack: hack)
      assert not any(step.terminated for step in record.steps), hack


@pytest.mark.parametrize("name", gyms.GYMS)
def test_check_all_runs_every_check(name):
  settings = dataclasses.replace(CASES["generated"], num_test_tasks=8)
  contract.check_all(
    name, settings, gyms.load_tasks(name, settings, "test", seed=0)
  )
  defined = {n for n in vars(contract) if n.startswith("check_")}
  assert {c.__name__ for c in contract.CHECKS} == defined - {"check_all"}


@pytest.mark.parametrize("name", gyms.GYMS)
def test_processes_play_identical_episodes(name):
  """Hash randomisation and process state must not reach an episode."""
  code = f"""
import hashlib, random, sys
from userrl_jax import config, gyms
from userrl_jax.gyms import base, contract
random.seed(int(sys.argv[1]))
settings = config.Gyms(levels=(1, 2, 3), num_test_tasks=24)
for task in gyms.load_tasks({name!r}, settings, 'test', 5):
  player = gyms.oracle({name!r})(task, base.episode_rng(task.id, 2), 0.3)
  gym = gyms.make({name!r}, settings)
  record = contract.play(gym, task, player.next_action)
  print(task, task.secret.reveal(), record)
assert 'jax' not in sys.modules, 'gyms know no JAX'
"""
  outputs = [
    subprocess.run(
      [sys.executable, "-c", code, number],
      env={**os.environ, "PYTHONHASHSEED": number},
      check=True,
      capture_output=True,
    ).stdout
    for number in ("1", "2")
  ]
  assert outputs[0] == outputs[1] and outputs[0].count(b"\n") == 24


class ToyGym(base.Gym):
  """Guess a word; `flaw` names the promise that it breaks."""

  name = "toy"
  choices = ("answer",)
  flaw = ""

  def system_prompt(self, profile):
    base.check_profile(dict.fromkeys(base.PROFILES, ""), profile)
    return f"Guess with answer. {self.settings.max_turns} turns."

  def start(self, task, seed):
    self.word = task.secret.reveal()["word"]
    self.moods = []
    first = "Guess." if self.flaw != "leaks at once" else f"Not {self.word}?"
    return base.State(task.id, seed), first

  async def play(self, state, action):
    self.moods.append(action.content)
    if action.content == self.word:
      return state, base.Reply("Yes.", "right", 1.0, True, True)
    if self.flaw == "leaks":
      return state, base.Reply(f"No, not like {self.word}.", "wrong")
    if self.flaw == "blocks":
      time.sleep(0)
    if self.flaw == "random":
      return state, base.Reply(f"No {random.random()}.", "wrong")
    if self.flaw == "shared":
      return state, base.Reply(f"No {len(self.moods)}.", "wrong")
    if self.flaw == "pays" and self.word in action.content:
      return state, base.Reply("Nearly.", "near", 0.5)
    if self.flaw == "raises" and action.content == "x" * 5000:
      raise KeyError("boom")
    if self.flaw == "integer":
      return state, base.Reply("", "wrong")
    return state, base.Reply("No.", "wrong")

  def _hint(self, action):
    if self.flaw == "raises" and action.content is None:
      return len(action.content)
    if self.flaw == "no hint" and action.content == "":
      return ""
    return super()._hint(action)

  def undisclosed(self):
    return () if self.flaw == "hides nothing" else (self.word,)


class ToyOracle:
  def __init__(self, task, rng):
    self.word = task.secret.reveal()["word"]

  def next_action(self, observations):
    return types.Action("answer", self.word)


def toy(flaw):
  kind = type("Flawed", (ToyGym,), {"flaw": flaw})
  words = [f"word{i}" for i in range(100)]
  tasks = [
    types.Task("toy", f"t{i}", "test", 1, "", {}, types.Secret({"word": w}))
    for i, w in enumerate(words)
  ]
  return contract.Subject(
    lambda: kind(config.Gyms()),
    tasks,
    ToyOracle,
    lambda rng: types.Action("answer", rng.choice(words)),
    lambda task: [
      types.Action("answer", f"is it {task.secret.reveal()['word']}?")
    ],
  )


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda c: c.__name__)
def test_a_sound_gym_passes(check):
  check(toy(""))


@pytest.mark.parametrize(
  "flaw, check",
  [
    ("leaks", contract.check_secrets),
    ("leaks at once", contract.check_secrets),
    ("hides nothing", contract.check_secrets),
    ("random", contract.check_determinism),
    ("random", contract.check_clone),
    ("random", contract.check_concurrency),
    ("shared", contract.check_clone),
    ("pays", contract.check_hacks),
    ("blocks", contract.check_blocking),
    ("raises", contract.check_malformed),
    ("no hint", contract.check_malformed),
    ("integer", contract.check_types),
  ],
)
def test_a_flawed_gym_is_caught(flaw, check):
  with pytest.raises(contract.ContractError):
    check(toy(flaw))


def test_a_player_that_fails_is_caught():
  sound = toy("")

  class Loser(ToyOracle):
    def next_action(self, observations):
      return types.Action("answer", "no idea")

  with pytest.raises(contract.ContractError):
    contract.check_oracle(dataclasses.replace(sound, oracle=Loser))
  for move in ("no idea", "word0"):
    lazy = dataclasses.replace(
      sound,
      tasks=sound.tasks[:1],
      random_move=lambda rng, move=move: types.Action("answer", move),
    )
    with pytest.raises(contract.ContractError):
      contract.check_canned_band(lazy)


def test_a_leak_report_does_not_spread_the_leak():
  with pytest.raises(contract.ContractError) as caught:
    contract.check_secrets(toy("leaks"))
  assert "word0" not in str(caught.value)


@pytest.mark.parametrize("kept", ["oracle", "random_move"])
def test_a_gym_with_one_player_is_checked_as_far_as_it_goes(kept):
  parts = dict.fromkeys(("oracle", "random_move", "hacks"), None)
  part = dataclasses.replace(toy(""), **parts | {kept: getattr(toy(""), kept)})
  left_out = {c.__name__: contract.missing(c, part) for c in contract.CHECKS}
  assert left_out["check_hacks"] == "hacks"
  assert left_out["check_oracle"] == ("" if kept == "oracle" else "Oracle")
  for check in contract.CHECKS:
    if not left_out[check.__name__]:
      check(part)
  with pytest.raises(ValueError, match="Oracle or random_move"):
    dataclasses.replace(part, **parts)


def test_lifecycle_check_can_fail():
  class Endless(ToyGym):
    async def reset(self, task, seed):
      self.state = None
      return await super().reset(task, seed)

  subject = dataclasses.replace(toy(""), make=lambda: Endless(config.Gyms()))
  with pytest.raises(contract.ContractError):
    contract.check_lifecycle(subject)


def test_fault_spends_no_turn_and_can_be_retried():
  class Faulty(ToyGym):
    is_down = True

    async def play(self, state, action):
      if self.is_down:
        raise types.FaultError(types.Fault.USER_ERROR, "down")
      return await super().play(state, action)

  async def run():
    subject = toy("")
    gym = Faulty(config.Gyms())
    await gym.reset(subject.tasks[0], 0)
    before = gym.state
    with pytest.raises(types.FaultError):
      await gym.step(types.Action("answer", "word0"))
    assert gym.state == before
    gym.is_down = False
    step = await gym.step(types.Action("answer", "word0"))
    assert step.reward == 1.0 and step.terminated and gym.state.num_turns == 1

  asyncio.run(run())


def test_steps_do_not_overlap():
  class Slow(ToyGym):
    async def play(self, state, action):
      await asyncio.sleep(0)
      return await super().play(state, action)

  async def run():
    gym = Slow(config.Gyms())
    await gym.reset(toy("").tasks[0], 0)
    move = types.Action("answer", "no")
    results = await asyncio.gather(
      gym.step(move), gym.step(move), return_exceptions=True
    )
    assert isinstance(results[0], types.Step)
    assert isinstance(results[1], RuntimeError)
    assert gym.state.num_turns == 1

  asyncio.run(run())


@pytest.mark.parametrize(
  "change, message",
  [
    ({"max_turns": 0}, "max_turns"),
    ({"levels": ()}, "levels"),
    ({"levels": (4,)}, "levels"),
    ({"reward_profile": "defalt"}, "'default'"),
  ],
)
def test_bad_settings_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    ToyGym(config.Gyms(**change))


def test_unknown_names_name_the_nearest():
  for call in (
    lambda: gyms.make("functoin", config.Gyms()),
    lambda: gyms.load_tasks("functoin", config.Gyms(), "train", 0),
    lambda: gyms.oracle("functoin"),
    lambda: gyms.canned("functoin"),
    lambda: gyms.hacks("functoin"),
  ):
    with pytest.raises(ValueError, match="did you mean 'function'"):
      call()
  with pytest.raises(ValueError, match="did you mean 'train'"):
    gyms.load_tasks("function", config.Gyms(), "trian", 0)


def test_episode_rng_depends_on_task_and_seed_alone():
  draws = {
    (task, seed): base.episode_rng(task, seed).random()
    for task in ("x", "y")
    for seed in (0, 1)
  }
  assert len(set(draws.values())) == 4
  random.seed(9)
  assert draws["x", 0] == base.episode_rng("x", 0).random()
