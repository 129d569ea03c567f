"""Transcripts scored anew: as training scores, and by hand."""

import dataclasses
import json
import re

import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import metrics
from userrl_jax import rescore
from userrl_jax import types
from userrl_jax.learning import advantages
from userrl_jax.learning import batching
from userrl_jax.learning import credit
from userrl_jax.learning import iterations

# The worked group of learning/credit.py, three tokens a turn.
REWARDS = ([0, 0, 1], [0.2, 0.8], [0, 0, 0, 0], [0.5, 0, 0.5])


def make_trajectory(rewards, member, task="t", num_tokens=3, fault="ok"):
  turn_ids = np.repeat(np.arange(len(rewards)), num_tokens)
  return types.Trajectory(
    types.Task("tau", task, "test", 1, "s", {}, types.Secret({})),
    member=member,
    iteration=-10,
    token_ids_T=np.arange(1, 2 + turn_ids.size, dtype=np.int32),
    logprobs_T=np.r_[0, -0.5 * np.ones(turn_ids.size)].astype(np.float32),
    turn_ids_T=np.r_[-1, turn_ids].astype(np.int32),
    turns=tuple(types.Turn("x", None, "", r) for r in rewards),
    stop_reason=types.StopReason.TERMINATED,
    fault=types.Fault(fault),
    max_score=1.0 if task == "t" else 2.0,
  )


GROUPS = [
  [make_trajectory(r, m) for m, r in enumerate(REWARDS)],
  [make_trajectory([0.5], m, "flat") for m in range(3)],
  [
    make_trajectory([1.0, 0.1], 0, "u", num_tokens=5),
    make_trajectory([0.0], 1, "u"),
    make_trajectory([1.0], 2, "u", fault="user_error"),
    make_trajectory([0.3, 0.3, 0.3], 3, "u", num_tokens=1),
  ],
]


def records(trajectories):
  made = [metrics.trajectory_record(t) for t in trajectories]
  return [json.loads(json.dumps(record)) for record in made]


SCALED = {
  "reward_scale": "share",
  "gym_scales": ("tau=0.5",),
  "spread": "signed",
  "normalize": "leave_one_out",
  "turn_penalty": 0.1,
  "length_penalty": 20.0,
}
RECORDS = records(t for group in GROUPS for t in group)


@pytest.mark.parametrize("score", credit.SCORES)
@pytest.mark.parametrize("name", credit.CREDITS)
@pytest.mark.parametrize(
  "changes", [{}, SCALED, {"hold_until": 2}], ids=["plain", "scaled", "held"]
)
def test_advantages_are_those_of_training(score, name, changes):
  settings = config.Credit(score=score, credit=name, **changes)
  batch, _ = batching.pack(
    [types.Group(group[0].task, group) for group in GROUPS],
    config.Packing(row_length=32, rows_per_micro_batch=8, logprob_chunk=8),
    **{"group_size": 4, "max_turns": 4, "num_tasks": 3, "capacity": 2},
    credit=settings,
  )
  want = credit.group_advantages(
    batch.rewards_PGK,
    batch.turn_mask_PGK,
    batch.num_tokens_PGK,
    batch.valid_PG,
    settings,
    facts_PGKF=batch.facts_PGKF,
  )
  if name == "information":
    with pytest.raises(ValueError, match="must hold what turns told"):
      rescore.rescore(RECORDS, settings)
    return
  # Written in another order, it is the same.
  episodes = rescore.rescore(RECORDS[::-1], settings)[::-1]
  flat = [t for group in GROUPS for t in group]
  for trajectory, episode in zip(flat, episodes, strict=True):
    p = ["t", "flat", "u"].index(trajectory.task.id)
    got = episode.advantages
    assert len(got) == len(trajectory.turns)
    np.testing.assert_allclose(
      got, want[p, trajectory.member, : len(got)], atol=1e-6
    )
  assert {e.task for e in episodes if e.is_flat} == {"flat"}


def _of_training(groups, settings):
  """Returns the advantages that training gives members, by group and member."""
  grpo = config.Grpo(group_size=4, tasks_per_iteration=3, credit=settings)
  packing = config.Packing(
    row_length=32, rows_per_micro_batch=8, logprob_chunk=8
  )
  shape = {"max_turns": 4, "num_tasks": 3, "capacity": 2, "seed": (0,)}
  (batch,), _ = iterations.pack(
    [types.Group(group[0].task, group) for group in groups],
    packing,
    grpo,
    **shape,
  )
  return advantages.of_turns(batch, settings, np)


@pytest.mark.parametrize("name", ["em", "predicted"])
@pytest.mark.parametrize("is_released", [False, True])
def test_a_file_of_several_iterations_is_as_training_took_them(
  name, is_released
):
  settings = config.Credit(credit=name, released=is_released, score="sum")
  lone = [
    dataclasses.replace(t, fault=types.Fault.USER_ERROR) if m else t
    for m, t in enumerate(GROUPS[2])
  ]
  later = [
    [dataclasses.replace(t, iteration=-9) for t in group]
    for group in (GROUPS[2], GROUPS[0][::-1])
  ]
  earlier = [GROUPS[0], lone]
  flat = [t for group in (*earlier, *later) for t in group]
  episodes = iter(rescore.rescore(records(flat), settings))
  for groups, wanted in (
    (earlier, _of_training(earlier, settings)),
    (later, _of_training(later, settings)),
  ):
    for group, want_GK in zip(groups, wanted, strict=False):
      for place, trajectory in enumerate(group):
        got = next(episodes).advantages
        want = want_GK[place] if group is not lone else np.zeros(4)
        assert len(got) == len(trajectory.turns)
        np.testing.assert_allclose(got, want[: len(got)], atol=1e-6)


def test_the_worked_example():
  settings = config.Credit(score="r2g", credit="em")
  episodes = rescore.rescore(RECORDS[:4], settings)
  assert [e.score for e in episodes] == pytest.approx([0.64, 0.84, 0, 0.82])
  assert episodes[1].advantages == pytest.approx([0.5627, 0.7834], abs=1e-4)


def test_ranks_of_credit_and_bits_by_hand(run, capsys):
  """Last turns do not count: of t1 to t4 two, one, three and two turns do."""
  bits = [[0, 1, 9], [2, 9], [3, 3, 4, 9], [5, 0, 9]]
  told = json.loads(json.dumps(RECORDS[:4]))
  for record, own in zip(told, bits, strict=True):
    for turn, b in zip(record["turns"], own, strict=True):
      turn["privileged"]["information_bits"] = b
  rank = lambda credit, **kw: rescore.rank_with_bits(
    rescore.rescore(told, config.Credit(credit=credit, score="sum", **kw))
  )
  # Naive credits 0, 0 | 0.2 | 0, 0, 0 | 0.5, 0 have ranks 3.5 but 7 and 8;
  # bits 0, 1 | 2 | 3, 3, 4 | 5, 0 have 1.5, 3 | 4 | 5.5, 5.5, 7 | 8, 1.5.
  credits = np.array([3.5, 3.5, 7, 3.5, 3.5, 3.5, 8, 3.5])
  ranks = np.array([1.5, 3, 4, 5.5, 5.5, 7, 8, 1.5])
  want = np.corrcoef(credits, ranks)[0, 1]
  assert rank("naive") == pytest.approx(want, abs=1e-12)
  assert rank("information") == pytest.approx(1)
  assert rank("equalized") is None  # it never varies
  assert (
    rescore.rank_with_bits(rescore.rescore(RECORDS, config.Credit())) is None
  )

  # Of what was chosen: 0, 0 | 0.2 | - | 0.5 have told 0, 1 | 2 | - | 5.
  chosen = ["aax", "ax", "sssa", "asa"]
  for record, letters in zip(told, chosen, strict=True):
    for turn, letter in zip(record["turns"], letters, strict=True):
      choice = {"a": "action", "s": "search", "x": "answer"}[letter]
      turn["action"] = {"choice": choice, "content": "it"}
  of_actions = rescore.rank_with_bits(
    rescore.rescore(told, config.Credit(credit="naive", score="sum")), "action"
  )
  want_actions = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
  assert of_actions == pytest.approx(want_actions, abs=1e-12)

  run.write_text("".join(json.dumps(r) + "\n" for r in told))
  assert rescore.main([str(run), "--credit=naive"]) == 0
  head, _, row = capsys.readouterr().out.splitlines()
  assert head.endswith("| rank with bits in the run | rank with bits now |")
  assert row.endswith(f"| - | {want:.3f} |")


@pytest.fixture
def run(tmp_path):
  (tmp_path / "transcripts").mkdir()
  path = tmp_path / "transcripts" / "evaluation_grpo.jsonl"
  path.write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
  trained = config.Config(grpo=config.Grpo(credit=config.Credit(score="sum")))
  values = dataclasses.asdict(trained)
  (tmp_path / "config.json").write_text(json.dumps(values))
  return path


def test_the_command_compares_with_the_run(run, tmp_path, capsys):
  out = tmp_path / "out.json"
  assert rescore.main([str(run), "--credit=em", f"--json={out}"]) == 0
  row = capsys.readouterr().out.splitlines()[2].split(" | ")
  # 10 valid episodes, sums of rewards; the setting of scores is the run's.
  mean = (1 + 1 + 0 + 1 + 3 * 0.5 + 1.1 + 0 + 0.9) / 10
  assert row[:4] == ["| tau", "10", f"{mean:.3f}", f"{mean:.3f}"]
  assert row[4] == "0.300" and 0.5 < float(row[-1].rstrip(" |")) < 1
  written = json.loads(out.read_text())
  assert written["settings"]["score"] == "sum"
  assert written["settings"]["credit"] == "em"
  assert len(written["episodes"]) == len(RECORDS)
  assert rescore.main([str(run)]) == 0
  assert capsys.readouterr().out.splitlines()[2].endswith("1.000 |")


@pytest.mark.parametrize(
  ("text", "flags", "message"),
  [
    ("", [], "must hold transcripts, got an empty file"),
    ('{"gym": "tau"}\n', [], "line 1 must be a transcript .* KeyError: 'task'"),
    (None, ["--credit=best"], "credit.credit must be one of .* got 'best'"),
    (None, ["--gamma=2"], "credit.gamma must be within 0 and 1"),
    (json.dumps(RECORDS[0]) + "\n", 2, "got 0 twice for tau/t"),
  ],
)
def test_what_is_wrong_is_told(run, text, flags, message, capsys):
  if text is not None:
    run.write_text(text * (flags or 1))
  flags = flags if isinstance(flags, list) else []
  assert rescore.main([str(run), *flags]) == 2
  error = capsys.readouterr().err
  assert re.search(message, error), error


def test_a_run_without_a_config_is_told(run, capsys):
  (run.parent.parent / "config.json").unlink()
  assert rescore.main([str(run)]) == 2
  assert "must be the config of the run" in capsys.readouterr().err
