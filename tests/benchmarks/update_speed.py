"""Times a full update on ragged trajectories, beside other trainers; by hand.

  python -m tests.benchmarks.update_speed [NAME=COMMAND ...]

such as "padded=PYTHON tests/benchmarks/huggingface_update.py padded", where
PYTHON has torch. A command computes one update of the batch of `ragged_batch`
for each line that it reads, and answers with a line, the seconds it took. Ours
and theirs take turns, a round each, so that all meet the same noise of the
machine. Prints JSON lines: medians, real ids a second (padding is no id),
ratios, and what of the CPU's rate of matrix products ours reaches.

The model is that of the published peer comparisons: hidden 256, 4 layers, 8/4
heads of 32, MLP 768, vocabulary 4096, tied, float32. An update of ours is
packing, credit, loss, gradient, clipping and AdamW.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks import engine_speed
from tests.benchmarks import ragged_batch
from userrl_jax import config as config_lib
from userrl_jax import process
from userrl_jax import sharding
from userrl_jax import types
from userrl_jax.learning import batching
from userrl_jax.learning import learner
from userrl_jax.models import qwen3

MODEL = engine_speed.MODEL
assert MODEL.vocab_size == ragged_batch.VOCABULARY
PACKING = config_lib.Packing(
  row_length=ragged_batch.LONGEST, rows_per_micro_batch=2, logprob_chunk=256
)
GRPO = config_lib.Grpo(
  tasks_per_iteration=ragged_batch.NUM_TRAJECTORIES // ragged_batch.GROUP_SIZE,
  group_size=ragged_batch.GROUP_SIZE,
)
NUM_DEVICES = 2  # the CPU's cores
MAX_TURNS = 8
NUM_ROUNDS = 5


def groups() -> list[types.Group]:
  """Returns the batch as an iteration would have played it."""
  made = ragged_batch.draw()
  found = []
  for start in range(0, len(made), ragged_batch.GROUP_SIZE):
    task = types.Task("toy", str(start), "train", 1, "", {}, types.Secret({}))
    members = [
      types.Trajectory(
        task,
        member,
        0,
        token_ids_T=t.ids,
        logprobs_T=np.where(t.turn_ids >= 0, -8.3, 0).astype(np.float32),
        turn_ids_T=t.turn_ids,
        turns=tuple(
          types.Turn("", None, "", t.advantage * (k == 0))
          for k in range(int(t.turn_ids.max()) + 1)
        ),
        stop_reason=types.StopReason.TERMINATED,
      )
      for member, t in enumerate(made[start : start + ragged_batch.GROUP_SIZE])
    ]
    found.append(types.Group(task, members))
  return found


class Ours:
  """Our update, compiled."""

  def __init__(self):
    process.split_cpu(NUM_DEVICES)
    process.keep_freed_memory()
    self._mesh = sharding.make_mesh(config_lib.Mesh())
    settings = learner.Settings(GRPO, PACKING, temperature=1.0)
    self._update = learner.make_update(MODEL, settings, self._mesh)
    params = jax.jit(lambda key: qwen3.init(MODEL, key))(jax.random.key(0))
    self._state = learner.init_state(params, GRPO.optimizer, 100, self._mesh)
    self._groups = groups()
    self._capacity = batching.capacity(
      ragged_batch.NUM_TRAJECTORIES, ragged_batch.LONGEST, PACKING
    )

  def step(self) -> batching.PackStats:
    """Takes an update, from trajectories to new params."""
    batch, packed = batching.pack(
      self._groups,
      PACKING,
      group_size=GRPO.group_size,
      max_turns=MAX_TURNS,
      num_tasks=GRPO.tasks_per_iteration,
      capacity=self._capacity,
      credit=GRPO.credit,
    )
    [batch] = learner.placed([batch], PACKING, self._mesh)
    self._state, metrics = self._update(self._state, batch)
    assert jax.block_until_ready(metrics)["train/skipped"] == 0
    return packed


class Beside:
  """Another trainer, in a process of its own."""

  def __init__(self, command: str):
    self._process = subprocess.Popen(
      shlex.split(command),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def step(self, work: str = "go") -> float:
    """Has it take an update, or do some other work; returns its seconds."""
    assert self._process.stdin is not None and self._process.stdout is not None
    print(work, file=self._process.stdin, flush=True)
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"{self._process.args} ended before it answered")
    return float(line)

  def end(self) -> None:
    """Ends it."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()


def product_rate() -> float:
  """Returns the floating-point operations a second of large products."""
  M, K, N = 8192, 256, 1536
  x, y = jnp.ones((M, K)), jnp.ones((K, N))
  one = jax.jit(jnp.matmul)
  devices = jax.devices()
  of_devices = [[jax.device_put(a, d) for a in (x, y)] for d in devices]
  call = lambda: jax.block_until_ready([one(*a) for a in of_devices])
  call()
  seconds = []
  for _ in range(9):
    begun = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - begun)
  return 2 * M * K * N * len(devices) / statistics.median(seconds)


def num_operations(packed: batching.PackStats) -> float:
  """Returns what an update must compute: three products a weight and id.

  Attention is counted over ids of the same trajectory that do not come later,
  the head at sampled ids. What is made anew for the gradient is not counted.
  """
  c = MODEL
  of_heads = c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
  weights = c.hidden_size * (of_heads + 3 * c.intermediate_size)
  lengths = np.array([len(t.ids) for t in ragged_batch.draw()], float)
  pairs = (lengths * (lengths + 1) / 2).sum()
  attention = 2 * c.num_heads * c.head_dim * pairs
  head = packed.num_sampled_tokens * c.hidden_size * c.vocab_size
  layers = c.num_layers * (packed.num_tokens * weights + attention)
  return 6 * (layers + head)


def main() -> None:
  ours = Ours()
  packed = ours.step()  # compiles
  others = {}
  for argument in sys.argv[1:]:
    name, _, command = argument.partition("=")
    others[name] = Beside(command)
    others[name].step()  # whatever is only slow once
  real = ragged_batch.describe(ragged_batch.draw())
  print(json.dumps(real | {"rows": packed.num_rows, "pad": packed.pad_share}))
  seconds: dict[str, list[float]] = {"ours": [], **{n: [] for n in others}}
  for _ in range(NUM_ROUNDS):
    begun = time.perf_counter()
    ours.step()
    seconds["ours"].append(time.perf_counter() - begun)
    for name, other in others.items():
      seconds[name].append(other.step())
  medians = {name: statistics.median(of) for name, of in seconds.items()}
  for name, of in seconds.items():
    line = {
      "name": name,
      "median_s": round(medians[name], 3),
      "all_s": [round(s, 3) for s in of],
      "real_tokens_per_s": round(real["tokens"] / medians[name]),
      "times_ours": round(medians[name] / medians["ours"], 3),
    }
    print(json.dumps(line))
  for other in others.values():
    other.end()
  rate, needed = product_rate(), num_operations(packed)
  line = {
    "products_gflops": round(rate / 1e9, 1),
    "update_gflops": round(needed / medians["ours"] / 1e9, 1),
    "share": round(needed / medians["ours"] / rate, 3),
    "load": [round(x, 2) for x in os.getloadavg()],
  }
  print(json.dumps(line))


if __name__ == "__main__":
  main()
