"""Scores kept transcripts under another credit setting, without playing.

`python -m userrl_jax.rescore RUN_DIR/transcripts/evaluation_grpo.jsonl
--credit=em --score=sum` prints, gym by gym, what the setting of the run and
the given one make of the same episodes; `--json FILE` writes the score and the
advantage of every turn. Transcripts hold what that needs: rewards and sampled
tokens of each turn, and which episodes are valid.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np

from userrl_jax import config
from userrl_jax.learning import baselines
from userrl_jax.learning import credit
from userrl_jax.learning import rewards

# What a record must have, beside its turns.
_FIELDS = ("gym", "task", "member", "iteration", "valid", "max_score")

Record = Mapping[str, Any]  # of one episode, as `metrics.trajectory_record`


@dataclasses.dataclass(frozen=True)
class Episode:
  """What a credit setting makes of one episode."""

  gym: str
  task: str
  member: int
  iteration: int
  is_valid: bool
  is_flat: bool  # its group has nothing to compare
  score: float  # by `settings.score`; not the share of what a task can give
  advantages: list[float]  # that each turn's tokens carry
  num_tokens: list[int]  # sampled, of each turn


def main(argv: Sequence[str] | None = None) -> int:
  """Prints what two credit settings make of the same transcripts."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.rescore",
    description="Scores kept transcripts under another credit setting.",
  )
  parser.add_argument("transcripts", type=pathlib.Path)
  for field in dataclasses.fields(config.Credit):
    parser.add_argument(f"--{field.name}", default=None, **_kind(field.type))
  parser.add_argument("--json", type=pathlib.Path, help="also write a file")
  arguments = parser.parse_args(argv)
  try:
    records = read(arguments.transcripts)
    trained = of_run(arguments.transcripts)
    given = {
      field.name: value
      for field in dataclasses.fields(config.Credit)
      if (value := getattr(arguments, field.name)) is not None
    }
    settings = dataclasses.replace(trained, **given)
    before, after = rescore(records, trained), rescore(records, settings)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(table(before, after))
  if arguments.json:
    values = {
      "settings": dataclasses.asdict(settings),
      "episodes": [dataclasses.asdict(episode) for episode in after],
    }
    arguments.json.write_text(json.dumps(values, indent=2) + "\n")
  return 0


def read(path: pathlib.Path) -> list[Record]:
  """Reads transcripts.

  Raises:
    ValueError: when a line is none; names what it lacks.
  """
  records = []
  for number, line in enumerate(path.read_text().splitlines(), 1):
    try:
      record = json.loads(line)
      for name in _FIELDS:
        record[name]
      for turn in record["turns"]:
        turn["reward"], turn["num_tokens"]
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{path} line {number} must be a transcript with rewards and tokens of "
        f"its turns, got {type(error).__name__}: {error}; play anew to have one"
      ) from error
    records.append(record)
  if not records:
    raise ValueError(f"{path} must hold transcripts, got an empty file")
  return records


def of_run(transcripts: pathlib.Path) -> config.Credit:
  """Returns the credit setting of the run that transcripts lie in.

  Raises:
    ValueError: when the config of the run cannot be read.
  """
  path = transcripts.parent.parent / "config.json"
  try:
    return config.Credit(**json.loads(path.read_text())["grpo"]["credit"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} must be the config of the run of {transcripts.name}, got "
      f"{type(error).__name__}: {error}; name a file in RUN_DIR/transcripts"
    ) from error


def rescore(
  records: Sequence[Record], settings: config.Credit
) -> list[Episode]:
  """Computes scores and advantages of episodes, as training would.

  Episodes of one task and iteration are a group. Computed in float64.

  Args:
    records: transcripts.
    settings: of the credit.

  Returns:
    An episode for each record, in the same order.

  Raises:
    ValueError: when a setting is unknown, or two records are of one member.
  """
  credit.check(settings)
  groups: dict[tuple[Any, ...], dict[int, int]] = {}
  for place, record in enumerate(records):
    key = record["iteration"], record["gym"], record["task"]
    members = groups.setdefault(key, {})
    if record["member"] in members:
      raise ValueError(
        f"members of a group must differ, got {record['member']} twice for "
        f"{record['gym']}/{record['task']}; give the transcripts of one run"
      )
    members[record["member"]] = place
  P, G = len(groups), max(map(len, groups.values()))
  K = max(1, *(len(record["turns"]) for record in records))
  rewards_PGK = np.zeros((P, G, K))
  turn_mask_PGK = np.zeros((P, G, K), bool)
  num_tokens_PGK = np.zeros((P, G, K), np.int64)
  valid_PG = np.zeros((P, G), bool)
  factors = rewards.gym_factors(settings.gym_scales)
  where: dict[int, tuple[int, int]] = {}
  for p, members in enumerate(groups.values()):
    for g, member in enumerate(sorted(members)):
      place = members[member]
      where[place] = p, g
      turns = records[place]["turns"]
      scale = factors.get(records[place]["gym"], 1.0)
      if settings.reward_scale == "share":
        scale /= records[place]["max_score"]
      earned = np.array([turn["reward"] for turn in turns])
      rewards_PGK[p, g, : len(turns)] = scale * earned
      turn_mask_PGK[p, g, : len(turns)] = True
      num_tokens_PGK[p, g, : len(turns)] = [t["num_tokens"] for t in turns]
      valid_PG[p, g] = records[place]["valid"]
  scores_PG = credit.score(rewards_PGK, turn_mask_PGK, num_tokens_PGK, settings)
  flat_P = baselines.flat_groups(scores_PG, valid_PG)
  advantages_PGK = credit.group_advantages(
    rewards_PGK, turn_mask_PGK, num_tokens_PGK, valid_PG, settings
  )
  return [
    Episode(
      gym=record["gym"],
      task=record["task"],
      member=record["member"],
      iteration=record["iteration"],
      is_valid=bool(record["valid"]),
      is_flat=bool(flat_P[where[place][0]]),
      score=float(scores_PG[where[place]]),
      advantages=advantages_PGK[where[place]][: len(record["turns"])].tolist(),
      num_tokens=[turn["num_tokens"] for turn in record["turns"]],
    )
    for place, record in enumerate(records)
  ]


def _kind(annotation: Any) -> dict[str, Any]:
  """Returns how a flag of a field's type is read."""
  if annotation is bool:
    return {"action": "store_true"}
  if annotation in (str, int, float):
    return {"type": annotation}
  return {"nargs": "*"}


def table(before: Sequence[Episode], after: Sequence[Episode]) -> str:
  """Returns in Markdown what two settings make of the same episodes.

  For each gym and setting: the mean score of valid episodes, the share of
  flat groups' episodes, and the mean size of a token's advantage; and the
  correlation of the two settings' advantages over tokens.
  """
  head = ["gym", "episodes"]
  for name in ("score", "flat", "advantage size"):
    head += [f"{name} in the run", f"{name} now"]
  rows = [[*head, "correlation"], ["---"] * (len(head) + 1)]
  for gym in sorted({episode.gym for episode in before}):
    pairs = [
      (a, b)
      for a, b in zip(before, after, strict=True)
      if a.gym == gym and a.is_valid
    ]
    row = [gym, str(len(pairs))]
    sides = list(zip(*pairs)) or [(), ()]
    for of in (
      lambda side: np.mean([e.score for e in side]),
      lambda side: np.mean([e.is_flat for e in side]),
      lambda side: np.abs(_by_token(side)).mean(),
    ):
      row += [f"{of(side):.3f}" if side else "-" for side in sides]
    tokens = [_by_token(side) for side in sides]
    varies = all(values.size and values.std() > 0 for values in tokens)
    row.append(f"{np.corrcoef(*tokens)[0, 1]:.3f}" if varies else "-")
    rows.append(row)
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _by_token(episodes: Sequence[Episode]) -> np.ndarray:
  """Returns the advantage of every sampled token."""
  advantages = [a for episode in episodes for a in episode.advantages]
  counts = [n for episode in episodes for n in episode.num_tokens]
  return np.repeat(np.array(advantages), np.array(counts, int))


if __name__ == "__main__":
  sys.exit(main())
