"""UserRL's stories: what is read, how it is split, how errors are told."""

import asyncio
import json

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax.gyms import contract
from userrl_jax.gyms.turtle import gym as turtle_gym
from userrl_jax.gyms.turtle import oracle
from userrl_jax.gyms.turtle import released
from userrl_jax.gyms.turtle import story

RECORD = {
  "new_title": "The Bell",
  "new_surface": "A bell rings in an empty tower.",
  "new_bottom": "A goat has got its horns caught in the rope.",
  "evaluation": [
    {"statement": "There is a goat.", "score": 0.7},
    {"statement": "It hangs on the rope.", "score": 0.3},
  ],
  "judgment": "Yes",
}
OTHER = {
  **RECORD,
  "new_title": "The Boat",
  "new_surface": "Somebody paints his boat each week.",
  "new_bottom": "Guests scratch their initials into its planks.",
}


class StatementUser:
  """Takes a point as made where its statement stands."""

  async def yes_no(self, tale, question):
    return "Maybe"

  async def grade(self, tale, text):
    return tuple(2 * (c.statement in text) for c in tale.criteria)


def settings_of(folder, answer_limit=2):
  return config.Gyms(
    tasks=str(folder),
    levels=(released.LEVEL,),
    num_train_tasks=999,
    num_test_tasks=999,
    turtle=config_gyms.Turtle(answer_limit=answer_limit),
  )


def write(folder, **records):
  path = folder / released.FILE_NAME
  path.write_text(json.dumps(records), encoding="utf-8")
  return folder


def test_released_stories_load_split_and_play(shared):
  settings = settings_of(shared / "upstream" / "gyms")
  tasks = {
    split: gyms.load_tasks("turtle", settings, split, 0)
    for split in ("train", "dev", "test")
  }
  sizes = {split: len(found) for split, found in tasks.items()}
  assert sum(sizes.values()) == 471
  assert 44 <= sizes["test"] <= 47 and 20 <= sizes["dev"] <= 24, sizes
  families = {s: {t.structure for t in found} for s, found in tasks.items()}
  assert not families["train"] & (families["test"] | families["dev"])
  assert not families["dev"] & families["test"]
  counts = [
    len(story.of_task(task).criteria)
    for found in tasks.values()
    for task in found
  ]
  assert [counts.count(n) for n in range(1, 6)] == [6, 32, 191, 215, 27]
  some = [*tasks["test"][::6], *tasks["train"][::60]]
  subject = contract.Subject(
    lambda: turtle_gym.TurtleGym(settings, StatementUser()),
    some,
    oracle.Oracle,
    gyms.canned("turtle"),
    gyms.hacks("turtle"),
  )
  for check in (
    contract.check_oracle,
    contract.check_types,
    contract.check_clone,
    contract.check_malformed,
  ):
    check(subject)


def test_near_copies_share_a_split(tmp_path):
  copy = {**RECORD, "new_title": "The Chime"}
  tasks = released.read_folder(str(write(tmp_path, a=RECORD, b=OTHER, c=copy)))
  first, other, second = tasks
  assert first.structure == second.structure != other.structure
  assert first.split == second.split


def test_what_is_public_and_what_is_not(tmp_path):
  (task,) = released.read_folder(str(write(tmp_path, a=RECORD)))
  assert task.public == {
    "title": RECORD["new_title"],
    "surface": RECORD["new_surface"],
  }
  gym = turtle_gym.TurtleGym(config.Gyms(), StatementUser())
  first = asyncio.run(gym.reset(task, 0))
  assert first.text == "The Bell\nA bell rings in an empty tower."
  statements = [item["statement"] for item in RECORD["evaluation"]]
  assert gym.undisclosed() == (RECORD["new_bottom"], *statements)
  with pytest.raises(ValueError, match="user.kind=endpoint"):
    asyncio.run(gyms.make("turtle", config.Gyms()).reset(task, 0))


def test_missing_folder_and_file(tmp_path):
  with pytest.raises(ValueError, match=r"no folder .*nowhere"):
    released.read_folder(str(tmp_path / "nowhere"))
  with pytest.raises(ValueError, match=r"all_stories_refined\.json"):
    released.read_folder(str(tmp_path))


def points(*scores):
  return [
    {"statement": f"Point {i}.", "score": s} for i, s in enumerate(scores)
  ]


@pytest.mark.parametrize(
  "record, parts",
  [
    ({**RECORD, "new_title": ""}, ["'new_title'", "text"]),
    ({**RECORD, "new_surface": 7}, ["'new_surface'", "text", "7"]),
    ({**RECORD, "new_surface": "x" * 900}, ["'new_surface'", "900"]),
    (
      {**RECORD, "new_surface": RECORD["new_bottom"]},
      ["'new_surface'", "public"],
    ),
    ({**RECORD, "evaluation": []}, ["'evaluation'", "up to 20"]),
    ({**RECORD, "evaluation": {}}, ["'evaluation'", "up to 20"]),
    ({**RECORD, "evaluation": "x"}, ["'evaluation'", "a list"]),
    ({**RECORD, "evaluation": points(0.5, 0.4)}, ["up to 20", "[10, 8]"]),
    ({**RECORD, "evaluation": points(1.5, -0.5)}, ["above 0", "twentieths"]),
    ({**RECORD, "evaluation": points(0.51, 0.49)}, ["'score'", "0.05", "0.51"]),
    ({**RECORD, "evaluation": points(True)}, ["'score'", "a number"]),
    ({**RECORD, "evaluation": points(1e999)}, ["'score'", "multiple"]),
    ({**RECORD, "evaluation": [{"score": 1}]}, ["'statement'", "missing"]),
    ({"new_title": "x"}, ["'new_surface'", "missing"]),
    (7, ["an object", "7"]),
  ],
)
def test_broken_record(tmp_path, record, parts):
  folder = write(tmp_path, good=OTHER, bad=record)
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(folder))
  message = str(caught.value)
  assert f"{tmp_path / released.FILE_NAME}, story 'bad'" in message
  assert all(part in message for part in parts), message


@pytest.mark.parametrize(
  "content", [b"", b"[7]", b"[[1]]", b"7", b"{", b"\xff\xfe{", b"[" * 9999]
)
def test_no_object_of_stories(tmp_path, content):
  path = tmp_path / released.FILE_NAME
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    released.read_folder(str(tmp_path))
  assert str(caught.value).startswith(f"{path}: must be")


def test_an_id_stands_once(tmp_path):
  text = json.dumps(RECORD)
  path = tmp_path / released.FILE_NAME
  path.write_text(f'{{"a": {text}, "a": {text}}}')
  with pytest.raises(ValueError, match="story 'a': an id must be there once"):
    released.read_folder(str(tmp_path))
