"""The border from host to device: ragged trajectories become packed rows.

Comes in: groups (or demonstrations) with their ids, log-probs and turn ids.
Goes out: a `Batch` of numpy arrays in one fixed shape, and what packing wasted.

Several trajectories share a row; each keeps its own segment id and its
positions start anew, so attention cannot cross. With T = 12:

  token_ids     a a a a a b b b c c . .
  segment_ids   1 1 1 1 1 2 2 2 3 3 0 0
  positions     0 1 2 3 4 0 1 2 0 1 0 0

The tokens to learn from are listed apart, at the front of the row's M axis:
`sampled_positions` says which hidden state predicts the token, `targets` which
token it was, `slots` which turn it belongs to.

The number of micro-batches is a capacity in the shape and a value in
`num_micro_batches`: any content runs in one compiled program (law L4), and the
unused micro-batches are never computed.
"""

import bisect
from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from userrl_jax import config
from userrl_jax import types
from userrl_jax.learning import credit as credit_lib
from userrl_jax.learning import rewards
from userrl_jax.learning import turn_facts

# Ends of a trajectory that say it was cut, not that it was done.
OVERLONG = (types.StopReason.TURN_BUDGET, types.StopReason.EPISODE_BUDGET)

Array = np.ndarray | jax.Array


class Rows(NamedTuple):
  """Packed rows: A micro-batches of B rows of T tokens, M = T.

  Attributes:
    token_ids: [A, B, T] int32, 0 on padding.
    positions: [A, B, T] int32, within the token's own trajectory; 0 on padding.
    segment_ids: [A, B, T] int32, 1.. within the row; 0 on padding.
    sampled_positions: [A, B, M] int32, index in the row of the hidden state
      that predicts the token, one before the token; 0 on padding.
    targets: [A, B, M] int32, the token's id; 0 on padding.
    logprobs: [A, B, M] float32, nats, as sampled; 0 on padding.
    old_logprobs: [A, B, M] float32, nats, under the params that the iteration
      starts with; as sampled, until `iterations` fills them in.
    slots: [A, B, M] int32, index of the token's turn in the flattened
      [P, G, K]; -1 on padding.
  """

  token_ids: Array
  positions: Array
  segment_ids: Array
  sampled_positions: Array
  targets: Array
  logprobs: Array
  old_logprobs: Array
  slots: Array


class Batch(NamedTuple):
  """Everything one update needs.

  Attributes:
    rows: the packed rows.
    num_micro_batches: [] int32, how many of the A micro-batches hold tokens.
    rewards_PGK: [P, G, K] float32, scaled; 0 where there is no turn.
    turn_mask_PGK: [P, G, K] bool, True where the turn exists.
    num_tokens_PGK: [P, G, K] int32, the turn's sampled tokens.
    valid_PG: [P, G] bool, True where a trajectory exists and is valid.
    in_loss_PG: [P, G] bool, True where its tokens are in the rows.
    facts_PGKF: [P, G, K, F] float32, of turns, see `turn_facts`; None where
      the credit needs none.
  """

  rows: Rows
  num_micro_batches: Array
  rewards_PGK: Array
  turn_mask_PGK: Array
  num_tokens_PGK: Array
  valid_PG: Array
  in_loss_PG: Array
  facts_PGKF: Array | None = None


@dataclasses.dataclass(frozen=True)
class PackStats:
  """What packing used and wasted."""

  num_trajectories: int  # packed
  num_left_out: int  # invalid, masked, or without a token to learn from
  num_rows: int  # with at least one trajectory
  num_micro_batches: int
  num_tokens: int  # real tokens in the rows
  num_sampled_tokens: int  # tokens with a loss
  pad_share: float  # of the computed token places that hold no token
  # Dropped: all their valid members scored alike, or fewer than two are valid.
  num_flat_groups: int = 0


def capacity(
  num_trajectories: int, max_tokens: int, packing: config.Packing
) -> int:
  """Computes how many micro-batches always hold so many trajectories.

  Best fit opens a row only for a trajectory that no open row can take, so every
  row but the last holds at least floor(row_length / max_tokens) of them.

  Args:
    num_trajectories: the most that one batch gets.
    max_tokens: the longest trajectory, tokens.
    packing: shapes of the rows.

  Returns:
    The capacity A.

  Raises:
    ValueError: when a row cannot hold the longest trajectory.
  """
  if max_tokens > packing.row_length:
    raise ValueError(
      "packing.row_length must be at least the longest trajectory, "
      f"{max_tokens} tokens; got {packing.row_length}. Raise it, or lower "
      "rollout.max_tokens_per_episode"
    )
  num_rows = -(-num_trajectories // (packing.row_length // max_tokens))
  return max(1, -(-num_rows // packing.rows_per_micro_batch))


def pack(
  groups: Sequence[types.Group],
  packing: config.Packing,
  *,
  group_size: int,
  max_turns: int,
  num_tasks: int,
  capacity: int,
  credit: config.Credit | None = None,
  overlong: str = "train",
) -> tuple[Batch, PackStats]:
  """Packs groups for `learner.make_update`.

  Invalid trajectories are left out, and so are ids read after the last sampled
  one, which no loss depends on. Missing groups and members are invalid.

  Args:
    groups: at most `num_tasks` groups.
    packing: shapes of the rows.
    group_size: G, the most members a group may have.
    max_turns: K, the most turns a trajectory may have.
    num_tasks: P.
    capacity: A, see the function `capacity`.
    credit: how rewards are scaled, raw by default, and whether it needs facts
      of turns.
    overlong: "mask" leaves trajectories that a token budget cut out of the
      rows; their scores still count.

  Returns:
    The batch and what packing wasted.

  Raises:
    ValueError: when something does not fit its shape; names what.
  """
  arrays = rewards.to_arrays(
    groups,
    credit or config.Credit(),
    num_tasks=num_tasks,
    group_size=group_size,
    max_turns=max_turns,
  )
  in_loss_PG = np.zeros_like(arrays.valid_PG)
  pieces, num_left_out = [], 0
  for p, group in enumerate(groups):
    for g, trajectory in enumerate(group.trajectories):
      is_masked = overlong == "mask" and trajectory.stop_reason in OVERLONG
      piece = None
      if trajectory.is_valid and not is_masked:
        first_slot = (p * group_size + g) * max_turns
        piece = _sampled_piece(trajectory, first_slot + trajectory.turn_ids_T)
      if piece is None:
        num_left_out += 1
      else:
        in_loss_PG[p, g] = True
        pieces.append(piece)
  rows, num_micro_batches, stats = _fill_rows(
    pieces, num_left_out, packing, capacity
  )
  facts_PGKF = None
  if credit is not None and credit.credit in credit_lib.LEARNED:
    shape = arrays.rewards_PGK.shape
    facts_PGKF = turn_facts.of_groups(groups, shape)
  return (
    Batch(
      rows,
      num_micro_batches,
      arrays.rewards_PGK.astype(np.float32),
      arrays.turn_mask_PGK,
      arrays.num_tokens_PGK,
      arrays.valid_PG,
      in_loss_PG,
      facts_PGKF,
    ),
    stats,
  )


def pack_demonstrations(
  trajectories: Sequence[types.Trajectory],
  packing: config.Packing,
  *,
  capacity: int,
  all_ids: bool = False,
) -> tuple[Batch, PackStats]:
  """Packs demonstrations for `imitation.make_update`.

  Args:
    trajectories: to imitate; invalid ones are left out.
    packing: shapes of the rows.
    capacity: A, see the function `capacity`.
    all_ids: learn every id but a trajectory's first (pretraining) instead of
      only those of the agent's turns.

  Returns:
    The batch, all its tokens in slot 0, and what packing wasted.

  Raises:
    ValueError: when something does not fit its shape; names what.
  """
  pieces, num_left_out = [], 0
  for trajectory in trajectories:
    piece = None
    if trajectory.is_valid and all_ids:
      piece = _whole_piece(trajectory)
    elif trajectory.is_valid:
      slots_T = np.zeros_like(trajectory.turn_ids_T)
      piece = _sampled_piece(trajectory, slots_T)
    if piece is None:
      num_left_out += 1
    else:
      pieces.append(piece)
  rows, num_micro_batches, stats = _fill_rows(
    pieces, num_left_out, packing, capacity
  )
  one = np.ones((1, 1, 1), np.int32)
  num_tokens_PGK = one * stats.num_sampled_tokens
  return (
    Batch(
      rows,
      num_micro_batches,
      rewards_PGK=np.zeros((1, 1, 1), np.float32),
      turn_mask_PGK=one > 0,
      num_tokens_PGK=num_tokens_PGK,
      valid_PG=np.ones((1, 1), bool),
      in_loss_PG=np.ones((1, 1), bool),
    ),
    stats,
  )


@dataclasses.dataclass(frozen=True)
class _Piece:
  """One trajectory on its way into a row."""

  name: str
  token_ids: np.ndarray  # [t] int32
  sampled: np.ndarray  # [m] indices into token_ids, ascending, at least 1
  logprobs: np.ndarray  # [m] float32
  slots: np.ndarray  # [m] int32


def _sampled_piece(
  trajectory: types.Trajectory, slots_T: np.ndarray
) -> _Piece | None:
  """Returns what to learn from the sampled ids; None if there are none."""
  (sampled,) = np.nonzero(trajectory.turn_ids_T >= 0)
  if not sampled.size:
    return None
  if sampled[0] == 0:
    raise ValueError(
      f"{rewards.name(trajectory)} must start with an id that was read; its "
      "first id is marked as sampled, and nothing before it could have "
      "predicted it"
    )
  return _Piece(
    rewards.name(trajectory),
    trajectory.token_ids_T[: sampled[-1] + 1],
    sampled,
    trajectory.logprobs_T[sampled],
    slots_T[sampled],
  )


def _whole_piece(trajectory: types.Trajectory) -> _Piece | None:
  sampled = np.arange(1, len(trajectory.token_ids_T))
  if not sampled.size:
    return None
  return _Piece(
    rewards.name(trajectory),
    trajectory.token_ids_T,
    sampled,
    np.zeros(sampled.size, np.float32),
    np.zeros(sampled.size, np.int32),
  )


def _fill_rows(
  pieces: list[_Piece],
  num_left_out: int,
  packing: config.Packing,
  capacity: int,
) -> tuple[Rows, np.ndarray, PackStats]:
  """Writes the pieces into rows; for `pack` and `pack_demonstrations`."""
  A, B, T = capacity, packing.rows_per_micro_batch, packing.row_length
  contents = _best_fit(pieces, T)
  if len(contents) > A * B:
    raise ValueError(
      f"the trajectories need {len(contents)} rows of {T} tokens, but the "
      f"batch holds {A} micro-batches of {B}; give a capacity from "
      "batching.capacity with their true number and length"
    )
  rows = Rows(
    *(np.zeros((A * B, T), np.int32) for _ in range(5)),
    logprobs=(logprobs := np.zeros((A * B, T), np.float32)),
    old_logprobs=logprobs,  # one array
    slots=np.full((A * B, T), -1, np.int32),
  )
  for b, row in enumerate(contents):
    t, m = 0, 0  # next free place on the T and on the M axis
    for segment_id, piece in enumerate(row, start=1):
      tokens = slice(t, t + len(piece.token_ids))
      rows.token_ids[b, tokens] = piece.token_ids
      rows.positions[b, tokens] = np.arange(len(piece.token_ids))
      rows.segment_ids[b, tokens] = segment_id
      places = slice(m, m + len(piece.sampled))
      rows.sampled_positions[b, places] = t + piece.sampled - 1
      rows.targets[b, places] = piece.token_ids[piece.sampled]
      rows.logprobs[b, places] = piece.logprobs
      rows.slots[b, places] = piece.slots
      t, m = tokens.stop, places.stop
  num_micro_batches = -(-len(contents) // B)
  num_tokens = sum(len(piece.token_ids) for piece in pieces)
  stats = PackStats(
    num_trajectories=len(pieces),
    num_left_out=num_left_out,
    num_rows=len(contents),
    num_micro_batches=num_micro_batches,
    num_tokens=num_tokens,
    num_sampled_tokens=sum(len(piece.sampled) for piece in pieces),
    pad_share=1 - num_tokens / max(1, num_micro_batches * B * T),
  )
  rows = Rows(*(array.reshape(A, B, T) for array in rows))
  return rows, np.int32(num_micro_batches), stats


def _best_fit(pieces: list[_Piece], length: int) -> list[list[_Piece]]:
  """Assigns pieces, longest first, to the fullest row that still takes them.

  Returns:
    The pieces of each row; a function of the pieces and their order alone.
  """
  contents: list[list[_Piece]] = []
  rooms: list[tuple[int, int]] = []  # sorted: free tokens of a row, its index
  for piece in sorted(pieces, key=lambda p: -len(p.token_ids)):
    size = len(piece.token_ids)
    if size > length:
      raise ValueError(
        f"{piece.name} must be at most packing.row_length = {length} tokens; "
        f"it has {size}. Raise packing.row_length, or lower "
        "rollout.max_tokens_per_episode"
      )
    place = bisect.bisect_left(rooms, (size, 0))
    if place == len(rooms):
      room, row = length, len(contents)
      contents.append([])
    else:
      room, row = rooms.pop(place)
    contents[row].append(piece)
    bisect.insort(rooms, (room - size, row))
  return contents
