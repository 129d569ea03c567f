"""What agents do where they are refused is found, where there is such."""

import math
import random

import pytest

from userrl_jax import diagnostics
from userrl_jax import provocations
from userrl_jax import types

WORDS = ("is", "it", "big", "small", "old", "a", "thing", "you", "eat", "wear")


def turns(num, share, phrase="", with_phrase=0.0, rng=None, gym="telepathy"):
  """Returns questions; some have a phrase, and faults at another share."""
  rng = rng or random.Random(0)
  made = []
  for n in range(num):
    has = bool(phrase) and n % 10 == 0
    words = rng.choices(WORDS, k=rng.randrange(3, 9))
    text = " ".join([*words, phrase]) if has else " ".join(words)
    is_fault = rng.random() < (with_phrase if has else share)
    made.append(provocations.Asked(gym, f"t{n % 7}", "action", text, is_fault))
  return made


def test_a_phrase_that_is_refused_is_found_in_its_gym():
  found = provocations.behaviours(
    turns(300, 0.05, "As you were Told", 0.9) + turns(300, 0.3, gym="turtle")
  )
  assert [(b.gym, b.choice, b.what, b.num_turns) for b in found] == [
    ("telepathy", "action", 'say "you were told"', 30)
  ]
  (one,) = found
  assert one.num_faults > 24 and one.num_others == 270
  assert one.num_other_faults < 27
  assert f"{one.num_faults} of 30 calls of action that say" in str(one)


def test_length_and_a_second_phrase_are_found_apart():
  rng = random.Random(1)
  made = turns(200, 0.02, "pretty please", 1.0, rng)
  for n in range(30):
    text = " ".join(rng.choices(WORDS, k=25 if n % 2 else 5))
    made.append(
      provocations.Asked("telepathy", f"t{n}", "action", text, n % 2 == 1)
    )
  found = {b.what for b in provocations.behaviours(made)}
  assert found == {'say "pretty please"', "have 10 words or more"}


def test_luck_is_not_told():
  """Faults that nothing goes with: at most one of 100 runs tells of one."""
  rng = random.Random(2)
  runs = [turns(200, 0.15, rng=rng) for _ in range(100)]
  assert sum(bool(provocations.behaviours(run)) for run in runs) <= 1


def test_one_task_alone_shows_nothing_of_the_agent():
  made = turns(300, 0.0, "a volcano", 1.0)
  same = [
    provocations.Asked(t.gym, "one" if t.is_fault else t.task, *rest)
    for t in made
    for rest in [(t.choice, t.text, t.is_fault)]
  ]
  assert provocations.behaviours(made)
  assert not provocations.behaviours(same)


def test_the_chance_is_that_of_drawing_without_putting_back():
  want = sum(
    math.comb(6, k) * math.comb(14, 5 - k) / math.comb(20, 5)
    for k in range(3, 6)
  )
  # 3 or more of the 6 faults of 20 turns in the 5 with a behaviour.
  got = math.exp(provocations._log_chance(3, 5, 6, 20))
  assert got == pytest.approx(want, rel=1e-12)
  assert math.exp(provocations._log_chance(0, 5, 6, 20)) == pytest.approx(1.0)


def _trajectory(gym, *turns):
  task = types.Task(gym, "t", "train", 1, "s", {}, types.Secret({}))
  return types.Trajectory(
    task, 0, 0, (), (), (), turns=turns, stop_reason=types.StopReason.FAULT
  )


def _turn(choice, fault):
  action = types.Action(choice, "Hm?") if choice else None
  return types.Turn("Hm?", action, "", 0.0, types.Fault(fault))


def test_who_is_asked_and_what_content_can_cause():
  told = _trajectory(
    "turtle",
    _turn("action", "ok"),
    _turn("", "agent_malformed"),  # reached nobody
    _turn("action", "user_timeout"),  # no doing of the agent
    _turn("action", "user_refusal"),
    _turn("answer", "user_unparsable"),
    _turn("answer", "ok"),
    _turn("answer", "ok"),
  )
  alone = _trajectory("function", _turn("action", "ok"))
  asked = provocations.of_trajectories([told, alone])
  assert [(t.choice, t.is_fault) for t in asked] == [
    ("action", False),
    ("action", True),
    ("answer", True),
    ("answer", False),
    ("answer", False),
  ]
  assert provocations.numbers(asked) == {
    "provoked/share": 2 / 5,
    "provoked/action": 1 / 2,
    "provoked/answer": pytest.approx(1 / 3),
  }
  assert provocations.numbers(asked[:1]) == {}


def test_a_run_warns_once():
  (finding,) = provocations.findings(turns(300, 0.0, "pretty please", 1.0))
  assert finding.name == "provoked_faults"
  assert 'say "pretty please"' in finding.message
  watch = diagnostics.Watch()
  holding, new = watch.step({"episode/num": 8.0}, [finding])
  assert holding == {"diagnosis/provoked_faults": 1.0} and new == [finding]
  assert watch.step({"episode/num": 8.0}, [finding])[1] == []
  assert provocations.findings(turns(300, 0.0)) == []
