"""Keeps what a run spends on endpoints below its caps.

In: caps, and for each call the most that it can cost and then what it did cost.
Out: leave to make the call, or a `types.BudgetSpent`. Every call's largest cost
is reserved before it is made, so no number of calls under way passes a cap.

What was spent is in a file of the run's folder, which a resumed run goes on
with. The file is ahead of the spending: killed at any moment, a run has spent
at most what it says there.
"""

import asyncio
import dataclasses
import json
import logging
import math
import pathlib

from userrl_jax import config
from userrl_jax import types
from userrl_jax import underway

_log = logging.getLogger(__name__)

_SLACK = 0.01  # of a cap, that the file is ahead by: it is written less often
_NO_GYM = "-"  # of calls outside of any episode


@dataclasses.dataclass(frozen=True)
class Prices:
  """What tokens cost, in US dollars a million."""

  usd_in: float = 0.0
  usd_out: float = 0.0

  def usd(self, tokens_in: int, tokens_out: int) -> float:
    """Returns the price of a call."""
    return (tokens_in * self.usd_in + tokens_out * self.usd_out) / 1e6


@dataclasses.dataclass(frozen=True)
class Amount:
  """What calls have used up, or may."""

  calls: int = 0
  tokens: int = 0  # in and out
  usd: float = 0.0
  seconds: float = 0.0  # that calls took, added up

  def __add__(self, other: "Amount") -> "Amount":
    pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
    return Amount(*(a + b for a, b in pairs))

  def __sub__(self, other: "Amount") -> "Amount":
    pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
    return Amount(*(a - b for a, b in pairs))


class Budget:
  """Books the calls of a run, by role and gym."""

  def __init__(
    self,
    caps: config.Budget | None = None,
    path: pathlib.Path | None = None,
  ):
    """Goes on with what a file says was spent.

    Args:
      caps: None is no cap.
      path: of the file; None keeps none.

    Raises:
      ValueError: when the file is damaged.
    """
    self._caps = _caps(caps or config.Budget())
    self._path = path
    self._spent: dict[tuple[str, str], Amount] = {}
    self._of_process: dict[str, Amount] = {}  # by role
    self._warned: set[str] = set()  # roles that cost more than was reserved
    self._reserved = Amount()
    self._written = Amount()  # what the file says is spent at most
    if path is not None and path.exists():
      self._load(path)
    self.reopen()

  def reopen(self) -> None:
    """Makes ready for another event loop."""
    self._settled = asyncio.Event()

  @property
  def spent(self) -> Amount:
    """Returns what all calls have cost so far."""
    return sum(self._spent.values(), Amount())

  def of_process(self, role: str) -> Amount:
    """Returns what the calls of a role have cost since the process began."""
    return self._of_process.get(role, Amount())

  async def reserve(self, most: Amount) -> None:
    """Sets apart what a call can cost at most.

    While others under way may yet cost less than they could, it waits for them,
    with the clock of the episode stopped.

    Raises:
      types.BudgetSpent: when a cap would be passed, and nothing is under way.
    """
    while True:
      short = self._short_of(most)
      if not short:
        break
      if not self._reserved.calls:
        raise types.BudgetSpent(self._message(short))
      with underway.paused():
        self._settled.clear()
        await self._settled.wait()
    self._reserved += most
    self._write_ahead()

  def settle(self, role: str, most: Amount, cost: Amount) -> None:
    """Books what a call did cost, in place of what was reserved for it."""
    episode = underway.current()
    key = (role, _NO_GYM if episode is None else episode.gym)
    if cost.tokens > most.tokens or cost.usd > most.usd:
      self._warn_of(role, most, cost)
    self._reserved -= most
    self._spent[key] = self._spent.get(key, Amount()) + cost
    self._of_process[role] = self.of_process(role) + cost
    self._settled.set()

  def _warn_of(self, role: str, most: Amount, cost: Amount) -> None:
    """Says, once a role, that its calls cost more than can be reserved."""
    if role in self._warned:
      return
    self._warned.add(role)
    _log.warning(
      "the endpoint of the %s says that a call took %d tokens, where %d were "
      "the most it could take; calls are booked as it says, and those under "
      "way may pass budget.max_tokens and max_usd by as much",
      role,
      cost.tokens,
      most.tokens,
    )

  def flush(self) -> None:
    """Writes down what was spent, exactly where nothing is under way."""
    if self._path is not None and self._spent:
      self._write(self.spent + self._reserved)

  def _short_of(self, most: Amount) -> str:
    after = self.spent + self._reserved + most
    for name, cap in self._caps.items():
      if getattr(after, name) > cap:
        return name
    return ""

  def _message(self, name: str) -> str:
    spent = self.spent
    return (
      f"the budget must cover the next call, got {spent.calls} calls, "
      f"{spent.tokens} tokens and ${spent.usd:.4f} spent, and a call that "
      f"could pass budget.max_{name}={self._caps[name]:g}; what was learnt is "
      f"kept: raise budget.max_{name} and start the same command again to go on"
    )

  def _write_ahead(self) -> None:
    """Writes the file when it is no longer ahead of what may be spent."""
    if self._path is None:
      return
    at_most = self.spent + self._reserved
    if any(
      getattr(at_most, name) > getattr(self._written, name)
      for name in self._caps
    ):
      self._write(
        Amount(
          math.ceil(self._ahead("calls", at_most.calls)),
          math.ceil(self._ahead("tokens", at_most.tokens)),
          self._ahead("usd", at_most.usd),
          at_most.seconds,
        )
      )

  def _ahead(self, name: str, at_most: float) -> float:
    """Returns an amount that is some more, but no more than its cap."""
    cap = self._caps.get(name, 0.0)
    return max(at_most, min(at_most + cap * _SLACK, cap))

  def _write(self, at_most: Amount) -> None:
    assert self._path is not None
    record = {
      "at_most": dataclasses.asdict(at_most),
      "spent": [
        {"role": role, "gym": gym, **dataclasses.asdict(amount)}
        for (role, gym), amount in sorted(self._spent.items())
      ],
    }
    self._path.parent.mkdir(parents=True, exist_ok=True)
    temporary = self._path.with_suffix(".partial")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(self._path)
    self._written = at_most

  def _load(self, path: pathlib.Path) -> None:
    try:
      record = json.loads(path.read_text())
      for line in record["spent"]:
        key = (line.pop("role"), line.pop("gym"))
        self._spent[key] = Amount(**line)
      self._written = Amount(**record["at_most"])
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f"{path} must say what the run has spent, got {error!r}; restore a "
        "copy, or delete the file to begin at nothing"
      ) from error
    # Calls that a killed run did not live to see may have cost so much.
    lost = self._written - self.spent
    lost = Amount(max(lost.calls, 0), max(lost.tokens, 0), max(lost.usd, 0.0))
    if lost != Amount():
      key = ("unknown", _NO_GYM)
      self._spent[key] = self._spent.get(key, Amount()) + lost


def _caps(settings: config.Budget) -> dict[str, float]:
  """Returns the caps that are set, by the field of `Amount` they are of."""
  caps = {
    "calls": settings.max_calls,
    "tokens": settings.max_tokens,
    "usd": settings.max_usd,
  }
  return {name: cap for name, cap in caps.items() if cap}
