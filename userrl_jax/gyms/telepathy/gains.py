"""How many bits each turn of Telepathy told; privileged, for records only.

In: a task and the turns of its episode. Out: for each turn, log2(n / m), where
n things were possible before the reply that the agent read and m are after it.

*Over what*: the things of `world` that fit the first message (level 1: the six
that it lists; 2: its category's that have its hints; 3: all that have them).
*Prior*: each alike. That is the generator's at level 1; above, it draws a thing
first and hints of it then, so things of which little is certain are a bit more
likely to come with a given hint, which is left out. That a split leaves some
things out is left out, too: the agent is not told.
*Replies*: those of the world's table. So each gain is the entropy lost, none is
negative, and the gains of an episode add up to log2(n) at most, n as of the
first message: to just that when one thing is left.

By hand: of six listed things, of which two are alive, "Is it alive?" - "No."
tells log2(6 / 4) = 0.585 bits, the same question again 0, and "Yes." would have
told log2(6 / 2) = 1.585. A wrong guess that was possible tells log2(4 / 3) =
0.415 then, and the right one the rest: log2(4 / 1) = 2.

What a thing outside the world is (one of UserRL's) nobody counts: None. A model
that answers as the user may say what no thing left would: that tells nothing.
So do a user who does not reply and one who says the contrary; a true reply
tells what it means, in whatever words.
"""

from collections.abc import Sequence
import math

from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.telepathy import gym
from userrl_jax.gyms.telepathy import scripted
from userrl_jax.gyms.telepathy import world

_VERDICTS = {text: verdict for verdict, text in gym.REPLIES.items()}


def information(
  task: types.Task, turns: Sequence[types.Turn]
) -> tuple[float | None, ...]:
  """Returns the bits of each turn; None of all where the world lacks the thing.

  A turn without a reply, malformed or failed, tells nothing: 0.
  """
  left = possible(task)
  if left is None:
    return (None,) * len(turns)
  name, bits = task.secret.reveal()["name"], []
  for turn in turns:
    after = _after(left, turn, name) or left
    bits.append(math.log2(len(left) / len(after)))
    left = after
  return tuple(bits)


def possible(task: types.Task) -> frozenset[str] | None:
  """Returns the names that fit the first message of a task.

  None when the task is not of the world.
  """
  secret, public = task.secret.reveal(), task.public
  entity = world.entities().get(secret.get("name", ""))
  if entity is None or entity.gloss != secret.get("gloss"):
    return None
  if "description" in public:
    return None
  if "candidates" in public:
    return frozenset(public["candidates"])
  told = [_read_hint(hint) for hint in public["hints"]]
  return frozenset(
    name
    for name, entity in world.entities().items()
    if public.get("category", entity.category) == entity.category
    and all(entity.values[key] == verdict for key, verdict in told)
  )


def _after(left: frozenset[str], turn: types.Turn, name: str) -> frozenset[str]:
  """Returns the names that a turn leaves; none when it fits no name."""
  if turn.action is None or turn.fault != types.Fault.OK:
    return left
  if turn.info.get("outcome") in base.UNTOLD:
    return left
  text = turn.observation.partition("\n")[0]  # a shown reward stands below
  if turn.action.choice == "answer":
    if text == gym.RIGHT:
      return left & {name}
    return left - {world.named(turn.action.content.strip())}
  verdict = _verdict(turn, text)
  if verdict is None:
    return left
  question = turn.action.content.strip()
  return frozenset(n for n in left if scripted.verdict(n, question) == verdict)


def _verdict(turn: types.Turn, text: str) -> world.Verdict | None:
  """Returns the verdict that a reply stands for, None when it is none.

  Turns that were kept before gyms noted it have words alone.
  """
  if "verdict" in turn.info:
    return world.Verdict(turn.info["verdict"])
  return _VERDICTS.get(text.removesuffix(f" {gym.LOST}"))


def _read_hint(hint: str) -> tuple[str, world.Verdict]:
  """Returns the attribute that a hint is about, and its value."""
  for key, attribute in world.attributes().items():
    said = hint.removeprefix(f"{attribute.question} ")
    if said != hint:
      return key, world.Verdict(said.removesuffix("."))
  raise ValueError(f"a hint must be a question and its reply, got {hint!r}")
