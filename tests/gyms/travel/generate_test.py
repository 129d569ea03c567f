"""Generated trips fit their level, are unique, and split by structure."""

import collections
import itertools
import json

import pytest

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import contract
from userrl_jax.gyms.travel import generate
from userrl_jax.gyms.travel import lexicon
from userrl_jax.gyms.travel import pack
from userrl_jax.gyms.travel import scenario


def content(task):
  return json.dumps([task.public, task.secret.reveal()])


def game(task):
  """Returns what is played, wherever, whenever and at whatever prices."""
  return json.dumps(
    [
      [a["aspect"], a["preferences"], [o | {"price": 0} for o in a["options"]]]
      for a in task.secret.reveal()["aspects"]
    ]
  )


def blocks(task):
  return set(task.structure.split("|")[1:])


@pytest.mark.parametrize("split", generate.SPLITS)
def test_level_1_is_a_wish_among_four_topics(split):
  tasks = generate.tasks(4, (1,), split, 150)
  home = "train" if split == "fresh" else split
  for task in tasks:
    (aspect,) = scenario.of_task(task).aspects
    (wish,) = aspect.preferences
    assert [o.id[1:] for o in aspect.options] == list("1234")
    prices = [o.price for o in aspect.options]
    assert prices == sorted(set(prices))
    counts = collections.Counter(a for o in aspect.options for a in o.amenities)
    assert set(counts.values()) == {2} and len(counts) == 4
    assert all(len(o.amenities) == 2 for o in aspect.options)
    having = [o.id for o in aspect.options if wish.topic in o.amenities]
    assert aspect.best.id == having[0]
    assert wish.hint == f"a {wish.topic}."
    layout = tuple(int(i[1:]) - 1 for i in having)
    topic = generate.LEVEL_1_TOPICS.index((aspect.name, wish.topic))
    where = generate.level_1_split(topic, generate.LAYOUTS.index(layout))
    assert where == home
    assert task.structure == (
      f"1|{aspect.name}:{wish.topic}|{layout[0] + 1}-{layout[1] + 1}"
    )
    assert (task.gym, task.split, task.level) == ("travel", split, 1)
  assert len({content(t) for t in tasks}) == len({t.id for t in tasks}) == 150


def test_level_1_has_its_72_structures():
  by_split = collections.defaultdict(set)
  for topic, layout in itertools.product(range(12), range(6)):
    by_split[generate.level_1_split(topic, layout)].add((topic, layout))
  assert {s: len(v) for s, v in by_split.items()} == {
    "train": 52,
    "dev": 4,
    "test": 16,
  }
  assert {topic for topic, _ in by_split["train"]} == set(range(12))
  for split in ("train", "test"):
    assert {layout for _, layout in by_split[split]} == set(range(6))
  words = [topic for _, topic in generate.LEVEL_1_TOPICS]
  assert len(set(words)) == 12 and max(map(len, words)) <= 5


def test_no_place_is_the_best_guess_at_level_1():
  for split in ("train", "test"):
    places = collections.Counter(
      scenario.of_task(t).aspects[0].best.id[1:]
      for t in generate.tasks(0, (1,), split, 900)
    )
    assert set(places) == set("123") and max(places.values()) < 0.45 * 900


@pytest.mark.parametrize("is_search_first", (True, False))
def test_constant_play_earns_little_at_level_1(is_search_first):
  tasks = generate.tasks(0, (1,), "test", 300)
  for number in range(1, 5):
    scores = []
    for task in tasks:
      (aspect,) = scenario.of_task(task).aspects
      search = f"{aspect.name} {aspect.arguments['city']}"
      moves = [types.Action("search", search)] * is_search_first
      letter = lexicon.ASPECTS[aspect.name].letter
      moves.append(types.Action("answer", f"{letter}{number}"))
      record = contract.play(
        gyms.make("travel", config.Gyms()),
        task,
        lambda texts, moves=moves: moves[len(texts) - 1],
      )
      scores.append(record.score)
    assert sum(scores) / len(tasks) < 0.36, number


def test_level_1_has_many_tasks():
  tasks = generate.tasks(7, (1,), "train", 20_000)
  assert len({content(t) for t in tasks}) == 20_000


@pytest.mark.parametrize("level", (2, 3))
@pytest.mark.parametrize("split", generate.SPLITS)
def test_higher_levels_have_their_shapes(level, split):
  home = "train" if split == "fresh" else split
  shapes = set()
  for task in generate.tasks(5, (level,), split, 120):
    trip = scenario.of_task(task)  # its invariants were checked when made
    shapes.add(tuple(len(a.preferences) for a in trip.aspects))
    for aspect in trip.aspects:
      assert len(aspect.correct) == 2 and len(aspect.options) in (5, 6)
      assert len(aspect.listing) <= 600 and len(trip.opening) <= 200
      assert max(len(o.text) for o in aspect.options) <= 90
      assert ("date" in aspect.arguments) == (level == 3)
      topics = [p.topic for p in aspect.preferences]
      assert generate.block_split(aspect.name, topics) == home
      for p in aspect.preferences:
        assert lexicon.HINTS[p.hint].predicate == p.predicate
  assert shapes == set(generate.SHAPES[level])


def test_structures_and_wishes_do_not_cross_splits():
  found = {
    split: {
      block if task.level > 1 else task.structure
      for seed in range(2)
      for task in generate.tasks(seed, (1, 2, 3), split, 150)
      for block in blocks(task)
    }
    for split in ("train", "dev", "test")
  }
  for one, other in itertools.combinations(found.values(), 2):
    assert one and other and not one & other


def test_fresh_tasks_are_of_trains_structures_and_no_game_of_train():
  for levels, num_games in (((1,), 100), ((2, 3), 500)):
    # Whatever the seed of either.
    train, fresh = (
      [
        task
        for seed in range(3)
        for task in generate.tasks(seed, levels, split, count)
      ]
      for split, count in (("train", 1000), ("fresh", 300))
    )
    games = set(map(game, fresh))
    assert len(games) > num_games and not games & set(map(game, train))
    if levels == (1,):
      structures = {t.structure for t in fresh}
      assert structures <= {t.structure for t in train}
      assert len(structures) > 40


def test_generation_is_a_function_of_its_arguments():
  first = generate.tasks(5, (1, 2), "train", 40)
  generate.tasks.cache_clear()
  assert generate.tasks(5, (1, 2), "train", 40) == first
  assert generate.tasks(5, (1, 2), "train", 10) == first[:10]
  assert generate.tasks(6, (1, 2), "train", 40) != first
  assert [t.level for t in first[:4]] == [1, 2, 1, 2]


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((0, (1,), "all", 5), "split"),
    ((0, (), "train", 5), "levels"),
    ((0, (1, 4), "train", 5), "levels"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    generate.tasks(*arguments)


def test_more_tasks_than_there_are(monkeypatch):
  monkeypatch.setitem(generate.PRICES, 1, range(20, 40, 5))
  with pytest.raises(ValueError, match="no more than about .* dev tasks"):
    generate.tasks(99, (1,), "dev", 5000)


def _change(*path, to):
  def change(record):
    *front, last = path
    for key in front:
      record = record[key]
    record[last] = to

  return change


_OPTION = ("aspects", 0, "options", 0)


@pytest.mark.parametrize(
  "change, message",
  [
    (_change(*_OPTION, "id", to="F1"), "begin with H"),
    (_change(*_OPTION, "id", to="H2"), "differ"),
    (_change(*_OPTION, "price", to=99), "ascending"),
    (_change(*_OPTION, "price", to=55), "prices that differ"),
    (_change(*_OPTION, "amenities", to=["gym", "spa"]), "two right"),
    (_change("aspects", 0, "aspect", to="tent"), "known aspect"),
    (_change("aspects", to=[]), "aspects that differ"),
  ],
)
def test_broken_trips_are_named(change, message, tmp_path):
  record = {
    "id": "x",
    "split": "train",
    "level": 1,
    "structure": "x",
    "opening": "I want a hotel in Rome.",
    "aspects": [
      {
        "aspect": "hotel",
        "arguments": {"city": "Rome"},
        "preferences": [
          {
            "topic": "view",
            "text": "hotel with a view",
            "hint": "a view.",
            "predicate": {"field": "amenities", "op": "has", "value": "view"},
          }
        ],
        "options": [
          {"id": f"H{i}", "price": price, "amenities": amenities}
          for i, price, amenities in (
            (1, 40, ["view", "gym"]),
            (2, 55, ["pool", "spa"]),
            (3, 70, ["view", "spa"]),
            (4, 90, ["pool", "gym"]),
          )
        ],
      }
    ],
  }
  path = tmp_path / "tasks.jsonl"
  path.write_text(json.dumps(record))
  assert [task.id for task in pack.read(path)] == ["x"]
  change(record)
  path = tmp_path / "broken.jsonl"
  path.write_text(f"\n{json.dumps(record)}")
  with pytest.raises(ValueError, match=rf"line 2: .*{message}"):
    pack.read(path)


def test_a_wish_that_rules_out_nothing_tempting_is_named():
  task = generate.tasks(0, (2,), "train", 1)[0]
  trip = scenario.of_task(task)
  scenario.check(trip, 2)
  (first, *rest) = trip.aspects
  twice = first.__class__(
    first.name, first.arguments, first.preferences[:1] * 2, first.options
  )
  with pytest.raises(ValueError, match="to matter"):
    scenario.check(scenario.Scenario("", (twice, *rest)), 2)


@pytest.mark.parametrize(
  "lines, message",
  [
    (["{"], "line 1"),
    (["[]"], "line 1"),
    (['{"id": "x"}'], "field 'opening' is missing"),
  ],
)
def test_broken_lines_are_named(lines, message, tmp_path):
  path = tmp_path / "tasks.jsonl"
  path.write_text("\n".join(lines))
  with pytest.raises(ValueError, match=message):
    pack.read(path)


@pytest.mark.parametrize(
  "changes, message",
  [
    ([{}, {}], "ids must differ"),
    ([{"split": "fresher"}], "split must be one of"),
    ([{}, {"id": "y", "split": "test"}], "as for the other tasks"),
  ],
)
def test_records_that_clash_are_named(changes, message, tmp_path):
  first = json.loads(pack.PATH.read_text().splitlines()[0])
  path = tmp_path / "tasks.jsonl"
  path.write_text("\n".join(json.dumps(first | change) for change in changes))
  with pytest.raises(ValueError, match=message):
    pack.read(path)
  with pytest.raises(ValueError, match="there is none"):
    pack.read(tmp_path / "no.jsonl")


def test_pack_is_what_the_generator_makes():
  lines = pack.PATH.read_text().splitlines()
  assert [json.loads(line) for line in lines] == generate.pack()


def test_pack_has_30_trips_split_by_structure():
  tasks = pack.read()
  assert len(tasks) == len({t.structure for t in tasks}) == 30
  for level in generate.LEVELS:
    assert {
      split: sum(t.split == split and t.level == level for t in tasks)
      for split in generate.PACK_COUNTS
    } == generate.PACK_COUNTS


def test_load_tasks_counts_levels_and_wants_files(tmp_path):
  settings = config.Gyms(num_train_tasks=12, num_test_tasks=7, levels=(2, 3))
  for split, count in (("train", 12), ("fresh", 7), ("dev", 7), ("test", 7)):
    tasks = gyms.load_tasks("travel", settings, split, 1)
    assert len(tasks) == count and {t.level for t in tasks} == {2, 3}
  settings.tasks = "pack"
  assert len(gyms.load_tasks("travel", settings, "test", 1)) == 6
  settings.tasks = str(tmp_path)
  with pytest.raises(ValueError, match=r"travelgym_data_22\.json"):
    gyms.load_tasks("travel", settings, "test", 1)
