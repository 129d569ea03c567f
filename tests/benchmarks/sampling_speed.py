"""Times sampling of many conversations, beside other samplers; by hand.

  python -m tests.benchmarks.sampling_speed [rounds=5] [NAME:WORK,...=COMMAND]

such as "hf:generate,turns,anew,ragged=PYTHON
tests/benchmarks/huggingface_sampling.py" and "tunix:generate,anew,ragged=PYTHON
tests/benchmarks/tunix_sampling.py", where PYTHON has what they need; names of
work are those of `sampling_work`. A command reads the name of a piece of work a
line and answers with the seconds that it took. Ours and theirs take turns, a
round each, so that all meet the same noise of the machine. JSON lines: medians,
how much faster ours is than each, and ours with one of its parts left out:

  anew       no rows are kept: every turn reads the whole history again
  one_lane   no batches: each core samples one episode at a time
  one_token  a device call for every token, not for 64

The model is that of the published peer comparisons, see `engine_speed`.
"""

import asyncio
import json
import os
import statistics
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from tests.benchmarks import engine_speed
from tests.benchmarks import sampling_work
from tests.benchmarks import update_speed
from userrl_jax.models import qwen3

NUM_DEVICES = 2  # the CPU's cores
# Sizes of the engine for each piece of work, by rows of all devices together.
_SETTINGS = {
  "generate": dict(num_rows=32, num_lanes=32, decode_tokens=128),
  "turns": dict(num_rows=16, num_lanes=16, decode_tokens=64),
  "anew": dict(num_rows=16, num_lanes=16, decode_tokens=64),
  "ragged": dict(num_rows=16, num_lanes=16, decode_tokens=32),
  "one_lane": dict(num_rows=2, num_lanes=2, decode_tokens=64),
  "one_token": dict(num_rows=16, num_lanes=16, decode_tokens=1),
}
_WITHOUT = ("anew", "one_lane", "one_token")  # of `turns`


class Ours:
  """Our engine, for one piece of work."""

  def __init__(self, name: str, params):
    self._keeps = name != "anew"
    self._lengths_EK2 = sampling_work.LENGTHS[
      "turns" if name in _WITHOUT else name
    ]
    longest = int(self._lengths_EK2.sum((1, 2)).max())
    # Few rows come to read at a time: small extend calls waste less.
    extend = 128 if name == "ragged" else 512
    self._engine = engine_speed.make_engine(longest, extend, **_SETTINGS[name])
    self._params = params
    self._round = 0

  def step(self) -> float:
    """Plays all episodes; returns its seconds."""
    self._round += 1
    begun = time.perf_counter()
    asyncio.run(self._play())
    return time.perf_counter() - begun

  async def _play(self) -> None:
    async with self._engine.serving(self._params):
      await asyncio.gather(*map(self._episode, range(len(self._lengths_EK2))))

  async def _episode(self, index: int) -> None:
    rng = np.random.default_rng([index, self._round])
    key = np.array([self._round, index], np.uint32)
    session, history = self._engine.open(key), []
    for num_read, num_sampled in self._lengths_EK2[index]:
      ids = rng.integers(2, sampling_work.VOCABULARY, num_read).tolist()
      if not self._keeps:
        self._engine.close(session)
        session, history = self._engine.open(key), history + ids
        ids = history
      sampled = await self._engine.sample(session, ids, int(num_sampled))
      history = history + sampled.token_ids
    self._engine.close(session)


def main() -> None:
  words = sys.argv[1:]
  num_rounds = 5
  if words and words[0].startswith("rounds="):
    num_rounds = int(words.pop(0)[7:])
  jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
  params = jax.jit(lambda key: qwen3.init(engine_speed.MODEL, key))(
    jax.random.key(0)
  )
  ours = {name: Ours(name, params) for name in _SETTINGS}
  others = {}
  for word in words:
    head, _, command = word.partition("=")
    name, _, work = head.partition(":")
    others[name] = (update_speed.Beside(command), work.split(","))
  steps = {("ours", name): one.step for name, one in ours.items()}
  for name, (beside, work) in others.items():
    for own in work:
      steps[name, own] = lambda beside=beside, own=own: beside.step(own)
  for step in steps.values():
    step()  # compiles, or whatever is only slow once
  seconds = {which: [] for which in steps}
  for _ in range(num_rounds):
    for which, step in steps.items():
      seconds[which].append(step())
  median = {which: statistics.median(of) for which, of in seconds.items()}
  for (who, name), of in seconds.items():
    fastest = "turns" if name in _WITHOUT else name
    line = {
      "who": who,
      "work": name,
      "median_s": round(median[who, name], 3),
      "all_s": [round(s, 3) for s in of],
      "times_ours": round(median[who, name] / median["ours", fastest], 2),
    }
    print(json.dumps(line), flush=True)
  print(json.dumps({"load": [round(x, 2) for x in os.getloadavg()]}))


if __name__ == "__main__":
  main()
