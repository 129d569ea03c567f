"""Tests of sources."""

import collections
import itertools

import pytest

from userrl_jax.gyms import sources


def distinct(split, draw, is_fresh=lambda drawn: drawn % 2 == 0, seed=0):
  return sources.distinct("gym", seed, 1, split, draw, is_fresh)


def test_split_shares_hold_for_many_small_families():
  families = [f"kind{number % 40}" for number in range(400)]
  splits = sources.split_families(families, {"test": 0.1, "dev": 0.05})
  sizes = collections.Counter(splits[kind] for kind in families)
  assert sizes == {"train": 340, "test": 40, "dev": 20}


def test_a_family_too_large_for_a_share_is_trained_on():
  families = ["large"] * 9 + ["small"]
  splits = sources.split_families(families, {"test": 0.1})
  assert splits == {"large": "train", "small": "test"}


def test_train_and_fresh_tasks_share_draws_and_no_task():
  def draw(rng, home):
    assert home == "train"
    return rng.randrange(40)

  train = [drawn for _, drawn in itertools.islice(distinct("train", draw), 20)]
  fresh = [drawn for _, drawn in itertools.islice(distinct("fresh", draw), 20)]
  assert sorted(train) == list(range(1, 40, 2))
  assert sorted(fresh) == list(range(0, 40, 2))


def test_more_tasks_begin_with_fewer_and_seeds_differ():
  def draw(rng, _):
    return rng.randrange(10**9)

  few = list(itertools.islice(distinct("dev", draw), 3))
  many = list(itertools.islice(distinct("dev", draw), 9))
  other = list(itertools.islice(distinct("dev", draw, seed=1), 3))
  assert many[:3] == few
  assert [task_id for task_id, _ in few] == [
    f"gen0-L1-dev-{i}" for i in (0, 1, 2)
  ]
  assert not {drawn for _, drawn in few} & {drawn for _, drawn in other}


def test_a_stream_ends_with_a_clear_error():
  stream = distinct("test", lambda rng, _: rng.choice([None, 1, 2]))
  with pytest.raises(
    ValueError, match=r"level 1 has no more than about 2 test"
  ):
    list(stream)


def test_digest_is_the_same_in_every_process():
  assert sources.digest("a task") == 15611806950145096166
  kept = sum(sources.is_kept(str(number)) for number in range(4000))
  assert 400 < kept < 600
