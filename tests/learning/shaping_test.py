"""Learned credit finds what earns, knows no more than it may, and trains."""

import numpy as np

from userrl_jax import config
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import credit
from userrl_jax.learning import shaping
from userrl_jax.learning import turn_facts

NAMES = turn_facts.NAMES


def _credits(name, rewards, mask, facts, valid=None, score="sum"):
  settings = config.Credit(score=score, credit=name)
  valid = np.ones(mask.shape[:2], bool) if valid is None else valid
  scores = credit.score(rewards, mask, mask, settings)
  turns = shaping.Turns(facts, scores, valid)
  return credit.CREDITS[name](rewards, mask, settings, np, turns)


def _batch(seed, cause):
  """Makes episodes that are solved at their end by what turns did before."""
  rng = np.random.default_rng(seed)
  P, G, K = 12, 8, 6
  mask = np.arange(K) < rng.integers(3, K + 1, (P, G, 1))
  facts = np.zeros((P, G, K, len(NAMES)))
  for name in ("is_search", "is_repeated"):
    facts[..., NAMES.index(name)] = (rng.random((P, G, K)) < 0.4) & mask
  helps = cause(facts).sum(-1) + rng.normal(0, 0.5, (P, G))
  rewards = np.zeros((P, G, K))
  last = mask.sum(-1, keepdims=True) - 1
  solved = helps > np.median(helps, axis=1, keepdims=True)
  np.put_along_axis(rewards, last, solved[..., None] * 1.0, -1)
  return rewards, mask, facts


def test_predicted_credit_finds_which_turns_lead_to_success():
  """The reward tells nothing of them: it comes in the last turn alone."""
  search, again = NAMES.index("is_search"), NAMES.index("is_repeated")
  for seed in range(5):
    rewards, mask, facts = _batch(seed, lambda f: f[..., search])
    got = _credits("predicted", rewards, mask, facts)
    early = mask & (rewards == 0)
    did = facts[..., search] > 0
    assert got[early & did].mean() > got[early & ~did].mean() + 0.05
    rewards, mask, facts = _batch(seed, lambda f: -f[..., again])
    got = _credits("predicted", rewards, mask, facts)
    did, early = facts[..., again] > 0, mask & (rewards == 0)
    assert got[early & did].mean() < got[early & ~did].mean() - 0.05


def test_predicted_credit_does_not_read_bits():
  rewards, mask, facts = _batch(0, lambda f: f[..., 2])
  want = _credits("predicted", rewards, mask, facts)
  facts[..., NAMES.index("bits")] = np.random.default_rng(1).random(mask.shape)
  np.testing.assert_array_equal(
    _credits("predicted", rewards, mask, facts), want
  )


def test_tasks_are_not_compared_with_each_other():
  """A constant added to all scores of a group changes no credit."""
  rewards, mask, facts = _batch(2, lambda f: f[..., 2])
  settings = config.Credit(score="sum", credit="predicted")
  scores = credit.score(rewards, mask, mask, settings)
  valid = np.ones(scores.shape, bool)
  moved = scores + np.arange(len(scores))[:, None]
  want, got = (
    shaping.predicted_credit(
      rewards, mask, settings, np, shaping.Turns(facts, s, valid)
    )
    for s in (scores, moved)
  )
  np.testing.assert_allclose(got, want, atol=1e-9)


def test_without_a_difference_in_scores_credit_is_equal():
  rewards, mask, facts = _batch(3, lambda f: f[..., 2])
  alike = np.where(mask, 0.1, 0.0) / mask.sum(-1, keepdims=True)
  got = _credits("predicted", alike, mask, facts)
  np.testing.assert_allclose(got[mask], 0.75, atol=1e-12)
  nobody = np.zeros(mask.shape[:2], bool)
  got = _credits("predicted", rewards, mask, facts, nobody)
  np.testing.assert_allclose(got, 0.75, atol=1e-12)


def test_information_of_gyms_that_count_none_is_equalized():
  rewards, mask, _ = _batch(4, lambda f: f[..., 2])
  none = np.zeros((*mask.shape, len(NAMES)))
  valid = np.ones(mask.shape[:2], bool)
  arrays = rewards, mask, 3 * mask, valid
  for spread in ("scaled", "signed"):
    got, want = (
      credit.group_advantages(
        *arrays, config.Credit(credit=name, spread=spread), facts_PGKF=none
      )
      for name in ("information", "equalized")
    )
    np.testing.assert_allclose(got, want, atol=1e-12)


def _turn(choice, content, observation, fault="ok"):
  action = types.Action(choice, content) if choice else None
  return types.Turn("", action, observation, 0.0, types.Fault(fault))


TURNS = (
  _turn("search", "test", "Test case: 3 2 1 4"),
  _turn("action", "1 0 0 0", "f(1, 0, 0, 0) = 1"),
  _turn("", "", "Call the tool.", "agent_malformed"),
  _turn("action", "1  0 0 0", "f(1, 0, 0, 0) = 1"),
  _turn("answer", "7", "Wrong."),
  _turn("", "", "Call the tool.", "agent_malformed"),
)
#        action search failed repeated echoed words of the reply
KNOWN = [
  (0, 1, 0, 0, 0, 6),
  (1, 0, 0, 0, 0, 6),
  (0, 0, 1, 0, 0, 3),
  (1, 0, 0, 1, 1, 6),
  (0, 0, 0, 0, 0, 1),
  (0, 0, 1, 0, 1, 3),
]


def _task(secret):
  return types.Task("function", "t", "train", 1, "", {}, types.Secret(secret))


def test_facts_by_hand_from_trajectories_and_from_transcripts(make_trajectory):
  import dataclasses

  from userrl_jax import metrics

  rule = {"rule": "a + b - c * d", "test_case": [3, 2, 1, 4]}
  trajectory = dataclasses.replace(
    make_trajectory(np.random.default_rng(0), [2] * 6, [0] * 6),
    task=_task(rule),
    turns=TURNS,
  )
  groups = [types.Group(trajectory.task, [trajectory])]
  got = turn_facts.of_groups(groups, (2, 3, 8))
  assert not got[0, 0, 6:].any() and not got[0, 1:].any() and not got[1].any()
  rows = got[0, 0, :6]
  np.testing.assert_array_equal(rows[:, 1:-1], [k[:-1] for k in KNOWN])
  words = [np.log2(1 + k[-1]) / 8 for k in KNOWN]
  np.testing.assert_allclose(rows[:, -1], words, rtol=1e-6)
  # Looking up the test case tells no bits of the rule, nor does a point again.
  assert (rows[[0, 2, 3, 5], 0] == 0).all() and rows[1, 0] > 1

  record = metrics.trajectory_record(trajectory)
  again = turn_facts.of_turns(map(turn_facts.from_record, record["turns"]))
  np.testing.assert_allclose(again, rows, atol=1e-6)


def test_batches_carry_facts_only_where_credit_needs_them(make_groups):
  packing = config.Packing(row_length=64, rows_per_micro_batch=8)
  shape = dict(group_size=4, max_turns=3, num_tasks=6, capacity=3)
  for name in credit.CREDITS:
    batch, _ = batching.pack(
      make_groups(0, P=6), packing, credit=config.Credit(credit=name), **shape
    )
    if name not in credit.LEARNED:
      assert batch.facts_PGKF is None
    else:
      assert batch.facts_PGKF.shape == (6, 4, 3, len(NAMES))
