"""Every gym as a Gymnasium environment; importing this module registers them.

  import gymnasium
  from userrl_jax.gyms import gymnasium_envs
  env = gymnasium.make("userrl_jax/Telepathy-v0")

A move goes in as one text, the choice and then the content: `answer kite`.
What the agent reads comes out as text. Gyms are asynchronous and play one task,
so an environment makes a new one for every episode and drives it with an event
loop of its own. Needs the extra `gymnasium`.
"""

import asyncio
from collections.abc import Coroutine
from concurrent import futures
import string
from typing import Any, TypeVar

import gymnasium
from gymnasium import spaces

from userrl_jax import config
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax.gyms import judging

T = TypeVar("T")

NAMESPACE = "userrl_jax"
_LETTERS = string.ascii_letters + string.digits + " .,?"
_MAX_SEED = 2**31
_SAMPLE_CHARS = 40


class TextSpace(spaces.Text):
  """Holds texts of any characters; Gymnasium's own lists those it allows."""

  def __init__(self, max_length: int, openings: tuple[str, ...] = ("",)):
    """Makes a space.

    Args:
      max_length: of a text, in characters.
      openings: with one of which a sample begins; others are in it as well.
    """
    super().__init__(max_length, charset=_LETTERS)
    self._openings = openings

  def contains(self, x: Any) -> bool:
    """Returns whether something is a text that is short enough."""
    return isinstance(x, str) and len(x) <= self.max_length

  def sample(self, mask: Any = None, probability: Any = None) -> str:
    """Returns an opening and some random characters."""
    del mask, probability
    opening = self._openings[self.np_random.integers(len(self._openings))]
    size = self.np_random.integers(1, _SAMPLE_CHARS)
    letters = self.np_random.choice(list(_LETTERS), size)
    return f"{opening} {''.join(letters)}".strip()[: self.max_length]


class TextEnv(gymnasium.Env[str, str]):
  """Plays the tasks of one gym, drawn at random.

  `info` of a step is privileged: the outcome in a word, and whether the move
  won the game. That of a reset has the task's id and the system prompt, which
  tells an agent the rules.
  """

  metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as theirs)

  def __init__(
    self,
    name: str,
    settings: config.Gyms | None = None,
    split: str = "train",
    tasks_seed: int = 0,
    prompt: str = "full",
    judge: judging.Judge | None = None,
    render_mode: str | None = None,
  ):
    """Loads the tasks.

    Args:
      name: of the gym.
      settings: of the gyms; those of `config.Gyms` when not given.
      split: of gyms.SPLITS.
      tasks_seed: of generated tasks.
      prompt: `full` or `brief`, for the system prompt.
      judge: asks the model that answers as the user; None has rules answer.
      render_mode: must be None: what there is to see is the observation.

    Raises:
      ValueError: when a gym, a setting or a mode is not as it must be.
    """
    if render_mode is not None:
      raise ValueError(f"render_mode must be None, got {render_mode!r}")
    self.render_mode = None
    self._settings = settings or config.Gyms()
    self._name, self._judge, self._prompt = name, judge, prompt
    self._tasks = gyms.load_tasks(name, self._settings, split, tasks_seed)
    self._gym = gyms.make(name, self._settings, judge)
    self._gym.system_prompt(prompt)
    self._loop = asyncio.new_event_loop()
    self.observation_space = TextSpace(self._gym.max_observation_chars)
    self.action_space = TextSpace(
      # Longer ones are read, too: a gym has a hint for whatever it gets.
      self._gym.max_content_chars + max(map(len, self._gym.choices)) + 1,
      self._gym.choices,
    )

  def reset(
    self, *, seed: int | None = None, options: dict[str, Any] | None = None
  ) -> tuple[str, dict[str, Any]]:
    """Opens an episode with a task at random.

    Args:
      seed: of this and all later episodes.
      options: `task_id` names the task instead.

    Raises:
      ValueError: when there is no such task, or another option.
    """
    super().reset(seed=seed)
    options = dict(options or {})
    place = int(self.np_random.integers(len(self._tasks)))
    episode_seed = int(self.np_random.integers(_MAX_SEED))
    task = self._tasks[place]
    if "task_id" in options:
      task = self._task(options.pop("task_id"))
    if options:
      raise ValueError(f"options must be 'task_id' alone, got also {options}")
    self._gym = gyms.make(self._name, self._settings, self._judge)
    observation = self._run(self._gym.reset(task, episode_seed))
    info = {
      "task_id": task.id,
      "system_prompt": self._gym.system_prompt(self._prompt),
    }
    return observation.text, info

  def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    """Plays one turn with a move such as `answer kite`.

    A move of another form costs a turn and gets a hint.

    Raises:
      RuntimeError: before `reset`, and after the end of an episode.
      types.FaultError: when something other than the agent failed; the turn
        is not spent and can be played again.
    """
    choice, _, content = str(action).partition(" ")
    move = types.Action(choice, content)
    step = self._run(self._gym.step(move))
    return (
      step.observation.text,
      step.reward,
      step.terminated,
      step.truncated,
      dict(step.info),
    )

  def close(self) -> None:
    """Closes the event loop."""
    self._loop.close()

  def _task(self, task_id: str) -> types.Task:
    for task in self._tasks:
      if task.id == task_id:
        return task
    raise ValueError(
      f"task_id must be of the {len(self._tasks)} tasks of gym "
      f"{self._name!r}, got {task_id!r}"
    )

  def _run(self, work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine; in a notebook, too.

    There a loop runs already, and no thread runs two.
    """
    try:
      asyncio.get_running_loop()
    except RuntimeError:
      return self._loop.run_until_complete(work)
    with futures.ThreadPoolExecutor(1) as pool:
      return pool.submit(self._loop.run_until_complete, work).result()


def env_id(name: str) -> str:
  """Returns the id of a gym for `gymnasium.make`."""
  return f"{NAMESPACE}/{name.title()}-v0"


for _name in gyms.GYMS:
  if env_id(_name) not in gymnasium.registry:
    gymnasium.register(
      env_id(_name), entry_point=f"{__name__}:TextEnv", kwargs={"name": _name}
    )
