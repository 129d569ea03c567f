"""Reads the tasks that come with the Tau gym.

A file of JSON lines comes in and checked tasks go out: what should be done was
done once on the shop, and what should be refused was. A record that is not what
it should be is an error that names the file and the line.
"""

import functools
import pathlib

from userrl_jax import types
from userrl_jax.gyms import sources
from userrl_jax.gyms.tau import generate
from userrl_jax.gyms.tau import scenario

PATH = pathlib.Path(__file__).with_name("tasks.jsonl")


def read(path: pathlib.Path = PATH) -> tuple[types.Task, ...]:
  """Returns the tasks of a pack: JSON, one task a line.

  Raises:
    ValueError: when the file is missing or has a broken line.
  """
  path = sources.pack_file(path)
  return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, _: int) -> tuple[types.Task, ...]:
  tasks = []
  ids: dict[str, str] = {}
  for line, where, record in sources.records(path):
    sources.check_id(where, record, ids, f"on line {line}")
    sources.check_value(where, record, "level", sources.LEVELS)
    try:
      key = scenario.structure(record)
      home = generate.split_of(key)
      sources.check_value(where, record, "structure", (key,))
      sources.check_value(where, record, "split", (home,))
      tasks.append(scenario.task(record))
    except KeyError as error:
      raise ValueError(f"{where}: field {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
      text = str(error)
      text = text if text.startswith(where) else f"{where}: {text}"
      raise ValueError(text) from error
  return tuple(tasks)
