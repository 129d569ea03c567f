"""Streams: epochs, no repeats in a draw, exact resume, clear errors."""

import collections
import itertools
import json

import numpy as np
import pytest

from userrl_jax import data
from userrl_jax import types


def make_tasks(num: int, gym: str = "function") -> list[types.Task]:
  return [
    types.Task(gym, f"t{i}", "train", 1, "s", {}, types.Secret({"x": i}))
    for i in range(num)
  ]


def make_trajectories(num: int) -> list[types.Trajectory]:
  return [
    types.Trajectory(
      task=task,
      member=0,
      iteration=0,
      token_ids_T=np.array([i, 1], np.int32),
      logprobs_T=np.zeros(2, np.float32),
      turn_ids_T=np.array([-1, 0], np.int32),
      turns=(),
      stop_reason=types.StopReason.TERMINATED,
    )
    for i, task in enumerate(make_tasks(num))
  ]


def ids(draws) -> list[list[str]]:
  return [[task.id for task in draw] for draw in draws]


def take(stream, num):
  return [stream.next() for _ in range(num)]


def test_an_epoch_holds_every_task_once_and_epochs_differ():
  stream = data.task_stream(make_tasks(12), 4, seed=0)
  first, second = ids(take(stream, 3)), ids(take(stream, 3))
  for epoch in (first, second):
    counts = collections.Counter(itertools.chain(*epoch))
    assert counts == {f"t{i}": 1 for i in range(12)}
  assert first != second


def test_no_task_twice_in_a_draw_when_epochs_do_not_divide():
  stream = data.task_stream(make_tasks(7), 4, seed=1)
  draws = ids(take(stream, 200))
  assert all(len(set(draw)) == 4 for draw in draws)
  counts = collections.Counter(itertools.chain(*draws))
  assert len(counts) == 7  # the remainder is not always the same tasks
  assert max(counts.values()) < 1.3 * min(counts.values())


def test_gyms_have_their_shares_of_every_draw():
  tasks = make_tasks(30, "function") + make_tasks(30, "travel")
  tasks += make_tasks(15, "telepathy")
  stream = data.task_stream(tasks, 10, seed=4)
  seen = collections.Counter()
  for draw in take(stream, 30):  # four epochs
    counts = collections.Counter(task.gym for task in draw)
    assert {g: counts[g] for g in ("function", "travel")} == {
      "function": 4,
      "travel": 4,
    }
    seen.update(f"{task.gym}/{task.id}" for task in draw)
  assert len(seen) == 75 and min(seen.values()) > 1


@pytest.mark.parametrize("sizes", [(10, 300, 3), (33, 33, 34), (101, 37, 5)])
@pytest.mark.parametrize("per_step", [4, 16])
def test_uneven_gyms_have_exact_epochs_and_near_shares(sizes, per_step):
  tasks = [t for g, n in enumerate(sizes) for t in make_tasks(n, f"g{g}")]
  stream = data.task_stream(tasks, per_step, seed=2)
  orders = set()
  for _ in range(3):
    epoch = take(stream, len(tasks) // per_step)
    names = [f"{t.gym}/{t.id}" for draw in epoch for t in draw]
    assert len(set(names)) == len(names) > len(tasks) - per_step
    orders.add(tuple(names))
    for draw in epoch:
      counts = collections.Counter(task.gym for task in draw)
      for g, n in enumerate(sizes):
        assert abs(counts[f"g{g}"] - per_step * n / len(tasks)) < 1.5
  assert len(orders) == 3


def test_seeds_decide_the_order():
  tasks = make_tasks(20)

  def draw(seed):
    return ids(take(data.task_stream(tasks, 5, seed), 6))

  assert draw(3) == draw(3)
  assert draw(3) != draw(4)


def test_the_given_order_alone_is_not_what_comes_out():
  draws = ids(take(data.task_stream(make_tasks(64), 64, seed=0), 1))
  assert draws[0] != [f"t{i}" for i in range(64)]


@pytest.mark.parametrize("done", [0, 1, 2, 3, 7])
def test_resumes_exactly_from_a_small_json_dict(done):
  tasks = make_tasks(7)
  stream = data.task_stream(tasks, 3, seed=9)
  take(stream, done)
  text = json.dumps(stream.get_state())
  rest = ids(take(stream, 9))
  assert len(text) < 300
  resumed = data.task_stream(tasks, 3, seed=9)
  resumed.next()  # wherever it stood
  resumed.set_state(json.loads(text))
  assert ids(take(resumed, 9)) == rest


@pytest.mark.parametrize(
  "other, name",
  [
    (lambda: data.task_stream(make_tasks(8), 3, 9), "num_items"),
    (lambda: data.task_stream(make_tasks(7), 2, 9), "per_step"),
    (lambda: data.task_stream(make_tasks(7), 3, 8), "seed"),
    (lambda: data.task_stream(make_tasks(7, "travel"), 3, 9), "items_sha256"),
  ],
)
def test_state_of_another_stream_is_refused(other, name):
  state = data.task_stream(make_tasks(7), 3, 9).get_state()
  with pytest.raises(ValueError, match=f"same {name}"):
    other().set_state(state)


def test_trajectories_stream_alike():
  demonstrations = make_trajectories(6)
  stream = data.trajectory_stream(demonstrations, 2, seed=0)
  epoch = list(itertools.chain(*take(stream, 3)))
  assert sorted(t.task.id for t in epoch) == [f"t{i}" for i in range(6)]
  assert all(isinstance(t, types.Trajectory) for t in epoch)
  state = stream.get_state()
  rest = [t.task.id for t in stream.next()]
  stream.set_state(state)
  assert [t.task.id for t in stream.next()] == rest
  swapped = demonstrations[1:] + demonstrations[:1]
  with pytest.raises(ValueError, match="items_sha256"):
    data.trajectory_stream(swapped, 2, seed=0).set_state(state)


@pytest.mark.parametrize("make", [data.task_stream, data.trajectory_stream])
def test_impossible_streams_are_refused(make):
  items = make_tasks(3) if make is data.task_stream else make_trajectories(3)
  with pytest.raises(ValueError, match="got 0"):
    make([], 1, 0)
  with pytest.raises(ValueError, match=r"=4 .*got 3"):
    make(items, 4, 0)
  with pytest.raises(ValueError, match="at least 1"):
    make(items, 0, 0)
  with pytest.raises(ValueError, match="seed"):
    make(items, 1, 2**32)
  assert len(make(items, 3, 0).next()) == 3


def test_two_tasks_of_one_id_are_refused():
  tasks = make_tasks(3)
  with pytest.raises(ValueError, match="function/t1 twice"):
    data.task_stream([*tasks, tasks[1]], 2, 0)
  both = [*tasks, *make_tasks(3, "travel")]
  assert len(data.task_stream(both, 6, 0).next()) == 6


def test_what_was_peeked_at_is_still_to_come():
  stream, plain = (data.task_stream(make_tasks(12), 4, seed=0) for _ in "ab")
  peeked = [stream.peek(i) for i in (2, 0, 1, 4)]
  state = stream.get_state()
  draws = ids(take(plain, 6))
  assert ids(peeked) == [draws[i] for i in (2, 0, 1, 4)]
  assert ids(take(stream, 2)) == draws[:2]
  resumed = data.task_stream(make_tasks(12), 4, seed=0)
  resumed.set_state(json.loads(json.dumps(state)))
  assert ids(take(resumed, 6)) == draws
  resumed.set_state(stream.get_state())
  assert ids(take(resumed, 4)) == draws[2:]
