"""Memory, compile time and speed of the log-prob head; run by hand.

  python -m tests.benchmarks.head_programs memory   # compiled, not run
  python -m tests.benchmarks.head_programs depth    # compiled, not run
  python -m tests.benchmarks.head_programs speed

memory: temporaries of the gradient of the mean log-prob of 8,192 tokens at
Qwen3-0.6B's width and vocabulary, beside the gradient itself, which is an
output: the head alone in three forms, and with one scanned layer. depth:
compile time of a gradient through 4 and through 36 layers. speed: a gradient
of the quickstart's model, by chunks alone and by slices, side by side.
"""

import dataclasses
import json
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from userrl_jax import config as config_lib
from userrl_jax import sharding
from userrl_jax.learning import batching
from userrl_jax.learning import losses
from userrl_jax.learning import token_stats
from userrl_jax.learning import vocabulary_slices
from userrl_jax.models import qwen3

ROWS, LENGTH = 16, 512  # 8,192 tokens
MODEL = dataclasses.replace(
  qwen3.PRESETS["qwen3_0_6b"], num_layers=1, remat="full"
)
PACKING = config_lib.Packing(LENGTH, ROWS, 128)
FORMS = ("sliced", "chunked", "dense")

_shape = jax.ShapeDtypeStruct


def head_temporaries(form: str, is_tied: bool = True) -> int:
  """Compiles the head's gradient in a form; returns its bytes."""
  D, V = MODEL.hidden_size, MODEL.vocab_size
  head = vocabulary_slices.Head(is_tied)

  def loss(hidden, matrix, positions, targets, mask):
    where = positions, targets, mask
    if form == "sliced":
      return vocabulary_slices.sampled_token_stats(
        hidden,
        matrix,
        head,
        *where,
        chunk=PACKING.logprob_chunk,
        slice_size=vocabulary_slices.SLICE,
      ).logprobs.mean()
    return losses.sampled_token_stats(
      hidden,
      lambda h: h @ (matrix.T if is_tied else matrix),
      *where,
      chunk=PACKING.logprob_chunk if form == "chunked" else LENGTH,
    ).logprobs.mean()

  places = _shape((ROWS, LENGTH), jnp.int32)
  return _temporaries(
    jax.grad(loss, (0, 1)),
    _shape((ROWS, LENGTH, D), jnp.float32),
    _shape((V, D) if is_tied else (D, V), jnp.float32),
    places,
    places,
    _shape((ROWS, LENGTH), jnp.bool_),
  )


def layer_temporaries(has_head: bool = True) -> int:
  """Compiles the gradient through one scanned layer; returns its bytes."""
  loss = mean_logprob(MODEL) if has_head else _mean_state
  return _temporaries(jax.grad(loss), *_arguments(MODEL, ROWS, LENGTH))


def compile_s(num_layers: int) -> float:
  """Compiles a gradient through so many scanned layers; returns seconds."""
  lowered = _through_layers(num_layers)
  begun = time.perf_counter()
  lowered.compile()
  return time.perf_counter() - begun


def num_instructions(num_layers: int) -> int:
  """Returns the size of that gradient's compiled program."""
  text = _through_layers(num_layers).compile().as_text()
  return sum(" = " in line for line in text.splitlines())


def _through_layers(num_layers):
  model = dataclasses.replace(
    qwen3.PRESETS["qwen3_tiny"], num_layers=num_layers
  )
  gradient = jax.jit(jax.grad(mean_logprob(model)))
  return gradient.lower(*_arguments(model, 2, 64))


def mean_logprob(model: qwen3.Config):
  """Returns the function (params, rows) -> mean log-prob."""
  mesh = sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1])

  def loss(params, rows):
    stats = token_stats.of_rows(params, model, rows, PACKING, mesh, 1.0)
    return stats.logprobs.mean()

  return loss


def _mean_state(params, rows):
  hidden, _ = qwen3.forward(
    params, MODEL, rows.token_ids, rows.positions, rows.segment_ids
  )
  return hidden.mean()


def _arguments(model, num_rows, length):
  params = jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0)))
  ids = _shape((num_rows, length), jnp.int32)
  floats = _shape((num_rows, length), jnp.float32)
  kinds = {"logprobs": floats, "old_logprobs": floats}
  rows = batching.Rows(**{n: kinds.get(n, ids) for n in batching.Rows._fields})
  return params, rows


def _temporaries(function, *arguments) -> int:
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def _speed(num_rounds: int = 4) -> None:
  model = qwen3.PRESETS["qwen3_tiny"]
  rng = np.random.default_rng(0)
  params, rows = _arguments(model, 8, LENGTH)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.05 * rng.normal(size=x.shape), x.dtype), params
  )
  values = jax.tree.map(
    lambda x: rng.integers(0, LENGTH, x.shape).astype(x.dtype), rows
  )
  ones = np.ones((8, LENGTH), np.int32)
  slots = np.where(np.arange(LENGTH) < 200, 0, -1) * ones  # as many sampled
  rows = values._replace(segment_ids=ones, slots=slots)
  programs = {}
  for name, size in (("chunks", 768), ("2 slices", 384), ("3 slices", 256)):
    # The rule of `token_stats`, bent: slices where the dense form would do.
    vocabulary_slices.SLICE = size
    loss = mean_logprob(model)
    programs[name] = jax.jit(jax.grad(loss)).lower(params, rows).compile()
  times = {name: [] for name in programs}
  for _ in range(num_rounds):
    for name, program in programs.items():
      begun = time.perf_counter()
      jax.block_until_ready(program(params, rows))
      times[name].append(time.perf_counter() - begun)
  for name, of in times.items():
    print(json.dumps({"form": name, "ms": round(1e3 * min(of), 1)}))


def main() -> None:
  gib = lambda num_bytes: round(num_bytes / 2**30, 3)
  what = sys.argv[1]
  if what == "memory":
    for form in FORMS:
      print(json.dumps({"head": form, "gib": gib(head_temporaries(form))}))
    untied = gib(head_temporaries("sliced", is_tied=False))
    print(json.dumps({"head": "sliced, untied", "gib": untied}))
    for has_head in (True, False):
      figure = gib(layer_temporaries(has_head))
      print(json.dumps({"one layer, head": has_head, "gib": figure}))
  elif what == "depth":
    compile_s(1)  # what is only slow once
    for num_layers in (4, 36):
      seconds = round(compile_s(num_layers), 2)
      print(json.dumps({"layers": num_layers, "compile_s": seconds}))
  else:
    _speed()


if __name__ == "__main__":
  main()
