"""What a stretch of a run took: tokens, requests, seconds, of all its hosts.

In: the parts of a run, whose engine and user count. Out: sums since they were
last taken, and lines of `evaluation_costs.jsonl`, one for each process that
finished an evaluation; what a process took that was killed is not in it.
"""

from collections.abc import Mapping
import dataclasses
import json
import time
from typing import Any

from userrl_jax import assembly
from userrl_jax import hosts
from userrl_jax.inference import counters as counters_lib

FILE = "evaluation_costs.jsonl"


def taken(
  parts: assembly.Parts,
) -> tuple[counters_lib.Counters, dict[str, float]]:
  """Takes what engine and user counted; adds up what each host counted."""
  counters, counts = parts.engine.take_counters(), parts.user.take_counts()
  of_hosts = hosts.gather([dataclasses.asdict(counters), dict(counts)])
  added = [
    {
      name: sum(values.get(name, 0) for values in of_one)
      for name in dict.fromkeys(name for values in of_one for name in values)
    }
    for of_one in zip(*of_hosts, strict=True)
  ]
  return counters_lib.Counters(**added[0]), added[1]


class Evaluation:
  """Counts what one evaluation takes, from when it is made."""

  def __init__(self, parts: assembly.Parts, stage: str):
    """Forgets what was counted before, which is none of this evaluation's."""
    parts.engine.take_counters()
    parts.user.take_counts()
    self._parts, self._stage = parts, stage
    self._start = time.monotonic()

  def keep(self, num_episodes: int) -> None:
    """Writes down what it took; `num_episodes` were played by this process."""
    counters, counts = taken(self._parts)
    line: Mapping[str, Any] = {
      "stage": self._stage,
      "time/step_s": time.monotonic() - self._start,
      "episode/num": num_episodes,
      "rollout/tokens_sampled": counters.tokens_sampled,
      "rollout/tokens_read": counters.tokens_read,
      **counts,
    }
    if hosts.is_first():
      with (self._parts.folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
