"""Says what an experiment compares, as its recipe has it; knows no JAX.

In: a recipe that holds `EXPERIMENT`, beside a `get_config` that takes the name
of an arm. Out: the arms, which a sweep runs, and the tests, which were planned
before it and which its report makes. An arm is a setting of the recipe, or a
stage of its runs, or both.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
import re

from userrl_jax import flags

NAME = "EXPERIMENT"  # of what a recipe holds
# What may be compared; the first is of evaluations, the others of their
# transcripts.
MEASURES = ("score", "time_weighted", "turns")

_RECIPE = re.compile("--?config=")


@dataclasses.dataclass(frozen=True)
class Test:
  """One difference that was asked for before there were numbers."""

  question: str
  above: str  # treatment; the difference is its measure minus that of `below`
  below: str
  measure: str = "score"
  users: str = ""  # profile whose episodes alone count; empty is all
  margin: float = 0.0  # it holds where the difference is above minus this
  # Has a level of its own; all others of an experiment share one.
  is_primary: bool = False


@dataclasses.dataclass(frozen=True)
class Beside:
  """Runs of another recipe, of the same seeds: in tables, in no test."""

  name: str
  folder: str  # of a run; {seed} stands for its seed
  evaluation: str  # of it


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What is compared: treatments, each an arm, or a stage where several are.

  With several stages and arms it is called `arm stage`.
  """

  question: str
  arms: tuple[str, ...] = ()  # none: the recipe as it is
  stages: tuple[str, ...] = ("grpo",)  # that are compared, of every run
  tests: tuple[Test, ...] = ()
  has_trade_off: bool = False  # of score and turns
  beside: tuple[Beside, ...] = ()
  # The treatment whose training episodes are credited anew, to see which credit
  # follows what turns told; empty: none.
  ranks_of: str = ""

  def treatment(self, arm: str, stage: str) -> str:
    """Returns what a stage of an arm's runs is called."""
    names = [arm] * bool(self.arms) + [stage] * (len(self.stages) > 1)
    return " ".join(names) or stage

  @property
  def treatments(self) -> list[str]:
    """Returns all names, in order."""
    return [
      self.treatment(arm, stage)
      for arm in self.arms or ("",)
      for stage in self.stages
    ]


def load(recipe: str) -> Experiment | None:
  """Returns the experiment of a recipe; None where it is a recipe alone.

  Args:
    recipe: the file, without an argument.

  Raises:
    ValueError: when it is no Python file, or what it compares does not exist.
  """
  found = getattr(flags.load_module(recipe), NAME, None)
  if found is None:
    return None
  if not isinstance(found, Experiment):
    raise ValueError(
      f"{recipe}: {NAME} must be a userrl_jax.experiments.Experiment, got "
      f"{type(found).__name__}"
    )
  problems = list(_problems(found))
  if problems:
    raise ValueError("\n".join(f"{recipe}: {text}" for text in problems))
  return found


def with_arm(argv: Sequence[str], arm: str) -> list[str]:
  """Returns arguments of train in which the recipe is given the name of an arm.

  Raises:
    ValueError: when they name no recipe as `--config=file`.
  """
  places = [n for n, text in enumerate(argv) if _RECIPE.match(text)]
  if not places:
    raise ValueError(
      "a recipe with arms must be given as --config=file.py, got "
      f"{' '.join(argv) or 'nothing'}"
    )
  return [
    f"{text}:{arm}" if n == places[-1] else text for n, text in enumerate(argv)
  ]


def of(argv: Sequence[str]) -> Experiment | None:
  """Returns the experiment of the recipe that arguments of train name.

  None also where the recipe is given an argument, and so one arm is meant.

  Raises:
    ValueError: what `load` does.
  """
  found = [text.partition("=")[2] for text in argv if _RECIPE.match(text)]
  is_file = bool(found) and pathlib.Path(found[-1]).is_file()
  return load(found[-1]) if is_file else None


def _problems(experiment: Experiment) -> Iterator[str]:
  known = experiment.treatments
  for other in experiment.beside:
    if other.name in known:
      yield f"{NAME}: what is beside must not be named {other.name}, as an arm"
  named = [name for t in experiment.tests for name in (t.above, t.below)]
  for name in [*named, *filter(None, [experiment.ranks_of])]:
    if name not in known:
      yield f"{NAME} must name one of {', '.join(known)}, got {name!r}"
  for test in experiment.tests:
    if test.measure not in MEASURES:
      yield (
        f"{NAME}: a measure must be one of {', '.join(MEASURES)}, got "
        f"{test.measure!r}"
      )
