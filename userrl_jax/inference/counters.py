"""What the engine did, in numbers that a run shows."""

import dataclasses


@dataclasses.dataclass
class Counters:
  """Sums since they were last taken."""

  tokens_sampled: int = 0
  tokens_read: int = 0  # by extending; a turn's last id is read by decoding
  tokens_forked: int = 0  # copied from a row with the same prompt instead
  positions_extended: int = 0  # computed to read them, padding included
  positions_decoded: int = 0  # computed to sample, idle lanes included
  device_calls: int = 0
  busy_s: float = 0.0  # the device worked
  idle_s: float = 0.0  # serving, and no device call under way
  rows_given_up: int = 0  # taken from waiting sessions, to be extended again
  # Summed over device calls, to be divided by them.
  lanes_busy: int = 0  # held a session, of the call's lanes
  lanes: int = 0
  rows_held: int = 0
  rows_waiting: int = 0  # of the rows held, whose users think
  queued: int = 0  # sessions that ask and have no row

  @property
  def padding(self) -> float:
    """Share of computed positions that held no real token."""
    real = self.tokens_sampled + self.tokens_read
    computed = self.positions_extended + self.positions_decoded
    return 1 - real / max(computed, 1)

  @property
  def tokens_per_s(self) -> float:
    """Sampled ids a second of serving, waiting for users included."""
    return self.tokens_sampled / max(self.idle_s + self.busy_s, 1e-9)

  @property
  def idle_share(self) -> float:
    """Share of the time of serving in which the device did nothing."""
    return self.idle_s / max(self.idle_s + self.busy_s, 1e-9)

  def mean(self, name: str) -> float:
    """Returns a sum over device calls as a mean over them."""
    return getattr(self, name) / max(self.device_calls, 1)
