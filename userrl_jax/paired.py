"""Tests one evaluation against another on the same tasks and attempts.

`python -m userrl_jax.paired A.json B.json` reads two files of `evaluations/`
and prints in Markdown by how much B is above A, gym by gym, in score and in
success: the bootstrap interval, on how many tasks it is better and worse, and
the p of the sign test and of the sign-flip permutation test. With several gyms
the macro difference follows, and both again for each kind of user that both
met. What makes them less comparable stands below.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
import sys

from userrl_jax import scorecard
from userrl_jax import statistics

# What should be the same, if only the agent or the params are compared.
_SAME = ("tasks", "user", "config", "tokenizer", "version")

_Gyms = Mapping[str, scorecard.GymEvaluation]


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the paired tests of two evaluation files."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.paired",
    description="Tests one evaluation against another on the same tasks.",
  )
  parser.add_argument("a", type=pathlib.Path, help="compared with")
  parser.add_argument("b", type=pathlib.Path, help="asked about")
  arguments = parser.parse_args(argv)
  try:
    print(table(read(arguments.a), read(arguments.b)))
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def read(path: pathlib.Path) -> scorecard.Evaluation:
  """Reads an evaluation.

  Raises:
    ValueError: when the file is none.
  """
  try:
    return scorecard.Evaluation.from_dict(json.loads(path.read_text()))
  except ValueError as error:
    raise ValueError(f"{path} must hold an evaluation, got {error}") from error


def table(a: scorecard.Evaluation, b: scorecard.Evaluation) -> str:
  """Returns by how much `b` is above `a`, as a table with notes in Markdown.

  Raises:
    ValueError: when they share no gym, or no attempt of a gym.
  """
  gyms = [gym for gym in a.gyms if gym in b.gyms]
  if not gyms:
    raise ValueError(
      f"paired tests need a gym that both played, got {list(a.gyms)} and "
      f"{list(b.gyms)}"
    )
  head = ["gym", "measure", "b - a", "95% interval", "tasks", "better"]
  rows = [[*head, "worse", "sign p", "permutation p"]]
  rows.append(["---"] * len(rows[0]))
  rows += _rows(a.gyms, b.gyms, "")
  for profile in a.profiles:
    if profile in b.profiles:
      of_users = f", {profile} users"
      rows += _rows(a.profiles[profile], b.profiles[profile], of_users)
  lines = [f"| {' | '.join(row)} |" for row in rows]
  return "\n".join([*lines, *(f"\nNote: {note}." for note in _notes(a, b))])


def _rows(a: _Gyms, b: _Gyms, of_users: str) -> list[list[str]]:
  """Returns the tests of all gyms that both played, and of their mean."""
  rows = []
  gyms = [gym for gym in a if gym in b]
  for gym in gyms:
    own = [side[gym] for side in (a, b)]
    for name, sides in (
      ("score", [side.scores_by_task for side in own]),
      ("success", [side.success_by_task for side in own]),
    ):
      if all(sides):
        cells = _cells(statistics.paired_test(*sides))
        rows.append([f"{gym}{of_users}", name, *cells])
  if len(gyms) > 1:
    scores = [{g: side[g].scores_by_task for g in gyms} for side in (a, b)]
    macro = statistics.paired_macro_difference([(scores[0], scores[1])])
    cells = [*_difference(macro), *[""] * 4]
    rows.append([f"mean of gyms{of_users}", "score", *cells])
  return rows


def _cells(test: statistics.PairedTest) -> list[str]:
  return [
    *_difference(test.difference),
    str(test.num_better),
    str(test.num_worse),
    f"{test.sign_p:.4f}",
    f"{test.permutation_p:.4f}",
  ]


def _difference(interval: statistics.Interval) -> list[str]:
  ends = f"{interval.low:+.3f} to {interval.high:+.3f}"
  return [f"{interval.mean:+.3f}", ends, str(interval.num_tasks)]


def _notes(a: scorecard.Evaluation, b: scorecard.Evaluation) -> list[str]:
  notes = []
  if a.gyms.keys() != b.gyms.keys():
    missing = ", ".join(sorted(a.gyms.keys() ^ b.gyms.keys()))
    notes.append(f"only one of them played {missing}")
  if not (a.pins and b.pins):
    notes.append("one of them has no pins, so it is not known what was played")
  else:
    changed = [name for name in _SAME if a.pins.get(name) != b.pins.get(name)]
    if changed:
      notes.append(f"they differ in {', '.join(changed)}")
  if a.temperature != b.temperature:
    notes.append(f"temperature {a.temperature:g} against {b.temperature:g}")
  return notes


if __name__ == "__main__":
  sys.exit(main())
