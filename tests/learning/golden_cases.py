"""The golden advantages of UserRL's released code, as arrays."""

import json
import pathlib
from typing import Any

import numpy as np

SCORE_NAMES = {"Sum": "mean", "SumPaper": "sum", "R2G": "r2g"}
CREDIT_NAMES = {
  "Equalized": "equalized",
  "Naive": "naive",
  "R2G": "r2g",
  "EM": "em",
}


def load(shared: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the cases."""
  path = shared / "golden" / "advantage_cases.json"
  return json.loads(path.read_text())["cases"]


def arrays(cases):
  """Returns all cases side by side as [P, G, K] arrays, and rows' places."""
  keys = [(c["name"], g) for c in cases for g in c["group"]]
  groups = list(dict.fromkeys(keys))
  shape = (len(groups), max(keys.count(k) for k in groups), 4)
  rewards, num_tokens = np.zeros(shape), np.zeros(shape, np.int32)
  mask, valid = np.zeros(shape, bool), np.zeros(shape[:2], bool)
  places, sizes = {}, dict.fromkeys(groups, 0)
  for case in cases:
    for b, group_id in enumerate(case["group"]):
      key = case["name"], group_id
      place = places[case["name"], b] = groups.index(key), sizes[key]
      sizes[key] += 1
      row = case["turn_rewards"][b]
      rewards[place][: len(row)] = row
      mask[place][: len(row)] = valid[place] = True
      turn_of_token = np.cumsum(case["turn_start"][b]) - 1
      kept = turn_of_token[np.array(case["loss_mask"][b]) == 1]
      num_tokens[place] = np.bincount(kept, minlength=shape[2])
  return (rewards, mask, num_tokens, valid), places
