"""A small shape for tests of published folders."""

from userrl_jax.models import qwen3

CONFIG = qwen3.Config(
  vocab_size=48,
  hidden_size=16,
  num_layers=3,
  num_heads=8,
  num_kv_heads=4,
  head_dim=4,
  intermediate_size=24,
  tie_embeddings=False,
)
