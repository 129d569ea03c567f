"""Scores kept transcripts under another credit setting, without playing.

`python -m userrl_jax.rescore RUN_DIR/transcripts/evaluation_grpo.jsonl
--credit=em --score=sum` prints, gym by gym, what the setting of the run and
the given one make of the same episodes; `--json FILE` writes the score and the
advantage of every turn. Transcripts hold what that needs: rewards and sampled
tokens of each turn, and which episodes are valid. Where they hold what each
turn told, in bits, its rank correlation with the credit of turns is shown, too.
With `--reward_profile=paper` the moves are played again where rules answer, and
paid by that profile (`replay`).
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np

from userrl_jax import config
from userrl_jax import config_fields
from userrl_jax import replay
from userrl_jax.learning import baselines
from userrl_jax.learning import credit
from userrl_jax.learning import rewards
from userrl_jax.learning import shaping
from userrl_jax.learning import turn_facts

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
  credits: list[float] = dataclasses.field(default_factory=list)  # of each turn
  # What each turn told; empty where the gym counts it for none.
  bits: list[float] = dataclasses.field(default_factory=list)
  # What each turn chose to do; empty where it was no call.
  choices: list[str] = dataclasses.field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints what two credit settings make of the same transcripts."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.rescore",
    description="Scores kept transcripts under another credit setting.",
  )
  parser.add_argument("transcripts", type=pathlib.Path)
  for field in dataclasses.fields(config.Credit):
    parser.add_argument(f"--{field.name}", default=None, **_kind(field.type))
  parser.add_argument("--reward_profile", help="of gyms, to pay by")
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
    paid = records
    if arguments.reward_profile:
      paid = repaid(arguments.transcripts, records, arguments.reward_profile)
    before, after = rescore(records, trained), rescore(paid, settings)
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
  return _of_config(
    transcripts, lambda values: config.Credit(**values["grpo"]["credit"])
  )


def repaid(
  transcripts: pathlib.Path, records: Sequence[Record], reward_profile: str
) -> Sequence[Record]:
  """Returns transcripts with the rewards of another profile, see `replay`.

  Raises:
    ValueError: when the config of the run cannot be read, when a model was its
      user, and what `replay.paid` does.
  """
  c = _of_config(transcripts, config_fields.from_dict)
  if c.user.kind != "scripted":
    raise ValueError(
      "user.kind of the run must be scripted with --reward_profile: only rules "
      f"answer again as they did, got {c.user.kind!r}"
    )
  return replay.paid(
    records, c.gyms, c.seed, reward_profile, show_reward=c.chat.show_reward
  )


def _of_config(
  transcripts: pathlib.Path, parse: Callable[[Mapping[str, Any]], Any]
) -> Any:
  path = transcripts.parent.parent / "config.json"
  try:
    return parse(json.loads(path.read_text()))
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} must be the config of the run of {transcripts.name}, got "
      f"{type(error).__name__}: {error}; name a file in RUN_DIR/transcripts"
    ) from error


def rescore(
  records: Sequence[Record], settings: config.Credit
) -> list[Episode]:
  """Computes scores and advantages of episodes, as training would.

  Episodes of one task and iteration are a group, and groups of one iteration
  are learned from together; those of several members of which fewer than two
  are valid are not learned from. Computed in float64.

  Args:
    records: transcripts.
    settings: of the credit.

  Returns:
    An episode for each record, in the same order.

  Raises:
    ValueError: when a setting is unknown, two records are of one member, or
      a credit needs bits and no record has any.
  """
  credit.check(settings)
  if settings.credit == "information" and not any(map(has_bits, records)):
    raise ValueError(
      "transcripts must hold what turns told (privileged: information_bits) "
      "with credit=information, got none; play anew with a gym that counts it"
    )
  iterations: dict[int, list[int]] = {}
  for place, record in enumerate(records):
    iterations.setdefault(record["iteration"], []).append(place)
  found: dict[int, Episode] = {}
  for places in iterations.values():
    own = _of_iteration([records[place] for place in places], settings)
    found |= zip(places, own, strict=True)
  return [found[place] for place in range(len(records))]


def _of_iteration(
  records: Sequence[Record], settings: config.Credit
) -> list[Episode]:
  """Computes what `rescore` does of the episodes of one iteration."""
  groups: dict[tuple[Any, ...], dict[int, int]] = {}
  for place, record in enumerate(records):
    key = record["gym"], record["task"]
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
  facts_PGKF = np.zeros((P, G, K, len(turn_facts.NAMES)))
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
      rewards_PGK[p, g, : len(turns)] = rewards.held(
        scale * earned, settings.hold_until
      )
      turn_mask_PGK[p, g, : len(turns)] = True
      num_tokens_PGK[p, g, : len(turns)] = [t["num_tokens"] for t in turns]
      valid_PG[p, g] = records[place]["valid"]
      facts_PGKF[p, g, : len(turns)] = turn_facts.of_turns(
        map(turn_facts.from_record, turns)
      )
  # As `types.Group.has_too_few`: nobody is left to compare with.
  sizes_P = np.array([len(members) for members in groups.values()])
  valid_PG[(valid_PG.sum(-1) < 2) & (sizes_P > 1)] = False
  scores_PG = credit.score(rewards_PGK, turn_mask_PGK, num_tokens_PGK, settings)
  flat_P = baselines.flat_groups(scores_PG, valid_PG)
  advantages_PGK = credit.group_advantages(
    rewards_PGK,
    turn_mask_PGK,
    num_tokens_PGK,
    valid_PG,
    settings,
    facts_PGKF=facts_PGKF,
  )
  credits_PGK = credit.CREDITS[settings.credit](
    rewards_PGK,
    turn_mask_PGK,
    settings,
    np,
    shaping.Turns(facts_PGKF, scores_PG, valid_PG),
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
      credits=credits_PGK[where[place]][: len(record["turns"])].tolist(),
      bits=_bits(record),
      choices=[turn_facts.from_record(turn).choice for turn in record["turns"]],
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
  flat groups' episodes, and the mean size of a token's advantage; the
  correlation of the two settings' advantages over tokens; and, where it is
  known what turns told, Spearman's rank correlation of each setting's credit
  with it, over turns that did not end their episode.
  """
  head = ["gym", "episodes"]
  for name in ("score", "flat", "advantage size"):
    head += [f"{name} in the run", f"{name} now"]
  head.append("correlation")
  told = any(episode.bits for episode in before)
  if told:
    head += ["rank with bits in the run", "rank with bits now"]
  rows = [head, ["---"] * len(head)]
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
    if told:
      ranks = [rank_with_bits(side) for side in sides]
      row += ["-" if rank is None else f"{rank:.3f}" for rank in ranks]
    rows.append(row)
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rank_with_bits(
  episodes: Sequence[Episode], choice: str = ""
) -> float | None:
  """Computes Spearman's correlation of turns' credits and bits.

  Last turns are left out: most rewards come there, and so does what is left
  to be told. Of all turns together it says above all whether a credit tells
  questions from turns that cannot tell anything, such as searches.

  Args:
    episodes: of one gym.
    choice: what turns must have chosen to count, such as `action`, a question;
      empty counts all.

  Returns:
    None where nothing is known, or one of them never varies.
  """
  pairs = [
    (credit_, bits)
    for e in episodes
    if e.bits
    for credit_, bits, chosen in list(
      zip(e.credits, e.bits, e.choices, strict=True)
    )[:-1]
    if choice in ("", chosen)
  ]
  if not pairs:
    return None
  ranks = [_ranks(np.array(side).round(9)) for side in zip(*pairs)]
  if any(np.ptp(side) == 0 for side in ranks):
    return None
  return float(np.corrcoef(*ranks)[0, 1])


def has_bits(record: Record) -> bool:
  """Returns whether a transcript says what each of its turns told."""
  return bool(_bits(record))


def _ranks(values: np.ndarray) -> np.ndarray:
  """Returns each value's rank; equal ones share their mean rank."""
  _, inverse, counts = np.unique(
    values, return_inverse=True, return_counts=True
  )
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[inverse]


def _bits(record: Record) -> list[float]:
  facts = map(turn_facts.from_record, record["turns"])
  bits = [turn.bits for turn in facts]
  return [] if None in bits else [float(b) for b in bits if b is not None]


def _by_token(episodes: Sequence[Episode]) -> np.ndarray:
  """Returns the advantage of every sampled token."""
  advantages = [a for episode in episodes for a in episode.advantages]
  counts = [n for episode in episodes for n in episode.num_tokens]
  return np.repeat(np.array(advantages), np.array(counts, int))


if __name__ == "__main__":
  sys.exit(main())
