"""Samples with Hugging Face's Qwen3, as `sampling_speed` asks.

  python tests/benchmarks/huggingface_sampling.py

Runs where torch and transformers are, and needs nothing of this package. Reads
the name of a piece of work a line, and answers with the seconds that it took.
`turns` keeps the cache from turn to turn, `anew` reads the whole history each
time. Of ragged lengths lock step is what `generate` offers for a batch: all
rows read as many ids as the longest and sample as many as the longest,
left-padded, and what a row did not ask for is cut off.
"""

import sys
import time

import huggingface_model
import numpy as np
import sampling_work
import torch
import transformers

VOCABULARY = sampling_work.VOCABULARY


def main() -> None:
  model = huggingface_model.make(VOCABULARY)
  model.eval()

  def sample(ids, mask, num_sampled, cache=None):
    with torch.inference_mode():
      out = model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=num_sampled,
        min_new_tokens=num_sampled,
        past_key_values=cache,
        return_dict_in_generate=True,
      )
    return out.sequences, out.past_key_values

  def play(lengths_EK2: np.ndarray, keeps: bool) -> None:
    E, K = lengths_EK2.shape[:2]
    cache = transformers.DynamicCache() if keeps else None
    ids = torch.zeros((E, 0), dtype=torch.long)
    mask = torch.zeros((E, 0), dtype=torch.long)
    for k in range(K):
      reads, samples = (lengths_EK2[:, k, i] for i in range(2))
      new = torch.randint(2, VOCABULARY, (E, int(reads.max())))
      is_new = torch.zeros_like(new)
      for i, n in enumerate(reads):
        is_new[i, new.shape[1] - n :] = 1
      ids, mask = torch.cat([ids, new], 1), torch.cat([mask, is_new], 1)
      ids, given = sample(ids, mask, int(samples.max()), cache)
      cache = given if keeps else None
      kept = torch.zeros((E, int(samples.max())), dtype=torch.long)
      for i, n in enumerate(samples):
        kept[i, :n] = 1
      mask = torch.cat([mask, kept], 1)

  for line in sys.stdin:
    name = line.strip()
    begun = time.perf_counter()
    play(sampling_work.LENGTHS[name], keeps=name != "anew")
    print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
  main()
