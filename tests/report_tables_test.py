"""The report's further tables, from files that a run's own writers made."""

import json
import re

import numpy as np
import pytest

from tests import report_test
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import costs
from userrl_jax import metrics
from userrl_jax import report
from userrl_jax import report_tables
from userrl_jax import run_folder
from userrl_jax import scorecard
from userrl_jax import types


def make_trajectory(rewards, member, task="t0", bits=None, profile=""):
  turn_ids = np.r_[-1, np.repeat(np.arange(len(rewards)), 3)].astype(np.int32)
  return types.Trajectory(
    types.Task("telepathy", task, "test", 1, "s", {}, types.Secret({})),
    member=member,
    iteration=7,
    token_ids_T=np.arange(turn_ids.size, dtype=np.int32),
    logprobs_T=np.where(turn_ids >= 0, -0.5, 0).astype(np.float32),
    turn_ids_T=turn_ids,
    turns=tuple(
      types.Turn(
        f"text {k}",
        types.Action("action", "Is it alive?"),
        "No.",
        reward,
        info={} if bits is None else {"information_bits": bits[k]},
      )
      for k, reward in enumerate(rewards)
    ),
    stop_reason=types.StopReason.TERMINATED,
    profile=profile,
  )


GROUP = [
  make_trajectory([0, 0, 1], 0, bits=[1, 2, 0.5]),
  make_trajectory([0, 0], 1, bits=[0, 1]),
]
FLAT = [make_trajectory([1], m, "t1", bits=[3]) for m in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  with metrics.Writers(folder, ("cold_start", "grpo")) as writers:
    steps = [("cold_start", 0), ("cold_start", 1), ("grpo", 0), ("grpo", 1)]
    for stage, step in steps:
      numbers = {"time/step_s": 2.0, "train/num_tokens": 10.0}
      if stage == "grpo":
        numbers |= {"user/requests": 5.0, "user/usd": 0.25}
        writers.write_transcripts(stage, step, [*GROUP, *FLAT])
      writers.write(stage, step, numbers, time_s=step)
  played = [*GROUP, *FLAT, make_trajectory([1], 0, "t2", [1], "terse")]
  summary = scorecard.evaluation_summary(played, "grpo", 1.0, seed=0)
  summary["forgetting"] = {"perplexity_turns": 1.25, "num_dialogues": 9}
  start = {"perplexity_turns": 1.125, "num_dialogues": 9}
  metrics.write_json(folder / run_folder.FORGETTING_START, start)
  (folder / "evaluations").mkdir()
  (folder / "evaluations" / "grpo.json").write_text(json.dumps(summary))
  metrics.write_transcripts(
    folder / "transcripts" / "evaluation_grpo.jsonl", played
  )
  (folder / costs.FILE).write_text(
    '{"stage": "grpo", "time/step_s": 3, "user/requests": 7, "user/usd": 1}\n'
    '{"stage": "grpo", "time/step_s": 1}\n'
  )
  c = config_lib.Config(stages=("cold_start", "grpo"))
  c.grpo.credit = config_lib.Credit(score="sum", credit="em", normalize="none")
  metrics.write_json(folder / "config.json", config_fields.to_dict(c))
  metrics.write_json(
    folder / "environment.json",
    {
      "command": "python -m first",
      "resumed": [{"command": ["python", "-m", "again"], "time": "at noon"}],
    },
  )
  looks = [[2, 0.5], [4, 0.25]]
  metrics.write_json(
    folder / "selection.json",
    {
      "grpo": {
        "what": "selection/score",
        "looks": looks,
        "best": 2,
        "used": 4,
      }
    },
  )
  return folder


@pytest.fixture(scope="module")
def run(folder):
  return run_folder.read(folder, report.MAX_TRAINING)


def test_costs_are_added_up(run):
  found = report_tables.costs(run)
  titles = dict(found["columns"])
  assert titles["user/usd"] == "US dollars" and "user/outage_s" not in titles
  rows = {(stage, what): dict(own) for stage, what, own in found["rows"]}
  assert list(rows) == [
    *(("cold_start", "training"), ("grpo", "training")),
    *(("grpo", "evaluation"), ("", "")),
  ]
  assert rows["cold_start", "training"]["time/step_s"] == 4
  assert rows["grpo", "training"]["steps"] == 2
  # Two processes finished an evaluation of GRPO.
  assert rows["grpo", "evaluation"]["user/requests"] == 7
  assert rows["grpo", "evaluation"]["time/step_s"] == 4
  total = rows["", ""]
  assert (total["train/num_tokens"], total["user/usd"]) == (40, 1.5)
  assert total["steps"] == 4


def test_bits_are_means_over_episodes_that_had_the_turn(run):
  found = report_tables.information(run)
  (row,) = found["rows"]
  assert (row["stage"], row["gym"], row["num"]) == ("grpo", "telepathy", 5)
  # 1 2 0.5 | 0 1 | 3 | 3 | 1
  assert row["turns"] == pytest.approx([8 / 5, 3 / 2, 0.5])
  assert row["episode"] == pytest.approx(11.5 / 5)
  assert found["num_turns"] == 3


def test_measures_and_profiles_are_those_of_the_evaluation(run):
  found = report_tables.measures(run)
  (row,) = found["rows"]
  assert row[:2] == ("grpo", "telepathy")
  evaluation = run.evaluations["grpo"].gyms["telepathy"]
  assert row[2] == dict(evaluation.measures)
  names = [name for name, _ in found["names"]]
  assert {"effective_turns", "time_weighted", "questions"} <= set(names)
  assert "score" not in names and len(set(names)) == len(names)
  profiles = report_tables.profiles(run)
  assert [(stage, name) for stage, name, _ in profiles["rows"]] == [
    ("grpo", "terse")
  ]


def test_turns_get_the_credit_and_the_advantage_of_training(run):
  shown, why = report_tables.credited(run, 2)
  assert why == ""
  first, second = shown["grpo"]  # not the flat group, which is written last
  # Sums 1 and 0, less their mean; em credits of rewards 0 and 1, m = 2.
  credits = [0.5, 0.5, 1.0]
  assert [t["credit"] for t in first["turns"]] == pytest.approx(credits)
  want = [0.5 * c * 3 / 2 for c in credits]
  assert [t["advantage"] for t in first["turns"]] == pytest.approx(want)
  assert [t["advantage"] for t in second["turns"]] == pytest.approx([-0.5] * 2)
  assert [t["share"] for t in first["turns"]] == pytest.approx([0.5, 0.5, 1])
  many, _ = report_tables.credited(run, 8)
  assert [t["advantage"] for t in many["grpo"][0]["turns"]] == [0]  # the flat


def test_without_a_config_there_are_dialogues_and_a_reason(run):
  bare = run_folder.Run(**{**vars(run), "config": {}})
  shown, why = report_tables.credited(bare, 2)
  assert len(shown["grpo"]) == 2 and "KeyError" in why
  assert "advantage" not in shown["grpo"][0]["turns"][0]


def test_all_of_it_is_on_the_page(folder):
  page = report.write(folder).read_text()
  # Training's dialogues are found by the same filters.
  found = re.findall(
    r'<details class="task card".*\n.*training, step 1</span>', page
  )
  assert len(found) == len([*GROUP, *FLAT])
  words = " ".join(" ".join(report_test.Reader(page).words).split())
  for text in (
    "Best checkpoints",
    "score on held-back tasks 2 0.500 2 0.250 4",
    "Scores by profile of the users",
    "effective turns",
    "What is forgotten",
    "start 1.125 9",
    "1.250 9",
    "What turns told, in bits",
    "2.30 1.60 1.50 0.50",
    "Cost ledger",
    "python -m first",
    "resumed at noon python -m again",
    "credit 1.000 advantage +0.750",
  ):
    assert text in words, text
  assert re.search(r'<pre class="up" style="--a:45%">text 2</pre>', page)
  assert '<pre class="down"' in page
