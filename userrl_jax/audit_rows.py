"""What an audit found, by kind of user and gym: shares, counts and places.

In: findings and counts, added by `audit`. Out: a table in Markdown with links
to transcripts, and JSON-able dicts.
"""

import collections
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from userrl_jax import provocations

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


@dataclasses.dataclass
class Row:
  """What the turns of one kind of user in one gym came to."""

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


def table(rows: Sequence[Row]) -> str:
  """Returns the audit in Markdown: shares with counts, then where to read."""
  head = ["user", "gym", "episodes", "turns (checked)", *KINDS]
  lines = [[*head, "consistent (pairs)", "distinct replies"]]
  lines.append(["---"] * len(lines[0]))
  for row in rows:
    cells = [row.user, row.gym, str(row.num_episodes)]
    cells.append(f"{row.counts['turns']} ({row.counts['checked']})")
    cells += [_cell(row.share(k), row.counts[_OF[k]]) for k in KINDS]
    agree, pairs = row.consistency
    cells.append(_cell(agree, pairs))
    cells.append(_cell(row.diversity, row.replies.total()))
    lines.append(cells)
  text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
  notes = [f"- {kind}: {meaning}" for kind, meaning in KINDS.items()]
  examples = [
    f"- {row.user}, {row.gym}, {kind}: {f.place} turn {f.turn}: {f.reply:.80}"
    for row in rows
    for kind in KINDS
    for f in [f for f in row.findings if f.kind == kind][:_NUM_EXAMPLES]
  ]
  provoked = [
    f"- {row.user}, refused or without a verdict, {behaviour}"
    for row in rows
    for behaviour in provocations.behaviours(row.turns)
  ]
  parts = (text, *map("\n".join, (notes, examples, provoked)))
  return "\n\n".join(filter(None, parts))


def to_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns the audit as JSON-able dicts, with every finding."""
  return [
    {
      "user": row.user,
      "gym": row.gym,
      "episodes": row.num_episodes,
      "counts": dict(row.counts),
      "shares": {kind: row.share(kind) for kind in KINDS},
      "consistency": row.consistency[0],
      "pairs": row.consistency[1],
      "diversity": row.diversity,
      "provoked": provocations.numbers(row.turns),
      "provocations": [
        dataclasses.asdict(b) for b in provocations.behaviours(row.turns)
      ],
      "findings": [dataclasses.asdict(f) for f in row.findings],
    }
    for row in rows
  ]


def _cell(share: float | None, total: int) -> str:
  return "-" if share is None else f"{share:.1%} of {total}"
