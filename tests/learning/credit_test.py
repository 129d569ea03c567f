"""Credit against the golden cases, worked numbers and its own promises."""

import itertools
import re

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.learning import golden_cases
from userrl_jax import config
from userrl_jax.learning import baselines
from userrl_jax.learning import credit
from userrl_jax.learning import shaping
from userrl_jax.learning import spreads
from userrl_jax.learning import turn_facts

REWARDS = [[[0, 0, 1, 9], [0.2, 0.8, 9, 9], [0, 0, 0, 0], [0.5, 0, 0.5, 9]]]
NUM_TURNS = [[3, 2, 4, 3]]


def _mask(num_turns, K):
  return np.arange(K) < np.asarray(num_turns)[..., None]


def _main_group():
  mask = _mask(NUM_TURNS, 4)
  return np.array(REWARDS), mask, 3 * mask, np.ones((1, 4), bool)


def _main_facts():
  """Returns what the docstrings of `shaping` know of the main group."""
  facts = np.zeros((1, 4, 4, len(turn_facts.NAMES)))
  facts[0, 0, 1, turn_facts.NAMES.index("is_repeated")] = 1
  facts[0, 3, :2, turn_facts.NAMES.index("bits")] = 2, 1
  return facts


def _random_facts(rng, mask):
  facts = rng.choice([0, 0.5, 1.0, 3.0], (*mask.shape, len(turn_facts.NAMES)))
  facts[..., -2] = 0  # a fact that nothing has
  return facts * mask[..., None]


def _advantages(arrays, settings, on_device, facts=None):
  if not on_device:
    return credit.group_advantages(*arrays, settings, facts_PGKF=facts)
  compute = jax.jit(
    lambda facts, *a: credit.group_advantages(*a, settings, jnp, facts)
  )
  return np.asarray(compute(facts, *arrays))


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("score_name", golden_cases.SCORE_NAMES)
@pytest.mark.parametrize("credit_name", golden_cases.CREDIT_NAMES)
def test_golden_cases(shared, credit_name, score_name, on_device):
  cases = golden_cases.load(shared)
  assert len(cases) == 9
  assert all(
    (c["gamma"], c["norm_by_std"], c["eps"]) == (0.8, True, 1e-6) for c in cases
  )
  arrays, places = golden_cases.arrays(cases)
  settings = config.Credit(
    score=golden_cases.SCORE_NAMES[score_name],
    credit=golden_cases.CREDIT_NAMES[credit_name],
    gamma=0.8,
    released=True,
  )
  got = _advantages(arrays, settings, on_device)
  tolerance = 1e-5 if on_device else 2e-6
  for case in cases:
    rows = case["advantages"][f"{credit_name}/{score_name}"]["per_turn"]
    z = case["trajectory"][score_name]["normalised"]
    for b, want in enumerate(rows):
      mine = got[places[case["name"], b]]
      np.testing.assert_allclose(
        mine[: len(want)], want, rtol=0, atol=tolerance, err_msg=case["name"]
      )
      if z[b] == 0:
        assert not mine.any(), case["name"]


# Every function of a family, and how to compute what its docstring promises.
WORKED = {
  **{
    f"score {name}": (function, config.Credit(score=name))
    for name, function in credit.SCORES.items()
  },
  **{
    f"credit {name}": (function, config.Credit(credit=name))
    for name, function in credit.CREDITS.items()
  },
  **{
    f"normalize {name}": (
      function,
      config.Credit(score="mean", normalize=name),
    )
    for name, function in baselines.NORMALIZATIONS.items()
  },
  **{
    f"spread {name}": (
      function,
      config.Credit(
        credit="em",
        spread=name,
        normalize="std_n" if name == "printed" else "std",
      ),
    )
    for name, function in spreads.SPREADS.items()
  },
}


@pytest.mark.parametrize("name", WORKED)
def test_docstrings_have_source_and_true_numbers(name):
  function, settings = WORKED[name]
  rewards, mask, tokens, valid = _main_group()
  scores = credit.score(rewards, mask, tokens, settings)
  got = {
    "score": lambda: scores[..., None],
    "credit": lambda: function(
      np.where(mask, rewards, 0),
      mask,
      settings,
      np,
      shaping.Turns(_main_facts(), scores, valid),
    ),
    "normalize": lambda: baselines.normalize(scores, valid, settings)[
      ..., None
    ],
    "spread": lambda: credit.group_advantages(*_main_group(), settings),
  }[name.split()[0]]()
  text = function.__doc__
  assert re.search("arXiv|paper|released|UserRL|Our own", text)
  number = r"-?\d+(?:\.\d+)?"
  examples = re.findall(rf"t(\d) ->\s+({number}(?:,\s+{number})*)", text)
  assert examples and any(float(x) for x in re.findall(number, examples[0][1]))
  for member, numbers in examples:
    for k, written in enumerate(re.findall(number, numbers)):
      decimals = len(written.partition(".")[2])
      mine = got[0, int(member) - 1, k]
      assert abs(mine - float(written)) <= 0.5001 * 10.0**-decimals, name


def test_signed_mirrors_credits_below_the_mean():
  credits = np.array([[[0.32, 0.4, 0, 0], [0, 0, 0, 0], [-1, 1, 3, 9]]])
  tokens = np.full((1, 3, 4), 3) * (np.arange(4) < [[[4], [4], [3]]])
  z = np.array([[-1.0, -1.0, 0.5]])
  for xp in (np, jnp):
    got = spreads.signed(z, credits, tokens, z, z < 9, xp)[0]
    np.testing.assert_allclose(
      got,
      [
        [-0.2727, 0, -1.3636, -1.3636],
        [-1, -1, -1, -1],  # scaled would teach nothing
        [0, 1 / 3, 2 / 3, 0],
      ],
      atol=5e-5,
    )


def test_printed_is_blind_under_equalized_credits():
  settings = config.Credit(
    score="sum", spread="printed", normalize="std_n", credit="equalized"
  )
  got = credit.group_advantages(*_main_group(), settings)[0]
  mask = _main_group()[1][0]
  np.testing.assert_allclose(got[mask], 0.25 / np.sqrt(0.1875), atol=1e-5)
  assert not got[~mask].any()


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_penalties_lower_scores_and_no_credit(on_device):
  rewards, mask, tokens, valid = _main_group()
  settings = config.Credit(
    score="sum",
    normalize="none",
    turn_penalty=0.1,
    length_penalty=50.0,
    free_tokens=6,
  )
  want = np.array([0.55, 0.8, -0.7, 0.55])  # 1 - 0.3 - 0.15, 1 - 0.2 - 0, ...
  got = credit.score(rewards, mask, tokens, settings)
  np.testing.assert_allclose(got, [want], atol=1e-12)
  got = _advantages((rewards, mask, tokens, valid), settings, on_device)
  np.testing.assert_allclose(got[0, :, 0], want - want.mean(), atol=1e-6)
  raised = config.Credit(credit="em", turn_penalty=0.1)
  np.testing.assert_array_equal(
    credit.em_credit(rewards, mask, raised, np),
    credit.em_credit(rewards, mask, config.Credit(), np),
  )


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_advantages_of_the_main_group(on_device):
  arrays = _main_group()
  cases = {
    ("mean", "em"): [
      [0.148953, 0.148953, 0.297905, 0],
      [0.830588, 1.156401, 0, 0],
      [-1.390702] * 4,
      [0.231140, 0.133530, 0.231140, 0],
    ],
    ("sum", "naive"): [
      [0, 0, 0.5, 0],
      [0.2, 0.8, 0, 0],
      [0] * 4,
      [0.5, 0, 0.5, 0],
    ],
    ("r2g", "em"): [
      [0.123811, 0.123811, 0.247623, 0],
      [0.562673, 0.783380, 0, 0],
      [-1.460340] * 4,
      [0.724167, 0.418352, 0.724167, 0],
    ],
  }
  for (score, name), want in cases.items():
    settings = config.Credit(score=score, credit=name, released=True)
    got = _advantages(arrays, settings, on_device)[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-5)


def test_defaults_do_not_round_and_a_group_of_one_gives_zero():
  rewards, mask, tokens, valid = _main_group()
  exact = credit.score(rewards, mask, tokens, config.Credit(score="mean"))
  rounded = credit.score(
    rewards, mask, tokens, config.Credit(score="mean", released=True)
  )
  assert exact[0, 0] == 1 / 3 and rounded[0, 0] == 0.3333
  em = config.Credit(credit="em")
  assert credit.em_credit(np.array([[[0.2]]]), None, em, np)[0, 0, 0] != 0.6906

  valid = np.array([[False, True, False, False]])
  lone = credit.group_advantages(
    rewards, mask, tokens, valid, config.Credit(score="sum")
  )
  assert not lone.any()
  lone = credit.group_advantages(
    rewards, mask, tokens, valid, config.Credit(score="sum", released=True)
  )
  np.testing.assert_allclose(lone[0, 1, :2], 1 / (1 + 1e-6))
  assert not lone[0, [0, 2, 3]].any()


@pytest.mark.parametrize(
  "name,want",
  [
    ("std", [0.5, 0.5, -1.5, 0.5]),
    ("std_n", [0.57735, 0.57735, -1.73205, 0.57735]),
    ("none", [0.25, 0.25, -0.75, 0.25]),
    ("leave_one_out", [1 / 3, 1 / 3, -1, 1 / 3]),
  ],
)
def test_normalisations_by_hand_and_of_valid_members_alone(name, want):
  rewards, mask, tokens, valid = _main_group()
  settings = config.Credit(score="sum", normalize=name)
  got = credit.group_advantages(rewards, mask, tokens, valid, settings)
  np.testing.assert_allclose(got[0, :, 0], want, atol=5e-6)
  valid = np.array([[True, True, False, False]])  # both score 1
  assert not credit.group_advantages(
    rewards, mask, tokens, valid, settings
  ).any()
  valid = np.array([[True, False, True, False]])  # 1 and 0
  size = {"std": 0.5**0.5, "std_n": 1, "none": 0.5, "leave_one_out": 1}[name]
  got = credit.group_advantages(rewards, mask, tokens, valid, settings)
  np.testing.assert_allclose(got[0, :, 0], [size, 0, -size, 0], atol=5e-6)


METHODS = [
  *itertools.product(credit.SCORES, credit.CREDITS, ["std"], ["scaled"]),
  ("sum", "naive", "leave_one_out", "scaled"),
  ("mean", "em", "std_n", "printed"),
  ("r2g", "r2g", "none", "signed"),
]


@pytest.mark.parametrize("score,name,normalize,spread", METHODS)
def test_device_agrees_with_host_and_loops(score, name, normalize, spread):
  rng = np.random.default_rng(0)
  P, G, K = 6, 5, 7
  mask = _mask(rng.integers(1, K + 1, (P, G)), K)
  rewards = rng.choice([0.0, 0.2, 0.5, 1.0], (P, G, K))
  tokens = rng.integers(1, 9, (P, G, K)) * mask
  valid = rng.random((P, G)) < 0.8
  settings = config.Credit(score, name, 0.7, normalize=normalize, spread=spread)
  arrays = (rewards, mask, tokens, valid)
  facts = _random_facts(rng, mask)
  host = _advantages(arrays, settings, False, facts)
  device = _advantages(arrays, settings, True, facts)
  np.testing.assert_allclose(device, host, rtol=1e-5, atol=1e-5)
  looped = _looped(*arrays, settings, facts)
  np.testing.assert_allclose(host, looped, atol=1e-10)


@pytest.mark.parametrize("K", [1, 7, 64])
@pytest.mark.parametrize("gamma", [0.0, 0.8, 1.0])
def test_reward_to_go_equals_a_reverse_scan(K, gamma):
  """As the recursion says it, over turns: on the host and in a program."""
  rewards = np.random.default_rng(0).choice([0.0, 0.2, 1.0, -1.0], (6, 5, K))
  settings = config.Credit(gamma=gamma)
  want, running = np.zeros_like(rewards), 0.0
  for k in reversed(range(K)):
    want[..., k] = running = rewards[..., k] + gamma * running
  host = credit.r2g_credit(rewards, None, settings, np)
  np.testing.assert_allclose(host, want, rtol=0, atol=1e-12)

  @jax.jit
  def both(rewards):
    step = lambda c, r: (r + gamma * c,) * 2
    over = jnp.moveaxis(rewards, -1, 0)
    _, scanned = jax.lax.scan(
      step, jnp.zeros(over.shape[1:]), over, reverse=True
    )
    product = credit.r2g_credit(rewards, None, settings, jnp)
    return product, jnp.moveaxis(scanned, 0, -1)

  product, scanned = both(np.float32(rewards))
  np.testing.assert_allclose(product, scanned, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(product, want, rtol=1e-6, atol=1e-6)


def _predicted_loops(rewards, mask, valid, settings, facts):
  """Fits the predictor by least squares on stacked rows; {(p, g): credits}."""
  members = [(p, g) for p, g in np.ndindex(valid.shape) if valid[p, g]]
  scores = credit.score(rewards, mask, mask, settings)
  x = {
    m: np.c_[np.ones(mask[m].sum()), rewards[m][mask[m]], facts[m][mask[m], 1:]]
    for m in members
  }
  rows, rest, weights = [], [], []
  for p in range(len(valid)):
    own = [m for m in members if m[0] == p]
    if own:
      sums = [x[m].cumsum(0) for m in own]
      middle = np.mean([s.mean(0) for s in sums], 0)
      mean = np.mean([scores[m] for m in own])
      for m, s in zip(own, sums, strict=True):
        rows += list(s - middle)
        rest += [scores[m] - mean] * len(s)
        weights += [1 / len(s)] * len(s)
  rows, rest, weights = map(np.array, (rows, rest, weights))
  size = np.sqrt((rows**2 * weights[:, None]).sum(0) / len(members))
  size[size == 0] = np.inf
  root = np.sqrt(weights)[:, None]
  ridge = np.sqrt(shaping.RIDGE * len(members)) * np.eye(len(size))
  w, *_ = np.linalg.lstsq(
    np.r_[rows / size * root, ridge],
    np.r_[rest * root[:, 0], np.zeros_like(size)],
  )
  change = {m: x[m] / size @ w for m in members}
  middle = np.mean([d.mean() for d in change.values()])
  std = np.sqrt(np.mean([((d - middle) ** 2).mean() for d in change.values()]))
  return {
    m: 0.5 + 0.5 / (1 + np.exp(-(d - middle) / (std + 1e-6)))
    for m, d in change.items()
  }


def _looped(rewards, mask, tokens, valid, settings, facts):
  """Transcribes the definitions one trajectory and turn at a time."""
  out = np.zeros(rewards.shape)
  predicted = _predicted_loops(rewards, mask, valid, settings, facts)
  for p in range(len(rewards)):
    members = [g for g in range(rewards.shape[1]) if valid[p, g]]
    rows = {g: rewards[p, g][mask[p, g]].tolist() for g in members}
    togo = {}
    for g, row in rows.items():
      running, togo[g] = 0.0, []
      for r in reversed(row):
        running = r + settings.gamma * running
        togo[g].insert(0, running)
    scores = {
      "mean": {g: sum(r) / len(r) for g, r in rows.items()},
      "sum": {g: sum(r) for g, r in rows.items()},
      "r2g": {g: togo[g][0] for g in rows},
    }[settings.score]
    if len(members) < 2 or np.ptp(list(scores.values())) < 1e-9:
      continue
    mean = np.mean(list(scores.values()))
    std = np.std(list(scores.values()), ddof=settings.normalize == "std")
    for g, row in rows.items():
      credits = {
        "equalized": [1.0] * len(row),
        "naive": row,
        "r2g": togo[g],
        "em": [
          0.5
          + 0.5
          * (1 - np.exp(-settings.em_k * r))
          / (1 - np.exp(-settings.em_k))
          for r in row
        ],
        "information": (1 - 0.5 * 0.5 ** facts[p, g, :, 0])[: len(row)],
        "predicted": predicted[p, g],
      }[settings.credit]
      others = [s for j, s in scores.items() if j != g]
      z = {
        "std": (scores[g] - mean) / (std + 1e-6),
        "std_n": (scores[g] - mean) / (std + 1e-6),
        "none": scores[g] - mean,
        "leave_one_out": scores[g] - sum(others) / len(others),
      }[settings.normalize]
      if settings.spread == "printed":
        out[p, g, : len(row)] = (np.array(credits) - mean) / (std + 1e-6)
        continue
      if settings.spread == "signed" and max(credits) == min(credits):
        credits = [1.0] * len(row)
      elif settings.spread == "signed" and z < 0:
        credits = [max(credits) + min(credits) - c for c in credits]
      E = sum(c * n for c, n in zip(credits, tokens[p, g], strict=False))
      N = sum(n for c, n in zip(credits, tokens[p, g], strict=False) if c)
      for k, c in enumerate(credits):
        out[p, g, k] = z * c * N / E if E else 0.0
  return out


def test_equal_scores_give_exactly_zero_for_10000_values():
  rng = np.random.default_rng(1)
  values = np.concatenate(
    [
      rng.random(5000),
      rng.uniform(-100, 100, 4000),
      10.0 ** rng.uniform(-6, 6, 1000),
    ]
  )
  rewards = np.repeat(values[:, None, None], 8, 1)
  mask = np.ones_like(rewards, bool)
  valid = np.ones(rewards.shape[:2], bool)
  arrays = (rewards, mask, 3 * mask, valid)
  for i, score in enumerate(("mean", "sum", "r2g", "sum")):
    normalize = list(baselines.NORMALIZATIONS)[i]
    settings = config.Credit(
      score,
      ("r2g", "em", "naive", "em")[i],
      normalize=normalize,
      spread=("scaled", "printed", "signed", "signed")[i],
    )
    assert not _advantages(arrays, settings, False).any()
    assert not _advantages(arrays, settings, True).any()


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_equal_scores_of_permuted_rewards_give_exactly_zero(on_device):
  """Of 10,000 groups, whose members earn the same three in other orders."""
  rng = np.random.default_rng(2)
  values = np.concatenate(
    [
      rng.random((5000, 3)),
      rng.choice([-1, 1], (4000, 1)) * rng.uniform(0, 100, (4000, 3)),
      10.0 ** rng.uniform(-6, 6, (1000, 3)),
    ]
  )
  rewards = rng.permuted(np.repeat(values[:, None], 8, 1), axis=-1)
  assert np.ptp(np.float32(rewards).sum(-1), axis=-1).any()  # they do round
  mask = np.ones_like(rewards, bool)
  arrays = (rewards, mask, 3 * mask, mask[..., 0])
  for score, name, normalize, spread in (
    ("sum", "r2g", "std", "scaled"),
    ("mean", "naive", "leave_one_out", "signed"),
    ("sum", "em", "none", "scaled"),
    ("mean", "equalized", "std_n", "printed"),
  ):
    settings = config.Credit(score, name, normalize=normalize, spread=spread)
    assert not _advantages(arrays, settings, on_device).any(), settings


def test_equal_scores_summed_in_other_orders_are_flat_in_float32():
  rewards = np.array([[[0.1, 0.5, 0.7], [0.7, 0.5, 0.1], [0.5, 0.7, 0.1]]])
  mask = np.ones((1, 3, 3), bool)
  arrays = (rewards, mask, 2 * mask, np.ones((1, 3), bool))
  sums = np.float32(rewards)
  sums = (sums[..., 0] + sums[..., 1]) + sums[..., 2]
  assert np.ptp(sums) > 0  # the trap is really there
  got = _advantages(arrays, config.Credit(score="sum"), True)
  assert not got.any()


def test_credits_that_cancel_give_zero_rather_than_explode():
  rewards = np.array([[[0.1, 0.2, -0.3], [1.0, 0, 0]]])
  mask = np.ones((1, 2, 3), bool)
  arrays = (rewards, mask, 2 * mask, np.ones((1, 2), bool))
  settings = config.Credit(score="sum", credit="naive")
  for on_device in (False, True):
    got = _advantages(arrays, settings, on_device)
    assert not got[0, 0].any() and got[0, 1, 0] > 0


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  seed=strategies.integers(0, 2**32 - 1),
  score=strategies.sampled_from(list(credit.SCORES)),
  name=strategies.sampled_from(list(credit.CREDITS)),
  normalize=strategies.sampled_from(list(baselines.NORMALIZATIONS)),
  spread=strategies.sampled_from(list(spreads.SPREADS)),
  lowest=strategies.sampled_from([0.0, -1.0]),
)
def test_invariances(seed, score, name, normalize, spread, lowest):
  rng = np.random.default_rng(seed)
  P, G, K = 3, 4, 5
  mask = _mask(rng.integers(1, K + 1, (P, G)), K)
  rewards = rng.uniform(lowest, 1, (P, G, K)).round(1)
  tokens = rng.integers(1, 9, (P, G, K)) * mask
  valid = rng.random((P, G)) < 0.8
  facts = _random_facts(rng, mask)
  settings = config.Credit(score, name, normalize=normalize, spread=spread)
  settings.turn_penalty = rng.choice([0, 0.05])
  settings.length_penalty = rng.choice([0, 3.0])
  compute = lambda *arrays, facts: credit.group_advantages(
    *arrays, settings, facts_PGKF=facts
  )
  got = compute(rewards, mask, tokens, valid, facts=facts)

  scores = credit.score(rewards, mask, tokens, settings)
  z = baselines.normalize(scores, valid, settings)
  np.testing.assert_allclose(z.sum(-1), 0, atol=1e-9)
  assert not got[~valid].any() and not got[~mask].any()
  assert not got[baselines.flat_groups(scores, valid)].any()
  if spread != "printed" and name in ("equalized", *credit.LEARNED):
    # Each trajectory's tokens carry its z, so a group's means cancel.
    means = (got * tokens).sum(-1) / tokens.sum(-1)
    np.testing.assert_allclose(means, z, atol=1e-9)
  if spread == "signed":
    earned = np.where(mask, rewards, 0)
    turns = shaping.Turns(facts, scores, valid)
    credits = credit.CREDITS[name](earned, mask, settings, np, turns)
    _check_signed(got, z, credits, tokens)

  order = rng.permutation(G)
  shuffled = compute(
    *(x[:, order] for x in (rewards, mask, tokens, valid)),
    facts=facts[:, order],
  )
  np.testing.assert_allclose(shuffled, got[:, order], atol=1e-9)

  # Invalid members, absent turns and more of both change nothing.
  wide = [
    np.pad(rewards, ((0, 1), (0, 2), (0, 3)), constant_values=7.0),
    *(np.pad(x, ((0, 1), (0, 2), (0, 3))) for x in (mask, tokens)),
    np.pad(valid, ((0, 1), (0, 2))),
  ]
  wide[0][:P, :G][~valid] = 99.0
  facts = np.pad(facts, ((0, 1), (0, 2), (0, 3), (0, 0)), constant_values=5.0)
  facts[:P, :G][~valid] = 9.0
  padded = compute(*wide, facts=facts)
  np.testing.assert_allclose(padded[:P, :G, :K], got, atol=1e-9)


def _check_signed(advantages, z, credits, tokens):
  """Holds each trajectory to what `signed` promises."""
  for place in np.ndindex(z.shape):
    here = tokens[place] > 0
    A, n = advantages[place][here], tokens[place][here]
    ordered = A[np.argsort(credits[place][here], kind="stable")]
    assert (np.diff(ordered) >= -1e-9).all()  # no inversion, whatever the sign
    assert (A * z[place] >= 0).all()
    if z[place]:
      np.testing.assert_allclose(
        (A * n).sum(), z[place] * n[A != 0].sum(), atol=1e-9
      )


@pytest.mark.parametrize(
  "field,value",
  [
    ("score", "Sum"),
    ("credit", "r2"),
    ("normalize", ""),
    ("spread", "even"),
    ("gamma", 1.5),
    ("em_k", 0),
  ],
)
def test_bad_settings_are_refused(field, value):
  with pytest.raises(ValueError, match=f"credit.{field} must"):
    credit.check(config.Credit(**{field: value}))
  for name in credit.LEARNED:
    with pytest.raises(ValueError, match="need the facts of turns"):
      credit.group_advantages(*_main_group(), config.Credit(credit=name))
  with pytest.raises(ValueError, match="normalize must be std_n"):
    credit.check(config.Credit(spread="printed"))
  credit.check(config.Credit())
