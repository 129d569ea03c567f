"""Mixes of adapters and other knobs that are refused, and what mends them."""

import functools

import pytest

from userrl_jax import config as config_lib
from userrl_jax import config_rules

_LORA = {"lora.rank": 4, "lora.targets": ("q", "down")}


def _config(changes):
  config = config_lib.Config()
  for path, value in changes.items():
    *sections, name = path.split(".")
    setattr(functools.reduce(getattr, sections, config), name, value)
  return config


@pytest.mark.parametrize(
  ("changes", "message", "mended"),
  [
    (
      {"lora.targets": ("q",)},
      "lora.targets must be given with lora.rank above 0, and only there",
      {"lora.rank": 1},
    ),
    (
      {"lora.rank": 4},
      "lora.targets must be given with lora.rank above 0",
      {"lora.targets": ("up",)},
    ),
    (
      {"lora.alpha": 8.0},
      "lora.alpha must be left at 16.0: only lora.rank above 0",
      _LORA,
    ),
    (
      _LORA | {"stages": ("base",)},
      "lora.rank must be 0 where base is the only stage",
      {"stages": ("base", "grpo")},
    ),
    (
      _LORA | {"grpo.optimizer.name": "muon"},
      "grpo.optimizer.name must be adamw with lora.rank above 0",
      {"grpo.optimizer.name": "adamw"},
    ),
    (
      _LORA | {"cold_start.optimizer.decay_all": True},
      "cold_start.optimizer.decay_all must be False with lora.rank",
      {"cold_start.optimizer.decay_all": False},
    ),
    (
      _LORA | {"lora.targets": ("q", "head")},
      "lora.targets must be one of q, k, v, o, gate, up, down",
      _LORA,
    ),
    (
      _LORA | {"lora.rank": -1},
      "lora.rank must be 0 or more",
      _LORA,
    ),
    (_LORA | {"lora.alpha": 0.0}, "lora.alpha must be positive", _LORA),
  ],
)
def test_impossible_adapters_are_refused(changes, message, mended):
  with pytest.raises(ValueError) as error:
    config_rules.validate(_config(changes))
  (problem,) = str(error.value).splitlines()
  assert problem.startswith(message)
  if "lora.alpha" in changes and mended is _LORA:
    mended = _LORA | {"lora.alpha": 8.0}
  config_rules.validate(_config(changes | mended))
