"""Where the tasks of every gym come from: a seed, its pack, or released files.

In: settings, and a gym's own ways to draw a task or to read a record. Out:
tasks. What all gyms do alike stands here: splits and levels, taking turns with
levels, finding files, and the checks of a record's fields, whose errors name
file, place, field, what must hold and what was got.
"""

import collections
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
import hashlib
import json
import pathlib
import random
from typing import Any, TypeVar

from userrl_jax import config
from userrl_jax import types

# fresh: tasks that training has not seen, of structures that it has; runs play
# only generated ones. dev and test: of structures that it has not seen.
SPLITS = ("train", "fresh", "dev", "test")
LEVELS = (1, 2, 3)

FRESH_ONE_IN = 8  # tasks of train's structures that train never gets
MAX_TRIES = 3000  # draws in a row without a new task

Tasks = Sequence[types.Task]
Drawn = TypeVar("Drawn")


def load(
  settings: config.Gyms,
  split: str,
  generate: Callable[[tuple[int, ...], str, int], Tasks],
  read_pack: Callable[[], Tasks],
  read_folder: Callable[[str], Tasks],
) -> list[types.Task]:
  """Returns the tasks of a split, at most as many as the settings ask for.

  Args:
    settings: `tasks` names the source, `levels` and counts choose from it.
    split: of SPLITS.
    generate: (levels, split, count) -> that many tasks.
    read_pack: all tasks of the pack.
    read_folder: all tasks of a folder.

  Raises:
    ValueError: when a file is missing or broken.
  """
  is_train = split == "train"
  count = settings.num_train_tasks if is_train else settings.num_test_tasks
  if settings.tasks == "generated":
    return list(generate(tuple(settings.levels), split, count))
  if settings.tasks == "pack":
    tasks = read_pack()
  else:
    tasks = read_folder(settings.tasks)
  chosen = [t for t in tasks if t.split == split and t.level in settings.levels]
  return chosen[:count]


def take_turns(
  draw: Callable[[int], Iterator[types.Task]],
  levels: tuple[int, ...],
  split: str,
  count: int,
) -> tuple[types.Task, ...]:
  """Draws tasks, one of each level after the other.

  Args:
    draw: level -> an endless stream of its tasks in the split.
    levels: each of LEVELS.
    split: of SPLITS.
    count: how many; fewer are always the first of more.

  Raises:
    ValueError: when an argument is out of range, or a stream ends with one.
  """
  if split not in SPLITS:
    raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
  if not levels or any(level not in LEVELS for level in levels):
    raise ValueError(f"levels must be some of {LEVELS}, got {tuple(levels)}")
  streams = {level: draw(level) for level in dict.fromkeys(levels)}
  return tuple(
    next(streams[levels[i % len(levels)]]) for i in range(max(0, count))
  )


def distinct(
  gym: str,
  seed: int,
  level: int,
  split: str,
  draw: Callable[[random.Random, str], Drawn | None],
  is_fresh: Callable[[Drawn], bool],
  mark: Callable[[Drawn], Hashable] = repr,
) -> Iterator[tuple[str, Drawn]]:
  """Yields the id and the makings of a level's and split's tasks, none twice.

  Args:
    gym: its name; with the seed, level and split it seeds the draws.
    seed: of the stream of tasks.
    level: of the tasks.
    split: of SPLITS.
    draw: (generator, train, dev or test) -> what makes a task of a structure
      of that split; None when the draw does not fit.
    is_fresh: whether a task of train's structures is kept from training.
    mark: what two draws that make the same task have in common.

  Raises:
    ValueError: when draws bring nothing new any more.
  """
  rng = random.Random(f"{gym}|{seed}|{level}|{split}")
  home = "train" if split == "fresh" else split
  seen: set[Hashable] = set()
  num_tries = 0
  while num_tries < MAX_TRIES:
    num_tries += 1
    drawn = draw(rng, home)
    if drawn is None or (key := mark(drawn)) in seen:
      continue
    if home == "train" and is_fresh(drawn) != (split == "fresh"):
      continue
    yield f"gen{seed}-L{level}-{split}-{len(seen)}", drawn
    seen.add(key)
    num_tries = 0
  raise ValueError(
    f"level {level} has no more than about {len(seen)} {split} tasks; ask for "
    "fewer or add levels"
  )


def digest(text: str) -> int:
  """Returns a number in [0, 2**64) that is a text's in every process."""
  found = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(found, "big")


def is_kept(text: str) -> bool:
  """Returns whether a text is one of FRESH_ONE_IN, the same ones everywhere."""
  return hashlib.blake2b(text.encode()).digest()[0] % FRESH_ONE_IN == 0


def split_families(
  families: Sequence[str], shares: Mapping[str, float]
) -> dict[str, str]:
  """Returns the split of each family of tasks.

  Families come in the order of their hashes; each goes to the first split of
  `shares` that has room for all its members, or else to train.

  Args:
    families: that of each task.
    shares: of all tasks, by split, at most.
  """
  sizes = collections.Counter(families)
  order = sorted(sizes, key=lambda k: hashlib.sha256(k.encode()).digest())
  splits = dict.fromkeys(order, "train")
  for split, share in shares.items():
    room = round(share * len(families))
    for name in order:
      if splits[name] == "train" and sizes[name] <= room:
        splits[name] = split
        room -= sizes[name]
  return splits


def released_file(folder: str, name: str) -> pathlib.Path:
  """Returns a file that UserRL released.

  Raises:
    ValueError: when the folder or the file is missing.
  """
  path = pathlib.Path(folder).expanduser()
  if not path.is_dir():
    raise ValueError(
      "gyms.tasks must be 'generated', 'pack' or a folder with "
      f"{name}; there is no folder {str(path)!r}"
    )
  path = path / name
  if not path.is_file():
    raise ValueError(
      f"the folder of gyms.tasks must hold {name}; there is no file "
      f"{str(path)!r}"
    )
  return path


def pack_file(path: str | pathlib.Path) -> pathlib.Path:
  """Returns a pack: JSON, one task a line.

  Raises:
    ValueError: when the file is missing.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"a pack must be a file; there is none at {str(path)!r}")
  return path


def records(path: pathlib.Path) -> Iterator[tuple[int, str, Any]]:
  """Yields (line, where it is, its value) of a file of JSON lines.

  Raises:
    ValueError: when the file is no text, or a line no JSON.
  """
  for line, content in enumerate(text(path).splitlines(), 1):
    if not content.strip():
      continue
    where = f"{path}, line {line}"
    try:
      record = json.loads(content)
    except ValueError as error:
      raise ValueError(f"{where}: must be one JSON object; {error}") from error
    yield line, where, record


def json_list(path: pathlib.Path, noun: str) -> list[Any]:
  """Returns the items of a file that is one list in JSON, of what `noun` says.

  Raises:
    ValueError: when it is no such file.
  """
  try:
    items = json.loads(text(path))
  except ValueError as error:
    raise ValueError(f"{path}: must be a list in JSON; {error}") from error
  if not isinstance(items, list):
    raise ValueError(f"{path}: must be a list of {noun}, got {items!r:.60}")
  return items


def text(path: pathlib.Path) -> str:
  """Returns the text of a file.

  Raises:
    ValueError: when it cannot be read.
  """
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"{path}: must be readable UTF-8 text; {error}") from error


def field(where: str, record: Any, name: str, kinds: Any, noun: str) -> Any:
  """Returns a field of a record after checking its type.

  Raises:
    ValueError: when it is missing or not of `kinds`, which `noun` words.
  """
  if not isinstance(record, dict):
    raise ValueError(f"{where}: a task must be an object, got {record!r:.60}")
  if name not in record:
    raise ValueError(f"{where}: field {name!r} is missing; it must be {noun}")
  value = record[name]
  if not isinstance(value, kinds) or isinstance(value, bool):
    raise ValueError(
      f"{where}: field {name!r} must be {noun}, got {value!r:.60}"
    )
  return value


def check_text(where: str, record: Any, name: str) -> None:
  """Checks that a field is a text that is not empty.

  Raises:
    ValueError: when it is not.
  """
  value = field(where, record, name, str, "text")
  if not value.strip():
    raise ValueError(f"{where}: field {name!r} must be text, got {value!r:.60}")


def check_id(where: str, record: Any, ids: dict[str, str], place: str) -> None:
  """Checks that an id is new, and adds it to `ids` with its place.

  Args:
    where: of the record, as errors begin.
    record: any JSON value.
    ids: id -> place, of the records before.
    place: in words that follow "it is also", such as "on line 3".

  Raises:
    ValueError: when it is no string, or stands elsewhere too.
  """
  task_id = field(where, record, "id", str, "a string")
  if ids.setdefault(task_id, place) != place:
    raise ValueError(
      f"{where}: field 'id' must be unique, {task_id!r} is also {ids[task_id]}"
    )


def check_value(where: str, record: Any, name: str, allowed: tuple) -> None:
  """Checks that a field is one of some texts or whole numbers.

  Raises:
    ValueError: when it is not.
  """
  noun = f"one of {allowed}" if len(allowed) > 1 else repr(allowed[0])
  value = field(where, record, name, (str, int), noun)
  if value not in allowed:
    raise ValueError(f"{where}: field {name!r} must be {noun}, got {value!r}")
