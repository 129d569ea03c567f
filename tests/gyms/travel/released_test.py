"""Released trips: what is read, how it is split and played, what is refused."""

import asyncio
import collections
import copy
import json
import os
import subprocess
import sys

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import contract
from userrl_jax.gyms import judging
from userrl_jax.gyms.travel import prompted
from userrl_jax.gyms.travel import released
from userrl_jax.gyms.travel import scenario

ID = "hotel:2-1|rental_car:1-4"
HINTS = {
  "H": [
    ("room", "The user wants a lake under the window.", "I wake up to water."),
    ("service", "The user brings a parrot.", "My bird goes where I go."),
  ],
  "C": [("seats", "The user needs six seats.", "My band has six players.")],
}


def block(aspect, letter, arguments, best, right, wrong):
  option = lambda name, kind: {
    "id": name,
    "cost": 10 * int(name[1:]),
    "service": ["late arrival"],
    "type": kind,
    "reason": f"as {kind}",
  }
  return {
    "arguments": arguments,
    "preferences": [[aspect, *wish] for wish in HINTS[letter]],
    "options": {
      "correct": [option(name, "correct") for name in right],
      "wrong": [option(name, "wrong") for name in wrong],
      "noise": [option(f"{letter}21", "noise")],
    },
    "correct_ids": right,
    "best_id": best,
  }


TRIP = {
  "scenario": "A band on tour.",
  "dimensions": ["rental_car", "hotel"],
  "wanted_num": 2,
  "initial_description": "We play in Oslo on 3 May: a hotel and a car, please.",
  "hotel": block(
    "hotel", "H", {"city": "Oslo", "guests": 6}, "H2", ["H4", "H2"], ["H3"]
  ),
  "rental_car": block(
    "rental_car", "C", {"where": "Oslo"}, "C7", ["C7"], ["C1", "C2"]
  ),
}
REWARDS = {"search": 0.1, "wish": 0.3, "best": 0.6, "correct": 0.15}


class Judge:
  """Judges and speaks as told, whatever it is asked."""

  def __init__(self):
    self.next = {}
    self.asked = []
    self.user = prompted.prompted(judging.Judge(self.complete, 0))

  async def complete(self, messages):
    self.asked.append("\n".join(m["content"] for m in messages))
    for field in ("item", "number", "reply"):
      if f'"{field}"' in messages[0]["content"]:
        return json.dumps(self.next[field])
    raise AssertionError("a judge is asked for one of three things")


def settings_of(folder, **values):
  counts = {"num_train_tasks": 9999, "num_test_tasks": 9999, "max_turns": 12}
  return config.Gyms(tasks=str(folder), levels=(2, 3), **(counts | values))


def write(folder, trips, level="22"):
  path = folder / f"travelgym_data_{level}.json"
  path.write_text(json.dumps(trips), encoding="utf-8")
  return path


def write_rows(folder, *records, column="reward_model"):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  path = folder / "travel22_multiturn_onechoice" / "train.parquet"
  path.parent.mkdir(exist_ok=True)
  parquet.write_table(pyarrow.table({column: list(records)}), path)
  return path


def row(**values):
  return {"id": ID, "ground_truth": "['C7', 'H2']"} | values


def trip_of(blocks):
  """Returns a trip whose aspects are those of its id."""
  return TRIP | {"dimensions": [b.partition(":")[0] for b in blocks.split("|")]}


def test_what_is_public_and_what_is_marked(tmp_path):
  write(tmp_path, {ID: TRIP})
  (task,) = released.read_folder(str(tmp_path))
  assert dict(task.public) == {"opening": TRIP["initial_description"]}
  assert (task.id, task.level, task.structure) == (ID, 2, ID)
  car, hotel = scenario.of_task(task).aspects
  assert (car.name, hotel.name) == ("rental car", "hotel")
  assert hotel.arguments == {"city": "Oslo", "guests": "6"}
  assert [o.id for o in hotel.correct] == ["H2", "H4"]  # the best one first
  assert car.best.id == "C7" and hotel.best.id == "H2"
  told = [(p.topic, p.text, p.hint) for p in hotel.preferences]
  assert told == HINTS["H"]
  lines = [json.loads(line) for line in hotel.listing.split("\n")]
  assert {line["id"] for line in lines} == {"H2", "H3", "H4", "H21"}
  assert all(set(line) == {"id", "cost", "service"} for line in lines)
  assert hotel.listing == scenario.of_task(task).aspects[1].listing


def test_three_aspects_are_of_level_3(tmp_path):
  name = f"{ID}|flight:1-1"
  flight = block("flight", "C", {"to": "Oslo"}, "F1", ["F1"], ["F2"])
  flight["options"]["noise"] = []
  write(tmp_path, {name: {**trip_of(name), "flight": flight}}, "212")
  (task,) = released.read_folder(str(tmp_path))
  assert task.level == 3 and len(scenario.of_task(task).aspects) == 3


def test_rules_refuse_the_user(tmp_path):
  write(tmp_path, {ID: TRIP})
  (task,) = released.read_folder(str(tmp_path))
  gym = gyms.make("travel", settings_of(tmp_path))
  with pytest.raises(ValueError, match=rf"{task.id[:5]}.*user\.kind=endpoint"):
    asyncio.run(gym.reset(task, 0))


# Move, what the judge says, outcome, reward as a share of what such turns give.
GAME = [
  ("search", "hotel in Oslo for 6 guests", {"item": 1}, "search", 1 / 2),
  ("search", "a hotel in Rome for 6", {"item": 1}, "no_match", 0),
  ("search", "a hotel in Oslo on 4 May", {"item": 1}, "no_match", 0),
  ("search", "an inn in Oslo for 6", {"item": 2}, "repeated", 0),
  ("action", "Do you want a view?", ("wish", 2), "wish", 1 / 3),
  ("action", "Do you like boats?", ("other", 0), "no_wish", 0),
  ("action", "My hotel is nice.", ("wish", 1), "chat", 0),
  ("action", "Should the hotel be fast?", ("wish", 1), "no_wish", 0),
  ("answer", "H99", None, "refused", 0),
  ("answer", "H4", None, "correct", 1 / 2),
  ("answer", "H2", None, "refused", 0),
  ("answer", "C7", None, "best", 1 / 2),
]


def test_a_trip_is_paid_as_the_file_marks_it(tmp_path):
  write(tmp_path, {ID: TRIP})
  (task,) = released.read_folder(str(tmp_path))
  judge = Judge()
  gym = gyms.GYMS["travel"].Gym(settings_of(tmp_path), judge.user)
  hint = HINTS["H"][0][2]

  async def play():
    first = await gym.reset(task, 0)
    assert first.text == TRIP["initial_description"]
    for choice, content, said, outcome, share in GAME:
      if choice == "action":
        judge.next["number"] = {"kind": said[0], "number": said[1]}
        judge.next["reply"] = {"reply": f"Well, {hint}"}
      else:
        judge.next["item"] = said
      step = await gym.step(types.Action(choice, content))
      assert step.info["outcome"] == outcome, content
      expected = share * REWARDS.get(outcome, 0)
      assert step.reward == pytest.approx(expected), content
      if outcome == "search":
        assert '"id": "H2"' in step.observation.text
      assert len(step.observation.text) <= gym.max_observation_chars
    assert step.terminated and not step.info["success"]

  # "an inn in Oslo" leaves both aspects open, the first names the hotel alone.
  asyncio.run(play())
  assert "1. hotel: city Oslo, guests 6" in judge.asked[0]
  assert "2. hotel: city Oslo, guests 6" in judge.asked[1]
  assert f"2. hotel, room: {HINTS['H'][0][1]}" in judge.asked[2]
  assert all("as correct" not in asked for asked in judge.asked)


class Player:
  """Chooses what is marked as best, over and over."""

  def __init__(self, task, rng, noise=0.0, settings=None):
    self._ids = [a.best.id for a in scenario.of_task(task).aspects]

  def next_action(self, observations):
    return types.Action("answer", self._ids[len(observations) % 2])


CHECKS = (
  contract.check_lifecycle,
  contract.check_types,
  contract.check_determinism,
  contract.check_clone,
  contract.check_malformed,
  contract.check_secrets,
  contract.check_hacks,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_holds(tmp_path, check):
  write(tmp_path, {ID: TRIP})
  judge = Judge()
  judge.next = {
    "item": {"item": 0},
    "number": {"kind": "other", "number": 0},
    "reply": {"reply": "Well."},
  }
  make = lambda: gyms.GYMS["travel"].Gym(settings_of(tmp_path), judge.user)
  check(
    contract.Subject(
      make,
      released.read_folder(str(tmp_path)),
      Player,
      gyms.canned("travel"),
      gyms.hacks("travel"),
    )
  )


def test_the_prompt_tells_how_options_are_listed(tmp_path):
  for profile in ("full", "brief"):
    of_folder, own = (
      gyms.make("travel", s).system_prompt(profile)
      for s in (settings_of(tmp_path), config.Gyms(levels=(2,)))
    )
    assert "JSON with" in of_folder and "JSON with" not in own


def ring(number, size):
  """Returns trips in a ring, each with a block of the one before and after."""
  return [
    (
      str(number),
      frozenset({f"hotel:{number}-{i}", f"rental_car:{number}-{j}"}),
    )
    for i in range(size)
    for j in (i, (i + 1) % size)
  ]


def test_no_block_is_of_two_splits():
  trips = [*ring(1, 60), *ring(2, 40)]
  splits = released.splits_of(trips)
  homes = collections.defaultdict(set)
  for (_, blocks), split in zip(trips, splits, strict=True):
    for name in blocks if split != "fresh" else ():
      homes[name].add(split)
  assert all(len(found) == 1 for found in homes.values())
  counts = collections.Counter(
    (level, split) for (level, _), split in zip(trips, splits, strict=True)
  )
  for level, size in (("1", 120), ("2", 80)):
    assert counts[level, "test"] == size // 10
    assert counts[level, "dev"] == size // 20
    assert 0 < counts[level, "fresh"] <= 8  # the ends of what was cut out
  assert released.splits_of(trips[::-1]) == splits[::-1]


def test_splits_come_from_a_folder(tmp_path):
  names = ["|".join(sorted(blocks)) for _, blocks in ring(1, 40)]
  write(tmp_path, {name: TRIP for name in names})
  found = {
    split: gyms.load_tasks("travel", settings_of(tmp_path), split, 0)
    for split in ("train", "dev", "test", "fresh")
  }
  assert sorted(t.id for tasks in found.values() for t in tasks) == sorted(
    names
  )
  assert len(found["test"]) == 8 and len(found["dev"]) == 4


def test_rows_must_agree(tmp_path):
  write(tmp_path, {ID: TRIP})
  other = row(id="hotel:2-9|flight:2-9", ground_truth="['H1', 'F1']")
  write_rows(tmp_path, row(), other)
  assert len(released.read_folder(str(tmp_path))) == 1
  path = write_rows(tmp_path, other, row(ground_truth="['H4', 'C7']"))
  os.utime(path, ns=(1, 1))
  with pytest.raises(ValueError, match=r"row 2: .*'C7', 'H2'.*'C7', 'H4'"):
    released.read_folder(str(tmp_path))


@pytest.mark.parametrize(
  "record, part",
  [
    (row(id=7), "'id' must be text"),
    (row(ground_truth="H1"), "'ground_truth' must be a list"),
    (row(ground_truth="[1]"), "'ground_truth' must be a list"),
    ({"id": ID}, "'ground_truth' is missing"),
  ],
)
def test_broken_row(tmp_path, record, part):
  path = write_rows(tmp_path, record)
  with pytest.raises(ValueError, match=rf"{path}, row 1: field {part}"):
    list(released.rows(path))


def test_rows_alone_cannot_be_played(tmp_path):
  path = write_rows(tmp_path, row())
  with pytest.raises(ValueError, match="rows alone, .* nobody can play them"):
    released.read_folder(str(tmp_path))
  write_rows(tmp_path, row(), column="other")
  with pytest.raises(ValueError, match="a column 'reward_model'"):
    list(released.rows(path))


def test_raw_files_need_no_pyarrow(tmp_path):
  write(tmp_path, {ID: TRIP})
  path = tmp_path / "travel22_multiturn_onechoice" / "train.parquet"
  path.parent.mkdir()
  path.write_bytes(b"")
  code = f"""
import pathlib, sys
sys.modules["pyarrow"] = None
import importlib.util
from userrl_jax.gyms.travel import released
print(len(released.read_folder({str(tmp_path)!r})))
list(released.rows(pathlib.Path({str(path)!r})))
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.stdout == "1\n", done.stderr
  assert f"ValueError: {path}: reading parquet needs pyarrow" in done.stderr


def test_the_released_rows(shared):
  pytest.importorskip("pyarrow")
  (path,) = (shared / "upstream" / "data").glob(released.ROW_FILES)
  rows = list(released.rows(path))
  assert len(rows) == len({r.id for r in rows}) == 570
  assert all(len(r.best) == 2 for r in rows)
  trips = [("22", frozenset(r.id.split("|"))) for r in rows]
  assert collections.Counter(released.splits_of(trips)) == {
    "train": 445,
    "test": 57,
    "dev": 28,
    "fresh": 40,
  }


def changed(*path, to):
  """Returns the trip with another value at a path; `...` takes it out."""
  trip = copy.deepcopy(TRIP)
  place = trip
  for name in path[:-1]:
    place = place[name]
  if to is ...:
    del place[path[-1]]
  else:
    place[path[-1]] = to
  return trip


OPTION = ("hotel", "options", "wrong", 0)
BROKEN = [
  (7, ["an object", "7"]),
  (changed("dimensions", to=["hotel"]), ["'dimensions'", "its id"]),
  (changed("dimensions", to=["hotel", 7]), ["'dimensions'", "7"]),
  (changed("dimensions", to=["hotel", "boat"]), ["'dimensions'", "boat"]),
  (changed("initial_description", to=" "), ["'initial_description'", "text"]),
  (
    changed("initial_description", to=f"Hi. {HINTS['C'][0][2]}"),
    ["'initial_description'", "rental car", "reword"],
  ),
  (changed("hotel", to=...), ["'hotel'", "missing"]),
  (changed("hotel", "arguments", to={}), [", hotel: ", "'arguments'"]),
  (changed("hotel", "preferences", to=[]), [", hotel: ", "'preferences'"]),
  (
    changed("hotel", "preferences", 1, to=["hotel", "room", "A lake."]),
    [", hotel: ", "'preferences', item 2", "A lake."],
  ),
  (changed("hotel", "options", "noise", to=...), ["'noise'", "missing"]),
  (changed(*OPTION, to=3), [", hotel, wrong option 1", "object", "3"]),
  (changed(*OPTION, "id", to="C3"), ["wrong option 1", "'H7'", "C3"]),
  (changed(*OPTION, "id", to="H2"), ["wrong option 1", "new", "H2"]),
  (changed(*OPTION, "id", to="H300"), ["wrong option 1", "H300"]),
  (changed("hotel", "correct_ids", to=["H2", "H9"]), ["'correct_ids'", "H9"]),
  (changed("hotel", "best_id", to="H3"), ["'best_id'", "H3"]),
  (changed("hotel", "best_id", to=None), ["'best_id'", "None"]),
]


@pytest.mark.parametrize("trip, parts", BROKEN)
def test_broken_record(tmp_path, trip, parts):
  path = write(tmp_path, {ID: trip})
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  message = str(caught.value)
  assert message.startswith(f"{path}, record {ID!r}"), message
  assert all(part in message for part in parts), message


def test_ids(tmp_path):
  write(tmp_path, {ID: TRIP}, "22")
  path = write(tmp_path, {ID: TRIP}, "33")
  with pytest.raises(ValueError, match=rf"{path}, .*unique.*_22\.json"):
    released.read_folder(str(tmp_path))
  write(tmp_path, {"hotel-1": TRIP}, "33")
  os.utime(path, ns=(1, 1))
  with pytest.raises(ValueError, match="its id must be like .*'hotel-1'"):
    released.read_folder(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"7", b"\xff\xfe["])
def test_no_object_of_trips(tmp_path, content):
  path = tmp_path / released.FILE_NAME
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  assert str(caught.value).startswith(f"{path}: must be")


def test_missing_folder_and_file(tmp_path):
  with pytest.raises(ValueError, match=r"no folder .*nowhere"):
    released.read_folder(str(tmp_path / "nowhere"))
  with pytest.raises(ValueError, match=r"travelgym_data_22\.json"):
    released.read_folder(str(tmp_path))
