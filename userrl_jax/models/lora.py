"""Low-rank adapters of the layers' matrices (LoRA, arXiv 2106.09685).

Comes in: the params of `qwen3`, which stay as they are, and adapters, a tree of
their own that is trained:

  layers/<attention or mlp>/<target>/lora_a  [L, in, r]   normal, 1/in
                                     lora_b  [L, r, out]  zeros at first

Goes out: params that hold both (`complete`), or plain ones (`merge`). What is
computed with is always the merged matrix, kernel + scale A B, rounded once to
the compute dtype: what samples and what is trained are the same numbers, also
where a half-precision weight would round a small change away.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from userrl_jax import config

Params = Any

A, B = "lora_a", "lora_b"


def fields(settings: config.Lora) -> dict[str, Any]:
  """Returns what a `qwen3.Config` says of adapters, nothing without."""
  if not settings.rank:
    return {}
  return {
    "adapter_rank": settings.rank,
    "adapter_scale": settings.alpha / settings.rank,
    "adapter_targets": tuple(settings.targets),
  }


def init(
  shapes: Params, rank: int, targets: Sequence[str], key: jax.Array
) -> Params:
  """Draws adapters that change nothing yet.

  Args:
    shapes: of the params, arrays or ShapeDtypeStructs.
    rank: r.
    targets: names of the matrices that get one, such as q or down.
    key: a PRNG key; consumed.

  Returns:
    The adapters, float32.
  """
  keys = iter(jax.random.split(key, len(targets)))
  adapters: dict[str, Any] = {}
  for part in sorted(shapes["layers"]):
    for name in sorted(shapes["layers"][part]):
      if name not in targets:
        continue
      L, num_in, num_out = shapes["layers"][part][name]["kernel"].shape
      a = jax.random.normal(next(keys), (L, num_in, rank)) * num_in**-0.5
      adapters.setdefault(part, {})[name] = {
        A: a,
        B: jnp.zeros((L, rank, num_out)),
      }
  return {"layers": adapters}


def complete(params: Params, frozen: Params | None) -> Params:
  """Returns params that adapters are among; what is complete is returned.

  No array is copied.
  """
  if frozen is None or "embed" in params:
    return params
  return _joined(frozen, params)


def merge(params: Params, scale: float) -> Params:
  """Returns plain params: adapters are added to what they adapt.

  Any part of the tree will do, stacked or of one layer; without adapters it is
  returned as it is.
  """
  return merge_by(params, lambda parts: _merged(*parts, scale))


def merge_by(
  params: Params, add: Callable[[tuple[jax.Array, ...]], jax.Array]
) -> Params:
  """Does the same; `add` makes a matrix of its kernel, lora_a and lora_b."""
  if not isinstance(params, dict):
    return params
  if A in params:
    return {"kernel": add((params["kernel"], params[A], params[B]))}
  return {name: merge_by(inner, add) for name, inner in params.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def project(
  x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float
) -> jax.Array:
  """Multiplies by a merged matrix; its gradient is that of adapters alone.

  The kernel is frozen and gets none, so that no gradient of its size is ever
  computed, and the merged matrix is made again going backward.

  Args:
    x: [..., in] compute dtype.
    kernel: [in, out] float32.
    a: [in, r] float32.
    b: [r, out] float32.
    scale: alpha / r.

  Returns:
    [..., out] compute dtype.
  """
  return x @ _merged(kernel, a, b, scale).astype(x.dtype)


def _project_forward(x, kernel, a, b, scale):
  return project(x, kernel, a, b, scale), (x, kernel, a, b)


def _project_backward(scale, kept, slope):
  x, kernel, a, b = kept
  dtype, wide = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
  product = functools.partial(jnp.einsum, preferred_element_type=wide)
  half_a, half_b = a.astype(dtype), b.astype(dtype)
  merged = _merged(kernel, a, b, scale).astype(dtype)
  d_x = slope @ merged.T
  of_low = product("...o,ro->...r", slope, half_b).astype(dtype)
  low = product("...i,ir->...r", x, half_a).astype(dtype)
  d_a = scale * product("...i,...r->ir", x, of_low)
  d_b = scale * product("...r,...o->ro", low, slope)
  return d_x, None, d_a.astype(a.dtype), d_b.astype(b.dtype)


project.defvjp(_project_forward, _project_backward)


def _merged(kernel, a, b, scale):
  return kernel + scale * (a @ b)


def _joined(one: Params, other: Params) -> Params:
  if not isinstance(one, dict):
    return one
  inner = {
    name: _joined(one[name], other[name]) if name in other else one[name]
    for name in one
  }
  return inner | {name: x for name, x in other.items() if name not in one}
