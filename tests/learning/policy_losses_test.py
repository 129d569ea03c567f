"""Policy losses against transcriptions, slopes and hand-worked branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax import config
from userrl_jax.learning import policy_losses

# Two rows, packed: trajectories 3 and 0; then 5 alone, and padding.
SEQUENCES = np.array([[3, 3, 3, 0, 0, -1], [5, 5, 5, 5, -1, -1]])
MASK = SEQUENCES >= 0
SETTINGS = config.Grpo(
  clip_low=0.2, clip_high=0.3, dual_clip=1.5, kl_coef=0.3, entropy_coef=0.2
)


def _arrays(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda scale: rng.normal(-2, scale, SEQUENCES.shape)
  old = draw(0.5)
  return dict(
    logprobs_BM=old + rng.normal(0, 0.8, SEQUENCES.shape),
    old_logprobs_BM=old,
    advantages_BM=rng.normal(0, 1, SEQUENCES.shape),
    sampled_logprobs_BM=old + rng.normal(0, 0.4, SEQUENCES.shape),
    reference_logprobs_BM=draw(0.5),
    entropy_BM=rng.random(SEQUENCES.shape),
    weights_BM=rng.random(SEQUENCES.shape),
  )


def _total(arrays, settings):
  arrays = dict(arrays)
  of_tokens = {
    name: arrays.pop(name)
    for name in ("logprobs_BM", "old_logprobs_BM", "advantages_BM")
  }
  tokens = policy_losses.Tokens(
    **of_tokens, mask_BM=MASK, sequences_BM=SEQUENCES, num_sequences=6
  )
  return policy_losses.total(tokens, settings, **arrays)


def _settings(loss="ppo", **changes):
  return config.Grpo(**(vars(SETTINGS) | {"loss": loss} | changes))


def _transcribed(arrays, settings):
  """Adds the loss and its slope up one token at a time, in float64."""
  x = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
  total, slopes = 0.0, np.zeros(SEQUENCES.shape)
  for b, m in zip(*np.nonzero(MASK), strict=True):
    here = SEQUENCES[b] == SEQUENCES[b, m]
    logprob, old, A = (
      x[name][b, m]
      for name in ("logprobs_BM", "old_logprobs_BM", "advantages_BM")
    )
    ratio = np.exp(logprob - old)
    if settings.loss == "gspo":
      differences = x["logprobs_BM"][b, here] - x["old_logprobs_BM"][b, here]
      ratio = np.exp(differences.sum() / here.sum())
    low, high = 1 - settings.clip_low, 1 + settings.clip_high
    clipped = min(max(ratio, low), high)
    if settings.loss == "plain":
      loss, slope = -A * logprob, -A
    elif settings.loss == "cispo":
      loss, slope = -clipped * A * logprob, -clipped * A
    else:
      loss, slope = -A * ratio, -A * ratio
      if -A * clipped > loss:
        loss, slope = -A * clipped, 0.0
      if A < 0 and loss > -A * settings.dual_clip:
        loss, slope = -A * settings.dual_clip, 0.0
    if settings.importance_cap:
      weight = min(
        settings.importance_cap, np.exp(old - x["sampled_logprobs_BM"][b, m])
      )
      loss, slope = weight * loss, weight * slope
    d = logprob - x["reference_logprobs_BM"][b, m]
    kl, kl_slope = {
      "k1": (d, 1.0),
      "k2": (d * d / 2, d),
      "k3": (np.exp(-d) + d - 1, 1 - np.exp(-d)),
    }[settings.kl_estimator]
    loss += settings.kl_coef * kl
    slope += settings.kl_coef * kl_slope
    loss -= settings.entropy_coef * x["entropy_BM"][b, m]
    total += x["weights_BM"][b, m] * loss
    slopes[b, m] = x["weights_BM"][b, m] * slope
  return total, slopes


CASES = [
  *(
    (loss, kl, cap)
    for loss in policy_losses.POLICY_LOSSES
    for kl, cap in (("k3", 0.0), ("k1", 1.1))
  ),
  ("ppo", "k2", 0.0),
]


@pytest.mark.parametrize("loss,kl,cap", CASES)
def test_totals_and_slopes_equal_a_transcription(loss, kl, cap):
  settings = _settings(loss, kl_estimator=kl, importance_cap=cap)
  compute = jax.value_and_grad(
    lambda logprobs, rest: _total(rest | {"logprobs_BM": logprobs}, settings),
    has_aux=True,
  )
  seen = {"clip_fraction": 0.0, "dual_clip_fraction": 0.0}
  for seed in range(4):
    arrays = {k: np.float32(x) for k, x in _arrays(seed).items()}
    (value, sums), slopes = compute(arrays["logprobs_BM"], arrays)
    want, want_slopes = _transcribed(arrays, settings)
    np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slopes, want_slopes, rtol=1e-6, atol=1e-6)
    seen = {name: seen[name] + sums[name] for name in seen}
    if cap:
      assert 0 < sums["importance_capped"] < MASK.sum()
  assert bool(seen["clip_fraction"]) == (loss != "plain")
  assert bool(seen["dual_clip_fraction"]) == (loss in ("ppo", "gspo"))


@pytest.mark.parametrize("loss", policy_losses.POLICY_LOSSES)
def test_slopes_equal_finite_differences_in_float64(loss):
  """Of a toy policy: logits of 4 ids, shared by all tokens."""
  with jax.enable_x64(True):
    arrays = {k: jnp.asarray(x) for k, x in _arrays(1).items()}
    # Turns of a trajectory alike: there GSPO's two forms are one.
    alike = jnp.asarray([0.7, 0, 0, -1.2, 0, 0.4])
    arrays["advantages_BM"] = alike[SEQUENCES]
    targets = np.random.default_rng(2).integers(0, 4, SEQUENCES.shape)
    start = jnp.asarray([0.3, -0.2, 0.5, 0.1])
    # Weights of a trajectory's tokens alike, too, for the same reason.
    cap = 0.0 if loss == "gspo" else 1.1
    settings = _settings(loss, importance_cap=cap)
    weights = jnp.asarray([0.2, 0, 0, 0.3, 0, 0.5])[SEQUENCES]

    def value(logits, moved):
      logprobs = jax.nn.log_softmax(logits)
      entropy = -(jnp.exp(logprobs) * logprobs).sum()
      own = logprobs[targets]
      # What carries no gradient stays as it was.
      fixed = jax.nn.log_softmax(start)[targets] if loss == "cispo" else own
      tokens = dict(arrays, weights_BM=weights)
      tokens["logprobs_BM"] = own
      tokens["entropy_BM"] = jnp.full(SEQUENCES.shape, entropy)
      if not moved or loss != "cispo":
        return _total(tokens, settings)[0]
      difference = jnp.exp(fixed - arrays["old_logprobs_BM"])
      bounded = jnp.clip(difference, 0.8, 1.3)
      as_plain = dict(tokens)
      as_plain["advantages_BM"] = bounded * arrays["advantages_BM"]
      return _total(as_plain, _settings("plain", importance_cap=1.1))[0]

    got = jax.grad(value)(start, False)
    step = 1e-6
    for i in range(4):
      move = step * jnp.eye(4)[i]
      slope = (value(start + move, True) - value(start - move, True)) / 2 / step
      np.testing.assert_allclose(got[i], slope, rtol=1e-6, atol=1e-8)
    assert jnp.abs(got).max() > 0.01


# advantage, ratio, loss, has a gradient, clipped, dual-clipped
BRANCHES = [
  (1, 0.5, -0.5, True, 0, 0),
  (1, 1.1, -1.1, True, 0, 0),
  (1, 1.5, -1.2, False, 1, 0),
  (-1, 0.5, 0.8, False, 1, 0),
  (-1, 1.1, 1.1, True, 0, 0),
  (-1, 2.9, 2.9, True, 0, 0),
  (-1, 3.5, 3.0, False, 0, 1),
  (0, 1.5, 0.0, False, 0, 0),
]


def _one(loss, advantage, ratio, **changes):
  """Computes a lone token's loss, its gradient and its sums."""
  old = np.float32([[-2.0, -1.0]])
  settings = config.Grpo(loss=loss, **changes)

  def value(logprobs):
    tokens = policy_losses.Tokens(
      logprobs,
      old,
      np.full_like(old, advantage),
      np.array([[True, False]]),
      np.array([[0, -1]]),
      1,
    )
    return policy_losses.total(tokens, settings)

  start = old + np.float32(np.log(ratio))
  (value, sums), slope = jax.value_and_grad(value, has_aux=True)(start)
  assert slope[0, 1] == 0
  return value, slope[0, 0], sums


@pytest.mark.parametrize("loss", ["ppo", "gspo"])
@pytest.mark.parametrize("advantage,ratio,want,flows,clip,dual", BRANCHES)
def test_clip_branches(loss, advantage, ratio, want, flows, clip, dual):
  value, slope, sums = _one(loss, advantage, ratio)
  np.testing.assert_allclose(value, want, atol=1e-6)
  np.testing.assert_allclose(slope, -advantage * ratio * flows, atol=1e-5)
  assert (sums["clip_fraction"], sums["dual_clip_fraction"]) == (clip, dual)
  np.testing.assert_allclose(sums["ratio"], ratio, rtol=1e-6)
  np.testing.assert_allclose(sums["kl"], -np.log(ratio), atol=1e-6)


# loss, advantage, log-ratio, changes -> loss, slope. Beyond 20 the exponential
# is flat, so that nothing flows through a ratio there.
HUGE, TINY = np.exp(20.0), np.exp(-20.0)
_OPEN = dict(dual_clip=1e12)
BEYOND = [
  ("ppo", 1, 25, {}, -1.2, 0),
  ("ppo", 1, -25, {}, -TINY, 0),
  ("ppo", -1, 25, {}, 3.0, 0),
  ("ppo", -1, 25, _OPEN, HUGE, 0),
  ("ppo", -1, 19, _OPEN, np.exp(19.0), np.exp(19.0)),
  ("ppo", -1, -25, {}, 0.8, 0),
  ("gspo", 1, -25, {}, -TINY, 0),
  ("gspo", -1, 25, _OPEN, HUGE, 0),
  ("gspo", -1, 19, _OPEN, np.exp(19.0), np.exp(19.0)),
  ("cispo", 1, 25, {}, -1.2 * 23, -1.2),
  ("cispo", -1, -25, {}, 0.8 * -27, 0.8),
  ("plain", 1, 25, {}, -23, -1),
  ("plain", -1, -25, {}, -27, 1),
]


@pytest.mark.parametrize("loss,advantage,log_ratio,changes,want,flow", BEYOND)
def test_ratios_beyond_what_is_exponentiated(
  loss, advantage, log_ratio, changes, want, flow
):
  value, slope, sums = _one(loss, advantage, np.exp(log_ratio), **changes)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(slope, flow, rtol=1e-5)
  bounded = np.exp(np.clip(float(log_ratio), -20, 20))
  np.testing.assert_allclose(sums["ratio"], bounded, rtol=1e-5)
  np.testing.assert_allclose(sums["kl"], -log_ratio, rtol=1e-6)


def test_estimators_and_weights_beyond_what_is_exponentiated():
  own, cap = jnp.float32(-30), 1e30
  k3 = jax.value_and_grad(policy_losses.k3)
  for d, want, flow in (
    (25, HUGE - 21, 0),
    (19, np.exp(19.0) - 20, 1 - np.exp(19.0)),
    (-19, TINY * np.e + 18, 1 - TINY * np.e),
    (-25, TINY + 19, 0),
  ):
    np.testing.assert_allclose(k3(own, own + d), (want, flow), rtol=1e-5)
    weigh = jax.value_and_grad(policy_losses.importance_weights)
    bounded = np.exp(np.clip(float(d), -20, 20))
    got = weigh(own, own - d, cap)
    np.testing.assert_allclose(got, (bounded, 0), rtol=1e-5)
  assert policy_losses.importance_weights(own, own - 25, 2.0) == 2


@pytest.mark.parametrize(
  "advantage,ratio,weight,clip",
  [(1, 0.5, 0.8, 1), (1, 1.1, 1.1, 0), (-1, 1.5, 1.2, 1), (-1, 9.0, 1.2, 1)],
)
def test_cispo_bounds_the_weight_and_keeps_the_gradient(
  advantage, ratio, weight, clip
):
  value, slope, sums = _one("cispo", advantage, ratio)
  logprob = -2 + np.log(ratio)
  np.testing.assert_allclose(value, -weight * advantage * logprob, rtol=1e-5)
  np.testing.assert_allclose(slope, -weight * advantage, rtol=1e-5)
  assert (sums["clip_fraction"], sums["dual_clip_fraction"]) == (clip, 0)


def test_low_and_high_clips_are_apart():
  clips = dict(clip_low=0.1, clip_high=0.4, dual_clip=5.0)
  for advantage, ratio, want in ((1, 2, -1.4), (-1, 0.5, 0.9), (-1, 9, 5)):
    value, _, _ = _one("ppo", advantage, ratio, **clips)
    np.testing.assert_allclose(value, want, atol=1e-6)


def test_a_sequence_ratio_is_the_mean_of_its_own_tokens_alone():
  arrays = {k: np.float32(x) for k, x in _arrays(5).items()}
  settings = _settings(
    "gspo",
    clip_low=0.9,
    clip_high=9.0,
    dual_clip=10.0,
    kl_coef=0.0,
    entropy_coef=0.0,
  )
  slope = jax.grad(lambda x: _total(arrays | {"logprobs_BM": x}, settings)[0])
  before = slope(arrays["logprobs_BM"])
  assert before[0, 3:5].all()  # not clipped
  moved = arrays["logprobs_BM"].copy()
  moved[0, 3] += 0.1  # of trajectory 0
  change = slope(moved) - before
  assert change[0, 3:5].all() and not change[0, :3].any()
  assert not change[1].any()


@pytest.mark.parametrize("loss", policy_losses.POLICY_LOSSES)
def test_padding_never_reaches_the_loss(loss):
  arrays = {k: np.float32(x) for k, x in _arrays().items()}
  settings = _settings(loss, importance_cap=2.0)
  compute = jax.value_and_grad(
    lambda logprobs, rest: _total(rest | {"logprobs_BM": logprobs}, settings),
    has_aux=True,
  )
  want = compute(arrays["logprobs_BM"], arrays)
  dirty = {k: np.where(MASK, x, np.nan) for k, x in arrays.items()}
  dirty["old_logprobs_BM"] = np.where(MASK, arrays["old_logprobs_BM"], 1e30)
  (value, sums), slopes = compute(dirty["logprobs_BM"], dirty)
  assert value == want[0][0] and sums == want[0][1]
  np.testing.assert_array_equal(slopes, want[1])


def test_aggregations_by_hand():
  num_tokens = jnp.array([[2, 6], [0, 0]])
  settings = config.Grpo(loss_length=10)
  each = {
    "token_mean": [1 / 8, 1 / 8],
    "sequence_mean": [1 / 4, 1 / 12],
    "constant_length": [1 / 20, 1 / 20],
  }
  for name, aggregate in policy_losses.AGGREGATIONS.items():
    weights, denominator = aggregate(num_tokens, settings)
    weights = jnp.ones((2, 2)) if weights is None else weights
    np.testing.assert_allclose(
      weights[0] / denominator, each.pop(name), rtol=1e-6
    )
    _, denominator = aggregate(num_tokens * 0, settings)
    assert denominator > 0  # nothing to learn from is not 0 / 0
  assert not each


def test_worked_numbers_of_estimators_and_weights():
  for name, reference, want in (
    ("k1", -2, 1),
    ("k2", -3, 2),
    ("k3", -2, 0.3679),
  ):
    got = policy_losses.KL_ESTIMATORS[name](jnp.float32(-1), reference)
    np.testing.assert_allclose(got, want, atol=5e-5)
    assert policy_losses.KL_ESTIMATORS[name](jnp.float32(-1), -1) == 0
  weigh = policy_losses.importance_weights
  np.testing.assert_allclose(weigh(-1.0, -1.5, 2.0), 1.6487, atol=5e-5)
  assert weigh(-1.0, -3.0, 2.0) == 2
  assert jax.grad(lambda x: weigh(x, -1.5, 2.0))(-1.0) == 0


def test_worked_numbers_of_the_losses():
  A, old = np.float32([[1, 1]]), np.float32([[-1, -1]])
  tokens = policy_losses.Tokens(
    old + np.log(np.float32([[2, 0.5]])), old, A, A > 0, A.astype(int) * 0, 1
  )
  loss, marks = policy_losses.gspo(tokens, config.Grpo())
  np.testing.assert_allclose(loss, [[-1, -1]], atol=1e-6)
  np.testing.assert_allclose(marks["ratio"], 1, atol=1e-6)
  value, slope, _ = _one("plain", 0.5, 1.0)
  np.testing.assert_allclose([value, slope], [1, -0.5], atol=1e-6)
