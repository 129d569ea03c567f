"""Knobs of runs on several hosts: `config.Config` holds one of these."""

import dataclasses


@dataclasses.dataclass
class Hosts:
  """Processes that train together, one a host; each runs the same command."""

  # Address of process 0, host:port, the same for all; auto where JAX finds the
  # others by itself (TPU pods, SLURM, Open MPI); empty: one process alone.
  coordinator: str = ""
  num_processes: int = 1  # left at 1 where coordinator is auto
  process_id: int = 0  # from 0; the only field in which their commands differ
  # A host that was not heard of for so long is lost, and the others end.
  heartbeat_timeout_s: int = 30
  # So long may one phase of a host take, such as the rollout of an iteration;
  # then it hangs, and all end.
  max_phase_s: float = 7200.0
