"""Numbers by hand, transcripts without secrets, files that survive a kill."""

import dataclasses
import json
import math

import numpy as np
import pytest

from userrl_jax import metrics
from userrl_jax import types

PASSWORD = "the function is a+b*c"


def make_turn(reward=0.0, fault=types.Fault.OK, **fields) -> types.Turn:
  action = types.Action("action", "1 2 3 4")
  if fault == types.Fault.AGENT_MALFORMED:
    action = None
  return types.Turn("call", action, "f = 3", reward, fault, **fields)


def make_trajectory(
  turns,
  num_tokens=(2,),
  task_id="t1",
  gym="function",
  member=0,
  stop=types.StopReason.TERMINATED,
  fault=types.Fault.OK,
) -> types.Trajectory:
  ids = [-1, -1]
  for k, n in enumerate(num_tokens):
    ids += [k] * n + [-1]
  ids = np.array(ids, np.int32)
  return types.Trajectory(
    task=types.Task(
      gym=gym,
      id=task_id,
      split="train",
      level=1,
      structure="linear",
      public={"test_case": (1, 2)},
      secret=types.Secret({"rule": PASSWORD}),
    ),
    member=member,
    iteration=7,
    token_ids_T=np.arange(len(ids), dtype=np.int32),
    logprobs_T=np.where(ids >= 0, -0.5 * (ids + 1), 0).astype(np.float32),
    turn_ids_T=ids,
    turns=tuple(turns),
    stop_reason=stop,
    fault=fault,
    prompt="Find the function.",
  )


def make_group(*trajectories) -> types.Group:
  return types.Group(trajectories[0].task, trajectories)


def test_summary_by_hand():
  malformed = types.Fault.AGENT_MALFORMED
  timeout = types.Fault.USER_TIMEOUT
  groups = [
    make_group(
      make_trajectory([make_turn(0.0), make_turn(1.0)], (3, 5)),
      make_trajectory(
        [make_turn(0.0, malformed)], (4,), stop=types.StopReason.TURN_LIMIT
      ),
      make_trajectory(
        [make_turn(0.5), make_turn(0.0, timeout)],
        (2, 2),
        stop=types.StopReason.FAULT,
        fault=timeout,
      ),
    ),
    make_group(
      make_trajectory([make_turn(0.5)], (6,), gym="travel"),
      make_trajectory(
        [],
        (),
        gym="travel",
        stop=types.StopReason.FAULT,
        fault=types.Fault.GYM_ERROR,
      ),
    ),
  ]
  numbers = metrics.summarize_groups(groups)
  expected = {
    "episode/num": 5,
    "reward/function": (1.0 + 0.0) / 2,
    "score/function": 0.5,
    "success/function": 0.5,
    "turns/function": 1.5,
    "flat/function": 0.0,
    "reward/travel": 0.5,
    "score/travel": 0.5,
    "success/travel": 0.0,
    "turns/travel": 1.0,
    "flat/travel": 1.0,
    "score/macro": 0.5,
    "episode/turns": (2 + 1 + 1) / 3,
    "episode/tokens_per_turn": (3 + 5 + 4 + 6) / 4,
    "episode/invalid_share": 2 / 5,
    "turn/malformed_share": 1 / 6,
    "group/flat_share": 1 / 2,
    "group/too_few": 1.0,
    "stop/terminated": 2 / 5,
    "stop/turn_limit": 1 / 5,
    "stop/fault": 2 / 5,
    "fault/agent_malformed": 1,
    "fault/user_timeout": 1,
    "fault/gym_error": 1,
    "fault/function/agent_malformed": 1,
    "fault/function/user_timeout": 1,
    "fault/travel/gym_error": 1,
  }
  assert {n: v for n, v in numbers.items() if v} == pytest.approx(
    {n: v for n, v in expected.items() if v}
  )
  # Every reason and kind is there, at zero too, so that files have columns.
  for reason in types.StopReason:
    assert f"stop/{reason}" in numbers
  for kind in set(types.Fault) - {types.Fault.OK}:
    assert f"fault/{kind}" in numbers
  assert "fault/ok" not in numbers
  assert all(type(value) is float for value in numbers.values())


def test_a_gym_without_a_valid_episode_leaves_no_macro_score():
  error = types.Fault.GYM_ERROR
  groups = [
    make_group(make_trajectory([make_turn(1.0)], gym=gym))
    for gym in ("function", "travel")
  ]
  assert metrics.summarize_groups(groups)["score/macro"] == 1.0
  dead = make_group(make_trajectory([], (), gym="telepathy", fault=error))
  numbers = metrics.summarize_groups([*groups, dead])
  assert numbers["score/travel"] == 1.0 and "score/macro" not in numbers


def test_summary_of_nothing_has_no_means():
  numbers = metrics.summarize_groups([])
  assert numbers["episode/num"] == 0
  assert not any(n.startswith(("reward", "stop", "group")) for n in numbers)


def test_flat_groups_ignore_invalid_members():
  invalid = make_trajectory([make_turn(9.0)], fault=types.Fault.GYM_ERROR)
  flat = make_group(make_trajectory([make_turn(1.0)]), invalid)
  uneven = make_group(
    make_trajectory([make_turn(1.0)]), make_trajectory([make_turn(0.0)])
  )
  assert metrics.summarize_groups([flat])["group/flat_share"] == 1
  assert metrics.summarize_groups([uneven])["group/flat_share"] == 0


def test_record_has_both_sides_and_no_secret():
  info = {
    "outcome": types.Fault.OK,
    "size": np.float32(0.5),
    "seen": {2, 1},
    "hidden": types.Secret({"rule": PASSWORD}),
  }
  trajectory = make_trajectory(
    [make_turn(0.5, info=info), make_turn(0.0, types.Fault.AGENT_MALFORMED)],
    (2, 4),
  )
  record = metrics.trajectory_record(trajectory)
  text = json.dumps(record, allow_nan=False)
  assert PASSWORD not in text
  assert json.loads(text) == record
  assert record["public"] == {"test_case": [1, 2]}
  assert record["prompt"] == "Find the function."
  first, second = record["turns"]
  assert first["action"] == {"choice": "action", "content": "1 2 3 4"}
  assert (first["text"], first["observation"]) == ("call", "f = 3")
  assert (first["num_tokens"], first["mean_logprob"]) == (2, -0.5)
  assert (second["num_tokens"], second["mean_logprob"]) == (4, -1.0)
  assert second["action"] is None and second["fault"] == "agent_malformed"
  assert first["privileged"] == {
    "outcome": "ok",
    "size": 0.5,
    "seen": [1, 2],
    "hidden": "<secret>",
  }
  assert "outcome" not in json.dumps({**record, "turns": []})
  assert record["num_tokens"] == trajectory.token_ids_T.size
  assert record["num_sampled"] == 6
  assert "stream" not in record


def test_what_turns_told_is_privileged():
  """By hand: f(1, 0, 0, 0) = 1 leaves 20 of the 57 rules of level 1."""
  played = make_trajectory([make_turn(0.0)] * 2)
  asked = types.Action("action", "1 0 0 0")
  secret = {"rule": "a + b - c + d", "test_case": (2, 5, 1, 3)}
  trajectory = dataclasses.replace(
    played,
    task=dataclasses.replace(played.task, level=1, secret=types.Secret(secret)),
    turns=tuple(dataclasses.replace(t, action=asked) for t in played.turns),
  )
  record = metrics.trajectory_record(trajectory)
  told = [t["privileged"]["information_bits"] for t in record["turns"]]
  assert told == pytest.approx([math.log2(57 / 20), 0], abs=1e-6)
  for turn in record["turns"]:
    del turn["privileged"]
  assert "bits" not in json.dumps(record)


def test_record_with_a_tokenizer_shows_the_stream():
  class Letters:
    def decode(self, ids):
      return "".join(chr(97 + i) for i in ids)

  record = metrics.trajectory_record(make_trajectory([make_turn()]), Letters())
  assert record["stream"] == "abcde"


def run_steps(folder, first, last, resume=None, stage="grpo", begun=()):
  with metrics.Writers(folder, ["base", "grpo"], resume, begun) as writers:
    for step in range(first, last):
      writers.write(
        stage, step, {"b/x": step / 7, "a": np.float32(1)}, time_s=first + step
      )
      writers.write_transcripts(
        stage, step, [make_trajectory([make_turn(float(step))])]
      )


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(records):
  return [{k: v for k, v in r.items() if k != "time_s"} for r in records]


def test_resumed_files_equal_uninterrupted_ones(tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  for folder in (whole, killed):
    run_steps(folder, 0, 3, stage="base")
  run_steps(whole, 0, 6, ("grpo", 0))
  run_steps(killed, 0, 5, ("grpo", 0))  # checkpoint after step 2
  with (killed / "metrics.jsonl").open("a") as file:
    file.write('{"stage": "grpo", "st')  # killed while writing
  with (killed / "transcripts" / "grpo.jsonl").open("a") as file:
    file.write('{"stage": "grpo", "step": 1, "reward": 0.0}')  # no newline
  run_steps(killed, 3, 6, ("grpo", 3))
  for name in ("metrics.jsonl", "transcripts/grpo.jsonl"):
    got, want = read(killed / name), read(whole / name)
    assert without_times(got) == without_times(want)
  records = read(killed / "metrics.jsonl")
  assert [(r["stage"], r["step"]) for r in records] == [
    *(("base", i) for i in range(3)),
    *(("grpo", i) for i in range(6)),
  ]
  assert len(read(killed / "transcripts" / "base.jsonl")) == 3


def test_resuming_an_earlier_stage_drops_later_ones(tmp_path):
  run_steps(tmp_path, 0, 3, stage="base")
  run_steps(tmp_path, 0, 2, ("grpo", 0))
  metrics.Writers(tmp_path, ["base", "grpo"], ("base", 1)).close()
  records = read(tmp_path / "metrics.jsonl")
  assert [(r["stage"], r["step"]) for r in records] == [("base", 0)]
  assert read(tmp_path / "transcripts" / "grpo.jsonl") == []


def test_steps_done_again_take_their_place_before_a_stage_that_stays(tmp_path):
  whole, fell_back = tmp_path / "whole", tmp_path / "fell_back"
  for folder in (whole, fell_back):
    run_steps(folder, 0, 3, stage="base")
    run_steps(folder, 0, 2, ("grpo", 0))
  run_steps(fell_back, 1, 3, ("base", 1), stage="base", begun=["grpo"])
  for name in ("metrics", "transcripts/base", "transcripts/grpo"):
    got, want = (read(f / f"{name}.jsonl") for f in (fell_back, whole))
    assert without_times(got) == without_times(want)


def test_a_fresh_run_keeps_nothing(tmp_path):
  run_steps(tmp_path, 0, 3)
  run_steps(tmp_path, 0, 1)
  assert len(read(tmp_path / "metrics.jsonl")) == 1
  assert len(read(tmp_path / "transcripts" / "grpo.jsonl")) == 1


def test_every_line_is_on_disk_at_once(tmp_path):
  writers = metrics.Writers(tmp_path, ["base"])
  writers.write("base", 0, {"x": 0.1 + 0.2}, time_s=1.0)
  records = read(tmp_path / "metrics.jsonl")
  assert records == [
    {"stage": "base", "step": 0, "time_s": 1.0, "x": 0.1 + 0.2}
  ]
  writers.close()


def test_broken_middle_line_names_file_and_line(tmp_path):
  run_steps(tmp_path, 0, 2)
  path = tmp_path / "metrics.jsonl"
  path.write_text("not json\n" + path.read_text())
  before = path.read_text()
  with pytest.raises(ValueError, match=r"metrics.jsonl line 1 .*'not json"):
    metrics.Writers(tmp_path, ["grpo"], ("grpo", 1))
  assert path.read_text() == before


def test_bad_numbers_and_stages_are_refused(tmp_path):
  with (
    metrics.Writers(tmp_path, ["grpo"]) as writers,
    pytest.raises(ValueError, match="for loss"),
  ):
    writers.write("grpo", 0, {"loss": "high"}, 0.0)
  assert (tmp_path / "metrics.jsonl").read_text() == ""
  with pytest.raises(ValueError, match="got 'other'"):
    metrics.Writers(tmp_path, ["grpo"], ("other", 0))


def test_tensorboard_gets_the_same_numbers_and_is_closed(tmp_path):
  pytest.importorskip("tensorboardX", reason="the tensorboard extra")
  from tensorboardX.proto import event_pb2

  run_steps(tmp_path, 0, 3)
  (path,) = (tmp_path / "tensorboard" / "grpo").iterdir()
  data, seen = path.read_bytes(), {}
  while data:
    length = int.from_bytes(data[:8], "little")
    event = event_pb2.Event.FromString(data[12 : 12 + length])
    for value in event.summary.value:
      seen[value.tag, event.step] = value.simple_value
    data = data[12 + length + 4 :]
  assert seen["b/x", 2] == pytest.approx(2 / 7)
  assert len(seen) == 6
