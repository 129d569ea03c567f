"""Samples with Tunix's vanilla sampler, as `sampling_speed` asks.

  python tests/benchmarks/tunix_sampling.py

Runs where Tunix is (`pip install google-tunix`), and needs nothing of this
package. Reads the name of a piece of work a line, and answers with the seconds
that it took. The sampler keeps no cache between calls, so every turn reads the
whole history again, padded to the longest there will be: one program. What a
row did not ask for is cut off.
"""

import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import sampling_work
from tunix.generate import sampler as sampler_lib
import tunix_update

VOCABULARY = sampling_work.VOCABULARY


class Numbers:
  """A tokenizer of numbers: "5 6" is the ids 5 and 6."""

  bos_token = eos_token = ""

  def encode(self, text, **_):
    return [int(word) for word in text.split()]

  def decode(self, ids, **_):
    return " ".join(str(int(i)) for i in ids)

  def bos_id(self):
    return None

  def eos_id(self):
    return tunix_update.NEVER

  def pad_id(self):
    return 0


def main() -> None:
  model = tunix_update.make()
  rng = np.random.default_rng(0)
  samplers: dict[int, sampler_lib.Sampler] = {}

  def play(lengths_EK2: np.ndarray) -> None:
    E, K = lengths_EK2.shape[:2]
    histories: list[list[int]] = [[] for _ in range(E)]
    # Of a prompt: all but what the last turn samples.
    longest = int((lengths_EK2.sum((1, 2)) - lengths_EK2[:, -1, 1]).max())
    most = int(lengths_EK2[..., 1].max())
    if longest not in samplers:
      samplers[longest] = sampler_lib.Sampler(
        model,
        Numbers(),
        sampler_lib.CacheConfig(
          cache_size=longest + most, num_layers=4, num_kv_heads=4, head_dim=32
        ),
      )
    for k in range(K):
      for i, n in enumerate(lengths_EK2[:, k, 0]):
        histories[i] += rng.integers(2, VOCABULARY, n).tolist()
      out = samplers[longest](
        [" ".join(map(str, ids)) for ids in histories],
        max_generation_steps=int(lengths_EK2[:, k, 1].max()),
        max_prompt_length=longest,
        temperature=1.0,
        top_p=1.0,
        return_logprobs=True,
        seed=k,
        eos_tokens=[tunix_update.NEVER],
      )
      for i, n in enumerate(lengths_EK2[:, k, 1]):
        histories[i] += np.asarray(out.tokens[i])[:n].tolist()

  for line in sys.stdin:
    begun = time.perf_counter()
    play(sampling_work.LENGTHS[line.strip()])
    print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
  main()
