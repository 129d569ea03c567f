"""The stream of ids: its arrays line up and nothing is lost."""

import math

import numpy as np
import pytest

from userrl_jax.chat import ledger as ledger_lib


def test_streams_line_up():
  ledger = ledger_lib.Ledger()
  ledger.read([5, 6])
  ledger.sample([7], [-0.5], 0)
  ledger.sample([8], [-0.25], 0)  # a turn may come in pieces
  ledger.read([9])
  ledger.sample(np.array([10], np.int32), np.array([-1.5], np.float32), 1)
  assert len(ledger) == ledger.num_tokens == 6
  assert ledger.token_ids == (5, 6, 7, 8, 9, 10)
  np.testing.assert_array_equal(ledger.token_ids_T(), [5, 6, 7, 8, 9, 10])
  np.testing.assert_array_equal(
    ledger.logprobs_T(), np.float32([0, 0, -0.5, -0.25, 0, -1.5])
  )
  np.testing.assert_array_equal(ledger.turn_ids_T(), [-1, -1, 0, 0, -1, 1])
  assert ledger.token_ids_T().dtype == np.int32
  assert ledger.logprobs_T().dtype == np.float32
  assert ledger.turn_ids_T().dtype == np.int32


def test_an_empty_ledger_has_empty_typed_arrays():
  ledger = ledger_lib.Ledger()
  assert ledger.token_ids_T().shape == (0,)
  assert ledger.turn_ids_T().dtype == np.int32


def test_what_was_handed_out_does_not_change_the_stream():
  ledger = ledger_lib.Ledger()
  ids = [1, 2]
  ledger.read(ids)
  ids.append(3)
  ledger.token_ids_T()[0] = 99
  assert ledger.token_ids == (1, 2)


@pytest.mark.parametrize(
  ("ids", "logprobs", "turn", "message"),
  [
    ([1, 2], [-1.0], 1, "2 ids and 1 log-probs"),
    ([1], [math.nan], 1, "finite"),
    ([1], [-math.inf], 1, "finite"),
    ([1], [-1.0], 0, "must be 1, got 0"),
    ([1], [-1.0], -1, "must be 1, got -1"),
    ([1], [-1.0], 2, "must be 1, got 2"),
    ([-1], [-1.0], 1, "negative"),
  ],
)
def test_refuses_without_changing_the_stream(ids, logprobs, turn, message):
  ledger = ledger_lib.Ledger()
  ledger.sample([4], [-1.0], 0)
  ledger.read([5])
  with pytest.raises(ValueError, match=message):
    ledger.sample(ids, logprobs, turn)
  assert ledger.token_ids == (4, 5)
  assert len(ledger.logprobs_T()) == len(ledger.turn_ids_T()) == 2
  ledger.sample([6], [-1.0], 1)


def test_two_turns_need_a_read_between_them():
  ledger = ledger_lib.Ledger()
  ledger.sample([4], [-1.0], 0)
  with pytest.raises(ValueError, match="must be 0, got 1"):
    ledger.sample([5], [-1.0], 1)
