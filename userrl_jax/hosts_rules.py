"""What must hold where several hosts train together; knows no JAX.

In: the sections that it depends on. Out: rules for `config_rules`, which
refuses a config that breaks one.
"""

from collections.abc import Iterator

from userrl_jax import config
from userrl_jax import config_hosts
from userrl_jax import method_rules


def rules(
  hosts: config_hosts.Hosts,
  evaluation: config.Evaluation,
  budget: config.Budget,
  recording: config.Recording,
) -> Iterator[method_rules.Rule]:
  """Yields what must hold between fields that are right by themselves."""
  coordinator = hosts.coordinator
  is_named = coordinator not in ("", "auto")
  yield (
    "hosts.coordinator",
    "host:port of process 0, auto, or empty",
    not is_named or coordinator.rpartition(":")[2].isdigit(),
  )
  for name in ("num_processes", "process_id"):
    yield (
      f"hosts.{name}",
      "left out unless hosts.coordinator is an address",
      is_named or getattr(hosts, name) == getattr(config_hosts.Hosts(), name),
    )
  yield (
    "hosts.process_id",
    f"below hosts.num_processes ({hosts.num_processes})",
    hosts.process_id < hosts.num_processes,
  )
  if not coordinator:
    return
  yield (
    "evaluation.agent",
    "policy with hosts.coordinator: another agent needs one host",
    evaluation.agent == "policy",
  )
  rule = "0 with hosts.coordinator: every host would spend it for itself"
  for name in vars(config.Budget()):
    yield f"budget.{name}", rule, not getattr(budget, name)
  yield (
    "recording.mode",
    "live with hosts.coordinator: hosts cannot write one file",
    recording.mode == "live",
  )
