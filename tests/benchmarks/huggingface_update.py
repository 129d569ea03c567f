"""Takes updates with Hugging Face's Qwen3, as `update_speed` asks for them.

  python tests/benchmarks/huggingface_update.py padded   # or packed

Runs where torch and transformers are, and needs nothing of this package.

  padded  every trajectory in a row as long as the longest, 16 rows at a time,
          logits of all positions
  packed  rows of that length filled by best fit, positions that start anew, a
          mask by trajectory, and logits of sampled positions alone: the same
          work as ours

Both take the clipped loss with token means of the whole batch, entropies
without a gradient, clipping and AdamW.
"""

import sys
import time

import huggingface_model
import numpy as np
import ragged_batch
import torch

ROWS = 16  # at a time
LONGEST, VOCABULARY = ragged_batch.LONGEST, ragged_batch.VOCABULARY


def rows_of(how: str) -> list[list[ragged_batch.Trajectory]]:
  """Returns the trajectories of each row."""
  made = ragged_batch.draw()
  if how == "padded":
    return [[t] for t in made]
  rows: list[list[ragged_batch.Trajectory]] = []
  for t in sorted(made, key=lambda t: -len(t.ids)):
    room = lambda row: LONGEST - sum(len(t.ids) for t in row)
    fits = [row for row in rows if room(row) >= len(t.ids)]
    if fits:
      min(fits, key=room).append(t)
    else:
      rows.append([t])
  return rows


def tensors(how: str) -> dict[str, torch.Tensor]:
  """Returns [rows, LONGEST] arrays; targets of position t are id t + 1."""
  rows = rows_of(how)
  shape = len(rows), LONGEST
  ids, positions, segments = (np.zeros(shape, np.int64) for _ in range(3))
  sampled, advantages = np.zeros(shape, bool), np.zeros(shape, np.float32)
  for b, row in enumerate(rows):
    start = 0
    for number, t in enumerate(row, 1):
      own = slice(start, start + len(t.ids))
      ids[b, own], positions[b, own] = t.ids, np.arange(len(t.ids))
      segments[b, own], advantages[b, own] = number, t.advantage
      sampled[b, own] = t.turn_ids >= 0
      start = own.stop
  named = dict(
    ids=ids,
    positions=positions,
    segments=segments,
    sampled=sampled,
    advantages=advantages,
  )
  return {name: torch.from_numpy(array) for name, array in named.items()}


def main() -> None:
  how = sys.argv[1]
  model = huggingface_model.make(VOCABULARY)
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
  batch = tensors(how)
  num_sampled = batch["sampled"].sum()
  causal = torch.ones(LONGEST, LONGEST, dtype=torch.bool).tril()

  def loss_of(rows: dict[str, torch.Tensor]) -> torch.Tensor:
    if how == "packed":
      segments = rows["segments"]
      mask = (segments[:, :, None] == segments[:, None, :]) & causal
      mask = mask[:, None]
    else:
      mask = rows["segments"]
    hidden = model.model(
      rows["ids"],
      attention_mask=mask,
      position_ids=rows["positions"],
      use_cache=False,
    ).last_hidden_state[:, :-1]
    is_sampled = rows["sampled"][:, 1:]
    targets, advantages = rows["ids"][:, 1:], rows["advantages"][:, 1:]
    if how == "packed":
      hidden, targets = hidden[is_sampled], targets[is_sampled]
      advantages, is_sampled = advantages[is_sampled], is_sampled[is_sampled]
    logits = model.lm_head(hidden)
    log_z = torch.logsumexp(logits, -1)
    logprobs = torch.gather(logits, -1, targets[..., None])[..., 0] - log_z
    with torch.no_grad():
      all_logprobs = torch.log_softmax(logits, -1)
      -(all_logprobs.exp() * all_logprobs).sum(-1)
    ratio = torch.exp(logprobs + 8.3)
    loss = torch.maximum(
      -advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)
    )
    return (loss * is_sampled).sum() / num_sampled

  def step() -> None:
    optimizer.zero_grad(set_to_none=True)
    for start in range(0, len(batch["ids"]), ROWS):
      rows = {name: x[start : start + ROWS] for name, x in batch.items()}
      loss_of(rows).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  for _ in sys.stdin:
    begun = time.perf_counter()
    step()
    print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
  main()
