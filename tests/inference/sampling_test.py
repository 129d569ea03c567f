"""Sampling: the law of the draws, filters, and what randomness depends on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.inference import sampling

NUM_DRAWS = 20_000


def _sample(logits_V, how, num_draws=NUM_DRAWS):
  keys_B = jax.random.split(jax.random.key(1), num_draws)
  uniform_B1 = sampling.uniforms(keys_B, jnp.zeros((num_draws, 1), jnp.int32))
  drawn = jax.jit(sampling.sample)(
    jnp.broadcast_to(logits_V, (num_draws, len(logits_V))),
    uniform_B1[:, 0],
    sampling.knobs([how] * num_draws),
  )
  return jax.tree.map(np.asarray, drawn)


def _law(logits_V, how):
  """The distribution to draw from, by sorting, in float64."""
  logits_V = np.asarray(logits_V, np.float64) / how.temperature
  p_V = np.exp(logits_V - logits_V.max())
  p_V /= p_V.sum()
  order = np.argsort(-p_V, kind="stable")
  if how.top_k:
    p_V[order[how.top_k :]] = 0
    p_V /= p_V.sum()
  if how.top_p < 1:
    before = np.cumsum(p_V[order]) - p_V[order]
    p_V[order[before >= how.top_p]] = 0
    p_V /= p_V.sum()
  p_V[p_V < how.min_p * p_V.max()] = 0
  return p_V / p_V.sum()


@pytest.mark.parametrize("vocab_size", [5, 64, 130])
@pytest.mark.parametrize(
  "how",
  [
    sampling.Sampling(),
    sampling.Sampling(temperature=0.5),
    sampling.Sampling(temperature=1.7),
    sampling.Sampling(top_k=3),
    sampling.Sampling(top_p=0.8),
    sampling.Sampling(min_p=0.2),
    sampling.Sampling(temperature=0.7, top_k=40, top_p=0.9, min_p=0.05),
  ],
  ids=str,
)
def test_draws_follow_the_law(vocab_size, how):
  logits_V = 2 * jax.random.normal(jax.random.key(vocab_size), (vocab_size,))
  drawn = _sample(logits_V, how)
  law_V = _law(logits_V, how)
  counts_V = np.bincount(drawn.tokens_B, minlength=vocab_size)
  assert counts_V[law_V == 0].sum() == 0
  means_V = NUM_DRAWS * law_V[law_V > 0]
  chi2 = ((counts_V[law_V > 0] - means_V) ** 2 / means_V).sum()
  freedom = len(means_V) - 1
  assert chi2 < freedom + 5 * np.sqrt(2 * freedom) + 1e-9
  np.testing.assert_allclose(
    drawn.logprobs_B, np.log(law_V[drawn.tokens_B]), atol=1e-5
  )
  np.testing.assert_allclose(
    drawn.model_logprobs_B,
    np.asarray(jax.nn.log_softmax(logits_V))[drawn.tokens_B],
    atol=1e-5,
  )


def test_the_chi_square_test_sees_a_wrong_temperature():
  logits_V = 2 * jax.random.normal(jax.random.key(0), (64,))
  drawn = _sample(logits_V, sampling.Sampling(temperature=0.9))
  means_V = NUM_DRAWS * _law(logits_V, sampling.Sampling())
  counts_V = np.bincount(drawn.tokens_B, minlength=64)
  assert ((counts_V - means_V) ** 2 / means_V).sum() > 63 + 10 * np.sqrt(126)


def test_lanes_of_one_call_keep_their_own_knobs():
  hows = [
    sampling.Sampling(),
    sampling.Sampling(temperature=0),
    sampling.Sampling(top_k=1),
    sampling.Sampling(temperature=0.5, top_p=0.5),
  ]
  logits_BV = jax.random.normal(jax.random.key(0), (4, 100))
  uniform_B = jnp.array([0.9, 0.9, 0.9, 0.9])
  together = sampling.sample(logits_BV, uniform_B, sampling.knobs(hows))
  for i, how in enumerate(hows):
    alone = sampling.sample(
      logits_BV[i : i + 1], uniform_B[:1], sampling.knobs([how])
    )
    assert int(together.tokens_B[i]) == int(alone.tokens_B[0])
    np.testing.assert_allclose(
      together.logprobs_B[i], alone.logprobs_B[0], atol=1e-6
    )


def test_tied_tokens_stay_together():
  logits_V = jnp.log(jnp.array([0.4, 0.2, 0.2, 0.2]))
  for how in (sampling.Sampling(top_k=2), sampling.Sampling(top_p=0.5)):
    drawn = _sample(logits_V, how, 2000)
    assert set(drawn.tokens_B.tolist()) == {0, 1, 2, 3}


def test_an_index_without_weight_is_never_drawn():
  weights_V = np.zeros(200, np.float32)
  weights_V[[3, 64, 199]] = [0.2, 0.5, 0.3]
  uniform_B = np.r_[np.linspace(0, 1, 9_999, endpoint=False), 1 - 2**-24]
  indices_B, total_B = sampling.invert_cdf(
    jnp.broadcast_to(weights_V, (10_000, 200)),
    jnp.asarray(uniform_B, jnp.float32),
  )
  assert set(np.unique(indices_B)) == {3, 64, 199}
  np.testing.assert_allclose(total_B, 1, atol=1e-6)


def test_temperature_zero_takes_the_likeliest():
  logits_BV = jax.random.normal(jax.random.key(0), (50, 100))
  drawn = sampling.sample(
    logits_BV,
    jnp.full(50, 0.999),
    sampling.knobs([sampling.Sampling(temperature=0)] * 50),
  )
  np.testing.assert_array_equal(drawn.tokens_B, jnp.argmax(logits_BV, -1))
  np.testing.assert_allclose(
    drawn.logprobs_B, jax.nn.log_softmax(logits_BV).max(-1), atol=1e-6
  )


def test_a_uniform_depends_on_its_row_and_position_only():
  keys_B = jax.random.split(jax.random.key(1), 4)
  positions_Bn = jnp.array([[5, 6], [6, 7], [5, 9], [7, 8]])
  order = jnp.array([2, 0, 3, 1])
  whole_Bn = sampling.uniforms(keys_B, positions_Bn)
  np.testing.assert_array_equal(
    whole_Bn[order], sampling.uniforms(keys_B[order], positions_Bn[order])
  )
  np.testing.assert_array_equal(
    whole_Bn[:, 1:], sampling.uniforms(keys_B, positions_Bn[:, 1:])
  )
  assert len(np.unique(whole_Bn)) == 8


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("temperature", -1.0),
    ("top_k", -1),
    ("top_p", 0.0),
    ("top_p", 1.5),
    ("min_p", -0.1),
    ("min_p", 2.0),
  ],
)
def test_a_value_out_of_range_is_refused(field, value):
  with pytest.raises(ValueError, match=f"{field} must be .*, got"):
    dataclasses.replace(sampling.Sampling(), **{field: value})
