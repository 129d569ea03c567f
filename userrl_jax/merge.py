"""Merges released tasks of several gyms into one training set, as UserRL does.

`python -m userrl_jax.merge --source=FOLDER --tokenizer=FOLDER --target=FOLDER`
reads the rows of UserRL's task files (`turtle_multiturn/train.parquet`, ...),
takes each gym's share of them, drops prompts that are too long, shuffles, and
writes `train.parquet` of the same rows and `train_report.json`, which says what
was kept and dropped, by gym and why. `--split=test` likewise.

A prompt is counted as the agent reads it: system text, tool block, first
message and the opening of its turn, by the chat format that episodes use.
`merged` does the same with any items. Parquet needs pyarrow.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import random
import re
import sys
from typing import Any, TypeVar

from userrl_jax import types
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.chat import tool_calls

Item = TypeVar("Item")

SPLITS = ("train", "test")
MAX_PROMPT_TOKENS = 1152  # of UserRL; a prompt must have fewer
SEED = 42  # of UserRL, whose generator draws otherwise


@dataclasses.dataclass(frozen=True)
class Share:
  """How many of a source's items are taken."""

  percent: int = 100  # rounded down
  at_least: int = 0  # where there are as many
  at_most: int = sys.maxsize

  def count(self, num_items: int) -> int:
    """Returns how many are taken of so many."""
    wanted = max(num_items * self.percent // 100, self.at_least)
    return min(wanted, self.at_most, num_items)


# {split: {gym: its share}}, of each of its sources (Travel has one a level).
# The other gyms are held out.
_HALF = Share(50, at_least=50)
USERRL: Mapping[str, Mapping[str, Share]] = {
  "train": {
    "travel": Share(35),
    "turtle": Share(),
    "persuade": Share(),
    "function": Share(at_most=200),
    "tau": Share(),
  },
  "test": {
    "travel": Share(50),
    "turtle": _HALF,
    "persuade": _HALF,
    "function": _HALF,
    "tau": _HALF,
    "telepathy": _HALF,
    "intention": _HALF,
    "search": _HALF,
  },
}


@dataclasses.dataclass(frozen=True)
class Count:
  """What became of the items of a source."""

  gym: str
  num_read: int
  num_kept: int
  dropped: Mapping[str, int]  # reason -> items
  longest: int  # prompt, in tokens, of those that were counted; 0 of none


def merged(
  sources: Mapping[str, tuple[str, Sequence[Item]]],
  shares: Mapping[str, Share],
  num_prompt_tokens: Callable[[Item], int],
  max_prompt_tokens: int = MAX_PROMPT_TOKENS,
  seed: int = SEED,
) -> tuple[list[Item], dict[str, Count]]:
  """Merges items of several sources; the same for the same arguments.

  Args:
    sources: name -> (gym, items). Which items of a source are drawn depends on
      its name and the seed, not on what other sources there are.
    shares: gym -> its share; items of others are held out.
    num_prompt_tokens: counts an item's prompt.
    max_prompt_tokens: items with as many or more are dropped.
    seed: of draws and of the order.

  Returns:
    The items, shuffled, and what became of those of each source.
  """
  kept: list[Item] = []
  counts: dict[str, Count] = {}
  for name, (gym, items) in sources.items():
    dropped: dict[str, int] = {}
    if gym not in shares:
      counts[name] = Count(gym, len(items), 0, {"held out": len(items)}, 0)
      continue
    number = shares[gym].count(len(items))
    drawn = random.Random(f"merge|{seed}|{name}").sample(list(items), number)
    lengths = [num_prompt_tokens(item) for item in drawn]
    short = [
      item
      for item, length in zip(drawn, lengths, strict=True)
      if length < max_prompt_tokens
    ]
    if number < len(items):
      dropped["not drawn"] = len(items) - number
    if len(short) < number:
      reason = f"prompt of {max_prompt_tokens} tokens or more"
      dropped[reason] = number - len(short)
    longest = max(lengths, default=0)
    counts[name] = Count(gym, len(items), len(short), dropped, longest)
    kept += short
  random.Random(f"merge|{seed}").shuffle(kept)
  return kept, counts


def num_prompt_tokens(
  chat: chat_lib.Chat, prompt: Sequence[Mapping[str, Any]]
) -> int:
  """Counts all that an agent reads before its first turn, tool block included.

  Args:
    chat: the format, and the tokenizer.
    prompt: messages of a row.
  """
  messages = messages_lib.from_openai(prompt)
  # The released tool offers all choices in every gym.
  return len(chat.dialogue_ids(messages, [tool_calls.schema(types.CHOICES)]))


def read(folder: pathlib.Path, split: str) -> dict[str, tuple[str, list[Any]]]:
  """Reads the rows of all task files of a split in a folder.

  Returns:
    name of the file's folder -> (gym, rows), by name; what UserRL merged itself
    is left out.

  Raises:
    ValueError: when there is none, or a row is not what it must be; names the
      file, the row and the field.
  """
  found: dict[str, tuple[str, list[Any]]] = {}
  for path in sorted(folder.glob(f"*/{split}.parquet")):
    gym = _gym(path.parent.name)
    if gym:
      found[path.parent.name] = gym, _rows(path)
  if not found:
    known = ", ".join(f"{name}_multiturn" for name in _GYMS)
    raise ValueError(
      f"{folder} must hold folders such as {known} with {split}.parquet, got "
      "none"
    )
  return found


def write(
  folder: pathlib.Path,
  split: str,
  rows: Sequence[Any],
  report: Mapping[str, Any],
) -> pathlib.Path:
  """Writes the merged rows and what became of all; returns the rows' file.

  Raises:
    ValueError: when no row is left.
  """
  if not rows:
    raise ValueError("a merged set must hold rows, got none; widen the shares")
  import pyarrow
  from pyarrow import parquet

  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"{split}.parquet"
  temporary = folder / f"{split}.partial"
  parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)
  temporary.replace(path)
  text = json.dumps(report, indent=2) + "\n"
  (folder / f"{split}_report.json").write_text(text, encoding="utf-8")
  return path


def main(argv: Sequence[str] | None = None) -> int:
  """Merges the files that the arguments name; prints what was kept."""
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.merge",
    description="Merges released tasks of several gyms into one set.",
  )
  parser.add_argument("--source", required=True, help="UserRL's data folder")
  parser.add_argument("--tokenizer", required=True, help="with tokenizer.json")
  parser.add_argument("--target", required=True, help="folder to write to")
  parser.add_argument("--split", choices=SPLITS, default="train")
  parser.add_argument("--seed", type=int, default=SEED)
  parser.add_argument(
    "--max_prompt_tokens", type=int, default=MAX_PROMPT_TOKENS
  )
  parser.add_argument(
    "--shares",
    nargs="*",
    default=[],
    metavar="GYM=50%",
    help="instead of UserRL's: a percentage, or a number such as function=200; "
    "0 holds a gym out",
  )
  arguments = parser.parse_args(argv)
  try:
    shares = {**USERRL[arguments.split], **_shares(arguments.shares)}
    shares = {gym: share for gym, share in shares.items() if share.at_most}
    tokenizer = tokenizers.load(arguments.tokenizer, "huggingface")
    chat = chat_lib.Chat(tokenizer, "full")
    rows, counts = merged(
      read(pathlib.Path(arguments.source), arguments.split),
      shares,
      lambda row: num_prompt_tokens(chat, row["prompt"]),
      arguments.max_prompt_tokens,
      arguments.seed,
    )
    report = {
      "split": arguments.split,
      "seed": arguments.seed,
      "max_prompt_tokens": arguments.max_prompt_tokens,
      "tokenizer": tokenizer.fingerprint,
      "rows": len(rows),
      "sources": {name: dataclasses.asdict(c) for name, c in counts.items()},
    }
    target = pathlib.Path(arguments.target)
    path = write(target, arguments.split, rows, report)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(table(counts))
  print(f"{len(rows)} rows: {path}")
  return 0


def table(counts: Mapping[str, Count]) -> str:
  """Returns what became of all items, as a table in Markdown."""
  rows = [["source", "gym", "read", "kept", "longest prompt", "dropped"]]
  rows.append(["---"] * 6)
  for name, of in counts.items():
    reasons = [f"{reason}: {n}" for reason, n in of.dropped.items()]
    numbers = [str(n) for n in (of.num_read, of.num_kept, of.longest)]
    rows.append([name, of.gym, *numbers, "; ".join(reasons)])
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# {name of UserRL's folder, up to its level: our gym}
_GYMS = {
  "bamboogle": "search",
  "function": "function",
  "intention": "intention",
  "persuasion": "persuade",
  "tau": "tau",
  "telepathy": "telepathy",
  "travel": "travel",
  "turtle": "turtle",
}
_FOLDER = re.compile(r"([a-z]+)\d*_multiturn(_onechoice)?")
_SHARE = re.compile(r"([a-z]+)=(\d{1,9})(%?)")


def _gym(folder: str) -> str:
  match = _FOLDER.fullmatch(folder)
  return _GYMS.get(match[1], "") if match else ""


def _shares(texts: Sequence[str]) -> dict[str, Share]:
  shares = {}
  for text in texts:
    match = _SHARE.fullmatch(text)
    if not match or match[1] not in _GYMS.values():
      raise ValueError(
        "--shares must be like travel=35% or function=200, of gyms "
        f"{', '.join(sorted(_GYMS.values()))}, got {text!r}"
      )
    number = int(match[2])
    share = Share(number) if match[3] else Share(at_most=number)
    shares[match[1]] = share if number else Share(at_most=0)
  return shares


def _rows(path: pathlib.Path) -> list[Any]:
  try:
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(
      f"{path}: reading parquet needs pyarrow: pip install pyarrow"
    ) from error
  try:
    rows = parquet.read_table(path).to_pylist()
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} must be rows of UserRL; {error}") from error
  for number, row in enumerate(rows, 1):
    _check(f"{path}, row {number}", row)
  return rows


def _check(where: str, row: Mapping[str, Any]) -> None:
  """Checks what the merge and a trainer read of a row.

  Raises:
    ValueError: names the field.
  """
  source = row.get("data_source")
  if not isinstance(source, str) or not source.startswith("interact_"):
    raise ValueError(
      f"{where}: field 'data_source' must begin with 'interact_', got "
      f"{source!r:.60}"
    )
  prompt = row.get("prompt")
  roles = [
    message.get("role") if isinstance(message, Mapping) else None
    for message in (prompt if isinstance(prompt, list) else ())
  ]
  if roles != ["system", "user"]:
    raise ValueError(
      f"{where}: field 'prompt' must be a message of the system and one of the "
      f"user, got {roles}"
    )
  if not all(isinstance(message["content"], str) for message in prompt):
    raise ValueError(f"{where}: field 'prompt' must have texts as contents")
  about = row.get("reward_model")
  about = about if isinstance(about, Mapping) else {}
  if not about.get("env_name") or not (about.get("id") or about.get("title")):
    raise ValueError(
      f"{where}: field 'reward_model' must have env_name, and id or title, got "
      f"{about!r:.80}"
    )


if __name__ == "__main__":
  sys.exit(main())
