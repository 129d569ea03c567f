"""What an audit found, by run, kind of user and gym: shares, counts, places.

In: findings and counts, added by `audit`. Out: a table in Markdown with links
to transcripts, and JSON-able dicts.
"""

import collections
from collections.abc import Sequence
import dataclasses
import math
import os
import pathlib
from typing import Any

from userrl_jax import provocations
from userrl_jax import replies

# Kind -> what it means, and the turns that its share is of.
KINDS = {
  "leak": "tells what rules would have hidden to the end; of checked turns",
  "premature": "tells what rules would have told later; of checked turns",
  "stopped": "a leak that was asked for again, or a fault; of all turns",
  "contradicts facts": "yes for no, or none for a wish; of checked talk",
  "contradicts itself": "yes for no to its own earlier reply; of repeated talk",
  "refusal": "declines to play its part; of talk",
  "ignored": "no answer where rules have one; of checked talk",
  "echo": "repeats the agent's own sentence; of talk",
}
_OF = {
  "leak": "checked",
  "premature": "checked",
  "stopped": "turns",
  "contradicts facts": "checked talk",
  "contradicts itself": "repeated",
  "refusal": "talk",
  "ignored": "checked talk",
  "echo": "talk",
}
_NUM_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Finding:
  """One turn in which a user did not keep to its part."""

  kind: str  # of KINDS
  place: str  # file:line
  turn: int  # from 1
  reply: str  # of the user


@dataclasses.dataclass(frozen=True)
class Pair:
  """What a user said to the same question, asked twice in one state."""

  place: str  # file:line turn
  question: str
  replies: tuple[str, str]
  is_outcome_same: bool  # the gym took both for the same


@dataclasses.dataclass
class Probe:
  """The replies to questions that were asked twice."""

  pairs: list[Pair] = dataclasses.field(default_factory=list)
  num_failed: int = 0  # questions of which one reply, or both, was a fault

  def shares(self) -> dict[str, tuple[float | None, int]]:
    """Returns name -> a share, and the number that it is of.

    Returns:
      same words: pairs without case and punctuation; of all.
      same outcome: pairs that the gym took for the same; of all.
      same yes or no: of the pairs in which a reply was a yes or a no.
      distinct: replies in other words than all before them; of all replies.
    """
    said = [tuple(map(replies.plain, pair.replies)) for pair in self.pairs]
    polar = [tuple(map(replies.polarity, pair.replies)) for pair in self.pairs]
    polar = [pair for pair in polar if any(pair)]
    same = lambda pairs: [one == other for one, other in pairs]
    words = [text for pair in said for text in pair]
    first = {text: place for place, text in reversed([*enumerate(words)])}
    of: dict[str, list[bool]] = {
      "same words": same(said),
      "same outcome": [pair.is_outcome_same for pair in self.pairs],
      "same yes or no": same(polar),
      "distinct": [first[text] == n for n, text in enumerate(words)],
    }
    return {
      name: (sum(own) / len(own) if own else None, len(own))
      for name, own in of.items()
    }


@dataclasses.dataclass
class Row:
  """What the turns of one kind of user in one gym of a run came to."""

  run: str
  user: str
  gym: str
  num_episodes: int = 0
  # turns, checked, talk, "checked talk", repeated: what shares are of
  counts: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  findings: list[Finding] = dataclasses.field(default_factory=list)
  # (task, question) -> how often it was answered yes and no
  asked: dict[tuple[str, str], collections.Counter[int]] = dataclasses.field(
    default_factory=dict
  )
  replies: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  # Turns that tell which of the agent's doings go with refusals.
  turns: list[provocations.Asked] = dataclasses.field(default_factory=list)
  probe: Probe | None = None  # None: nobody was asked again

  def share(self, kind: str) -> float | None:
    """Returns the share of turns with a kind; None where it is of nothing."""
    total = self.counts[_OF[kind]]
    found = sum(f.kind == kind for f in self.findings)
    return found / total if total else None

  @property
  def consistency(self) -> tuple[float | None, int]:
    """The share of pairs of replies to one question that agree, and the pairs.

    Of questions about one task that were asked again, in the same episode or
    another, and answered by yes or no.
    """
    agree = pairs = 0
    for counts in self.asked.values():
      agree += sum(math.comb(n, 2) for n in counts.values())
      pairs += math.comb(counts.total(), 2)
    return (agree / pairs if pairs else None), pairs

  @property
  def diversity(self) -> float | None:
    """The number of distinct replies, as a share of all to talk."""
    total = self.replies.total()
    return len(self.replies) / total if total else None


def table(rows: Sequence[Row], folder: pathlib.Path | None = None) -> str:
  """Returns the audit in Markdown: shares with counts, then where to read.

  Args:
    rows: of `audit`.
    folder: of the file that it goes into, for links; None: has none.
  """
  head = ["run", "user", "gym", "episodes", "turns (checked)", *KINDS]
  lines = [[*head, "consistent (pairs)", "distinct replies"]]
  for row in rows:
    cells = [row.run, row.user, row.gym, str(row.num_episodes)]
    cells.append(f"{row.counts['turns']} ({row.counts['checked']})")
    cells += [_cell(row.share(k), row.counts[_OF[k]]) for k in KINDS]
    agree, pairs = row.consistency
    cells.append(_cell(agree, pairs))
    cells.append(_cell(row.diversity, row.replies.total()))
    lines.append(cells)
  notes = [f"- {kind}: {meaning}" for kind, meaning in KINDS.items()]
  examples = [
    f"- {row.user}, {row.gym}, {kind}: {_link(f.place, folder)} "
    f"turn {f.turn}: {f.reply:.80}"
    for row in rows
    for kind in KINDS
    for f in [f for f in row.findings if f.kind == kind][:_NUM_EXAMPLES]
  ]
  provoked = [
    f"- {row.user}, refused or without a verdict, {behaviour}"
    for row in rows
    for behaviour in provocations.behaviours(row.turns)
  ]
  parts = (_grid(lines), *map("\n".join, (notes, examples, provoked)))
  return "\n\n".join(filter(None, (*parts, _probes(rows))))


def _probes(rows: Sequence[Row]) -> str:
  """Returns what came of asking twice, "" where nobody did."""
  names = list(Probe().shares())
  lines = [["asked twice", "user", "gym", "questions", "failed", *names]]
  for row in rows:
    if row.probe is not None:
      num = len(row.probe.pairs) + row.probe.num_failed
      counts = (str(num), str(row.probe.num_failed))
      shares = [_cell(*share) for share in row.probe.shares().values()]
      lines.append([row.run, row.user, row.gym, *counts, *shares])
  return _grid(lines) if len(lines) > 1 else ""


def _grid(lines: Sequence[Sequence[str]]) -> str:
  head, *body = lines
  rule = ["---"] * len(head)
  return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def _link(place: str, folder: pathlib.Path | None) -> str:
  """Returns a place, linked where the text goes into a file of a folder."""
  if folder is None:
    return place
  path, _, line = place.rpartition(":")
  return f"[{place}]({os.path.relpath(path, folder)}#L{line})"


def to_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns the audit as JSON-able dicts, with every finding."""
  return [
    {
      "run": row.run,
      "user": row.user,
      "gym": row.gym,
      "episodes": row.num_episodes,
      "counts": dict(row.counts),
      "shares": {kind: row.share(kind) for kind in KINDS},
      "consistency": row.consistency[0],
      "pairs": row.consistency[1],
      "diversity": row.diversity,
      "probe": None if row.probe is None else _of_probe(row.probe),
      "provoked": provocations.numbers(row.turns),
      "provocations": [
        dataclasses.asdict(b) for b in provocations.behaviours(row.turns)
      ],
      "findings": [dataclasses.asdict(f) for f in row.findings],
    }
    for row in rows
  ]


def _of_probe(probe: Probe) -> dict[str, Any]:
  return {
    "shares": {name: share for name, (share, _) in probe.shares().items()},
    "num_failed": probe.num_failed,
    "pairs": [dataclasses.asdict(pair) for pair in probe.pairs],
  }


def _cell(share: float | None, total: int) -> str:
  return "-" if share is None else f"{share:.1%} of {total}"
