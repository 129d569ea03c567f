"""Two processes of four devices: the run of one with eight, and lost hosts."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from tests import hosting
from userrl_jax import config as config_lib
from userrl_jax import config_hosts
from userrl_jax import host_watch
from userrl_jax import hosts
from userrl_jax import hosts_rules
from userrl_jax import kept_episodes
from userrl_jax import selection


@pytest.fixture(scope="module")
def place(tmp_path_factory, root):
  place = hosting.Place(tmp_path_factory.mktemp("runs"), root)
  place.make_base()
  return place


@pytest.fixture(scope="module")
def alone(place):
  """The folder of a run in one process with eight devices."""
  hosting.finished([place.start("alone")])
  return place.folder / "alone"


@pytest.fixture(scope="module")
def two(place):
  """The folder of a run of two hosts, and what they printed."""
  outputs = hosting.finished(place.start_two("two"))
  return place.folder / "two", [out for out, _ in outputs]


def test_two_hosts_train_what_one_does(two, alone):
  folder, (out, silent) = two
  assert "on 8 x cpu" in out and "grpo 5/5" in out
  assert "grpo" not in silent  # files and console are those of host 0
  hosting.check_equal(folder, alone)
  tasks_of = hosting.tasks_of_hosts(folder)
  assert len(tasks_of) == 2 * hosting.NUM_STEPS
  for step in range(hosting.NUM_STEPS):
    first, second = (tasks_of[step, host] for host in range(2))
    assert [len(first), len(second)] == [2, 2] and not first & second
  evaluations = [
    json.loads((run / "evaluations" / "grpo.json").read_text())
    for run in (folder, alone)
  ]
  for name in ("gyms", "macro", "splits", "averages"):
    assert evaluations[0][name] == evaluations[1][name], name
  assert not list(two[0].glob("hosts.*"))


@pytest.mark.exhaustive
def test_what_two_hosts_began_one_process_ends(place, two, alone):
  folder = hosting.stopped(two[0], "two_then_one", 2)
  [(out, _)] = hosting.finished([place.start(folder.name)])
  assert "grpo: goes on after step 2 of 5" in out
  hosting.check_equal(folder, alone)
  assert hosting.hosts_by_step(folder) == [[0, 1]] * 2 + [[0]] * 3


@pytest.mark.exhaustive
def test_what_one_process_began_two_hosts_end(place, alone):
  folder = hosting.stopped(alone, "one_then_two", 2)
  (out, _), _ = hosting.finished(place.start_two(folder.name))
  assert "grpo: goes on after step 2 of 5" in out
  hosting.check_equal(folder, alone)
  assert hosting.hosts_by_step(folder) == [[0]] * 2 + [[0, 1]] * 3


@pytest.mark.exhaustive
def test_hosts_that_one_preempts_leave_together_and_go_on(place, alone):
  folder = place.folder / "preempted"
  when = (signal.SIGTERM, "rollout", 2)
  both = place.start_two(folder.name, doomed=1, when=when)
  (out, _), _ = hosting.finished(both, code=128 + signal.SIGTERM)
  assert "ended by SIGTERM; the same command goes on" in out
  # What is done is kept, and the end was not reached.
  steps = [x["step"] for x in hosting.lines(folder / "metrics.jsonl")]
  assert steps and steps[-1] < hosting.NUM_STEPS - 1
  kept = (folder / "checkpoints" / "grpo").glob("[0-9]*")
  assert max(int(path.name) for path in kept) == steps[-1] + 1
  # The other one, before the first step since.
  when = (signal.SIGTERM, "rollout", 1)
  both = place.start_two(folder.name, doomed=0, when=when)
  (out, _), _ = hosting.finished(both, code=128 + signal.SIGTERM)
  assert f"grpo: goes on after step {steps[-1] + 1} of 5" in out
  again = [x["step"] for x in hosting.lines(folder / "metrics.jsonl")]
  assert steps[-1] < again[-1] < hosting.NUM_STEPS - 1
  (out, _), _ = hosting.finished(place.start_two(folder.name))
  assert f"grpo: goes on after step {again[-1] + 1} of 5" in out
  hosting.check_equal(folder, alone)


@pytest.mark.slow
def test_a_lost_host_is_named(place, two):
  """Programs are compiled already, by the hosts that were not lost."""
  del two
  _lose(place, place.folder / "lost", 1, "rollout", ["rollout"])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
  "doomed,phase,heard",
  [
    (1, "rollout", ["rollout"]),
    (1, "update", ["update"]),
    # With host 0 goes what it said last, up to a second before.
    (0, "rollout", ["update", "checkpoint", "rollout"]),
    (0, "update", ["rollout", "exchange of episodes", "update"]),
  ],
)
def test_after_a_lost_host_a_restart_goes_on(
  place, alone, doomed, phase, heard
):
  folder = place.folder / f"killed_{doomed}_in_{phase}"
  _lose(place, folder, doomed, phase, heard)
  hosting.finished(place.start_two(folder.name))
  hosting.check_equal(folder, alone)


def _lose(place, folder, doomed, phase, heard):
  """Kills a host amid a run; holds what the other one does against the rules.

  Args:
    place: of the runs.
    folder: of this one.
    doomed: number of the host.
    phase: the second one of this name is its last.
    heard: phases that it may have told of last.
  """
  when = (signal.SIGKILL, phase, 2)
  both = place.start_two(folder.name, doomed=doomed, when=when)
  try:
    assert both[doomed].wait(timeout=600) == -signal.SIGKILL
    lost_at = time.monotonic()
    _, errors = both[1 - doomed].communicate(timeout=120)
    assert time.monotonic() - lost_at < 60
  finally:
    for process in both:
      process.kill()
  assert both[1 - doomed].returncode == host_watch.EXIT_CODE, errors
  [line] = [x for x in errors.splitlines() if x.startswith("error: ")]
  assert f"error: host {doomed} of 2 was last heard of" in line
  assert any(f"ago in phase {name};" in line for name in heard), line
  # Both got somewhere, and neither to the end.
  steps = [x["step"] for x in hosting.lines(folder / "metrics.jsonl")]
  assert steps and steps[-1] < hosting.NUM_STEPS - 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("num_hosts", [1, 2])
def test_an_evaluation_that_two_hosts_began_any_number_ends(
  place, alone, num_hosts
):
  flags = [
    f"--config.init_from={alone / 'checkpoints' / 'grpo'}",
    "--config.gyms.num_test_tasks=32",
    "--config.evaluation.num_tasks=32",
  ]
  started = dict(entry="evaluate")
  hosting.finished([place.start(f"whole_{num_hosts}", *flags, **started)])
  # Host 1 has played its share, and waits for the other's.
  name = f"evaluated_by_{num_hosts}"
  when = (signal.SIGKILL, "exchange of episodes", 1)
  both = place.start_two(name, *flags, doomed=1, when=when, **started)
  outputs = hosting.ended(both)
  assert both[0].returncode == host_watch.EXIT_CODE, outputs
  folder, stage = place.folder / name, "grpo@5"
  kept = [kept_episodes.path_of(folder, stage, host) for host in range(2)]
  num_kept = [len(hosting.lines(path)) - 1 for path in kept]
  assert num_kept[1] == 32
  if num_hosts == 1:
    [(out, _)] = hosting.finished([place.start(name, *flags, **started)])
  else:
    again = hosting.finished(place.start_two(name, *flags, **started))
    (out, _), (silent, _) = again
    assert "played already" not in silent
  assert f"{sum(num_kept)} of 64 episodes were played already" in out
  assert not any(path.exists() for path in kept)
  whole, ended = (
    json.loads(
      (place.folder / run / "evaluations" / f"{stage}.json").read_text()
    )
    for run in (f"whole_{num_hosts}", name)
  )
  for key in ("gyms", "macro", "splits", "averages"):
    assert ended[key] == whole[key], key


@pytest.mark.exhaustive
def test_hosts_save_by_the_clock_of_the_first(place, alone):
  often = "--config.checkpoint.every_minutes=0.0001"
  flags = ["--config.checkpoint.every_steps=0", often]
  hosting.finished(place.start_two("by_the_clock", *flags))
  folder = place.folder / "by_the_clock"
  kept = (folder / "checkpoints" / "grpo").glob("[0-9]*")
  assert sorted(int(path.name) for path in kept) == [1, 2, 3, 4, 5]
  hosting.check_equal(folder, alone)


@pytest.mark.exhaustive
def test_hosts_look_and_choose_together(place):
  looks = [
    '--config.stages=("cold_start","grpo")',
    "--config.cold_start.num_steps=4",
    "--config.cold_start.optimizer.warmup_steps=2",
    "--config.cold_start.num_tries=1",
    "--config.cold_start.episodes_per_step=4",
    "--config.selection.num_tasks=2",
    "--config.selection.loss_every=2",
    "--config.selection.play_every=2",
    "--config.selection.use=cold_start,grpo",
  ]
  hosting.finished([place.start("looks_alone", *looks)])
  hosting.finished(place.start_two("looks", *looks))
  records_alone, records = (
    json.loads((place.folder / name / "selection.json").read_text())
    for name in ("looks_alone", "looks")
  )
  for stage, steps in (("cold_start", [2, 4]), ("grpo", [2, 4, 5])):
    alone, two = records_alone[stage], records[stage]
    assert [step for step, _ in two["looks"]] == steps
    np.testing.assert_allclose(two["looks"], alone["looks"], atol=1e-5)
    assert (two["best"], two["used"]) == (alone["best"], alone["used"])
    folder = selection.best_folder(place.folder / "looks", stage)
    assert (folder / str(two["best"])).is_dir()
  made = sorted((place.folder / "looks" / "dialogues").glob("*.npz"))
  assert [path.name for path in made] == ["cold_start.npz", "held_out.npz"]


# Two checkpoints, of which host 1 cannot read the second.
_RESTORE = """
import sys
from userrl_jax import config_hosts
from userrl_jax import hosts

folder, address, host = sys.argv[1:]
hosts._join(config_hosts.Hosts(address, 2, int(host)), 1)

import jax
import numpy as np
from userrl_jax import checkpoint
from userrl_jax import checkpoint_reading

mesh = jax.make_mesh((2,), ("data",))
where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
make = lambda n: {
  "w": jax.make_array_from_callback((2,), where, lambda _: np.full(1, n))
}
plain_read = checkpoint_reading.read

def read(orbax, where, step, *rest):
  if step == 2 and host == "1":
    raise ValueError("too few bytes")
  return plain_read(orbax, where, step, *rest)

checkpoint_reading.read = read
with checkpoint.Store(folder) as store:
  for n in (1, 2):
    store.save(n, make(n), {"n": n})
  state, extras = store.restore(make(0))
  store.save(2, state, {"n": 2})
[own] = state["w"].addressable_shards
print("restored", extras, own.data.tolist())
hosts._leave()
"""


@pytest.mark.exhaustive
def test_hosts_restore_the_same_where_one_cannot_read(tmp_path, root):
  folder = tmp_path / "checkpoints"
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  both = [
    subprocess.Popen(
      [sys.executable, "-c", _RESTORE, folder, address, str(host)],
      cwd=root,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for host in range(2)
  ]
  for out, _ in hosting.finished(both):
    assert "too few bytes. It is set aside as 2.damaged" in out
    assert "restored {'n': 1} [1]" in out
  assert (folder / "2.damaged").is_dir() and (folder / "2").is_dir()


@pytest.mark.exhaustive
def test_a_host_that_hangs_is_named_and_a_restart_goes_on(place, alone):
  folder = place.folder / "hung"
  when = (signal.SIGUSR1, "rollout", 2)
  limit = "--config.hosts.max_phase_s=60"  # and compiling needs less
  both = place.start_two(folder.name, limit, doomed=1, when=when)
  for _, errors in hosting.finished(both, code=host_watch.EXIT_CODE):
    [line] = [x for x in errors.splitlines() if x.startswith("error: ")]
    assert "error: host 1 of 2 has been in phase rollout for " in line
    assert "more than hosts.max_phase_s" in line
  hosting.finished(place.start_two(folder.name))
  hosting.check_equal(folder, alone)


@pytest.mark.parametrize("num_hosts", range(1, 6))
@pytest.mark.parametrize("num_items", [0, 1, 3, 4, 7, 10, 12])
def test_every_item_is_of_exactly_one_host(monkeypatch, num_hosts, num_items):
  items = list(range(num_items))
  monkeypatch.setattr(jax, "process_count", lambda: num_hosts)
  shares = []
  for host in range(num_hosts):
    monkeypatch.setattr(jax, "process_index", lambda host=host: host)
    shares.append(hosts.share(items))
  assert [item for share in shares for item in share] == items
  sizes = [len(share) for share in shares]
  assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
  "change,host,kwargs,want",
  [
    ({}, 0, {}, ""),
    ({"at": 69.0}, 1, {}, "host 1 of 3 was last heard of 31 s ago in phase r"),
    ({"at": 69.0, "ended": ""}, 1, {}, ""),
    ({"ended": "exit code 3"}, 1, {}, ""),  # the others may do so as well
    (
      {"at": 89.0, "ended": "exit code 3"},
      1,
      {},
      "host 1 of 3 ended in phase rollout: exit code 3",
    ),
    ({}, 0, {"is_cut_off": True}, "host 0 of 3 was last heard of 5 s ago in"),
    ({"ended": ""}, 0, {"is_cut_off": True}, ""),
    # Host 0 does not take itself for lost.
    (
      {"at": 93.0},
      2,
      {"is_cut_off": True, "own": 0},
      "host 2 of 3 was last heard of 7 s ago",
    ),
    ({"ended": "why"}, 0, {"is_cut_off": True}, "host 0 of 3 ended in phase"),
    (
      {"phase_s": 601.0},
      2,
      {},
      "host 2 of 3 has been in phase rollout for 601",
    ),
  ],
)
def test_the_watch_says_whom_it_waits_for(change, host, kwargs, want):
  known = {
    i: host_watch.Heard(phase="rollout", phase_s=9.0, at=95.0) for i in range(3)
  }
  known[host] = dataclasses.replace(known[host], **change)
  said, code = host_watch.verdict(known, 100.0, 30.0, 600.0, **kwargs)
  assert said.startswith(want) and bool(said) == bool(want)
  assert code == (host_watch.EXIT_CODE if want else 0)


@pytest.mark.parametrize("code", [1, 2, 3, 143])
def test_who_is_left_ends_as_the_host_that_ended(code):
  """A job is not queued again for what would fail again."""
  known = {i: host_watch.Heard(phase="rollout", at=95.0) for i in range(2)}
  known[1] = dataclasses.replace(known[1], at=80.0, ended="why", code=code)
  found = host_watch.verdict(known, 100.0, 30.0, 600.0)
  assert found == ("host 1 of 2 ended in phase rollout: why", code)


def test_who_waits_longer_is_not_blamed_for_a_host_that_is_behind():
  """A fast host may wait before a slow one has begun what it hangs in."""
  known = {
    0: host_watch.Heard(
      phase="exchange of episodes", phase_s=601.0, num_phases=8, at=99.0
    ),
    1: host_watch.Heard(phase="rollout", phase_s=590.0, num_phases=7, at=99.0),
  }
  said, _ = host_watch.verdict(known, 100.0, 30.0, 600.0)
  assert said == (
    "host 1 of 2 has been in phase rollout for 590 s, and another waits for "
    "more than hosts.max_phase_s"
  )


@pytest.mark.parametrize(
  ("phases", "blamed"),
  [
    ([("update", 601.0), ("update", 598.0), ("update", 596.5)], None),
    ([("update", 601.0), ("update", 598.0), ("update", 595.5)], 0),
    # The others wait for it, though it came there hardly earlier.
    ([("exchange", 599.0), ("rollout", 601.0), ("exchange", 599.0)], 1),
    ([("exchange", 3.0), ("exchange", 3.0), ("rollout", 601.0)], 2),
  ],
)
def test_a_host_that_hangs_is_blamed_only_where_it_can_be(phases, blamed):
  known = {
    i: host_watch.Heard(phase=phase, phase_s=seconds, at=99.0)
    for i, (phase, seconds) in enumerate(phases)
  }
  said, code = host_watch.verdict(known, 100.0, 30.0, 600.0)
  assert code == host_watch.EXIT_CODE
  if blamed is None:
    assert said.startswith("all 3 hosts have been in phase update for 601 s")
    assert "none can be told" in said and "host 0" not in said
    # Alone among those that live, a host can only blame itself.
    known |= {i: dataclasses.replace(known[i], ended="") for i in (1, 2)}
    said, _ = host_watch.verdict(known, 100.0, 30.0, 600.0)
    blamed = 0
  assert said.startswith(f"host {blamed} of 3 has been in phase ")


@pytest.mark.parametrize(
  ("error", "code"),
  [(SystemExit(2), 2), (SystemExit("why"), 1), (OSError(), 1)],
)
def test_a_host_says_what_code_it_ends_with(monkeypatch, error, code):
  told = []
  watch = types.SimpleNamespace(
    end=lambda why, code: told.append(code),
    wait_for_others=told.append,
    go_after_others=told.append,
  )
  monkeypatch.setattr(hosts, "_watch", watch)
  monkeypatch.setattr(host_watch, "leave", told.append)
  hosts._end(error, config_hosts.Hosts())
  assert (told[0], told[-1]) == (code, code)


@pytest.mark.parametrize(
  "path,value,named",
  [
    ("hosts.coordinator", "here", "hosts.coordinator must be host:port"),
    ("hosts.process_id", 2, "hosts.process_id must be below"),
    ("budget.max_usd", 1.0, "budget.max_usd must be 0 with"),
    ("recording.mode", "record", "recording.mode must be live"),
    ("evaluation.agent", "oracle", "evaluation.agent must be policy"),
  ],
)
def test_what_several_hosts_cannot_do_is_refused(path, value, named):
  config = config_lib.Config()
  config.hosts = config_hosts.Hosts("a:1", num_processes=2)
  assert not _broken(config)
  section, field = path.split(".")
  setattr(getattr(config, section), field, value)
  assert any(line.startswith(named) for line in _broken(config))


def _broken(c):
  rules = hosts_rules.rules(c.hosts, c.evaluation, c.budget, c.recording)
  return [f"{path} must be {rule}" for path, rule, holds in rules if not holds]
