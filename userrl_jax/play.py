"""A person takes either chair of a gym, in a terminal.

`python -m userrl_jax.play --gym=turtle --seat=agent` lets a person play
held-out tasks against the user of `--config`; without one, `play_recipe` has
rules. With `--seat=user` a person answers the agent of `evaluation.agent`: the
policy of `init_from`, the oracle or canned moves. `--num_tasks` says how many
tasks are played (gyms and splits take turns), `--first_task` how many are left
out before. An episode is that of an evaluation: the same tasks, seeds, limits
and rewards. Out:

  plays/<name>.json                         command, config, who sat where
  transcripts/evaluation_<name>.jsonl       the dialogues, after each of them
  evaluations/<name>.json                   scores

in `<out_dir>`, under a new name at each call. Who leaves ends the episode as
cancelled, which no score counts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import pathlib
import random
import typing
from typing import Any

from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import demonstrate
from userrl_jax import flags
from userrl_jax import gyms
from userrl_jax import measures
from userrl_jax import metrics
from userrl_jax import pins
from userrl_jax import scorecard
from userrl_jax import terminal as terminal_lib
from userrl_jax import types
from userrl_jax import users
from userrl_jax.agents import base as agents
from userrl_jax.agents import person as person_agent
from userrl_jax.gyms import base
from userrl_jax.gyms import judging
from userrl_jax.rollout import collect
from userrl_jax.rollout import episode
from userrl_jax.users import person as person_user

if typing.TYPE_CHECKING:
  from userrl_jax import partner

FLAGS: dict[str, str | int] = {
  "seat": "agent",
  "gym": "",  # instead of gyms.names
  "num_tasks": 1,
  "first_task": 0,
}
SEATS = ("agent", "user")
RECIPE = str(pathlib.Path(__file__).with_name("play_recipe.py"))

_ITERATION = -10  # that of evaluations: a person plays the same games
_INTERRUPTED = 130  # exit code after ctrl-C
_USER_RULES = """\
You are the user. You are shown what a model in your place would be asked, \
also what the agent must not know; the agent reads only what the gym makes of \
your answers. Words behind a bar are the agent's. Type ? to read a question as \
a whole, quit to leave."""


@dataclasses.dataclass(frozen=True)
class Agents:
  """Who acts, and who is asked beside the person; as `partner.Partner` is."""

  name: str
  agent: Callable[[types.Task, int], agents.Agent]  # task, its own seed
  user: users.User
  serving: Callable[[], contextlib.AbstractAsyncContextManager[None]] = (
    contextlib.nullcontext
  )


@dataclasses.dataclass(frozen=True)
class Sitting:
  """Who plays what, all checked."""

  config: config_lib.Config
  tasks: Sequence[types.Task]
  terminal: terminal_lib.Terminal
  is_user: bool  # the person answers; else the person acts
  agents: "Agents | partner.Partner"

  @contextlib.asynccontextmanager
  async def answering(self) -> AsyncIterator[judging.Judge | None]:
    """Opens who answers the agent, for `gyms.make`."""
    async with self.agents.user.opened() as model:
      if self.is_user:
        yield person_user.PersonJudge(self.terminal, model)
      else:
        yield model


def main(config: config_lib.Config, command: flags.Command) -> None:
  """Lets a person play, and writes the dialogues down."""
  with flags.user_errors():
    sitting = _prepared(config, command)
    asyncio.run(_check_starts(sitting))
    folder = pathlib.Path(config.out_dir)
    name = _open_record(folder, sitting, command)
  played: list[types.Trajectory] = []
  transcripts = folder / "transcripts" / f"evaluation_{name}.jsonl"

  def keep(trajectory: types.Trajectory) -> None:
    played.append(trajectory)
    metrics.write_transcripts(transcripts, played)

  try:
    asyncio.run(_play(sitting, keep))
  except types.SetupError:
    with flags.user_errors():
      raise
  except KeyboardInterrupt:
    sitting.terminal.say("\nstopped; this dialogue is not kept")
    raise SystemExit(_INTERRUPTED) from None
  finally:
    if played:
      summary = scorecard.evaluation_summary(
        played,
        stage=name,
        temperature=config.evaluation.temperature,
        seed=config.seed,
        pins=_pins(sitting, [t.task for t in played]),
      )
      metrics.write_json(folder / "evaluations" / f"{name}.json", summary)
      sitting.terminal.say(f"written down in {transcripts}")


def _prepared(config: config_lib.Config, command: flags.Command) -> Sitting:
  """Returns what is played; loads the policy, if one plays.

  Raises:
    ValueError: when flags, gyms, tasks, user or policy do not fit.
  """
  seat, gym = command.own["seat"], str(command.own["gym"])
  if seat not in SEATS:
    raise ValueError(f"--seat must be {base.either(SEATS)}, got {seat!r}")
  if gym:
    own = dataclasses.replace(config.gyms, names=(gym,))
    config = dataclasses.replace(config, gyms=own)
  tasks = _tasks(
    config, int(command.own["num_tasks"]), int(command.own["first_task"])
  )
  is_user = seat == "user"
  if is_user:
    _check_askable(config.gyms.names)
    if config.evaluation.agent == "endpoint":
      raise ValueError(
        "evaluation.agent must be policy, oracle or canned where a person "
        "answers, got 'endpoint'"
      )
  terminal = terminal_lib.of_process()
  if is_user and config.evaluation.agent == "policy":
    from userrl_jax import partner  # JAX starts only where a policy plays

    return Sitting(config, tasks, terminal, is_user, partner.load(config))
  models = {}
  if config.user.kind == "local":
    from userrl_jax.serving import host  # as above

    models = host.local_models(config.user, config.judge, config.local)
  user = users.User(
    config.user,
    config.judge,
    config.budget,
    config.recording,
    pathlib.Path(config.out_dir),
    models=models,
  )
  asyncio.run(user.check())
  if is_user:
    script = gyms.canned if config.evaluation.agent == "canned" else gyms.oracle
    for name in config.gyms.names:
      script(name)  # refused now if a gym has none
    acting = Agents(
      config.evaluation.agent, functools.partial(_scripted, config), user
    )
  else:
    make_agent = lambda task, seed: person_agent.PersonAgent(terminal)
    acting = Agents("person", make_agent, user)
  return Sitting(config, tasks, terminal, is_user, acting)


def _tasks(
  config: config_lib.Config, num_tasks: int, first_task: int
) -> list[types.Task]:
  """Returns the tasks that are played, gyms and splits taking turns."""
  if num_tasks < 1 or first_task < 0:
    raise ValueError(
      "--num_tasks must be positive and --first_task 0 or more, got "
      f"{num_tasks} and {first_task}"
    )
  of_gyms = [
    gyms.load_tasks(name, config.gyms, split, config.seed)
    for split in config.evaluation.splits
    for name in config.gyms.names
  ]
  turns = itertools.zip_longest(*of_gyms)
  known = [task for turn in turns for task in turn if task is not None]
  if first_task + num_tasks > len(known):
    raise ValueError(
      f"--first_task and --num_tasks must stay within the {len(known)} tasks "
      f"of gyms {', '.join(config.gyms.names)}, got {first_task} and "
      f"{num_tasks}; raise gyms.num_test_tasks, or ask for fewer"
    )
  return known[first_task : first_task + num_tasks]


def _check_askable(names: Sequence[str]) -> None:
  """Refuses gyms in which nobody but rules can answer."""
  askable = list(filter(gyms.can_be_asked, gyms.GYMS))
  for name in names:
    if not gyms.can_be_asked(name):
      raise ValueError(
        f"a person can answer in {base.either(askable)}, got gym {name!r}; "
        "take the seat of the agent there (--seat=agent)"
      )


def _scripted(
  config: config_lib.Config, task: types.Task, seed: int
) -> agents.Agent:
  """Returns the oracle or canned moves as an agent that writes no ids."""
  rng = random.Random(seed)
  if config.evaluation.agent == "canned":
    return demonstrate.Speaker(demonstrate.canned_script(task, rng))
  return demonstrate.Speaker(
    demonstrate.oracle_script(task, rng, 0.0, config.gyms)
  )


async def _check_starts(sitting: Sitting) -> None:
  """Opens every game once, so that none is refused after others were played.

  Raises:
    ValueError: when a setting or a task does not fit who answers.
  """
  async with sitting.answering() as judge:
    for task in sitting.tasks:
      gym = gyms.make(task.gym, sitting.config.gyms, judge)
      await gym.reset(task, sitting.config.seed)


def _open_record(
  folder: pathlib.Path, sitting: Sitting, command: flags.Command
) -> str:
  """Writes down what is played; returns its name, which no other has."""
  seat = "user" if sitting.is_user else "agent"
  record = {
    "command": " ".join(["python", "-m", "userrl_jax.play", *command.argv]),
    "recipe": command.recipe,
    "differences": {k: list(v) for k, v in command.differences.items()},
    "seat": seat,
    "agent": sitting.agents.name,
    "tasks": [[task.gym, task.split, task.id] for task in sitting.tasks],
    "config": config_fields.to_dict(sitting.config),
  }
  text = json.dumps(record, indent=2) + "\n"
  begins = f"person_with_{sitting.agents.name}" if sitting.is_user else "person"
  (folder / "plays").mkdir(parents=True, exist_ok=True)
  for number in itertools.count(1):
    name = f"{begins}_{number}"
    with contextlib.suppress(FileExistsError):
      with (folder / "plays" / f"{name}.json").open("x") as file:
        file.write(text)
      return name
  raise AssertionError("unreachable")


def _pins(sitting: Sitting, tasks: Sequence[types.Task]) -> dict[str, Any]:
  """Returns the pins of what was played, as `evaluate` has them."""
  if not sitting.is_user:
    config = copy.deepcopy(sitting.config)
    config.evaluation.agent = "person"
    return pins.of_play(config, tasks)
  if isinstance(sitting.agents, Agents):
    pinned = pins.of_play(sitting.config, tasks)
  else:
    pinned = pins.of(sitting.agents.parts, sitting.agents.params, tasks)
  return pinned | {"user": pinned["user"] | {"kind": "person"}}


async def _play(
  sitting: Sitting, keep: Callable[[types.Trajectory], None]
) -> None:
  """Plays task after task, until the person leaves.

  Raises:
    types.SetupError: when the user's set-up cannot work.
  """
  config, terminal = sitting.config, sitting.terminal
  settings = episode.Settings(
    limits=config.rollout,
    max_turns=config.gyms.max_turns,
    profile=config.chat.profile,
    show_reward=config.chat.show_reward,
  )
  if sitting.is_user:
    terminal.say(_USER_RULES)
  async with sitting.answering() as judge, sitting.agents.serving():
    for number, task in enumerate(sitting.tasks, 1):
      terminal.say(
        f"\n== {task.gym} {task.id} ({number} of {len(sitting.tasks)}) ==\n"
      )
      seeds = [
        collect.episode_seed(config.seed, _ITERATION, task, member)
        for member in (-1, 0)  # the gym's has no member
      ]
      trajectory = await episode.play(
        task,
        gyms.make(task.gym, config.gyms, judge),
        sitting.agents.agent(task, seeds[1]),
        settings,
        seed=seeds[0],
        member=0,
        iteration=_ITERATION,
      )
      keep(trajectory)
      terminal.say(_ending(trajectory, shows_last=not sitting.is_user))
      if trajectory.fault == types.Fault.CANCELLED:
        return


def _ending(trajectory: types.Trajectory, shows_last: bool) -> str:
  """Returns how an episode ended; with what was said last, if shown."""
  if not trajectory.is_valid:
    return f"\nno score ({trajectory.fault}): {trajectory.detail}"
  last = trajectory.turns[-1].observation if trajectory.turns else ""
  won = "won" if measures.is_success(trajectory) else "not won"
  num_turns = len(trajectory.turns)
  return (
    f"{terminal_lib.quoted(last) if shows_last and last else ''}\n{won} in "
    f"{num_turns} {'turn' if num_turns == 1 else 'turns'} "
    f"({trajectory.stop_reason}): reward {trajectory.reward:g}, score "
    f"{trajectory.score:g} of 1"
  )


if __name__ == "__main__":
  flags.run(main, own=FLAGS, recipe=RECIPE)
