"""The promises every gym keeps, as checks that a new gym gets for free.

A `Subject`, which is a gym with its tasks and players, comes in; each `check_*`
returns nothing when the promise holds and raises `ContractError` when it does
not. They know no test framework, so that tests, a command and the authors of
outside gyms can all run them:

  python -m userrl_jax.gyms.contract my_pkg.my_gym:MyGym
"""

import asyncio
from collections.abc import Callable, Sequence
import dataclasses
import json
import math
from typing import Any

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import blocking
from userrl_jax.gyms import subjects

MAX_BRIEF_WORDS = 80
CANNED_BAND = (0.02, 0.15)  # share of the maximum that thoughtless play earns

# Contents that no choice of any gym takes, and choices that no gym offers.
NO_TEXTS: tuple[Any, ...] = (None, 7, 1.5, True, [], {}, b"x")
BAD_CONTENTS = ("", " ", "\n", "x" * 10_000, *NO_TEXTS)
BAD_CHOICES = ("foo", "finish", "[answer]", "Action", "", "x" * 99, *NO_TEXTS)

Subject = subjects.Subject
Record = subjects.Record
Player = subjects.Player
play = subjects.play
play_async = subjects.play_async


class ContractError(Exception):
  """A gym breaks a promise."""


def subject(
  name: str, settings: config.Gyms, tasks: Sequence[types.Task]
) -> Subject:
  """Returns a gym as a subject, an outside one too.

  Raises:
    ValueError: when there is no such gym, or nothing can play it.
  """

  def there(part: str, get: Callable[[str], Any]) -> Any:
    return get(name) if gyms.has(name, part) else None

  return Subject(
    lambda: gyms.make(name, settings),
    tasks,
    there("Oracle", gyms.oracle),
    there("random_move", gyms.canned),
    there("hacks", gyms.hacks),
  )


def check_all(
  name: str, settings: config.Gyms, tasks: Sequence[types.Task]
) -> None:
  """Runs every check on a gym that has what it needs.

  Raises:
    ContractError: at the first broken promise.
  """
  under_test = subject(name, settings, tasks)
  for check in CHECKS:
    if not missing(check, under_test):
      check(under_test)


def missing(check: Callable[[Subject], None], subject: Subject) -> str:
  """Returns the part that a check is about and the gym lacks, '' for none."""
  part = _ABOUT.get(check, "")
  return part if part and getattr(subject, part.lower()) is None else ""


def check_lifecycle(subject: Subject) -> None:
  """Checks that calls out of order raise RuntimeError."""

  async def run() -> None:
    task, move = subject.tasks[0], types.Action("foo", "bar")
    gym = subject.make()
    await _raises(RuntimeError, gym.step(move), "a step before reset")
    await gym.reset(task, 0)
    await _raises(RuntimeError, gym.reset(task, 0), "a second reset")
    other = dataclasses.replace(task, gym=task.gym + "_other")
    reset = subject.make().reset(other, 0)
    await _raises(ValueError, reset, "a task of another gym")
    while not gym.state.is_over:
      await gym.step(move)
    await _raises(RuntimeError, gym.step(move), "a step after the end")

  asyncio.run(run())


def check_types(subject: Subject) -> None:
  """Checks the values of observations and steps, and their bounds."""
  for number, task in enumerate(subject.tasks):
    gym = subject.make()
    record = play(gym, task, subjects.thoughtless(subject, task, number))
    max_turns = gym.settings.max_turns
    num_turns = len(record.steps)
    _expect(num_turns <= max_turns, f"{task.id}: more turns than allowed")
    for text in record.texts:
      _expect(isinstance(text, str) and text != "", "an observation is text")
      _expect(
        len(text) <= gym.max_observation_chars,
        f"too long to observe: {text!r:.300}",
      )
    for turn, step in enumerate(record.steps, 1):
      is_last = turn == num_turns
      _expect(
        type(step.reward) is float and math.isfinite(step.reward),
        f"a reward is a finite float, got {step.reward!r}",
      )
      ends = step.terminated, step.truncated
      _expect(
        all(type(end) is bool for end in ends),
        "terminated and truncated are bools",
      )
      _expect(is_last == any(ends), "only the last step ends")
      _expect(not all(ends), "an end has one reason")
      _expect(
        step.truncated == (turn == max_turns and not step.terminated),
        "a game is truncated at its turn limit and only there",
      )
      _expect(
        isinstance(step.info.get("outcome"), str)
        and type(step.info.get("success")) is bool,
        "info holds an outcome, and whether the game was won",
      )
    _expect(
      -1e-9 <= record.score <= gym.max_score + 1e-9, f"score {record.score}"
    )


def check_prompts(subject: Subject) -> None:
  """Checks the system prompts: both there, the brief one brief, no secrets."""
  gym = subject.make()
  texts = {profile: gym.system_prompt(profile) for profile in base.PROFILES}
  size = len(texts["brief"].split())
  _expect(size <= MAX_BRIEF_WORDS, f"the brief prompt has {size} words")
  for text in texts.values():
    said = (str(gym.settings.max_turns), *gym.choices)
    _expect(
      all(word in text for word in said),
      f"a system prompt tells the turn limit and all choices: {said}",
    )
  try:
    gym.system_prompt("no such profile")
  except ValueError:
    return
  raise ContractError("an unknown prompt profile raises ValueError")


def check_determinism(subject: Subject) -> None:
  """Checks that an episode is a function of task, seed and actions."""
  for task in subject.tasks:
    first, second = (
      play(subject.make(), task, subjects.noisy(subject, task))
      for _ in range(2)
    )
    _expect(first == second, f"{task.id}: two equal episodes differ")


def check_concurrency(subject: Subject) -> None:
  """Checks that 64 episodes on one event loop play as they do alone."""
  tasks = [subject.tasks[i % len(subject.tasks)] for i in range(64)]

  async def together() -> list[Record]:
    return await asyncio.gather(
      *(
        play_async(subject.make(), t, subjects.noisy(subject, t)) for t in tasks
      )
    )

  alone = [play(subject.make(), t, subjects.noisy(subject, t)) for t in tasks]
  _expect(asyncio.run(together()) == alone, "episodes disturb each other")


def check_clone(subject: Subject) -> None:
  """Checks that a clone continues identically and apart, at every turn."""

  async def run(task: types.Task) -> None:
    record = await play_async(
      subject.make(), task, subjects.noisy(subject, task)
    )
    actions = record.actions
    gym = subject.make()
    await gym.reset(task, 0)
    for turn, action in enumerate(actions):
      state = dataclasses.asdict(gym.state)
      again = json.loads(json.dumps(state))
      _expect(again == state, "a state survives JSON unchanged")
      clone = gym.clone()
      steps = [await clone.step(a) for a in actions[turn:]]
      _expect(
        dataclasses.asdict(gym.state) == state, "a clone's steps are its own"
      )
      twin = gym.clone()
      _expect(
        steps == [await twin.step(a) for a in actions[turn:]],
        f"{task.id}: clones of one game differ",
      )
      step = await gym.step(action)
      _expect(step == steps[0], f"{task.id}: a clone differs from its origin")

  for task in subject.tasks:
    asyncio.run(run(task))


def check_malformed(subject: Subject) -> None:
  """Checks that no action raises, and that bad ones only cost a turn."""

  async def run(task: types.Task) -> None:
    choices = subject.make().choices
    moves = [types.Action(c, text) for c in choices for text in BAD_CONTENTS]
    foreign = tuple(c for c in types.CHOICES if c not in choices)
    moves += [types.Action(c, "5") for c in BAD_CHOICES + foreign]
    for move in moves:
      gym = subject.make()
      await gym.reset(task, 0)
      before = dataclasses.asdict(gym.state)
      try:
        step = await gym.step(move)
      except Exception as error:
        raise ContractError(f"{move!r:.200} raised {error!r}") from error
      after = dataclasses.asdict(gym.state)
      _expect(step.reward == 0.0 and not step.terminated, f"{move!r:.200} pays")
      _expect(
        step.info["outcome"] == base.MALFORMED
        and step.observation.text.startswith("Format: "),
        f"{move!r:.200} gets a format hint, got {step.observation.text!r:.200}",
      )
      _expect(after["num_turns"] == 1, f"{move!r:.200} costs a turn")
      for counter in ("num_turns", "is_over"):
        del before[counter], after[counter]
      _expect(before == after, f"{move!r:.200} changes the game")

  for task in subject.tasks[:4]:
    asyncio.run(run(task))


def check_blocking(subject: Subject) -> None:
  """Checks that an episode makes no call that stops all others meanwhile."""
  for number, task in enumerate(subject.tasks[:8]):
    with blocking.watched() as calls:
      play(subject.make(), task, subjects.noisy(subject, task))
      play(subject.make(), task, subjects.thoughtless(subject, task, number))
    _expect(
      not calls,
      f"{task.id}: reset and step may not block the event loop, but call "
      f"{', '.join(sorted(set(calls)))}; await an async function instead, or "
      "asyncio.to_thread",
    )


def check_information(subject: Subject) -> None:
  """Checks the bits that turns tell: one number a turn, or None of all."""
  for task in subject.tasks:
    record = play(subject.make(), task, subjects.noisy(subject, task))
    turns = subjects.turns(record)
    bits = gyms.information(task, turns)
    told = [b for b in bits if b is not None]
    _expect(
      len(bits) == len(turns) and len(told) in (0, len(bits)),
      f"{task.id}: bits for every turn, or for none",
    )
    _expect(all(0 <= b < math.inf for b in told), f"bits are no bits: {told}")


def check_secrets(subject: Subject) -> None:
  """Checks that nothing undisclosed is shown, in prompts or play (law L8)."""

  async def run(task: types.Task, player: Player) -> int:
    gym = subject.make()
    texts = [gym.system_prompt(profile) for profile in base.PROFILES]
    texts += [repr(task), json.dumps(dict(task.public))]
    texts.append((await gym.reset(task, 0)).text)
    _expect(any(gym.undisclosed()), "a gym names what it hides")
    _scan(gym, texts)
    observed = texts[-1:]
    while not gym.state.is_over:
      step = await gym.step(player(observed))
      observed.append(step.observation.text)
      texts.append(step.observation.text)
      _scan(gym, texts)
    return gym.state.num_turns

  for number, task in enumerate(subject.tasks):
    if subject.oracle is not None:
      oracle = subject.oracle(task, base.episode_rng(task.id, number))
      asyncio.run(run(task, oracle.next_action))
    asyncio.run(run(task, subjects.noisy(subject, task)))
    asyncio.run(run(task, subjects.thoughtless(subject, task, number)))
    hacks = list(subject.hacks(task)) if subject.hacks is not None else []
    while hacks:  # as many a game as it lasts
      del hacks[: asyncio.run(run(task, subjects.scripted(hacks)))]


def check_hacks(subject: Subject) -> None:
  """Checks that no move that plays for the reward alone is paid."""
  assert subject.hacks is not None
  for task in subject.tasks:
    for hack in subject.hacks(task):
      record = play(subject.make(), task, subjects.scripted([hack]))
      _expect(record.score == 0, f"{task.id}: {hack!r:.200} pays")
      _expect(
        not any(step.info["success"] for step in record.steps),
        f"{task.id}: {hack!r:.200} wins the game",
      )


def check_oracle(subject: Subject) -> None:
  """Checks that the demonstrator reaches the best score on every task."""
  assert subject.oracle is not None
  for number, task in enumerate(subject.tasks):
    player = subject.oracle(task, base.episode_rng(task.id, number))
    gym = subject.make()
    record = play(gym, task, player.next_action)
    _expect(
      abs(record.score - gym.max_score) <= 1e-9,
      f"{task.id}: the oracle scores {record.score} of {gym.max_score}: "
      f"{record.texts}",
    )
    is_success = bool(record.steps[-1].info["success"])
    _expect(is_success, f"{task.id}: no success is told")


def check_canned_band(subject: Subject, num_episodes: int = 2000) -> None:
  """Checks that thoughtless play earns a little: neither nothing nor much."""
  score = 0.0
  for number in range(num_episodes):
    task = subject.tasks[number % len(subject.tasks)]
    player = subjects.thoughtless(subject, task, number)
    gym = subject.make()
    score += play(gym, task, player).score / gym.max_score / num_episodes
  low, high = CANNED_BAND
  _expect(
    low <= score <= high,
    f"canned random play should earn {low:.0%} to {high:.0%} of the maximum, "
    f"got {score:.2%}",
  )


CHECKS: tuple[Callable[[Subject], None], ...] = (
  check_lifecycle,
  check_types,
  check_prompts,
  check_determinism,
  check_concurrency,
  check_clone,
  check_malformed,
  check_blocking,
  check_information,
  check_secrets,
  check_hacks,
  check_oracle,
  check_canned_band,
)
# Checks that only a gym with the part can fail or pass.
_ABOUT: dict[Callable[[Subject], None], str] = {
  check_hacks: "hacks",
  check_oracle: "Oracle",
  check_canned_band: "random_move",
}


def _scan(gym: base.Gym, texts: Sequence[str]) -> None:
  for secret in gym.undisclosed():
    for text in texts:
      if secret and secret in text:
        # The message must not spread the secret any further.
        raise ContractError(f"{gym.name}: a text shows what is undisclosed")


async def _raises(kind: type[Exception], call: Any, what: str) -> None:
  try:
    await call
  except kind:
    return
  raise ContractError(f"{what} raises {kind.__name__}")


def _expect(holds: bool, promise: str) -> None:
  if not holds:
    raise ContractError(promise)


if __name__ == "__main__":
  from userrl_jax.gyms import contract_command

  contract_command.run()
