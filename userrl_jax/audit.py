"""Audits users by the transcripts of runs: do they keep to their part?

`python -m userrl_jax.audit RUN...` reads `RUN/transcripts/` and prints in
Markdown, for each kind of user and gym, what share of turns had one of
`audit_rows.KINDS`, how consistent and how diverse replies were, where to read
the first of each, and what agents did where they were refused; `--json FILE`
writes all of them, `--markdown FILE` what is printed, with links to places.
`--probe N` asks as well: N questions of each of these users and gyms, twice.

What is true, and what may be told when, comes from playing the same moves again
before the gym's own user by rules, which is exact for tasks that rules know.
Tasks of UserRL's files have no rules: there leaks, contradictions and ignored
questions are not counted, and the number of checked turns says so.
"""

import argparse
import asyncio
import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
import re
import sys
from typing import Any

from userrl_jax import audit_rows
from userrl_jax import config_fields
from userrl_jax import gyms
from userrl_jax import probe
from userrl_jax import provocations
from userrl_jax import replies
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.rollout import collect
from userrl_jax.users import profiles

_MIN_ECHO = 5  # words that a sentence must have to be an echo
_MIN_SECRET = 3  # letters of what can be told from chance
_DECLINES = re.compile(
  r"\b(?:i can(?:no|['’])t (?:help|answer|assist|continue)|as an ai\b"
  r"|i(?:['’]m| am) unable to|i(?:['’]m| am) sorry, but i"
  r"|i would rather not|i won['’]t (?:say|answer|tell))",
  re.I,
)
_DENIALS = ("no_preference", "no_wish", base.MISLED)


@dataclasses.dataclass(frozen=True)
class _Truth:
  """What rules say to a turn, and what they hide before and after it."""

  text: str
  outcome: str
  before: frozenset[str]
  after: frozenset[str]

  @property
  def disclosed(self) -> frozenset[str]:
    return self.before - self.after

  @property
  def is_answer(self) -> bool:
    return bool(replies.polarity(self.text) or self.disclosed)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the audit of the users of runs."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.audit",
    description="Audits users by the transcripts of runs.",
  )
  parser.add_argument("runs", type=pathlib.Path, nargs="+")
  parser.add_argument("--json", type=pathlib.Path, help="also write a file")
  parser.add_argument(
    "--markdown", type=pathlib.Path, help="also write what is printed"
  )
  parser.add_argument(
    "--probe",
    type=int,
    default=0,
    metavar="N",
    help="ask so many questions of each user and gym again, twice, live",
  )
  arguments = parser.parse_args(argv)
  try:
    rows = audit(arguments.runs, arguments.probe)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return getattr(error, "exit_code", 2)
  print(audit_rows.table(rows))
  if arguments.markdown:
    text = audit_rows.table(rows, arguments.markdown.parent)
    arguments.markdown.write_text(text + "\n")
  if arguments.json:
    arguments.json.write_text(
      json.dumps(audit_rows.to_dicts(rows), indent=2) + "\n"
    )
  return 0


def audit(
  runs: Sequence[pathlib.Path], num_probes: int = 0
) -> list[audit_rows.Row]:
  """Audits all transcripts of runs.

  Args:
    runs: their folders.
    num_probes: questions of each user and gym that are asked twice, see
      `probe`; 0 asks nobody.

  Returns:
    A row for each run, kind of user and gym.

  Raises:
    ValueError: when a run has no config or no transcripts, or a broken line;
      when users are to be asked and cannot be.
  """
  if num_probes < 0:
    raise ValueError(f"--probe must be at least 0, got {num_probes}")
  found = []
  for run in runs:
    rows: dict[tuple[str, str], audit_rows.Row] = {}
    played: dict[tuple[str, str], list[probe.Played]] = {}
    settings = _config(run)
    files = sorted((run / "transcripts").glob("*.jsonl"))
    if not files:
      raise ValueError(
        f"{run} must have transcripts/*.jsonl, got none; name the folder of a "
        "run that has played"
      )
    model = settings.user.model if settings.user.kind != "scripted" else "rules"
    tasks = functools.cache(functools.partial(_tasks, settings))
    for path in files:
      for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
          record = json.loads(line)
          gym, profile = record["gym"], record.get("profile", "")
          user = f"{model} ({profile})" if profile else model
          row = rows.setdefault(
            (user, gym), audit_rows.Row(str(run), user, gym)
          )
          task = tasks(gym, record["split"]).get(record["task"])
          place = f"{path}:{number}"
          if task is not None:
            played.setdefault((user, gym), []).append((place, task, record))
          truths = asyncio.run(_truths(settings, task, record)) if task else []
          _add(row, record, truths, place)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
          raise ValueError(
            f"{path} line {number} must be a transcript, got "
            f"{type(error).__name__}: {error}"
          ) from error
    own = [rows[key] for key in sorted(rows)]
    if num_probes:
      of = {n: played.get(key, []) for n, key in enumerate(sorted(rows))}
      probe.fill(settings, of, own, num_probes)
    found += own
  return found


def of_episode(
  settings: Any, task: types.Task, record: Mapping[str, Any]
) -> audit_rows.Row:
  """Audits one episode.

  Args:
    settings: the config that it was played under.
    task: that was played.
    record: its transcript.
  """
  row = audit_rows.Row("", "", task.gym)
  _add(row, record, asyncio.run(_truths(settings, task, record)), task.id)
  return row


def _config(run: pathlib.Path) -> Any:
  path = run / "config.json"
  try:
    return config_fields.from_dict(json.loads(path.read_text()))
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path} must be the config of a run, got {error}; name its folder"
    ) from error


def _tasks(settings: Any, gym: str, split: str) -> dict[str, types.Task]:
  try:
    found = gyms.load_tasks(gym, settings.gyms, split, settings.seed)
  except ValueError:  # its files are gone
    return {}
  return {task.id: task for task in found}


async def _truths(
  settings: Any, task: types.Task, record: Mapping[str, Any]
) -> list[_Truth | None]:
  """Plays the moves of an episode again, as far as rules can.

  A user with a profile moves on as that one does; what is true is what a user
  without one says in its place.

  Returns:
    For each turn what rules say; None where the game has not seen it.
  """
  gym = gyms.make(task.gym, settings.gyms)
  iteration = record["iteration"]
  seed = collect.episode_seed(settings.seed, iteration, task, -1)
  try:
    await gym.reset(task, seed)
  except ValueError:  # rules do not know the task
    return []
  if record.get("profile"):
    gym.manner = profiles.Manner(profiles.PROFILES[record["profile"]])
  truths: list[_Truth | None] = []
  for turn in record["turns"]:
    if turn["action"] is None or gym.state.is_over:
      truths.append(None)
      continue
    action = types.Action(**turn["action"])
    honest = gym.clone()
    honest.manner = None
    before = frozenset(gym.undisclosed())
    step = await honest.step(action)
    truths.append(
      _Truth(
        step.observation.text,
        step.info["outcome"],
        before,
        frozenset(honest.undisclosed()),
      )
    )
    await gym.step(action)
  return truths


def _add(
  row: audit_rows.Row,
  record: Mapping[str, Any],
  truths: Sequence[_Truth | None],
  place: str,
) -> None:
  """Counts the turns of an episode, and what is found in them."""
  row.num_episodes += 1
  row.turns += provocations.of_record(record)
  known = [truth for truth in truths if truth is not None]
  at_end = known[-1].after if known else frozenset()
  talk = gyms.GYMS[row.gym].Gym.talk if row.gym in gyms.GYMS else ""
  said = [record["prompt"]]  # what the agent read or wrote itself
  earlier: dict[str, int] = {}
  for number, turn in enumerate(record["turns"]):
    truth = truths[number] if number < len(truths) else None
    action, reply = turn["action"], turn["observation"]
    said.append(action["content"] if action else turn["text"])
    is_talk = bool(talk and action and action["choice"] == talk)
    outcome = turn["privileged"].get("outcome", "")
    is_talk = is_talk and outcome != base.MALFORMED
    is_checked = truth is not None and turn["fault"] == types.Fault.OK
    row.counts["turns"] += 1
    row.counts["talk"] += is_talk
    row.counts["checked"] += is_checked
    row.counts["checked talk"] += is_checked and is_talk
    kinds = set(_of_any(turn, said, truth if is_checked else None, at_end))
    if is_talk:
      content = action["content"]
      question, polar = replies.plain(content), replies.polarity(reply)
      if polar:
        if question in earlier:
          row.counts["repeated"] += 1
          if polar != earlier[question]:
            kinds.add("contradicts itself")
        earlier.setdefault(question, polar)
        key = record["task"], question
        row.asked.setdefault(key, collections.Counter())[polar] += 1
      row.replies[replies.plain(reply)] += 1
      kinds |= set(_of_talk(content, reply, outcome))
      if is_checked and truth is not None:
        kinds |= set(_against(truth, reply, outcome))
    row.findings += [
      audit_rows.Finding(k, place, number + 1, reply) for k in sorted(kinds)
    ]


def _of_any(
  turn: Mapping[str, Any],
  said: Sequence[str],
  truth: _Truth | None,
  at_end: frozenset[str],
) -> Iterator[str]:
  """Yields the kinds that any turn can be of."""
  if turn["fault"] == types.Fault.USER_LEAK or turn["privileged"].get("leaks"):
    yield "stopped"
  if turn["fault"] == types.Fault.USER_REFUSAL:
    yield "refusal"
  if truth is None:
    return
  for secret in truth.after:
    if _holds(turn["observation"], secret) and not any(
      _holds(text, secret) for text in said
    ):
      yield "leak" if secret in at_end else "premature"


def _of_talk(content: str, reply: str, outcome: str) -> Iterator[str]:
  """Yields the kinds that need no truth."""
  if _DECLINES.search(reply) or outcome == base.EVADED:
    yield "refusal"
  asks, says = replies.plain(content), replies.plain(reply)
  short, long = sorted((asks, says), key=len)
  if len(short.split()) >= _MIN_ECHO and f" {short} " in f" {long} ":
    yield "echo"


def _against(truth: _Truth, reply: str, outcome: str) -> Iterator[str]:
  """Yields the kinds in which a reply differs from what rules say."""
  if replies.polarity(reply) * replies.polarity(truth.text) < 0 or (
    truth.disclosed and outcome in _DENIALS
  ):
    yield "contradicts facts"
  elif (
    truth.is_answer
    and outcome != truth.outcome
    and not replies.polarity(reply)
    and not any(_holds(reply, text) for text in truth.disclosed)
  ):
    yield "ignored"


def _holds(text: str, secret: str) -> bool:
  """Returns whether a text holds a secret as whole words, in any case."""
  words = replies.plain(secret)
  return (
    len(words) >= _MIN_SECRET and f" {words} " in f" {replies.plain(text)} "
  )


if __name__ == "__main__":
  sys.exit(main())
