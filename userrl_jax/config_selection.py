"""The knobs of choosing a checkpoint; a section of `config.Config`."""

import dataclasses


@dataclasses.dataclass
class Selection:
  """Finds each stage's best checkpoint by training tasks that are held back.

  Held-out splits have no part in it. Looks fall on steps that are kept, so a
  run that was killed repeats none.
  """

  # Training tasks of each gym that no stage trains on; 0 is none, and then
  # nothing is looked at.
  num_tasks: int = 0
  loss_every: int = 20  # steps of the cold start between looks at their loss
  play_every: int = 10  # iterations of GRPO between plays of them
  # Stages whose best checkpoint is evaluated and handed on, not their last.
  use: tuple[str, ...] = ()
