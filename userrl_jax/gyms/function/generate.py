"""Tasks of the Function gym from a seed: a rule and a test case each.

Level 1 is sums of terms, at most one of them a product; level 2 any tree of
+ - * with parentheses; level 3 also has division and squares. Splits are made
by structure (`expression.canonical_key`), so a test task's function is in no
other split, under whatever names of variables.

  python -m userrl_jax.gyms.function.generate > tasks.jsonl   # makes the pack
"""

from collections.abc import Iterator, Sequence
import functools
import itertools
import json
import random

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.function import expression

SPLITS, LEVELS = sources.SPLITS, sources.LEVELS
MAX_RESULT = {1: 60, 2: 200, 3: 200}  # |f(test case)| per level
# A test case is four distinct ones; level 1 is kept small for small models.
TEST_VALUES = {1: range(1, 6), 2: range(1, 10), 3: range(1, 10)}

# Level 1, all nine classes up to renaming, and the split each belongs to. The
# test forms come from both families (sums; with a product), and every result
# they can have but 22 is also one of train's: sign patterns are new, ranges are
# not.
LEVEL_1_FORMS = {
  ("+a", "+b", "+c", "+d"): "train",
  ("+a", "+b", "+c", "-d"): "train",
  ("+a", "+b", "-c", "-d"): "test",
  ("+a", "-b", "-c", "-d"): "dev",
  ("+a*b", "+c", "+d"): "train",
  ("+a*b", "+c", "-d"): "test",
  ("+a*b", "-c", "-d"): "train",
  ("-a*b", "+c", "+d"): "test",
  ("-a*b", "+c", "-d"): "train",
}

PACK_SEED = 0
PACK_COUNTS = {"train": 10, "dev": 2, "test": 4}  # per level; 48 in all

_OPERATORS = {2: "+-*", 3: "+-*/"}
_SQUARE_SHARE = 0.3  # of the leaves of level 3
# Of 20 buckets of the key's hash, levels 2 and 3: 14 train, 2 dev, 4 test.
_BUCKETS = ("train",) * 14 + ("dev",) * 2 + ("test",) * 4

# The rule, its key as a function, and the test case.
_Drawn = tuple[str, str, tuple[int, ...]]


@functools.lru_cache(maxsize=64)
def tasks(
  seed: int, levels: tuple[int, ...], split: str, count: int
) -> tuple[types.Task, ...]:
  """Generates tasks, the same ones everywhere; see `sources.take_turns`."""
  draw = lambda level: _draw_tasks(seed, level, split)
  return sources.take_turns(draw, levels, split, count)


def task(
  task_id: str,
  split: str,
  level: int,
  rule: str,
  test_case: Sequence[int],
) -> types.Task:
  """Makes the task of a rule and a test case at which it has a value."""
  return types.Task(
    gym="function",
    id=task_id,
    split=split,
    level=level,
    structure=expression.canonical_key(rule),
    public={},
    secret=types.Secret({"rule": rule, "test_case": tuple(test_case)}),
  )


def split_of(key: str) -> str:
  """Returns the split that a structure belongs to, at every level."""
  form = _level_1_keys().get(key)
  return LEVEL_1_FORMS[form] if form else _BUCKETS[int(key, 16) % 20]


def is_level_1(key: str) -> bool:
  """Returns whether a structure is one of the nine of level 1."""
  return key in _level_1_keys()


def level_1_rules() -> list[str]:
  """Returns every form of level 1 under every renaming, some alike."""
  texts = []
  for form, names in itertools.product(
    LEVEL_1_FORMS, itertools.permutations(expression.VARIABLES)
  ):
    text = _sum_text([(term[0], term[1:]) for term in form])
    texts.append(text.translate(str.maketrans("abcd", "".join(names))))
  return texts


def pack() -> list[dict]:
  """Returns the records of the committed pack, one a line of tasks.jsonl.

  Unlike generated tasks no two share a rule, and structures are spread evenly:
  beyond level 1, which has only nine, no two tasks share one.
  """
  records = []
  for level in LEVELS:
    for split, count in PACK_COUNTS.items():
      rules: set[str] = set()
      uses: dict[str, int] = {}
      num_forms = sum(where == split for where in LEVEL_1_FORMS.values())
      max_uses = -(-count // num_forms) if level == 1 else 1
      number = 0
      for item in _draw_tasks(PACK_SEED, level, split):
        secret = item.secret.reveal()
        num_uses = uses.get(item.structure, 0)
        if secret["rule"] in rules or num_uses == max_uses:
          continue
        rules.add(secret["rule"])
        uses[item.structure] = num_uses + 1
        number += 1
        records.append(
          {
            "id": f"pack-L{level}-{split}-{number}",
            "split": split,
            "level": level,
            "structure": item.structure,
            "rule": secret["rule"],
            "test_case": list(secret["test_case"]),
          }
        )
        if number == count:
          break
  return records


def _draw_tasks(seed: int, level: int, split: str) -> Iterator[types.Task]:
  """Yields tasks of one level and split, no two with one rule and test case.

  Rules are one when they are one function; but for train at level 1, which has
  too few functions, when they are spelt alike.
  """
  is_respelt = split == "train" and level == 1

  def draw(rng: random.Random, home: str) -> _Drawn | None:
    if level == 1:
      forms = [form for form, where in LEVEL_1_FORMS.items() if where == home]
      rule = _level_1_rule(rng, forms)
    else:
      rule = _tree_rule(rng, level)
    test_case = tuple(rng.sample(TEST_VALUES[level], 4))
    if not _is_fit(rule, test_case, level):
      return None
    if level > 1:
      key = expression.canonical_key(rule)
      if is_level_1(key) or split_of(key) != home:
        return None
    return rule, expression.function_key(rule), test_case

  for task_id, (rule, _, test_case) in sources.distinct(
    "function",
    seed,
    level,
    split,
    draw,
    lambda drawn: sources.is_kept(f"{drawn[1]}|{drawn[2]}"),
    lambda drawn: (drawn[0] if is_respelt else drawn[1], drawn[2]),
  ):
    yield task(task_id, split, level, rule, test_case)


def _is_fit(rule: str, test_case: Sequence[int], level: int) -> bool:
  """Returns whether the result is a whole number of the level's size."""
  try:
    result = expression.parse(rule).evaluate(test_case)
  except expression.UndefinedError:
    return False
  return isinstance(result, int) and abs(result) <= MAX_RESULT[level]


def _level_1_rule(rng: random.Random, forms: Sequence[tuple[str, ...]]) -> str:
  """Returns a form with its variables renamed and its terms in any order."""
  form = rng.choice(forms)
  names = dict(
    zip(expression.VARIABLES, rng.sample(expression.VARIABLES, 4), strict=True)
  )
  terms = [
    (term[0], " * ".join(names[v] for v in term[1:].split("*")))
    for term in form
  ]
  rng.shuffle(terms)
  return _sum_text(terms)


def _sum_text(terms: Sequence[tuple[str, str]]) -> str:
  """Returns signed terms as text, such as '-a + b * c'."""
  (sign, first), *rest = terms
  text = f"-{first}" if sign == "-" else first
  return text + "".join(f" {sign} {term}" for sign, term in rest)


def _tree_rule(rng: random.Random, level: int) -> str:
  """Returns a random tree over the four variables of level 2 or 3."""
  while True:
    leaves = rng.sample(expression.VARIABLES, 4)
    if level == 3:
      leaves = [
        f"{v} ** 2" if rng.random() < _SQUARE_SHARE else v for v in leaves
      ]
    rule = _tree(rng, leaves, _OPERATORS[level])[0]
    if level == 2 or "/" in rule or "**" in rule:
      return rule


def _tree(
  rng: random.Random, leaves: Sequence[str], operators: str
) -> tuple[str, str]:
  """Returns the text of a random tree and its top operator, '' for a leaf."""
  if len(leaves) == 1:
    return leaves[0], ""
  cut = rng.randrange(1, len(leaves))
  top = rng.choice(operators)
  left, left_top = _tree(rng, leaves[:cut], operators)
  right, right_top = _tree(rng, leaves[cut:], operators)
  if left_top and top in "*/" and left_top in "+-":
    left = f"({left})"
  if right_top and ((top != "+" and right_top in "+-") or top in "*/"):
    right = f"({right})"
  return f"{left} {top} {right}", top


@functools.cache
def _level_1_keys() -> dict[str, tuple[str, ...]]:
  """Returns the form of each key of level 1."""
  return {
    expression.canonical_key(_sum_text([(t[0], t[1:]) for t in form])): form
    for form in LEVEL_1_FORMS
  }


if __name__ == "__main__":
  for record in pack():
    print(json.dumps(record))
