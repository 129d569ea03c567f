"""Takes updates with Tunix's Qwen3, loss and trainer, as `update_speed` asks.

  python tests/benchmarks/tunix_update.py

Runs where Tunix is (`pip install google-tunix`), and needs nothing of this
package. Every trajectory is in a row as long as the longest, 16 rows at a time
with its own accumulation of gradients: its trainer's step is taken four times
an update, and AdamW at the last.
"""

import os
import sys
import time
import types

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import ragged_batch
from tunix.models.qwen3 import model as qwen3
from tunix.rl import algo_core
from tunix.rl import common
from tunix.sft import peft_trainer

ROWS = 16  # at a time
LONGEST, VOCABULARY = ragged_batch.LONGEST, ragged_batch.VOCABULARY
NEVER = VOCABULARY + 1  # a stop id that is not drawn


def make() -> qwen3.Qwen3:
  """Returns the small model, all its matrices random."""
  config = qwen3.ModelConfig(
    num_layers=4,
    vocab_size=VOCABULARY,
    embed_dim=256,
    hidden_dim=768,
    num_heads=8,
    head_dim=32,
    num_kv_heads=4,
    rope_theta=1_000_000,
    norm_eps=1e-6,
    use_tied_embedding=True,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
  )
  model = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
  leaves, tree = jax.tree.flatten(nnx.state(model, nnx.Param))
  keys = jax.random.split(jax.random.key(0), len(leaves))
  drawn = [
    x if x.ndim == 1 else 0.02 * jax.random.normal(key, x.shape, x.dtype)
    for key, x in zip(keys, leaves, strict=True)
  ]
  nnx.update(model, jax.tree.unflatten(tree, drawn))
  return model


def micro_batches() -> list[common.TrainExample]:
  """Returns [ROWS, LONGEST] at a time; the first id is the prompt."""
  made = ragged_batch.draw()
  found = []
  for start in range(0, len(made), ROWS):
    ids = np.zeros((ROWS, LONGEST), np.int32)  # 0 is padding
    sampled = np.zeros((ROWS, LONGEST), np.int32)
    rows = made[start : start + ROWS]
    for b, t in enumerate(rows):
      ids[b, : len(t.ids)] = t.ids
      sampled[b, : len(t.ids)] = t.turn_ids >= 0
    found.append(
      common.TrainExample(
        prompt_ids=jnp.asarray(ids[:, :1]),
        prompt_mask=jnp.ones((ROWS, 1), bool),
        completion_ids=jnp.asarray(ids[:, 1:]),
        completion_mask=jnp.asarray(sampled[:, 1:]),
        advantages=jnp.asarray([t.advantage for t in rows], jnp.float32),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.full((ROWS, LONGEST - 1), -8.3),
      )
    )
  return found


def main() -> None:
  batches = micro_batches()
  settings = types.SimpleNamespace(
    beta=0.0,
    epsilon=0.2,
    epsilon_high=0.2,
    loss_algo="grpo",
    loss_agg_mode="token-mean",
    temperature=1.0,
    kl_loss_mode="kl",
    kl_clamp_value=None,
  )
  training = peft_trainer.TrainingConfig(
    eval_every_n_steps=10**9,
    max_steps=10**9,
    gradient_accumulation_steps=len(batches),
  )
  trainer = peft_trainer.PeftTrainer(make(), optax.adamw(1e-5), training)
  trainer.with_loss_fn(
    lambda model, train_example, algo_config: algo_core.grpo_loss_fn(
      model, train_example, algo_config, pad_id=0, eos_id=NEVER
    ),
    has_aux=True,
  )
  trainer.with_gen_model_input_fn(
    lambda batch: {"train_example": batch, "algo_config": settings}
  )
  train_step, _ = trainer.jit_train_and_eval_step()
  for _ in sys.stdin:
    begun = time.perf_counter()
    for batch in batches:
      jax.block_until_ready(train_step(batch))
    print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
  main()
