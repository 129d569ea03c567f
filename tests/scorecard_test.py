"""Summaries of hand-worked episodes, and averages over gyms."""

import json

import numpy as np
import pytest

from userrl_jax import measures
from userrl_jax import scorecard
from userrl_jax import types


def make_trajectory(
  task_id: str,
  rewards: list[float],
  member: int = 0,
  fault: types.Fault = types.Fault.OK,
  gym: str = "function",
  info: dict | None = None,
  split: str = "test",
  max_score: float = 1.0,
  secret: dict | None = None,
) -> types.Trajectory:
  task = types.Task(gym, task_id, split, 1, "s", {}, types.Secret(secret or {}))
  turns = tuple(
    types.Turn("x", types.Action("answer", "1"), "no", r, info=info or {})
    for r in rewards
  )
  return types.Trajectory(
    task=task,
    member=member,
    iteration=0,
    token_ids_T=np.zeros(0, np.int32),
    logprobs_T=np.zeros(0, np.float32),
    turn_ids_T=np.zeros(0, np.int32),
    turns=turns,
    stop_reason=types.StopReason.TERMINATED,
    fault=fault,
    max_score=max_score,
  )


def test_summary_of_hand_worked_episodes():
  invalid = types.Fault.USER_TIMEOUT
  summary = scorecard.evaluation_summary(
    [
      make_trajectory("b", [0.0, 0.0, 0.0], member=1),
      make_trajectory("b", [0.25, 0.25], member=0),
      make_trajectory("a", [0.0, 1.0], member=0),
      make_trajectory("a", [], member=1, fault=invalid),
    ],
    stage="grpo",
    temperature=1,
    seed=0,
  )
  gym = summary["gyms"]["function"]
  assert gym["scores_by_task"] == {"a": [1.0, None], "b": [0.5, 0.0]}
  assert gym["score"] == pytest.approx((1.0 + 0.25) / 2)
  assert gym["score_if_invalid_0"] == pytest.approx((0.5 + 0.25) / 2)
  assert gym["score_if_invalid_1"] == pytest.approx((1.0 + 0.25) / 2)
  assert gym["success"] == pytest.approx((1.0 + 0.0) / 2)
  assert gym["turns"] == pytest.approx((2 + 3 + 2) / 3)
  assert (gym["num_tasks"], gym["num_attempts"], gym["invalid"]) == (2, 4, 1)
  assert summary["macro"] == {k: gym[k] for k in ("score", "low", "high")}
  text = json.dumps(summary, allow_nan=False)
  again = scorecard.Evaluation.from_dict(json.loads(text))
  assert again.to_dict() == summary
  assert again.gyms["function"].invalid == 1


def test_summary_of_two_gyms_and_of_a_dead_one():
  alive = [
    make_trajectory(f"t{i}", [float(i % 2)], gym=gym)
    for gym in ("function", "travel")
    for i in range(30)
  ]
  summary = scorecard.evaluation_summary(alive, "base", 1.0, seed=0)
  macro, one = summary["macro"], summary["gyms"]["function"]
  assert macro["score"] == pytest.approx(0.5)
  # Two independent gyms of equal spread: narrower by sqrt(2).
  ratio = (one["high"] - one["low"]) / (macro["high"] - macro["low"])
  assert 1.2 < ratio < 1.7
  dead = make_trajectory("x", [], fault=types.Fault.GYM_ERROR, gym="tau")
  summary = scorecard.evaluation_summary([*alive, dead], "s", 1.0, 0)
  assert summary["gyms"]["tau"]["score"] is None
  assert summary["gyms"]["tau"]["score_if_invalid_1"] == 1.0
  assert summary["macro"]["score"] is None


def test_splits_are_also_summarised_apart():
  summary = scorecard.evaluation_summary(
    [
      make_trajectory("a", [1.0], split="fresh"),
      make_trajectory("b", [0.0], split="fresh"),
      make_trajectory("c", [0.25]),
      make_trajectory("d", [3.0], gym="travel", max_score=4.0),
    ],
    "grpo",
    1.0,
    seed=0,
  )
  score = lambda gyms: {name: gym["score"] for name, gym in gyms.items()}
  assert score(summary["splits"]["fresh"]) == {"function": 0.5}
  assert score(summary["splits"]["test"]) == {"function": 0.25, "travel": 0.75}
  assert score(summary["gyms"]) == {
    "function": pytest.approx(1.25 / 3),
    "travel": 0.75,
  }
  again = scorecard.Evaluation.from_dict(json.loads(json.dumps(summary)))
  assert again.to_dict() == summary
  assert again.scores["travel"] == {"d": [0.75]}
  assert again.split_scores("fresh") == {"function": {"a": [1.0], "b": [0.0]}}


def test_held_out_gyms_are_in_no_number_of_the_others():
  def played(gym, score, split="test"):
    return [
      make_trajectory(f"{split}{i}", [score * (i % 2)], gym=gym, split=split)
      for i in range(10)
    ]

  # By name before, between and after those of training.
  trained = [*played("function", 1.0, "fresh"), *played("tau", 0.5)]
  others = [*played("a", 0.25), *played("search", 0.75, "fresh")]
  others += [make_trajectory("x", [], fault=types.Fault.GYM_ERROR, gym="zoo")]
  alone = scorecard.evaluation_summary(trained, "grpo", 1.0, 7)
  assert "held_out" not in alone
  names = ("a", "search", "zoo")
  both = scorecard.evaluation_summary(
    others + trained, "grpo", 1.0, 7, held_out_gyms=names
  )
  apart = scorecard.evaluation_summary(others, "grpo", 1.0, 7)
  held_out = both.pop("held_out")
  assert "overall" not in both  # zoo has nothing to tell from
  assert json.dumps(both) == json.dumps(alone)
  assert held_out == {name: apart[name] for name in held_out}
  assert list(held_out["gyms"]) == list(names)
  assert held_out["macro"]["score"] is None  # zoo's; that of training is whole
  assert both["macro"]["score"] == pytest.approx((0.5 + 0.25) / 2)
  whole = both | {"held_out": held_out}
  again = scorecard.Evaluation.from_dict(json.loads(json.dumps(whole)))
  assert again.to_dict() == whole
  assert again.held_out.split_scores("fresh")["search"]["fresh1"] == [0.75]
  assert [mean for *_, mean in again.groups] == [
    "mean of gyms",
    "mean of held-out gyms",
  ]
  assert [gym.format("a") for _, gym, _ in again.groups] == [
    "a",
    "a (held out)",
  ]


def test_summary_errors():
  with pytest.raises(ValueError, match="got none"):
    scorecard.evaluation_summary([], "base", 1.0, 0)
  with pytest.raises(ValueError, match="got none"):
    scorecard.evaluation_summary(
      [make_trajectory("a", [1.0])], "base", 1.0, 0, held_out_gyms=["function"]
    )
  twice = [make_trajectory("a", [1.0]), make_trajectory("a", [0.0])]
  with pytest.raises(ValueError, match="0 twice for function/a"):
    scorecard.evaluation_summary(twice, "base", 1.0, 0)
  with pytest.raises(ValueError, match="fields of Evaluation"):
    scorecard.Evaluation.from_dict({"stage": "base"})


def test_measures_of_a_gym_and_their_intervals():
  solved = [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]
  trajectories = [
    make_trajectory(f"t{i}", [0.0, float(r)], member=m, gym="telepathy")
    for i, own in enumerate(solved)
    for m, r in enumerate(own)
  ]
  lost = make_trajectory("t3", [], 3, types.Fault.USER_ERROR, gym="telepathy")
  summary = scorecard.evaluation_summary([*trajectories, lost], "s", 1.0, 0)
  gym = summary["gyms"]["telepathy"]
  got = {name: e["mean"] for name, e in gym["measures"].items()}
  counts = [2, 1, 0, 3]
  at = lambda k: np.mean([measures.pass_at_k(3, c, k) for c in counts])
  hat = lambda k: np.mean([measures.pass_hat_k(3, c, k) for c in counts])
  want = {
    **{"score": 0.5, "normalised": 0.5, "reward": 0.5, "completed": 1},
    **{"effective_turns": 1, "time_weighted": 0.25, "truncated": 0},
    **{"questions": 0, "words_read": 2, "format_validity": 1},
    **{"pass@1": 0.5, "pass@2": at(2), "pass^1": 0.5, "pass^2": hat(2)},
  }
  # Four attempts were made at t3 only, and one of them is invalid.
  assert got == pytest.approx(want, abs=1e-9)
  assert {e["num_tasks"] for e in gym["measures"].values()} == {4}
  score, at_1 = gym["measures"]["score"], gym["measures"]["pass@1"]
  assert (score["low"], score["high"]) == pytest.approx(
    (gym["low"], gym["high"]), abs=1e-9
  )
  assert at_1 == pytest.approx(score)
  assert gym["faults"] == {"user_error": 1}
  assert gym["stops"] == {"terminated": 13}
  assert gym["success_by_task"]["t3"] == [1.0, 1.0, 1.0, None]
  assert json.loads(json.dumps(summary, allow_nan=False)) == summary


# Table 3 of the paper: rewards of the eight gyms, and the average published.
TABLE = {
  "8B equalized/r2g": (
    (0.5730, 0.1854, 0.4231, 0.1818, 0.5317, 1.8175, 0.5610, 0.8880),
    0.5652,
  ),
  "GPT-4o": (
    (0.3643, 0.2917, 0.2821, 0.0303, 0.3770, 1.8975, 0.8537, 0.8800),
    0.4449,
  ),
}


@pytest.mark.parametrize("row", TABLE)
def test_the_micro_average_is_the_papers(row):
  rewards, published = TABLE[row]
  trajectories = []
  for gym, reward in zip(measures.PAPER_TEST_TASKS, rewards, strict=True):
    played = make_trajectory("t", [reward], gym=gym, secret={"aspects": [1]})
    trajectories.append(played)
  averages = scorecard.evaluation_summary(trajectories, "s", 1.0, 0)["averages"]
  micro, macro = averages["micro"]["reward"], averages["macro"]["reward"]
  assert round(micro["mean"], 4) == published
  assert micro["low"] == pytest.approx(micro["mean"])  # one task each
  assert macro["mean"] == pytest.approx(sum(rewards) / 8, abs=1e-9)
  assert micro["gyms"] == list(sorted(measures.PAPER_TEST_TASKS))
  assert "function" not in averages["macro"]["questions"]["gyms"]


PAPER_HELD_OUT = ("intention", "telepathy", "search")


@pytest.mark.parametrize("left_out", [(), ("tau",), ("search",)])
def test_averages_of_all_gyms_are_over_held_out_ones_too(left_out):
  rng = np.random.default_rng(0)
  played = [
    make_trajectory(f"t{i}", [float(x)], gym=gym, secret={"aspects": [1]})
    for gym in measures.PAPER_TEST_TASKS
    if gym not in left_out
    for i, x in enumerate(rng.random(5))
  ]
  together = scorecard.evaluation_summary(played, "s", 1.0, 3)
  assert "overall" not in together
  apart = scorecard.evaluation_summary(
    played, "s", 1.0, 3, held_out_gyms=PAPER_HELD_OUT
  )
  assert len(apart["averages"]["micro"]["reward"]["gyms"]) < 6
  want = dict(together["averages"])
  if left_out:  # it would be no average of the paper's
    del want["micro"]
  assert apart["overall"] == want and "macro" in want
  read = scorecard.Evaluation.from_dict(json.loads(json.dumps(apart)))
  assert read.to_dict() == apart


@pytest.mark.parametrize("row", TABLE)
def test_the_papers_average_is_over_the_gyms_it_holds_out(row):
  rewards, published = TABLE[row]
  played = [
    make_trajectory("t", [reward], gym=gym, secret={"aspects": [1]})
    for gym, reward in zip(measures.PAPER_TEST_TASKS, rewards, strict=True)
  ]
  overall = scorecard.evaluation_summary(
    played, "s", 1.0, 0, held_out_gyms=PAPER_HELD_OUT
  )["overall"]
  assert round(overall["micro"]["reward"]["mean"], 4) == published


def test_averages_need_every_gym_and_known_weights():
  alive = [make_trajectory(f"t{i}", [i % 2]) for i in range(20)]
  own = make_trajectory("x", [1.0], gym="ours")
  averages = lambda *more: scorecard.evaluation_summary(
    [*alive, *more], "s", 1.0, 0
  )["averages"]
  assert list(averages(own)) == ["macro"]
  dead = make_trajectory("x", [], fault=types.Fault.GYM_ERROR, gym="tau")
  assert averages(dead) == {}
  one = averages()
  assert one["macro"]["score"] == one["micro"]["score"]
  assert one["macro"]["score"]["mean"] == pytest.approx(0.5)


def test_an_evaluation_of_an_earlier_version_is_read():
  summary = scorecard.evaluation_summary(
    [make_trajectory("a", [1.0])], "s", 1.0, 0
  )
  for name in ("averages", "pins"):
    del summary[name]
  for gyms in (summary["gyms"], summary["splits"]["test"]):
    for name in ("measures", "faults", "stops", "success_by_task"):
      del gyms["function"][name]
  read = scorecard.Evaluation.from_dict(json.loads(json.dumps(summary)))
  assert read.gyms["function"].score == 1.0
  assert read.averages == read.pins == read.overall == {}
