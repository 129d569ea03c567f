"""The records of a shop in SQLite, copied for an episode only where it writes.

In: the shop's tables once, then for every tool call the rows that make this
episode's shop another one. Out: what a tool read, and the rows that it changed.
The database holds the shop and nothing else: a call runs in a transaction that
lays the episode's rows over it and is rolled back, so all episodes of a thread
share one database, and an episode is its changed rows, which are JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import sqlite3
import threading
from typing import Any

Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]
Changes = dict[str, dict[str, Row]]  # table -> id -> the whole row

UNCHANGED = "{}"  # no changes, written down


class Store:
  """A shop's tables; every row has an `id`."""

  def __init__(self, tables: Tables):
    """Takes the rows, which all have the columns of their table's first."""
    self._tables = {name: list(rows) for name, rows in tables.items()}
    self._columns = {name: tuple(rows[0]) for name, rows in tables.items()}
    self._local = threading.local()  # SQLite's connections stay in a thread

  @contextlib.contextmanager
  def opened(self, *overlays: Changes) -> Iterator["Session"]:
    """Opens the shop with other rows laid over it, the last one uppermost."""
    connection = self._connection()
    connection.execute("BEGIN")
    try:
      session = Session(connection)
      for overlay in overlays:
        for table, rows in overlay.items():
          session.lay(table, rows.values())
      yield session
    finally:
      connection.execute("ROLLBACK")

  def changed(
    self, rows: Changes, earlier: Changes, written: Mapping[str, Mapping]
  ) -> Changes:
    """Returns all changes after a call.

    Args:
      rows: that the episode began with, over the shop's own.
      earlier: changes before the call.
      written: rows that it wrote.

    Returns:
      Changed rows alone: one that is as it was in the beginning is none.
    """
    changes: Changes = {}
    for table in self._tables:
      after = {**earlier.get(table, {}), **written.get(table, {})}
      for key, row in after.items():
        before = rows.get(table, {}).get(key) or self._first(table, key)
        if row != before:
          changes.setdefault(table, {})[key] = row
    return changes

  def _first(self, table: str, key: str) -> Row | None:
    return Session(self._connection()).one(table, key)

  def _connection(self) -> sqlite3.Connection:
    connection = getattr(self._local, "connection", None)
    if connection is None:
      connection = sqlite3.connect(":memory:", isolation_level=None)
      connection.row_factory = _as_dict
      session = Session(connection)
      for table, rows in self._tables.items():
        columns = ", ".join(self._columns[table][1:])
        connection.execute(f"CREATE TABLE {table} (id PRIMARY KEY, {columns})")
        session.lay(table, rows)
      connection.execute("CREATE INDEX of_order ON lines (order_id)")
      connection.execute("CREATE INDEX of_user ON orders (user)")
      self._local.connection = connection
    return connection


class Session:
  """Reads and writes rows during one call."""

  def __init__(self, connection: sqlite3.Connection):
    self._connection = connection
    self.written: Changes = {}

  def one(self, table: str, key: str) -> Row | None:
    """Returns the row of an id, or None."""
    found = self._connection.execute(
      f"SELECT * FROM {table} WHERE id = ?", (key,)
    )
    return found.fetchone()

  def rows(self, table: str, **columns: Any) -> list[Row]:
    """Returns the rows with these values, by id."""
    where = " AND ".join(f"{name} = ? COLLATE NOCASE" for name in columns)
    found = self._connection.execute(
      f"SELECT * FROM {table} WHERE {where} ORDER BY id",
      tuple(columns.values()),
    )
    return found.fetchall()

  def write(self, table: str, row: Row, **columns: Any) -> None:
    """Gives a row new values."""
    row = {**row, **columns}
    self.lay(table, [row])
    self.written.setdefault(table, {})[row["id"]] = row

  def lay(self, table: str, rows: Any) -> None:
    """Puts rows in place of those with their ids; counts as no change."""
    for row in rows:
      columns = ", ".join(row)
      marks = ", ".join("?" * len(row))
      self._connection.execute(
        f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})",
        tuple(row.values()),
      )


def write_down(changes: Changes) -> str:
  """Returns changes as text, the same for the same changes."""
  return json.dumps(changes, sort_keys=True, separators=(",", ":"))


def _as_dict(cursor: sqlite3.Cursor, values: tuple) -> Row:
  return {
    column[0]: value
    for column, value in zip(cursor.description, values, strict=True)
  }
