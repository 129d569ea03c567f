"""Tells whether training forgets: how surprised a policy is by a fixed set.

In: the parts of a run and params. Out: the perplexity of demonstrations on dev
tasks, which are never trained on nor scored. The set is made once in the life
of a run, so that its numbers before and after training compare. What else may
be lost, the format of calls, every evaluation has as measure
`format_validity`.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import assembly
from userrl_jax import collecting
from userrl_jax import config as config_lib
from userrl_jax import demonstrate
from userrl_jax import dialogues
from userrl_jax import gyms
from userrl_jax import hosts
from userrl_jax import metrics
from userrl_jax import run_folder
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import learner
from userrl_jax.learning import token_stats
from userrl_jax.models import qwen3
from userrl_jax.users import profiles

_ITERATION = -11  # of the set's episodes: apart from all others


def check(parts: assembly.Parts, params: qwen3.Params) -> dict[str, float]:
  """Measures the perplexity of the fixed set.

  exp(-(1 / M) sum_m log p(token m)), over M tokens of all dialogues, in
  context. Example: three tokens of probability 1/2, 1/4, 1/8 give 4.

  Args:
    parts: of the run; `evaluation.forgetting_tasks` of each gym are in the set.
    params: of the policy.

  Returns:
    perplexity_turns: over the agent's tokens
    perplexity_all: over every id but a dialogue's first
    num_dialogues, num_tokens (of the agent)
  """
  tasks = [
    task
    for name in parts.config.gyms.names
    for task in gyms.load_tasks(
      name, parts.config.gyms, "dev", parts.config.seed
    )[: parts.config.evaluation.forgetting_tasks]
  ]
  path = parts.folder / "dialogues" / "fixed.npz"
  fixed = dialogues.kept(path, lambda: _play(parts, tasks), tasks)
  turns, num_turns = perplexity(parts, params, fixed, all_ids=False)
  every, _ = perplexity(parts, params, fixed, all_ids=True)
  return {
    "perplexity_turns": turns,
    "perplexity_all": every,
    "num_dialogues": len(fixed),
    "num_tokens": num_turns,
  }


def note_start(parts: assembly.Parts, params: qwen3.Params) -> None:
  """Keeps what `check` says of the params that a run starts from, once.

  Random params know nothing that could be forgotten.
  """
  c, path = parts.config, parts.folder / run_folder.FORGETTING_START
  if not c.evaluation.forgetting_tasks or not (c.init_from or c.model.folder):
    return
  if hosts.gather(path.exists())[0]:
    return
  numbers = check(parts, params)
  if hosts.is_first():
    metrics.write_json(path, numbers)


def perplexity(
  parts: assembly.Parts,
  params: qwen3.Params,
  trajectories: list[types.Trajectory],
  *,
  all_ids: bool,
) -> tuple[float, int]:
  """Returns the perplexity of trajectories, and of how many tokens it is."""
  packing = parts.config.packing
  batch, _ = batching.pack_demonstrations(
    trajectories,
    packing,
    capacity=batching.capacity(
      len(trajectories), parts.config.rollout.max_tokens_per_episode, packing
    ),
    all_ids=all_ids,
  )
  measure = _program(
    parts.model, packing.logprob_chunk, packing.rows_per_micro_batch, parts.mesh
  )
  [batch] = learner.placed([batch], packing, parts.mesh)
  surprise, num_tokens = jax.device_get(
    measure(params, batch.rows, batch.num_micro_batches)
  )
  return float(np.exp(surprise / num_tokens)), int(num_tokens)


def _play(
  parts: assembly.Parts, tasks: list[types.Task]
) -> list[types.Trajectory]:
  script = functools.partial(
    demonstrate.oracle_script, noise=0.0, settings=parts.config.gyms
  )
  # Whatever users a run has, so that runs compare, too.
  users = profiles.mix(("plain",)) if parts.config.user.profiles else None
  groups = collecting.play_scripted(
    parts, script, tasks, 1, _ITERATION, users=users
  )
  return [t for group in groups for t in group.trajectories]


@functools.cache
def _program(
  model: qwen3.Config,
  logprob_chunk: int,
  num_rows: int,
  mesh: jax.sharding.Mesh,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Returns the jitted (params, rows, how many) -> (-sum log p, tokens)."""
  packing = config_lib.Packing(logprob_chunk=logprob_chunk)

  def measure(params, rows, num_micro_batches):
    def add(i, sums):
      own = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), rows
      )
      stats = token_stats.of_rows(
        params, model, own, packing, mesh, temperature=1.0
      )
      num_tokens = jnp.sum(own.slots >= 0, dtype=jnp.int32)
      return sums[0] - stats.logprobs.sum(), sums[1] + num_tokens

    zeros = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return jax.lax.fori_loop(0, num_micro_batches, add, zeros)

  shapes = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  row = sharding.row_sharding(mesh, num_rows)
  return jax.jit(
    measure,
    in_shardings=(
      sharding.param_shardings(shapes, mesh),
      batching.Rows(*[row] * len(batching.Rows._fields)),
      sharding.replicated(mesh),
    ),
    out_shardings=sharding.replicated(mesh),
  )
