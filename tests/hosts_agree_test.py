"""What hosts ask of each other before they begin, as one of them sees it."""

import pytest

from userrl_jax import hosts

MARK = "hosts.1a2b.mark"


@pytest.fixture
def late(monkeypatch):
  """Makes this host 1 of two; returns files that it sees at the third look."""
  naps, files = [], []

  def sleep(seconds):
    naps.append(seconds)
    if len(naps) == 3:
      for path in files:
        path.write_text("by host 0")

  monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
  monkeypatch.setattr(hosts.jax, "process_index", lambda: 1)
  monkeypatch.setattr(hosts, "gather", lambda value: [value, value])
  monkeypatch.setattr(hosts.time, "sleep", sleep)
  clock = iter(range(0, 100_000, 10))
  monkeypatch.setattr(hosts.time, "monotonic", lambda: next(clock))
  return files


def test_alone_all_is_this_hosts(tmp_path):
  assert hosts.share([1, 2, 3]) == [1, 2, 3]
  assert hosts.gather({"a": 1}) == [{"a": 1}]
  assert hosts.first_before_others(lambda: 5) == 5
  hosts.check_same({"config": "{}"}, tmp_path / "none")
  assert not (tmp_path / "none").exists()


def test_a_host_waits_for_what_the_first_one_made(late, tmp_path):
  path = tmp_path / "made"
  late.append(path)
  assert hosts.first_before_others(path.read_text, path) == "by host 0"
  with pytest.raises(ValueError, match="all hosts must see .*/none, which"):
    hosts.first_before_others(path.read_text, tmp_path / "none")


def test_a_folder_that_shows_files_late_is_shared_too(
  late, tmp_path, monkeypatch
):
  late.append(tmp_path / MARK)
  told = []

  def gather(value):
    told.append(value)
    # What host 0 says: the name, then that it sees it, of course.
    return [MARK if not value else value | {"out_dir": "True"}, value]

  monkeypatch.setattr(hosts, "gather", gather)
  hosts.check_same({"config": "{}"}, tmp_path)
  assert told == ["", {"config": "{}", "out_dir": "True"}]
  with pytest.raises(ValueError, match="same out_dir, got another on host 1"):
    hosts.check_same({"config": "{}"}, tmp_path / "of host 1 alone")
