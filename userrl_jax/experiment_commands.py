"""Reports by which commands, and of which code, an experiment's runs were made.

In: results, whose runs keep it. Out: a section.
"""

from collections.abc import Mapping
from typing import Any

from userrl_jax import experiment_results
from userrl_jax import pages


def section(results: experiment_results.Results) -> pages.Section | None:
  """Returns the command of each treatment's first seed, and its commits.

  Treatments that one run made share a row. None where no run kept any.
  """
  made: dict[tuple[str, str], list[str]] = {}
  for name, own in results.items():
    processes = own[min(own)].processes if own else ()
    told = [p for p in processes if p.get("command")]
    if told:
      commits = dict.fromkeys(filter(None, map(_commit, told)))
      key = str(told[-1]["command"]), ", ".join(commits)
      made.setdefault(key, []).append(name)
  if not made:
    return None
  return pages.Section(
    "Commands",
    "Of each treatment's first seed; the other seeds' differ in the seed and "
    "the folder. Where it was resumed, the command is the last one, and the "
    "commits are of all.",
    ["treatment", "command", "commit"],
    [[", ".join(names), *key] for key, names in made.items()],
  )


def _commit(process: Mapping[str, Any]) -> str:
  git = process.get("git") or {}
  changed = " with changes" if git.get("changed") else ""
  commit = str(git.get("commit") or "")[:7]
  return commit and commit + changed
