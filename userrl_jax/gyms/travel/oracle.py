"""The demonstrator of the Travel gym: how a good agent plays.

It plays from what it reads and the words of the gym alone, with fixed habits.
Item by item it searches, asks about the topics that the options show until it
has heard every wish, and chooses the cheapest option that fits. Where the trip
has one wish it asks about one topic at a time, else about two: a no to both
saves a turn. When the turns run out it chooses by what it knows.
"""

from collections.abc import Sequence
import dataclasses
import random
import re

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms.travel import canned
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import scenario
from userrl_jax.gyms.travel import scripted

_LISTING = re.compile(rf"{scenario.ID_PATTERN} .*[0-9]")
_BY_TOPIC = re.compile(r"[a-z]+( [A-Z][0-9])+(, [a-z]+( [A-Z][0-9])+)*")
_NUM_WISHES = r" \(([0-9]) wishes\)"


@dataclasses.dataclass
class _Item:
  """What is known about one aspect of the trip."""

  aspect: lexicon.Aspect
  arguments: tuple[str, ...]
  num_wishes: int
  options: tuple[scenario.Option, ...] = ()
  wishes: dict[str, lexicon.Wish] = dataclasses.field(default_factory=dict)
  unwished: set[str] = dataclasses.field(default_factory=set)
  is_chosen: bool = False

  @property
  def candidates(self) -> list[str]:
    """The topics that the options show and that may still be wished for."""
    return [
      name
      for name in self.aspect.topics
      if name not in self.unwished
      and name not in self.wishes
      and any(name in o.amenities or name in o.fields for o in self.options)
    ]


class Oracle:
  """Plays one task; reaches its maximum in at most 6 turns at level 1.

  At levels 2 and 3 it takes at most 15.
  """

  def __init__(
    self,
    task: types.Task,
    rng: random.Random,
    noise: float = 0.0,
    settings: config.Gyms | None = None,
  ):
    """Makes a player of one episode.

    Args:
      task: the task; its secrets are not looked at.
      rng: of the noise.
      noise: share of turns that are a random canned move instead, in [0, 1];
        never an answer, since an answer cannot be taken back.
      settings: of the gym; the oracle keeps turns for its answers.
    """
    del task
    self._rng = rng
    self._noise = noise
    self._max_turns = settings.max_turns if settings else 0
    self._actions: list[types.Action] = []

  def next_action(self, observations: list[str]) -> types.Action:
    """Returns the next move, given all texts read so far, oldest first."""
    action = None
    if self._noise and self._rng.random() < self._noise:
      action = canned.random_move(self._rng)
      if action.choice == "answer":
        action = None
    action = action or self._planned(observations)
    self._actions.append(action)
    return action

  def _planned(self, observations: list[str]) -> types.Action:
    items = _read(observations, self._actions)
    waiting = [item for item in items if not item.is_chosen]
    item = waiting[0]
    num_left = self._max_turns - len(self._actions)
    if self._max_turns and num_left <= len(waiting):
      return types.Action("answer", _choice(item))
    if not item.options:
      words = (item.aspect.name, *item.arguments)
      return types.Action("search", " ".join(words))
    if len(item.wishes) < item.num_wishes and item.candidates:
      return types.Action("action", _question(item))
    return types.Action("answer", _choice(item))


def _read(
  observations: Sequence[str], actions: Sequence[types.Action]
) -> list[_Item]:
  """Returns what the texts tell about each item, in the opening's order."""
  items = {item.aspect.name: item for item in _items(observations[0])}
  for text, action in zip(observations[1:], actions):
    for lead in (scripted.YES, scripted.UNASKED):
      wish = lexicon.HINTS.get(text.removeprefix(lead))
      if text.startswith(lead) and wish:
        items[wish.aspect].wishes[wish.topic] = wish
    if text == scripted.NO:
      for key in lexicon.topics(action.content):
        name, _, topic = key.partition(":")
        if name in items:
          items[name].unwished.add(topic)
    elif action.choice == "search" and _BY_TOPIC.fullmatch(text):
      options = _options_by_topic(text)
      items[lexicon.BY_LETTER[options[0].id[0]].name].options = options
    elif action.choice == "search" and _LISTING.fullmatch(text):
      item = items[lexicon.BY_LETTER[text[0]].name]
      item.options = tuple(
        _option(item.aspect, words) for words in text.split(", ")
      )
    elif action.choice == "answer":
      items[lexicon.BY_LETTER[action.content[0]].name].is_chosen = True
  return list(items.values())


def _items(opening: str) -> list[_Item]:
  """Returns the items of a trip and the arguments to search them with."""
  cities, dates = lexicon.cities(opening), lexicon.dates(opening)
  items = []
  for name in lexicon.aspects(opening):
    places = cities if name == "flight" else cities[-1:]
    count = re.search(f"{name}{_NUM_WISHES}", opening)
    items.append(
      _Item(
        lexicon.ASPECTS[name],
        (*places, *dates),
        int(count[1]) if count else 1,
      )
    )
  return items


def _options_by_topic(text: str) -> tuple[scenario.Option, ...]:
  """Returns the options of level 1, whose numbers go up with their prices."""
  topics: dict[str, list[str]] = {}
  for entry in text.split(", "):
    topic, *ids = entry.split()
    for name in ids:
      topics.setdefault(name, []).append(topic)
  return tuple(
    scenario.Option(name, int(name[1:]), tuple(topics[name]), {})
    for name in sorted(topics)
  )


def _option(aspect: lexicon.Aspect, text: str) -> scenario.Option:
  """Returns an option from its text: id, amenities, fields, price."""
  name, *words, price = text.split()
  amenities, fields = [], {}
  while words:
    word = words.pop(0)
    values = aspect.topics[word].values
    if values:
      shown = words.pop(0)
      fields[word] = next(v for v in values if str(v) == shown)
    else:
      amenities.append(word)
  return scenario.Option(name, int(price), tuple(amenities), fields)


def _question(item: _Item) -> str:
  if item.num_wishes == 1:
    return canned.question(item.candidates[0])
  return f"Do you want {' or '.join(item.candidates[:2])}?"


def _choice(item: _Item) -> str:
  """Returns the id of the cheapest option that fits best.

  Wishes not heard of are taken to be about the next topics in line.
  """
  if not item.options:
    return f"{item.aspect.letter}1"
  num_unheard = item.num_wishes - len(item.wishes)
  assumed = [
    item.aspect.topics[name].wishes[0]
    for name in item.candidates[: max(0, num_unheard)]
  ]
  wishes = (*item.wishes.values(), *assumed)
  best = max(
    item.options,
    key=lambda option: (
      sum(option.satisfies(wish.predicate) for wish in wishes),
      -option.price,
    ),
  )
  return best.id
