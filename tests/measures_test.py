"""Measures of an episode by hand, and of attempts against brute force."""

import itertools

import numpy as np
import pytest

from userrl_jax import measures
from userrl_jax import types


def make_trajectory(turns, gym="telepathy", stop="terminated", **fields):
  """Makes an episode of (choice and content, reward) or a lone fault."""
  made = []
  for turn in turns:
    if isinstance(turn, types.Fault):
      made.append(types.Turn("?", None, "Format: call", 0.0, turn))
    else:
      (choice, _, content), reward = turn[0].partition(" "), turn[1]
      action = types.Action(choice, content)
      made.append(types.Turn("x", action, "no", reward))
  secret = types.Secret(fields.pop("secret", {}))
  return types.Trajectory(
    task=types.Task(gym, "t", "test", 1, "s", {}, secret),
    member=0,
    iteration=0,
    token_ids_T=np.zeros(0, np.int32),
    logprobs_T=np.zeros(0, np.float32),
    turn_ids_T=np.zeros(0, np.int32),
    turns=tuple(made),
    stop_reason=types.StopReason(stop),
    **fields,
  )


MALFORMED = types.Fault.AGENT_MALFORMED
EPISODE = make_trajectory(
  [
    ("action is it round", 0.5),
    MALFORMED,
    ("search rounds", 1.0),
    ("action can one eat it", 0.0),
    ("answer an apple", 0.0),
  ],
  max_score=2.0,
)
# In Function nobody reads; a tool of Tau reads its answers.
FUNCTION = make_trajectory([("action 1 2 3 4", 0.0)], "function", "turn_limit")
TAU = make_trajectory([("action hello", 0), ("answer f(x)", 0)], "tau")


@pytest.mark.parametrize(
  ("name", "trajectory", "want"),
  [
    ("score", EPISODE, 0.75),
    ("normalised", EPISODE, 0.75),
    ("normalised", make_trajectory([("action a", 3.0)]), 1.0),
    ("normalised", make_trajectory([("action a", -0.5)]), 0.0),
    ("reward", EPISODE, 1.5),
    ("effective_turns", EPISODE, 3),
    ("effective_turns", FUNCTION, 0),
    (
      "effective_turns",
      make_trajectory([("action a", -1), ("action b", 0)]),
      1,
    ),
    ("time_weighted", EPISODE, (0.5 / 1 + 1.0 / 3) / 2),
    ("time_weighted", make_trajectory([("action a", 1.0)]), 1.0),
    ("time_weighted", make_trajectory([]), 0.0),
    ("questions", EPISODE, 2),
    ("questions", FUNCTION, None),
    ("words_read", EPISODE, 3 + 4 + 2),
    ("words_read", FUNCTION, None),
    ("words_read", TAU, 1),
    ("completed", EPISODE, True),
    ("completed", FUNCTION, False),
    ("truncated", EPISODE, False),
    ("truncated", FUNCTION, True),
    ("truncated", make_trajectory([], stop="malformed_limit"), False),
    ("truncated", make_trajectory([], stop="turn_budget"), True),
    ("format_validity", EPISODE, 0.8),
    ("format_validity", make_trajectory([]), None),
  ],
)
def test_measures_by_hand(name, trajectory, want):
  got = measures.MEASURES[name](trajectory)
  assert got == (want if want is None else pytest.approx(want, abs=1e-9))


def test_the_reward_of_travel_is_that_of_the_best_choices():
  turns = [
    ("search hotels", 0.2),
    ("answer H1", 0.0),
    ("answer H2", 0.8),
    ("answer H3", 0.0),
    ("action do you like trains", 0.2),
    ("answer F1", 1.0),
  ]
  trip = lambda **secret: make_trajectory(turns, "travel", secret=secret)
  assert measures.paper_reward(trip(aspects=[{}] * 3)) == pytest.approx(0.6)
  assert measures.paper_reward(trip()) is None


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_and_pass_hat_k_agree_with_brute_force(n):
  for c, k in itertools.product(range(n + 1), range(1, n + 1)):
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    some = sum(map(any, draws)) / len(draws)
    every = sum(map(all, draws)) / len(draws)
    assert measures.pass_at_k(n, c, k) == pytest.approx(some, abs=1e-9)
    assert measures.pass_hat_k(n, c, k) == pytest.approx(every, abs=1e-9)
  assert measures.pass_at_k(n, n, n + 1) is None
  assert measures.pass_hat_k(n, n, n + 1) is None


def test_pass_at_k_is_unbiased():
  rng = np.random.default_rng(0)
  solved = rng.binomial(5, 0.3, 20_000)
  at = np.mean([measures.pass_at_k(5, c, 3) for c in solved.tolist()])
  hat = np.mean([measures.pass_hat_k(5, c, 3) for c in solved.tolist()])
  assert at == pytest.approx(1 - 0.7**3, abs=0.01)
  assert hat == pytest.approx(0.3**3, abs=0.005)


@pytest.mark.parametrize(
  ("n", "want"),
  [(0, []), (1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])],
)
def test_the_ks_that_are_shown(n, want):
  assert measures.ks(n) == want


def test_faults_are_those_of_turns_and_of_the_episode():
  assert measures.faults(EPISODE) == [MALFORMED]
  lost = make_trajectory([MALFORMED], fault=types.Fault.GYM_ERROR)
  assert measures.faults(lost) == [MALFORMED, types.Fault.GYM_ERROR]


def test_success_is_the_gyms_word_else_a_full_reward():
  def solved(rewards, **info):
    t = make_trajectory([("answer 1", r) for r in rewards])
    turns = [types.Turn("x", None, "", r, info=info) for r in rewards]
    return measures.is_success(types.Trajectory(**vars(t) | {"turns": turns}))

  assert solved([0.4, 0.6])
  assert not solved([0.4, 0.5])
  assert solved([0.1], success=True)
  assert not solved([1.0], success=False)
  assert not solved([])
