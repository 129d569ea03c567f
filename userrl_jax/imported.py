"""Dialogues that somebody wrote down, as trajectories to imitate.

In: `exchange.Dialogue`s and the run's chat. Out: trajectories whose ids are
those that the agent would have read and sampled here, turn by turn; so a
dialogue that was written out comes back as it was. Left out, and counted by
reason, is what a cold start must not learn.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import dataclasses
import hashlib

import numpy as np

from userrl_jax import exchange
from userrl_jax import types
from userrl_jax.chat import ledger as ledger_lib
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tool_calls
from userrl_jax.chat import turns as turns_lib

_NUM_SHOWN = 3  # records named of each reason


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of dialogues."""

  num_read: int
  kept: Mapping[str, int]  # gym -> dialogues
  left_out: Mapping[str, Sequence[str]]  # reason -> where they stand

  def __str__(self) -> str:
    lines = [f"{sum(self.kept.values())} of {self.num_read} dialogues are kept"]
    for reason, places in self.left_out.items():
      shown = "; ".join(places[:_NUM_SHOWN])
      more = "; ..." if len(places) > _NUM_SHOWN else ""
      lines.append(f"  left out, {reason}: {len(places)} ({shown}{more})")
    return "\n".join(lines)


def select(
  dialogues: Iterable[exchange.Dialogue],
  chat: chat_lib.Chat,
  max_tokens: int,
  *,
  held_out_gyms: Collection[str] = (),
  min_score: float = 0.0,
) -> tuple[list[types.Trajectory], Report]:
  """Returns the dialogues that a cold start may learn from, in their order.

  Args:
    dialogues: as read.
    chat: how they are written as ids.
    max_tokens: of a dialogue, all ids together.
    held_out_gyms: whose dialogues are left out.
    min_score: those with less are left out.

  Returns:
    The trajectories and what became of all. Left out are calls that cannot be
    read, held-out gyms and splits, low scores, and what is too long or was
    there already, id by id.

  Raises:
    ValueError: when a score is asked for and a dialogue has none, or a dialogue
      has thoughts where `chat.thinking` is off.
  """
  kept: list[types.Trajectory] = []
  left_out: dict[str, list[str]] = {}
  seen: set[bytes] = set()
  num_read = 0
  for number, dialogue in enumerate(dialogues):
    num_read += 1
    if min_score and dialogue.score is None:
      raise ValueError(
        f"{dialogue.where}: a score must be there where cold_start.min_score "
        f"({min_score:g}) is set, got none; leave cold_start.min_score out"
      )
    reason = ""
    if not dialogue.is_well_formed:
      reason = "a call that cannot be read"
    elif dialogue.gym in held_out_gyms:
      reason = "of a held-out gym"
    elif dialogue.split not in ("", "train"):
      reason = "of a held-out split"
    elif dialogue.score is not None and dialogue.score < min_score:
      reason = f"score below {min_score:g}"
    else:
      made = trajectory(dialogue, chat, number)
      ids, turn_ids = made.token_ids_T, made.turn_ids_T
      key = hashlib.sha256(ids.tobytes() + turn_ids.tobytes()).digest()
      if ids.size > max_tokens:
        reason = f"longer than {max_tokens} tokens"
      elif key in seen:
        reason = "there already"
      else:
        seen.add(key)
        kept.append(made)
    if reason:
      left_out.setdefault(reason, []).append(dialogue.where)
  counts: dict[str, int] = {}
  for one in kept:
    counts[one.task.gym] = counts.get(one.task.gym, 0) + 1
  return kept, Report(num_read, counts, left_out)


def trajectory(
  dialogue: exchange.Dialogue, chat: chat_lib.Chat, number: int = 0
) -> types.Trajectory:
  """Returns a dialogue as if it had been played: read ids and sampled ids.

  Args:
    dialogue: well-formed.
    chat: of the run.
    number: which tells dialogues without a task apart.

  Raises:
    ValueError: when it has thoughts where `chat.thinking` is off.
  """
  messages = dialogue.messages
  if not chat.thinking and any(message.thought for message in messages):
    raise ValueError(
      f"{dialogue.where}: a dialogue with thoughts needs chat.thinking, which "
      "is off; set it, or take the thoughts out"
    )
  ledger = ledger_lib.Ledger()
  unread: list[messages_lib.Message] = []
  turns: list[types.Turn] = []
  for message in messages:
    if message.role != "assistant":
      unread.append(message)
      continue
    if turns:
      ledger.read(chat.next_ids(unread))
    else:
      ledger.read(chat.dialogue_ids(unread, dialogue.tools))
    unread = []
    ids = chat.turn_ids(message.text, message.thought, message.calls)
    ledger.sample(ids, [0.0] * len(ids), len(turns))
    turns.append(types.Turn(chat.tokenizer.decode(ids), None, "", 0.0))
  return types.Trajectory(
    task=_task(dialogue, number),
    member=number,
    iteration=0,
    token_ids_T=ledger.token_ids_T(),
    logprobs_T=ledger.logprobs_T(),
    turn_ids_T=ledger.turn_ids_T(),
    turns=tuple(turns),
    stop_reason=types.StopReason.TERMINATED,
  )


def exported(
  played: types.Trajectory,
  chat: chat_lib.Chat,
  system: str,
  choices: Sequence[str],
) -> exchange.Dialogue:
  """Returns a trajectory as a dialogue; the inverse of `trajectory`.

  Args:
    played: valid, with texts.
    chat: of the run; turns are read off the sampled ids.
    system: the gym's prompt.
    choices: that the gym offers.
  """
  first = played.prompt.removeprefix(f"{system}\n\n")
  messages = [
    messages_lib.Message("system", system),
    messages_lib.Message("user", first),
  ]
  for k, turn in enumerate(played.turns):
    ids = played.token_ids_T[played.turn_ids_T == k].tolist()
    read = turns_lib.read_ids(ids, chat.tokenizer)
    messages.append(
      messages_lib.Message("assistant", read.text, read.thought, read.calls)
    )
    ignored = [tool_calls.IGNORED] * (len(read.calls) - 1)
    observations = [turn.observation, *ignored]
    messages += [messages_lib.Message("tool", text) for text in observations]
  while messages[-1].role == "tool":  # the last one, nobody answers
    messages.pop()
  return exchange.Dialogue(
    tuple(messages),
    (tool_calls.schema(choices),),
    gym=played.task.gym,
    task=played.task.id,
    split=played.task.split,
    score=float(np.clip(played.score, 0.0, 1.0)),
  )


def _task(dialogue: exchange.Dialogue, number: int) -> types.Task:
  """Returns a task to book a dialogue to; nobody can play it.

  Where no gym is named, those with the same system text are of one kind.
  """
  first = dialogue.messages[0]
  system = first.text if first.role == "system" else ""
  digest = hashlib.blake2b(system.encode(), digest_size=4).hexdigest()
  return unplayable(
    dialogue.gym or f"imported-{digest}", dialogue.task or f"record-{number}"
  )


def unplayable(gym: str, task_id: str) -> types.Task:
  """Returns a task of which no more than its name is known."""
  return types.Task(gym, task_id, "train", 1, "", {}, types.Secret({}))
