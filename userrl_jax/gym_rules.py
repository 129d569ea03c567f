"""What must hold between gyms and who plays in them; knows no JAX.

In: the settings that name gyms, stages and agents. Out: rules for
`config_rules`, which refuses a config that breaks one. Gyms of the package have
every part; one from outside may lack some, and is refused only where a run
needs them.
"""

from collections.abc import Iterator, Sequence

from userrl_jax import config
from userrl_jax import gyms as gyms_lib
from userrl_jax import method_rules
from userrl_jax.gyms import outside
from userrl_jax.gyms.persuade import scripted

# Stages -> the part of a gym that their dialogues come from.
_PART_OF_STAGE = {
  "base": "random_move",
  "cold_start": "Oracle",
  "continued_updates": "Oracle",
  "continued": "Oracle",
}
_PART_OF_AGENT = {"oracle": "Oracle", "canned": "random_move"}


def rules(
  gyms: config.Gyms,
  evaluation: config.Evaluation,
  stages: Sequence[str],
  user_kind: str,
) -> Iterator[method_rules.Rule]:
  """Yields what must hold of the gyms of a run.

  Args:
    gyms: those trained on.
    evaluation: with those held out, and who plays.
    stages: of the run.
    user_kind: who answers in them.
  """
  yield (
    "gyms.persuade.max_gain",
    f"{scripted.LIMITS} where rules play the user of gym 'persuade': one turn "
    "of theirs is worth as much, and fewer stances a turn win no game",
    user_kind != "scripted"
    or "persuade" not in gyms.names + evaluation.held_out_gyms
    or scripted.can_be_won(gyms.persuade.max_gain),
  )
  known = (*gyms_lib.GYMS, *filter(outside.is_name, evaluation.held_out_gyms))
  untrained = [name for name in known if name not in gyms.names]
  yield (
    "evaluation.held_out_gyms",
    f"some of {', '.join(untrained)}: known gyms that are not in gyms.names",
    set(evaluation.held_out_gyms) <= set(untrained),
  )
  missing: dict[str, list[str]] = {}  # part -> gyms of the run without it
  for path, names in (
    ("gyms.names", gyms.names),
    ("evaluation.held_out_gyms", evaluation.held_out_gyms),
  ):
    for name in filter(outside.is_name, names):
      try:
        gym = outside.load(name)
      except ValueError as error:
        yield path, f"gyms that can be had: {error}", False
        continue
      yield (
        "gyms.reward_profile",
        f"a profile of gym {name!r} ({', '.join(gym.Gym.reward_profiles)})",
        gyms.reward_profile in gym.Gym.reward_profiles,
      )
      for part in outside.PARTS:
        if not hasattr(gym, part):
          missing.setdefault(part, []).append(name)
  for stage, part in _PART_OF_STAGE.items():
    lacking = [n for n in missing.get(part, ()) if n in gyms.names]
    yield (
      "stages",
      f"without {stage}, as gym {_quoted(lacking)} has no {part}: the class "
      "must have one to make its dialogues",
      stage not in stages or not lacking,
    )
  part = _PART_OF_AGENT.get(evaluation.agent, "")
  lacking = missing.get(part, [])
  yield (
    "evaluation.agent",
    f"another, as gym {_quoted(lacking)} has no {part}",
    not lacking,
  )
  lacking = [n for n in missing.get("Oracle", ()) if n in gyms.names]
  yield (
    "evaluation.forgetting_tasks",
    f"0, as gym {_quoted(lacking)} has no Oracle to make its dialogues",
    evaluation.forgetting_tasks == 0 or not lacking,
  )


def _quoted(names: Sequence[str]) -> str:
  return ", ".join(map(repr, names))
