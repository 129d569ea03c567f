"""What must hold between the knobs of credit, losses and updates; knows no JAX.

In: the settings of GRPO and the few others that they depend on. Out: rules for
`config_rules`, which refuses a config that breaks one.
"""

from collections.abc import Iterator, Mapping, Sequence
import math

from userrl_jax import config
from userrl_jax import gyms

Rule = tuple[str, str, bool]  # field, what it must be, whether it is


def rules(
  grpo: config.Grpo, gym_names: Sequence[str], max_staleness: int
) -> Iterator[Rule]:
  """Yields what must hold between fields that are right by themselves."""
  credit = grpo.credit
  yield (
    "grpo.credit.normalize",
    "std_n with grpo.credit.spread=printed, whose formula divides by that",
    credit.spread != "printed" or credit.normalize == "std_n",
  )
  yield (
    "grpo.credit.normalize",
    "std or none with grpo.credit.released: UserRL's code knows no other",
    not credit.released or credit.normalize in ("std", "none"),
  )
  yield (
    "grpo.credit.spread",
    "scaled with grpo.credit.released: UserRL's code knows no other",
    not credit.released or credit.spread == "scaled",
  )
  yield (
    "grpo.credit.gym_scales",
    "gyms of gyms.names with a factor above 0, such as travel=0.5",
    _are_gym_scales(credit.gym_scales, gym_names),
  )
  yield (
    "grpo.credit.credit",
    "other than information unless a gym of gyms.names counts what turns told",
    credit.credit != "information"
    or any(gyms.has(name, "information") for name in gym_names),
  )
  yield (
    "grpo.num_mini_batches",
    f"a divisor of grpo.tasks_per_iteration ({grpo.tasks_per_iteration}): "
    "steps learn from as many groups each",
    grpo.tasks_per_iteration % grpo.num_mini_batches == 0,
  )
  yield (
    "grpo.num_mini_batches",
    "1 with grpo.loss=plain, which has no ratio to know old samples by",
    grpo.num_mini_batches == 1 or grpo.loss != "plain",
  )
  yield (
    "grpo.flat_groups",
    "keep with grpo.group_size=1: a group of one has nobody to differ from, so "
    "every group would be dropped and nothing learned",
    grpo.flat_groups == "keep" or grpo.group_size > 1,
  )
  yield (
    "rollout.max_staleness",
    "0 with grpo.loss=plain, unless grpo.importance_cap weighs old samples",
    max_staleness == 0 or grpo.loss != "plain" or grpo.importance_cap > 0,
  )
  yield (
    "rollout.max_staleness",
    "0 with grpo.flat_groups=refill: what is missing is known too late to be "
    "played ahead",
    max_staleness == 0 or grpo.flat_groups != "refill",
  )
  # A knob that does nothing must not look as if it did.
  defaults = config.Grpo()
  for name, user, is_used in (
    ("clip_low", "grpo.loss other than plain", grpo.loss != "plain"),
    ("clip_high", "grpo.loss other than plain", grpo.loss != "plain"),
    ("dual_clip", "grpo.loss=ppo or gspo", grpo.loss in ("ppo", "gspo")),
    (
      "loss_length",
      "grpo.aggregation=constant_length",
      grpo.aggregation == "constant_length",
    ),
    ("kl_estimator", "grpo.kl_coef above 0", grpo.kl_coef > 0),
    (
      "refill_rounds",
      "grpo.flat_groups=refill",
      grpo.flat_groups == "refill",
    ),
  ):
    default = getattr(defaults, name)
    yield (
      f"grpo.{name}",
      f"left at {default!r}: only {user} reads it",
      is_used or getattr(grpo, name) == default,
    )
  yield (
    "grpo.credit.free_tokens",
    "left at 0: only grpo.credit.length_penalty above 0 reads it",
    credit.length_penalty > 0 or credit.free_tokens == 0,
  )


def adapter_rules(
  lora: config.Lora,
  stages: Sequence[str],
  optimizers: Mapping[str, config.Optimizer],
) -> Iterator[Rule]:
  """Yields what must hold of adapters and of what trains them.

  Args:
    lora: the adapters.
    stages: of the run.
    optimizers: of adapters, by their section.
  """
  has_adapters = lora.rank > 0
  yield (
    "lora.targets",
    "given with lora.rank above 0, and only there: which matrices get adapters",
    has_adapters == bool(lora.targets),
  )
  yield (
    "lora.alpha",
    f"left at {config.Lora().alpha}: only lora.rank above 0 reads it",
    has_adapters or lora.alpha == config.Lora().alpha,
  )
  yield (
    "lora.rank",
    "0 where base is the only stage: random params are trained whole",
    not has_adapters or set(stages) != {"base"},
  )
  for section, optimizer in optimizers.items():
    yield (
      f"{section}.optimizer.name",
      "adamw with lora.rank above 0: muon steps are those of whole matrices, "
      "which are frozen",
      not has_adapters or optimizer.name == "adamw",
    )
    yield (
      f"{section}.optimizer.decay_all",
      "False with lora.rank above 0: norms and embeddings are frozen",
      not has_adapters or not optimizer.decay_all,
    )


def _are_gym_scales(scales: Sequence[str], names: Sequence[str]) -> bool:
  gyms = [text.partition("=")[0] for text in scales]
  try:
    factors = [float(text.partition("=")[2]) for text in scales]
  except ValueError:
    return False
  return (
    set(gyms) <= set(names)
    and len(set(gyms)) == len(gyms)
    and all(0 < factor < math.inf for factor in factors)
  )
