"""Records what endpoints answer and replays it, from one SQLite file.

In: a request: role, model, sampling, messages and its draw, which tells the
members of a group apart and is the same whenever an episode is played. Out:
what came of it, text or fault. The file holds digests of requests and the
replies; nothing of a prompt, and no key.

  live            asks
  record          asks, and writes down; what this run wrote, it reads again
  replay          reads; what is not there stops the run
  replay_or_live  reads; asks for what is not there, and writes it down
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sqlite3
import threading
from typing import Any

from userrl_jax import types
from userrl_jax import underway

MODES = ("live", "record", "replay", "replay_or_live")

_VERSION = "1"
_CANCELLED = "cancelled"
# What another process may meet otherwise: its network is not that of then.
_PASSING = (
  str(types.Fault.USER_TIMEOUT),
  str(types.Fault.USER_ERROR),
  str(types.Fault.USER_BUSY),
  str(types.Fault.GYM_ERROR),  # a search of the web
  _CANCELLED,
)
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
  key TEXT PRIMARY KEY,  -- digest of all that follows, up to prompt
  role TEXT NOT NULL,
  model TEXT NOT NULL,
  draw TEXT NOT NULL,
  sampling TEXT NOT NULL,
  prompt TEXT NOT NULL,  -- digest of the messages
  text TEXT NOT NULL,  -- of the reply; empty with a fault
  fault TEXT NOT NULL,  -- empty, a types.Fault, or cancelled
  detail TEXT NOT NULL,
  is_final INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_draw ON replies (draw);
"""


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked, by content."""

  role: str  # user, judge, agent or search
  model: str
  draw: str  # which of the requests of which episode
  sampling: Mapping[str, Any]
  messages: Sequence[Mapping[str, str]]

  @property
  def prompt(self) -> str:
    """Returns the digest of the messages."""
    return _digest([dict(message) for message in self.messages])

  @property
  def key(self) -> str:
    """Returns the digest of the whole."""
    return _digest(list(self.parts.values()))

  @property
  def parts(self) -> dict[str, str]:
    """Returns what the key is made of, without a word of the prompt."""
    return {
      "role": self.role,
      "model": self.model,
      "draw": self.draw,
      "sampling": json.dumps(self.sampling, sort_keys=True),
      "prompt": self.prompt,
    }


@dataclasses.dataclass(frozen=True)
class _Outcome:
  """What came of a request."""

  text: str
  fault: str = ""
  detail: str = ""
  is_final: int = 0  # as SQLite has it


class Recording:
  """Answers requests from a file, or through it; usable from any thread."""

  def __init__(
    self,
    mode: str = "live",
    path: pathlib.Path | None = None,
    run: str = "",
  ):
    """Checks the file, unless the mode is `live`.

    Args:
      mode: one of MODES.
      path: of the SQLite file.
      run: name of the run; `record` goes on with a file of the same one.

    Raises:
      ValueError: when there is nothing to replay, the file is no recording,
        or `record` would mix two runs.
    """
    self.mode = mode
    self.num_replayed = 0
    self._lock = threading.Lock()
    self._own: set[str] = set()  # keys that this process wrote
    self._database: sqlite3.Connection | None = None
    if mode == "live":
      return
    if path is None:
      raise ValueError(f"recording.file must be given in mode {mode}, got ''")
    self._path = path
    if mode == "replay" and not path.is_file():
      raise ValueError(
        f"recording.file must be a recording to replay, got {path}, which is "
        "no file; record one with recording.mode=record"
      )
    try:
      self.open()
      self._check(run)
    except sqlite3.Error as error:
      raise ValueError(
        f"recording.file must be a recording of this version, got {path} "
        f"({error}); give another file"
      ) from error
    finally:
      self.close()

  def open(self) -> None:
    """Opens the file for `answer`."""
    if self.mode != "live":
      is_read_only = self.mode == "replay"
      self._database = _connect(self._path, is_read_only)

  def close(self) -> None:
    """Leaves one file, complete."""
    with self._lock:
      if self._database is None:
        return
      if self.mode != "replay":
        with contextlib.suppress(sqlite3.Error):  # another process has it open
          self._database.execute("PRAGMA journal_mode=DELETE")
      self._database.close()
      self._database = None

  async def answer(
    self, request: Request, ask: Callable[[], Awaitable[str]]
  ) -> str:
    """Returns the reply to a request, as it was, or as it is now.

    Args:
      request: what is asked.
      ask: asks the endpoint.

    Raises:
      types.FaultError: as recorded, or as it comes.
      types.SetupError: in mode `replay`, when the request is not there; says
        what was asked.
    """
    if self.mode == "live":
      return await ask()
    held = self._read(request)
    if held is not None and (
      self.mode == "replay"
      or held.fault not in _PASSING
      or request.key in self._own
    ):
      return await self._replayed(held)
    if self.mode == "replay":
      raise types.SetupError(self._miss(request))
    try:
      outcome = _Outcome(await ask())
    except types.FaultError as error:
      outcome = _Outcome(
        "", str(error.fault), error.detail, int(error.is_final)
      )
    except asyncio.CancelledError:
      self._write(request, _Outcome("", _CANCELLED))
      raise
    # Two of the same request at once get one answer, or no replay could.
    outcome = self._write(request, outcome)
    if outcome.fault == _CANCELLED:
      return await self._replayed(outcome)
    return _given(outcome)

  async def _replayed(self, outcome: _Outcome) -> str:
    self.num_replayed += 1
    await asyncio.sleep(0)  # as asking does: others go on in between
    if outcome.fault == _CANCELLED:
      await underway.expire()
    return _given(outcome)

  def _read(self, request: Request) -> _Outcome | None:
    with self._lock:
      assert self._database is not None
      row = self._database.execute(
        "SELECT text, fault, detail, is_final FROM replies WHERE key = ?",
        (request.key,),
      ).fetchone()
    return None if row is None else _Outcome(*row)

  def _write(self, request: Request, outcome: _Outcome) -> _Outcome:
    """Writes an outcome unless there is one to keep; returns what is there."""
    key = request.key
    with self._lock:
      assert self._database is not None
      held = self._database.execute(
        "SELECT text, fault, detail, is_final FROM replies WHERE key = ?",
        (key,),
      ).fetchone()
      if held is not None and (held[1] not in _PASSING or key in self._own):
        return _Outcome(*held)
      self._database.execute(
        "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key, *request.parts.values(), *dataclasses.astuple(outcome)),
      )
      self._database.commit()
      self._own.add(key)
    return outcome

  def _check(self, run: str) -> None:
    assert self._database is not None
    if self.mode == "replay":
      about = dict(self._database.execute("SELECT name, value FROM about"))
      if about.get("version") != _VERSION:
        raise sqlite3.DatabaseError(f"version {about.get('version')}")
      return
    self._database.executescript(_TABLES)
    about = dict(self._database.execute("SELECT name, value FROM about"))
    if about.get("version", _VERSION) != _VERSION:
      raise sqlite3.DatabaseError(f"version {about['version']}")
    if self.mode == "record" and about.get("run", run) != run:
      raise ValueError(
        f"recording.mode=record needs a file of its own, got {self._path} with "
        f"a recording of {about['run']}; give another recording.file, or set "
        "recording.mode to replay_or_live"
      )
    self._database.executemany(
      "INSERT OR IGNORE INTO about VALUES (?, ?)",
      [("version", _VERSION), ("run", run)],
    )
    self._database.commit()

  def _miss(self, request: Request) -> str:
    """Returns what was asked, in words that give nothing away."""
    parts = request.parts
    with self._lock:
      assert self._database is not None
      row = self._database.execute(
        "SELECT role, model, draw, sampling, prompt FROM replies "
        "WHERE draw = ? ORDER BY role = ? DESC",
        (request.draw, request.role),
      ).fetchone()
    if row is None:
      why = "nothing was asked there"
    else:
      other = [name for name, was in zip(parts, row) if parts[name] != was]
      why = f"another {', '.join(other)} was recorded there"
    num_chars = sum(len(message["content"]) for message in request.messages)
    return (
      f"a replay must ask what was recorded, got a request of the "
      f"{request.role} to model {request.model!r}, number and episode "
      f"{request.draw}, sampling {parts['sampling']}, "
      f"{len(request.messages)} messages of {num_chars} characters with digest "
      f"{request.prompt[:12]}, which {self._path} does not hold: {why}; replay "
      "with the config and the code that recorded it, or set recording.mode to "
      "replay_or_live"
    )


def _connect(path: pathlib.Path, is_read_only: bool) -> sqlite3.Connection:
  if is_read_only:
    return sqlite3.connect(
      f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  # Replies may tell what is hidden.
  os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
  database = sqlite3.connect(path, check_same_thread=False)
  # A commit is then an append, without waiting for the disk.
  database.execute("PRAGMA journal_mode=WAL")
  database.execute("PRAGMA synchronous=NORMAL")
  return database


def _given(outcome: _Outcome) -> str:
  if outcome.fault:
    raise types.FaultError(
      types.Fault(outcome.fault), outcome.detail, bool(outcome.is_final)
    )
  return outcome.text


def _digest(value: Any) -> str:
  text = json.dumps(value, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
