"""Writes the passages of the Search gym's world, from names and sentences.

In: the regions, values and sentences of `lexicon.json`. Out: the records of
`corpus.jsonl`, 40 to 70 words each. A passage has one sentence a fact, each in
one of three forms, after an opening; it names only what lies one step further
on (a festival its town, a town its founder), so that an answer two steps away
is not on the page that a question leads to.

  python -m userrl_jax.gyms.search.compose > corpus.jsonl   # makes the corpus
"""

from collections.abc import Iterator
import json
import random
from typing import Any

from userrl_jax.gyms.search import world

MIN_WORDS, MAX_WORDS = 40, 70

_SEED = "search|world"
_PEOPLE = ("inventor", "author", "captain", "architect", "namesake")
_MONTHS = (
  *("January", "February", "March", "April", "May", "June", "July"),
  *("August", "September", "October", "November", "December"),
)


def records() -> list[dict[str, Any]]:
  """Returns the records of the corpus, one a line of `corpus.jsonl`.

  Raises:
    ValueError: when a passage cannot be made to have 40 to 70 words.
  """
  found = []
  for number, region in enumerate(world.lexicon()["regions"]):
    rng = random.Random(f"{_SEED}|{region['name']}")
    for kind, name, facts in _entities(rng, region, number):
      text = _text(rng, kind, name, facts, region["name"])
      found.append(
        {
          "id": name.replace(" ", "-").replace("'", "").lower(),
          "kind": kind,
          "region": region["name"],
          "name": name,
          "facts": facts,
          "text": text,
        }
      )
  return found


def _entities(
  rng: random.Random, region: dict[str, Any], number: int
) -> Iterator[tuple[str, str, dict[str, str]]]:
  """Yields kind, name and facts of all that is in a region."""
  values = world.lexicon()["values"]
  crafts = iter(rng.sample(values["craft"], len(values["craft"])))
  year = lambda low, high: str(rng.randrange(low, high))
  for place, (town, founder) in enumerate(
    zip(region["town"], region["founder"], strict=True)
  ):
    founded = rng.randrange(1050, 1300)
    yield (
      "town",
      town,
      {
        "founder": founder,
        "founded": str(founded),
        "river": region["river"],
        "trade": values["trade"][2 * number + place],
      },
    )
    yield (
      "founder",
      founder,
      {"born": str(founded - rng.randrange(24, 48)), "craft": next(crafts)},
    )
  yield (
    "river",
    region["river"],
    {
      "source": region["mountain"],
      "mouth": region["lake"],
      "length": str(rng.randrange(61, 199)),
    },
  )
  height = f"{rng.randrange(2, 9)},{rng.randrange(101, 989)}"
  yield (
    "mountain",
    region["mountain"],
    {"height": height, "stone": values["stone"][number]},
  )
  yield (
    "lake",
    region["lake"],
    {"depth": str(rng.randrange(21, 89)), "fish": values["fish"][number]},
  )
  homes = rng.sample(region["town"] * 2, 4)
  for kind, home in zip(_PEOPLE[:4], homes, strict=True):
    yield (
      kind,
      region[kind],
      {"born": year(1400, 1480), "hometown": home, "craft": next(crafts)},
    )
  for namesake in region["namesake"]:
    yield (
      "namesake",
      namesake,
      {"born": year(1350, 1530), "craft": next(crafts)},
    )
  yield (
    "device",
    region["device"],
    {"inventor": region["inventor"], "invented": year(1505, 1530)},
  )
  yield (
    "book",
    region["book"],
    {"author": region["author"], "printed": year(1505, 1530)},
  )
  day, month = rng.randrange(1, 29), rng.choice(_MONTHS)
  yield (
    "ship",
    region["ship"],
    {
      "captain": region["captain"],
      "yard": rng.choice(region["town"]),
      "launched": f"{day} {month} {year(1505, 1530)}",
      "timber": values["timber"][number],
    },
  )
  yield (
    "festival",
    region["festival"],
    {
      "host": rng.choice(region["town"]),
      "month": values["month"][number],
      "dish": values["dish"][number],
    },
  )
  yield (
    "bridge",
    region["bridge"],
    {
      "architect": region["architect"],
      "crosses": region["river"],
      "opened": year(1505, 1530),
    },
  )


def _text(
  rng: random.Random, kind: str, name: str, facts: dict[str, str], region: str
) -> str:
  """Returns a passage: opening, a sentence a fact in any order, a remark."""
  forms = world.lexicon()["sentences"][kind]
  fillers = world.lexicon()["fillers"]
  words = facts | {"name": name, "last": name.split()[-1], "region": region}
  is_person = kind in _PEOPLE
  for _ in range(200):
    relations = rng.sample(list(facts), len(facts))
    sentences = [
      _sentence(rng.choice(forms[key]), words)
      for key in ("opening", *relations)
    ]
    remarks = list(fillers["person" if is_person else kind])
    rng.shuffle(remarks)
    while remarks and _num_words(sentences) < MIN_WORDS:
      sentences.append(remarks.pop())
    if MIN_WORDS <= _num_words(sentences) <= MAX_WORDS:
      return " ".join(sentences)
  raise ValueError(
    f"the passage of {name!r} must have {MIN_WORDS} to {MAX_WORDS} words; "
    "change its sentences in lexicon.json"
  )


def _sentence(form: str, words: dict[str, str]) -> str:
  text = form.format(**words)
  return text[0].upper() + text[1:]


def _num_words(sentences: list[str]) -> int:
  return len(" ".join(sentences).split())


if __name__ == "__main__":
  for record in records():
    print(json.dumps(record))
