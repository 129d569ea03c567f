"""The model of the peer comparisons, as Hugging Face has it.

Needs torch and transformers, and nothing of this package.
"""

import os

import torch
import transformers


def make(vocab_size: int) -> transformers.Qwen3ForCausalLM:
  """Returns it in float32 with random weights; torch gets all cores."""
  torch.set_num_threads(os.cpu_count() or 1)
  torch.manual_seed(0)
  return transformers.Qwen3ForCausalLM(
    transformers.Qwen3Config(
      vocab_size=vocab_size,
      hidden_size=256,
      intermediate_size=768,
      num_hidden_layers=4,
      num_attention_heads=8,
      num_key_value_heads=4,
      head_dim=32,
      tie_word_embeddings=True,
      max_position_embeddings=8192,
      rope_theta=1e6,
      bos_token_id=None,
      eos_token_id=None,
      pad_token_id=0,
    )
  ).float()
