"""Times Hugging Face on ragged turns, as `engine_speed` times us; by hand.

  python tests/benchmarks/huggingface_ragged.py

Runs where torch and transformers are, and needs nothing of this package. Lock
step is what `generate` offers for a batch: all rows read as many ids as the
longest and sample as many as the longest, left-padded, and what a row did not
ask for is cut off; the cache is kept across turns. One JSON line.
"""

import json
import os
import statistics
import time

import huggingface_model
import numpy as np
import torch
import transformers

NUM_RUNS = 5
VOCABULARY, EPISODES, TURNS = 4096, 16, 8


def lengths() -> np.ndarray:
  """Returns [E, K, 2] ids read and sampled; those of `engine_speed.ragged`."""
  rng = np.random.default_rng(0)
  sigma = 0.8
  draw = rng.lognormal(np.log(64) - sigma**2 / 2, sigma, (EPISODES, TURNS, 2))
  return np.clip(draw, 1, 256).astype(int)


def main() -> None:
  model = huggingface_model.make(VOCABULARY)
  model.eval()
  lengths_EK2 = lengths()

  def play() -> None:
    cache = transformers.DynamicCache()
    ids = torch.zeros((EPISODES, 0), dtype=torch.long)
    mask = torch.zeros((EPISODES, 0), dtype=torch.long)
    for k in range(TURNS):
      num_read = int(lengths_EK2[:, k, 0].max())
      num_sampled = int(lengths_EK2[:, k, 1].max())
      new = torch.randint(2, VOCABULARY, (EPISODES, num_read))
      is_new = torch.zeros((EPISODES, num_read), dtype=torch.long)
      for i, n in enumerate(lengths_EK2[:, k, 0]):
        is_new[i, num_read - n :] = 1
      ids = torch.cat([ids, new], 1)
      mask = torch.cat([mask, is_new], 1)
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
      ids, cache = out.sequences, out.past_key_values
      kept = torch.zeros((EPISODES, num_sampled), dtype=torch.long)
      for i, n in enumerate(lengths_EK2[:, k, 1]):
        kept[i, :n] = 1
      mask = torch.cat([mask, kept], 1)

  play()
  seconds = []
  for _ in range(NUM_RUNS):
    begun = time.perf_counter()
    play()
    seconds.append(time.perf_counter() - begun)
  median = statistics.median(seconds)
  print(
    json.dumps(
      {
        "name": "huggingface_ragged_16x8",
        "median_s": round(median, 3),
        "all_s": [round(s, 3) for s in seconds],
        "tokens_per_s": round(int(lengths_EK2[..., 1].sum()) / median, 1),
        "load": [round(x, 2) for x in os.getloadavg()],
      }
    )
  )


if __name__ == "__main__":
  main()
