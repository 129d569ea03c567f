"""The contract as a command: holds a gym, inside or outside, to its promises.

  python -m userrl_jax.gyms.contract my_pkg.my_gym:MyGym
  python -m userrl_jax.gyms.contract function --levels=1,2 --num_tasks=100

Out: a line for every check, with what a broken promise is and why. Exit code 0
when all hold, 1 when one is broken, 2 when there is no such gym or it cannot
start.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import inspect
import sys
import time

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import contract
from userrl_jax.gyms import sources
from userrl_jax.gyms import subjects

NUM_TASKS = 60  # that the checks play
_NUM_SLOW_TASKS = 20  # of the checks that play a task dozens of times
_SLOW = (contract.check_hacks, contract.check_clone, contract.check_secrets)
_SPEED_S = 0.5  # in which steps are counted


def run(argv: Sequence[str] | None = None) -> None:
  """Checks the gym that the command line names, and ends the process.

  Raises:
    SystemExit: with code 0, 1 or 2.
  """
  parser = argparse.ArgumentParser(
    prog="python -m userrl_jax.gyms.contract",
    description="Holds a gym to the promises that every gym keeps.",
  )
  parser.add_argument("name", help="function, or my_pkg.my_gym:MyGym")
  parser.add_argument("--levels", default="1", help="of its tasks: 1,2,3")
  parser.add_argument("--max_turns", type=int, default=config.Gyms().max_turns)
  parser.add_argument("--num_tasks", type=int, default=NUM_TASKS)
  parser.add_argument("--split", default="test", choices=sources.SPLITS)
  parser.add_argument("--reward_profile", default="default")
  parser.add_argument("--seed", type=int, default=0, help="of generated tasks")
  arguments = parser.parse_args(argv)
  try:
    settings = config.Gyms(
      names=(arguments.name,),
      levels=_levels(arguments.levels),
      max_turns=arguments.max_turns,
      reward_profile=arguments.reward_profile,
      num_train_tasks=arguments.num_tasks,
      num_test_tasks=arguments.num_tasks,
    )
    gyms.make(arguments.name, settings)  # refuses settings that do not fit
    tasks = gyms.load_tasks(
      arguments.name, settings, arguments.split, arguments.seed
    )
    subject = contract.subject(arguments.name, settings, tasks)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
  holds = report(arguments.name, settings, subject, arguments.seed)
  raise SystemExit(0 if holds else 1)


def report(
  name: str, settings: config.Gyms, subject: subjects.Subject, seed: int
) -> bool:
  """Runs every check on a gym and prints a line for each.

  Args:
    name: of the gym.
    settings: of its tasks.
    subject: the gym with tasks of one split, as the settings say.
    seed: of generated tasks.

  Returns:
    Whether no promise is broken; checks that were left out break none.
  """
  print(f"gym {name}: {len(subject.tasks)} tasks of levels {settings.levels}")
  verdicts = [_verdict(check, subject) for check in contract.CHECKS]
  verdicts.append(
    _told(
      "splits",
      lambda: check_splits(name, settings, seed),
      inspect.getdoc(check_splits) or "",
    )
  )
  num_broken = verdicts.count("FAIL")
  num_left_out = verdicts.count("left out")
  num_held = len(verdicts) - num_broken - num_left_out
  if not num_broken:
    print(f"      speed              {_speed(subject):,.0f} steps a second")
  print(
    f"{num_held} checks hold, {num_broken} fail"
    + (f", {num_left_out} were left out" if num_left_out else "")
  )
  return not num_broken


def check_splits(name: str, settings: config.Gyms, seed: int) -> None:
  """Checks that held-out tasks are of structures that training never has.

  Splits without tasks are passed over: a gym needs those that a run names.

  Raises:
    contract.ContractError: when a structure, or a task, is in two splits.
  """
  of_splits: dict[str, list[types.Task]] = {}
  for split in sources.SPLITS:
    try:
      of_splits[split] = gyms.load_tasks(name, settings, split, seed)
    except ValueError as error:
      if split in ("train", "test"):
        raise contract.ContractError(
          f"there must be tasks of split {split}: {error}"
        ) from error
  owners: dict[str, str] = {}
  for split in ("train", "dev", "test"):
    for task in of_splits.get(split, ()):
      owner = owners.setdefault(task.structure, split)
      if owner != split:
        raise contract.ContractError(
          f"structure {task.structure!r} may be of one split, it is of {owner} "
          f"and {split}"
        )
  known = {_content(task) for task in of_splits["train"]}
  for task in of_splits.get("fresh", ()):
    if _content(task) in known:
      raise contract.ContractError(
        f"task {task.id!r} of split fresh may not be one of train"
      )


def _verdict(
  check: Callable[[subjects.Subject], None], subject: subjects.Subject
) -> str:
  name = check.__name__.removeprefix("check_")
  part = contract.missing(check, subject)
  if part:
    print(f"skip  {name:18} left out: the gym has no {part}")
    return "left out"
  if check in _SLOW:
    subject = dataclasses.replace(
      subject, tasks=subject.tasks[:_NUM_SLOW_TASKS]
    )
  return _told(name, lambda: check(subject), inspect.getdoc(check) or "")


def _told(name: str, run_check: Callable[[], None], promise: str) -> str:
  """Runs a check, prints what came of it and returns it in a word."""
  promise = promise.partition("\n")[0].removeprefix("Checks ")
  try:
    run_check()
  except contract.ContractError as error:
    print(f"FAIL  {name:18} {error}")
    return "FAIL"
  except Exception as error:  # a gym's bug breaks the promise, not the command
    print(f"FAIL  {name:18} raised {type(error).__name__}: {error} ({promise})")
    return "FAIL"
  print(f"ok    {name:18} {promise}")
  return "ok"


def _speed(subject: subjects.Subject) -> float:
  """Returns how many steps a second thoughtless play takes, one at a time."""
  num_steps, number, start = 0, 0, time.perf_counter()
  while (seconds := time.perf_counter() - start) < _SPEED_S:
    task = subject.tasks[number % len(subject.tasks)]
    player = subjects.thoughtless(subject, task, number)
    num_steps += len(subjects.play(subject.make(), task, player).steps)
    number += 1
  return num_steps / seconds


def _levels(text: str) -> tuple[int, ...]:
  """Reads levels.

  Raises:
    ValueError: when they are none.
  """
  try:
    return tuple(int(part) for part in text.split(","))
  except ValueError:
    raise ValueError(
      f"--levels must be some of 1,2,3 with commas, got {text!r}"
    ) from None


def _content(task: types.Task) -> str:
  """Returns what makes two tasks one, whatever their ids are."""
  return repr((task.public, sorted(task.secret.reveal().items())))


if __name__ == "__main__":
  run()
