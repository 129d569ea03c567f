"""What the model says about the sampled tokens of packed rows.

Comes in: params, and one micro-batch of packed rows. Goes out: log-probs,
entropies and top-1 hits. The head's logits never exist for all tokens and ids:
small vocabularies go by chunks of positions, others by slices as well.
"""

import functools

import jax

from userrl_jax import config
from userrl_jax import sharding
from userrl_jax.learning import batching
from userrl_jax.learning import losses
from userrl_jax.learning import vocabulary_slices
from userrl_jax.models import qwen3


def of_rows(
  params: qwen3.Params,
  model_config: qwen3.Config,
  rows: batching.Rows,
  packing: config.Packing,
  mesh: jax.sharding.Mesh,
  temperature: float,
  entropy_gradient: bool = False,
) -> losses.TokenStats:
  """Runs the model over one micro-batch of packed rows.

  A vocabulary of one slice has nothing to be cut; its dense form is computed in
  one piece, and faster.
  """
  is_sliced = model_config.vocab_size > vocabulary_slices.SLICE
  embedded_BTD = None
  if is_sliced and model_config.tie_embeddings:
    # Of a small matrix, a second gradient is no matter.
    embedded_BTD, params = qwen3.embed(params, model_config, rows.token_ids)
  hidden_BTD, _ = qwen3.forward(
    params,
    model_config,
    rows.token_ids,
    rows.positions,
    rows.segment_ids,
    mesh=mesh,
    embedded_BTD=embedded_BTD,
  )
  where = rows.sampled_positions, rows.targets, rows.slots >= 0
  options = dict(
    chunk=packing.logprob_chunk,
    temperature=temperature,
    entropy_gradient=entropy_gradient,
  )
  if not is_sliced:
    beside = {name: x for name, x in params.items() if name != "layers"}
    beside = sharding.gathered(beside, mesh)
    logits_of = functools.partial(qwen3.logits, beside, model_config)
    return losses.sampled_token_stats(hidden_BTD, logits_of, *where, **options)
  head = vocabulary_slices.Head(
    model_config.tie_embeddings,
    model_config.num_ids,
    model_config.dtype,
    is_frozen=model_config.adapter_rank > 0,
    mesh=mesh,
  )
  matrix = qwen3.head_matrix(params, model_config)
  return vocabulary_slices.sampled_token_stats(
    hidden_BTD,
    matrix,
    head,
    *where,
    slice_size=vocabulary_slices.SLICE,
    **options,
  )
