"""Finds where an update that was skipped stopped being finite.

Comes in: the params and the batch of an update whose loss or gradient was not
finite, which changed neither. Goes out: the first value that is not finite, on
the way that an update goes, and the norms of the gradient:

  params, batch -> embeddings -> layer 1 ... L -> log-probs -> loss -> gradient

Its programs are compiled when they are needed, which is hardly ever.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import config
from userrl_jax import leaves
from userrl_jax import sharding
from userrl_jax.learning import batching
from userrl_jax.learning import learner
from userrl_jax.learning import token_stats
from userrl_jax.models import lora
from userrl_jax.models import qwen3


@dataclasses.dataclass(frozen=True)
class Findings:
  """What an examination of a skipped update found.

  Attributes:
    first: the first value that is not finite, in words; "" when all are, this
      time.
    loss: of the update.
    metrics: of the update, but for those of its step.
    grad_norms: by weight; of one stacked over layers, one a layer.
    not_finite: by weight, the index of the first value of its gradient that is
      not finite.
  """

  first: str
  loss: float
  metrics: dict[str, float]
  grad_norms: dict[str, list[float]]
  not_finite: dict[str, tuple[int, ...]]


Examine = Callable[[learner.Params, batching.Batch, learner.Params], Findings]


def make_examine(
  gradient: learner.Gradient,
  model_config: qwen3.Config,
  packing: config.Packing,
  mesh: jax.sharding.Mesh,
  temperature: float = 1.0,
) -> Examine:
  """Builds `examine(params, batch, frozen or None) -> Findings`.

  Args:
    gradient: of the update, from `learner` or `imitation`.
    model_config: shape of the policy.
    packing: shapes of the rows.
    mesh: of the update; all its hosts examine together.
    temperature: that log-probs are computed at.
  """
  whole = sharding.replicated(mesh)
  num_layers = model_config.num_layers

  def survey(params, batch, frozen):
    loss, grads, metrics = gradient(params, batch, frozen)
    given = {"params": params, "frozen params": frozen, "batch": batch}
    return loss, metrics, _norms(grads), _first_bad(grads), _first_bad(given)

  def states_of(params, batch, frozen, i, depth):
    """Looks at what comes out of the first `depth` layers."""
    params = lora.complete(params, frozen)
    rows = jax.tree.map(lambda x: x[i], batch.rows)

    def keep(leaf):  # a layer of zeros gives back what it is given
      used = jnp.arange(num_layers) < depth
      return jnp.where(used.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    params = params | {"layers": jax.tree.map(keep, params["layers"])}
    hidden_BTD, _ = qwen3.forward(
      params, model_config, rows.token_ids, rows.positions, rows.segment_ids
    )
    return _first_bad({"": hidden_BTD})

  def logprobs_of(params, batch, frozen, i):
    rows = jax.tree.map(lambda x: x[i], batch.rows)
    params = lora.complete(params, frozen)
    stats = token_stats.of_rows(
      params, model_config, rows, packing, mesh, temperature
    )
    return _first_bad({"": stats.logprobs})

  survey = jax.jit(survey, out_shardings=whole)
  states_of = jax.jit(states_of, out_shardings=whole)
  logprobs_of = jax.jit(logprobs_of, out_shardings=whole)

  def first_on_the_way(*arguments):
    for i in range(int(arguments[1].num_micro_batches)):
      low, high = 0, num_layers
      if _found(states_of(*arguments, i, num_layers)):
        while low < high:
          middle = (low + high) // 2
          if _found(states_of(*arguments, i, middle)):
            high = middle
          else:
            low = middle + 1
        [(row, position, _)] = _found(states_of(*arguments, i, low)).values()
        after = f"layer {low} of {num_layers}" if low else "the embeddings"
        return (
          f"the state after {after}, micro-batch {i}, row {row}, "
          f"position {position}"
        )
      for row, place in _found(logprobs_of(*arguments, i)).values():
        return f"the log-prob of micro-batch {i}, row {row}, token {place}"
    return ""

  def examine(params, batch, frozen=None):
    loss, metrics, norms, of_grads, of_given = jax.device_get(
      survey(params, batch, frozen)
    )
    given, grads = _found(of_given), _found(of_grads)
    metrics = {name: float(value) for name, value in metrics.items()}
    if given:
      name, index = next(iter(given.items()))
      first = f"{name} at {index}"
    else:
      first = first_on_the_way(params, batch, frozen)
    if not first and not np.isfinite(loss):
      bad = [name for name, x in metrics.items() if not np.isfinite(x)]
      first = f"the loss, of finite log-probs; and {', '.join(bad) or 'no sum'}"
    if not first and grads:
      # Gradients are made from the last weights to the first.
      name, index = list(grads.items())[-1]
      first = f"the gradient of {name} at {index}, of a finite loss"
    return Findings(first, float(loss), metrics, _as_lists(norms), grads)

  return examine


def _norms(grads: learner.Params) -> dict[str, jax.Array]:
  """Returns a norm for each weight, or for each layer of it."""

  def norm(path, leaf):
    axes = range(1 if path.startswith("layers/") else 0, leaf.ndim)
    return jnp.sqrt(jnp.sum(jnp.square(leaf), tuple(axes)))

  return {
    path: norm(path, leaf) for path, leaf in leaves.by_path(grads).items()
  }


def _first_bad(tree: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Returns path -> (whether a value is not finite, the first one's index)."""
  found = {}
  for path, leaf in leaves.by_path(tree).items():
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      bad = ~jnp.isfinite(leaf)
      is_any, index = bad.any(), []
      for _ in range(leaf.ndim):
        index.append(jnp.argmax(bad.any(tuple(range(1, bad.ndim)))))
        bad = bad[index[-1]]
      found[path] = is_any, jnp.array(index, jnp.int32)
  return found


def _found(
  places: dict[str, tuple[jax.Array, jax.Array]],
) -> dict[str, tuple[int, ...]]:
  """Returns path -> index of those where a value is not finite."""
  return {
    path: tuple(int(i) for i in np.asarray(index))
    for path, (is_any, index) in places.items()
    if is_any
  }


def _as_lists(norms: dict[str, np.ndarray]) -> dict[str, list[float]]:
  return {path: np.atleast_1d(x).tolist() for path, x in norms.items()}
