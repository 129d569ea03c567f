"""Sampling: the law of the draws, greedy, and what randomness depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.inference import sampling


@pytest.mark.parametrize("vocab_size", [5, 64, 130])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_tempered_distribution(vocab_size, temperature):
  num_draws = 20_000
  logits_V = jax.random.normal(jax.random.key(vocab_size), (vocab_size,))
  tokens_B, logprobs_B = sampling.sample(
    jnp.broadcast_to(logits_V, (num_draws, vocab_size)),
    jax.random.split(jax.random.key(1), num_draws),
    jnp.zeros(num_draws, jnp.int32),
    jnp.float32(temperature),
  )
  expected_V = np.asarray(jax.nn.softmax(logits_V / temperature))
  counts_V = np.bincount(tokens_B, minlength=vocab_size)
  means_V = num_draws * expected_V
  chi2 = ((counts_V - means_V) ** 2 / means_V).sum()
  freedom = vocab_size - 1
  assert chi2 < freedom + 5 * np.sqrt(2 * freedom)
  np.testing.assert_allclose(
    logprobs_B, np.log(expected_V)[tokens_B], atol=1e-5
  )


def test_an_index_without_weight_is_never_drawn():
  weights_V = np.zeros(200, np.float32)
  weights_V[[3, 64, 199]] = [0.2, 0.5, 0.3]
  uniform_B = np.r_[np.linspace(0, 1, 9_999, endpoint=False), 1 - 2**-24]
  indices_B = sampling.invert_cdf(
    jnp.broadcast_to(weights_V, (10_000, 200)),
    jnp.asarray(uniform_B, jnp.float32),
  )
  assert set(np.unique(indices_B)) == {3, 64, 199}


def test_temperature_zero_takes_the_likeliest():
  logits_BV = jax.random.normal(jax.random.key(0), (50, 100))
  keys_B = jax.random.split(jax.random.key(1), 50)
  tokens_B, logprobs_B = sampling.sample(
    logits_BV, keys_B, jnp.zeros(50, jnp.int32), jnp.float32(0)
  )
  np.testing.assert_array_equal(tokens_B, jnp.argmax(logits_BV, -1))
  np.testing.assert_allclose(
    logprobs_B, jax.nn.log_softmax(logits_BV).max(-1), atol=1e-6
  )


def test_a_draw_depends_on_its_row_and_position_only():
  logits_BV = jnp.zeros((4, 1000))
  keys_B = jax.random.split(jax.random.key(1), 4)
  positions_B = jnp.array([5, 6, 5, 7])
  temperature = jnp.float32(1)
  draw = lambda order: sampling.sample(
    logits_BV, keys_B[order], positions_B[order], temperature
  )[0]
  order = jnp.array([2, 0, 3, 1])
  np.testing.assert_array_equal(draw(jnp.arange(4))[order], draw(order))
  same_key = jnp.zeros(4, jnp.int32)
  apart = sampling.sample(
    logits_BV, keys_B[same_key], jnp.arange(4), temperature
  )[0]
  assert len(set(apart.tolist())) > 1
