"""The world of Telepathy: its table, its words, and what splits it."""

import collections
import itertools

import pytest

from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax.gyms.telepathy import gym as telepathy_gym
from userrl_jax.gyms.telepathy import world

ATTRIBUTES = tuple(world.attributes().values())


def num_questions(candidates, attributes):
  """Returns how many questions greedy splitting needs at most."""
  if len(candidates) == 1:
    return 0
  best = world.best_question(candidates, attributes)
  assert best, [entity.name for entity in candidates]
  parts = collections.defaultdict(list)
  for entity in candidates:
    parts[entity.values[best.key]].append(entity)
  return 1 + max(num_questions(part, attributes) for part in parts.values())


def test_the_table_has_its_shape():
  entities = world.entities().values()
  assert len(entities) == 48 and len(ATTRIBUTES) == 24
  assert len(world.openings()) == 8
  for category in world.openings():
    assert [e.is_core for e in world.members(category)] == [True] * 3 + [
      False
    ] * 3
  glosses = [entity.gloss.partition(" - ") for entity in entities]
  assert [name for name, _, _ in glosses] == list(world.entities())
  assert len({text for _, _, text in glosses if len(text) > 15}) == 48


@pytest.mark.parametrize("category", world.openings())
def test_few_questions_find_a_thing_of_a_category(category):
  assert num_questions(world.members(category), ATTRIBUTES) <= 4


def test_few_questions_find_a_thing_of_the_world():
  assert num_questions(tuple(world.entities().values()), ATTRIBUTES) <= 7


def test_level_1_questions_tell_categories_apart_and_nothing_else():
  assert len(world.level_1()) == 8
  codes = {}
  for entity in world.entities().values():
    if entity.is_core:
      code = tuple(entity.values[a.key] for a in world.level_1())
      assert world.Verdict.MAYBE not in code
      assert codes.setdefault(entity.category, code) == code
      assert entity.name.isalpha() and entity.name.islower()
  assert len(set(codes.values())) == 8
  # Three in a fixed order are enough, whichever six of the eight are there.
  for categories in itertools.combinations(world.openings(), 6):
    candidates = [world.members(category)[0] for category in categories]
    first = world.best_question(candidates, world.level_1())
    values = [entity.values[first.key] for entity in candidates]
    assert values.count(world.Verdict.YES) == 3
    assert num_questions(candidates, world.level_1()) <= 3


def test_best_question_is_the_most_even_and_then_the_first():
  dog, oak, bus = (world.entities()[name] for name in ("dog", "oak", "bus"))
  big, sound, alive = (
    world.attributes()[key] for key in ("big", "sound", "alive")
  )
  assert world.best_question([dog, oak, bus], [alive, big, sound]) is alive
  assert world.best_question([dog, oak], [alive, sound, big]) is sound
  assert world.best_question([dog, oak], [alive]) is None
  assert world.best_question([dog], ATTRIBUTES) is None


@pytest.mark.parametrize(
  "guess, name",
  [
    ("dog", "dog"),
    ("Dogs", "dog"),
    ("A DOG.", "dog"),
    ("It is a dog!", "dog"),
    ("it's the dog", "dog"),
    ("It\u2019s a dog", "dog"),
    ("I guess it is a dog", "dog"),
    ("My guess is that it is an  eagle", "eagle"),
    ("Is it a wrist watch?", "wristwatch"),
    ('"dog"', "dog"),
    ("puppy", "dog"),
    ("buses", "bus"),
    ("dog or oak", None),
    ("dog oak", None),
    ("dog, oak", None),
    ("not dog", None),
    ("dogged", None),
    ("dog dog", None),
    ("d\u043eg", None),
    ("", None),
    ("a", None),
    ("it is", None),
    ("kite", None),
  ],
)
def test_named(guess, name):
  assert world.named(guess) == name


def test_no_name_is_part_of_a_text_that_all_see():
  """Else a scan for undisclosed names would find them where they are not."""
  settings = config.Gyms(telepathy=config_gyms.Telepathy(guess_limit=3))
  gym = gyms.make("telepathy", settings)
  texts = [gym.system_prompt("brief"), gym.system_prompt("full")]
  texts += [a.question for a in ATTRIBUTES] + list(world.openings().values())
  texts += [*world.openings(), *telepathy_gym.REPLIES.values()]
  for entity in world.entities().values():
    for name in (entity.name, *entity.aliases):
      assert not [text for text in texts if name in text], name
