#!/usr/bin/env bash
# Trains on this machine: on all of its GPUs or TPU chips, or on its CPU.
#   bash launch/single_host.sh [--dry_run] RECIPE.py [--config.field=value ...]
# The same command again goes on where the run was; --dry_run only prints what
# would be done. Paths are from the checkout. Variables: ENTRY=evaluate (or
# another) instead of train; ACCELERATOR=cuda, tpu or none instead of what is
# found; PYTHON for the environment that is made unless one is active.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
# shellcheck source=launch/_commands.sh
. launch/_commands.sh
read_arguments 1 "$@"

where="$(accelerator)"
extras="[$where]"
settings=(env)
case "$where" in
  none) extras="" settings+=(JAX_PLATFORMS=cpu) ;;
  # By default JAX leaves a quarter of a GPU's memory unused.
  cuda) settings+=("XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}") ;;
esac
install "$extras"
become "${settings[@]}" "$python" -m "userrl_jax.${ENTRY:-train}" \
  --config="${arguments[0]}" "${arguments[@]:1}"
