"""What all endpoints of a run have in common: limits, budget, recording."""

from collections.abc import Iterator
import contextlib
import pathlib

from userrl_jax import config
from userrl_jax.clients import budget as budget_lib
from userrl_jax.clients import limits as limits_lib
from userrl_jax.clients import recording as recording_lib

BUDGET_FILE = "budget.json"


class Shared:
  """Is opened with the first endpoint and closed with the last."""

  def __init__(
    self,
    settings: config.User,
    caps: config.Budget | None = None,
    recorded: config.Recording | None = None,
    folder: pathlib.Path | None = None,
  ):
    """Reads what the run's folder knows of the budget, and the recording.

    Args:
      settings: whose limits hold for all roles together.
      caps: None is no cap.
      recorded: None records nothing.
      folder: of the run; None writes nothing.

    Raises:
      ValueError: when the file of the budget or the recording cannot be used.
    """
    self.limits = limits_lib.Limits(
      settings.max_concurrent,
      settings.requests_per_minute,
      settings.tokens_per_minute,
    )
    path = None if folder is None else folder / BUDGET_FILE
    self.budget = budget_lib.Budget(caps, path)
    run = "" if folder is None else str(folder.absolute())
    self.recording = _recording(recorded or config.Recording(), run)
    self._num_open = 0

  @contextlib.contextmanager
  def opened(self) -> Iterator[None]:
    """Makes ready for the running event loop; keeps what was spent after."""
    if not self._num_open:
      self.limits.reopen()
      self.budget.reopen()
      self.recording.open()
    self._num_open += 1
    try:
      yield
    finally:
      self._num_open -= 1
      if not self._num_open:
        self.recording.close()
        self.budget.flush()


def _recording(settings: config.Recording, run: str) -> recording_lib.Recording:
  file = pathlib.Path(settings.file) if settings.file else None
  return recording_lib.Recording(settings.mode, file, run)
