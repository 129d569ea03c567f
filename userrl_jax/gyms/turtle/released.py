"""Reads UserRL's own stories for the Turtle gym.

Their file comes in and checked tasks go out; a record that is not what it
should be is an error that names the file, the record, the field and what was
expected.

UserRL splits its 471 stories by row, but some are near copies of others under
another title. Here stories that share many words are of one family, and whole
families, in the order of the hash of their ids, fill the shares of test and dev
as long as they fit.
"""

import functools
import itertools
import json
import math
import pathlib
import re
from typing import Any

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.turtle import gym
from userrl_jax.gyms.turtle import story

FILE_NAME = "all_stories_refined.json"
LEVEL = 3  # free prose, as our hardest
SHARES = {"test": 0.1, "dev": 0.05}  # the rest is train
MIN_OVERLAP = 0.25  # share of words that two stories of a family have in common

_WORD = re.compile(r"\w{4,}")  # shorter ones are in all stories
_ROUNDING = 1e-6


def read_folder(folder: str) -> tuple[types.Task, ...]:
  """Returns the tasks of a folder with UserRL's stories, in its order.

  Rules cannot play them: they have no facts and patterns.

  Raises:
    ValueError: when the folder or the file is missing or has a broken record.
  """
  path = sources.released_file(folder, FILE_NAME)
  return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, _mtime: int) -> tuple[types.Task, ...]:
  try:
    pairs = json.loads(sources.text(path), object_pairs_hook=list)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path}: must be an object in JSON; {error}") from error
  if not isinstance(pairs, list) or not all(
    isinstance(pair, tuple) for pair in pairs
  ):
    raise ValueError(f"{path}: must be an object of stories, by their ids")
  tales: dict[str, story.Story] = {}
  for key, value in pairs:
    where = f"{path}, story {key!r}"
    if key in tales:
      raise ValueError(f"{where}: an id must be there once; rename one")
    tales[key] = _tale(where, _plain(value))
  families = _families(tales)
  splits = sources.split_families(list(families.values()), SHARES)
  return tuple(
    types.Task(
      gym="turtle",
      id=f"released-{key}",
      split=splits[families[key]],
      level=LEVEL,
      structure=f"released-{families[key]}",
      public={"title": tale.title, "surface": tale.surface},
      secret=types.Secret({"story": tale}),
    )
    for key, tale in tales.items()
  )


def _plain(value: Any) -> Any:
  """Returns JSON as dicts and lists, from the pairs it was read as.

  An empty object reads as an empty list; no field may be either.
  """
  if isinstance(value, list):
    if value and all(isinstance(item, tuple) for item in value):
      return {name: _plain(item) for name, item in value}
    return [_plain(item) for item in value]
  return value


def _tale(where: str, record: Any) -> story.Story:
  texts = {
    name: sources.field(where, record, name, str, "text").strip()
    for name in ("new_title", "new_surface", "new_bottom")
  }
  for name, text in texts.items():
    if not text:
      raise ValueError(f"{where}: field {name!r} must be text, got nothing")
  title, surface, bottom = texts.values()
  scene = gym.first_message({"title": title, "surface": surface})
  limit = gym.TurtleGym.max_observation_chars
  if len(scene) > limit:
    raise ValueError(
      f"{where}: title and field 'new_surface' must have at most {limit} "
      f"characters together, got {len(scene)}"
    )
  items = sources.field(where, record, "evaluation", list, "a list")
  criteria = tuple(_criterion(where, item) for item in items)
  try:
    story.check_weights([criterion.weight for criterion in criteria])
  except ValueError as error:
    raise ValueError(f"{where}: field 'evaluation': {error}") from error
  for secret in (bottom, *(criterion.statement for criterion in criteria)):
    if secret in scene:
      raise ValueError(
        f"{where}: field 'new_surface' is public and must not hold the bottom "
        "or a statement; reword it"
      )
  return story.Story(title, surface, bottom, criteria)


def _criterion(where: str, item: Any) -> story.Criterion:
  where = f"{where}, 'evaluation'"
  statement = sources.field(where, item, "statement", str, "text").strip()
  score = sources.field(where, item, "score", (int, float), "a number")
  if not statement:
    raise ValueError(f"{where}: field 'statement' must be text, got nothing")
  weight = score * story.TOTAL
  if not math.isfinite(weight) or abs(weight - round(weight)) > _ROUNDING:
    raise ValueError(
      f"{where}: field 'score' must be a multiple of {1 / story.TOTAL}, got "
      f"{score!r}"
    )
  return story.Criterion(statement, round(weight))


def _families(tales: dict[str, story.Story]) -> dict[str, str]:
  """Returns the family of each story: the id of its first member.

  Stories are of one family when a chain of stories, each like the next, joins
  them.
  """
  words = {
    key: set(_WORD.findall(f"{tale.surface} {tale.bottom}".lower()))
    for key, tale in tales.items()
  }
  family = {key: key for key in tales}
  for first, second in itertools.combinations(tales, 2):
    shared = len(words[first] & words[second])
    if shared >= MIN_OVERLAP * (
      len(words[first]) + len(words[second]) - shared
    ):
      old, new = family[second], family[first]
      if old != new and shared:
        family = {k: new if f == old else f for k, f in family.items()}
  return family
