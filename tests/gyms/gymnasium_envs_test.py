"""The gyms as Gymnasium environments; needs the extra `gymnasium`."""

import asyncio
import subprocess
import sys
import warnings

import pytest

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils import env_checker  # noqa: E402

from userrl_jax import config  # noqa: E402
from userrl_jax import gyms  # noqa: E402
from userrl_jax.gyms import contract  # noqa: E402
from userrl_jax.gyms import gymnasium_envs  # noqa: E402

SETTINGS = config.Gyms(num_train_tasks=20, num_test_tasks=20)


def make(name, **kwargs):
  kwargs = {"settings": SETTINGS, **kwargs}
  return gymnasium.make(gymnasium_envs.env_id(name), **kwargs)


def text_of(action):
  return f"{action.choice} {action.content}"


@pytest.mark.parametrize("name", gyms.GYMS)
def test_environment_passes_the_checker(name):
  env = gymnasium.make(f"userrl_jax/{name.title()}-v0")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    env_checker.check_env(env.unwrapped, skip_render_check=True)
  env.close()


@pytest.mark.parametrize("name", gyms.GYMS)
def test_episodes_are_those_of_the_gym(name):
  tasks = gyms.load_tasks(name, SETTINGS, "test", 5)
  env = make(name, split="test", tasks_seed=5)
  for task in tasks[:8]:
    player = gyms.oracle(name)(task, None)
    record = contract.play(gyms.make(name, SETTINGS), task, player.next_action)
    first, info = env.reset(seed=3, options={"task_id": task.id})
    assert first == record.texts[0] and info["task_id"] == task.id
    assert info["system_prompt"] == gyms.make(name, SETTINGS).system_prompt(
      "full"
    )
    for action, step in zip(record.actions, record.steps, strict=True):
      assert env.step(text_of(action)) == (
        step.observation.text,
        step.reward,
        step.terminated,
        step.truncated,
        dict(step.info),
      )
  env.close()


def test_seed_chooses_the_tasks():
  env = make("telepathy", prompt="brief")

  def ids(seed):
    first = env.reset(seed=seed)[1]["task_id"]
    return [first, *(env.reset()[1]["task_id"] for _ in range(20))]

  assert ids(7) == ids(7) != ids(8)
  assert len(set(ids(7))) > 5


def test_unreadable_moves_cost_a_turn():
  env = make("telepathy")
  env.reset(seed=0)
  for move in ("", "kite", "answer", "search kite", "[answer] kite", "x" * 999):
    text, reward, _, truncated, info = env.unwrapped.step(move)
    assert text.startswith("Format: ") and reward == 0
    assert info["outcome"] == "malformed"
  assert truncated  # after six turns
  with pytest.raises(RuntimeError, match="game is over"):
    env.unwrapped.step("answer kite")


@pytest.mark.parametrize(
  "kwargs, part",
  [
    ({"split": "eval"}, "unknown split"),
    ({"prompt": "long"}, "unknown prompt profile"),
    ({"render_mode": "human"}, "render_mode must be None"),
  ],
)
def test_wrong_arguments(kwargs, part):
  with pytest.raises(ValueError, match=part):
    gymnasium_envs.TextEnv("telepathy", SETTINGS, **kwargs)


@pytest.mark.parametrize(
  "options, part", [({"task_id": "x"}, "task_id"), ({"level": 1}, "level")]
)
def test_wrong_options(options, part):
  with pytest.raises(ValueError, match=part):
    make("telepathy").reset(options=options)


def test_plays_where_a_loop_runs_already():
  async def run():
    env = make("function")
    env.reset(seed=1)
    return env.step("search test")[0]

  assert asyncio.run(run())


def test_spaces_hold_texts_of_any_characters():
  space = gymnasium_envs.TextSpace(20, ("answer", "action"))
  space.seed(0)
  samples = [space.sample() for _ in range(50)]
  assert all(space.contains(s) for s in samples)
  assert {s.split()[0] for s in samples} == {"answer", "action"}
  assert space.contains("é\n中") and space.contains("")
  assert not space.contains("x" * 21) and not space.contains(7)


def test_importing_it_brings_no_jax():
  code = """
import sys
from userrl_jax.gyms import gymnasium_envs
assert "jax" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True)
